"""Tars written by the standard library, with its headers, owners and times."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from shards.format.codec import encode_sample
from shards.schema import MELD_LABELS, Sample
from shards.spec import FeatureSpec
from tests.support.samples import make_spec


def payloads_of(sample: Sample, *, spec: FeatureSpec | None = None) -> dict[str, bytes]:
    """Return the members of a sample as we write them, by extension."""
    return encode_sample(sample, spec=spec or make_spec(), label_sets=MELD_LABELS)


def members_of(key: str, payloads: Mapping[str, bytes], order: Sequence[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each member, in `order` or as they come."""
    for extension in order or payloads:
        yield f"{key}.{extension}", payloads[extension]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], *, tar_format: int = tarfile.GNU_FORMAT) -> Path:
    """Write members with the standard library, with owners and times that are not ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:", format=tar_format) as tar:
        for number, (name, content) in enumerate(members):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.uid, member.uname = (
                len(content),
                1_700_000_000.25 + number,
                1000,
                "someone",
            )
            tar.addfile(member, io.BytesIO(content))
    return path
