import os
import time
from pathlib import Path

import numpy as np
import pytest

from preprocess.doctor.open_clips import OpenedClip, open_clip, open_clips
from tests.support.clips import SAMPLE_RATE, cut_without_encoding, tone, write_clip, write_numbered_clip
from tests.support.matrix import edits
from tests.support.matrix.codecs import picture, sound
from tests.support.matrix.studio import Studio


def sounding(path: Path, values: np.ndarray) -> Path:
    return write_clip(path, channels=np.stack([values, values]).astype(np.float32))


def test_a_whole_clip_holds_what_its_header_promises(tmp_path: Path) -> None:
    opened = open_clip(write_clip(tmp_path / "clip.mp4"))
    assert opened == OpenedClip(promised_frames=24, num_frames=24)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_a_clip_that_is_cut_holds_fewer_frames_than_promised(tmp_path: Path, share: float) -> None:
    path = write_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    content = path.read_bytes()
    media = content.index(b"mdat")
    path.write_bytes(content[: media + int(share * (len(content) - media))])
    opened = open_clip(path)
    assert opened.promised_frames == 24
    assert opened.num_frames < 24


def test_a_clip_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"no clip" * 100)
    assert open_clip(path).picture_trouble.startswith("cannot be opened")


def test_pictures_that_are_overwritten_are_found(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", layout=None)
    content = bytearray(path.read_bytes())
    media, header = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[media + 100 : header] = os.urandom(1) * (header - media - 100)
    path.write_bytes(content)
    assert open_clip(path).picture_trouble != ""


@pytest.mark.parametrize(("amplitude", "silent"), [(0.0, True), (0.01, False)])
def test_digital_silence_is_told_from_a_whisper(tmp_path: Path, amplitude: float, silent: bool) -> None:
    opened = open_clip(sounding(tmp_path / "clip.mp4", tone(SAMPLE_RATE, amplitude=amplitude)))
    assert opened.silent is silent
    assert opened.sound_trouble == ""


def test_the_share_of_values_at_the_limit_is_measured(tmp_path: Path) -> None:
    loud = np.clip(tone(SAMPLE_RATE, amplitude=4.0), -1, 1)
    assert open_clip(sounding(tmp_path / "loud.mp4", loud)).clipped_share > 0.1
    assert open_clip(sounding(tmp_path / "fair.mp4", tone(SAMPLE_RATE))).clipped_share == 0


def test_a_clip_without_sound_is_no_trouble_here(tmp_path: Path) -> None:
    opened = open_clip(write_clip(tmp_path / "clip.mp4", layout=None))
    assert (opened.silent, opened.sound_trouble) == (False, "")


def test_frames_hidden_by_an_edit_list_are_held_all_the_same(tmp_path: Path) -> None:
    path = cut_without_encoding(tmp_path / "cut.mp4", write_clip(tmp_path / "clip.mp4"), hidden=10)
    assert open_clip(path).num_frames == 24


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_clips(tmp_path: Path, num_workers: int) -> None:
    sizes = {
        f"{number}.mp4": write_numbered_clip(tmp_path / f"{number}.mp4", number).stat().st_size for number in range(5)
    }
    opened_clips = list(open_clips(tmp_path, sizes, num_workers=num_workers, timeout_seconds=60))
    assert [opened.num_frames for opened in opened_clips] == [8, 9, 10, 11, 12]


def test_a_clip_that_hangs_the_decoder_costs_itself_alone(tmp_path: Path) -> None:
    write_numbered_clip(tmp_path / "a.mp4", 0)
    os.mkfifo(tmp_path / "b.mp4")  # opening it waits for somebody who writes to it
    write_numbered_clip(tmp_path / "c.mp4", 1)
    sizes = {"a.mp4": 1, "b.mp4": 1, "c.mp4": 1}
    began = time.monotonic()
    a, b, c = open_clips(tmp_path, sizes, num_workers=1, timeout_seconds=3)
    assert b == OpenedClip(death="the decoder hung: killed after 3 s")
    assert (a.num_frames, c.num_frames) == (8, 9)
    assert time.monotonic() - began < 60


def test_eight_channels_and_sound_that_changes_are_heard_to_the_end(tmp_path: Path) -> None:
    """Of eight planes PyAV 18.1 reads a ninth, and its resampler refuses a second kind of sound."""
    studio = Studio(tmp_path / "studio")
    edits.heard(picture("h264"), sound("aac"), studio, tmp_path / "8.mp4", num_channels=8)
    edits.changing_sound(studio, tmp_path / "changing.ts", change="both")
    for name in ("8.mp4", "changing.ts"):
        assert (open_clip(tmp_path / name).sound_trouble, open_clip(tmp_path / name).silent) == ("", False)


def test_a_cover_is_not_the_picture_of_a_clip(tmp_path: Path) -> None:
    edits.with_cover(Studio(tmp_path / "studio"), tmp_path / "a.mp4", first=True, trimmed=False)
    assert open_clip(tmp_path / "a.mp4").num_frames == 50
