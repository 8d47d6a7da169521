from pathlib import Path
from typing import Any

import pytest

from mmsent.training.data_statistics import logmel_statistics
from shards.reading.split import Split
from tests.support.samples import make_sample, write_split


def test_few_shards_are_looked_at_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them is an open file until the end and, behind a URL, a download before the first step."""
    write_split(tmp_path, [make_sample(i) for i in range(40)], samples_per_shard=1)
    split = Split(tmp_path / "train")
    touched: set[int] = set()
    bytes_of = split.files.bytes_of

    def noting(number: int) -> Any:
        touched.add(number)
        return bytes_of(number)

    monkeypatch.setattr(split.files, "bytes_of", noting)
    logmel_statistics(split)
    assert len(touched) == 16
    assert {0, 39} <= touched
