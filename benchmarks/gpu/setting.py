"""What all parts share: the device, the sizes, the time that is left, and where the figures go."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.gpu.encoders import TEXT_ENCODER, save_text_encoder, save_video_weights
from benchmarks.made_up import made_up_spec, write_made_up
from mmsent.config import ModelConfig, VideoEncoderName
from shards.reading.split import Split
from shards.schema import Modality
from shards.spec import FeatureSpec, Storage

__all__ = ["SMOKE", "Figure", "Report", "Setting", "Sizes", "Value", "free_memory", "say"]

Value = float | int | bool | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large everything is."""

    num_frames: int = 16
    frame_size: int = 112
    num_hops: int = 300
    vocab_size: int = 30_522
    max_tokens: int = 128
    num_train: int = 9_984
    """A multiple of all batch sizes: a ragged batch would be another step. MELD has 9,989."""
    num_dev: int = 256
    num_run: int = 512
    """Samples that whole runs train on."""
    num_small: int = 2_048
    """Samples of what is slow: files, JPEGs, `encode`."""
    batch_sizes: tuple[int, ...] = (64, 256)
    num_workers: tuple[int, ...] = (2, 8, 16)
    seconds: float = 1.0
    """Of a run that is timed."""
    rounds: int = 2
    matrix: int = 8_192
    copy_bytes: int = 2**31
    num_encoded: int = 13_708
    epoch_batch_sizes: tuple[int, ...] = (32, 64, 256)
    text_width: int = 768
    text_layers: int = 12
    video_encoder: VideoEncoderName = "r3d_18"
    trained: tuple[tuple[Modality, ...], ...] = (("video", "text"), (), ("video",), ("text",))
    """Choices of encoders that are trained, the most telling first."""
    interruptions: tuple[str, ...] = ("SIGTERM", "SIGKILL")


SMOKE = Sizes(
    num_frames=4, frame_size=32, num_hops=40, vocab_size=500, max_tokens=24, num_train=64, num_dev=16, num_run=32,
    num_small=32, batch_sizes=(8,), num_workers=(2,), seconds=0.05, rounds=1, matrix=256, copy_bytes=2**20,
    num_encoded=128, epoch_batch_sizes=(32,), text_width=32, text_layers=2, video_encoder="mc3_18",
    trained=(("video", "text"),), interruptions=("SIGKILL",),
)  # fmt: skip
"""Small enough for a CPU: that everything runs, not how fast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A row of the report."""

    part: str
    name: str
    values: dict[str, Value]


@dataclass(slots=True)
class Report:
    """All figures so far, printed as they come and written after each: a run that is cut short loses none."""

    path: Path
    about: dict[str, Value]
    figures: list[Figure] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, part: str, name: str, **values: Value) -> None:
        """Add a row."""
        self.figures.append(Figure(part=part, name=name, values=values))
        say(f"{part}: {name}: " + ", ".join(f"{key} {_text(value)}" for key, value in values.items()))
        self.write()

    def skip(self, what: str) -> None:
        """Note what there was no time for."""
        self.not_reached.append(what)
        say(f"not reached, no time is left: {what}")
        self.write()

    def fail(self, part: str, why: str) -> None:
        """Note a part that ended with an error."""
        self.failures[part] = why
        say(f"{part} FAILED: {why}")
        self.write()

    def write(self) -> None:
        """Write all of it as JSON."""
        content = {
            "about": self.about,
            "figures": [asdict(figure) for figure in self.figures],
            "not_reached": self.not_reached,
            "failures": self.failures,
        }
        self.path.write_text(json.dumps(content, indent=1) + "\n")


class Setting:
    """Where a run computes, on what, and until when.

    Attributes:
        device: The GPU, or the CPU for the smoke form.
        sizes: How large everything is.
        scratch: A temporary folder.
        report: Where figures go.
    """

    def __init__(self, *, device: torch.device, sizes: Sizes, scratch: Path, report: Report, minutes: float) -> None:
        self.device = device
        self.sizes = sizes
        self.scratch = scratch
        self.report = report
        self.matmul_flops: dict[str, float] = {}  # measured by the part on limits, by precision
        self._deadline = time.monotonic() + 60 * minutes
        self._made: dict[str, Path] = {}

    def has_time(self, seconds: float, what: str) -> bool:
        """Return whether something that takes so long on a GPU may still begin; note it if not."""
        if self.device.type == "cpu" or time.monotonic() + seconds <= self._deadline:
            return True
        self.report.skip(what)
        return False

    def spec(self, storage: Storage = "raw", *, small: bool = False) -> FeatureSpec:
        """Return the spec of samples of real shapes, or of clips of an eighth of the pixels."""
        sizes = self.sizes
        return made_up_spec(
            num_frames=sizes.num_frames // 2 if small else sizes.num_frames,
            size=sizes.frame_size // 2 if small else sizes.frame_size,
            num_hops=sizes.num_hops,
            storage=storage,
            tokenizer=TEXT_ENCODER,
            vocab_size=sizes.vocab_size,
            max_tokens=sizes.max_tokens,
        )

    def shards(self, storage: Storage = "raw", *, num_train: int | None = None) -> Path:
        """Return a folder of shards, made at the first use: splits train and dev."""
        num_train = num_train or self.sizes.num_train
        name = f"{storage}-{num_train}"
        if name not in self._made:
            root = self.scratch / f"shards-{name}"
            write_made_up(root, self.spec(storage), {"train": num_train, "dev": self.sizes.num_dev})
            self._made[name] = root
        return self._made[name]

    def small_shards(self) -> Path:
        """Return a folder of shards of small clips, some of which lack their picture or sound."""
        if "small" not in self._made:
            root = self.scratch / "shards-small"
            sizes = {"train": self.sizes.num_run, "dev": self.sizes.num_dev}
            write_made_up(root, self.spec(small=True), sizes, absent_share=0.1)
            self._made["small"] = root
        return self._made["small"]

    def train_split(self, storage: Storage = "raw", *, num_train: int | None = None) -> Split:
        """Open the training split."""
        return Split(self.shards(storage, num_train=num_train) / "train")

    def text_encoder(self, *, dropout: bool = True) -> Path:
        """Return a folder with an encoder of BERT-base's size from random weights, made at the first use."""
        name = "text" if dropout else "text-without-dropout"
        if name not in self._made:
            self._made[name] = save_text_encoder(
                self.scratch / name,
                width=self.sizes.text_width,
                num_layers=self.sizes.text_layers,
                vocab_size=self.sizes.vocab_size,
                dropout=dropout,
            )
        return self._made[name]

    def video_weights(self) -> Path:
        """Return a file with random weights of the video encoder, made at the first use."""
        if "video" not in self._made:
            self._made["video"] = save_video_weights(self.scratch, self.sizes.video_encoder)
        return self._made["video"]

    def model_config(self, *trained: Modality, dropout: bool = True) -> ModelConfig:
        """Return the network of docs/model.md with made-up weights, some of its encoders trained."""
        config = ModelConfig(
            text_encoder=str(self.text_encoder(dropout=dropout)),
            video_encoder=self.sizes.video_encoder,
            video_weights=str(self.video_weights()),
            train_encoders=trained,
        )
        return config if dropout else replace(config, encoder_dropout=0.0, fusion_dropout=0.0)


@contextmanager
def free_memory(device: torch.device) -> Iterator[None]:
    """Give the memory of a GPU back when a measurement is over, and count its peak anew when it begins."""
    import gc

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        gc.collect()
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _text(value: Value) -> str:
    if isinstance(value, bool) or not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
