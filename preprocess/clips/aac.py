"""What AAC's own configuration, inside an mp4's `esds` box, says of a sound."""

__all__ = ["parse_esds"]


def parse_esds(descriptor: memoryview) -> tuple[int, int] | None:
    """Return the channels and the sample rate in Hz, 0 for what is left open; None where there is no configuration.

    Args:
        descriptor: What follows version and flags in the box.
    """
    config = _specific_config(descriptor)
    if config is None or len(config) < 2:
        return None
    bits = int.from_bytes(config[:8].ljust(8, b"\0"), "big")
    left = 64

    def take(num_bits: int) -> int:
        nonlocal left
        left -= num_bits
        return bits >> left & (1 << num_bits) - 1

    if take(5) == 31:
        take(6)
    rate_index = take(4)
    rate = take(24) if rate_index == 15 else _SAMPLE_RATES[rate_index] if rate_index < len(_SAMPLE_RATES) else 0
    return _CHANNELS.get(take(4), 0), rate


_CHANNELS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6, 7: 8}
"""Channels of an AAC channelConfiguration (ISO/IEC 14496-3, table 1.19)."""
_SAMPLE_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def _specific_config(descriptor: memoryview) -> bytes | None:
    """Go down the descriptors of an `esds` (ISO/IEC 14496-1): ES, DecoderConfig, DecoderSpecificInfo."""
    for wanted, skipped in ((3, 3), (4, 13), (5, 0)):
        if not descriptor or descriptor[0] != wanted:
            return None
        start = size = 0
        for start in range(1, min(5, len(descriptor))):
            size = size << 7 | descriptor[start] & 0x7F
            if not descriptor[start] & 0x80:
                break
        descriptor = descriptor[start + 1 : start + 1 + size]
        if wanted == 3 and len(descriptor) > 2 and descriptor[2] & 0xE0:
            return None  # optional fields, which no clip of this kind has
        descriptor = descriptor[skipped:]
    return bytes(descriptor)
