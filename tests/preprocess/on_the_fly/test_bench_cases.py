import sys
from pathlib import Path

import pytest

from preprocess.errors import DatasetError
from preprocess.on_the_fly.bench_cases import choose_rows, on_the_fly_ways, tutorial
from tests.support.clips import clip_path, make_rows, write_clip, write_crashing_clip, write_meld


def names(meld: Path, *, num_clips: int, longest_seconds: float = 30.0) -> list[str]:
    rows = choose_rows(meld, num_clips=num_clips, longest_seconds=longest_seconds)
    return [row.key for row in rows]


def test_clips_are_spread_over_the_whole_folder(tmp_path: Path) -> None:
    meld = write_meld(tmp_path, train=9, dev=0, test=0)
    assert names(meld, num_clips=3) == ["train-dia0-utt0", "train-dia1-utt1", "train-dia2-utt2"]
    assert len(names(meld, num_clips=100)) == 9


def test_clips_that_do_not_open_have_no_sound_or_are_too_long_are_left_out(tmp_path: Path) -> None:
    meld = write_meld(tmp_path, train=4, dev=0, test=0)
    missing, empty, silent, _ = (clip_path(meld, "train", row) for row in make_rows(4))
    missing.unlink()
    empty.write_bytes(b"")
    write_clip(silent, layout=None)
    assert names(meld, num_clips=4) == ["train-dia1-utt0"]
    assert names(meld, num_clips=4, longest_seconds=0.1) == []


def test_a_clip_that_ends_the_process_it_is_decoded_in_is_left_out(tmp_path: Path) -> None:
    meld = write_meld(tmp_path, train=2, dev=0, test=0)
    write_crashing_clip(clip_path(meld, "train", make_rows(1)[0]))
    ways = on_the_fly_ways(meld, num_clips=2)
    assert list(ways) == ["Decord on every access", "PyAV on every access", "tutorial on every access"]
    assert [ways[name]() for name in list(ways)[:2]] == [1, 1]


def test_a_folder_in_which_no_clip_can_be_decoded_says_who_knows_why(tmp_path: Path) -> None:
    meld = write_meld(tmp_path, train=1, dev=0, test=0)
    clip_path(meld, "train", make_rows(1)[0]).write_bytes(b"")
    with pytest.raises(DatasetError, match="mmsent doctor --deep"):
        on_the_fly_ways(meld, num_clips=2)


def test_a_tutorial_whose_libraries_are_not_installed_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[bench\]'"):
        tutorial()
