"""Pictures that carry their number and which way is up, and sound that carries its time; and how to read them back.

Shape letters: T frames, H height, W width, N waveform values.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BEEPS",
    "FRAME_RATE",
    "HEIGHT",
    "NUM_PICTURES",
    "SECONDS",
    "WIDTH",
    "corners",
    "draw_pictures",
    "levels",
    "numbers",
    "speak",
]

HEIGHT, WIDTH = 120, 160
FRAME_RATE = 25
NUM_PICTURES = 50
SECONDS = NUM_PICTURES / FRAME_RATE
BEEPS = {900.0: (0.4, 0.6), 1500.0: (1.0, 1.2), 2500.0: (1.6, 1.8)}
"""Start and end in seconds of each beep, by its frequency in Hz; a quiet tone sounds all the time."""

_DARKEST, _BRIGHTEST = 20, 235
_QUARTERS = {"r": (220, 30, 30), "g": (30, 200, 30), "b": (30, 30, 220), "w": (235, 235, 235)}
_BASE_HERTZ, _BASE_LEVEL, _BEEP_LEVEL = 300.0, 0.02, 0.4


def draw_pictures(num_pictures: int = NUM_PICTURES, *, height: int = HEIGHT, width: int = WIDTH) -> NDArray[np.uint8]:
    """Draw `(T, H, W, 3)`: quarters red, green / blue, white, in the middle a grey that grows with the number."""
    pictures = np.empty((num_pictures, height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    places = [
        (rows, columns)
        for rows in (slice(0, top), slice(top, height))
        for columns in (slice(0, left), slice(left, width))
    ]
    for (rows, columns), colour in zip(places, _QUARTERS.values(), strict=True):
        pictures[:, rows, columns] = colour
    greys = np.round(_DARKEST + (_BRIGHTEST - _DARKEST) * np.arange(num_pictures) / (NUM_PICTURES - 1))
    pictures[:, height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = greys[:, None, None, None]
    return pictures


def levels(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean colours `(T, 5, 3)` of four corners (as read) and of the middle."""
    height, width = frames.shape[1:3]
    top, bottom = slice(height // 24 + 1, height // 5), slice(height - height // 5, height - height // 24 - 1)
    left, right = slice(width // 24 + 1, width // 5), slice(width - width // 5, width - width // 24 - 1)
    middle = (slice(height * 3 // 8, height * 5 // 8), slice(width * 3 // 8, width * 5 // 8))
    places = ((top, left), (top, right), (bottom, left), (bottom, right), middle)
    return np.stack([frames[:, rows, columns].mean(axis=(1, 2)) for rows, columns in places], axis=1)


def numbers(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return `(T,)`: the number that each frame shows, between two where its grey is."""
    grey = levels(frames)[:, 4].mean(axis=-1)
    read: NDArray[np.float64] = (grey - _DARKEST) / (_BRIGHTEST - _DARKEST) * (NUM_PICTURES - 1)
    return read


def corners(frame: NDArray[np.uint8]) -> str:
    """Return the colours of the corners of `(H, W, 3)` as read: `rgbw` for a picture that stands upright."""
    found = levels(frame[None])[0, :4]
    colours = np.array(list(_QUARTERS.values()))
    nearest = np.square(found[:, None] - colours).sum(axis=-1).argmin(axis=1)
    return "".join("rgbw"[number] for number in nearest)


def speak(
    *, sample_rate: int = 48_000, num_channels: int = 1, seconds: float = SECONDS, beeps: bool = True
) -> NDArray[np.float32]:
    """Return `(channels, N)`: a quiet tone and the beeps at their times, the same in every channel."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    values = _BASE_LEVEL * np.sin(2 * np.pi * _BASE_HERTZ * times)
    for hertz, (start, end) in BEEPS.items() if beeps else ():
        inside = (times >= start) & (times < end)
        values += np.where(inside, _BEEP_LEVEL * np.sin(2 * np.pi * hertz * times), 0)
    return np.repeat(values[None].astype(np.float32), num_channels, axis=0)
