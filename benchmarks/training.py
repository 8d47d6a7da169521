"""What training costs beside the model: an epoch on encoded shards, and memory against the number of samples.

    python -m benchmarks.training epoch      # a split of MELD's size, all modalities encoded
    python -m benchmarks.training memory     # 2,000 and 20,000 samples, log-mel and tokens raw

Shards are made up in a temporary folder: random numbers of the real shapes. `mmsent.training.start.train` is what runs.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.made_up import MELD_SIZES, made_up_spec, write_made_up
from mmsent.config import ModelConfig, TrainConfig
from mmsent.runs.history import StepInfo
from mmsent.training.start import train
from shards.schema import Modality
from shards.spec import FeatureSpec

__all__ = ["EpochCost", "encoded_spec", "time_epochs"]

_TEXT_ENCODER = "text net"
_WIDTHS: dict[Modality, int] = {"video": 512, "audio": 128, "text": 768}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["epoch", "memory", "memory-of-one"])
    parser.add_argument("--samples", type=int, default=sum(MELD_SIZES.values()), help="in an epoch")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32, 64, 256])
    parser.add_argument("--shards", type=Path, help="of memory-of-one, which is what memory runs")
    arguments = parser.parse_args()
    if arguments.what == "memory-of-one":
        _say(_memory_of_training(arguments.shards))
        return
    with tempfile.TemporaryDirectory(prefix="mmsent-training-") as folder:
        if arguments.what == "epoch":
            _epochs(Path(folder), arguments.samples, arguments.batch_sizes)
        else:
            _memory(Path(folder))


def _epochs(folder: Path, num_samples: int, batch_sizes: list[int]) -> None:
    spec = encoded_spec()
    write_made_up(folder / "shards", spec, {"train": num_samples, "dev": MELD_SIZES["dev"]})
    _say(f"{num_samples:,} samples of {sum(_WIDTHS.values())} floats, {torch.get_num_threads()} threads; medians of 5")
    _say("| batch size | epoch, s | samples/s | waiting for data | with validation and saving, s |")
    _say("|---|---|---|---|---|")
    for batch_size in batch_sizes:
        cost = time_epochs(folder / "shards", folder / f"run-{batch_size}", batch_size=batch_size)
        rate, whole = num_samples / cost.seconds, cost.seconds_with_validation
        _say(f"| {batch_size} | {cost.seconds:.2f} | {rate:,.0f} | {cost.wait_share:.1%} | {whole:.2f} |")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochCost:
    """Medians over epochs, those that warm up left out."""

    seconds: float
    wait_share: float
    seconds_with_validation: float
    """And with saving."""


def time_epochs(shards: Path, run: Path, *, batch_size: int, num_epochs: int = 7) -> EpochCost:
    """Train the heads on shards of features that `encoded_spec` describes, and say what an epoch took."""
    ends: list[float] = []
    result = train(
        shards,
        run,
        model_config=ModelConfig(text_encoder=_TEXT_ENCODER, video_encoder="r3d_18"),
        train_config=TrainConfig(batch_size=batch_size, max_epochs=num_epochs, early_stopping_patience=num_epochs),
        resume=False,
        on_epoch=lambda _: ends.append(time.perf_counter()),
    )
    epochs = result.epochs[2:] or result.epochs
    return EpochCost(
        seconds=statistics.median(item.seconds for item in epochs),
        wait_share=statistics.median(item.wait_share for item in epochs),
        seconds_with_validation=float(np.median(np.diff(ends)[1:] if len(ends) > 2 else np.diff(ends))),
    )


def _memory(folder: Path) -> None:
    _say("| samples | data, MB | own memory at most, MB | with mapped files, MB |")
    _say("|---|---|---|---|")
    for num_samples in (2_000, 20_000):
        shards = folder / f"shards-{num_samples}"
        write_made_up(shards, _raw_spec(), {"train": num_samples, "dev": 100})
        size = sum(path.stat().st_size for path in shards.rglob("*.tar")) / 1e6
        command = [sys.executable, "-m", "benchmarks.training", "memory-of-one", "--shards", str(shards)]
        measured = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        _say(f"| {num_samples:,} | {size:,.0f} | {measured} |")


def _memory_of_training(shards: Path) -> str:
    """Train for one epoch and return the most memory of its own, and with mapped files, that the process had."""
    own = [0.0]

    def look(info: StepInfo) -> None:
        if info.step % 8 == 0:
            own[0] = max(own[0], _megabytes("RssAnon"))

    train(
        shards,
        shards.with_name(f"{shards.name}-run"),
        model_config=ModelConfig(modalities=("audio", "text"), text_encoder="scratch"),
        train_config=TrainConfig(max_epochs=1),
        resume=False,
        on_step=look,
    )
    return f"{own[0]:.0f} | {_megabytes('VmHWM'):.0f}"


def _megabytes(field: str) -> float:
    """Return a line of this process's `/proc/self/status`, Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1000
    raise SystemExit(f"/proc/self/status has no {field}")


def encoded_spec() -> FeatureSpec:
    """Return the spec of samples of which nothing but the outputs of encoders is stored."""
    encoders: dict[Modality, str] = {"video": "r3d_18", "audio": "conv1d", "text": _TEXT_ENCODER}
    return made_up_spec(
        num_frames=2,
        size=16,
        tokenizer=_TEXT_ENCODER,
        vocab_size=1000,
        max_tokens=32,
        widths=_WIDTHS,
        encoders=encoders,
    )


def _raw_spec() -> FeatureSpec:
    return made_up_spec(num_frames=2, size=16, vocab_size=1000, max_tokens=32)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
