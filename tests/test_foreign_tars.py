"""Tars that another program wrote, from `mmsent index` to scores."""

import csv
import json
from pathlib import Path

import pytest
import webdataset

from tests.commands import mmsent
from tests.samples import make_sample, make_spec

SPEC = make_spec(size=16)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits by webdataset's writer; the json has a label and a text, and there is a member of theirs."""
    root = tmp_path_factory.mktemp("foreign")
    for split, count in (("train", 8), ("dev", 4), ("test", 5)):
        (root / split).mkdir()
        with webdataset.ShardWriter(f"{root}/{split}/%03d.tar", maxcount=3, verbose=0) as writer:
            for number in range(count):
                sample = make_sample(number, spec=SPEC)
                meta = {"labels": {"mood": ("good", "bad")[number % 2]}, "text": f"line {number}"}
                arrays = {f"{name}.npy": getattr(sample, name) for name in ("frames", "logmel", "tokens")}
                writer.write({"__key__": f"{number:06d}", "json": meta, "txt": "theirs", **arrays})
    return root


@pytest.mark.slow
def test_foreign_tars_are_indexed_verified_trained_on_and_scored(shards: Path, tmp_path: Path) -> None:
    indexed = mmsent("index", shards)
    assert indexed.returncode == 0, indexed.stderr
    assert "Finished: dev 2 shards, test 2 shards, train 3 shards" in indexed.stdout
    assert "train: ignored in its tars: txt" in indexed.stderr
    assert mmsent("verify", shards).returncode == 0
    again = mmsent("index", shards, "--json")
    assert json.loads(again.stdout) == {"dev": 2, "test": 2, "train": 3}

    refused = mmsent("train", "--shards", shards, "--out", tmp_path / "refused", "--video-weights", "none")
    assert refused.returncode == 1
    assert "it is not known which tokenizer made the tokens" in refused.stderr
    assert "--text-encoder scratch" in refused.stderr

    run = tmp_path / "run"
    options = ("--text-encoder", "scratch", "--video-weights", "none", "--epochs", "1", "--batch-size", "4")
    trained = mmsent("train", "--shards", shards, "--out", run, *options)
    assert trained.returncode == 0, trained.stderr
    scored = mmsent("evaluate", "--shards", shards, "--run", run, "--split", "test")
    assert scored.returncode == 0, scored.stderr
    with (run / "evaluation-test" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["key"], row["text"], row["mood"]) for row in rows[:2]] == [
        ("000000", "line 0", "good"),
        ("000001", "line 1", "bad"),
    ]


def test_a_folder_of_something_else_says_what_indexing_needs(tmp_path: Path) -> None:
    result = mmsent("index", tmp_path)
    assert result.returncode == 1
    assert "there are no tars here" in result.stderr
    assert "DIR/train/*.tar" in result.stderr
