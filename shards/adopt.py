"""Make tars that another program wrote loadable: find out what is in them and write the index beside them.

Nothing in a tar is changed. What the tars do not tell is `unknown` in the spec, see `shards.foreign`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError, describe
from shards.foreign import Label, foreign_spec, is_foreign
from shards.index import INDEX_NAME, Index, ShardInfo, read_index, sha256_file, sync_directory, write_index
from shards.scan import Scanned, scan_tar
from shards.schema import FeatureSpec, LabelSet
from shards.table import row_dtype, write_table

__all__ = ["AdoptedSplit", "adopt_tars"]

_LOG = logging.getLogger(__name__)

_MAX_LABELS = 1000
"""Of a task. More are captions or numbers rather than classes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedSplit:
    """A split that was made loadable."""

    name: str
    num_shards: int
    num_samples: int
    ignored: tuple[str, ...]
    """Extensions of members, and names of files, that are not of a sample of ours."""


def adopt_tars(
    directory: Path, *, on_progress: Callable[[str, int, int], None] = lambda split, done, total: None
) -> tuple[AdoptedSplit, ...]:
    """Index all tars of a folder: those in it are one split, or those in each of its sub-folders are.

    All splits get the same spec and label sets, so that what is trained on one can be scored on another. If every label
    has an index, that orders the names of a task; if none has, they are sorted.

    Args:
        directory: The folder.
        on_progress: Called with the split, tars done and tars in all.

    Returns:
        What was indexed, by the name of the split's folder.

    Raises:
        ShardError: if there are no tars, a split has an index that was not made here, a tar cannot be used, or samples
            differ in shapes, tasks or the indices of labels; with the tar and the sample. Nothing is written then.
    """
    tars = {folder: _tars_of(folder) for folder in _split_folders(directory)}
    for folder in tars:
        _check_ours_to_index(folder)
    common = _Common()
    found = {folder: [*_scan_all(folder, paths, common, on_progress)] for folder, paths in tars.items()}
    for folder, shards in found.items():
        if not sum(shard.num_samples for shard in shards):
            raise ShardError(describe("there are no samples in these tars", file=folder, then="`tar tf` lists a tar"))
    for (first, second), keys in common.shared.items():
        _LOG.warning(
            "%d samples are in %s and in %s, %s for one: scores on the second flatter what is trained on the first",
            len(keys), first, second, keys[0],
        )  # fmt: skip
    label_sets = [book.label_set(directory) for book in common.books]
    return tuple(_write(folder, shards, common.spec(), label_sets) for folder, shards in found.items())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shard:
    path: Path
    bytes: int
    rows: NDArray[Any]
    """Of `row_dtype`, with labels numbered as they came; `(0,)` of anything without samples."""
    ignored: frozenset[str]

    @property
    def num_samples(self) -> int:
        return len(self.rows)


def _scan_all(
    folder: Path, paths: Sequence[Path], common: "_Common", on_progress: Callable[[str, int, int], None]
) -> Iterator[_Shard]:
    keys: dict[str, str] = {}
    for number, path in enumerate(paths):
        on_progress(folder.name, number, len(paths))
        size = path.stat().st_size
        rows = []
        ignored: set[str] = set()
        for sample in scan_tar(path):
            if keys.setdefault(sample.key, path.name) != path.name:
                what = f"{sample.key} is also in {keys[sample.key]}"
                raise ShardError(describe(what, file=path, then="give each sample of a split a key of its own"))
            rows.append(common.add(sample, path))
            common.note_split(sample, folder.name)
            ignored |= sample.ignored
        table = np.array(rows, dtype=row_dtype(len(common.tasks)))
        yield _Shard(path=path, bytes=size, rows=table, ignored=frozenset(ignored))
    on_progress(folder.name, len(paths), len(paths))


@dataclass(slots=True)
class _Common:
    """What all samples of all splits must have in common; made by the first, held against the others."""

    first: Scanned | None = None
    first_path: Path = field(default_factory=Path)
    tasks: tuple[str, ...] = ()
    largest_token: int = -1
    books: list["_LabelBook"] = field(default_factory=list)
    splits: dict[tuple[str, int], str] = field(default_factory=dict)
    """The split of each sample, by its key and the CRC-32 of its content."""
    shared: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """Keys of samples that are in two splits with the same content, by these."""

    def note_split(self, sample: Scanned, split: str) -> None:
        """Note where a sample is; a key alone may well come again, as MELD's ids do in every split."""
        first = self.splits.setdefault((sample.key, sample.crc32), split)
        if first != split:
            self.shared.setdefault((first, split), []).append(sample.key)

    def add(self, sample: Scanned, path: Path) -> tuple[Any, ...]:
        """Check a sample and return its row, its labels numbered as they came.

        Raises:
            ShardError: if it does not fit the first one.
        """
        if not sample.facts.labels:
            then = 'write "labels": {"emotion": "joy"} or the like into each json'
            raise ShardError(describe(f"the json of {sample.key} has no labels", file=path, then=then))
        if self.first is None:
            self.first, self.first_path = sample, path
            self.tasks = tuple(sorted(sample.facts.labels))
            self.books = [_LabelBook(task) for task in self.tasks]
        for what, ours, theirs in (
            ("shapes", sample.outline, self.first.outline),
            ("label tasks", sorted(sample.facts.labels), list(self.tasks)),
        ):
            if ours != theirs:
                then = "all samples of a folder must be alike; put others into another folder"
                what = f"{what} of {sample.key} are {ours}, those of {self.first.key} in {self.first_path} {theirs}"
                raise ShardError(describe(what, file=path, then=then))
        self.largest_token = max(self.largest_token, sample.largest_token)
        where = f"{path}, {sample.key}"
        return sample.row([book.number(sample.facts.labels[book.task], where) for book in self.books])

    def spec(self) -> FeatureSpec:
        """Return the spec of all samples, of which there must be one."""
        assert self.first is not None
        arrays = self.first.arrays
        return foreign_spec(
            shapes={name: member.shape for name, member in arrays.items() if member.is_raw},
            storage="jpeg" if arrays["video"].is_jpeg else "raw",
            vocab_size=self.largest_token + 1,
            widths={name: member.shape[0] for name, member in arrays.items() if not member.is_raw},
        )


class _LabelBook:
    """The labels of one task as they come by, and the order that they get in the end."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._numbers: dict[str, int] = {}
        self._index_of: dict[str, int] = {}
        self._name_of: dict[int, str] = {}

    def number(self, label: Label, where: str) -> int:
        """Return the number of a label in the order of appearance.

        Raises:
            ShardError: if its index is not that of other samples.
        """
        known = self._index_of.setdefault(label.name, label.index)
        name = self._name_of.setdefault(label.index, label.name) if label.index >= 0 else label.name
        if known != label.index or name != label.name:
            before = f"{label.name} had index {known}" if known != label.index else f"index {known} was {name}"
            what = f"the label of {self.task} is {label.name} with index {label.index}; before, {before}"
            then = "make names and indices fit each other in all tars, or leave all indices out (-1 means none)"
            raise ShardError(describe(what, file=where, then=then))
        if len(self._numbers) > _MAX_LABELS:
            what = f"{self.task} has more than {_MAX_LABELS:,} different labels"
            raise ShardError(describe(what, file=where, then="leave out what is no class of a sample"))
        return self._numbers.setdefault(label.name, len(self._numbers))

    def label_set(self, where: Path) -> tuple[LabelSet, NDArray[np.int16]]:
        """Return the labels in their order, and of each number the index.

        Raises:
            ShardError: if some labels have an index and others have none, or an index is missing between them.
        """
        names = sorted(self._numbers, key=lambda name: (self._index_of[name], name))
        indices = [self._index_of[name] for name in names]
        if indices not in ([-1] * len(names), list(range(len(names)))):
            what = (
                f"the labels of {self.task} have the indices {dict(zip(names, indices, strict=True))} (-1 means none)"
            )
            then = "needed are 0, 1, 2, … without a gap, as all samples of all splits give them, or no index at all"
            raise ShardError(describe(what, file=where, then=then))
        place = {self._numbers[name]: index for index, name in enumerate(names)}
        return LabelSet(task=self.task, names=tuple(names)), np.array([place[i] for i in range(len(names))], np.int16)


def _split_folders(directory: Path) -> list[Path]:
    def holds_tars(folder: Path) -> bool:
        return any(_looks_like_a_tar(path) for path in folder.iterdir())

    if not directory.is_dir():
        raise ShardError(describe("there is no such folder", file=directory, then="check the path"))
    below = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [path for path in below if holds_tars(path)]
    if holds_tars(directory):
        if found:
            what = f"there are tars in the folder and in {found[0].name}/ below it"
            then = "put each split into a folder of its own, side by side"
            raise ShardError(describe(what, file=directory, then=then))
        return [directory.resolve()]
    if not found:
        then = "give a folder of tars, or of splits with tars: DIR/train/*.tar"
        raise ShardError(describe("there are no tars here", file=directory, then=then))
    return found


def _looks_like_a_tar(path: Path) -> bool:
    name = path.name.lower()
    return path.is_file() and not name.startswith(".") and (".tar" in path.suffixes or name.endswith((".tar", ".tgz")))


def _tars_of(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if _looks_like_a_tar(path))
    if packed := [path for path in found if path.suffix != ".tar"]:
        what = "a tar is compressed, or its name does not end in .tar"
        raise ShardError(describe(what, file=packed[0], then="unpack it, for example by `gzip -d`; or rename it"))
    return found


def _check_ours_to_index(folder: Path) -> None:
    path = folder / INDEX_NAME
    if not path.exists():
        return
    try:
        known = not is_foreign(read_index(folder).spec)
        why = "the split has its index, which knows more than the tars tell"
    except ShardError as exc:
        known, why = True, str(exc).splitlines()[0]
    if known:
        then = "check it by `mmsent verify`; or delete it, if these tars are to be indexed by what they hold alone"
        raise ShardError(describe(why, file=path, then=then))


def _write(
    folder: Path,
    found: Sequence[_Shard],
    spec: FeatureSpec,
    label_sets: Sequence[tuple[LabelSet, NDArray[np.int16]]],
) -> AdoptedSplit:
    for shard in found:
        for task, (_, place) in enumerate(label_sets if shard.num_samples else ()):
            shard.rows["labels"][:, task] = place[shard.rows["labels"][:, task]]
    num_samples = sum(shard.num_samples for shard in found)
    (folder / INDEX_NAME).unlink(missing_ok=True)  # the split is unfinished until all of this is there
    sync_directory(folder)
    index = Index(
        split=folder.name,
        spec=spec,
        label_sets=tuple(labels for labels, _ in label_sets),
        shards=tuple(
            ShardInfo(
                name=shard.path.name,
                bytes=shard.bytes,
                num_samples=shard.num_samples,
                sha256=sha256_file(shard.path),
                inputs_sha256="",
            )
            for shard in found
        ),
        samples_sha256=write_table(
            folder,
            (shard.rows for shard in found if shard.num_samples),
            num_samples=num_samples,
            num_tasks=len(label_sets),
        ),
    )
    write_index(folder, index)
    ignored = sorted(frozenset().union(*(shard.ignored for shard in found)))
    return AdoptedSplit(name=folder.name, num_shards=len(found), num_samples=num_samples, ignored=tuple(ignored))
