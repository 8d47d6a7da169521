import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preprocess.building.estimate import Estimate, estimate_run
from preprocess.building.feature_spec import feature_spec
from preprocess.clips.extract import Extract
from preprocess.clips.extract_all import Request, extract_all
from preprocess.config import Part
from preprocess.datasets.meld import read_meld
from preprocess.text.tokenizer import TextTokenizer, learn_tokenizer
from tests.preprocess.building.test_build import TOKENIZER, WHOLE, build
from tests.support.clips import clip_path, make_rows, small_config, write_csv, write_meld
from tests.support.commands import mmsent

pytestmark = pytest.mark.slow

NUM_ROWS = 11


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7, 2 and 2 rows, one of them without a clip."""
    root = write_meld(tmp_path_factory.mktemp("data") / "meld")
    clip_path(root, "train", make_rows(7)[3]).unlink()
    return root


def estimate(
    meld: Path, out: Path, *, tokenizer: TextTokenizer = TOKENIZER, part: Part = WHOLE, **changes: object
) -> Estimate:
    config = small_config(**changes)
    spec = feature_spec(config, tokenizer)
    return estimate_run(read_meld(meld), out, config=config, spec=spec, part=part, num_workers=1)


def test_an_estimate_counts_what_is_there_and_writes_nothing(meld: Path, tmp_path: Path) -> None:
    found = estimate(meld, tmp_path / "out")
    assert (found.num_rows, found.num_clips, found.clips_measured, found.num_rows_done) == (NUM_ROWS, 10, 10, 0)
    assert found.clip_bytes == sum(path.stat().st_size for path in meld.rglob("*.mp4"))
    assert found.annotated_hours == pytest.approx(NUM_ROWS / 3600)
    assert found.clips_per_second > 0
    assert found.minutes == pytest.approx(10 / found.clips_per_second / 60)
    assert found.free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert found.fits
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{}, {"num_frames": 8}, {"height": 64, "width": 96}, {"storage": "jpeg"}])
def test_the_bytes_are_those_that_the_run_writes(meld: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    found = estimate(meld, tmp_path / "out", samples_per_shard=100, **changes)
    build(meld, tmp_path / "out", samples_per_shard=100, **changes)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/*.tar"))
    # A tar ends in up to 10 kB of zeros, and the small test pictures make that count.
    assert sum(found.shard_bytes.values()) == pytest.approx(written, rel=0.15, abs=3 * 10_240)


def test_what_is_done_needs_no_time(meld: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "out")
    (tmp_path / "out" / "train" / "train-00000.tar").unlink()
    found = estimate(meld, tmp_path / "out")
    assert found.num_rows_done == NUM_ROWS - 3
    assert 0 < found.minutes < estimate(meld, tmp_path / "new").minutes
    assert estimate(meld, tmp_path / "out", num_frames=5).num_rows_done == 0


def test_another_tokenizer_needs_no_decoding(meld: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "out")
    found = estimate(meld, tmp_path / "out", tokenizer=learn_tokenizer(["others words"]))
    assert (found.num_rows_done, found.clips_measured, found.minutes) == (0, 0, 0.0)


@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_another_log_mel_needs_the_sound_alone(
    meld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    build(meld, tmp_path / "out", storage=storage)
    asked: list[Request] = []

    def watched(root: Path, requests: Iterable[Request], **options: Any) -> Iterator[Extract]:
        asked.extend(requests)
        return extract_all(root, asked, **options)

    monkeypatch.setattr("preprocess.building.estimate.extract_all", watched)
    found = estimate(meld, tmp_path / "out", storage=storage, num_hops=9)
    assert (found.num_rows_done, found.clips_measured) == (0, 10)
    assert {request.media for request in asked[:11]} == {("audio",)}  # one to warm up; then sizes of pictures if asked
    assert {request.media for request in asked[11:]} == ({("video",)} if storage == "jpeg" else set())


def test_only_what_the_shards_to_be_made_take_must_find_room(meld: Path, tmp_path: Path) -> None:
    before = estimate(meld, tmp_path / "out")
    assert before.needed_bytes == pytest.approx(sum(before.shard_bytes.values()), abs=10)
    build(meld, tmp_path / "out")
    assert estimate(meld, tmp_path / "out").needed_bytes == 0
    remade = estimate(meld, tmp_path / "out", num_frames=8)
    assert 0 < remade.needed_bytes < sum(remade.shard_bytes.values())
    smaller = estimate(meld, tmp_path / "out", num_frames=1)
    assert smaller.needed_bytes < 0
    assert smaller.fits


def test_a_part_takes_its_share(meld: Path, tmp_path: Path) -> None:
    parts = [estimate(meld, tmp_path / "out", part=Part(number=number, count=2)) for number in (1, 2)]
    assert [part.num_rows for part in parts] == [8, 3]  # shards 0 and 2 of train, all of dev and test; shard 1 of train
    assert sum(part.num_clips for part in parts) == estimate(meld, tmp_path / "out").num_clips


def test_a_changed_row_is_not_done_and_needs_no_decoding(meld: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "out")
    copy = Path(shutil.copytree(meld, tmp_path / "meld"))
    write_csv(copy / "dev_sent_emo.csv", [replace(row, text="Something else") for row in make_rows(2)])
    found = estimate(copy, tmp_path / "out")
    assert (found.num_rows_done, found.clips_measured) == (NUM_ROWS - 2, 0)


def test_the_command_refuses_what_the_run_would_refuse(meld: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "out")

    def dry_run(*options: str) -> "subprocess.CompletedProcess[str]":
        asked = ("--text-encoder", "scratch", "--dry-run", "--workers", "1", *options)
        return mmsent("preprocess", meld, "--out", tmp_path / "out", *asked)

    assert "1 of 7 rows of train have no clip" in dry_run().stderr
    refused = dry_run("--set", "preprocess.max_failed_fraction=1")
    assert refused.returncode == 1
    assert "every picture would be decoded again" in refused.stderr
    assert dry_run("--set", "preprocess.max_failed_fraction=1", "--remake").returncode == 0


def test_the_command_says_it_as_a_table_and_as_json(meld: Path, tmp_path: Path) -> None:
    options = (
        meld,
        "--out",
        tmp_path / "out",
        "--text-encoder",
        "scratch",
        "--dry-run",
        "--workers",
        "1",
        "--set",
        "preprocess.max_failed_fraction=1",
    )
    table = mmsent("preprocess", *options)
    assert table.returncode == 0, table.stderr
    assert "time for the rest" in table.stdout
    value = json.loads(mmsent("preprocess", *options, "--preset", "tutorial", "--json").stdout)
    assert value["shard_bytes"]["video"] == NUM_ROWS * 30 * 224 * 224 * 3
    assert value["fits"] is True
    assert not (tmp_path / "out").exists()
