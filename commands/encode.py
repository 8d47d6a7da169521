"""`mmsent encode`: outputs of frozen encoders as shards."""

import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from commands.config_file import ConfigOption, SetOption, ShowConfigOption, print_config, read_settings
from commands.options import (
    CACHE_GIGABYTES,
    CacheOption,
    CacheSizeOption,
    JsonOption,
    PrecisionOption,
    TextEncoderOption,
    VideoWeightsOption,
    needed,
    url_cache,
)
from commands.progress import bars_by_name
from commands.terminal import print_json, print_next, size_text, stdout
from mmsent.config import DataConfig, EncodeConfig, ModelConfig
from shards.spec import FeatureSpec

__all__ = ["encode_command"]

_MODEL = ModelConfig()
_ENCODE = EncodeConfig()


def encode_command(
    shards: Annotated[str | None, typer.Option(help="Folder that `mmsent preprocess` made, or its URL.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the new shards. Run again with the same folder to go on.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    show_config: ShowConfigOption = False,
    modalities: Annotated[
        str | None,
        typer.Option(
            help="What to encode, with commas; the others keep their arrays. audio needs --run.",
            show_default=",".join(_ENCODE.modalities),
        ),
    ] = None,
    text_encoder: TextEncoderOption = None,
    video_weights: VideoWeightsOption = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Take the encoders of this run's best checkpoint, with what they have learned."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Samples that are encoded at a time.", show_default=str(_ENCODE.batch_size))
    ] = None,
    precision: PrecisionOption = None,
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

    Example: `mmsent encode --shards meld-shards --out meld-features`
    """
    from mmsent.encoding.encode_shards import encode_shards
    from mmsent.encoding.frozen_encoders import Pretrained, Run

    settings = read_settings(
        "encode",
        file=config,
        assignments=assignments,
        options={
            "data.shards": shards,
            "model.text_encoder": text_encoder,
            "model.video_weights": video_weights,
            "encode.modalities": modalities,
            "encode.batch_size": batch_size,
            "encode.precision": precision,
        },
    )
    data_config = settings.make("data", DataConfig())
    encode_config = settings.make("encode", _ENCODE)
    start = settings.checked(lambda: ModelConfig(modalities=encode_config.modalities))
    model_config = settings.make("model", start)
    if show_config:
        print_config("encode", {"data": data_config, "model": model_config, "encode": encode_config})
        return
    if run is not None and model_config != start:
        raise typer.BadParameter(
            "--run has encoders of its own: leave out those of --text-encoder, --video-… and model.…"
        )
    if out is None:
        raise typer.BadParameter("give --out, a folder for the new shards")
    where = needed(data_config.shards)
    started = time.monotonic()
    with bars_by_name() as on_progress:
        result = encode_shards(
            where,
            out,
            encoders=Pretrained(model_config) if run is None else Run(run, model_config.modalities),
            batch_size=encode_config.batch_size,
            precision=encode_config.precision,
            cache=url_cache(where, cache, cache_size),
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
    print_next(f"mmsent train --shards {shlex.quote(str(out))}{_encoded_options(result.spec, model_config)}")


def _encoded_options(spec: FeatureSpec, given: ModelConfig) -> str:
    """Return the options with which a model takes the outputs of these encoders, as far as they are no defaults."""
    words = []
    if "text" not in spec.encoded and Path(given.text_encoder).is_dir():  # shards know it by its name alone
        words.append(f"--text-encoder {shlex.quote(given.text_encoder)}")
    if "video" in spec.encoded and spec.encoded["video"].encoder != _MODEL.video_encoder:
        words.append(f"--set model.video_encoder={spec.encoded['video'].encoder}")
    if "text" in spec.encoded and spec.encoded["text"].pooling != _MODEL.text_pooling:
        words.append(f"--set model.text_pooling={spec.encoded['text'].pooling}")
    return "".join(f" {word}" for word in words)
