"""Expected trouble, which the user can mend: `cli` prints it and exits 1. All else keeps its traceback."""

from pathlib import Path

__all__ = [
    "CacheFullError",
    "ExpectedError",
    "FormatVersionError",
    "GaveUpError",
    "OutputBusyError",
    "ShardCorruptError",
    "ShardError",
    "SpecMismatchError",
    "UrlError",
    "UrlMissingError",
    "describe",
]


class ExpectedError(Exception):
    """Trouble with an input, a disk or an option that the message explains.

    Takes exactly one string, because a worker process rebuilds its exception as `cls(*args)`.
    """


class OutputBusyError(ExpectedError):
    """Another run is writing to the same folder."""


class ShardError(ExpectedError):
    """A folder of shards that cannot be used as it is."""


class ShardCorruptError(ShardError):
    """A shard, table or index whose bytes are not the ones that were written."""


class UrlError(ShardError):
    """A file by URL that cannot be had, or is not the one that was asked for."""


class GaveUpError(UrlError):
    """A request that still failed after all tries, for a reason that may pass."""


class UrlMissingError(UrlError):
    """A server that answers has no such file or folder."""


class CacheFullError(ShardError):
    """A local cache that has no room for a shard, and none became free in time."""


class FormatVersionError(ShardError):
    """An index of a format version this program does not read."""


class SpecMismatchError(ShardError):
    """Arrays made in one way meet code, shards or weights that expect another."""


def describe(what: str, *, file: Path | str | None = None, then: str | None = None) -> str:
    """Build the message of an expected error: what happened, in which file, what to do next.

    >>> print(describe("no room", file="a.tar", then="free some"))
    no room
      file: a.tar
      next: free some
    """
    lines = [what]
    if file is not None:
        lines.append(f"  file: {file}")
    if then is not None:
        lines.append(f"  next: {then}")
    return "\n".join(lines)
