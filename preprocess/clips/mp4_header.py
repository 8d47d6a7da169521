"""What the boxes of an mp4 say of a clip, without a decoder and without reading its pictures or its sound.

A strict reader of ISO/IEC 14496-12: a thousand clips take about a second. It takes any bytes: what is read is bounded,
no count of the file is believed beyond the bytes that are there, and whatever is wrong becomes a `ClipError`.

Shape letters: F frames, E edits.
"""

import struct
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.aac import parse_esds
from preprocess.clips.mp4_boxes import MAX_BOXES, box_version, boxes, child_box, find_box, printable, run_lengths
from preprocess.clips.mp4_samples import has_equal_steps, key_places
from preprocess.errors import ClipError

__all__ = ["Mp4Header", "PictureTrack", "SoundTrack", "probe_mp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureTrack:
    """What the header promises of the picture."""

    num_frames: int
    """Of the file, hidden ones among them."""
    num_hidden: int
    """Frames that an edit list hides, before the start or behind the end, as in a cut made without encoding again."""
    duration_seconds: float
    """From the first frame shown to the end of the last."""
    variable_frame_rate: bool
    """By the rule of `preprocess.clips.clip.Timeline.variable`."""
    width: int
    height: int
    codec: str = ""
    """The four letters of how it is coded, `avc1` for H.264."""
    config: bytes = field(default=b"", repr=False)
    """What its decoder must know beforehand, of H.264 alone."""
    upright: bool = True
    """Whether it is shown as it is stored, neither turned nor mirrored."""
    plain_times: bool = True
    """Whether all pictures are coded alike, no two have one time, and no edit list skips or repeats any within."""
    starts: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), compare=False, repr=False)
    """`(F,)` seconds when each frame that is not hidden appears, ascending, edit lists applied."""
    reordered: bool = False
    """Whether the file says of any frame that it is shown at another place than it is stored at."""
    key_places: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64), compare=False, repr=False)
    """Where in the file the frames lie that are said to need no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundTrack:
    """What the header promises of the sound."""

    num_channels: int
    sample_rate: int
    """In Hz; 0 where the header does not say."""
    duration_seconds: float
    codec: str = ""
    """The four letters of how it is coded, `mp4a` for AAC."""
    start_seconds: float = 0.0
    """When it begins, edit lists applied."""
    plain_times: bool = True
    """Whether all its packets but the last are equally long, and no edit list hides more than what begins every AAC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mp4Header:
    """What the boxes of a clip say."""

    missing_bytes: int
    """By how much the file is shorter than its boxes say; 0 for a whole one."""
    duration_seconds: float
    """Of the whole, by `mvhd`."""
    fragmented: bool
    """Whether the frames are listed behind the header, which is then silent about their number and times."""
    picture: PictureTrack | None
    sound: SoundTrack | None
    num_pictures: int = 1
    """Tracks of pictures, of which `picture` is the first; one that is a cover is none, see `has_cover`."""
    num_sounds: int = 1
    has_cover: bool = False
    """Whether a cover picture may be attached."""

    @property
    def start_seconds(self) -> float:
        """When the first of picture and sound begins: the zero of the file's clock."""
        starts = [float(self.picture.starts[0])] if self.picture is not None and len(self.picture.starts) else []
        if self.sound is not None:
            starts.append(self.sound.start_seconds)
        return min(starts, default=0.0)


def probe_mp4(path: Path) -> Mp4Header:
    """Read the header of a clip.

    Raises:
        ClipError: if the file cannot be read, is no mp4, or its boxes contradict themselves.
    """
    try:
        with path.open("rb") as file:
            content, missing_bytes, num_bytes = _read_moov(file)
    except OSError as exc:
        raise ClipError(f"cannot be read: {exc.strerror}") from exc
    try:
        return _parse_moov(content, missing_bytes=missing_bytes, num_bytes=num_bytes)
    except struct.error as exc:
        raise ClipError("the header is damaged: a box is shorter than its kind needs") from exc


_MAX_MOOV_BYTES = 64_000_000
"""A clip of five minutes has 0.1 MB."""
_MOST_PRIMING_SECONDS = 0.1
"""Of silence that an encoder of sound needs before the first value: AAC's take 21 to 64 ms."""
_FIRST_KINDS = {b"ftyp", b"free", b"mdat", b"moov", b"pdin", b"skip", b"styp", b"wide"}
"""What an mp4 or its ancestor, QuickTime, begins with."""


def _read_moov(file: BinaryIO) -> tuple[bytes, int, int]:
    """Walk over the outermost boxes; return what is in `moov`, how many bytes are missing, and the file's size."""
    num_bytes = file.seek(0, 2)
    if not num_bytes:
        raise ClipError("the file is empty")
    moov: bytes | None = None
    missing_bytes = start = 0
    for number in range(MAX_BOXES):
        if num_bytes - start < 8:
            break  # the end, or too few bytes for a box: other readers look over them as well
        file.seek(start)
        head = file.read(16)
        size, kind = struct.unpack_from(">I4s", head)
        if number == 0 and kind not in _FIRST_KINDS:
            raise ClipError("this is no mp4: it does not begin as one")
        payload = 8
        if size == 1 and len(head) == 16:
            size, payload = struct.unpack_from(">Q", head, 8)[0], 16
        elif size == 0:
            size = num_bytes - start  # a box that reaches to the end, whatever that is
        if size < payload:
            break  # no box: what other programs leave behind the last one
        missing_bytes = max(0, start + size - num_bytes)
        if kind == b"moov" and moov is None:
            if missing_bytes:
                raise ClipError(f"the file is cut short by {missing_bytes:,} bytes, within its header")
            if size > _MAX_MOOV_BYTES:
                raise ClipError(f"the header takes {size:,} bytes, more than {_MAX_MOOV_BYTES:,}")
            file.seek(start + payload)
            moov = file.read(size - payload)
        start += size
    if moov is None:
        cut = f"; the file is cut short by {missing_bytes:,} bytes at least" if missing_bytes else ""
        raise ClipError(f"there is no header (`moov`){cut}")
    return moov, missing_bytes, num_bytes


def _parse_moov(content: bytes, *, missing_bytes: int, num_bytes: int) -> Mp4Header:
    view = memoryview(content)
    timescale, ticks = _scale_and_duration(child_box(view, b"mvhd"))
    picture: PictureTrack | None = None
    sound: SoundTrack | None = None
    last_byte = num_pictures = num_sounds = 0
    for kind, track in boxes(view):
        if kind != b"trak":
            continue
        media = child_box(track, b"mdia")
        handler = bytes(child_box(media, b"hdlr")[8:12])
        num_pictures += handler == b"vide"
        num_sounds += handler == b"soun"
        if handler == b"vide" and picture is None:
            picture = _parse_picture(track, media, movie_timescale=timescale)
        elif handler == b"soun" and sound is None:
            sound = _parse_sound(track, media, movie_timescale=timescale)
        else:
            continue
        last_byte = max(last_byte, _last_chunk(_table_boxes(media)))
    return Mp4Header(
        missing_bytes=missing_bytes or max(0, last_byte + 1 - num_bytes),
        duration_seconds=ticks / timescale,
        fragmented=find_box(view, b"mvex") is not None,
        picture=picture,
        sound=sound,
        num_pictures=num_pictures,
        num_sounds=num_sounds,
        has_cover=b"covr" in content,
    )


def _scale_and_duration(header: memoryview) -> tuple[int, int]:
    """Read ticks per second and the duration in them from `mvhd` or `mdhd`, which begin alike."""
    layout, start = (">IQ", 20) if box_version(header) == 1 else (">II", 12)
    timescale, ticks = struct.unpack_from(layout, header, start)
    if not timescale:
        raise ClipError("the header is damaged: it counts no time units per second")
    unknown = (1 << (64 if layout == ">IQ" else 32)) - 1
    return timescale, 0 if ticks == unknown else ticks


def _table_boxes(media: memoryview) -> memoryview:
    return child_box(child_box(media, b"minf"), b"stbl")


def _parse_picture(track: memoryview, media: memoryview, *, movie_timescale: int) -> PictureTrack:
    timescale, _ = _scale_and_duration(child_box(media, b"mdhd"))
    table = _table_boxes(media)
    starts, lengths = _times(table)  # (F,), (F,)
    shown = np.ones(len(starts), dtype=bool)  # (F,)
    edits, delay_seconds = _edits(track, movie_timescale=movie_timescale, timescale=timescale)  # (E, 2)
    if len(edits) and len(starts):
        shown[:] = False
        for start, end in edits:
            shown |= (starts >= start) & (starts < end)
    codec, entry = _sample_entry(table)
    width, height = struct.unpack_from(">HH", entry, 24)
    order = np.argsort(starts[shown], kind="stable")
    starts, lengths = starts[shown][order], lengths[shown][order]
    gaps = np.diff(starts)
    zero = edits[0, 0] if len(edits) else 0.0
    (num_kinds,) = struct.unpack_from(">I", child_box(table, b"stsd"), 4)
    return PictureTrack(
        num_frames=len(shown),
        num_hidden=int((~shown).sum()),
        duration_seconds=float(starts[-1] + lengths[-1] - starts[0]) / timescale if len(starts) else 0.0,
        variable_frame_rate=bool(len(gaps)) and bool(gaps.max() > 1.5 * np.median(gaps)),
        width=width,
        height=height,
        codec=codec,
        config=bytes(find_box(entry[78:], b"avcC") or b"") if codec.startswith("avc") else b"",
        upright=_is_upright(child_box(track, b"tkhd")),
        plain_times=num_kinds == 1 and len(edits) <= 1 and not (gaps == 0).any(),
        starts=delay_seconds + (starts - zero) / timescale,
        reordered=find_box(table, b"ctts") is not None,
        key_places=key_places(table),
    )


def _is_upright(header: memoryview) -> bool:
    """Say whether a track's matrix, nine numbers of which the first five turn and mirror, does nothing."""
    a, b, _, c, d = struct.unpack_from(">5i", header, 52 if box_version(header) == 1 else 40)
    return bool(b == c == 0 and a > 0 and d > 0)


def _parse_sound(track: memoryview, media: memoryview, *, movie_timescale: int) -> SoundTrack:
    timescale, ticks = _scale_and_duration(child_box(media, b"mdhd"))
    edits, delay_seconds = _edits(track, movie_timescale=movie_timescale, timescale=timescale)  # (E, 2)
    if len(edits):
        ticks = min(ticks, int((np.minimum(edits[:, 1], ticks) - np.minimum(edits[:, 0], ticks)).sum()))
    codec, entry = _sample_entry(_table_boxes(media))
    version, num_channels = struct.unpack_from(">H6xH", entry, 8)
    (sample_rate,) = struct.unpack_from(">H", entry, 24)
    # The entry's own count is 2 for 5.1 as well, as the standard wants it: the decoder's configuration knows better.
    extra = {0: 28, 1: 44, 2: 64}.get(version)
    config = _decoder_config(entry[extra:]) if extra is not None else None
    if config is not None:
        num_channels, sample_rate = config[0] or num_channels, config[1] or sample_rate
    return SoundTrack(
        num_channels=num_channels,
        sample_rate=sample_rate,
        duration_seconds=ticks / timescale,
        codec=codec,
        start_seconds=delay_seconds,
        plain_times=_hides_little(edits, timescale=timescale) and has_equal_steps(_table_boxes(media)),
    )


def _hides_little(edits: NDArray[np.float64], *, timescale: int) -> bool:
    return len(edits) <= 1 and bool((edits[:, 0] <= _MOST_PRIMING_SECONDS * timescale).all())


def _sample_entry(table: memoryview) -> tuple[str, memoryview]:
    """Return the kind and the content of the first description of how samples are coded."""
    for kind, entry in boxes(child_box(table, b"stsd")[8:]):
        return kind.decode("latin-1"), entry
    raise ClipError("the header is damaged: it does not say how the clip is coded")


def _times(table: memoryview) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when each frame is shown and for how long, `(F,)` both in ticks, in the order of the file."""
    lengths = run_lengths(child_box(table, b"stts"), "`stts`")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)[:-1]]) if len(lengths) else lengths
    sizes = find_box(table, b"stsz")
    if sizes is not None and (num_frames := struct.unpack_from(">I", sizes, 8)[0]) != len(starts):
        raise ClipError(f"the header is damaged: it holds {num_frames:,} frames, and gives {len(starts):,} a time")
    offsets = find_box(table, b"ctts")
    if offsets is not None:
        # Unsigned by the standard in version 0, but written signed by some programs: ticks beyond 2³¹ were never meant.
        shifts = run_lengths(offsets, "`ctts`").astype(np.uint32).view(np.int32)
        if len(shifts) != len(starts):
            raise ClipError(f"the header is damaged: it gives {len(starts)} frames a time, and moves {len(shifts)}")
        starts = starts + shifts
    return starts, lengths


def _edits(track: memoryview, *, movie_timescale: int, timescale: int) -> tuple[NDArray[np.float64], float]:
    """Return which parts of a track are shown, `(E, 2)` of start and end in its ticks; none without an edit list.

    And the seconds of the pause that the list begins with.
    """
    edit_box = find_box(track, b"edts")
    listed = find_box(edit_box, b"elst") if edit_box is not None else None
    if listed is None:
        return np.empty((0, 2)), 0.0
    entry = ">Qq4x" if box_version(listed) == 1 else ">Ii4x"
    (num_entries,) = struct.unpack_from(">I", listed, 4)
    if num_entries > MAX_BOXES or num_entries * struct.calcsize(entry) > len(listed) - 8:
        raise ClipError(f"the header is damaged: its edit list claims {num_entries:,} entries")
    found = [struct.unpack_from(entry, listed, 8 + number * struct.calcsize(entry)) for number in range(num_entries)]
    # -1 is a pause, and a length of 0 the whole rest.
    parts = [
        (start, start + (length * timescale / movie_timescale or float("inf"))) for length, start in found if start >= 0
    ]
    pauses = list(takewhile(lambda edit: edit[1] == -1, found))
    delay_seconds = sum(length for length, _ in pauses) / movie_timescale
    return np.array(parts, dtype=np.float64).reshape(-1, 2), delay_seconds


def _last_chunk(table: memoryview) -> int:
    """Return where the last stretch of a track's bytes begins in the file."""
    for kind, item in ((b"stco", ">u4"), (b"co64", ">u8")):
        box = find_box(table, kind)
        if box is not None:
            (num_entries,) = struct.unpack_from(">I", box, 4)
            num_bytes = num_entries * np.dtype(item).itemsize
            if num_bytes > len(box) - 8:
                raise ClipError(f"the header is damaged: its table {printable(kind)} claims {num_entries:,} entries")
            return int(np.frombuffer(box[8 : 8 + num_bytes], item).max(initial=0))
    return 0


def _decoder_config(content: memoryview) -> tuple[int, int] | None:
    """Return the channels and the sample rate that AAC's own configuration gives, 0 for what it leaves open."""
    wave = find_box(content, b"wave")  # where QuickTime keeps it
    described = find_box(wave if wave is not None else content, b"esds")
    return parse_esds(described[4:]) if described is not None else None
