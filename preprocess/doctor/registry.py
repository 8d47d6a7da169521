"""What is publicly known of MELD: official counts, published tables, and issues people reported, with links."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from preprocess.datasets.annotations import Dataset, DatasetSplit
from preprocess.doctor.findings import DETECTORS, Finding
from shards.schema import SPLITS

__all__ = ["GENERATIONS", "Issue", "Listed", "OfficialSplit", "Registry", "compare", "load_registry", "parse_registry"]

Generation = Literal["present", "first"]

GENERATIONS: Mapping[Generation, str] = {
    "present": "GitHub's present form",
    "first": "first published (before 2020-11, MELD pull request 28)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialSplit:
    """How much of a split MELD has."""

    name: str
    rows: int
    clips: int
    """mp4 files of the official package: also those without a row, and second ones of a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A CSV as it was published."""

    split: str
    generation: Generation
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Trouble with clips that somebody reported."""

    split: str
    clips: tuple[str, ...]
    """Names without `.mp4`, as patterns: `dia12_utt3`, `final_videos_testdia*_utt*`."""
    problem: str
    links: tuple[str, ...]
    detectable_by: tuple[str, ...]
    """Detectors of which one is to find it; empty where it takes a person."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}, not one of {', '.join(SPLITS)}")
        if not self.clips or not self.problem or not self.links:
            raise ValueError(f"an issue of {self.split} lacks its clips, its problem or its links: {self}")
        if bad := [link for link in self.links if not link.startswith("https://")]:
            raise ValueError(f"no links: {', '.join(bad)}")
        if unknown := [name for name in self.detectable_by if name not in DETECTORS]:
            raise ValueError(f"there is no detector {', '.join(unknown)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What is publicly known of a data set."""

    splits: Mapping[str, OfficialSplit]
    tables: tuple[Table, ...]
    issues: tuple[Issue, ...]

    def generation_of(self, split: str, sha256: str) -> Generation | None:
        """Return which published table a CSV is, byte for byte; None for another."""
        found = (table for table in self.tables if (table.split, table.sha256) == (split, sha256))
        return next((table.generation for table in found), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A row or a file of the data set that the registry lists."""

    split: str
    clip: str
    """Its name without `.mp4`."""
    problem: str
    links: tuple[str, ...]
    confirmed_by: tuple[str, ...]
    """Detectors that found it in this data set."""
    detectable: bool
    """Whether some detector could find it."""
    clips_here: bool
    """Whether there are clips of its split to look at."""

    @property
    def verdict(self) -> str:
        """What the data say to it, in words."""
        if self.confirmed_by:
            return f"confirmed by {', '.join(self.confirmed_by)}"
        if not self.detectable:
            return "listed; no detector can tell"
        return "listed, not seen here" if self.clips_here else "listed; there are no clips to look at"


@cache
def load_registry() -> Registry:
    """Read the registry that comes with the package."""
    return parse_registry(files("preprocess.doctor").joinpath("meld_registry.toml").read_text("utf-8"))


def parse_registry(text: str) -> Registry:
    """Read a registry.

    Raises:
        ValueError: if it is no TOML, a field is missing or unknown, or a value is none it can have.
    """
    values: dict[str, list[dict[str, Any]]] = tomllib.loads(text)
    try:
        splits = {item["name"]: OfficialSplit(**item) for item in values["splits"]}
        tables = tuple(Table(**item) for item in values["tables"])
        issues = tuple(_parse_issue(item) for item in values["issues"])
    except (KeyError, TypeError) as exc:
        raise ValueError(f"a field is missing or unknown: {exc}") from exc
    return Registry(splits=splits, tables=tables, issues=issues)


def compare(registry: Registry, dataset: Dataset, findings: Iterable[Finding]) -> list[Listed]:
    """Return what the registry lists of the rows and files there are, and which detectors found it too."""
    found: dict[tuple[str, str], set[str]] = {}
    for finding in findings:
        name = finding.file.rpartition("/")[2].removesuffix(".mp4")
        for clip in {name, finding.key.partition("-")[2].replace("-", "_")} - {""}:
            found.setdefault((finding.split, clip), set()).add(finding.detector)
    listed = []
    for split in dataset.splits:
        names = _names(split)
        clips_here = any(row.clip or row.twin for row in split.utterances)
        for issue in (issue for issue in registry.issues if issue.split == split.name):
            for name in (name for name in names if any(fnmatchcase(name, clip) for clip in issue.clips)):
                seen = found.get((split.name, name), set())
                listed.append(
                    Listed(
                        split=split.name,
                        clip=name,
                        problem=issue.problem,
                        links=issue.links,
                        confirmed_by=tuple(detector for detector in issue.detectable_by if detector in seen),
                        detectable=bool(issue.detectable_by),
                        clips_here=clips_here,
                    )
                )
    return listed


def _parse_issue(item: dict[str, Any]) -> Issue:
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in item.items()}
    return Issue(**values)


def _names(split: DatasetSplit) -> list[str]:
    """Return the names of a split's rows, and of its files that no row has."""
    rows = [f"dia{row.dialogue_id}_utt{row.utterance_id}" for row in split.utterances]
    return rows + [name.removesuffix(".mp4") for name in (*split.orphan_clips, *split.twins)]
