import io
import json
import pickle
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shards.errors import ShardCorruptError
from shards.format.codec import (
    RAW_DTYPES,
    array_members,
    decode_meta,
    decode_sample,
    encode_sample,
    members,
    npy_header,
)
from shards.schema import (
    MELD_LABELS,
    MODALITIES,
    PRESENT,
    RAW_ARRAYS,
    Modality,
    Note,
    NoteAbout,
    NoteKind,
    Presence,
    Sample,
    SampleMeta,
    SourceClip,
)
from shards.spec import Storage
from tests.support.samples import assert_same_sample, make_sample, make_spec, with_labels

SPEC = make_spec()

SECONDS = st.floats(0, 1e6)
NOTES = st.builds(
    Note, kind=st.sampled_from(get_args(NoteKind)), about=st.sampled_from(get_args(NoteAbout)), detail=st.text()
)
METAS = st.builds(
    SampleMeta,
    key=st.from_regex(r"[A-Za-z0-9_-]{1,80}", fullmatch=True),
    split=st.sampled_from(["train", "dev", "test"]),
    dialogue_id=st.text(),
    utterance_id=st.text(),
    turn_index=st.integers(0, 99),
    speaker=st.text(),
    text=st.text(),
    labels=st.fixed_dictionaries({labels.task: st.sampled_from(labels.names) for labels in MELD_LABELS}),
    num_frames=st.integers(0, SPEC.video.num_frames),
    num_hops=st.integers(0, SPEC.audio.num_hops),
    num_tokens=st.integers(0, SPEC.text.max_tokens),
    presence=st.fixed_dictionaries(
        {
            name: st.just(PRESENT) | st.builds(Presence, present=st.just(False), reason=st.text(min_size=1))
            for name in MODALITIES
        }
    ),
    source=st.builds(SourceClip, path=st.text(), sha256=st.text()),
    video_seconds=SECONDS,
    audio_seconds=SECONDS,
    annotated_seconds=SECONDS,
    notes=st.lists(NOTES, max_size=3).map(tuple),
)


def encode(sample: Sample) -> dict[str, bytes]:
    return encode_sample(sample, spec=SPEC, label_sets=MELD_LABELS)


def random_arrays(meta: SampleMeta, seed: int) -> Sample:
    """Give metadata arrays of random bytes: every bit pattern of a finite float16 may come."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        RAW_ARRAYS[name]: np.frombuffer(rng.bytes(member.num_bytes), member.dtype).reshape(member.shape)
        for name, member in array_members(SPEC).items()
    }
    arrays["logmel"] = np.where(np.isfinite(arrays["logmel"]), arrays["logmel"], np.float16(-0.0))
    return Sample(meta=meta, **arrays)


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class WritesFile:
    """Writes a file when it is unpickled, as an attacker's object would do worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.path, "code was run")


@settings(deadline=None, max_examples=40)
@given(meta=METAS, seed=st.integers(0, 2**32))
def test_a_sample_comes_back_as_it_was(meta: SampleMeta, seed: int) -> None:
    sample = random_arrays(meta, seed)
    assert_same_sample(decode_sample(encode(sample), where="here"), sample)


@settings(deadline=None, max_examples=20)
@given(meta=METAS, seed=st.integers(0, 2**32))
def test_equal_samples_give_equal_bytes_whatever_the_layout_in_memory(meta: SampleMeta, seed: int) -> None:
    sample = random_arrays(meta, seed)
    twin = Sample(
        meta=replace(
            meta, labels=dict(reversed(list(meta.labels.items()))), presence=dict(reversed(list(meta.presence.items())))
        ),
        frames=np.asfortranarray(sample.frames),
        logmel=np.asfortranarray(sample.logmel),
        tokens=np.repeat(sample.tokens, 2)[::2],
    )
    assert encode(twin) == encode(sample)


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
@pytest.mark.parametrize("names", [("video",), ("text", "audio"), ("video", "audio", "text")], ids=" ".join)
def test_an_encoded_sample_comes_back_with_its_features_in_the_place_of_raw_arrays(
    names: tuple[Modality, ...], storage: Storage
) -> None:
    spec = make_spec(storage=storage, widths={name: 3 + len(name) for name in names})
    sample = make_sample(3, spec=spec, absent=("audio",))
    payloads = encode_sample(sample, spec=spec, label_sets=MELD_LABELS)
    assert tuple(payloads) == members(spec)
    for name in MODALITIES:
        assert (f"{name}.npy" in payloads) == (name in names)
        assert sample.array(name).dtype == ("<f4" if name in names else RAW_DTYPES[name])
        if name in names:
            assert payloads[f"{name}.npy"] == saved(sample.features[name])
    got = decode_sample(payloads, where="here")
    assert_same_sample(got, sample)
    assert [getattr(got, RAW_ARRAYS[name]).shape for name in names] == [(0,)] * len(names)


def test_a_raw_sample_is_no_encoded_one_and_the_other_way_round() -> None:
    encoded = make_spec(widths={"video": 5})
    with pytest.raises(ValueError, match=r"features of none, the spec wants them of \['video'\]"):
        encode_sample(make_sample(0), spec=encoded, label_sets=MELD_LABELS)
    with pytest.raises(ValueError, match=r"features of \['video'\], the spec wants them of none"):
        encode(make_sample(0, spec=encoded))


@pytest.mark.parametrize("wrong", [np.zeros(4, np.float32), np.zeros(5), np.zeros((1, 5), np.float32)], ids=str)
def test_features_of_another_width_or_dtype_are_refused_by_name(wrong: Any) -> None:
    spec = make_spec(widths={"audio": 5})
    sample = replace(make_sample(3, spec=spec), features={"audio": wrong})
    with pytest.raises(ValueError, match=r"^train-dia0-utt3: audio must be \(5,\) float32"):
        encode_sample(sample, spec=spec, label_sets=MELD_LABELS)


def test_members_come_in_the_order_of_the_format() -> None:
    assert tuple(encode(make_sample(0))) == members(SPEC) == ("frames.npy", "logmel.npy", "tokens.npy", "json")


@pytest.mark.parametrize("name", RAW_ARRAYS.values())
def test_an_array_member_is_what_numpy_saves(name: str) -> None:
    sample = make_sample(0)
    assert encode(sample)[f"{name}.npy"] == saved(getattr(sample, name))


@pytest.mark.parametrize("name", RAW_ARRAYS.values())
def test_the_values_of_an_array_begin_right_after_its_constant_header(name: str) -> None:
    array = getattr(make_sample(0), name)
    assert encode(make_sample(0))[f"{name}.npy"] == npy_header(array.shape, array.dtype) + array.tobytes()


def test_the_json_has_each_label_with_its_index_and_text_as_utf8() -> None:
    text = encode(with_labels(make_sample(0), emotion="joy", sentiment="positive"))["json"]
    assert json.loads(text)["labels"] == {
        "emotion": {"index": 3, "name": "joy"},
        "sentiment": {"index": 2, "name": "positive"},
    }
    assert "isn’t".encode() in text


@pytest.mark.parametrize("name", RAW_ARRAYS.values())
@pytest.mark.parametrize(
    "change",
    [lambda a: a[:-1], lambda a: a[None], lambda a: a.reshape(-1, 2), lambda a: a[:0]],
    ids=["shorter", "one axis more", "same size, other shape", "empty"],
)
def test_an_array_of_another_shape_is_refused_by_name(name: str, change: Callable[[Any], Any]) -> None:
    sample = make_sample(3)
    with pytest.raises(ValueError, match=rf"^train-dia0-utt3: {name} must be"):
        encode(replace(sample, **{name: change(getattr(sample, name))}))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("frames", "i1"), ("frames", "<f4"), ("logmel", ">f2"), ("logmel", "<f4"), ("tokens", "<i8"), ("tokens", ">i4")],
)
def test_an_array_of_another_dtype_or_byte_order_is_refused_by_name(name: str, dtype: str) -> None:
    sample = make_sample(3)
    with pytest.raises(ValueError, match=rf"^train-dia0-utt3: {name} must be"):
        encode(replace(sample, **{name: getattr(sample, name).astype(dtype)}))


@pytest.mark.parametrize("labels", [{}, {"emotion": "joy"}, {"emotion": "joy", "sentiment": "positive", "x": "y"}])
def test_a_sample_without_a_label_for_each_task_alone_is_refused(labels: dict[str, str]) -> None:
    sample = make_sample(3)
    with pytest.raises(ValueError, match="train-dia0-utt3: labels must be of"):
        encode(replace(sample, meta=replace(sample.meta, labels=labels)))


def test_a_label_that_its_task_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="bored"):
        encode(with_labels(make_sample(3), emotion="bored"))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_duration_that_is_no_number_is_refused(seconds: float) -> None:
    sample = make_sample(3)
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(replace(sample, meta=replace(sample.meta, video_seconds=seconds)))


@pytest.mark.parametrize("name", RAW_ARRAYS.values())
def test_a_pickle_in_an_array_member_is_refused_and_never_run(name: str, tmp_path: Path) -> None:
    trap = WritesFile(tmp_path / "trap")
    for payload in (saved(np.array([trap], dtype=object)), pickle.dumps(trap)):
        with pytest.raises(ShardCorruptError, match="a sample cannot be read"):
            decode_sample({**encode(make_sample(0)), f"{name}.npy": payload}, where="here")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    ("name", "dtype"), [("frames", "|i1"), ("logmel", ">f2"), ("tokens", ">i4"), ("tokens", "<f4")]
)
def test_an_array_member_of_another_dtype_is_refused_although_its_size_is_right(name: str, dtype: str) -> None:
    payload = saved(getattr(make_sample(0), name).astype(dtype))
    with pytest.raises(ShardCorruptError, match="file: here"):
        decode_sample({**encode(make_sample(0)), f"{name}.npy": payload}, where="here")


@pytest.mark.parametrize("member", members(SPEC))
def test_a_missing_member_is_named_with_its_shard(member: str) -> None:
    payloads = encode(make_sample(0))
    del payloads[member]
    with pytest.raises(ShardCorruptError, match=rf"{member}(?s:.*)file: a\.tar, key"):
        decode_sample(payloads, where="a.tar, key")


@pytest.mark.parametrize("member", members(SPEC))
def test_a_member_cut_anywhere_is_an_error(member: str) -> None:
    payloads = encode(make_sample(0))
    whole = payloads[member]
    for size in range(len(whole)):
        with pytest.raises(ShardCorruptError, match="here"):
            decode_sample({**payloads, member: whole[:size]}, where="here")


@settings(deadline=None, max_examples=200)
@example(name="logmel", offset=8, value=0x01)  # a header cut in a dict: tokenize.TokenError from np.load
@example(name="logmel", offset=21, value=ord(","))  # '<f2' -> ',f2': SyntaxError from np.dtype
@example(name="logmel", offset=26, value=ord("B"))  # a bytes key among str: TypeError from sorted
@example(name="logmel", offset=22, value=ord("a"))  # '<f2' -> '<a2': DeprecationWarning from np.dtype
@example(name="logmel", offset=65, value=ord("L"))  # (6, 10) -> (6, 1L): UserWarning about Python 2
@given(name=st.sampled_from(list(RAW_ARRAYS.values())), offset=st.integers(0, 127), value=st.integers(0, 255))
def test_a_damaged_array_header_gives_an_array_or_a_named_error(name: str, offset: int, value: int) -> None:
    payloads = encode(make_sample(3))
    damaged = bytearray(payloads[f"{name}.npy"])
    damaged[offset] = value
    with suppress(ShardCorruptError):
        decode_sample({**payloads, f"{name}.npy": bytes(damaged)}, where="here")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"5", b"[]", b"{}", b"\xff\xfe", b'"text"'],
)
def test_metadata_that_is_no_metadata_is_a_named_error(text: bytes) -> None:
    with pytest.raises(ShardCorruptError, match="file: here"):
        decode_meta(text, where="here")


@settings(deadline=None, max_examples=100)
@given(
    field=st.sampled_from(sorted(json.loads(encode(make_sample(0))["json"]))),
    value=st.none() | st.integers() | st.text() | st.lists(st.integers(), max_size=2) | st.just({}),
)
def test_metadata_with_a_field_of_another_kind_gives_metadata_or_a_named_error(field: str, value: object) -> None:
    fields = json.loads(encode(make_sample(0))["json"])
    with suppress(ShardCorruptError):
        decode_meta(json.dumps({**fields, field: value}).encode(), where="here")


def test_metadata_with_a_key_outside_the_grammar_is_refused() -> None:
    fields = json.loads(encode(make_sample(0))["json"])
    with pytest.raises(ShardCorruptError, match=r"a\.b"):
        decode_meta(json.dumps({**fields, "key": "a.b"}).encode(), where="here")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_finite_number_is_refused_by_key_and_array(value: float) -> None:
    sample = make_sample(3, spec=SPEC)
    logmel = sample.logmel.copy()
    logmel[1, :2] = value
    with pytest.raises(ValueError, match=f"{sample.meta.key}: logmel holds 2 values that are no finite numbers"):
        encode_sample(replace(sample, logmel=logmel), spec=SPEC, label_sets=MELD_LABELS)
