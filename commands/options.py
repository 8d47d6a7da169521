"""Options that several commands share, and what is made of the words given for them."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from mmsent.config import Precision, TextPooling, VideoEncoderName
from shards.machine import core_count, free_memory
from shards.schema import MODALITIES, Modality

if TYPE_CHECKING:
    from shards.storage.cache import ShardCache

__all__ = [
    "ALL_MODALITIES",
    "CACHE_GIGABYTES",
    "DATA_PANEL",
    "LOSS_PANEL",
    "MODEL_PANEL",
    "OPTIMISER_PANEL",
    "AccumulationOption",
    "BatchSizeOption",
    "CacheOption",
    "CacheSizeOption",
    "CompileOption",
    "JsonOption",
    "ModalitiesOption",
    "PrecisionOption",
    "ReadersOption",
    "TextEncoderOption",
    "TextPoolingOption",
    "TrainEncodersOption",
    "VideoEncoderOption",
    "VideoWeightsOption",
    "checked",
    "modality_names",
    "url_cache",
    "worker_count",
]

T = TypeVar("T")

_OPTION_NAMES = {
    "clip_timeout_seconds": "clip_timeout",
    "context_utterances": "context",
    "early_stopping_patience": "patience",
    "height": "size",
    "max_epochs": "epochs",
    "num_frames": "frames",
    "num_hops": "hops",
    "num_readers": "readers",
    "num_utterances": "utterances",
    "num_workers": "workers",
    "width": "size",
}
"""Options that are not named as the field of the config that they set."""

CACHE_GIGABYTES = 20.0
ALL_MODALITIES = ",".join(MODALITIES)

MODEL_PANEL = "The model"
OPTIMISER_PANEL = "Optimisation"
LOSS_PANEL = "Loss and augmentation"
DATA_PANEL = "Reading the data"

CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where shards behind a URL are kept, for all runs of this machine.",
        show_default="~/.cache/mmsent/shards",
        rich_help_panel=DATA_PANEL,
    ),
]
CacheSizeOption = Annotated[
    float, typer.Option(help="Gigabytes that the cache never exceeds.", rich_help_panel=DATA_PANEL)
]
TextEncoderOption = Annotated[
    str,
    typer.Option(
        help="A Hugging Face name, a folder, or `scratch`; the shards must be tokenized for it.",
        rich_help_panel=MODEL_PANEL,
    ),
]
TextPoolingOption = Annotated[
    TextPooling,
    typer.Option(
        help="What is taken of its output: BERT's pooler, the first token, or the mean of the utterance's.",
        rich_help_panel=MODEL_PANEL,
    ),
]
VideoEncoderOption = Annotated[
    VideoEncoderName, typer.Option(help="A video model of torchvision.", rich_help_panel=MODEL_PANEL)
]
VideoWeightsOption = Annotated[
    str,
    typer.Option(
        help="Of the video encoder: `kinetics`, `none` (random), or the path of a state dict.",
        rich_help_panel=MODEL_PANEL,
    ),
]
ModalitiesOption = Annotated[
    str, typer.Option(help="What the model looks at, with commas.", rich_help_panel=MODEL_PANEL)
]
TrainEncodersOption = Annotated[
    str,
    typer.Option(
        help="Pre-trained encoders to train too: `video`, `text` or `video,text`.", rich_help_panel=MODEL_PANEL
    ),
]
BatchSizeOption = Annotated[
    int, typer.Option(help="Samples of a step, over all processes.", rich_help_panel=OPTIMISER_PANEL)
]
AccumulationOption = Annotated[
    int,
    typer.Option(
        help="Parts in which a step is computed, for less memory; batch normalisation sees one at a time.",
        rich_help_panel=OPTIMISER_PANEL,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        help="Of the forward pass; auto: bf16 or else fp16 on a GPU, fp32 on a CPU.", rich_help_panel=OPTIMISER_PANEL
    ),
]
CompileOption = Annotated[
    bool,
    typer.Option(
        "--compile", help="Compile the encoders: slower to start, then faster.", rich_help_panel=OPTIMISER_PANEL
    ),
]
ReadersOption = Annotated[int, typer.Option(help="Threads that fill batches.", rich_help_panel=DATA_PANEL)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


def checked(make: Callable[[], T]) -> T:
    """Make a config; a value it refuses is wrong usage, told by the name of the option that gave it."""
    try:
        return make()
    except ValueError as exc:
        raise typer.BadParameter(re.sub(r"^\w+(?= (must|names) )", _option_of, str(exc))) from exc


def _option_of(field: re.Match[str]) -> str:
    """Return the option that gives a field of a config."""
    return f"--{_OPTION_NAMES.get(field[0], field[0]).replace('_', '-')}"


_WORKER_BYTES = 600_000_000
"""Memory of a process that decodes: the largest one was seen to take 543 MB (docs/benchmarks.md)."""


def worker_count(asked: int | None) -> int:
    """Return how many processes to start: as asked, or as many as there are cores and memory for."""
    if asked is None:
        memory = free_memory()
        return core_count() if memory is None else max(1, min(core_count(), memory // _WORKER_BYTES))
    if asked < 1:
        raise ValueError(f"workers must be at least 1, got {asked}")
    return asked


def url_cache(shards: str, directory: Path | None, gigabytes: float) -> "ShardCache | None":
    """Return the cache that shards behind a URL come through; None for those of this machine."""
    from shards.storage.cache import ShardCache
    from shards.storage.url_folder import is_url

    if not is_url(shards):
        if directory is not None or gigabytes != CACHE_GIGABYTES:
            raise typer.BadParameter("--cache and --cache-size are for --shards with a URL")
        return None
    if not (math.isfinite(gigabytes) and gigabytes > 0):
        raise typer.BadParameter(f"--cache-size must be above 0, got {gigabytes}")
    if directory is None:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(base) / "mmsent" / "shards"
    return ShardCache(directory, max_bytes=int(gigabytes * 1e9))


def modality_names(option: str, text: str) -> list[Modality]:
    """Return the modalities that an option names, in its order."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in MODALITIES]:
        raise typer.BadParameter(f"--{option} takes {', '.join(MODALITIES)}; got {', '.join(unknown)}")
    return cast("list[Modality]", names)
