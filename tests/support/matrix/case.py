"""One file of the matrix, and what the containers of the matrix hold."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.matrix.studio import Studio

__all__ = ["CONTAINERS", "Axis", "Case", "encode"]

Axis = Literal["container", "times", "orientation", "streams", "pixels", "sound", "damage", "parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One file and what is particular about it."""

    name: str
    """The file's name; its ending says the container to ffmpeg."""
    axis: Axis
    write: Callable[[Studio, Path], None]
    picture: str = "0:V:0"
    """Which stream players show, as ffmpeg's `-map` takes it; empty for a file without."""
    sound: str = "0:a:0"
    span: tuple[float, float] | None = None
    """The part of the file to read, in seconds of its clock."""
    notes: tuple[str, ...] = ()
    """Notes that the sample must have."""
    quick: bool = False
    """Whether it stands for its kind in the tests of every day."""
    drawn_levels: bool = False
    """Whether the right colours are those that were drawn: ffmpeg's own are not what they should be."""


CONTAINERS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "mp4": ("aac", (), ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2", "mjpeg")),
    "fragmented.mp4": ("aac", ("-movflags", "frag_keyframe+empty_moov"), ("h264", "hevc", "av1", "vp9")),
    "mov": ("s16", (), ("h264", "hevc", "prores", "mjpeg", "mpeg4", "png")),
    "mkv": ("opus", (), ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2", "mjpeg", "ffv1", "theora", "msmpeg4")),
    "webm": ("vorbis", (), ("vp8", "vp9", "av1")),
    "avi": ("mp3", (), ("h264", "mpeg4", "mjpeg", "msmpeg4", "mpeg2", "ffv1")),
    "wmv": ("wma", (), ("wmv1", "wmv2", "msmpeg4", "h264")),
    "flv": ("aac", (), ("h264", "flv1")),
    "ts": ("mp2", (), ("h264", "hevc", "mpeg2", "mpeg4")),
    "mpg": ("mp2", (), ("mpeg1", "mpeg2")),
    "3gp": ("aac", (), ("h264", "h263", "mpeg4")),
    "ogv": ("vorbis", (), ("theora",)),
    "gif": ("", (), ("gif",)),
    "nut": ("flac", (), ("h264", "mpeg4")),
}  # fmt: skip
"""Codec of the sound, options and codecs of the picture by container."""


def encode(
    video: tuple[str, ...],
    audio: tuple[str, ...],
    studio: Studio,
    path: Path,
    *,
    options: tuple[str, ...] = (),
) -> None:
    """Encode the pictures, the sound, or both, in one go."""
    studio.encode(path, *options, video=video, audio=audio)
