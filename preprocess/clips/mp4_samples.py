"""Where the encoded pictures of an mp4 lie in the file.

Shape letters: F frames.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.mp4_boxes import child_box, find_box, run_lengths
from preprocess.errors import ClipError

__all__ = ["has_equal_steps", "key_places"]


def key_places(table: memoryview) -> NDArray[np.int64]:
    """Return the first byte of each key frame in the file; of every frame where the table lists no key frames.

    None at all where the first frame is not one, so that it cannot be decoded.

    Args:
        table: The content of a track's `stbl`.

    Raises:
        ClipError: if the tables contradict each other.
    """
    listed = find_box(table, b"stss")
    places = _places(table)
    if listed is None:
        return places
    keys = _numbers(listed, ">u4") - 1
    if len(keys) and not (keys.min() >= 0 and keys.max() < len(places)):
        raise ClipError("the header is damaged: it lists key frames that are not there")
    return places[keys] if len(keys) and not keys[0] else places[:0]


def has_equal_steps(table: memoryview) -> bool:
    """Say whether all packets of a track but the last are equally long."""
    runs = np.frombuffer(_entries(child_box(table, b"stts"), 8), ">u4").reshape(-1, 2)
    if len(runs) > 1 and runs[-1, 0] == 1:
        runs = runs[:-1]
    return len(np.unique(runs[:, 1])) <= 1


def _places(table: memoryview) -> NDArray[np.int64]:
    """Return where each frame begins, `(F,)`: frames lie one behind the other in chunks."""
    sizes = _sizes(child_box(table, b"stsz"))  # (F,)
    wide = find_box(table, b"co64")
    chunks = _numbers(wide, ">u8") if wide is not None else _numbers(child_box(table, b"stco"), ">u4")
    if not len(sizes) or not len(chunks):
        return np.empty(0, np.int64)
    runs = np.frombuffer(_entries(child_box(table, b"stsc"), 12), ">u4").reshape(-1, 3).astype(np.int64)
    if not len(runs) or runs[0, 0] != 1 or (np.diff(runs[:, 0]) <= 0).any():
        raise ClipError("the header is damaged: its table `stsc` does not begin with the first chunk")
    last = np.append(runs[1:, 0], len(chunks) + 1)
    held = np.repeat(runs[:, 1], np.minimum(last, len(chunks) + 1) - np.minimum(runs[:, 0], len(chunks) + 1))
    if held.sum() < len(sizes):
        raise ClipError("the header is damaged: its chunks hold fewer frames than it lists")
    chunk = np.repeat(np.arange(len(held)), np.minimum(held, len(sizes)))[: len(sizes)]
    before = np.cumsum(sizes) - sizes  # bytes of all frames before each
    first = np.searchsorted(chunk, chunk, side="left")  # the first frame of each one's chunk
    places: NDArray[np.int64] = chunks[chunk] + before - before[first]
    return places


def _sizes(box: memoryview) -> NDArray[np.int64]:
    size, count = struct.unpack_from(">II", box, 4)
    if not size:
        return _numbers(box[4:], ">u4")
    return np.full(len(run_lengths(_one_run(count, size), "`stsz`")), size, np.int64)


def _one_run(count: int, value: int) -> memoryview:
    """Return the table that says one value so many times, whose length is believed as far as any."""
    return memoryview(struct.pack(">4xIII", 1, count, value))


def _numbers(box: memoryview, kind: str) -> NDArray[np.int64]:
    return np.frombuffer(_entries(box, np.dtype(kind).itemsize), kind).astype(np.int64)


def _entries(box: memoryview, entry_bytes: int) -> memoryview:
    """Return the entries of a table that begins with their count."""
    (count,) = struct.unpack_from(">I", box, 4)
    if count * entry_bytes > len(box) - 8:
        raise ClipError(f"the header is damaged: a table claims {count:,} entries and holds fewer")
    return box[8 : 8 + count * entry_bytes]
