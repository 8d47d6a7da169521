import io
import struct
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess.clips.mp4_header import PictureTrack, SoundTrack, probe_mp4
from preprocess.clips.pyav_clip import PyavClip, probe_seconds
from preprocess.errors import ClipError
from tests.support.clips import cut_without_encoding, small_config, small_spec, write_clip, write_crashing_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4")


def picture_of(path: Path) -> PictureTrack:
    picture = probe_mp4(path).picture
    assert picture is not None
    return picture


def sound_of(path: Path) -> SoundTrack:
    sound = probe_mp4(path).sound
    assert sound is not None
    return sound


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """Write other bytes where a clip has known ones, once."""
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    return path


def test_the_header_gives_what_was_encoded(clip: Path) -> None:
    header = probe_mp4(clip)
    picture, sound = picture_of(clip), sound_of(clip)
    assert (header.missing_bytes, header.fragmented) == (0, False)
    assert (picture.num_frames, picture.num_hidden, picture.variable_frame_rate) == (24, 0, False)
    assert (picture.width, picture.height) == (64, 48)
    assert (sound.num_channels, sound.sample_rate) == (2, 48_000)
    seconds = [header.duration_seconds, picture.duration_seconds, sound.duration_seconds]
    assert seconds == pytest.approx([1, 1, 1], abs=0.03)


@pytest.mark.parametrize(("layout", "num_channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_channels_are_counted_also_where_the_sample_entry_says_two(
    tmp_path: Path, layout: str, num_channels: int
) -> None:
    assert sound_of(write_clip(tmp_path / "clip.mp4", layout=layout)).num_channels == num_channels


def test_a_clip_without_sound_has_no_sound(tmp_path: Path) -> None:
    assert probe_mp4(write_clip(tmp_path / "clip.mp4", layout=None)).sound is None


def test_a_header_in_front_says_the_same_as_one_behind(clip: Path, tmp_path: Path) -> None:
    in_front = write_clip(tmp_path / "front.mp4", options={"movflags": "faststart"})
    assert probe_mp4(in_front) == probe_mp4(clip)


@pytest.mark.parametrize("gaps", [[1] * 12, [1] * 6 + [3] * 6, [1] * 11 + [9]])
def test_a_variable_frame_rate_is_the_one_that_preprocessing_sees(tmp_path: Path, gaps: list[int]) -> None:
    path = write_clip(tmp_path / "clip.mp4", pictures=len(gaps), gaps=gaps)
    decoded = PyavClip(path).read_picture(small_spec(small_config()).video, part=None)
    picture = picture_of(path)
    assert picture.variable_frame_rate is decoded.variable_frame_rate
    assert picture.duration_seconds == pytest.approx(decoded.duration_seconds)


def test_frames_that_an_edit_list_hides_are_counted_and_do_not_last(clip: Path, tmp_path: Path) -> None:
    path = cut_without_encoding(tmp_path / "cut.mp4", clip, hidden=10)
    picture = picture_of(path)
    assert (picture.num_frames, picture.num_hidden) == (24, 10)
    assert picture.duration_seconds == pytest.approx(probe_seconds(path))


def test_a_fragmented_clip_says_that_its_header_is_not_all(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    header = probe_mp4(path)
    assert header.fragmented
    assert header.picture is not None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_clip_that_is_cut_says_by_how_much(tmp_path: Path, share: float) -> None:
    path = write_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    content = path.read_bytes()
    media = content.index(b"mdat")
    size = media + int(share * (len(content) - media))
    path.write_bytes(content[:size])
    assert probe_mp4(path).missing_bytes == len(content) - size


def test_media_that_reach_to_the_end_are_measured_by_where_the_header_looks_for_them(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", options={"movflags": "faststart"})
    content = path.read_bytes()
    media = content.index(b"mdat") - 4
    path.write_bytes(content[:media] + bytes(4) + content[media + 4 : media + 40])
    assert probe_mp4(path).missing_bytes > 0


def test_a_header_that_is_cut_away_is_an_error_that_says_by_how_much(clip: Path) -> None:
    content = clip.read_bytes()
    clip.write_bytes(content[: content.index(b"mdat") + 1000])
    with pytest.raises(ClipError, match=r"no header \(`moov`\); the file is cut short by [\d,]+ bytes at least"):
        probe_mp4(clip)


def test_a_header_that_is_cut_within_is_an_error_that_says_by_how_much(clip: Path) -> None:
    clip.write_bytes(clip.read_bytes()[:-100])
    with pytest.raises(ClipError, match="cut short by 100 bytes, within its header"):
        probe_mp4(clip)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (bytes(4096), "no mp4"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X" + bytes(4080), "no mp4"),
        (box(b"ftyp") * 2000, "no header"),
        (box(b"ftyp") + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1), "no header"),
        (box(b"ftyp") + box(b"moov"), "has no `mvhd`"),
        (box(b"ftyp") + box(b"moov", box(b"mvhd")), "shorter than its kind needs"),
        (box(b"ftyp") + box(b"moov", box(b"mvhd", bytes(100))), "no time units"),
        (box(b"ftyp") + box(b"moov", box(b"free") * 2000), "holds more than"),
        (box(b"ftyp") + box(b"moov", struct.pack(">I4s", 99, b"mvhd")), "does not fit"),
    ],
)
def test_what_is_no_clip_is_an_error_with_a_plain_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ClipError, match=reason):
        probe_mp4(path)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="cannot be read"):
        probe_mp4(tmp_path / "nothing.mp4")


def test_two_thousand_million_frames_are_not_believed(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match=r"promises 2,147,483,\d+ frames"):
        probe_mp4(write_crashing_clip(tmp_path / "clip.mp4"))


def test_a_table_that_claims_more_than_it_holds_is_an_error(clip: Path) -> None:
    content = bytearray(clip.read_bytes())
    table = content.index(b"stts")
    content[table + 8 : table + 12] = (2**32 - 1).to_bytes(4, "big")
    clip.write_bytes(content)
    with pytest.raises(ClipError, match="`stts` claims 4,294,967,295 entries"):
        probe_mp4(clip)


def test_the_media_are_never_read(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sizes.append(-1 if size is None else size)
            return super().read(size)

    content = clip.read_bytes()
    monkeypatch.setattr(Path, "open", lambda path, mode: Watched(content))
    probe_mp4(clip)
    assert -1 not in sizes
    assert sum(sizes) < len(content) / 2


def test_what_lies_behind_the_last_box_is_looked_over(clip: Path) -> None:
    before = probe_mp4(clip)
    clip.write_bytes(clip.read_bytes() + b"\0\0\0\2rest")
    assert probe_mp4(clip) == before


def test_a_handler_of_neither_picture_nor_sound_is_looked_over(clip: Path) -> None:
    assert probe_mp4(changed(clip, b"soun", b"subt")).sound is None


@cache
def originals() -> tuple[bytes, ...]:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        whole = write_clip(root / "a.mp4", pictures=4)
        cut = cut_without_encoding(root / "b.mp4", whole, hidden=2)
        front = write_clip(root / "c.mp4", pictures=4, layout="5.1", options={"movflags": "faststart"})
        fragmented = write_clip(root / "d.mp4", pictures=4, options={"movflags": "frag_keyframe+empty_moov"})
        return tuple(path.read_bytes() for path in (whole, cut, front, fragmented))


def boxes_of(content: bytes) -> list[int]:
    """Find where the kinds of boxes stand: their sizes lie before them and their tables behind."""
    kinds = (
        b"moov", b"mvhd", b"trak", b"mdia", b"mdhd", b"hdlr", b"stsd", b"stts", b"elst", b"esds", b"stco", b"mp4a",
        b"avc1", b"minf", b"stbl",
    )  # fmt: skip
    return [place for kind in kinds for place in _places(content, kind)]


def _places(content: bytes, kind: bytes) -> Iterator[int]:
    place = content.find(kind)
    while place >= 0:
        yield place
        place = content.find(kind, place + 1)


@st.composite
def damaged_clips(draw: st.DrawFn) -> bytes:
    content = bytearray(draw(st.sampled_from(originals())))
    places = boxes_of(bytes(content))
    value = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 7, 8, 9, 2**31 - 1, 2**31, 2**32 - 1]))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.sampled_from(places)) + draw(st.integers(-8, 40))
        content[max(0, place) : place + 4] = draw(value).to_bytes(4, "big")
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


@settings(max_examples=400, deadline=None)
@given(content=st.one_of(damaged_clips(), st.binary(max_size=200).map(lambda tail: box(b"ftyp") + tail)))
def test_any_bytes_give_a_header_or_an_error_of_ours_and_soon(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        path.write_bytes(content)
        began = time.monotonic()
        try:
            header = probe_mp4(path)
        except ClipError:
            pass
        else:
            assert header.missing_bytes >= 0
            assert np.isfinite(header.duration_seconds)
            assert header.picture is None or np.isfinite(header.picture.duration_seconds)
            assert header.sound is None or np.isfinite(header.sound.duration_seconds)
        assert time.monotonic() - began < 2
