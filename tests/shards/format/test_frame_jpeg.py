import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.format.frame_jpeg import decode_frame_jpeg, encode_frame_jpeg
from tests.support.clips import index_pictures

SHAPE = (4, 16, 24, 3)
JPEG = encode_frame_jpeg(index_pictures(4, height=16, width=24), quality=90)


@given(num_frames=st.integers(1, 5), height=st.integers(1, 40), width=st.integers(1, 40), colour=st.integers(0, 255))
def test_one_colour_comes_back_in_every_shape(num_frames: int, height: int, width: int, colour: int) -> None:
    frames = np.full((num_frames, height, width, 3), colour, np.uint8)
    again = decode_frame_jpeg(encode_frame_jpeg(frames, quality=90), shape=(num_frames, height, width, 3))
    assert again.shape == frames.shape
    assert again.dtype == np.uint8
    assert np.abs(again.astype(int) - frames).max() <= 2


def test_frames_of_whole_blocks_do_not_touch_each_other() -> None:
    frames = index_pictures(4, height=16, width=24)
    together = decode_frame_jpeg(encode_frame_jpeg(frames, quality=50), shape=SHAPE)
    for number in range(4):
        alone = decode_frame_jpeg(encode_frame_jpeg(frames[number : number + 1], quality=50), shape=(1, *SHAPE[1:]))
        np.testing.assert_array_equal(together[number], alone[0])


def test_a_higher_quality_is_nearer_and_larger() -> None:
    frames = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    jpegs = [encode_frame_jpeg(frames, quality=quality) for quality in (30, 60, 95)]
    errors = [np.abs(decode_frame_jpeg(jpeg, shape=SHAPE).astype(int) - frames).mean() for jpeg in jpegs]
    assert errors == sorted(errors, reverse=True)
    assert [len(jpeg) for jpeg in jpegs] == sorted(len(jpeg) for jpeg in jpegs)


def test_a_strip_that_no_jpeg_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="600 frames of 112x8 are too many pixels"):
        encode_frame_jpeg(np.zeros((600, 112, 8, 3), np.uint8), quality=90)


@pytest.mark.parametrize(
    "jpeg",
    [JPEG[:0], JPEG[:50], JPEG[: len(JPEG) // 2], np.frombuffer(b"GIF89a" + bytes(50), np.uint8)],
    ids=["empty", "header", "half", "gif"],
)
def test_what_is_no_whole_jpeg_is_refused(jpeg: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="no JPEG"):
        decode_frame_jpeg(jpeg, shape=SHAPE)


def test_a_jpeg_of_another_size_is_refused_naming_both() -> None:
    with pytest.raises(ValueError, match=r"\(24, 64\) RGB, not of 4 frames of 16x32"):
        decode_frame_jpeg(JPEG, shape=(4, 16, 32, 3))
