"""A folder that shards are made in: claimed by its manifest, one run at a time, rid of what no run needs any more."""

import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from shards.errors import ShardError, SpecMismatchError, describe
from shards.files import publish, sweep
from shards.format.index import ShardInfo
from shards.lock import locked
from shards.schema import canonical_json
from shards.writing.shard_writer import read_record, record_path, rows_path

__all__ = ["Manifest", "OutputFolder", "kept_shard", "remove_stale_shards"]

_LOG = logging.getLogger(__name__)


class Manifest(Protocol):
    """How the shards of a folder are made, as it is kept beside them: bookkeeping, no part of the format."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""

    def differences(self, asked: Self) -> list[str]:
        """Name what was made in another way than is asked for, in words: there against asked."""

    def refusal(self, differences: Sequence[str]) -> str:
        """Say what making that again would cost, in words; empty where it may be done unasked."""


M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFolder(Generic[M]):
    """A folder of splits that one command makes and brings up to date."""

    path: Path
    manifest_name: str
    """File name of the manifest, by which a folder is known as this command's."""
    command: str
    """Who makes such folders: `mmsent preprocess`."""
    parse: Callable[[Any], M]
    """Rebuild a manifest from its plain values; raises ValueError, TypeError, KeyError or ShardError."""

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies."""
        return self.path / self.manifest_name

    def read(self) -> M:
        """Read how the shards of the folder are made.

        Raises:
            ShardError: if there is no manifest, or it cannot be read.
        """
        try:
            return self.parse(json.loads(self.manifest_path.read_bytes()))
        except FileNotFoundError as exc:
            then = f"give the folder that `{self.command} --out` made"
            raise ShardError(describe(f"there is no {self.manifest_name}", file=self.path, then=then)) from exc
        except (ValueError, TypeError, KeyError, ShardError) as exc:
            what, then = (
                f"how the shards were made cannot be read: {exc}",
                f"choose another --out, or delete {self.path}",
            )
            raise ShardError(describe(what, file=self.manifest_path, then=then)) from exc

    def check(self, asked: M, *, remake: bool) -> list[str]:
        """Make sure that the folder is ours to write: new, empty, or with shards that may be brought up to date.

        Returns:
            In what the shards there differ from those asked for, in words.

        Raises:
            SpecMismatchError: if making again what differs has a price and `remake` does not say that it is all right.
            ShardError: if the folder holds something else.
        """
        if self.manifest_path.is_file():
            there = self.read()
            differences = there.differences(asked)
            if (refusal := there.refusal(differences)) and not remake:
                then = "choose another --out, ask for the same, or accept it with `--remake`"
                raise SpecMismatchError(describe(refusal, file=self.manifest_path, then=then))
            return differences
        # Hidden files do not count: a run that was killed before its manifest was there leaves a lock or a part of it.
        if self.path.exists() and (not self.path.is_dir() or any(p.name[0] != "." for p in self.path.iterdir())):
            what = f"--out is not empty and holds no shards of `{self.command}`"
            raise ShardError(describe(what, file=self.path, then="choose another folder"))
        return []

    @contextmanager
    def claimed(self, asked: M, *, remake: bool, number: int = 1, count: int = 1) -> Iterator[None]:
        """Make the folder, keep other runs out until the block ends, and write down how its shards are made.

        Args:
            asked: How.
            remake: Make again what was made in another way, whatever that costs.
            number: Which part of the work this run does, from 1.
            count: Into how many parts the work is cut; a run that does all of it first removes what a killed one left.

        Raises:
            SpecMismatchError, ShardError: as `check` does, with nothing written; or if the disk cannot be written.
            OutputBusyError: if another run is writing there.
        """
        self.check(asked, remake=remake)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            what = f"cannot make the folder: {exc.strerror or exc}"
            raise ShardError(describe(what, file=self.path, then="choose another --out")) from exc
        with locked(self.path, number=number, count=count):
            for difference in self.check(asked, remake=remake):  # again: another run may have had the lock before
                _LOG.info("what is made in another way is made again (there against asked): %s", difference)
            if count == 1:
                sweep(self.path)
            content = canonical_json(asked.to_json())
            if not self.manifest_path.is_file() or self.manifest_path.read_bytes() != content:
                publish(self.manifest_path, content)
            yield


def kept_shard(path: Path, *, inputs_sha256: str) -> ShardInfo | None:
    """Return what is recorded of the shard at `path` if it is whole and made from just these inputs, else None."""
    record = read_record(path)
    return record[0] if record is not None and record[0].inputs_sha256 == inputs_sha256 else None


def remove_stale_shards(directory: Path, *, split: str, shards: Sequence[ShardInfo]) -> None:
    """Remove the shards of earlier runs that a finished split no longer has, with what is recorded of them.

    Only files that are named as shards of the split are; other tars are somebody's.
    """
    ours = re.compile(rf"{re.escape(split)}-\d{{5,}}\.tar")
    names = {shard.name for shard in shards}
    for path in sorted(directory.glob("*.tar")):
        if path.name not in names and ours.fullmatch(path.name):
            _LOG.info("removing a shard that the split no longer has: %s", path)
            for file in (path, rows_path(path), record_path(path)):
                file.unlink(missing_ok=True)
