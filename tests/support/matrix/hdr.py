"""Files whose brightness is coded for screens that are brighter than paper: PQ and HLG, 10 bits, BT.2020."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.tone_map import Curve
from tests.support.matrix.codecs import picture
from tests.support.matrix.drawing import FRAME_RATE, HEIGHT, WIDTH, draw_pictures
from tests.support.matrix.studio import Studio, run_ffmpeg

_WHITE_NITS = 203.0
"""Of paper on such a screen. Source: ITU-R BT.2408."""
_TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
"""Linear light of BT.709 in the primaries of BT.2020. Source: ITU-R BT.2087."""


def write_hdr(studio: Studio, path: Path, *, curve: Curve, codec: str) -> None:
    """Encode the drawn pictures as light of a screen: their white is paper's."""
    raw = studio.folder / f"{curve}.rgb48"
    if not raw.exists():
        raw.write_bytes(coded(draw_pictures(), curve=curve).astype("<u2").tobytes())
    transfer = {"PQ": "smpte2084", "HLG": "arib-std-b67"}[curve]
    source = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb48le",
        "-video_size",
        f"{WIDTH}x{HEIGHT}",
        "-framerate",
        str(FRAME_RATE),
    ]
    marks = f"setparams=colorspace=bt2020nc:color_primaries=bt2020:color_trc={transfer}:range=tv"
    graph = f"scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le,{marks}"
    run_ffmpeg(*source, "-i", raw, *picture(codec), "-vf", graph, "-pix_fmt", "yuv420p10le", path)


def coded(pictures: NDArray[np.uint8], *, curve: Curve) -> NDArray[np.uint16]:
    """Code ordinary pictures `(..., 3)` as the light of a screen on which white is paper's."""
    nits = (pictures / 255.0) ** 2.4 @ _TO_BT2020.T * _WHITE_NITS
    values = _pq(nits) if curve == "PQ" else _hlg(nits)
    codes: NDArray[np.uint16] = np.round(values * 65_535).astype(np.uint16)
    return codes


def _pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Code light by SMPTE ST 2084."""
    power = (np.clip(nits, 0, 10_000) / 10_000) ** 0.1593017578125
    code: NDArray[np.float64] = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    return code


def _hlg(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Code light of a screen of 1000 nits by ITU-R BT.2100's HLG."""
    display = np.clip(nits / 1000, 0, 1)
    luminance = display @ np.array([0.2627, 0.6780, 0.0593])
    scene = display * np.maximum(luminance, 1e-6)[..., None] ** ((1 - 1.2) / 1.2)
    scene = np.clip(scene, 0, 1)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    low = np.sqrt(3 * scene)
    high = a * np.log(np.maximum(12 * scene - b, 1e-9)) + c
    code: NDArray[np.float64] = np.where(scene <= 1 / 12, low, high)
    return code
