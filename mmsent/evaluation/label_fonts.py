"""Fonts of this machine that can show labels in any script."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

__all__ = ["LabelTexts", "label_texts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTexts:
    """Labels as a figure can show them.

    Attributes:
        texts: The labels; of one with letters that no font has, `#` and its index.
        families: Font families to show them with, in the order in which they are asked for a letter.
    """

    texts: list[str]
    families: list[str]


def label_texts(names: Sequence[str]) -> LabelTexts:
    """Find fonts for all letters of some labels; without them matplotlib draws boxes and warns.

    Args:
        names: Labels of a task, in the order of their indices.
    """
    families = ["DejaVu Sans"]  # comes with matplotlib
    missing = {ord(letter) for name in names for letter in name if letter.isprintable() and letter != " "}
    missing -= _letters_of(font_manager.findfont(families[0]))
    if missing:
        for family, path in sorted({(entry.name, entry.fname) for entry in font_manager.fontManager.ttflist}):
            if found := missing & _letters_of(path):
                families.append(family)
                missing -= found
    texts = [f"#{index}" if {ord(letter) for letter in name} & missing else name for index, name in enumerate(names)]
    return LabelTexts(texts=texts, families=list(dict.fromkeys(families)))


def _letters_of(path: str) -> set[int]:
    """Return the code points that a font has outlines for; none of a font that cannot be read or scaled."""
    try:
        font = FT2Font(path)
    except (RuntimeError, OSError):
        return set()
    return set(font.get_charmap()) if font.scalable else set()
