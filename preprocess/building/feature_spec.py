"""Choices and what is installed -> the spec of the shards to make, and its tokenizer."""

from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Dataset
from preprocess.errors import DatasetError
from preprocess.text.context import spoken
from preprocess.text.tokenizer import TextTokenizer, learn_tokenizer, load_tokenizer
from shards.errors import describe
from shards.schema import SCRATCH
from shards.spec import FeatureSpec

__all__ = ["build_tokenizer", "feature_spec"]


def build_tokenizer(dataset: Dataset, config: PreprocessConfig) -> TextTokenizer:
    """Load the tokenizer of a run, or learn it from the training texts when its name is `scratch`.

    Raises:
        TokenizerError: if it cannot be had.
        DatasetError: if it is to be learned and there is no training split.
    """
    if config.text_encoder != SCRATCH:
        return load_tokenizer(config.text_encoder)
    for split in dataset.splits:
        if split.name == "train":
            context = config.context_utterances
            return learn_tokenizer(spoken(row, context_utterances=context) for row in split.utterances)
    what = "a tokenizer is to be learned from the training texts, and there are no rows of train"
    raise DatasetError(describe(what, file=dataset.root, then="add them, or give a tokenizer by --text-encoder"))


def feature_spec(config: PreprocessConfig, tokenizer: TextTokenizer) -> FeatureSpec:
    """Return what decides the bytes of the shards of a run."""
    from preprocess.clips.clip import decoder_version
    from preprocess.clips.logmel import transform_version
    from shards.format.frame_jpeg import encoder_version

    decoder = decoder_version(config.decoder)
    return FeatureSpec(
        video=config.video_spec(decoder_version=decoder, encoder_version=encoder_version()),
        audio=config.audio_spec(decoder_version=decoder, transform_version=transform_version()),
        text=tokenizer.spec(max_tokens=config.max_tokens, context_utterances=config.context_utterances),
    )
