"""What an H.264 stream says of itself before its first picture: the sequence parameter set (ITU-T H.264, 7.3.2.1).

Only what decides who may decode it is kept.
"""

from dataclasses import dataclass

from preprocess.errors import ClipError

__all__ = ["H264Header", "parse_avcc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class H264Header:
    """What all pictures of a stream have in common."""

    length_bytes: int
    """Bytes of the length before each unit of a picture."""
    eight_bit_420: bool
    """Whether the pictures have 8 bits and one colour value to four pixels, as nearly all have."""
    progressive: bool
    """Whether every picture is a whole frame, never a field or two interleaved ones."""
    reorders: bool
    """Whether pictures may be stored in another order than they are shown; True where it does not say."""
    transfer: int
    """How brightness is coded, a number of ITU-T H.273; 2 where it does not say."""


def parse_avcc(config: bytes) -> H264Header:
    """Parse the decoder's configuration, an `avcC` box's content or FFmpeg's extradata of an mp4.

    Raises:
        ClipError: if it is none, or has other than one sequence parameter set.
    """
    if len(config) < 9 or config[0] != 1:
        raise ClipError("the header is damaged: H.264 has no configuration")
    size = int.from_bytes(config[6:8], "big")
    unit = config[8 : 8 + size]
    if config[5] & 31 != 1 or len(unit) < size or not unit or unit[0] & 31 != 7:
        raise ClipError("the header is damaged: H.264 has not one sequence parameter set")
    try:
        return _parse_sequence(_Bits(unit[1:].replace(b"\0\0\3", b"\0\0")), length_bytes=(config[4] & 3) + 1)
    except IndexError as exc:
        raise ClipError("the header is damaged: H.264's sequence parameter set is cut short") from exc


class _Bits:
    """Bits from the highest of the first byte on; raises `IndexError` behind the last."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def take(self, num_bits: int) -> int:
        value = 0
        for _ in range(num_bits):
            byte = self._content[self._place >> 3]
            value = value << 1 | byte >> 7 - (self._place & 7) & 1
            self._place += 1
        return value

    def flag(self) -> bool:
        return bool(self.take(1))

    def exponential(self) -> int:
        """Take a number of Exp-Golomb code: n zeros, a one, n bits."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise IndexError("no such number")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Take a number that may be negative: 0, 1, -1, 2, -2 and so on."""
        number = self.exponential()
        return (number + 1) // 2 if number & 1 else -(number // 2)


_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
"""Profiles whose parameter set says how colours are kept; all others have 8 bits at 4:2:0."""
_NO_REORDERING = {44, 86, 100, 110, 122, 244}
"""Profiles that, with constraint set 3, promise only pictures that need no other: no reordering."""


def _parse_sequence(bits: _Bits, *, length_bytes: int) -> H264Header:
    profile = bits.take(8)
    only_intra = bool(bits.take(8) >> 4 & 1) and profile in _NO_REORDERING
    bits.take(8)  # level
    bits.exponential()  # its own number
    eight_bit_420 = True
    if profile in _WITH_CHROMA:
        chroma = bits.exponential()
        if chroma == 3:
            bits.take(1)
        depths = bits.exponential(), bits.exponential()
        eight_bit_420 = chroma == 1 and depths == (0, 0)
        bits.take(1)
        if bits.flag():
            for number in range(12 if chroma == 3 else 8):
                if bits.flag():
                    _skip_scaling(bits, 16 if number < 6 else 64)
    bits.exponential()  # of the frame's number
    order = bits.exponential()
    if order == 0:
        bits.exponential()
    elif order == 1:
        bits.take(1)
        bits.signed()
        bits.signed()
        for _ in range(min(bits.exponential(), 256)):
            bits.signed()
    bits.exponential()  # frames to refer to
    bits.take(1)
    bits.exponential()  # width
    bits.exponential()  # height
    progressive = bits.flag()
    if not progressive:
        bits.take(1)
    bits.take(1)
    if bits.flag():
        for _ in range(4):
            bits.exponential()  # what is cropped
    transfer, reordered = _parse_usability(bits) if bits.flag() else (2, None)
    reorders = not (only_intra or profile == 66 or order == 2 or reordered == 0)
    return H264Header(
        length_bytes=length_bytes,
        eight_bit_420=eight_bit_420,
        progressive=progressive,
        reorders=reorders,
        transfer=transfer,
    )


def _skip_scaling(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _parse_usability(bits: _Bits) -> tuple[int, int | None]:
    """Parse the video usability information: how brightness is coded, and how many pictures wait for others."""
    transfer = 2
    if bits.flag() and bits.take(8) == 255:
        bits.take(32)  # the shape of a pixel
    if bits.flag():
        bits.take(1)
    if bits.flag():
        bits.take(4)
        if bits.flag():
            bits.take(8)
            transfer = bits.take(8)
            bits.take(8)
    if bits.flag():
        bits.exponential()
        bits.exponential()
    if bits.flag():
        bits.take(65)  # how long a picture is shown
    has_buffers = False
    for _ in range(2):
        if bits.flag():
            _skip_buffers(bits)
            has_buffers = True
    if has_buffers:
        bits.take(1)
    bits.take(1)
    if not bits.flag():
        return transfer, None
    bits.take(1)
    for _ in range(4):
        bits.exponential()
    return transfer, bits.exponential()


def _skip_buffers(bits: _Bits) -> None:
    count = bits.exponential() + 1
    bits.take(8)
    for _ in range(min(count, 32)):
        bits.exponential()
        bits.exponential()
        bits.take(1)
    bits.take(20)
