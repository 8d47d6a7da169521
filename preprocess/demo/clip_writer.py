"""The door to PyAV for writing: small pictures and a waveform become one MELD-like mp4, the same bytes every time.

Shape letters: T frames, H height, W width, N waveform values. Decoding is in `preprocess/clips/clip.py`.
"""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

__all__ = ["write_clip"]

_AAC_FRAME = 1024
"""Values that one AAC frame holds; the encoder accepts no other count except at the end."""
_X264_OPTIONS = {"preset": "ultrafast", "crf": "26", "g": "250", "sc_threshold": "0"}
"""MELD's keyframe distance; a scene-cut keyframe would make seeking in the demo easier than it is in MELD."""
_AAC_OPTIONS = {"aac_coder": "fast"}
"""Three times as fast as the default, which took half of the time of a clip."""


def write_clip(
    path: Path,
    *,
    pictures: NDArray[np.uint8],
    scale: int,
    frame_rate: Fraction,
    waveform: NDArray[np.float32],
    sample_rate: int,
) -> None:
    """Encode H.264 with AAC stereo.

    One thread and no time of day in the file: the same arrays give the same bytes with the same PyAV.

    Args:
        path: the mp4 to write; an older file is replaced.
        pictures: `(T, H, W, 3)` uint8 YUV in limited range (16 to 235 for Y).
        scale: the clip shows each pixel as so many rows and columns; even, since yuv420p stores colours by twos.
        frame_rate: frames per second.
        waveform: `(N,)` in [-1, 1], heard on both channels, as long as the pictures.
        sample_rate: waveform values per second.

    Raises:
        ValueError: if an argument is not as above, or one frame does not last a whole number of waveform values.
    """
    num_frames, height, width, _ = pictures.shape
    if scale < 2 or scale % 2:
        raise ValueError(f"scale must be even and at least 2, got {scale}")
    values_per_frame = sample_rate / frame_rate
    if len(waveform) != num_frames * values_per_frame or values_per_frame.denominator != 1:
        raise ValueError(
            f"waveform must hold {values_per_frame} values for each of {num_frames} frames, got {len(waveform)}"
        )
    with av.open(path.absolute(), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = _add_video(container, height=height * scale, width=width * scale, frame_rate=frame_rate)
        audio = _add_audio(container, sample_rate=sample_rate)
        heard = 0
        for index, picture in enumerate(pictures):
            container.mux(video.encode(_video_frame(picture, scale=scale, index=index, frame_rate=frame_rate)))
            # Interleaved, as a player needs it: the sound that begins while a frame is shown follows it.
            while heard < (index + 1) * values_per_frame and heard < len(waveform):
                values = waveform[heard : heard + _AAC_FRAME]
                container.mux(audio.encode(_audio_frame(values, start=heard, sample_rate=sample_rate)))
                heard += len(values)
        container.mux(video.encode(None))
        container.mux(audio.encode(None))


def _add_video(container: OutputContainer, *, height: int, width: int, frame_rate: Fraction) -> VideoStream:
    video = container.add_stream("libx264", rate=frame_rate, options=_X264_OPTIONS)
    video.width, video.height = width, height
    video.pix_fmt = "yuv420p"
    video.codec_context.thread_count = 1
    video.codec_context.flags |= Flags.bitexact
    return video


def _add_audio(container: OutputContainer, *, sample_rate: int) -> AudioStream:
    audio = container.add_stream("aac", rate=sample_rate, layout="stereo", format="fltp", options=_AAC_OPTIONS)
    audio.bit_rate = 64_000
    audio.codec_context.thread_count = 1
    audio.codec_context.flags |= Flags.bitexact
    return audio


def _video_frame(picture: NDArray[np.uint8], *, scale: int, index: int, frame_rate: Fraction) -> av.VideoFrame:
    """Enlarge `(H, W, 3)` by `scale`, the colour planes by half of it, which is what yuv420p stores."""
    luma = _enlarge(picture[..., 0], scale=scale)
    chroma = [_enlarge(picture[..., channel], scale=scale // 2) for channel in (1, 2)]
    planes = np.concatenate([plane.reshape(-1, luma.shape[1]) for plane in (luma, *chroma)])
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    frame.pts = index
    frame.time_base = 1 / frame_rate
    return frame


def _enlarge(plane: NDArray[np.uint8], *, scale: int) -> NDArray[np.uint8]:
    """Repeat each pixel of `(H, W)`; whole rows are copied, several times faster than `repeat` on both axes."""
    wide = plane.repeat(scale, axis=1)
    return np.broadcast_to(wide[:, None], (len(plane), scale, wide.shape[1])).reshape(-1, wide.shape[1])


def _audio_frame(values: NDArray[np.float32], *, start: int, sample_rate: int) -> av.AudioFrame:
    """Make a stereo frame of `(N,)` values that are heard from value `start` of the clip."""
    frame = av.AudioFrame.from_ndarray(np.stack([values, values]), format="fltp", layout="stereo")
    frame.sample_rate = sample_rate
    frame.pts = start
    frame.time_base = Fraction(1, sample_rate)
    return frame
