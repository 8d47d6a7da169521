import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from preprocess.doctor.diagnose import Diagnosis, SplitSummary
from preprocess.doctor.findings import Finding
from preprocess.doctor.html_report import render_html
from preprocess.doctor.registry import Listed

HOSTILE = "<script>alert('x')</script>&\"[/]"
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Tags that are not closed in order, and what would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "onclick", "onload"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def make_diagnosis(*findings: Finding, listed: tuple[Listed, ...] = (), name: str = "meld") -> Diagnosis:
    split = SplitSummary(
        name="train", csv=f"{name}.csv", clip_folder="", num_rows=7, official_rows=9989, num_clips=0,
        official_clips=9989, text_form="GitHub's present form", table="",
    )  # fmt: skip
    return Diagnosis(root=Path(name), deep=False, splits=(split,), findings=findings, listed=listed)


def make_listed(**changes: object) -> Listed:
    values: dict[str, object] = {
        "split": "train", "clip": "dia1_utt2", "problem": "wrongly cut", "links": ("https://github.com/a/b/issues/1",),
        "confirmed_by": ("long",), "detectable": True, "clips_here": True,
    }  # fmt: skip
    return Listed(**{**values, **changes})  # type: ignore[arg-type]


def test_the_page_is_whole_and_fetches_nothing() -> None:
    finding = Finding(detector="long", split="train", key="train-dia1-utt2", detail="41 s")
    page = Page(render_html(make_diagnosis(finding, listed=(make_listed(),))))
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert "url(" not in render_html(make_diagnosis(finding))


def test_nothing_of_the_data_set_becomes_markup() -> None:
    finding = Finding(detector="long", split="train", key=HOSTILE, detail=HOSTILE)
    listed = make_listed(clip=HOSTILE, problem=HOSTILE)
    page = Page(render_html(make_diagnosis(finding, listed=(listed,), name=HOSTILE)))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) == 6  # root, CSV, key, detail, clip, problem


def test_errors_come_first_and_are_open() -> None:
    findings = [
        Finding(detector=detector, split="train", key="train-dia1-utt2", detail="")
        for detector in ("surround", "long", "no-audio")
    ]
    sections = re.findall(r'<details class="(\w+)"( open)?>', render_html(make_diagnosis(*findings)))
    assert sections == [("error", " open"), ("warning", ""), ("note", "")]


def test_ten_thousand_findings_are_counted_and_not_all_drawn() -> None:
    findings = [
        Finding(detector="short-row", split="train", key=f"train-{number}", detail="") for number in range(10_000)
    ]
    text = render_html(make_diagnosis(*findings))
    assert "and 9,500 more" in text
    assert len(text) < 200_000


def test_a_data_set_without_findings_is_said_to_have_none() -> None:
    assert "The detectors found nothing" in Page(render_html(make_diagnosis())).text


@pytest.mark.parametrize(("confirmed_by", "words"), [(("long",), "1 of 1"), ((), "0 of 1")])
def test_known_issues_are_counted(confirmed_by: tuple[str, ...], words: str) -> None:
    page = Page(render_html(make_diagnosis(listed=(make_listed(confirmed_by=confirmed_by),))))
    assert words in page.text
