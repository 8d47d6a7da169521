"""A dataset -> shards: keep what is made, take what fits from older ones, decode the rest, publish the index last."""

from collections.abc import Collection, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from preprocess.building.feature_spec import feature_spec
from preprocess.building.manifest import Manifest, shard_folder
from preprocess.building.split_maker import Progress, SplitMade, SplitMaker, check_failures
from preprocess.clips.extract_all import extract_all
from preprocess.config import Part, PreprocessConfig
from preprocess.datasets.annotations import Dataset
from preprocess.errors import DatasetError
from preprocess.text.tokenizer import TextTokenizer
from shards.errors import describe

__all__ = ["build_shards", "check_run"]


def check_run(
    dataset: Dataset, out: Path, *, config: PreprocessConfig, tokenizer: TextTokenizer, remake: bool
) -> Manifest:
    """Make sure that a run may begin, without writing anything.

    Returns:
        What the run would write of itself into `out`.

    Raises:
        SpecMismatchError: if pictures would have to be decoded again and `remake` does not say so.
        DatasetError: if more rows of a split have no clip than the config allows to have no picture, or no dialogue
            has a second utterance and the config asks for context.
        TokenizerError: if the config asks for context and the tokenizer has nothing to tell utterances apart by.
        ShardError: if `out` holds something else.
    """
    _check_dialogues(dataset, config)
    ours = Manifest(
        adapter=dataset.adapter,
        samples_per_shard=config.samples_per_shard,
        test_clips=config.test_clips,
        label_sets=dataset.label_sets,
        spec=feature_spec(config, tokenizer),
    )
    for split in dataset.splits:
        missing = [f"{row.key} ({row.clip_name})" for row in split.utterances if not row.clip and not row.twin]
        check_failures(split, missing, config, why="have no clip")
    shard_folder(out).check(ours, remake=remake)
    return ours


def build_shards(
    dataset: Dataset,
    out: Path,
    *,
    config: PreprocessConfig,
    tokenizer: TextTokenizer,
    num_workers: int,
    part: Part,
    remake: bool,
    on_progress: Progress,
    broken: Mapping[str, Collection[str]] | None = None,
) -> dict[str, SplitMade]:
    """Make the shards of every split of a dataset under `out`.

    Shards that an earlier run finished from the same inputs and spec are kept: an interrupted run goes on where it was.
    Of the others what still fits is taken, sample by sample and modality by modality, and only the rest is decoded.

    Args:
        dataset: What to read.
        out: A folder that is empty, new, or holds shards of ours.
        config: How.
        tokenizer: The one of `preprocess.building.feature_spec.build_tokenizer`.
        num_workers: Processes that decode; they do not change any byte.
        part: Which share of the shards to make; whoever finishes last publishes the index.
        remake: Whether pictures may be decoded again because they are to be made in another way.
        on_progress: Called as rows are finished.
        broken: Names of shards by split that are to be made again, whatever is recorded of them; all others are taken
            as they are. Without it, what is recorded decides.

    Returns:
        What was done, by split.

    Raises:
        SpecMismatchError: if pictures would have to be decoded again and `remake` does not say so.
        DatasetError: if more rows of a split have no picture than the config allows. What was made is kept.
        ShardError: if the disk is full or cannot be written, or `out` holds something else.
        OutputBusyError: if another run is writing to `out`.
    """
    ours = check_run(dataset, out, config=config, tokenizer=tokenizer, remake=remake)  # leaves nothing in the folder
    with shard_folder(out).claimed(ours, remake=remake, number=part.number, count=part.count):
        tokenizer.save(out / "tokenizer")
        works = [
            SplitMaker(
                dataset,
                split,
                out / split.name,
                config=config,
                spec=ours.spec,
                part=part,
                broken=None if broken is None else broken.get(split.name, ()),
            )
            for split in dataset.splits
        ]
        requests = chain.from_iterable(work.requests() for work in works)
        extracts = extract_all(dataset.root, requests, config=config, spec=ours.spec, num_workers=num_workers)
        with closing(extracts):
            for work in works:
                work.make(extracts, tokenizer=tokenizer, on_progress=on_progress)
        # Once more: while this part was at later splits, another one may have made what an earlier split lacked.
        return {work.split.name: work.complete() for work in works}


def _check_dialogues(dataset: Dataset, config: PreprocessConfig) -> None:
    """Refuse to put earlier utterances of a dialogue into tokens where every dialogue is a single utterance."""
    if not config.context_utterances:
        return
    for split in dataset.splits:
        if len({row.dialogue_id for row in split.utterances}) < len(split.utterances):
            return
    what = f"{config.context_utterances} earlier utterances of each dialogue are asked for, and none has a second one"
    then = "say which rows are one dialogue (in a CSV of own clips: a column `dialogue`), or leave out --context"
    raise DatasetError(describe(what, file=dataset.root, then=then))
