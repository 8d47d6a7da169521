"""One rank of a run: python -m tests.support.ranks SHARDS RUN ENCODER MODALITIES BATCH_SIZE [--resume]

Without dropout, so that one process and several can be compared. Prints, on rank 0, the loss after each step and the
validation losses as JSON.
"""

import json
import sys
from pathlib import Path
from typing import cast

from mmsent.compute.distributed import joined, world_from_environment
from mmsent.config import ModelConfig, TrainConfig
from mmsent.training.start import train
from shards.schema import Modality


def main() -> None:
    shards, run, encoder, modalities, batch_size = sys.argv[1:6]
    names = cast("tuple[Modality, ...]", tuple(modalities.split(",")))
    model = ModelConfig(
        modalities=names,
        text_encoder=encoder,  # a folder with a BERT without dropout
        video_weights="none",
        train_encoders=("text",),
        encoder_dropout=0,
        fusion_dropout=0,
    )
    config = TrainConfig(
        batch_size=int(batch_size),
        max_epochs=3,
        precision="fp32",
        learning_rate=1e-3,
        text_learning_rate=1e-3,
        class_weights="sqrt",
        accumulation_steps=1 if "audio" in names else 2,  # batch statistics are those of a part
        modality_dropout=0.2 if len(names) > 1 else 0.0,
    )
    losses: list[float] = []
    world = world_from_environment()
    with joined(world):
        result = train(
            Path(shards),
            Path(run),
            model_config=model,
            train_config=config,
            resume="--resume" in sys.argv,
            world=world,
            on_step=lambda info: losses.append(info.loss),
        )
    if world.is_first:
        sys.stdout.write(json.dumps({"steps": losses, "dev": [item.dev_loss for item in result.epochs]}))


if __name__ == "__main__":
    main()
