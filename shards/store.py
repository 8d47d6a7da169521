"""The splits of a folder of shards, on this machine or behind a URL."""

from pathlib import Path

from shards.cache import ShardCache
from shards.errors import GaveUpError, RemoteError, RemoteMissingError, ShardError, describe
from shards.index import INDEX_NAME, split_directories
from shards.maps import LocalSource, Source
from shards.reader import Split
from shards.remote import RemoteFolder, is_url
from shards.remote_shards import RemoteSource
from shards.schema import SPLITS

__all__ = ["open_split", "split_sources"]


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
    root = RemoteFolder(location)
    found: dict[str, Source] = {}
    failure: RemoteError | None = None
    for name in _names(root):
        try:
            root.child(name).read(INDEX_NAME)
        except GaveUpError:
            raise
        except RemoteError as exc:  # a server that may not list often says "forbidden" of what is not there
            failure = exc
        else:
            found[name] = RemoteSource(root.child(name), cache)
    if not found:
        if failure is not None and not isinstance(failure, RemoteMissingError):
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


def _names(root: RemoteFolder) -> list[str]:
    """Return what may be splits: the usual names, and others where the server lists its folders."""
    try:
        listed = root.list()
    except GaveUpError:
        raise
    except RemoteError:
        return list(SPLITS)
    others = [name for name in listed if name not in SPLITS and "." not in name and name != "tokenizer"]
    return [*(name for name in SPLITS if name in listed), *others]
