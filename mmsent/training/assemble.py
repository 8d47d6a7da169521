"""Model, stepper and loaders from their configs and a split."""

import torch

from mmsent.batches.batch import host_memory
from mmsent.compute.distributed import ALONE, World
from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import ModelConfig, TrainConfig
from mmsent.model.multimodal import MultimodalModel
from mmsent.training.data_statistics import logmel_statistics
from mmsent.training.losses import MultitaskLoss
from mmsent.training.step import Stepper
from shards.order.orders import Order
from shards.reading.loader import ShardLoader
from shards.reading.split import Split

__all__ = ["new_loader", "new_model", "new_stepper"]


def new_model(split: Split, model_config: ModelConfig, train_config: TrainConfig) -> MultimodalModel:
    """Return a model for the samples of a split, from random and pre-trained weights.

    Raises:
        EncoderError: if a pre-trained encoder cannot be had, or does not fit the samples.
    """
    torch.manual_seed(train_config.seed)
    model = MultimodalModel(model_config, spec=split.spec, label_sets=split.label_sets, pretrained=True)
    if "audio" in model_config.modalities and "audio" not in split.spec.encoded:
        model.set_logmel_statistics(*logmel_statistics(split))
    return model


def new_stepper(
    model: MultimodalModel,
    split: Split,
    config: TrainConfig,
    device: torch.device,
    precision: ResolvedPrecision,
    *,
    steps_per_epoch: int,
    world: World = ALONE,
) -> Stepper:
    """Return what makes the steps of a model that is on a device already; classes weigh as in the split."""
    loss = MultitaskLoss(config, split.label_sets, split.label_counts(), device)
    return Stepper(
        model, config, loss=loss, precision=precision, device=device, steps_per_epoch=steps_per_epoch, world=world
    )


def new_loader(
    split: Split,
    order: Order,
    model_config: ModelConfig,
    train_config: TrainConfig,
    device: torch.device,
    world: World = ALONE,
) -> ShardLoader:
    """Return what gives a rank its share of every batch, with the modalities and dialogues that the model looks at."""
    return ShardLoader(
        split,
        order=order,
        batch_size=train_config.batch_size,
        rank=world.rank,
        world_size=world.size,
        num_readers=train_config.num_readers,
        check=train_config.check,
        allocate=host_memory(device),
        modalities=model_config.modalities,
        dialogue_turns=model_config.dialogue_turns,
    )
