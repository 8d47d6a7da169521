"""The samples table of a split, `samples.npy`: of every sample where it lies in its shard, its lengths and its labels.

See `docs/format.md` for the normative text.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardCorruptError, describe
from shards.files import publish_pieces, sha256_file
from shards.schema import MODALITIES, LabelSet, SampleMeta

__all__ = [
    "TABLE_NAME",
    "dialogue_number",
    "parse_table",
    "read_table",
    "row_dtype",
    "sample_row",
    "table_pieces",
    "write_table",
]

TABLE_NAME = "samples.npy"


def row_dtype(num_tasks: int) -> np.dtype[Any]:
    """Return the dtype of a row; there is one per sample, in the order of the shards.

    Offsets are those of the array's first value in the tar, past the `.npy` header; `present` has bit i for
    `MODALITIES[i]`; `crc32` is over the values of video, audio, text and the json, in that order.
    """
    return np.dtype(
        [
            ("video_offset", "<i8"),
            ("audio_offset", "<i8"),
            ("text_offset", "<i8"),
            ("json_offset", "<i8"),
            ("dialogue", "<u8"),
            ("video_bytes", "<i4"),
            ("json_bytes", "<i4"),
            ("crc32", "<u4"),
            ("num_frames", "<i4"),
            ("num_hops", "<i4"),
            ("num_tokens", "<i4"),
            ("present", "|u1"),
            ("labels", "<i2", (num_tasks,)),
        ]
    )


def dialogue_number(dialogue_id: str) -> int:
    """Return what a row has in place of the id of its dialogue: 64 bits of a digest; 0 if there is no id.

    Equal ids give equal numbers, so a row's dialogue is found without its json. Two of a thousand dialogues have one
    number by chance once in 10^13 data sets.
    """
    if not dialogue_id:
        return 0
    return int.from_bytes(hashlib.blake2b(dialogue_id.encode()).digest()[:8], "little")


def sample_row(
    meta: SampleMeta,
    *,
    offsets: Mapping[str, int],
    sizes: Mapping[str, int],
    crc32: int,
    label_sets: Sequence[LabelSet],
) -> tuple[Any, ...]:
    """Return the row of one sample; offsets and sizes of values by modality, and of the `json`."""
    return (
        *(offsets[name] for name in (*MODALITIES, "json")),
        dialogue_number(meta.dialogue_id),
        sizes["video"],
        sizes["json"],
        crc32,
        meta.num_frames,
        meta.num_hops,
        meta.num_tokens,
        sum(meta.presence[name].present << bit for bit, name in enumerate(MODALITIES)),
        tuple(labels.index(meta.labels[labels.task]) for labels in label_sets),
    )


def table_pieces(parts: Iterable[NDArray[Any]], *, num_samples: int, num_tasks: int) -> Iterator[bytes]:
    """Yield the content of a table, an `.npy` file of version 1.0, with no more than one part in memory.

    Args:
        parts: Each `(rows,)` of `row_dtype(num_tasks)`; together `num_samples` rows.
        num_samples: Rows of the table.
        num_tasks: Label tasks of a row.

    Raises:
        ValueError: if the parts are of another dtype or number, at the latest in place of the end.
    """
    dtype = row_dtype(num_tasks)
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": (num_samples,)})
    yield header.getvalue()
    left = num_samples
    for rows in parts:
        if rows.dtype != dtype:
            raise ValueError(f"rows must be of {dtype}, got {rows.dtype}")
        left -= len(rows)
        yield rows.tobytes()
    if left:
        raise ValueError(f"the table must have {num_samples} rows, got {num_samples - left}")


def write_table(directory: Path, parts: Iterable[NDArray[Any]], *, num_samples: int, num_tasks: int) -> str:
    """Publish the table of a split and return its SHA-256; arguments are those of `table_pieces`.

    Raises:
        ShardError: if the disk is full or cannot be written.
        ValueError: as `table_pieces` does; nothing is published then.
    """
    digest = hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for piece in table_pieces(parts, num_samples=num_samples, num_tasks=num_tasks):
            digest.update(piece)
            yield piece

    publish_pieces(directory / TABLE_NAME, pieces())
    return digest.hexdigest()


def read_table(directory: Path, *, sha256: str, num_samples: int, num_tasks: int) -> NDArray[Any]:
    """Return the table of a split, `(num_samples,)` of `row_dtype`, read-only and mapped.

    The file is read once in full, for its digest, and not through the map: memory of this process is then only what is
    looked at later.

    Args:
        directory: The split's folder.
        sha256: Digest of the file, as the index says.
        num_samples: Samples of the index.
        num_tasks: Label tasks of the index.

    Raises:
        ShardCorruptError: if the file is missing, is not the one that was written, or is no such table.
    """
    path = directory / TABLE_NAME
    try:
        _check_digest(sha256_file(path), sha256, str(path))
        rows: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise _unreadable(exc, str(path)) from exc
    _check_rows(rows, str(path), num_samples=num_samples, num_tasks=num_tasks)
    return rows.view(np.ndarray)  # a plain array: each look at a `memmap` makes another one, which is slow


def parse_table(raw: bytes, *, path: str, sha256: str, num_samples: int, num_tasks: int) -> NDArray[Any]:
    """Return the table in the content of a file that is not on a disk of this machine; else as `read_table`.

    Raises:
        ShardCorruptError: as `read_table`.
    """
    _check_digest(hashlib.sha256(raw).hexdigest(), sha256, path)
    try:
        rows: NDArray[Any] = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError) as exc:
        raise _unreadable(exc, path) from exc
    _check_rows(rows, path, num_samples=num_samples, num_tasks=num_tasks)
    return rows


def _check_digest(found: str, sha256: str, path: str) -> None:
    if found != sha256:  # labels and lengths come from here alone
        what = f"{TABLE_NAME}: its SHA-256 is not the one in the index"
        raise ShardCorruptError(describe(what, file=path, then=_RESTORE))


def _unreadable(exc: Exception, path: str) -> ShardCorruptError:
    what = f"the samples table {TABLE_NAME} cannot be read: {exc}"
    return ShardCorruptError(describe(what, file=path, then=_RESTORE))


def _check_rows(rows: NDArray[Any], path: str, *, num_samples: int, num_tasks: int) -> None:
    if rows.dtype != row_dtype(num_tasks) or rows.shape != (num_samples,):
        what = f"{TABLE_NAME} holds {rows.shape} rows of another kind than the {num_samples} its index says"
        raise ShardCorruptError(describe(what, file=path, then=_RESTORE))


_RESTORE = "copy it again, or run `mmsent verify SHARDS --repair DATA`, which makes it from the shards"
