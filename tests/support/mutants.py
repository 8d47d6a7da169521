"""Damaged clips, made from good ones: pure, and the same bytes from the same seed on every machine.

An mp4 is a row of atoms: four bytes of size, four of name, then a payload, which for `moov` and some of the atoms
within is again a row of atoms. Most kinds of damage keep that frame whole and lie within it: a file of noise is refused
at its first bytes, and only a good file with a bad table leads a decoder astray.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["KINDS", "Mutant", "mutants"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One damaged clip."""

    name: str
    """`0017-truncated`: unlike that of any other of the run."""
    kind: str
    """One of `KINDS`."""
    content: bytes


def mutants(bases: Sequence[bytes], seed: int, count: int) -> Iterator[Mutant]:
    """Damage good clips, each kind in turn, so that no kind comes more than once oftener than another.

    Args:
        bases: Good mp4 files, at least two. No two mutants of a kind in a row are made from the same one.
        seed: Chooses every place and value.
        count: How many.
    """
    kinds = tuple(_DAMAGES)
    for number in range(count):
        kind, turn = kinds[number % len(kinds)], number // len(kinds)
        base, other = bases[turn % len(bases)], bases[(turn + 1) % len(bases)]
        # One generator for each, so that a change of one kind leaves all other mutants what they were.
        rng = np.random.default_rng((seed, number))
        content = _DAMAGES[kind](base, other, rng)
        yield Mutant(name=f"{number:04d}-{kind}", kind=kind, content=content)


_Rng = np.random.Generator
_Damage = Callable[[bytes, bytes, _Rng], bytes]

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta"}
_HEAD = 8
"""Bytes of an atom's size and name."""
_ABSURD = (0, 1, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Values that overflow, wrap or allocate when they are counts, sizes or times of 32 bits."""


@dataclass(frozen=True, slots=True)
class _Atom:
    name: bytes
    start: int
    end: int

    @property
    def payload(self) -> int:
        """Where the payload begins."""
        return self.start + _HEAD


def _atoms(content: bytes, start: int = 0, end: int | None = None) -> list[_Atom]:
    """List the atoms of a stretch of a good file, not those within them."""
    found = []
    end = len(content) if end is None else end
    while start + _HEAD <= end:
        size = int.from_bytes(content[start : start + 4], "big")
        found.append(_Atom(content[start + 4 : start + 8], start, start + size))
        start += size
    return found


def _nested(content: bytes, within: Sequence[_Atom] | None = None) -> list[_Atom]:
    """List all atoms of a good file, parents before children."""
    found = []
    for atom in _atoms(content) if within is None else within:
        found.append(atom)
        if atom.name in _CONTAINERS:
            found += _nested(content, _atoms(content, atom.payload, atom.end))
    return found


def _top(content: bytes, name: bytes) -> _Atom:
    return next(atom for atom in _atoms(content) if atom.name == name)


def _one(content: bytes, rng: _Rng, *names: bytes) -> _Atom:
    """Choose among the atoms of these names wherever they lie."""
    found = [atom for atom in _nested(content) if atom.name in names]
    return found[rng.integers(len(found))]


def _overwritten(content: bytes, start: int, new: bytes) -> bytes:
    return content[:start] + new + content[start + len(new) :]


def _with_number(content: bytes, start: int, value: int) -> bytes:
    return _overwritten(content, start, struct.pack(">I", value))


def _any_of(rng: _Rng, values: Sequence[int]) -> int:
    return values[int(rng.integers(len(values)))]


def _stretch(content: bytes, rng: _Rng) -> tuple[int, int]:
    """Choose a stretch of 1 byte to an eighth of the file, short ones as often as long ones."""
    length = int(2 ** rng.uniform(0, np.log2(len(content) / 8)))
    start = int(rng.integers(len(content) - length))
    return start, start + length


def _truncated(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Cut anywhere, as by a download that broke off."""
    return base[: rng.integers(1, len(base))]


def _bits_flipped(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Turn over 1 to 64 bits anywhere, as a bad disk does."""
    content = bytearray(base)
    for place in rng.choice(len(base), size=_any_of(rng, (1, 4, 16, 64)), replace=False):
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _zeroed(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Fill a stretch with zeros, as a file system does after a power cut."""
    start, end = _stretch(base, rng)
    return base[:start] + bytes(end - start) + base[end:]


def _noise(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Fill a stretch with random bytes."""
    start, end = _stretch(base, rng)
    return base[:start] + rng.bytes(end - start) + base[end:]


def _noise_in_moov(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Fill 1 to 16 bytes of the tables with random ones: in most files they are too few to be hit by chance."""
    moov = _top(base, b"moov")
    length = int(rng.integers(1, 17))
    return _overwritten(base, int(rng.integers(moov.payload, moov.end - length)), rng.bytes(length))


def _noise_in_mdat(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Fill many small places of the picture's and sound's data with random bytes; all tables are true."""
    mdat = _top(base, b"mdat")
    for _ in range(_any_of(rng, (1, 8, 64))):
        base = _overwritten(base, int(rng.integers(mdat.payload, mdat.end - 8)), rng.bytes(8))
    return base


def _atoms_swapped(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Exchange two top-level atoms; the offsets of the tables are not changed with them."""
    pieces = [base[atom.start : atom.end] for atom in _atoms(base)]
    first, second = rng.choice(len(pieces), size=2, replace=False)
    pieces[first], pieces[second] = pieces[second], pieces[first]
    return b"".join(pieces)


def _atom_doubled(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Write an atom twice, one of the top level or one of the tables."""
    chosen = _nested(base)[rng.integers(len(_nested(base)))]
    content = base[: chosen.end] + base[chosen.start : chosen.end] + base[chosen.end :]
    for parent in _nested(base):  # those around it grow, so that what follows is still found
        if parent.start < chosen.start and chosen.end <= parent.end:
            content = _with_number(content, parent.start, parent.end - parent.start + chosen.end - chosen.start)
    return content


_FOREIGN = {
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x40\x00\x00\x00\x30\x08\x02\x00\x00\x00",
    "zip": b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x00\x00!\x00\x00\x00\x00\x00\x10\x00\x00\x00\x10\x00\x00\x00\x05\x00",
    "text": b"<!DOCTYPE html>\n<html><head><title>403 Forbidden</title></head>\n",
    "gif": b"GIF89a\x40\x00\x30\x00\xf7\x00\x00",
    "wav": b"RIFF\x24\x10\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x80\xbb\0\0\0\xee\x02\0\x04\0\x10\0data",
    "matroska": b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x23\x42\x86\x81\x01\x42\xf7\x81\x01",
    "playlist": b"#EXTM3U\n#EXTINF:10,\ndia0_utt0.mp4\n#EXT-X-ENDLIST\n",
    "concat": b"ffconcat version 1.0\nfile dia0_utt0.mp4\n",
}


def _foreign(rng: _Rng) -> bytes:
    return list(_FOREIGN.values())[rng.integers(len(_FOREIGN))]


def _foreign_head(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Put the head of another kind of file in front."""
    return _foreign(rng) + base


def _foreign_file(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Be another kind of file altogether, under a clip's name: a page that says 403, a list of other files."""
    return _foreign(rng) + (rng.bytes(int(rng.integers(4096))) if rng.integers(2) else b"")


def _no_moov(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Leave the tables out, as a recorder does that was switched off."""
    moov = _top(base, b"moov")
    return base[: moov.start] + base[moov.end :]


def _empty(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Hold nothing."""
    return b""


def _one_byte(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Hold a single byte."""
    return rng.bytes(1)


def _absurd_dimensions(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say absurd widths and heights in the track's head, in the description of the picture, or in both."""
    width, height = (_any_of(rng, (0, 1, 7, 0x4000, 0x7FFF, 0xFFFF)) for _ in range(2))
    which = int(rng.integers(1, 4))
    if which & 1:
        for atom in _nested(base):
            if atom.name == b"tkhd":
                base = _overwritten(base, atom.end - 8, struct.pack(">HHHH", width, 0, height, 0))
    if which & 2:
        place = base.index(b"avc1", _top(base, b"moov").start)  # the brands in front of it hold the name too
        base = _overwritten(base, place + 28, struct.pack(">HH", width, height))
    return base


def _absurd_frame_times(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say absurd counts or lengths in a table of frame times. Decord aborts its process at a count of 2^31 - 1."""
    table = _one(base, rng, b"stts")
    return _with_number(base, table.payload + _any_of(rng, (4, 8, 12)), _any_of(rng, _ABSURD))


def _absurd_tables(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say absurd counts or values in the tables of sizes, chunks, places, key frames and the order of showing."""
    table = _one(base, rng, b"stsz", b"stco", b"stsc", b"stss", b"ctts")
    places = range(table.payload + 4, table.end - 3, 4)
    for _ in range(_any_of(rng, (1, 1, 3))):
        base = _with_number(base, _any_of(rng, places), _any_of(rng, _ABSURD))
    return base


def _absurd_time_scale(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say absurd units of time."""
    return _with_number(base, _one(base, rng, b"mvhd", b"mdhd").payload + 12, _any_of(rng, (0, 1, 2**31, 2**32 - 1)))


def _absurd_duration(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say absurd durations, of the file, of a track or of its medium."""
    atom = _one(base, rng, b"mvhd", b"tkhd", b"mdhd")
    return _with_number(base, atom.payload + (20 if atom.name == b"tkhd" else 16), _any_of(rng, _ABSURD))


def _absurd_atom_size(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say a size of an atom of the top level that means "to the end", "64 bits follow", or nothing."""
    atoms = _atoms(base)
    return _with_number(base, atoms[rng.integers(len(atoms))].start, _any_of(rng, (0, 1, 2, 7, 9, 2**31, 2**32 - 1)))


def _lying_nested_size(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say a wrong size of an atom within the tables, off by a little or by much."""
    nested = [atom for atom in _nested(base) if atom not in _atoms(base)]
    atom = nested[rng.integers(len(nested))]
    size = atom.end - atom.start
    wrong = (0, 1, 7, 8, size - 4, size - 1, size + 1, size + 4, size * 2, 2**31, 2**32 - 1)
    return _with_number(base, atom.start, _any_of(rng, wrong))


def _odd_edit_list(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say in an edit list that a track starts before its beginning, long after its end, or plays at no speed."""
    entries = _one(base, rng, b"elst")
    field, values = (
        (4, (0, 2, 2**31, 2**32 - 1)),  # how many entries
        (8, (0, 1, 2**31 - 1, 2**32 - 1)),  # how long the first one is shown
        (12, (2**32 - 2, 2**31, 2**31 - 1, 10**6, 2**32 - 1, 512)),  # where it begins, signed; -1 shows nothing
        (16, (0, 2**31, 0xFFFF0000, 0x00000001)),  # how fast
    )[rng.integers(4)]
    return _with_number(base, entries.payload + field, _any_of(rng, values))


def _wrong_sound(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Say a wrong number of channels, depth or rate of the sound, or damage the codec's own words about them."""
    moov = _top(base, b"moov")
    place = base.find(b"mp4a", moov.start)
    if place < 0:  # without sound: the picture's description is called one of sound
        return (
            base[: moov.start]
            + base[moov.start : moov.end].replace(b"vmhd", b"smhd").replace(b"vide", b"soun")
            + (base[moov.end :])
        )
    kind = int(rng.integers(4))
    if kind == 0:
        return _overwritten(base, place + 20, struct.pack(">H", _any_of(rng, (0, 3, 9, 255, 0xFFFF))))
    if kind == 1:
        return _overwritten(base, place + 22, struct.pack(">H", _any_of(rng, (0, 1, 64, 0xFFFF))))
    if kind == 2:
        return _overwritten(base, place + 28, struct.pack(">HH", _any_of(rng, (0, 1, 0xFFFF)), 0))
    esds = base.index(b"esds", place)
    config = base.index(b"\x05\x80\x80\x80", esds) + 5
    return _overwritten(base, config, rng.bytes(2))


def _wrong_picture_config(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Damage what the codec must know before the first picture: its size, its profile, its counts."""
    place = base.index(b"avcC", _top(base, b"moov").start)
    size = int.from_bytes(base[place - 4 : place], "big")
    for _ in range(_any_of(rng, (1, 3))):
        base = _overwritten(base, int(rng.integers(place + 4, place - 4 + size)), rng.bytes(1))
    return base


def _data_cut(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Take a stretch out of the data, up to all of it; the tables are whole and speak of more."""
    mdat = _top(base, b"mdat")
    start = int(rng.integers(mdat.payload, mdat.end))
    end = mdat.end if rng.integers(2) else int(rng.integers(start, mdat.end)) + 1
    return base[:start] + base[end:]


def _other_moov(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Have the tables of another clip."""
    here, there = _top(base, b"moov"), _top(other, b"moov")
    return base[: here.start] + other[there.start : there.end] + base[here.end :]


def _two_clips(base: bytes, other: bytes, rng: _Rng) -> bytes:
    """Be the first part of one clip and the last part of another, or both clips one after the other."""
    if rng.integers(3) == 0:
        return base + other
    return base[: rng.integers(1, len(base))] + other[rng.integers(len(other)) :]


_ALL: tuple[_Damage, ...] = (
    _truncated, _bits_flipped, _zeroed, _noise, _noise_in_moov, _noise_in_mdat, _atoms_swapped, _atom_doubled,
    _foreign_head, _foreign_file, _no_moov, _empty, _one_byte, _absurd_dimensions, _absurd_frame_times, _absurd_tables,
    _absurd_time_scale, _absurd_duration, _absurd_atom_size, _lying_nested_size, _odd_edit_list, _wrong_sound,
    _wrong_picture_config, _data_cut, _other_moov, _two_clips,
)  # fmt: skip
_DAMAGES = {damage.__name__.removeprefix("_").replace("_", "-"): damage for damage in _ALL}

KINDS = tuple(_DAMAGES)
"""The ways in which a clip is damaged; what each does is said at the function of its name."""
