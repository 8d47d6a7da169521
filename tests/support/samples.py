"""Small samples and splits that the tests make for themselves."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from shards.format.codec import RAW_DTYPES
from shards.format.frame_jpeg import encode_frame_jpeg
from shards.format.index import Index
from shards.order.orders import InOrder
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.schema import MELD_LABELS, PRESENT, RAW_ARRAYS, Modality, Presence, Sample, SampleMeta, SourceClip
from shards.spec import AudioSpec, Encoding, FeatureSpec, Storage, TextSpec, VideoSpec
from shards.writing.finish import finish_split
from shards.writing.shard_writer import Origin, shard_name, write_shard


def make_spec(
    *,
    num_frames: int = 4,
    size: int = 8,
    num_mels: int = 6,
    num_hops: int = 10,
    vocab_size: int = 50,
    storage: Storage = "raw",
    widths: Mapping[Modality, int] = MappingProxyType({}),
) -> FeatureSpec:
    """Make a spec; `widths` has the numbers in the output of an encoder for each modality that is encoded."""
    return FeatureSpec(
        video=VideoSpec(
            num_frames=num_frames,
            height=size,
            width=size,
            sampling="uniform-time",
            storage=storage,
            jpeg_quality=90 if storage == "jpeg" else 0,
            decoder="decord",
            decoder_version="1",
            encoder_version="",
        ),
        audio=AudioSpec(
            num_mels=num_mels,
            num_hops=num_hops,
            sample_rate=16000,
            n_fft=1024,
            hop_length=512,
            scale="log",
            log_epsilon=1e-6,
            downmix="itu",
            decoder="decord",
            decoder_version="1",
            transform_version="1",
        ),
        text=TextSpec(
            tokenizer="scratch",
            tokenizer_sha256="0" * 64,
            vocab_size=vocab_size,
            pad_id=0,
            max_tokens=12,
            normalisation="cp1252",
            context_utterances=0,
        ),
        encoded={
            name: Encoding(
                encoder=f"{name} net",
                weights_sha256="1" * 64,
                pooling="mean" if name == "text" else "",
                width=width,
                precision="fp32",
            )
            for name, width in widths.items()
        },
    )


def make_sample(
    number: int, *, spec: FeatureSpec | None = None, split: str = "train", absent: tuple[str, ...] = ()
) -> Sample:
    """Make a sample whose content follows from `number` alone."""
    spec = spec or make_spec()
    rng = np.random.default_rng(number)
    emotion, sentiment = (labels.names[number % len(labels.names)] for labels in MELD_LABELS)
    num_hops = 0 if "audio" in absent else int(rng.integers(1, spec.audio.num_hops + 1))
    num_tokens = int(rng.integers(2, spec.text.max_tokens + 1))
    logmel = rng.normal(size=spec.audio.shape).astype(np.float16)
    logmel[:, num_hops:] = 0
    tokens = rng.integers(1, spec.text.vocab_size, size=spec.text.shape).astype(np.int32)
    tokens[num_tokens:] = spec.text.pad_id
    frames = rng.integers(0, 256, size=spec.video.shape).astype(np.uint8)
    if "video" in absent:
        frames[:] = 0
    meta = SampleMeta(
        key=f"{split}-dia{number // 5}-utt{number % 5}",
        split=split,
        dialogue_id=str(number // 5),
        utterance_id=str(number % 5),
        turn_index=number % 5,
        speaker="Ross",
        text=f"line {number}, isn’t it",
        labels={"emotion": emotion, "sentiment": sentiment},
        num_frames=0 if "video" in absent else spec.video.num_frames,
        num_hops=num_hops,
        num_tokens=num_tokens,
        presence={
            "video": Presence(present=False, reason="no clip") if "video" in absent else PRESENT,
            "audio": Presence(present=False, reason="no clip") if "audio" in absent else PRESENT,
            "text": PRESENT,
        },
        source=SourceClip(path=f"train_splits/dia{number}.mp4", sha256="ab" * 32),
        video_seconds=0.0 if "video" in absent else 1.4,
        audio_seconds=0.0 if "audio" in absent else 1.5,
        annotated_seconds=1.4,
    )
    if spec.video.storage == "jpeg":
        frames = encode_frame_jpeg(frames, quality=spec.video.jpeg_quality)
    features = {
        name: rng.normal(size=encoding.width).astype(np.float32) * meta.presence[name].present
        for name, encoding in spec.encoded.items()
    }
    arrays: dict[str, Any] = {"frames": frames, "logmel": logmel, "tokens": tokens}
    arrays |= {RAW_ARRAYS[name]: np.empty(0, RAW_DTYPES[name]) for name in features}
    return Sample(meta=meta, **arrays, features=features)


def write_split(
    root: Path,
    samples: Iterable[Sample],
    *,
    spec: FeatureSpec | None = None,
    split: str = "train",
    samples_per_shard: int = 3,
) -> Index:
    """Write samples as the finished split `root/split`."""
    spec = spec or make_spec()
    directory = root / split
    directory.mkdir(parents=True)
    samples = list(samples)
    shards = tuple(
        write_shard(
            directory / shard_name(split, number),
            samples[start : start + samples_per_shard],
            spec=spec,
            label_sets=MELD_LABELS,
            origin=lambda: Origin(
                rows_sha256="0" * 64, inputs_sha256="0" * 64, fingerprints=spec.fingerprints(), sources={}
            ),
        )
        for number, start in enumerate(range(0, len(samples), samples_per_shard))
    )
    return finish_split(directory, split=split, spec=spec, label_sets=MELD_LABELS, shards=shards)


def loader_in_order(split: Split, *, batch_size: int) -> ShardLoader:
    """Load the samples of a split in the order of its shards."""
    return ShardLoader(split, order=InOrder(len(split)), batch_size=batch_size)


def with_labels(sample: Sample, **labels: str) -> Sample:
    """Return the sample with other labels."""
    return Sample(
        meta=replace(sample.meta, labels={**sample.meta.labels, **labels}),
        frames=sample.frames,
        logmel=sample.logmel,
        tokens=sample.tokens,
        features=sample.features,
    )


def with_byte_changed(raw: bytes, offset: int, *, mask: int = 0xFF) -> bytes:
    """Return `raw` with the bits of `mask` turned over in the byte at `offset`."""
    changed = bytearray(raw)
    changed[offset] ^= mask
    return bytes(changed)


def assert_same_sample(got: Sample, expected: Sample) -> None:
    """Compare all that a sample holds; arrays bit for bit, so that NaN is itself."""
    assert got.meta == expected.meta
    assert got.features.keys() == expected.features.keys()
    pairs = {name: (getattr(got, name), getattr(expected, name)) for name in RAW_ARRAYS.values()}
    pairs |= {name: (got.features[name], expected.features[name]) for name in got.features}
    for name, (ours, theirs) in pairs.items():
        assert (ours.shape, ours.dtype, ours.tobytes()) == (theirs.shape, theirs.dtype, theirs.tobytes()), name
