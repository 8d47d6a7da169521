"""The data sets this program reads: one file each behind one small protocol. `docs/own-data.md` says how to add one."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from preprocess.config import DatasetFormat
from preprocess.datasets.annotations import Dataset
from preprocess.datasets.emorynlp import is_emorynlp, read_emorynlp
from preprocess.datasets.meld import is_meld, read_meld
from preprocess.datasets.own_csv import OWN_CSV, is_own, read_own
from preprocess.errors import DatasetError
from shards.errors import describe

__all__ = ["ADAPTERS", "Adapter", "read_dataset"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """How one kind of data set is known and read."""

    recognises: Callable[[Path], bool]
    """Whether a path that exists looks like this kind, by the names of its files alone."""
    read: Callable[[Path], Dataset]
    """Read it, every row; raises `DatasetError` with what is wrong, in which file, and what to do."""
    looks_for: str
    """What such a path is, for the message that nothing was recognised."""


ADAPTERS: Mapping[str, Adapter] = MappingProxyType(
    {
        "meld": Adapter(recognises=is_meld, read=read_meld, looks_for="train_sent_emo.csv, dev_…, test_… (MELD)"),
        "emorynlp": Adapter(
            recognises=is_emorynlp, read=read_emorynlp, looks_for="emorynlp_train_final.csv, … (EmoryNLP)"
        ),
        "csv": Adapter(recognises=is_own, read=read_own, looks_for=f"{OWN_CSV} or a .csv (own clips)"),
    }
)


def read_dataset(root: Path, kind: DatasetFormat) -> Dataset:
    """Read a data set.

    Args:
        root: Its folder, or for own clips its CSV.
        kind: Which; `auto` takes the first that recognises it, and says so if another does too.

    Raises:
        DatasetError: if nothing recognises it, or what does cannot read it.
    """
    try:
        if not root.exists():
            raise DatasetError(describe("there is no such folder or file", file=root, then="check the path"))
        return ADAPTERS[_recognised(root) if kind == "auto" else kind].read(root)
    except OSError as exc:
        then = "check its permissions and the disk"
        raise DatasetError(describe(f"cannot be read: {exc.strerror}", file=exc.filename or root, then=then)) from exc


def _recognised(root: Path) -> str:
    """Return the name of the adapter that reads `root`."""
    names = [name for name, adapter in ADAPTERS.items() if adapter.recognises(root)]
    if len(names) > 1:
        _LOG.warning("read as %s, but it looks like %s too: --format chooses", names[0], " and ".join(names[1:]))
    if names:
        return names[0]
    found = sorted(path.name + "/" * path.is_dir() for path in root.iterdir()) if root.is_dir() else [root.name]
    what = (
        f"this is no data set that is known here: looked for {'; '.join(one.looks_for for one in ADAPTERS.values())}; "
        f"found {', '.join(found[:8]) or 'nothing'}"
    )
    then = (
        "give the folder that holds CSVs and clips, list your own clips in a CSV (docs/own-data.md), "
        "or make some to try with `mmsent make-demo`"
    )
    raise DatasetError(describe(what, file=root, then=then))
