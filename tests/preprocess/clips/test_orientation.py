import numpy as np
import pytest

from preprocess.clips.orientation import UPRIGHT, Orientation

ONE = 65_536
PICTURE = np.arange(6).reshape(2, 3, 1)  # (H, W, 1): 0 1 2 / 3 4 5


def turned(*matrix: int) -> list[list[int]]:
    """Return what a matrix a b c d makes of the picture."""
    a, b, c, d = (ONE * value for value in matrix)
    full = np.array([[a, b, 0], [c, d, 0], [0, 0, 1 << 30]], np.int32)
    shown: list[list[int]] = Orientation.of_matrix(full).apply(PICTURE)[..., 0].tolist()
    return shown


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((1, 0, 0, 1), [[0, 1, 2], [3, 4, 5]]),
        ((-1, 0, 0, -1), [[5, 4, 3], [2, 1, 0]]),
        ((-1, 0, 0, 1), [[2, 1, 0], [5, 4, 3]]),
        ((1, 0, 0, -1), [[3, 4, 5], [0, 1, 2]]),
        ((0, 1, -1, 0), [[3, 0], [4, 1], [5, 2]]),
        ((0, -1, 1, 0), [[2, 5], [1, 4], [0, 3]]),
        ((0, 1, 1, 0), [[0, 3], [1, 4], [2, 5]]),
        ((0, -1, -1, 0), [[5, 2], [4, 1], [3, 0]]),
    ],
    ids=["upright", "180", "mirrored", "flipped", "clockwise", "counterclockwise", "transposed", "transverse"],
)
def test_a_matrix_moves_every_point_to_where_it_says(matrix: tuple[int, ...], expected: list[list[int]]) -> None:
    assert turned(*matrix) == expected


def test_a_matrix_that_does_nothing_leaves_the_picture_upright() -> None:
    assert Orientation.of_matrix(np.diag([ONE, ONE, 1 << 30]).astype(np.int32)) == UPRIGHT


@pytest.mark.parametrize("degrees", [1, -1, 44, -44])
def test_an_angle_between_the_quarters_counts_as_the_nearest(degrees: int) -> None:
    a, b = (round(ONE * value) for value in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
    assert Orientation.of_matrix(np.array([[a, b, 0], [-b, a, 0], [0, 0, 1 << 30]], np.int32)) == UPRIGHT
