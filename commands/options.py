"""Options that several commands share, and what is made of the words given for them."""

import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mmsent.config import ModelConfig, Precision, TrainConfig
from shards.machine import core_count, free_memory

if TYPE_CHECKING:
    from shards.storage.cache import ShardCache

__all__ = [
    "CACHE_GIGABYTES",
    "OPTIMISER_PANEL",
    "BatchSizeOption",
    "CacheOption",
    "CacheSizeOption",
    "JsonOption",
    "ModalitiesOption",
    "PrecisionOption",
    "TextEncoderOption",
    "TrainEncodersOption",
    "VideoWeightsOption",
    "checked",
    "needed",
    "url_cache",
    "worker_count",
]

T = TypeVar("T")

_OPTION_NAMES = {"num_utterances": "utterances", "num_workers": "workers"}
"""Options that are not named as the field of the config that they set."""

CACHE_GIGABYTES = 20.0

_MODEL_PANEL = "The model"
OPTIMISER_PANEL = "Optimisation"
_DATA_PANEL = "Reading the data"

_MODEL = ModelConfig()
_TRAIN = TrainConfig()

CacheOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where shards behind a URL are kept, for all runs of this machine.",
        show_default="~/.cache/mmsent/shards",
        rich_help_panel=_DATA_PANEL,
    ),
]
CacheSizeOption = Annotated[
    float, typer.Option(help="Gigabytes that the cache never exceeds.", rich_help_panel=_DATA_PANEL)
]
TextEncoderOption = Annotated[
    str | None,
    typer.Option(
        help="Another encoder with the same tokenizer: a Hugging Face name or a folder.",
        show_default="the one the shards were tokenized for",
        rich_help_panel=_MODEL_PANEL,
    ),
]
VideoWeightsOption = Annotated[
    str | None,
    typer.Option(
        help="Weights of the video encoder: `kinetics`, `none` (random), or the path of a state dict.",
        show_default=_MODEL.video_weights,
        rich_help_panel=_MODEL_PANEL,
    ),
]
ModalitiesOption = Annotated[
    str | None,
    typer.Option(
        help="What the model looks at, with commas.",
        show_default=",".join(_MODEL.modalities),
        rich_help_panel=_MODEL_PANEL,
    ),
]
TrainEncodersOption = Annotated[
    str | None,
    typer.Option(
        help="Pre-trained encoders to train too: `video`, `text` or `video,text`.",
        show_default="none",
        rich_help_panel=_MODEL_PANEL,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Samples of a step, over all processes.",
        show_default=str(_TRAIN.batch_size),
        rich_help_panel=OPTIMISER_PANEL,
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        help="Number format of the forward pass; auto: bf16 or else fp16 on a GPU, fp32 on a CPU.",
        show_default=_TRAIN.precision,
        rich_help_panel=OPTIMISER_PANEL,
    ),
]
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


def needed(shards: str) -> str:
    """Return where the shards are; wrong usage if nothing says so."""
    if not shards:
        raise typer.BadParameter("give --shards, or data.shards in the file of --config")
    return shards
