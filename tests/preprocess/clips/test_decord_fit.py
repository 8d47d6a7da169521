from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.clips.decord_fit import why_not_decord
from preprocess.clips.pyav_clip import PyavClip
from tests.support.clips import cut_without_encoding, write_clip
from tests.support.matrix.codecs import picture, sound
from tests.support.matrix.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


@pytest.mark.parametrize("pictures", [1, 2, 24])
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_clips_like_those_of_meld_are_for_decord(
    tmp_path: Path, pictures: int, b_frames: int, options: dict[str, str]
) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=pictures, b_frames=b_frames, options=options)
    assert why_not_decord(path) == {"video": "", "audio": ""}


def test_a_clip_of_several_key_frames_is_for_decord_if_nothing_reaches_over_them(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=24, b_frames=2, key_every=5)
    assert why_not_decord(path)["video"] == ""


@pytest.mark.parametrize(
    ("codec", "gop", "name", "why"),
    [
        ("h264", "open", "a.mp4", "frames before a key frame are needed after it"),
        ("h264", "refresh", "a.mp4", "frames before a key frame are needed after it"),
        ("hevc", "closed", "a.mp4", "Decord is for H.264, and this is hvc1"),
        ("h264", "closed", "a.mkv", "this is no mp4"),
        ("h264", "closed", "a.avi", "this is no mp4"),
    ],
)
def test_kinds_that_decord_reads_wrong_are_told_by_name(
    tmp_path: Path, studio: Studio, codec: str, gop: str, name: str, why: str
) -> None:
    studio.encode(tmp_path / name, video=picture(codec, gop))
    assert why in why_not_decord(tmp_path / name)["video"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("-movflags", "frag_keyframe+empty_moov"), "the file is in fragments"),
        (("-use_editlist", "0"), "the times of the frames are odd"),
        (("-pix_fmt", "yuv420p10le"), "no 8-bit 4:2:0"),
    ],
)
def test_odd_files_of_h264_are_told_by_name(tmp_path: Path, studio: Studio, options: tuple[str, ...], why: str) -> None:
    studio.encode(tmp_path / "a.mp4", *options, video=picture("h264"))
    assert why in why_not_decord(tmp_path / "a.mp4")["video"]


@pytest.mark.parametrize(
    ("codec", "channels", "fits"), [("aac", 2, True), ("aac", 6, True), ("aac", 3, False), ("ac3", 2, False)]
)
def test_sound_is_for_decord_where_its_channels_are_known(
    tmp_path: Path, studio: Studio, codec: str, channels: int, fits: bool
) -> None:
    path = tmp_path / "a.mp4"
    studio.encode(path, video=picture("h264"), audio=sound(codec), num_channels=channels)
    assert (why_not_decord(path)["audio"] == "") == fits


def test_frames_hidden_at_the_start_are_not_for_decord(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", pictures=24, layout=None)
    cut = cut_without_encoding(tmp_path / "cut.mp4", whole, hidden=8)
    assert "hides frames" in why_not_decord(cut)["video"]


def test_frames_hidden_behind_the_end_are_not_for_decord_either(tmp_path: Path) -> None:
    """Decord hands over other pictures in their place on every run."""
    path = write_clip(tmp_path / "a.mp4", pictures=24, options={"use_editlist": "1"})
    content = bytearray(path.read_bytes())
    start = content.index(b"elst") + 12  # past its name, version, flags and count
    milliseconds = int.from_bytes(content[start : start + 4], "big")
    content[start : start + 4] = (milliseconds // 2).to_bytes(4, "big")
    path.write_bytes(content)
    assert "hides frames" in why_not_decord(path)["video"]
    assert PyavClip(path).timeline().duration_seconds == pytest.approx(0.5, abs=0.05)


def test_a_sound_of_more_than_a_minute_is_not_for_decord(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=2, gaps=[900, 900])
    assert why_not_decord(path) == {"video": "", "audio": "Decord would hold all of this long sound in memory"}


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"hello" * 100, lambda content: b""]
)
def test_what_has_no_whole_header_is_not_for_decord(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_clip(tmp_path / "a.mp4")
    path.write_bytes(damage(path.read_bytes()))
    assert all(why_not_decord(path).values())


def test_a_clip_without_sound_has_its_picture_read_by_decord(tmp_path: Path) -> None:
    assert why_not_decord(write_clip(tmp_path / "a.mp4", layout=None))["video"] == ""
