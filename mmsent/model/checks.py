"""Refusals of shards that do not fit a model, before anything heavy is loaded."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from mmsent.config import OF_SHARDS, ModelConfig
from mmsent.errors import EncoderError
from mmsent.model.text_encoder import load_text_model
from mmsent.model.video_encoder import load_video_model
from mmsent.model.weights import drawn_apart, weights_sha256
from shards.errors import describe
from shards.schema import Modality
from shards.spec import Encoding, FeatureSpec, TextSpec

__all__ = ["check_encoded_weights", "check_encoding", "check_tokenizer", "config_for"]


def config_for(config: ModelConfig, spec: FeatureSpec) -> ModelConfig:
    """Return a config that names its text encoder: where it leaves that to the shards, the one of their tokenizer.

    Raises:
        EncoderError: if that starts from random weights and the config names it among those to train as well.
    """
    if config.text_encoder != OF_SHARDS:
        return config
    try:
        return replace(config, text_encoder=spec.text.tokenizer)
    except ValueError as exc:
        what = f"the shards were tokenized for text encoder {spec.text.tokenizer!r}: {exc}"
        raise EncoderError(describe(what, then="leave text out of `--train-encoders`")) from exc


def check_encoding(name: Modality, config: ModelConfig, encoding: Encoding) -> None:
    """Refuse outputs of another encoder than the one that is asked for, and to train one that has only outputs.

    Raises:
        EncoderError: with what the shards hold and what to do.
    """
    if name in config.train_encoders:
        what = f"the shards hold {name} as outputs of {encoding.encoder!r}, which cannot be trained any more"
        then = f"give the shards that were encoded, or leave {name} out of `--train-encoders`"
        raise EncoderError(describe(what, then=then))
    if name == "video" and config.video_weights == "none":
        what = f"the shards hold video as outputs of {encoding.encoder!r}, so no random weights are trained"
        then = "leave out `--video-weights`, or give the shards that were encoded"
        raise EncoderError(describe(what, then=then))
    wanted = {"video": str(config.video_encoder), "text": _tokenizer_name(config.text_encoder)}
    if name in wanted and wanted[name] != _tokenizer_name(encoding.encoder):
        what = f"the shards hold {name} as outputs of {encoding.encoder!r}, the model asks for {wanted[name]!r}"
        remedy = {
            "video": f"--set model.video_encoder={encoding.encoder}",
            "text": f"--text-encoder {encoding.encoder}",
        }
        then = f"pass `{remedy[name]}`, or give the shards that were encoded"
        raise EncoderError(describe(what, then=then))
    if name == "text" and encoding.pooling != config.text_pooling:
        what = f"the shards hold text pooled by {encoding.pooling!r}, the model asks for {config.text_pooling!r}"
        then = f"pass `--set model.text_pooling={encoding.pooling}`, or give the shards that were encoded"
        raise EncoderError(describe(what, then=then))


def check_encoded_weights(name: Modality, config: ModelConfig, spec: FeatureSpec) -> None:
    """Refuse outputs of other weights than those in a file or folder that is given; a name says nothing of weights.

    Raises:
        EncoderError: if they are others, or cannot be read.
    """
    backbone: nn.Module
    with drawn_apart(name):
        if name == "video" and config.video_weights not in ("kinetics", "none"):
            option, given = "--video-weights", config.video_weights
            backbone, _ = load_video_model(config.video_encoder, given)
            then = "leave it out, or give the shards that were encoded"
        elif name == "text" and Path(config.text_encoder).is_dir():
            option, given = "--text-encoder", config.text_encoder
            backbone = load_text_model(given, pooling=config.text_pooling, config=None, spec=spec.text)
            then = f"give its name alone, `{spec.text.tokenizer}`, or the shards that were encoded"
        else:
            return
    if weights_sha256(backbone) != spec.encoded[name].weights_sha256:
        what = f"the shards hold {name} as outputs of other weights than those in {option} {given}"
        raise EncoderError(describe(what, then=then))


def check_tokenizer(text_encoder: str, spec: TextSpec) -> None:
    """Refuse shards whose tokens are not those of the text encoder; needs no network.

    Raises:
        EncoderError: with what was asked for, what the shards were made for, and what to do.
    """
    if _tokenizer_name(text_encoder) != spec.tokenizer:
        what = f"the shards were tokenized for text encoder {spec.tokenizer!r}, the model asks for {text_encoder!r}"
        then = (
            "leave out `--text-encoder`, which takes that of the shards, "
            f"or make shards with `mmsent preprocess --text-encoder {text_encoder}`"
        )
        raise EncoderError(describe(what, then=then))


def _tokenizer_name(text_encoder: str) -> str:
    """Return what a spec calls the tokenizer of an encoder: of a local folder its name alone."""
    folder = Path(text_encoder)
    return folder.resolve().name if folder.is_dir() else text_encoder
