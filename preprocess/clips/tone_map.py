"""Pictures whose brightness is coded for HDR screens (PQ, HLG) -> the brightness that every other clip has.

Shape letters: H height, W width.
"""

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curve", "tone_map"]

Curve = Literal["PQ", "HLG"]
"""SMPTE ST 2084 and ARIB STD-B67, as ITU-R BT.2100 has them."""

_PAPER_WHITE = 203.0
"""Nits of what is white in a picture on such a screen. Source: ITU-R BT.2408; it becomes white here."""
_HLG_PEAK = 1000.0
"""Nits of the screen that HLG is shown on, for which BT.2100 gives the system gamma of 1.2."""
_KNEE = 0.8
"""Light below it, in parts of white, stays as it is; what is brighter is squeezed between it and 1."""
_GAMMA = 2.4
"""Of an ordinary screen. Source: ITU-R BT.1886."""
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
"""Linear light of one in the primaries of the other. Source: ITU-R BT.2087."""
_BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)


def tone_map(coded: NDArray[np.uint16], *, curve: Curve, wide: bool) -> NDArray[np.uint8]:
    """Return `(H, W, 3)` uint8 for an ordinary screen.

    Args:
        coded: `(H, W, 3)`, RGB in the full range of 16 bits, coded by the curve.
        curve: How brightness is coded.
        wide: Whether the colours are those of BT.2020, as they mostly are, and not of BT.709.
    """
    light = _light(curve)[coded]  # (H, W, 3), 1 is paper white
    if curve == "HLG":
        light *= np.maximum(light @ _BT2020_LUMA, 1e-6)[..., None] ** np.float32(0.2)
        light *= np.float32(_HLG_PEAK / _PAPER_WHITE)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), np.float32(1e-6))
    above = np.maximum(brightest - _KNEE, 0) / (1 - _KNEE)
    squeezed = np.minimum(brightest, _KNEE) + (1 - _KNEE) * (1 - np.exp(-above))
    light *= squeezed / brightest  # all three by the same, so that no colour turns into another
    if wide:
        light = light @ _BT2020_TO_BT709.T
    levels: NDArray[np.uint8] = np.round(255 * np.clip(light, 0, 1) ** (1 / _GAMMA)).astype(np.uint8)
    return levels


@cache
def _light(curve: Curve) -> NDArray[np.float32]:
    """Return the light that each of the 65,536 codes means: of paper white for PQ, of the scene for HLG."""
    codes = np.arange(65_536) / 65_535
    if curve == "PQ":
        power = codes ** (1 / 78.84375)
        nits = 10_000 * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
        return (nits / _PAPER_WHITE).astype(np.float32)
    scene = np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    return scene.astype(np.float32)
