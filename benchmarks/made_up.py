"""Samples made up in the real shapes, whose labels can be learned: what benchmarks train on without any clips.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.codec import RAW_DTYPES
from shards.format.frame_jpeg import encode_frame_jpeg
from shards.format.index import ShardInfo
from shards.schema import MELD_LABELS, PRESENT, RAW_ARRAYS, Modality, Presence, Sample, SampleMeta, SourceClip
from shards.spec import AudioSpec, Encoding, FeatureSpec, Storage, TextSpec, VideoSpec
from shards.writing.finish import finish_split
from shards.writing.shard_writer import Origin, shard_name, write_shard

__all__ = ["MELD_SIZES", "made_up_spec", "write_made_up"]

MELD_SIZES = {"train": 9_989, "dev": 1_109, "test": 2_610}

_SAMPLES_PER_SHARD = 128
_NUM_THREADS = 8
_NUM_PICTURES = 56
"""Different clips, as many of each emotion: more take longer to make and load at the same speed."""

_EMOTIONS = MELD_LABELS[0].names
_SENTIMENT_OF = {
    "anger": "negative", "disgust": "negative", "fear": "negative", "sadness": "negative", "joy": "positive",
    "neutral": "neutral", "surprise": "positive",
}  # fmt: skip


def made_up_spec(
    *,
    num_frames: int = 16,
    size: int = 112,
    num_hops: int = 300,
    storage: Storage = "raw",
    tokenizer: str = "scratch",
    vocab_size: int = 30_522,
    max_tokens: int = 128,
    widths: Mapping[Modality, int] = MappingProxyType({}),
    encoders: Mapping[Modality, str] = MappingProxyType({}),
) -> FeatureSpec:
    """Return the spec of made-up samples; defaults are what `mmsent preprocess` makes of MELD.

    Args:
        num_frames: T.
        size: H and W.
        num_hops: S.
        storage: Frames as they are, or one JPEG per sample.
        tokenizer: Name of the text encoder that the tokens are for.
        vocab_size: Its tokens.
        max_tokens: L.
        widths: Numbers in the output of an encoder for each modality that is stored encoded.
        encoders: Name of the encoder for each of these.
    """
    return FeatureSpec(
        video=VideoSpec(
            num_frames=num_frames, height=size, width=size, sampling="uniform-time", storage=storage,
            jpeg_quality=90 if storage == "jpeg" else 0, decoder="none", decoder_version="", encoder_version="",
        ),
        audio=AudioSpec(
            num_mels=64, num_hops=num_hops, sample_rate=16_000, n_fft=1024, hop_length=512, scale="log",
            log_epsilon=1e-6, downmix="itu", decoder="none", decoder_version="", transform_version="",
        ),
        text=TextSpec(
            tokenizer=tokenizer, tokenizer_sha256="", vocab_size=vocab_size, pad_id=0, max_tokens=max_tokens,
            normalisation="cp1252", context_utterances=0,
        ),
        encoded={
            name: Encoding(
                encoder=encoders[name], weights_sha256="0" * 64, pooling="pooler" if name == "text" else "",
                width=width, precision="fp32",
            )
            for name, width in widths.items()
        },
    )  # fmt: skip


def write_made_up(root: Path, spec: FeatureSpec, sizes: Mapping[str, int], *, absent_share: float = 0.0) -> None:
    """Write splits of made-up samples.

    Args:
        root: Folder, new or empty.
        spec: Shapes of the samples.
        sizes: Samples by split.
        absent_share: Share of samples without a picture, and of others without sound.
    """
    made = _MadeUp(spec, absent_share=absent_share)
    for split, size in sizes.items():
        directory = root / split
        directory.mkdir(parents=True)

        def write(number: int, start: int, split: str = split, size: int = size) -> ShardInfo:
            stop = min(start + _SAMPLES_PER_SHARD, size)
            return write_shard(
                root / split / shard_name(split, number),
                (made.sample(split, place) for place in range(start, stop)),
                spec=spec,
                label_sets=MELD_LABELS,
                origin=lambda: Origin(rows_sha256="", inputs_sha256="", fingerprints=spec.fingerprints(), sources={}),
            )

        starts = range(0, size, _SAMPLES_PER_SHARD)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:  # digests and copies are made outside of Python's lock
            shards = tuple(pool.map(write, range(len(starts)), starts))
        finish_split(directory, split=split, spec=spec, label_sets=MELD_LABELS, shards=shards)


class _MadeUp:
    """Samples, each a function of its split and place: each modality leans towards the sample's emotion."""

    def __init__(self, spec: FeatureSpec, *, absent_share: float) -> None:
        self._spec = spec
        self._absent_share = absent_share
        self._frames = [] if "video" in spec.encoded else [_frames(spec, place) for place in range(_NUM_PICTURES)]

    def sample(self, split: str, place: int) -> Sample:
        """Return a sample of a split."""
        spec = self._spec
        rng = np.random.default_rng([*split.encode(), place])
        emotion = int(rng.integers(len(_EMOTIONS)))
        lot = rng.random()
        presence: dict[Modality, Presence] = {
            "video": _ABSENT if lot < self._absent_share else PRESENT,
            "audio": _ABSENT if self._absent_share <= lot < 2 * self._absent_share else PRESENT,
            "text": PRESENT,
        }
        num_hops = int(rng.integers(max(1, spec.audio.num_hops // 8), spec.audio.num_hops + 1))
        num_tokens = int(np.clip(rng.lognormal(2.5, 0.5), 4, spec.text.max_tokens))  # 13.8 in the mean, as MELD's
        raw: dict[str, Any] = {}
        if "video" not in spec.encoded:
            empty = _no_frames(spec) if presence["video"] is _ABSENT else None
            picture = emotion + len(_EMOTIONS) * int(rng.integers(_NUM_PICTURES // len(_EMOTIONS)))
            raw["frames"] = self._frames[picture] if empty is None else empty
        if "audio" not in spec.encoded:
            if presence["audio"] is _ABSENT:
                num_hops = 0
            raw["logmel"] = _logmel(spec, emotion, num_hops, rng)
        if "text" not in spec.encoded:
            raw["tokens"] = _tokens(spec, emotion, num_tokens, rng)
        features = {}
        for name, encoding in spec.encoded.items():
            values = rng.normal(size=encoding.width).astype(np.float32)
            values[emotion] += 2
            features[name] = values
        name_of_emotion = _EMOTIONS[emotion]
        meta = SampleMeta(
            key=f"{split}-dia{place // 10}-utt{place % 10}", split=split, dialogue_id=str(place // 10),
            utterance_id=str(place % 10), turn_index=place % 10, speaker="", text="",
            labels={"emotion": name_of_emotion, "sentiment": _SENTIMENT_OF[name_of_emotion]},
            num_frames=spec.video.num_frames if presence["video"].present else 0, num_hops=num_hops,
            num_tokens=num_tokens, presence=presence, source=SourceClip(path="", sha256=""),
            video_seconds=0.0, audio_seconds=0.0, annotated_seconds=0.0,
        )  # fmt: skip
        arrays = {RAW_ARRAYS[name]: np.empty(0, RAW_DTYPES[name]) for name in features}
        return Sample(meta=meta, features=features, **(arrays | raw))


_ABSENT = Presence(present=False, reason="left out on purpose")


def _frames(spec: FeatureSpec, place: int) -> NDArray[np.uint8]:
    """Return `(T, H, W, 3)` uint8 of an emotion's colour, with some detail, or the JPEG of it."""
    rng = np.random.default_rng(place)
    num_frames, height, width = spec.video.num_frames, spec.video.height, spec.video.width
    emotion = place % len(_EMOTIONS)
    colour = 128 + 80 * np.array([np.cos(emotion + shift) for shift in (0.0, 2.1, 4.2)])
    coarse = rng.normal(size=(num_frames, -(-height // 8), -(-width // 8), 3)) * 40
    picture = coarse.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
    frames = np.clip(picture + colour + rng.normal(size=picture.shape) * 4, 0, 255).astype(np.uint8)
    return encode_frame_jpeg(frames, quality=spec.video.jpeg_quality) if spec.video.storage == "jpeg" else frames


def _no_frames(spec: FeatureSpec) -> NDArray[np.uint8]:
    return np.empty(0, np.uint8) if spec.video.storage == "jpeg" else np.zeros(spec.video.shape, np.uint8)


def _logmel(spec: FeatureSpec, emotion: int, num_hops: int, rng: np.random.Generator) -> NDArray[np.float16]:
    """Return `(M, S)` float16 with more power in an emotion's bands."""
    logmel = np.zeros(spec.audio.shape, np.float16)
    num_mels = spec.audio.num_mels
    real = rng.normal(size=(num_mels, num_hops)) * 2 - 6
    band = num_mels // len(_EMOTIONS)
    real[emotion * band : (emotion + 1) * band] += 2
    logmel[:, :num_hops] = real
    return logmel


def _tokens(spec: FeatureSpec, emotion: int, num_tokens: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return `(L,)` int32, a third of them of an emotion's own words."""
    words = (spec.text.vocab_size - 1) // (len(_EMOTIONS) + 1)
    kinds = np.where(rng.random(num_tokens) < 1 / 3, emotion + 1, 0)
    tokens = np.zeros(spec.text.shape, np.int32)
    tokens[:num_tokens] = 1 + kinds * words + rng.integers(0, words, num_tokens)
    return tokens
