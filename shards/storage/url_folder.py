"""Files by URL, through fsspec: whatever has a driver there (`s3://`, `gs://`, `hf://`, `https://`, `file://`, …)."""

import errno
import itertools
import logging
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, TypeVar

import fsspec

from shards.errors import GaveUpError, UrlError, UrlMissingError, describe

__all__ = ["RetryPolicy", "UrlFolder", "is_url"]

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


def is_url(location: str) -> bool:
    """Tell whether a location has a scheme.

    >>> is_url("s3://bucket/shards"), is_url("data/shards"), is_url("/data/a://b")
    (True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a request is made again when it fails in a way that may pass: timeout, reset, 429, 5xx, cut body."""

    num_tries: int = 6
    """Tries of one request, the first one included. Drivers may try several times on their own within each of ours."""
    first_wait_seconds: float = 0.5
    """Wait before the second try; it doubles from try to try."""
    longest_wait_seconds: float = 30.0
    """No wait is longer."""
    request_bytes: int = 16 << 20
    """A file is asked for in pieces of this size, so a failure costs one piece; each download holds one in memory."""

    def __post_init__(self) -> None:
        if self.num_tries < 1 or self.request_bytes < 1:
            raise ValueError("num_tries and request_bytes must be at least 1")
        if not 0 <= self.first_wait_seconds <= self.longest_wait_seconds:
            raise ValueError("waits must not be negative, nor the first longer than the longest")

    def wait_seconds(self, num_failures: int, fraction: float) -> float:
        """Return the wait after `num_failures` failures: `fraction` of 0 to 1 chooses within its upper half.

        That spreads the ranks of a job, which all failed at the same moment.
        """
        doublings = min(num_failures - 1, 60)  # beyond that a float may overflow, and the cap was reached long ago
        return float(min(self.first_wait_seconds * 2**doublings, self.longest_wait_seconds) * (0.5 + fraction / 2))


@dataclass(frozen=True, slots=True)
class UrlFolder:
    """A folder of files by URL: one split, or the folder that holds the splits.

    Credentials, endpoints and timeouts are those of fsspec and its drivers: their environment variables and files.
    Nothing is opened before the first request, and it may be used by several threads and after a fork.
    """

    url: str
    _: KW_ONLY
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    sleep: Callable[[float], None] = time.sleep
    """Called with the seconds to wait between two tries."""

    def __post_init__(self) -> None:
        if not is_url(self.url):
            raise ValueError(f"a URL begins with a scheme such as s3://, got {self.url!r}")

    def child(self, name: str) -> "UrlFolder":
        """Return a folder in this one."""
        return replace(self, url=self.file_url(name))

    def file_url(self, name: str) -> str:
        """Return the URL of a file or folder in this one."""
        return f"{self.url}{name}" if self.url.endswith("/") else f"{self.url}/{name}"

    def read(self, name: str) -> bytes:
        """Return the content of a small file.

        Raises:
            UrlError: if it is not there or may not be read; `GaveUpError` if it still fails after all tries.
        """
        return self._retried(self.file_url(name), lambda system, path: bytes(system.cat_file(path)))

    def list(self) -> list[str]:
        """Return the names of the files and folders in this one, sorted.

        Raises:
            UrlError: as `read` does; also if an HTTP server shows no listing of links.
        """
        return self._retried(self.file_url(""), _names)

    def stream(self, name: str, *, num_bytes: int) -> Iterator[bytes]:
        """Yield the first `num_bytes` of a file in order, in pieces; a failure goes on from the last whole piece.

        An HTTP server that ignores ranges sends the whole file at once, and it is in memory once.

        Raises:
            UrlError: as `read` does; also if the file is shorter.
        """
        url = self.file_url(name)
        offset = 0
        while offset < num_bytes:
            start, end = offset, min(offset + self.retries.request_bytes, num_bytes)

            def ask(system: Any, path: str, start: int = start, end: int = end) -> bytes:
                try:
                    content = bytes(system.cat_file(path, start=start, end=end))
                except Exception as exc:
                    if _status(exc) == 416:  # it begins where the file ends
                        raise EndsEarlyError(f"it ends after {start:,} of {num_bytes:,} bytes") from exc
                    raise
                if not content:
                    raise EndsEarlyError(f"it ends after {start:,} of {num_bytes:,} bytes")
                return content if len(content) <= end - start else content[start:num_bytes]

            piece = self._retried(url, ask)
            offset += len(piece)
            yield piece

    def _retried(self, url: str, ask: Callable[[Any, str], _T]) -> _T:
        """Return `ask(file system, path)`, made again while it fails for passing reasons."""
        for num_failures in itertools.count(1):
            try:
                system, path = fsspec.core.url_to_fs(url)
                return ask(system, path)
            except Exception as exc:  # every driver has its own kinds, and they share no base
                reason = _reason(exc)
                if not _may_pass(exc):
                    raise _permanent(exc, url) from exc
                if num_failures >= self.retries.num_tries:
                    what = f"gave up after {num_failures} tries, the last of which failed with {reason}"
                    then = "see whether the server answers, then run the same command again"
                    raise GaveUpError(describe(what, file=url, then=then)) from exc
            wait = self.retries.wait_seconds(num_failures, random.random())
            _LOG.warning("%s: try %d of %d: %s; %.1f s", url, num_failures, self.retries.num_tries, reason, wait)
            self.sleep(wait)
        raise AssertionError("counting ends only by a return or an error")


class EndsEarlyError(EOFError):
    """A file or an answer that is shorter than it should be."""


def _names(system: Any, path: str) -> list[str]:
    system.invalidate_cache()  # a split may have been finished since the last look
    found = (entry.rstrip("/") for entry in system.ls(path, detail=False))
    return sorted({entry.rpartition("/")[2] for entry in found if entry != path.rstrip("/")})


_PASSING_STATUSES = {408, 425, 429}
_PASSING_ERRNOS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH),
    getattr(errno, "EREMOTEIO", errno.EIO),  # s3fs, for an internal error of the server; only Linux has it
}
_PASSING_NAMES = re.compile(
    "Timeout|Connection|Disconnected|Incomplete|PayloadError|ChunkedEncoding|ProtocolError|Transport|ChecksumError"
    "|HTTPClientError|ResponseParserError"
)
"""Exceptions and their bases in aiohttp, botocore, httpx, requests, urllib3, gcsfs, which are not imported here."""


def _may_pass(exc: BaseException) -> bool:
    """Tell whether the same request may succeed later.

    The whole chain of causes counts, because drivers wrap: fsspec's HTTP driver makes a `FileNotFoundError` of a
    connection reset, s3fs a plain `OSError` of a 503. A status says more than the number of the `OSError` around it.
    """
    chain = list(_chain(exc))
    if any(isinstance(link, ImportError | ssl.SSLCertVerificationError) for link in chain):
        return False
    status = _status(exc)
    if status is not None:
        return status >= 500 or status in _PASSING_STATUSES
    numbers = {link.errno for link in chain if isinstance(link, OSError)}
    return any(map(_is_broken_connection, chain)) or not numbers.isdisjoint(_PASSING_ERRNOS)


def _status(exc: BaseException) -> int | None:
    """Return the HTTP status that an exception or one of its causes tells of, in the way of any driver.

    What comes after a broken connection in the chain is not looked at: aiohttp gives a cut body a status of 400.
    """
    for link in _chain(exc):
        if _is_broken_connection(link):
            return None
        answer = getattr(link, "response", None)
        if isinstance(answer, dict):  # botocore
            value = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp; httpx and requests, which huggingface_hub uses; gcsfs, last: aiohttp warns of its `code`
            value = getattr(link, "status", None) or getattr(answer, "status_code", None) or getattr(link, "code", None)
        if isinstance(value, int | str) and re.fullmatch("[45][0-9][0-9]", str(value)):
            return int(value)
    return None


def _is_broken_connection(exc: BaseException) -> bool:
    if isinstance(exc, TimeoutError | ConnectionError | EOFError | socket.gaierror):
        return True
    return any(_PASSING_NAMES.search(base.__name__) for base in type(exc).__mro__)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = exc
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _reason(exc: BaseException) -> str:
    status = _status(exc)
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}{f' (HTTP status {status})' if status else ''}{f': {text}' if text else ''}"


def _permanent(exc: Exception, url: str) -> UrlError:
    """Return the error for a failure that trying again does not mend."""
    status = _status(exc)
    if isinstance(exc, ImportError):
        what = f"the driver of {url.partition('://')[0]}:// is not installed: {exc}"
        then = "install what it names, or mmsent with its extra: pip install '.[remote]'"
        return UrlError(describe(what, file=url, then=then))
    if isinstance(exc, FileNotFoundError) or status == 404:
        return UrlMissingError(describe("there is no such file or folder", file=url, then="check the URL"))
    if isinstance(exc, PermissionError) or status in (401, 403) or "Credentials" in type(exc).__name__:
        then = (
            "check the credentials, which the driver takes from its own environment variables: docs/remote.md has them"
        )
        return UrlError(describe(f"may not be read: {_reason(exc)}", file=url, then=then))
    then = "check the URL and the driver's settings"
    return UrlError(describe(f"cannot be read: {_reason(exc)}", file=url, then=then))
