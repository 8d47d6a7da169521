"""Files that differ in their sound, files with damage, and parts of files."""

from collections.abc import Iterator
from functools import partial

from tests.support.matrix import edits
from tests.support.matrix.case import CONTAINERS, Case, encode
from tests.support.matrix.codecs import picture, sound

__all__ = ["sound_cases"]


def sound_cases() -> list[Case]:
    """Return all of them."""
    return [*_sounds(), *_damages(), *_parts()]


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
    yield Case(name="no-sound.mp4", axis="sound", write=partial(encode, video, ()), sound="")
    for codec, container in (
        ("aac", "m4a"),
        ("mp3", "mp3"),
        ("s16", "wav"),
        ("flac", "flac"),
        ("opus", "ogg"),
        ("s24", "aiff"),
    ):
        heard = ("-c:a", "pcm_s24be") if container == "aiff" else sound(codec)
        yield Case(name=f"alone.{container}", axis="sound", write=partial(encode, (), heard), picture="")


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
        heard, options, _ = CONTAINERS[container]
        for part, span in spans.items():
            write = partial(encode, picture(codec, gop), sound(heard), options=options)
            yield Case(
                name=f"part-{part}-{codec}-{gop}.{container}", axis="parts", write=write, span=span,
                quick=part == "edge" and (container, gop) in (("mp4", "closed"), ("mkv", "layers"), ("avi", "packed")),
            )  # fmt: skip
    for way, make in (
        ("late-sound", partial(edits.shifted, sound_seconds=0.778)),
        ("late-picture", partial(edits.shifted, picture_seconds=0.4)),
        ("offset", partial(encode, options=("-output_ts_offset", "2.5"))),
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
