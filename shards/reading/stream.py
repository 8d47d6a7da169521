"""Batches from tars without an index, in one pass: pipes, HTTP and all else that the `webdataset` library opens.

Its functions expand and open the URLs, group members by key, and shuffle. Only the walk over the members is ours,
because the library takes a cut or damaged tar for a shorter one.

Shape letters: B batch, T frames, H height, W width, M mel bins, S hops, L tokens.
"""

import contextlib
import random
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import webdataset
from numpy.typing import NDArray

from shards.errors import ShardError, describe
from shards.format.codec import array_members, decode_sample, members, pixels
from shards.format.whole_tar import WholeTarInfo
from shards.reading.host_batch import HostBatch, batch_arrays
from shards.schema import MODALITIES, LabelSet, Modality, SampleMeta
from shards.spec import FeatureSpec

__all__ = ["ShardStream"]

_CHECK_BYTES = 1 << 16


class ShardStream:
    """Iterate over the samples of tars as they come, in batches like those of `ShardLoader`.

    For tars of ours that cannot be opened by an index: the output of a command, a server. Where the tars lie in a
    folder with their index, `ShardLoader` reads them several times as fast, in a global order, resumably.

    Each iteration is one pass over all URLs; every sample comes once, and the last batch may be smaller. There is no
    `len`, no `state` and no resume: a stream has no place to go back to, so a stopped pass begins again. There are no
    ranks either: a process reads the URLs that it is given.

    Nothing is dropped. A tar that is cut off or damaged, a sample that lacks a member, has another shape or dtype, or
    has an unknown label ends the pass with an error that names tar and key. Members that are not ours are ignored.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        spec: FeatureSpec,
        label_sets: Sequence[LabelSet],
        batch_size: int,
        shuffle_buffer: int = 0,
        seed: int = 0,
    ) -> None:
        """Prepare a stream; nothing is opened before the first iteration.

        Args:
            urls: Paths, `http://…`, `pipe:command` and what else `webdataset` opens, with brace patterns like
                `train-{00000..00078}.tar`. With the environment variable `WDS_SECURE=1`, `webdataset` refuses pipes.
            spec: What the arrays must look like: shapes and storage, and which modalities are encoded.
            label_sets: Tasks and their labels; a label's index follows from its name, here, whatever the tar says.
            batch_size: Samples of a batch.
            shuffle_buffer: Samples that are held in memory and drawn from; 0 keeps the order of the tars. Above 0, each
                pass also has another order of URLs.
            seed: Chooses the orders; pass n of two streams with the same arguments is the same.

        Raises:
            ValueError: if a count is out of range, or there is no URL.
        """
        if batch_size < 1 or shuffle_buffer < 0 or seed < 0:
            raise ValueError(
                f"need batch_size >= 1, shuffle_buffer >= 0, seed >= 0; got {batch_size=}, {shuffle_buffer=}, {seed=}"
            )
        if isinstance(urls, str) or not urls:
            raise ValueError(f"urls must be a list of at least one, got {urls!r}")
        self.urls = tuple(url for pattern in urls for url in _expanded(pattern))
        self.spec = spec
        self.label_sets = tuple(label_sets)
        self.batch_size = batch_size
        self._arrays = array_members(spec)
        self._extensions = members(spec)
        self._shuffle_buffer = shuffle_buffer
        self._seed = seed
        self._passes = 0

    def __iter__(self) -> Iterator[HostBatch]:
        """Read all tars once.

        Raises:
            ShardError: if a tar cannot be opened or read, or a sample in it cannot be used.
        """
        rng = random.Random(f"{self._seed} {self._passes}")
        self._passes += 1
        urls = list(self.urls)
        if self._shuffle_buffer:
            rng.shuffle(urls)
        samples = self._samples(urls)
        if self._shuffle_buffer:
            size = self._shuffle_buffer
            samples = webdataset.filters.shuffle(size, initial=size, rng=rng)(samples)
        while batch := list(islice(samples, self.batch_size)):
            yield self._batch(batch)

    def _samples(self, urls: Sequence[str]) -> Iterator["_Streamed"]:
        """Yield the samples of all tars, each checked."""
        number = 0
        for group in webdataset.tariterators.group_by_keys(_members_of_all(urls, wanted=self._extensions)):
            yield self._checked(group, number)
            number += 1
        if not number:
            raise ShardError(describe("there are no samples in these tars", file=", ".join(urls), then=_LOOK))

    def _checked(self, group: Mapping[str, Any], number: int) -> "_Streamed":
        where = f"{group['__url__']}, {group['__key__']}"
        if lacking := [extension for extension in self._extensions if extension not in group]:
            what = f"a sample lacks {', '.join(lacking)}"
            encoded = f"; encoded are {', '.join(self.spec.encoded)}" if self.spec.encoded else ""
            then = (
                "write its members one after another under one key; a key ends at its first dot. The spec's storage is "
                f"{self.spec.video.storage}{encoded}"
            )
            raise ShardError(describe(what, file=where, then=then))
        sample = decode_sample({extension: group[extension] for extension in self._extensions}, where=where)
        extension = "json"
        try:
            labels = tuple(_label_index(sample.meta, labels) for labels in self.label_sets)
            lengths = _lengths(sample.meta, self.spec)
            arrays: dict[Modality, NDArray[Any]] = {}
            for name, member in self._arrays.items():
                extension = member.extension
                array = pixels(sample.frames, self.spec.video) if member.is_jpeg else sample.array(name)
                if array.shape != member.shape:
                    raise ValueError(f"it is {array.shape}, the spec says {member.shape}")
                arrays[name] = array
        except ValueError as exc:
            then = "give the spec and the label sets that it was made with, those of its split's index.json"
            raise ShardError(describe(f"{extension} cannot be used: {exc}", file=where, then=then)) from exc
        present = tuple(sample.meta.presence[name].present for name in MODALITIES)
        return _Streamed(number=number, arrays=arrays, lengths=lengths, present=present, labels=labels)

    def _batch(self, samples: Sequence["_Streamed"]) -> HostBatch:
        """Copy samples into fresh arrays."""
        arrays = {name: np.stack([sample.arrays[name] for sample in samples]) for name in self._arrays}
        lengths = np.array([sample.lengths for sample in samples], np.int64)
        return HostBatch(
            **batch_arrays(arrays, self._arrays),
            num_frames=lengths[:, 0].copy(),
            num_hops=lengths[:, 1].copy(),
            num_tokens=lengths[:, 2].copy(),
            present=np.array([sample.present for sample in samples], np.bool_),
            labels={
                labels.task: np.array([sample.labels[task] for sample in samples], np.int64)
                for task, labels in enumerate(self.label_sets)
            },
            samples=np.array([sample.number for sample in samples], np.int64),
            window=np.arange(len(samples))[:, None],
            global_size=len(samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Streamed:
    """A sample on its way; its arrays are views of what was read."""

    number: int
    """Place in the pass before shuffling."""
    arrays: Mapping[Modality, NDArray[Any]]
    lengths: tuple[int, ...]
    """Real frames, hops and tokens."""
    present: tuple[bool, ...]
    """Whether each modality is there, in the order of `MODALITIES`."""
    labels: tuple[int, ...]


_LOOK = "check the URLs; `tar tf` lists what a tar holds"


def _expanded(pattern: str) -> list[str]:
    """Expand braces and `::` as WebDataset does; a pipe's command keeps its own."""
    return [pattern] if pattern.startswith("pipe:") else list(webdataset.shardlists.expand_urls(pattern))


def _label_index(meta: SampleMeta, labels: LabelSet) -> int:
    if labels.task not in meta.labels:
        raise ValueError(f"it has no label of {labels.task}, only of {', '.join(meta.labels) or 'nothing'}")
    return labels.index(meta.labels[labels.task])


def _lengths(meta: SampleMeta, spec: FeatureSpec) -> tuple[int, ...]:
    full = {"num_frames": spec.video.num_frames, "num_hops": spec.audio.num_hops, "num_tokens": spec.text.max_tokens}
    lengths = {name: getattr(meta, name) for name in full}
    for name, value in lengths.items():
        if type(value) is not int or not 0 <= value <= full[name]:
            raise ValueError(f'"{name}" is {value!r}, not a number from 0 to {full[name]}')
    return tuple(lengths.values())


def _members_of_all(urls: Sequence[str], *, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    for url in urls:
        yield from _members_of(url, wanted=wanted)
        yield {}  # what `group_by_keys` takes for the end of a tar


def _members_of(url: str, *, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the members of one tar to its end, as `group_by_keys` wants them; those of others without content."""
    stream = _opened(url)
    try:
        with tarfile.open(fileobj=stream, mode="r|", tarinfo=WholeTarInfo) as tar:
            seen: set[tuple[str, str]] = set()
            while (member := tar.next()) is not None:
                key, extension = webdataset.tariterators.base_plus_ext(member.name)
                if key is None or member.isdir() or member.name.startswith("__"):  # the library skips these too
                    continue
                extension = extension.lower()
                if (key, extension) in seen:
                    raise ValueError(f"{member.name} comes twice")
                seen.add((key, extension))
                file = tar.extractfile(member) if member.isreg() and extension in wanted else None
                if file is None and extension in wanted:
                    raise ValueError(f"{member.name} is a link or no file")
                yield {"fname": member.name, "data": b"" if file is None else file.read(), "__url__": url}
                tar.members = []  # type: ignore[attr-defined]  # or it holds every header it has read
            _check_rest(tar.fileobj)
        stream.close()  # which tells whether a command has failed
    except (OSError, ValueError, tarfile.TarError) as exc:
        what = f"a tar cannot be read to its end: {_reason(stream, exc)}"
        then = "copy or make it again. Of a compressed tar, give `pipe:gzip -dc FILE` or the like"
        raise ShardError(describe(what, file=url, then=then)) from exc
    finally:
        _leave(stream)


def _opened(url: str) -> Any:
    parts = urlparse(url)
    try:
        if parts.scheme in {"", "file"}:  # as `WebDataset` does; `gopen` would refuse them in secure mode
            return Path(url2pathname(parts.path) if parts.scheme else url).open("rb")
        return webdataset.gopen(url)
    except (OSError, ValueError) as exc:
        then = "check the URL, and that the program it is read with is installed"
        if webdataset.utils.enforce_security:
            then = "unset WDS_SECURE, which allows no pipes, or give an URL of another kind"
        raise ShardError(describe(f"a tar cannot be opened: {exc}", file=url, then=then)) from exc


def _check_rest(stream: Any) -> None:
    """Read what follows the end mark, so that a command can end; it must be zeros."""
    while block := stream.read(_CHECK_BYTES):
        if block.count(0) != len(block):
            raise ValueError("more follows the end of the archive; two tars are two URLs, not one after the other")


def _reason(stream: Any, exc: Exception) -> str:
    """Say what is wrong: that a command failed explains what is amiss in what it gave."""
    _leave(stream)
    status = getattr(stream, "status", None)  # of a process; below 0 it was ended because nobody read on
    return f"the command that it comes from ended with exit code {status}" if status and status > 0 else str(exc)


def _leave(stream: Any) -> None:
    with contextlib.suppress(OSError):  # a command that is left before its end may say that it failed
        stream.close()
