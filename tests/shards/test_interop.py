import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shards.codec import ARRAY_MEMBERS, encode_sample, members
from shards.schema import MELD_LABELS, Sample
from tests.samples import make_sample, make_spec, write_split

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


def as_seen(sample: Sample) -> dict[str, object]:
    """Return what another program is to see of a sample."""
    arrays = {name: getattr(sample, name) for name in ARRAY_MEMBERS}
    payloads = encode_sample(sample, spec=make_spec(), label_sets=MELD_LABELS)
    return {
        "key": sample.meta.key,
        "json": json.loads(payloads["json"]),
        "arrays": {
            f"{name}.npy": [array.dtype.str, list(array.shape), array.tobytes().hex()] for name, array in arrays.items()
        },
    }


@pytest.mark.parametrize("secure", [False, True], ids=["default", "WDS_SECURE=1"])
def test_stock_webdataset_reads_the_same_keys_arrays_and_json(directory: Path, secure: bool) -> None:
    url = f"{directory}/train-{{00000..00001}}.tar"
    assert read_with_webdataset(url, secure=secure) == [as_seen(sample) for sample in make_samples()]


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
        assert tar.getnames() == [f"{key}.{name}" for key in keys for name in members("raw")]


def test_tarfile_of_the_standard_library_lists_every_member(directory: Path) -> None:
    with tarfile.open(directory / "train-00000.tar") as tar:
        assert tar.getnames() == [
            f"{sample.meta.key}.{name}" for sample in make_samples()[:3] for name in members("raw")
        ]


def test_numpy_and_json_alone_read_a_member(directory: Path) -> None:
    sample = make_samples()[2]
    with tarfile.open(directory / "train-00000.tar") as tar:
        for name in ARRAY_MEMBERS:
            file = tar.extractfile(f"{sample.meta.key}.{name}.npy")
            assert file is not None
            array = np.load(io.BytesIO(file.read()), allow_pickle=False)
            np.testing.assert_array_equal(array, getattr(sample, name))
        file = tar.extractfile(f"{sample.meta.key}.json")
        assert file is not None
        assert json.load(file)["text"] == sample.meta.text
