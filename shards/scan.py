"""Find our members in a tar that another program wrote, in whatever order they stand and whatever stands beside them.

Shape letters: T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shards.codec import FEATURE_DTYPE, JPEG_MEMBER, RAW_DTYPES, ArrayMember
from shards.errors import ShardError, describe
from shards.foreign import SampleFacts, WholeTarInfo, full_lengths, read_facts, read_npy, read_npy_header
from shards.schema import MODALITIES, FeatureSpec, Modality, check_key
from shards.strip import strip_size
from shards.table import dialogue_number

__all__ = ["Scanned", "key_of", "scan_tar"]

_CHOICES: Mapping[Modality, tuple[str, ...]] = {
    "video": ("frames.npy", JPEG_MEMBER, "video.npy"),
    "audio": ("logmel.npy", "audio.npy"),
    "text": ("tokens.npy", "text.npy"),
}
"""The members that may hold a modality; the last, an encoder's output, counts only where there is no raw array."""

_OURS = {*(extension for choices in _CHOICES.values() for extension in choices), "json"}
_RAW_SHAPES: Mapping[Modality, tuple[str, int]] = {
    "video": ("(T, H, W, 3)", 4),
    "audio": ("(M, S)", 2),
    "text": ("(L,)", 1),
}
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""How gzip, bzip2, xz and zstd begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """One sample of a foreign tar."""

    key: str
    arrays: Mapping[Modality, ArrayMember]
    offsets: Mapping[str, int]
    """Byte in the tar at which the values begin, by modality and of the `json`; likewise `sizes`."""
    sizes: Mapping[str, int]
    crc32: int
    """Over the values of video, audio, text and the json, in this order wherever they stand."""
    largest_token: int
    """-1 where text is encoded."""
    facts: SampleFacts
    payloads: Mapping[str, bytes]
    """Content of the members that are ours, by extension."""
    ignored: frozenset[str]
    """Extensions of other members, and names of files without a key."""

    def row(self, labels: Sequence[int]) -> tuple[Any, ...]:
        """Return the sample's row of the samples table, `shards.table.row_dtype`."""
        return (
            *(self.offsets[name] for name in (*MODALITIES, "json")),
            dialogue_number(self.facts.dialogue_id),
            self.sizes["video"],
            self.sizes["json"],
            self.crc32,
            *self.facts.lengths,
            sum(there << bit for bit, there in enumerate(self.facts.present)),
            tuple(labels),
        )

    @property
    def outline(self) -> str:
        """Members and their shapes, in words."""
        return ", ".join(f"{member.extension} {member.shape}" for member in self.arrays.values())


@dataclass(frozen=True, slots=True)
class _Member:
    start: int
    payload: bytes


def scan_tar(path: Path, *, spec: FeatureSpec | None = None) -> Iterator[Scanned]:
    """Read every sample of a tar, one at a time.

    A sample is what stands together under one key, the name up to its first dot, as WebDataset has it.

    Args:
        path: The tar.
        spec: Where it is known, what the full lengths of encoded modalities are, which the tar does not tell.

    Raises:
        ShardError: naming the tar, and the member where it is one: the tar is compressed, cut off, damaged or two in
            one; a sample lacks a member or its key is not of our grammar; a member comes twice, is a link or sparse, or
            is not what its name says.
    """
    try:
        yield from _scan(path, spec)
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


def _scan(path: Path, spec: FeatureSpec | None) -> Iterator[Scanned]:
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
                    yield _sample(current, found, ignored, spec)
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
            yield _sample(current, found, ignored, spec)
        end = tar.offset
    with path.open("rb") as rest:
        rest.seek(end)
        while block := rest.read(1 << 16):
            if block.count(0) != len(block):
                raise ValueError("more follows the end of the archive: two tars one after the other are not one")


def _sample(key: str, found: Mapping[str, _Member], others: set[str], spec: FeatureSpec | None) -> Scanned:
    extensions, ignored = _chosen(key, found, others)
    arrays: dict[Modality, ArrayMember] = {}
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}
    crc32 = 0
    for name, extension in extensions.items():
        member = found[extension]
        try:
            arrays[name], start = _array_member(name, extension, member.payload)
        except ValueError as exc:
            raise ValueError(f"{key}.{extension}: {exc}") from exc
        offsets[name] = member.start + start
        sizes[name] = len(member.payload) - start
        crc32 = zlib.crc32(memoryview(member.payload)[start:], crc32)
    offsets["json"], sizes["json"] = found["json"].start, len(found["json"].payload)
    try:
        facts = read_facts(found["json"].payload, full=_full_lengths(arrays) if spec is None else full_lengths(spec))
    except ValueError as exc:
        raise ValueError(f"{key}.json: {exc}") from exc
    return Scanned(
        key=key,
        arrays=arrays,
        offsets=offsets,
        sizes=sizes,
        crc32=zlib.crc32(found["json"].payload, crc32),
        largest_token=_largest_token(key, found, arrays["text"]),
        facts=facts,
        payloads={extension: found[extension].payload for extension in (*extensions.values(), "json")},
        ignored=frozenset(ignored),
    )


def _chosen(key: str, found: Mapping[str, _Member], others: set[str]) -> tuple[dict[Modality, str], set[str]]:
    """Return the member to take for each modality, and what of the sample is not taken."""
    there = {name: [choice for choice in choices if choice in found] for name, choices in _CHOICES.items()}
    lacking = [_CHOICES[name][0] for name, choices in there.items() if not choices]
    if lacking := [*lacking, *({"json"} - found.keys())]:
        dotted = next((name for name in others if name.endswith(lacking[0])), "")
        why = f"; {key}.{dotted} has a dot in its key, which ends at the first one" if dotted else ""
        raise ValueError(f"{key} lacks {' and '.join(lacking)}{why}")
    if {JPEG_MEMBER, "frames.npy"} <= found.keys():
        raise ValueError(f"{key} has both frames.npy and {JPEG_MEMBER}")
    chosen = {name: choices[0] for name, choices in there.items()}
    return chosen, others | (found.keys() - set(chosen.values()) - {"json"})


def _array_member(name: Modality, extension: str, payload: bytes) -> tuple[ArrayMember, int]:
    """Return what a member holds, and the byte of it at which the values begin."""
    if extension == JPEG_MEMBER:
        return ArrayMember(extension=extension, shape=_strip_shape(payload), dtype=RAW_DTYPES[name]), 0
    encoded = extension == _CHOICES[name][-1]
    expected = FEATURE_DTYPE if encoded else RAW_DTYPES[name]
    letters, dimensions = ("(W,)", 1) if encoded else _RAW_SHAPES[name]
    dtype, shape, start = read_npy_header(payload)
    if len(shape) != dimensions or 0 in shape or (dimensions == 4 and shape[-1] != 3) or dtype != expected:
        raise ValueError(f"it is {shape} {dtype.str}, needed is {letters} {expected.str}")
    member = ArrayMember(extension=extension, shape=shape, dtype=expected)
    read_npy(payload, member)
    return member, start


def _full_lengths(arrays: Mapping[Modality, ArrayMember]) -> tuple[int, int, int]:
    """Return `(T, S, L)`; 0 in place of an encoded one's, which has no length."""
    video, audio, text = (arrays[name] for name in MODALITIES)
    return (
        video.shape[0] if video.is_raw else 0,
        audio.shape[1] if audio.is_raw else 0,
        text.shape[0] if text.is_raw else 0,
    )


def _largest_token(key: str, found: Mapping[str, _Member], member: ArrayMember) -> int:
    if not member.is_raw:
        return -1
    tokens = read_npy(found[member.extension].payload, member)
    if tokens.min(initial=0) < 0:
        raise ValueError(f"{key}.tokens.npy: {tokens.min()} is no token id")
    return int(tokens.max(initial=0))


def _strip_shape(payload: bytes) -> tuple[int, int, int, int]:
    height, width = strip_size(payload)
    if height % width:
        raise ValueError(
            f"a strip of {height}x{width} pixels does not say how high a frame is unless frames are square; "
            "store frames.npy"
        )
    return height // width, width, width, 3
