"""What is done to shards that are there: finish splits whose parts were made apart, make again what is broken."""

from collections.abc import Collection, Mapping
from pathlib import Path

from preprocess.adapters import read_dataset
from preprocess.build import Progress, SplitMade, build_shards, feature_spec
from preprocess.claim import CLAIM_NAME, read_claim
from preprocess.config import Part
from preprocess.errors import DatasetError
from preprocess.plan import read_plan
from preprocess.text import load_saved_tokenizer
from shards.errors import ShardError, SpecMismatchError, describe
from shards.finish import finish_split, restore_table
from shards.lock import locked
from shards.writer import read_record

__all__ = ["complete_splits", "is_made_here", "repair_shards", "restore_tables"]


def is_made_here(out: Path) -> bool:
    """Return whether a folder says that `mmsent preprocess` made what is in it."""
    return (out / CLAIM_NAME).exists() or any(out.glob("*/.work/plan.json"))


def complete_splits(out: Path) -> dict[str, int]:
    """Write the samples table and the index of every split whose shards are all there, without the clips.

    Args:
        out: A folder that parts of one run were made in, or copied together into, with their hidden `.work` folders.

    Returns:
        The number of shards of each split.

    Raises:
        ShardError: if a split lacks shards, after the indices of all others were written.
    """
    claim = read_claim(out)
    found: dict[str, int] = {}
    lacking: list[str] = []
    with locked(out):
        directories = sorted(path.parent.parent for path in out.glob("*/.work/plan.json"))
        if not directories:
            then = "copy the .work folders too, or run `mmsent preprocess`"
            raise ShardError(describe("it is not written which shards make up a split", file=out, then=then))
        for directory in directories:
            names = read_plan(directory)
            records = {name: read_record(directory / name) for name in names}
            infos = tuple(
                record[0]
                for record in records.values()
                if record is not None and record[1].fingerprints == claim.spec.fingerprints()
            )
            if len(infos) < len(names):
                missing = sorted(set(names) - {info.name for info in infos})
                more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
                lacking.append(f"{directory.name} lacks {', '.join(missing[:3])}{more} of {len(names)} shards")
                continue
            finish_split(directory, split=directory.name, spec=claim.spec, label_sets=claim.label_sets, shards=infos)
            found[directory.name] = len(infos)
    if lacking:
        then = "run the parts that are not done, or copy their shards here with their .work folders"
        raise ShardError(describe("; ".join(lacking), file=out, then=then))
    return found


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
    claim = read_claim(out)
    config = claim.config()
    tokenizer = load_saved_tokenizer(out / "tokenizer", claim.spec.text)
    if differences := claim.spec.differences(feature_spec(config, tokenizer), provenance=True):
        what = "what is installed here would make other arrays (there against here): "
        then = "install the versions that made the shards, or make all again with `mmsent preprocess`"
        raise SpecMismatchError(describe(what + "; ".join(map(str, differences)), file=out, then=then))
    dataset = read_dataset(data, claim.adapter)
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
        ShardError: as `shards.finish.restore_table` does, or the disk is full.
        OutputBusyError: if another run is writing to `out`.
    """
    with locked(out):
        for split in splits:
            restore_table(out / split)
