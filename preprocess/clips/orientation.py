"""How a picture is to be turned and mirrored before it is shown, as phones say it.

Shape letters: H height, W width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UPRIGHT", "Orientation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orientation:
    """One of the eight ways to lay a picture down."""

    transposed: bool = False
    """Whether rows become columns, before the rest."""
    rows_reversed: bool = False
    columns_reversed: bool = False

    @classmethod
    def of_matrix(cls, matrix: NDArray[np.int32]) -> "Orientation":
        """Read a display matrix, `(3, 3)`; one that turns by another angle than a quarter counts as the nearest.

        A point (x, y) of the stored picture, y downwards, is shown at (a x + c y, b x + d y).
        """
        (a, b), (c, d) = matrix[:2, :2].tolist()
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(rows_reversed=d < 0, columns_reversed=a < 0)
        return cls(transposed=True, rows_reversed=b < 0, columns_reversed=c < 0)

    def apply(self, picture: NDArray[Any]) -> NDArray[Any]:
        """Return a picture `(H, W, 3)` as it is to be shown; `(W, H, 3)` if transposed."""
        if self.transposed:
            picture = picture.swapaxes(0, 1)
        if self.rows_reversed:
            picture = picture[::-1]
        return picture[:, ::-1] if self.columns_reversed else picture


UPRIGHT = Orientation()
