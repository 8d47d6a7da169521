"""The boxes of an mp4 (ISO/IEC 14496-12): what lies in which, and the tables in them.

It takes any bytes: no size and no count of the file is believed beyond the bytes that are there.

Shape letters: F frames.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import ClipError

__all__ = ["MAX_BOXES", "box_version", "boxes", "child_box", "find_box", "printable", "run_lengths"]

MAX_BOXES = 1000
"""In one box; real ones hold a handful."""
_MAX_FRAMES = 2_000_000
"""A day at 24 frames per second."""


def boxes(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the kind and the content of the boxes within one; fewer than 8 bytes behind them are padding."""
    start = 0
    for _ in range(MAX_BOXES):
        if len(view) - start < 8:
            return
        size, kind = struct.unpack_from(">I4s", view, start)
        payload = 8
        if size == 1:
            size, payload = struct.unpack_from(">Q", view, start + 8)[0], 16
        elif size == 0:
            size = len(view) - start
        if not payload <= size <= len(view) - start:
            raise ClipError(f"the header is damaged: its box {printable(kind)} does not fit where it lies")
        yield kind, view[start + payload : start + size]
        start += size
    raise ClipError(f"the header is damaged: a box holds more than {MAX_BOXES} others")


def find_box(view: memoryview, kind: bytes) -> memoryview | None:
    """Return the content of the first box of a kind."""
    return next((content for found, content in boxes(view) if found == kind), None)


def child_box(view: memoryview, kind: bytes) -> memoryview:
    """Return the content of a box that must be there; raises `ClipError` otherwise."""
    found = find_box(view, kind)
    if found is None:
        raise ClipError(f"the header is damaged: it has no {printable(kind)}")
    return found


def printable(kind: bytes) -> str:
    """Return the name of a kind of box for a message."""
    return f"`{kind.decode('ascii')}`" if kind.isalnum() else kind.hex()


def box_version(box: memoryview) -> int:
    """Return the version of a box that has one."""
    version: int = struct.unpack_from("B", box)[0]
    return version


def run_lengths(box: memoryview, name: str) -> NDArray[np.int64]:
    """Expand a table of (count, value): `[(2, 7), (1, 9)] -> [7, 7, 9]`."""
    (num_entries,) = struct.unpack_from(">I", box, 4)
    if num_entries * 8 > len(box) - 8:
        raise ClipError(f"the header is damaged: its table {name} claims {num_entries:,} entries and holds fewer")
    entries = np.frombuffer(box[8 : 8 + 8 * num_entries], ">u4").reshape(-1, 2).astype(np.int64)
    if (num_frames := int(entries[:, 0].sum())) > _MAX_FRAMES:
        raise ClipError(f"the header promises {num_frames:,} frames, more than any clip holds")
    return np.repeat(entries[:, 1], entries[:, 0])
