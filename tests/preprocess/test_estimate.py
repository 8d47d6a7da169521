import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from preprocess.build import feature_spec
from preprocess.estimate import Estimate, estimate_run
from preprocess.meld import read_meld
from tests.clips import clip_path, make_rows, small_config, write_meld
from tests.commands import mmsent
from tests.preprocess.test_build import TOKENIZER, build

NUM_ROWS = 11


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7, 2 and 2 rows, one of them without a clip."""
    root = write_meld(tmp_path_factory.mktemp("data") / "meld")
    clip_path(root, "train", make_rows(7)[3]).unlink()
    return root


def estimate(meld: Path, out: Path, **changes: object) -> Estimate:
    config = small_config(**changes)
    return estimate_run(read_meld(meld), out, config=config, spec=feature_spec(config, TOKENIZER), num_workers=1)


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


def test_the_command_says_it_as_a_table_and_as_json(meld: Path, tmp_path: Path) -> None:
    options = (meld, "--out", tmp_path / "out", "--text-encoder", "scratch", "--dry-run", "--workers", "1")
    table = mmsent("preprocess", *options)
    assert table.returncode == 0, table.stderr
    assert "time for the rest" in table.stdout
    value = json.loads(mmsent("preprocess", *options, "--preset", "tutorial", "--json").stdout)
    assert value["shard_bytes"]["video"] == NUM_ROWS * 30 * 224 * 224 * 3
    assert value["fits"] is True
    assert not (tmp_path / "out").exists()
