"""Files that one pass of encoding does not give: cut, turned, with more streams, with gaps, damaged.

Each function writes one file; the studio gives it pictures and sound.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.support.matrix.codecs import picture, sound
from tests.support.matrix.drawing import FRAME_RATE, HEIGHT, NUM_PICTURES, WIDTH
from tests.support.matrix.studio import Studio, run_ffmpeg

Options = tuple[str, ...]


def trimmed(video: Options, audio: Options, studio: Studio, path: Path, *, seconds: float) -> None:
    """Cut the start off without encoding again: an edit list hides the pictures since the last key frame."""
    whole = _whole(studio, path, video, audio)
    run_ffmpeg("-ss", str(seconds), "-i", whole, "-map", "0", "-c", "copy", path)


def shifted(
    video: Options, audio: Options, studio: Studio, path: Path, *, sound_seconds: float = 0, picture_seconds: float = 0
) -> None:
    """Begin the sound or the picture so much later than the other."""
    whole = _whole(studio, path, video, audio)
    inputs: list[str | Path] = [
        "-itsoffset",
        str(picture_seconds),
        "-i",
        whole,
        "-itsoffset",
        str(sound_seconds),
        "-i",
        whole,
    ]
    run_ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c", "copy", path)


def turned(video: Options, audio: Options, studio: Studio, path: Path, *, options: Options, seconds: float = 0) -> None:
    """Say that the picture is to be turned, and perhaps cut its start off as well."""
    whole = _whole(studio, path, video, audio)
    start = ("-ss", str(seconds)) if seconds else ()
    run_ffmpeg(*start, *options, "-i", whole, "-map", "0", "-c", "copy", path)


def cut_in_the_middle(video: Options, audio: Options, studio: Studio, path: Path) -> None:
    """Show two stretches of the picture, 0 to 0.6 s and 1.2 to 2 s, by an edit list of two entries."""
    _encode(studio, path, video, audio)
    content = path.read_bytes()
    place = content.index(b"elst", content.rindex(b"moov"))
    size = int.from_bytes(content[place - 4 : place], "big")
    count = int.from_bytes(content[place + 8 : place + 12], "big")
    entry = content[place + 12 : place + 24]
    assert (size, count) == (28, 1), "an ordinary file has one edit"
    start, rate = int.from_bytes(entry[4:8], "big"), entry[8:]
    second = int.from_bytes(entry[:4], "big") // 2  # the only edit shows 2 s, in the units of the whole
    ticks = _media_ticks(content[content.index(b"mdhd", place) :])
    edits = b"".join(
        round(length * second).to_bytes(4, "big") + (start + round(shift * ticks)).to_bytes(4, "big") + rate
        for length, shift in ((0.6, 0), (0.8, 1.2))
    )
    box = (40).to_bytes(4, "big") + b"elst" + bytes(4) + (2).to_bytes(4, "big") + edits
    grown = content[: place - 4] + box + content[place + 24 :]
    path.write_bytes(_grown(grown, content, place, by=12))


def _media_ticks(header: bytes) -> int:
    """Return the units per second that `mdhd` gives a stream's own times."""
    return int.from_bytes(header[16:20], "big")


def _grown(new: bytes, old: bytes, place: int, *, by: int) -> bytes:
    """Make the boxes around a place larger, the header lying behind the data as ffmpeg writes it."""
    changed = bytearray(new)
    for kind in (b"edts", b"trak", b"moov"):
        start = old.rindex(kind, 0, place) - 4
        size = int.from_bytes(old[start : start + 4], "big") + by
        changed[start : start + 4] = size.to_bytes(4, "big")
    assert old.index(b"mdat") < old.index(b"moov")
    return bytes(changed)


def alike_times(video: Options, audio: Options, studio: Studio, path: Path) -> None:
    """Give every tenth picture the time of the one before it."""

    def change(packet: Any, number: int) -> bool:
        if packet.stream.type == "video" and number % 10 != 9:
            packet.pts += _ticks(packet)  # so that no picture is shown before it is decoded
        return True

    _copied(_whole(studio, path, video, audio), path, change)


def _ticks(packet: Any) -> int:
    """Return how long a picture is shown."""
    duration: int = packet.duration
    return duration or round(1 / FRAME_RATE / packet.time_base)


def without_first_packets(video: Options, audio: Options, studio: Studio, path: Path) -> None:
    """Begin between two key frames, as a recording that was switched on in the middle does."""
    skipped = 5
    _copied(
        _whole(studio, path, video, audio),
        path,
        lambda packet, number: packet.stream.type != "video" or number >= skipped,
    )


def two_sounds(studio: Studio, path: Path, *, marked: int) -> None:
    """Have a track that only hums and one that beeps; the marked one is the default."""
    heard = sound("mp2" if path.suffix == ".ts" else "aac")
    inputs = [*studio.pictures(), *studio.sound(beeps=marked != 1), *studio.sound(beeps=marked == 1)]
    maps = ["-map", "0", "-map", "1", "-map", "2"]
    other = 1 - marked
    marks = [f"-disposition:a:{marked}", "default", f"-disposition:a:{other}", "0", "-metadata:s:a:1", "language=eng"]
    run_ffmpeg(*inputs, *maps, *picture("h264"), *heard, *marks, path)


def two_pictures(studio: Studio, path: Path, *, marked: int) -> None:
    """Have a picture of one size and a mirrored one of the same; the marked one is the default."""
    inputs = [*studio.pictures(), *studio.sound()]
    graph = "[0]split[a][b];[b]hflip[c]"
    maps = ["-filter_complex", graph, "-map", "[a]", "-map", "[c]", "-map", "1"]
    other = 1 - marked
    marks = [f"-disposition:v:{marked}", "default", f"-disposition:v:{other}", "0"]
    run_ffmpeg(*inputs, *maps, *picture("h264"), *sound("aac"), *marks, path)


def with_description(studio: Studio, path: Path, *, first: bool) -> None:
    """Have a sound for people who do not see before the one for everybody; neither is marked default."""
    inputs = [*studio.pictures(), *studio.sound(beeps=not first), *studio.sound(beeps=first)]
    marks = ["-disposition:a:0", "visual_impaired", "-disposition:a:1", "default"]
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-map", "2", *picture("h264"), *sound("aac"), *marks, path)


def with_cover(studio: Studio, path: Path, *, first: bool, trimmed: bool) -> None:
    """Have a cover picture as a stream of its own, before the film or behind it."""
    whole = _whole(studio, path, picture("h264", "one-key"), sound("aac"))
    cover = studio.folder / "cover.jpg"
    if not cover.exists():
        run_ffmpeg("-f", "lavfi", "-i", "color=magenta:size=120x120", "-frames:v", "1", "-q:v", "2", cover)
    start = ["-ss", "0.6"] if trimmed else []
    if path.suffix == ".mkv":
        run_ffmpeg(
            *start, "-i", whole, "-map", "0", "-c", "copy", "-attach", cover,
            "-metadata:s:t", "mimetype=image/jpeg", path,
        )  # fmt: skip
        return
    maps = ["-map", "1", "-map", "0"] if first else ["-map", "0", "-map", "1"]
    mark = f"-disposition:v:{0 if first else 1}"
    run_ffmpeg(*start, "-i", whole, "-i", cover, *maps, "-c", "copy", mark, "attached_pic", path)


def with_subtitles(studio: Studio, path: Path) -> None:
    """Have subtitles, which are nobody's picture."""
    lines = studio.folder / "lines.srt"
    lines.write_text("1\n00:00:00,000 --> 00:00:01,000\nWhat a day!\n", "utf-8")
    inputs = [*studio.pictures(), *studio.sound(), "-i", str(lines)]
    codec = "mov_text" if path.suffix == ".mp4" else "srt"
    run_ffmpeg(
        *inputs, "-map", "2", "-map", "0", "-map", "1", *picture("h264"), *sound("aac"), "-c:s", codec, path
    )  # fmt: skip


def with_pixels(video: Options, pixels: str, studio: Studio, path: Path) -> None:
    """Encode in a pixel format."""
    studio.encode(path, "-pix_fmt", pixels, video=video)


def with_matrix(video: Options, matrix: str, span: str, studio: Studio, path: Path) -> None:
    """Encode with a colour matrix, in the limited (`tv`) or the full (`pc`) range, and say so."""
    primaries, transfer = {
        "bt709": ("bt709", "bt709"),
        "smpte170m": ("smpte170m", "smpte170m"),
        "bt2020nc": ("bt2020", "bt2020-10"),
    }[matrix]
    coefficients = "bt2020" if matrix == "bt2020nc" else matrix
    scale = f"scale=out_color_matrix={coefficients}:out_range={span}"
    marks = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}:range={span}"
    studio.encode(path, "-vf", f"{scale},format=yuv420p,{marks}", video=video)


def interlaced(codec: str, first: str, studio: Studio, path: Path) -> None:
    """Encode as fields that are shown one after the other, and both of one picture."""
    top = first == "tff"
    video: Options
    if codec == "h264":
        video = ("-c:v", "libx264", "-crf", "6", "-pix_fmt", "yuv420p", "-x264-params", f"keyint=12:{first}=1")
    else:
        video = (*picture("mpeg2"), "-flags", "+ilme+ildct")
    mark = f"setfield={first},setparams=field_mode={first}"
    studio.encode(path, "-vf", mark, "-field_order", "tt" if top else "bb", video=video, height=128)


def sized(video: Options, studio: Studio, path: Path, *, width: int, height: int) -> None:
    """Encode a picture of an odd size."""
    studio.encode(path, video=video, width=width, height=height)


def anamorphic(video: Options, studio: Studio, path: Path) -> None:
    """Encode pixels that are not square."""
    studio.encode(path, "-vf", "setsar=64/45", video=video)


def two_sizes(studio: Studio, path: Path) -> None:
    """Change the size of the picture in the middle."""
    halves = []
    for number, size in enumerate(((WIDTH, HEIGHT), (240, 180))):
        half = studio.folder / f"{path.name}-{number}.ts"
        start = number * NUM_PICTURES // 2
        end = start + NUM_PICTURES // 2
        cut = f"trim=start_frame={start}:end_frame={end},setpts=PTS-STARTPTS,scale={size[0]}:{size[1]}"
        shift = ["-output_ts_offset", str(1.2 * number), "-muxdelay", "0", "-muxpreload", "0"]
        run_ffmpeg(*studio.pictures(), "-vf", cut, *picture("h264"), *shift, half)
        halves.append(half)
    joined = path if path.suffix == ".ts" else studio.folder / f"{path.name}.ts"
    joined.write_bytes(b"".join(half.read_bytes() for half in halves))
    if joined != path:
        run_ffmpeg("-i", joined, "-c", "copy", path)


def heard(
    video: Options, audio: Options, studio: Studio, path: Path, *, num_channels: int = 1, sample_rate: int = 48_000,
    seconds: float = 0,
) -> None:  # fmt: skip
    """Encode sound of so many channels and such a rate, and perhaps cut its start off."""
    whole = studio.folder / f"whole-{path.name}" if seconds else path
    options = ("-mapping_family", "1") if "libopus" in audio and num_channels > 2 else ()
    studio.encode(whole, *options, video=video, audio=audio, num_channels=num_channels, sample_rate=sample_rate)
    if seconds:
        run_ffmpeg("-ss", str(seconds), "-i", whole, "-c", "copy", path)


def with_gap(video: Options, audio: Options, studio: Studio, path: Path) -> None:
    """Lose the sound from 0.7 to 0.95 s, and keep the times of what follows."""

    def change(packet: Any, number: int) -> bool:
        seconds = float((packet.pts - (packet.stream.start_time or 0)) * packet.time_base)
        return packet.stream.type != "audio" or not 0.7 <= seconds < 0.95

    _copied(_whole(studio, path, video, audio), path, change)


def changing_sound(studio: Studio, path: Path, *, change: str) -> None:
    """Join two recordings whose sound differs: mono and stereo, 48 and 32 kHz, or both."""
    parts = []
    for number in range(2):
        part = studio.folder / f"{path.name}-{number}.ts"
        channels = 1 + number if change != "rate" else 1
        rate = (48_000, 32_000)[number] if change != "channels" else 48_000
        inputs = [*studio.pictures(), *studio.sound(num_channels=channels, sample_rate=rate)]
        cut = ["-ss", str(number), "-t", "1"]
        shift = ["-output_ts_offset", str(1.2 * number), "-muxdelay", "0", "-muxpreload", "0"]
        run_ffmpeg(*inputs, *cut, *picture("h264"), *sound("aac"), *shift, part)
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))


def noise_in_sound(video: Options, audio: Options, studio: Studio, path: Path, *, share: float) -> None:
    """Replace some of the sound's packets by noise of the same size, but for the first ones."""
    _noisy(_whole(studio, path, video, audio), path, medium="audio", share=share)


def noise_in_picture(video: Options, audio: Options, studio: Studio, path: Path) -> None:
    """Replace some of the picture's packets by noise of the same size, but for the first ones."""
    _noisy(_whole(studio, path, video, audio), path, medium="video", share=0.06)


def _noisy(source: Path, path: Path, *, medium: str, share: float) -> None:
    """Overwrite packets where they lie in the file, or, where they lie in pieces, while copying them."""
    rng = np.random.default_rng(7)

    def change(packet: Any, number: int) -> bool:
        if packet.stream.type == medium and number > 8 and rng.random() < share:
            packet.update(rng.bytes(packet.size))
        return True

    _copied(source, path, change)


def _encode(studio: Studio, path: Path, video: Options, audio: Options) -> None:
    studio.encode(path, video=video, audio=audio)


def _whole(studio: Studio, path: Path, video: Options, audio: Options) -> Path:
    """Encode the ordinary file that another is made from."""
    whole = studio.folder / f"whole-{path.name}"
    _encode(studio, whole, video, audio)
    return whole


def _copied(source: Path, path: Path, keep: Callable[[Any, int], bool]) -> None:
    """Copy packets that a function keeps and may change; it is told the number of each in its stream."""
    with av.open(source) as reader, av.open(path, "w") as writer:
        streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
        counts = dict.fromkeys(streams, 0)
        for packet in reader.demux():
            number = counts[packet.stream.index]
            counts[packet.stream.index] += 1
            if packet.size and keep(packet, number):
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
