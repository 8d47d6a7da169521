"""What is done to shards that are there: write an index that lacks, make again what is broken."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from preprocess.building.build import build_shards
from preprocess.building.feature_spec import feature_spec
from preprocess.building.kept import recorded_shard
from preprocess.building.manifest import MANIFEST_NAME, shard_folder
from preprocess.building.plan import read_plan
from preprocess.building.split_maker import Progress, SplitMade
from preprocess.config import Part
from preprocess.datasets.adapters import read_dataset
from preprocess.errors import DatasetError
from preprocess.text.tokenizer import load_saved_tokenizer
from shards.errors import ShardError, SpecMismatchError, describe
from shards.files import sha256_file
from shards.format.index import INDEX_NAME, Index, read_index
from shards.format.samples_table import TABLE_NAME
from shards.lock import locked
from shards.schema import LabelSet
from shards.spec import FeatureSpec
from shards.writing.finish import finish_split
from shards.writing.rebuild_index import rebuild_index, restore_table

__all__ = ["complete_splits", "repair_shards", "restore_tables"]

_LOG = logging.getLogger(__name__)


def complete_splits(out: Path) -> dict[str, int]:
    """Write the samples table and the index of every split that lacks one, without the clips.

    What is recorded of the shards says of most splits whether all are there. Where that is lost too, the table and the
    index are made from the tars alone, read in full.

    Args:
        out: A folder that parts of one run were made in, or copied together into, with their hidden `.work` folders;
            or one with tars that `mmsent preprocess` or `mmsent encode` wrote.

    Returns:
        The number of shards of each split.

    Raises:
        ShardError: if a split lacks shards, after the indices of all others were written; or if nothing says how its
            shards were made.
        ShardCorruptError: if a tar whose records are lost is cut, damaged or another program's.
    """
    found: dict[str, int] = {}
    lacking: list[str] = []
    planned = {path.parent.parent for path in out.glob("*/.work/plan.json")}
    unplanned = {path.parent for path in out.glob("*/*.tar")} - planned
    if not planned | unplanned:
        what, then = "there are no shards here", "give the folder that `mmsent preprocess --out` made"
        raise ShardError(describe(what, file=out, then=then))
    with locked(out):
        for directory in sorted(planned):
            manifest = shard_folder(out).read()
            names = read_plan(directory)
            recorded = (recorded_shard(directory / name, spec=manifest.spec) for name in names)
            infos = tuple(shard.info for shard in recorded if shard is not None and shard.made_alike)
            if len(infos) < len(names):
                missing = sorted(set(names) - {info.name for info in infos})
                more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                lacking.append(f"{directory.name} lacks {', '.join(missing[:3])}{more} of {len(names)} shards")
                continue
            finish_split(
                directory, split=directory.name, spec=manifest.spec, label_sets=manifest.label_sets, shards=infos
            )
            found[directory.name] = len(infos)
        for directory in sorted(unplanned):
            found[directory.name] = len(_completed_from_tars(directory).shards)
    if lacking:
        then = "run the parts that are not done, or copy their shards here with their .work folders"
        raise ShardError(describe("; ".join(lacking), file=out, then=then))
    return found


def _completed_from_tars(directory: Path) -> Index:
    """Return the index of a split of whose making nothing is recorded; it and the table are made where they lack."""
    if (directory / INDEX_NAME).exists():
        index = read_index(directory)
        try:
            sha256 = sha256_file(directory / TABLE_NAME)
        except FileNotFoundError:
            sha256 = ""
        if sha256 != index.samples_sha256:
            restore_table(directory)
        return index
    spec, label_sets = _way_of_making(directory.parent)
    index = rebuild_index(directory, spec=spec, label_sets=label_sets)
    _LOG.warning(
        "the index of %s is of the tars that are there: %d shards, %d samples; nothing tells of any after the last",
        directory.name,
        len(index.shards),
        index.num_samples,
    )
    return index


def _way_of_making(out: Path) -> tuple[FeatureSpec, tuple[LabelSet, ...]]:
    """Return how the shards of a folder were made, from its manifest or else from the index of another split."""
    if (out / MANIFEST_NAME).exists():
        manifest = shard_folder(out).read()
        return manifest.spec, manifest.label_sets
    for path in sorted(out.glob(f"*/{INDEX_NAME}")):
        index = read_index(path.parent)
        return index.spec, index.label_sets
    what = f"nothing says how these shards were made: there is no {MANIFEST_NAME}, and no split has its index"
    then = f"copy {MANIFEST_NAME} or one index.json from where they were made, or make them again"
    raise ShardError(describe(what, file=out, then=then))


def repair_shards(
    out: Path, data: Path, *, broken: Mapping[str, Collection[str]], num_workers: int, on_progress: Progress
) -> dict[str, SplitMade]:
    """Make broken shards again from the data set they were made from, in the way they were made.

    Samples of a broken shard whose bytes are those that were written are taken from it. The tokenizer is the one saved
    beside the shards, so no network is needed.

    Args:
        out: The folder of shards.
        data: The data set.
        broken: Names of shards by split. A split without any gets its index again.
        num_workers: Processes that decode.
        on_progress: Called as rows are finished.

    Returns:
        What was done, by split.

    Raises:
        DatasetError: if the data set is not the one that the other shards were made from.
        ShardError: if it is not known how the shards were made, or the disk is full.
        SpecMismatchError: if what is installed here would make other arrays.
        TokenizerError: if the saved tokenizer is not that of the shards.
    """
    manifest = shard_folder(out).read()
    config = manifest.config()
    tokenizer = load_saved_tokenizer(out / "tokenizer", manifest.spec.text)
    if differences := manifest.spec.differences(feature_spec(config, tokenizer), provenance=True):
        what = "what is installed here would make other arrays (there against here): "
        then = "install the versions that made the shards, or make all again with `mmsent preprocess`"
        raise SpecMismatchError(describe(what + "; ".join(map(str, differences)), file=out, then=then))
    dataset = read_dataset(data, manifest.adapter)
    made = build_shards(
        dataset,
        out,
        config=config,
        tokenizer=tokenizer,
        num_workers=num_workers,
        part=Part(),
        remake=False,
        on_progress=on_progress,
        broken=broken,
    )
    for split, item in made.items():
        if not item.finished:
            what = f"of {split}, what is recorded of {len(item.shards_missing)} other shards does not fit this data set"
            then = "give the data set as it was, or run `mmsent preprocess`, which makes what is missing or has changed"
            raise DatasetError(describe(what, file=data, then=then))
    return made


def restore_tables(out: Path, splits: Collection[str]) -> None:
    """Make the samples tables of splits again, whose shards are whole; neither clips nor `.work` folders are needed.

    Raises:
        ShardError: as `shards.writing.rebuild_index.restore_table` does, or the disk is full.
        OutputBusyError: if another run is writing to `out`.
    """
    with locked(out):
        for split in splits:
            restore_table(out / split)
