"""Find our members in a tar that another program wrote, in whatever order they stand and whatever stands beside them.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shards.codec import ARRAY_MEMBERS, members
from shards.errors import ShardError, describe
from shards.foreign import SampleFacts, WholeTarInfo, read_facts, read_npy, read_npy_header
from shards.schema import Storage, check_key
from shards.strip import strip_size

__all__ = ["Scanned", "key_of", "scan_tar"]

_OURS = {*members("raw"), *members("jpeg")}
_DIMENSIONS = {"frames": 4, "logmel": 2, "tokens": 1}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """One sample of a foreign tar."""

    key: str
    storage: Storage
    shapes: Mapping[str, tuple[int, ...]]
    """`(T, H, W, 3)` of frames, `(M, S)` of logmel, `(L,)` of tokens."""
    offsets: Mapping[str, int]
    """Byte in the tar at which the values begin, by frames, logmel, tokens and json; likewise `sizes`."""
    sizes: Mapping[str, int]
    crc32: int
    """Over the values of frames, logmel, tokens and the json, in this order wherever they stand."""
    largest_token: int
    facts: SampleFacts
    payloads: Mapping[str, bytes]
    """Content of the members that are ours, by extension."""
    ignored: frozenset[str]
    """Extensions of other members, and names of files without a key."""

    def row(self, labels: Sequence[int]) -> tuple[Any, ...]:
        """Return the sample's row of the samples table, `shards.table.row_dtype`."""
        return (
            *(self.offsets[name] for name in ("frames", "logmel", "tokens", "json")),
            self.sizes["frames"],
            self.sizes["json"],
            self.crc32,
            *self.facts.lengths,
            sum(there << bit for bit, there in enumerate(self.facts.present)),
            tuple(labels),
        )


@dataclass(frozen=True, slots=True)
class _Member:
    start: int
    payload: bytes


def scan_tar(path: Path) -> Iterator[Scanned]:
    """Read every sample of a tar, one at a time.

    A sample is what stands together under one key, the name up to its first dot, as WebDataset has it.

    Raises:
        ShardError: naming the tar, and the member where it is one: the tar is compressed, cut off, damaged or two in
            one; a sample lacks a member or its key is not of our grammar; a member comes twice, is a link or sparse, or
            is not what its name says.
    """
    try:
        yield from _scan(path)
    except (OSError, ValueError, tarfile.TarError) as exc:
        with path.open("rb") as file:
            compressed = file.read(6).startswith(_COMPRESSED)
        what = "a tar is compressed, so its samples cannot be reached one by one" if compressed else str(exc)
        then = "unpack it, for example by `gzip -d`" if compressed else "copy or write it again"
        raise ShardError(describe(what, file=path, then=then)) from exc


def key_of(name: str) -> tuple[str, str]:
    """Split the name of a member into key and extension: `./a.frames.npy` -> `a`, `frames.npy`; no dot, no key."""
    name = name.removeprefix("./")
    folder, slash, file = name.rpartition("/")
    key, dot, extension = file.partition(".")
    return (f"{folder}{slash}{key}", extension.lower()) if key and dot else ("", "")


def _scan(path: Path) -> Iterator[Scanned]:
    found: dict[str, _Member] = {}
    ignored: set[str] = set()
    keys: set[str] = set()
    current = ""
    with tarfile.open(path, "r:", tarinfo=WholeTarInfo) as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # or it holds every header it has read
            key, extension = key_of(member.name)
            if member.isdir() or member.name.startswith("__"):
                continue
            if not key:
                ignored.add(member.name)
                continue
            if key != current:
                if current:
                    yield _sample(current, found, ignored)
                if key in keys:
                    raise ValueError(f"{member.name}: key {key} comes twice, or its members do not stand together")
                check_key(key)
                keys.add(key)
                current, found, ignored = key, {}, set()
            if extension not in _OURS:
                ignored.add(extension)
                continue
            if extension in found:
                raise ValueError(f"{member.name} comes twice")
            file = tar.extractfile(member) if member.isreg() and member.sparse is None else None
            if file is None:
                raise ValueError(f"{member.name} is a link, a sparse file or no file: its values are not in one piece")
            found[extension] = _Member(member.offset_data, file.read())
        if current:
            yield _sample(current, found, ignored)
        end = tar.offset
    with path.open("rb") as rest:
        rest.seek(end)
        while block := rest.read(1 << 16):
            if block.count(0) != len(block):
                raise ValueError("more follows the end of the archive: two tars one after the other are not one")


def _sample(key: str, found: Mapping[str, _Member], ignored: set[str]) -> Scanned:
    storage: Storage = "jpeg" if "frames.jpg" in found else "raw"
    if lacking := [extension for extension in members(storage) if extension not in found]:
        dotted = next((name for name in ignored if name.endswith(lacking[0])), "")
        why = f"; {key}.{dotted} has a dot in its key, which ends at the first one" if dotted else ""
        raise ValueError(f"{key} lacks {' and '.join(lacking)}{why}")
    if {"frames.jpg", "frames.npy"} <= found.keys():
        raise ValueError(f"{key} has both frames.npy and frames.jpg")
    shapes: dict[str, tuple[int, ...]] = {}
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}
    crc32 = 0
    for extension in members(storage):
        name = extension.partition(".")[0]
        member = found[extension]
        start = 0
        try:
            if extension == "frames.jpg":
                shapes[name] = _strip_shape(member.payload)
            elif extension != "json":
                dtype, shapes[name], start = read_npy_header(member.payload)
                _check_kind(name, shapes[name], dtype)
                read_npy(member.payload, name, shape=shapes[name])
        except ValueError as exc:
            raise ValueError(f"{key}.{extension}: {exc}") from exc
        offsets[name] = member.start + start
        sizes[name] = len(member.payload) - start
        crc32 = zlib.crc32(memoryview(member.payload)[start:], crc32)
    try:
        full = (shapes["frames"][0], shapes["logmel"][1], shapes["tokens"][0])
        facts = read_facts(found["json"].payload, full=full)
    except ValueError as exc:
        raise ValueError(f"{key}.json: {exc}") from exc
    tokens = read_npy(found["tokens.npy"].payload, "tokens", shape=shapes["tokens"])
    if tokens.min(initial=0) < 0:
        raise ValueError(f"{key}.tokens.npy: {tokens.min()} is no token id")
    return Scanned(
        key=key,
        storage=storage,
        shapes=shapes,
        offsets=offsets,
        sizes=sizes,
        crc32=crc32,
        largest_token=int(tokens.max(initial=0)),
        facts=facts,
        payloads={extension: member.payload for extension, member in found.items()},
        ignored=frozenset(ignored),
    )


def _check_kind(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    letters = {"frames": "(T, H, W, 3)", "logmel": "(M, S)", "tokens": "(L,)"}[name]
    expected = ARRAY_MEMBERS[name]
    if len(shape) != _DIMENSIONS[name] or 0 in shape or (name == "frames" and shape[-1] != 3) or dtype != expected:
        raise ValueError(f"it is {shape} {dtype.str}, needed is {letters} {expected.str}")


def _strip_shape(payload: bytes) -> tuple[int, int, int, int]:
    height, width = strip_size(payload)
    if height % width:
        raise ValueError(
            f"a strip of {height}x{width} pixels does not say how high a frame is unless frames are square; "
            "store frames.npy"
        )
    return height // width, width, width, 3
