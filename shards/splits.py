"""The splits of a folder of shards, on this machine or behind a URL."""

from pathlib import Path

from shards.errors import GaveUpError, ShardError, UrlError, UrlMissingError, describe
from shards.format.index import INDEX_NAME
from shards.reading.split import Split
from shards.schema import SPLITS
from shards.storage.cache import ShardCache
from shards.storage.local import LocalSource
from shards.storage.source import Source
from shards.storage.url_folder import UrlFolder, is_url
from shards.storage.url_source import UrlSource

__all__ = ["open_split", "split_directories", "split_sources"]


def split_directories(directory: Path) -> dict[str, Path]:
    """Return the finished splits of a folder of shards by name, in the order train, dev, test, then others.

    Raises:
        ShardError: if there is none.
    """
    found = sorted(path.parent for path in directory.glob(f"*/{INDEX_NAME}"))
    if not found and (directory / INDEX_NAME).is_file():
        what = "this is one split, not a folder of splits"
        then = f"give the folder above it, {directory.absolute().parent}"
        raise ShardError(describe(what, file=directory, then=then))
    if not found:
        what = "no finished split is here" if directory.is_dir() else "there is no such folder of shards"
        then = f"give the folder that `mmsent preprocess --out` made; looked for */{INDEX_NAME}"
        raise ShardError(describe(what, file=directory, then=then))
    order = {"train": 0, "dev": 1, "test": 2}
    return {path.name: path for path in sorted(found, key=lambda path: (order.get(path.name, 3), path.name))}


def split_sources(location: str | Path, *, cache: ShardCache | None = None) -> dict[str, Source]:
    """Return where the finished splits of a folder of shards are, by name, in the order train, dev, test, then others.

    Args:
        location: A path, or the URL of a folder.
        cache: What shards behind a URL come through.

    Raises:
        ShardError: if there is none, or a URL is given without a cache.
        GaveUpError: if the server does not answer; a split is never left out for that.
    """
    if not (isinstance(location, str) and is_url(location)):
        return {name: LocalSource(directory) for name, directory in split_directories(Path(location)).items()}
    if cache is None:
        raise ShardError(describe("shards behind a URL need a cache", file=location, then="give `--cache DIR`"))
    root = UrlFolder(location)
    found: dict[str, Source] = {}
    failure: UrlError | None = None
    for name in _names(root):
        try:
            root.child(name).read(INDEX_NAME)
        except GaveUpError:
            raise
        except UrlError as exc:  # a server that may not list often says "forbidden" of what is not there
            failure = exc
        else:
            found[name] = UrlSource(root.child(name), cache)
    if not found:
        if failure is not None and not isinstance(failure, UrlMissingError):
            raise failure  # it says why nothing may be read there, and what to do
        then = "give the URL of the folder that `mmsent preprocess --out` made"
        what = f"no finished split is here; looked for {', '.join(SPLITS)} with an {INDEX_NAME}"
        raise ShardError(describe(what, file=location, then=then)) from failure
    return found


def open_split(location: str | Path, name: str, *, cache: ShardCache | None = None) -> Split:
    """Open a split of a folder of shards by its name.

    Raises:
        ShardError: if the folder has no such finished split, or as `Split` and `split_sources` do.
    """
    sources = split_sources(location, cache=cache)
    if name not in sources:
        then = f"choose from {', '.join(sources)}"
        raise ShardError(describe(f"the shards have no finished split {name!r}", file=location, then=then))
    return Split(sources[name])


def _names(root: UrlFolder) -> list[str]:
    """Return what may be splits: the usual names, and others where the server lists its folders."""
    try:
        listed = root.list()
    except GaveUpError:
        raise
    except UrlError:
        return list(SPLITS)
    others = [name for name in listed if name not in SPLITS and "." not in name and name != "tokenizer"]
    return [*(name for name in SPLITS if name in listed), *others]
