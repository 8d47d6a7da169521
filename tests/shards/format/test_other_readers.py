import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.format.codec import array_members, encode_sample, members
from shards.schema import MELD_LABELS, RAW_ARRAYS, Note, Sample
from shards.spec import FeatureSpec
from tests.support.samples import make_sample, make_spec, write_split

READ_WITH_WEBDATASET = """
import json, sys

sys.modules["torch"] = None  # WebDataset imports it if it can: seconds that have no part in reading
import webdataset

samples = []
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False).decode():
    arrays = {name: [value.dtype.str, list(value.shape), value.tobytes().hex()]
              for name, value in sample.items() if name.endswith(".npy")}
    samples.append({"key": sample["__key__"], "json": sample["json"], "arrays": arrays})
print(json.dumps(samples))
"""


def make_samples() -> list[Sample]:
    return [make_sample(i, absent=("video", "audio") if i == 1 else ()) for i in range(5)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("interop")
    write_split(root, make_samples())
    return root / "train"


def read_with_webdataset(url: str, *, secure: bool) -> list[dict[str, object]]:
    """Read in a process of its own: WebDataset looks at WDS_SECURE once, when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", READ_WITH_WEBDATASET, url],
        env={**os.environ, "WDS_SECURE": "1" if secure else "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def as_seen(sample: Sample, *, spec: FeatureSpec | None = None) -> dict[str, object]:
    """Return what another program is to see of a sample."""
    spec = spec or make_spec()
    arrays = {member.extension: sample.array(name) for name, member in array_members(spec).items()}
    payloads = encode_sample(sample, spec=spec, label_sets=MELD_LABELS)
    return {
        "key": sample.meta.key,
        "json": json.loads(payloads["json"]),
        "arrays": {name: [array.dtype.str, list(array.shape), array.tobytes().hex()] for name, array in arrays.items()},
    }


@pytest.mark.parametrize("secure", [False, True], ids=["default", "WDS_SECURE=1"])
def test_stock_webdataset_reads_the_same_keys_arrays_and_json(directory: Path, secure: bool) -> None:
    url = f"{directory}/train-{{00000..00001}}.tar"
    assert read_with_webdataset(url, secure=secure) == [as_seen(sample) for sample in make_samples()]


ENCODED = make_spec(widths={"video": 5, "text": 3})


def test_stock_webdataset_reads_the_features_of_encoded_shards(tmp_path: Path) -> None:
    samples = [make_sample(i, spec=ENCODED) for i in range(5)]
    write_split(tmp_path, samples, spec=ENCODED)
    found = read_with_webdataset(f"{tmp_path}/train/train-{{00000..00001}}.tar", secure=True)
    assert found == [as_seen(sample, spec=ENCODED) for sample in samples]


def test_webdataset_and_tarfile_keep_a_key_of_our_grammar_whole(tmp_path: Path) -> None:
    keys = ["x" * 80, "-", "_", "Dia12-UTT_3", "0"]
    samples = [make_sample(i) for i in range(len(keys))]
    write_split(
        tmp_path,
        [replace(sample, meta=replace(sample.meta, key=key)) for sample, key in zip(samples, keys, strict=True)],
        samples_per_shard=len(keys),
    )
    shard = tmp_path / "train" / "train-00000.tar"
    assert [sample["key"] for sample in read_with_webdataset(str(shard), secure=False)] == keys
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f"{key}.{name}" for key in keys for name in members(make_spec())]


def test_tarfile_of_the_standard_library_lists_every_member(directory: Path) -> None:
    with tarfile.open(directory / "train-00000.tar") as tar:
        assert tar.getnames() == [
            f"{sample.meta.key}.{name}" for sample in make_samples()[:3] for name in members(make_spec())
        ]


def test_numpy_and_json_alone_read_a_member(directory: Path) -> None:
    sample = make_samples()[2]
    with tarfile.open(directory / "train-00000.tar") as tar:
        for name in RAW_ARRAYS.values():
            file = tar.extractfile(f"{sample.meta.key}.{name}.npy")
            assert file is not None
            array = np.load(io.BytesIO(file.read()), allow_pickle=False)
            np.testing.assert_array_equal(array, getattr(sample, name))
        file = tar.extractfile(f"{sample.meta.key}.json")
        assert file is not None
        assert json.load(file)["text"] == sample.meta.text


@pytest.mark.skipif(shutil.which("tar") is None, reason="there is no tar program")
def test_the_tar_program_lists_and_extracts_what_was_written(directory: Path, tmp_path: Path) -> None:
    shard, samples = directory / "train-00000.tar", make_samples()[:3]
    listed = subprocess.run(["tar", "tf", shard], capture_output=True, text=True, check=True)
    assert listed.stderr == ""
    assert listed.stdout.split() == [f"{sample.meta.key}.{name}" for sample in samples for name in members(make_spec())]
    subprocess.run(["tar", "xf", shard, "-C", tmp_path], check=True)
    for sample in samples:
        for name, payload in encode_sample(sample, spec=make_spec(), label_sets=MELD_LABELS).items():
            assert (tmp_path / f"{sample.meta.key}.{name}").read_bytes() == payload


READ_WITH_HUGGING_FACE = """
import json, sys
import datasets
import numpy as np

shards = {"train": sys.argv[1]}
found = datasets.load_dataset("webdataset", data_files=shards, split="train", streaming=True)
if sys.argv[2] == "cached":
    features = found.features.copy()
    features["json"]["notes"] = datasets.List({name: datasets.Value("string") for name in ("about", "detail", "kind")})
    found = datasets.load_dataset("webdataset", data_files=shards, split="train", features=features)
kinds = {"frames.npy": "|u1", "logmel.npy": "<f2", "tokens.npy": "<i4", "video.npy": "<f4", "text.npy": "<f4"}
samples = []
for sample in found:
    values = {name: np.asarray(sample[name], kind) for name, kind in kinds.items() if name in sample}
    arrays = {name: [value.dtype.str, list(value.shape), value.tobytes().hex()] for name, value in values.items()}
    samples.append({"key": sample["__key__"], "json": sample["json"], "arrays": arrays})
print(json.dumps(samples))
"""


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="Hugging Face datasets is not installed")
@pytest.mark.parametrize("how", ["streaming", "cached"])
@pytest.mark.parametrize("spec", [make_spec(), ENCODED], ids=["raw", "encoded"])
def test_hugging_face_datasets_reads_the_same_keys_arrays_and_json(tmp_path: Path, how: str, spec: FeatureSpec) -> None:
    note = Note(kind="long_clip", about="row", detail="five minutes")
    plain = [make_sample(i, spec=spec) for i in range(12)]
    late = plain[9]  # the columns are made from the first samples, which have no notes
    with_note = replace(late, meta=replace(late.meta, notes=(note,)))
    samples = [*plain[:9], with_note, *plain[10:]]
    write_split(tmp_path, samples, spec=spec)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITH_HUGGING_FACE, f"{tmp_path}/train/*.tar", how],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [as_seen(sample, spec=spec) for sample in samples]
