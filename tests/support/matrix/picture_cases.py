"""Files that differ in their picture: containers and codecs, times, orientation, streams, pixels."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

from preprocess.clips.tone_map import Curve
from tests.support.matrix import edits, hdr
from tests.support.matrix.case import CONTAINERS, Case, encode
from tests.support.matrix.codecs import PICTURES, picture, sound

__all__ = ["picture_cases"]


def picture_cases() -> list[Case]:
    """Return all of them."""
    return [*_containers(), *_times(), *_orientations(), *_streams(), *_pixels()]


_QUICK = {
    "h264-closed.mp4", "h264-open.mp4", "h264-refresh.mp4", "hevc-open.mp4", "av1-svt.mp4",
    "h264-closed.fragmented.mp4", "hevc-layers.mkv", "vp8-hidden.webm", "h264-closed.avi", "mpeg4-packed.avi",
    "wmv2-no-b.wmv", "h264-pyramid.ts", "mpeg2-open.mpg", "flv1-no-b.flv",
}  # fmt: skip


def _containers() -> Iterator[Case]:
    for container, (heard, options, codecs) in CONTAINERS.items():
        for codec in codecs:
            for way in PICTURES[codec]:
                name = f"{codec}-{way}.{container}"
                write = partial(encode, picture(codec, way), sound(heard) if heard else (), options=options)
                yield Case(name=name, axis="container", write=write, quick=name in _QUICK)


_VARIABLE = ("-vf", "setpts=if(lt(N\\,25)\\,N\\,25+3*(N-25))/25/TB", "-fps_mode", "vfr")


def _times() -> Iterator[Case]:
    codecs = {
        "h264": ("mp4", "mkv", "ts", "mov"),
        "hevc": ("mp4", "mkv"),
        "vp9": ("webm",),
        "mpeg4": ("mkv", "mp4"),
    }
    ways: dict[str, Callable[..., None]] = {
        "variable": partial(encode, options=_VARIABLE),
        "film": partial(encode, options=("-r", "24000/1001")),
        "ntsc": partial(encode, options=("-r", "30000/1001")),
        "late-picture": partial(edits.shifted, picture_seconds=0.5),
        "late-sound": partial(edits.shifted, sound_seconds=0.5),
        "offset": partial(encode, options=("-output_ts_offset", "3.7")),
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
        name="h264-negative.mp4", axis="times", write=partial(encode, picture("h264"), sound("aac"), options=negative)
    )
    no_list = ("-use_editlist", "0")
    yield Case(
        name="h264-no-list.mp4", axis="times", write=partial(encode, picture("h264"), sound("aac"), options=no_list)
    )
    for codec, container in (("h264", "h264"), ("hevc", "hevc"), ("mpeg4", "m4v"), ("mpeg2", "m2v")):
        write = partial(encode, picture(codec), ())
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
    for codec, container in (("hevc", "mp4"), ("av1", "mp4"), ("vp9", "mkv")):
        for curve in get_args(Curve):
            write = partial(hdr.write_hdr, curve=curve, codec=codec)
            yield Case(
                name=f"{codec}-{curve.lower()}.{container}", axis="pixels", write=write, sound="",
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
        yield Case(name=f"h264-two-sizes.{container}", axis="pixels", write=edits.two_sizes, sound="")
