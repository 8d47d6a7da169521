"""`mmsent encode`: outputs of frozen encoders as shards."""

import shlex
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from commands.options import (
    CACHE_GIGABYTES,
    CacheOption,
    CacheSizeOption,
    JsonOption,
    PrecisionOption,
    TextEncoderOption,
    TextPoolingOption,
    VideoEncoderOption,
    VideoWeightsOption,
    checked,
    modality_names,
    url_cache,
)
from commands.progress import bars_by_name
from commands.terminal import print_json, print_next, size_text, stdout
from mmsent.config import ModelConfig, TrainConfig
from shards.schema import MODALITIES
from shards.spec import FeatureSpec

__all__ = ["encode_command"]

_MODEL = ModelConfig()
_TRAIN = TrainConfig()


def encode_command(
    shards: Annotated[str, typer.Option(help="Folder that `mmsent preprocess --out` made, or its URL.")],
    out: Annotated[Path, typer.Option(help="Folder for the new shards. Run again with the same folder to go on.")],
    modalities: Annotated[
        str, typer.Option(help="What to encode, with commas; the others keep their arrays. audio needs --run.")
    ] = "video,text",
    text_encoder: TextEncoderOption = _MODEL.text_encoder,
    text_pooling: TextPoolingOption = _MODEL.text_pooling,
    video_encoder: VideoEncoderOption = _MODEL.video_encoder,
    video_weights: VideoWeightsOption = _MODEL.video_weights,
    run: Annotated[
        Path | None,
        typer.Option(help="Take the encoders of this run's best checkpoint, with what they have learned."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Samples that are encoded at a time.")] = _TRAIN.batch_size,
    precision: PrecisionOption = _TRAIN.precision,
    remake: Annotated[
        bool, typer.Option("--remake", help="Make shards in OUT again that were made in another way.")
    ] = False,
    cache: CacheOption = None,
    cache_size: CacheSizeOption = CACHE_GIGABYTES,
    as_json: JsonOption = False,
) -> None:
    """Run frozen encoders once over all splits, and write shards of their outputs.

    The same samples in the same order, with one vector in place of a clip or a text: training on them runs the small
    rest of the model alone. A run that was stopped goes on where it was; shards that are up to date are kept.

    Example: `mmsent encode --shards data/shards --out data/features`
    """
    from mmsent.encoding.encode_shards import encode_shards
    from mmsent.encoding.frozen_encoders import Pretrained, Run

    chosen = modality_names("modalities", modalities)
    if not chosen:
        raise typer.BadParameter("--modalities names nothing to encode")
    if batch_size < 1:
        raise typer.BadParameter(f"--batch-size must be at least 1, got {batch_size}")
    config = checked(
        lambda: ModelConfig(
            modalities=tuple(name for name in MODALITIES if name in chosen),
            text_encoder=text_encoder,
            text_pooling=text_pooling,
            video_encoder=video_encoder,
            video_weights=video_weights,
        )
    )
    if run is not None and config != replace(_MODEL, modalities=config.modalities):
        raise typer.BadParameter("--run has encoders of its own: leave out --text-… and --video-…")
    started = time.monotonic()
    with bars_by_name() as on_progress:
        result = encode_shards(
            shards,
            out,
            encoders=Pretrained(config) if run is None else Run(run, config.modalities),
            batch_size=batch_size,
            precision=precision,
            cache=url_cache(shards, cache, cache_size),
            remake=remake,
            on_progress=on_progress,
        )
    if as_json:
        print_json({**asdict(result), "spec": result.spec.to_json()})
        return
    if result.num_shards_made:
        seconds = time.monotonic() - started
        what = f"{result.num_samples_encoded:,} samples encoded in {seconds:.0f} s on {result.device}"
        words = f"{what} in {result.precision}; {result.num_shards_made} shards made, {result.num_shards_kept} kept"
    else:
        words = f"nothing to do: all {result.num_shards_kept} shards are up to date"
    stdout.print(f"{escape(str(out))}: {words}; {size_text(result.num_bytes)}", highlight=False, soft_wrap=True)
    print_next(f"mmsent train --shards {shlex.quote(str(out))} --out RUN{_encoded_options(result.spec)}")


def _encoded_options(spec: FeatureSpec) -> str:
    """Return the options with which a model takes the outputs of these encoders, as far as they are no defaults."""
    asked = {"--text-encoder": (spec.text.tokenizer, _MODEL.text_encoder)}
    if "video" in spec.encoded:
        asked["--video-encoder"] = (spec.encoded["video"].encoder, _MODEL.video_encoder)
    if "text" in spec.encoded:
        asked["--text-pooling"] = (spec.encoded["text"].pooling, _MODEL.text_pooling)
    return "".join(f" {name} {shlex.quote(value)}" for name, (value, default) in asked.items() if value != default)
