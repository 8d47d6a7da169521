"""The matrix: every file that both decoders are held against ffmpeg with."""

from tests.support.matrix.case import Case
from tests.support.matrix.picture_cases import picture_cases
from tests.support.matrix.sound_cases import sound_cases

__all__ = ["all_cases"]


def all_cases() -> list[Case]:
    """Return the whole matrix, no two alike in name."""
    return [*picture_cases(), *sound_cases()]
