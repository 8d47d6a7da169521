"""A clip that every working decoder reads: where it cannot be read, it is the machine that fails, and no clip."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from preprocess.datasets.annotations import Utterance

__all__ = ["write_known_good"]

_NAME = "known-good.mp4"
_FRAME_RATE, _NUM_FRAMES, _SIZE = 25, 10, 64
_SAMPLE_RATE, _AAC_FRAME = 16_000, 1024


def write_known_good(folder: Path) -> Utterance:
    """Write ten grey pictures and a tone as H.264 and AAC, as MELD's clips are, and return a row of them."""
    container: Any
    with av.open(folder / _NAME, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=_FRAME_RATE, options={"preset": "ultrafast"})
        video.width = video.height = _SIZE
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
        for number in range(_NUM_FRAMES):
            picture = np.full((_SIZE, _SIZE, 3), 20 * number, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        tone = np.sin(np.arange(8 * _AAC_FRAME) / 8).astype(np.float32)[None]
        for start in range(0, tone.shape[1], _AAC_FRAME):
            frame = av.AudioFrame.from_ndarray(tone[:, start : start + _AAC_FRAME], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = _SAMPLE_RATE, start, Fraction(1, _SAMPLE_RATE)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return Utterance(
        key="train-known-good",
        split="train",
        dialogue_id="known-good",
        utterance_id="0",
        turn_index=0,
        speaker="",
        text="",
        text_repaired=False,
        labels={},
        clip=_NAME,
        clip_name=_NAME,
    )
