"""Which clips Decord reads right: known from their headers, without a decoder.

Decord is fast and, for most kinds of files, wrong: it finds a frame by skipping, which goes wrong in open groups of
pictures, in fragments and in streams without times (`docs/preprocessing.md` has the counts). So it is asked for the
one kind it was seen to read right in every file of the matrix, and PyAV for all others.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal

from preprocess.clips.h264_header import parse_avcc
from preprocess.clips.mp4_header import Mp4Header, PictureTrack, SoundTrack, probe_mp4
from preprocess.errors import ClipError

__all__ = ["why_not_decord"]

_LONGEST_SOUND_SECONDS = 60.0
"""Decord holds all of a sound in memory, 5 minutes of 5.1 take 350 MB; PyAV reads a longer one piece by piece."""
_MOST_KEYS = 10_000
"""More would take long to look at: they are those of an hour, one every third of a second."""
_CHANNELS = (1, 2, 6)
"""Counts that say which channels they are."""
_LATE_SECONDS = 0.001


def why_not_decord(path: Path) -> Mapping[Literal["video", "audio"], str]:
    """Return by `video` and `audio` why Decord is not to read it; empty where it is."""
    try:
        header = probe_mp4(path)
    except ClipError as exc:
        why = f"{exc}, and Decord is for whole mp4 files"
        return {"video": why, "audio": why}
    whole = _why_not_file(header)
    return {
        "video": whole or _why_not_picture(path, header),
        "audio": whole or _why_not_sound(header),
    }


def _why_not_file(header: Mp4Header) -> str:
    if header.fragmented:
        return "the file is in fragments, in which Decord finds other frames"
    if header.missing_bytes:
        return "the file is cut short"
    if header.picture is not None and header.picture.num_hidden:
        return "the file hides frames, of which Decord knows nothing"
    return ""


def _why_not_picture(path: Path, header: Mp4Header) -> str:
    picture = header.picture
    if picture is None or not len(picture.starts):
        return "there is no picture that Decord could read"
    if header.num_pictures > 1 or header.has_cover:
        return "the file has several pictures"
    if not picture.codec.startswith("avc"):
        return f"Decord is for H.264, and this is {picture.codec.strip()}"
    if not picture.upright:
        return "the picture is to be turned"
    if not picture.plain_times or picture.starts[0] != 0:
        return "the times of the frames are odd"
    try:
        return _why_not_h264(path, picture)
    except (ClipError, OSError) as exc:
        return f"the header is odd: {exc}"


def _why_not_h264(path: Path, picture: PictureTrack) -> str:
    stream = parse_avcc(picture.config)
    if not stream.progressive:
        return "the picture is interlaced"
    if not stream.eight_bit_420 or stream.transfer in (16, 18):
        return "the picture is no 8-bit 4:2:0 of ordinary brightness"
    if stream.reorders and not picture.reordered and len(picture.starts) > 2:
        return "the file does not say in which order its frames are shown"
    if not 0 < len(picture.key_places) <= _MOST_KEYS:
        return "the file does not say from which frames on it can be read"
    with path.open("rb") as file:
        if not all(_is_idr(file, int(place), stream.length_bytes) for place in picture.key_places):
            return "frames before a key frame are needed after it, over which Decord leaps"
    return ""


def _is_idr(file: BinaryIO, place: int, length_bytes: int) -> bool:
    """Say whether the first unit with a picture in it is one that starts anew, and not just one without references."""
    for _ in range(16):  # delimiters, parameters and messages come before it
        file.seek(place)
        head = file.read(length_bytes + 1)
        if len(head) <= length_bytes:
            return False
        kind = head[-1] & 31
        if 1 <= kind <= 5:
            return kind == 5
        place += length_bytes + int.from_bytes(head[:-1], "big")
    return False


def _why_not_sound(header: Mp4Header) -> str:
    sound: SoundTrack | None = header.sound
    if sound is None:
        return ""  # which Decord says in its own words
    if header.num_sounds > 1:
        return "the file has several sounds"
    if sound.codec != "mp4a" or sound.num_channels not in _CHANNELS:
        return f"Decord is for AAC of 1, 2 or 6 channels, and this is {sound.codec.strip()} of {sound.num_channels}"
    if sound.duration_seconds > _LONGEST_SOUND_SECONDS:
        return "Decord would hold all of this long sound in memory"
    if sound.start_seconds - header.start_seconds > _LATE_SECONDS:
        return "the sound begins later than the picture"
    if not sound.plain_times:
        return "the sound has gaps"
    return ""
