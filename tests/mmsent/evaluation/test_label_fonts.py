import pytest

from mmsent.evaluation.label_fonts import label_texts


def test_letters_that_matplotlib_has_need_no_other_font() -> None:
    found = label_texts(["joy", "tristesse à côté", "радость"])
    assert found.texts == ["joy", "tristesse à côté", "радость"]
    assert found.families == ["DejaVu Sans"]


def test_a_label_that_no_font_can_show_is_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.font_manager.fontManager.ttflist", [])
    assert label_texts(["sad", "喜び", "a 喜"]).texts == ["sad", "#1", "#2"]


def test_spaces_and_line_ends_are_no_letters_to_look_for() -> None:
    assert label_texts(["a\nb c\t"]).texts == ["a\nb c\t"]
