"""The matrix: every file that both decoders are held against ffmpeg with, by the axis it stands for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from tests.support.matrix import edits, hdr
from tests.support.matrix.codecs import PICTURES, picture, sound
from tests.support.matrix.studio import Studio

__all__ = ["Axis", "Case", "all_cases"]

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


def all_cases() -> list[Case]:
    """Return the whole matrix, no two alike in name."""
    return [*_containers(), *_times(), *_orientations(), *_streams(), *_pixels(), *_sounds(), *_damages(), *_parts()]


_IN: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "mp4": ("aac", (), ("h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2", "mjpeg")),
    "fragmented.mp4": ("aac", ("-movflags", "frag_keyframe+empty_moov+default_base_moof"), ("h264", "hevc", "av1", "vp9")),
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
_QUICK = {
    "h264-closed.mp4", "h264-open.mp4", "h264-refresh.mp4", "hevc-open.mp4", "av1-svt.mp4", "h264-closed.fragmented.mp4",
    "hevc-layers.mkv", "vp8-hidden.webm", "h264-closed.avi", "mpeg4-packed.avi", "wmv2-no-b.wmv", "h264-pyramid.ts",
    "mpeg2-open.mpg", "flv1-no-b.flv",
}  # fmt: skip


def _containers() -> Iterator[Case]:
    for container, (heard, options, codecs) in _IN.items():
        for codec in codecs:
            for way in PICTURES[codec]:
                name = f"{codec}-{way}.{container}"
                write = partial(_encode, picture(codec, way), sound(heard) if heard else (), options=options)
                yield Case(name=name, axis="container", write=write, quick=name in _QUICK)


def _encode(
    video: tuple[str, ...],
    audio: tuple[str, ...],
    studio: Studio,
    path: Path,
    *,
    options: tuple[str, ...] = (),
) -> None:
    studio.encode(path, *options, video=video, audio=audio)


_VARIABLE = ("-vf", "setpts=if(lt(N\\,25)\\,N\\,25+3*(N-25))/25/TB", "-fps_mode", "vfr")


def _times() -> Iterator[Case]:
    codecs = {
        "h264": ("mp4", "mkv", "ts", "mov"),
        "hevc": ("mp4", "mkv"),
        "vp9": ("webm",),
        "mpeg4": ("mkv", "mp4"),
    }
    ways: dict[str, Callable[..., None]] = {
        "variable": partial(_encode, options=_VARIABLE),
        "film": partial(_encode, options=("-r", "24000/1001")),
        "ntsc": partial(_encode, options=("-r", "30000/1001")),
        "late-picture": partial(edits.shifted, picture_seconds=0.5),
        "late-sound": partial(edits.shifted, sound_seconds=0.5),
        "offset": partial(_encode, options=("-output_ts_offset", "3.7")),
    }
    for codec, containers in codecs.items():
        for container in containers:
            heard = sound("opus" if container == "webm" else "mp2" if container == "ts" else "aac")
            for way, make in ways.items():
                write = partial(make, picture(codec), heard)
                quick = (codec, container) == ("h264", "mp4") or (way, container) == ("offset", "ts")
                yield Case(name=f"{codec}-{way}.{container}", axis="times", write=write, quick=quick)
    trimmed = {"h264": ("closed", "one-key", "open", "refresh"), "hevc": ("closed", "open"), "mpeg4": ("no-b", "b")}
    for codec, gops in trimmed.items():
        for gop in gops:
            for container in ("mp4", "mov"):
                write = partial(edits.trimmed, picture(codec, gop), sound("aac"), seconds=0.6)
                quick = gop == "one-key" and container == "mp4"
                yield Case(name=f"{codec}-{gop}-trimmed.{container}", axis="times", write=write, quick=quick)
    for codec in ("h264", "hevc", "mpeg4"):
        write = partial(edits.cut_in_the_middle, picture(codec), sound("aac"))
        yield Case(name=f"{codec}-two-edits.mp4", axis="times", write=write)
    negative = ("-movflags", "negative_cts_offsets")
    yield Case(
        name="h264-negative.mp4", axis="times", write=partial(_encode, picture("h264"), sound("aac"), options=negative)
    )
    no_list = ("-use_editlist", "0")
    yield Case(
        name="h264-no-list.mp4", axis="times", write=partial(_encode, picture("h264"), sound("aac"), options=no_list)
    )
    for codec, container in (("h264", "h264"), ("hevc", "hevc"), ("mpeg4", "m4v"), ("mpeg2", "m2v")):
        write = partial(_encode, picture(codec), ())
        yield Case(name=f"{codec}-no-times.{container}", axis="times", write=write, sound="", quick=codec == "h264")
    for codec, container in (("h264", "mkv"), ("h264", "mp4"), ("mpeg4", "mkv"), ("vp9", "mkv")):
        write = partial(edits.alike_times, picture(codec, "plain" if codec == "vp9" else "no-b"), sound("aac"))
        yield Case(
            name=f"{codec}-alike.{container}", axis="times", write=write, quick=container == "mkv" and codec == "h264"
        )
    for codec, gop, container in (
        ("h264", "closed", "ts"), ("h264", "open", "ts"), ("hevc", "open", "ts"), ("mpeg2", "open", "ts"),
        ("h264", "closed", "mkv"), ("hevc", "open", "mkv"),
    ):  # fmt: skip
        write = partial(edits.without_first_packets, picture(codec, gop), sound("aac"))
        yield Case(name=f"{codec}-{gop}-cut-in.{container}", axis="times", write=write)


def _orientations() -> Iterator[Case]:
    ways = {
        "90": ("-display_rotation", "90"),
        "180": ("-display_rotation", "180"),
        "270": ("-display_rotation", "270"),
        "mirrored": ("-display_hflip",),
        "upside-down": ("-display_vflip",),
        "90-mirrored": ("-display_rotation", "90", "-display_hflip"),
        "270-mirrored": ("-display_rotation", "270", "-display_hflip"),
    }
    for codec, container in (("h264", "mp4"), ("h264", "mov"), ("hevc", "mp4"), ("h264", "mkv"), ("av1", "mp4")):
        for name, options in ways.items():
            quick = (codec, container) == ("h264", "mp4") and name in ("90", "180", "90-mirrored")
            write = partial(edits.turned, picture(codec), sound("aac"), options=options)
            yield Case(name=f"{codec}-{name}.{container}", axis="orientation", write=write, quick=quick)
            if (codec, container) in (("h264", "mp4"), ("hevc", "mp4")):
                write = partial(edits.turned, picture(codec, "one-key"), sound("aac"), options=options, seconds=0.6)
                yield Case(
                    name=f"{codec}-{name}-trimmed.{container}",
                    axis="orientation",
                    write=write,
                    quick=name == "90" and codec == "h264",
                )


def _streams() -> Iterator[Case]:
    for container in ("mp4", "mkv", "mov"):
        for marked in (0, 1):
            write = partial(edits.two_sounds, marked=marked)
            name = f"two-sounds-{marked}.{container}"
            yield Case(
                name=name, axis="streams", write=write, sound=f"0:a:{marked}", notes=("other_streams",),
                quick=marked == 1 and container == "mp4",
            )  # fmt: skip
            write = partial(edits.two_pictures, marked=marked)
            name = f"two-pictures-{marked}.{container}"
            yield Case(
                name=name, axis="streams", write=write, picture=f"0:v:{marked}", notes=("other_streams",),
                quick=marked == 1 and container == "mp4",
            )  # fmt: skip
        write = partial(edits.with_description, first=True)
        yield Case(
            name=f"described.{container}", axis="streams", write=write, sound="0:a:1", notes=("other_streams",)
        )  # fmt: skip
    for container in ("mp4", "mkv"):
        for first in (True, False):
            for trimmed in (True, False):
                name = f"cover-{'first' if first else 'last'}{'-trimmed' if trimmed else ''}.{container}"
                write = partial(edits.with_cover, first=first, trimmed=trimmed)
                quick = first and trimmed and container == "mp4"
                yield Case(name=name, axis="streams", write=write, quick=quick)
    yield Case(name="subtitles.mkv", axis="streams", write=edits.with_subtitles)
    yield Case(name="subtitles.mp4", axis="streams", write=edits.with_subtitles)
    yield Case(
        name="two-programs.ts", axis="streams", write=partial(edits.two_sounds, marked=0), notes=("other_streams",)
    )


def _pixels() -> Iterator[Case]:
    for codec, formats in {
        "h264": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray"),
        "hevc": ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le", "gbrp", "gray"),
        "vp9": ("yuv422p", "yuv444p", "yuv420p10le", "yuv444p12le", "gbrp"),
        "av1": ("yuv420p10le",),
        "ffv1": ("yuv410p", "yuv411p", "yuv420p16le", "rgb24", "gbrp16le", "gray16le", "bgra"),
    }.items():
        for pixels in formats:
            write = partial(edits.with_pixels, picture(codec), pixels)
            container = "mkv" if codec in ("ffv1", "vp9") else "mp4"
            yield Case(
                name=f"{codec}-{pixels}.{container}", axis="pixels", write=write, sound="",
                quick=(codec, pixels) in (("h264", "yuv420p10le"), ("hevc", "yuv444p12le")),
            )  # fmt: skip
    for codec, container in (("h264", "mp4"), ("hevc", "mp4"), ("h264", "mkv")):
        for matrix in ("bt709", "smpte170m", "bt2020nc"):
            for span in ("tv", "pc"):
                write = partial(edits.with_matrix, picture(codec), matrix, span)
                yield Case(
                    name=f"{codec}-{matrix}-{span}.{container}", axis="pixels", write=write, sound="",
                    quick=(codec, container, span) == ("h264", "mp4", "pc"),
                )  # fmt: skip
    for codec in ("hevc", "av1", "vp9"):
        for curve in ("pq", "hlg"):
            write = partial(hdr.write_hdr, curve=curve, codec=codec)
            yield Case(
                name=f"{codec}-{curve}.{'mkv' if codec == 'vp9' else 'mp4'}", axis="pixels", write=write, sound="",
                drawn_levels=True, notes=("hdr",), quick=codec == "hevc",
            )  # fmt: skip
    for codec, container in (
        ("h264", "mp4"),
        ("h264", "mkv"),
        ("h264", "ts"),
        ("mpeg2", "ts"),
        ("mpeg2", "mkv"),
        ("mpeg2", "mpg"),
    ):
        for first in ("tff", "bff"):
            write = partial(edits.interlaced, codec, first)
            yield Case(
                name=f"{codec}-{first}.{container}", axis="pixels", write=write, sound="", notes=("interlaced",),
                quick=(container, first) == ("mp4", "tff"),
            )  # fmt: skip
    for codec, container in (("h264", "mp4"), ("hevc", "mp4"), ("vp9", "webm"), ("mpeg4", "avi"), ("av1", "mp4")):
        for width, height in ((162, 122), (130, 98), (96, 170), (350, 18)):
            write = partial(edits.sized, picture(codec), width=width, height=height)
            yield Case(name=f"{codec}-{width}x{height}.{container}", axis="pixels", write=write, sound="")
        write = partial(edits.anamorphic, picture(codec))
        yield Case(name=f"{codec}-anamorphic.{container}", axis="pixels", write=write, sound="", quick=codec == "h264")
    for name, codec, pixels in (
        ("vp9-alpha.webm", "vp9", "yuva420p"), ("png-alpha.mov", "png", "rgba"),
        ("prores-alpha.mov", "prores4444", "yuva444p10le"), ("vp8-alpha.webm", "vp8", "yuva420p"),
    ):  # fmt: skip
        video = (*picture(codec), "-auto-alt-ref", "0") if codec.startswith("vp") else picture(codec)
        yield Case(name=name, axis="pixels", write=partial(edits.with_pixels, video, pixels), sound="")
    for container in ("mp4", "ts", "mkv"):
        write = edits.two_sizes
        yield Case(name=f"h264-two-sizes.{container}", axis="pixels", write=write, sound="")


def _sounds() -> Iterator[Case]:
    video = picture("h264")
    per_codec = {
        "aac": ("mp4", range(1, 9)),
        "s16": ("mkv", range(1, 9)),
        "flac": ("mkv", range(1, 9)),
        "opus": ("mkv", (1, 2, 5, 6, 8)),
        "alac": ("mov", (1, 2, 6, 8)),
        "vorbis": ("mkv", (1, 2, 6, 8)),
        "ac3": ("mp4", (1, 2, 3, 5, 6)),
        "eac3": ("mkv", (2, 6)),
        "mp3": ("mp4", (1, 2)),
        "wma": ("mkv", (1, 2)),
    }
    for codec, (container, counts) in per_codec.items():
        for channels in counts:
            write = partial(edits.heard, video, sound(codec), num_channels=channels)
            yield Case(
                name=f"{codec}-{channels}ch.{container}", axis="sound", write=write,
                quick=codec == "aac" and channels in (2, 6, 8),
            )  # fmt: skip
    for channels in (1, 2, 6, 7, 8):
        for codec, container in (("aac", "mp4"), ("s16", "mov"), ("alac", "mov")):
            if codec == "alac" and channels == 7:
                continue
            write = partial(edits.heard, video, sound(codec), num_channels=channels, seconds=0.6)
            yield Case(
                name=f"{codec}-{channels}ch-trimmed.{container}", axis="sound", write=write,
                quick=(codec, channels) == ("aac", 8),
            )  # fmt: skip
    for codec in ("u8", "s16", "s24", "s32", "f32", "f64"):
        for container in ("mov", "mkv", "avi"):
            write = partial(edits.heard, video, sound(codec), num_channels=2)
            yield Case(name=f"{codec}-format.{container}", axis="sound", write=write)
    for rate in (8_000, 11_025, 22_050, 32_000, 44_100, 96_000):
        for codec, container in (("aac", "mp4"), ("s16", "mkv"), ("flac", "mkv")):
            write = partial(edits.heard, video, sound(codec), sample_rate=rate)
            yield Case(name=f"{codec}-{rate}.{container}", axis="sound", write=write)
    for late in (0.3, 0.78):
        for codec, container in (
            ("aac", "mp4"),
            ("aac", "mkv"),
            ("mp2", "ts"),
            ("s16", "mov"),
            ("mp3", "mp4"),
            ("opus", "webm"),
        ):
            shown = picture("vp8") if container == "webm" else video
            write = partial(edits.shifted, shown, sound(codec), sound_seconds=late)
            yield Case(name=f"{codec}-late-{late}.{container}", axis="sound", write=write)
    for codec, container in (("aac", "mp4"), ("aac", "mkv"), ("s16", "mov"), ("mp2", "ts")):
        write = partial(edits.shifted, video, sound(codec), picture_seconds=0.4)
        yield Case(name=f"{codec}-early.{container}", axis="sound", write=write)
        write = partial(edits.with_gap, video, sound(codec))
        if codec != "s16":  # whose values have no times
            yield Case(
                name=f"{codec}-gap.{container}", axis="sound", write=write, notes=("sound_gap",),
                quick=container == "mkv",
            )  # fmt: skip
    for change in ("channels", "rate", "both"):
        write = partial(edits.changing_sound, change=change)
        yield Case(
            name=f"changing-{change}.ts", axis="sound", write=write, notes=("sound_changes",), quick=change == "both"
        )  # fmt: skip
    yield Case(name="no-sound.mp4", axis="sound", write=partial(_encode, video, ()), sound="")
    for codec, container in (
        ("aac", "m4a"),
        ("mp3", "mp3"),
        ("s16", "wav"),
        ("flac", "flac"),
        ("opus", "ogg"),
        ("s24", "aiff"),
    ):
        heard = ("-c:a", "pcm_s24be") if container == "aiff" else sound(codec)
        yield Case(name=f"alone.{container}", axis="sound", write=partial(_encode, (), heard), picture="")


def _damages() -> Iterator[Case]:
    for codec, container in (
        ("aac", "mp4"),
        ("aac", "mkv"),
        ("aac", "ts"),
        ("mp3", "mkv"),
        ("opus", "mkv"),
        ("flac", "mkv"),
        ("ac3", "mkv"),
    ):
        for share in (0.05, 0.3):
            write = partial(edits.noise_in_sound, picture("h264"), sound(codec), share=share)
            quick = (codec, share) == ("aac", 0.05) and container != "ts"
            yield Case(
                name=f"{codec}-noise-{share}.{container}", axis="damage", write=write, quick=quick,
                notes=() if codec == "opus" else ("damaged",),  # which decodes whatever it is given
            )  # fmt: skip
    for codec, container in (
        ("h264", "mp4"),
        ("h264", "mkv"),
        ("hevc", "mp4"),
        ("vp9", "mkv"),
        ("mpeg4", "mkv"),
        ("mjpeg", "mov"),
    ):
        write = partial(edits.noise_in_picture, picture(codec), sound("aac"))
        yield Case(
            name=f"{codec}-noise.{container}", axis="damage", write=write, notes=("damaged",), quick=container == "mp4",
        )  # fmt: skip


def _parts() -> Iterator[Case]:
    spans = {"edge": (0.9, 1.4), "start": (0.0, 0.52), "late": (1.3, 1.7)}
    for codec, gop, container in (
        ("h264", "closed", "mp4"), ("h264", "open", "mp4"), ("h264", "refresh", "mp4"), ("h264", "one-key", "mkv"),
        ("hevc", "open", "mp4"), ("hevc", "layers", "mkv"), ("vp9", "hidden", "webm"), ("h264", "closed", "ts"),
        ("h264", "closed", "avi"), ("mpeg4", "packed", "avi"), ("wmv2", "no-b", "wmv"), ("mpeg2", "open", "mpg"),
        ("h264", "closed", "flv"), ("h264", "closed", "fragmented.mp4"),
    ):  # fmt: skip
        heard, options, _ = _IN[container]
        for part, span in spans.items():
            write = partial(_encode, picture(codec, gop), sound(heard), options=options)
            yield Case(
                name=f"part-{part}-{codec}-{gop}.{container}", axis="parts", write=write, span=span,
                quick=part == "edge" and (container, gop) in (("mp4", "closed"), ("mkv", "layers"), ("avi", "packed")),
            )  # fmt: skip
    for way, make in (
        ("late-sound", partial(edits.shifted, sound_seconds=0.778)),
        ("late-picture", partial(edits.shifted, picture_seconds=0.4)),
        ("offset", partial(_encode, options=("-output_ts_offset", "2.5"))),
    ):
        for container in ("mp4", "mkv", "ts"):
            for span in ((1.5, 1.9), (0.6, 1.3)):
                write = partial(make, picture("h264"), sound("mp2" if container == "ts" else "aac"))
                yield Case(
                    name=f"part-{way}-{span[0]}.{container}", axis="parts", write=write, span=span,
                    quick=container == "mp4" and span[0] == 1.5 and way != "offset",
                )  # fmt: skip
    write = partial(edits.with_gap, picture("h264"), sound("aac"))
    yield Case(name="part-gap.mkv", axis="parts", write=write, span=(1.3, 1.9))
    write = partial(edits.trimmed, picture("h264", "one-key"), sound("aac"), seconds=0.6)
    yield Case(name="part-trimmed.mp4", axis="parts", write=write, span=(0.3, 0.9))
    write = partial(edits.noise_in_sound, picture("h264"), sound("aac"), share=0.05)
    yield Case(name="part-noise.mkv", axis="parts", write=write, span=(0.9, 1.5))
