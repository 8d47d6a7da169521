from typing import get_args

import numpy as np
import pytest

from preprocess.clips.tone_map import Curve, tone_map
from tests.support.matrix.hdr import coded

GREYS = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(1, 256, 3)  # (1, 256, 3)
each_curve = pytest.mark.parametrize("curve", get_args(Curve))


@each_curve
def test_what_is_darker_than_paper_comes_back_as_it_was(curve: Curve) -> None:
    shown = tone_map(coded(GREYS, curve=curve), curve=curve, wide=True)
    np.testing.assert_allclose(shown[0, :230].astype(int), GREYS[0, :230], atol=2)


@each_curve
def test_what_is_brighter_than_paper_grows_to_white_and_never_falls(curve: Curve) -> None:
    codes = np.repeat(np.arange(65_536, dtype=np.uint16), 3).reshape(1, -1, 3)
    shown = tone_map(codes, curve=curve, wide=True)[0, :, 1].astype(int)
    assert (np.diff(shown) >= 0).all()
    assert (shown[0], shown[-1]) == (0, 255)


@each_curve
@pytest.mark.parametrize("colour", [(220, 30, 30), (30, 200, 30), (30, 30, 220)])
def test_a_colour_stays_what_it_is(curve: Curve, colour: tuple[int, int, int]) -> None:
    picture = np.array(colour, np.uint8).reshape(1, 1, 3)
    shown = tone_map(coded(picture, curve=curve), curve=curve, wide=True)
    np.testing.assert_allclose(shown[0, 0].astype(int), colour, atol=4)


def test_colours_that_are_not_wide_are_not_narrowed() -> None:
    picture = np.array((30_000, 20_000, 20_000), np.uint16).reshape(1, 1, 3)
    wide, narrow = (tone_map(picture, curve="PQ", wide=value)[0, 0].astype(int) for value in (True, False))
    assert wide[0] - wide[1] > narrow[0] - narrow[1]
