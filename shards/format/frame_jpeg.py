"""Frames as one JPEG, one below the other: smaller shards, for a decode per sample. The one door to Pillow.

Shape letters: T frames, H height, W width, N bytes.
"""

import io
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_frame_jpeg", "encode_frame_jpeg", "encoder_version", "frame_jpeg_size"]

_CHROMA_444 = 0
"""Full colour resolution: at 112 pixels a face's colour is a few blocks wide (benchmarks/storage.py has the cost)."""


def encoder_version() -> str:
    """Return the version of the encoder, since it decides bytes."""
    from PIL import features

    return f"pillow {version('pillow')}, libjpeg {features.version('jpg')}"


def encode_frame_jpeg(frames: NDArray[np.uint8], *, quality: int) -> NDArray[np.uint8]:
    """Encode `(T, H, W, 3)` RGB as a JPEG of `(T * H, W)` pixels, `(N,)` bytes.

    Blocks are 8x8 pixels, so frames whose height is a multiple of 8 do not touch each other.

    Raises:
        ValueError: if it would be higher or wider than the 65,535 pixels that a JPEG may have.
    """
    from PIL import Image

    num_frames, height, width, _ = frames.shape
    if max(num_frames * height, width) > 65_535:
        raise ValueError(
            f"{num_frames} frames of {height}x{width} are too many pixels for one JPEG; the most is 65,535"
        )
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(frames).reshape(num_frames * height, width, 3))
    image.save(buffer, "jpeg", quality=quality, subsampling=_CHROMA_444)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def decode_frame_jpeg(jpeg: NDArray[np.uint8], *, shape: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Decode what `encode_frame_jpeg` wrote to `shape` `(T, H, W, 3)`.

    Raises:
        ValueError: if it is no such JPEG.
    """
    from PIL import Image

    num_frames, height, width, _ = shape
    try:
        with Image.open(io.BytesIO(jpeg.tobytes()), formats=("JPEG",)) as image:
            if image.mode != "RGB" or image.size != (width, num_frames * height):
                raise ValueError(f"a JPEG of {image.size} {image.mode}, not of {num_frames} frames of {height}x{width}")
            pixels = np.asarray(image)
    except OSError as exc:  # what Pillow raises of damaged files; UnidentifiedImageError is one
        raise ValueError(f"no JPEG: {exc}") from exc
    return pixels.reshape(shape)


def frame_jpeg_size(jpeg: bytes | memoryview) -> tuple[int, int]:
    """Return height and width of a JPEG from its header alone.

    Raises:
        ValueError: if it is no JPEG.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return image.height, image.width
    except OSError as exc:
        raise ValueError(f"no JPEG: {exc}") from exc
