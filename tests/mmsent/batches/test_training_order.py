from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mmsent.batches.training_order import training_order
from mmsent.config import OrderKind, TrainConfig
from mmsent.errors import TrainingError
from mmsent.runs.folder import checkpoint_paths
from mmsent.runs.history import StepInfo
from shards.reading.split import Split
from tests.mmsent.training.test_start import CONFIG, SMALL, StopHereError, assert_same_run, run
from tests.support.samples import make_sample, with_labels, write_split

TEXT = replace(SMALL, modalities=("text",))
ORDERS: tuple[OrderKind, ...] = get_args(OrderKind)


def in_order(order: OrderKind, *, shards_per_block: int) -> TrainConfig:
    """Return the config of an order; the number of shards is for blocks alone."""
    config = replace(CONFIG, order=order)
    return replace(config, shards_per_block=shards_per_block) if order == "block-shuffle" else config


EMOTIONS = ["neutral"] * 24 + ["joy"] * 6 + ["anger"] * 2
SENTIMENTS = ["neutral", "positive"] * 16
"""Of the second task, and not those of the first."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A train split of 32 samples in 8 shards, most of them neutral, and a small dev split."""
    root = tmp_path_factory.mktemp("shards")
    labels = zip(EMOTIONS, SENTIMENTS, strict=True)
    samples = [with_labels(make_sample(i), emotion=one, sentiment=two) for i, (one, two) in enumerate(labels)]
    write_split(root, samples, samples_per_shard=4)
    write_split(root, [make_sample(i, split="dev") for i in range(4)], split="dev")
    return root


@pytest.fixture(scope="module")
def split(shards: Path) -> Split:
    return Split(shards / "train")


def epochs(split: Split, config: TrainConfig, *, count: int = 1) -> Iterator[list[int]]:
    """The samples of each epoch."""
    order = training_order(split, config)
    for epoch in range(count):
        yield order.samples(epoch, 0, order.num_samples).tolist()


@pytest.mark.parametrize("order", ["shuffle", "block-shuffle", "length-bucketed"])
def test_an_order_without_weights_has_every_sample_once_and_is_new_in_each_epoch(
    split: Split, order: OrderKind
) -> None:
    first, second = epochs(split, in_order(order, shards_per_block=2), count=2)
    assert sorted(first) == sorted(second) == list(range(32))
    assert first != second
    assert first != list(range(32))


@pytest.mark.parametrize("order", ORDERS)
def test_the_seed_decides_the_order(split: Split, order: OrderKind) -> None:
    config = replace(CONFIG, order=order)
    (first,), (same,) = epochs(split, config), epochs(split, config)
    (other,) = epochs(split, replace(config, seed=CONFIG.seed + 1))
    assert first == same != other


def test_block_shuffle_has_so_many_shards_at_a_time(split: Split) -> None:
    for shards_per_block in (1, 2, 4):
        config = replace(CONFIG, order="block-shuffle", shards_per_block=shards_per_block)
        (samples,) = epochs(split, config)
        size = 4 * shards_per_block
        for start in range(0, 32, size):
            assert len({sample // 4 for sample in samples[start : start + size]}) == shards_per_block
        changes = sum(one // 4 != next_one // 4 for one, next_one in pairwise(samples))
        assert changes > 7 if shards_per_block > 1 else changes == 7


def test_class_balanced_has_each_class_of_the_first_task_equally_often(split: Split) -> None:
    (samples,) = epochs(split, replace(CONFIG, order="class-balanced"))
    assert sorted(Counter(EMOTIONS[sample] for sample in samples).values()) == [10, 11, 11]
    # A class goes through all of its samples before one of them comes again.
    for emotion in ("joy", "anger"):
        times = Counter(sample for sample in samples if EMOTIONS[sample] == emotion).values()
        assert max(times) - min(times) <= 1
    assert max(Counter(sample for sample in samples if EMOTIONS[sample] == "neutral").values()) == 1


def test_class_weighted_has_each_class_by_the_square_root_of_its_frequency(split: Split) -> None:
    drawn = Counter(
        EMOTIONS[sample]
        for samples in epochs(split, replace(CONFIG, order="class-weighted"), count=300)
        for sample in samples
    )
    roots = {emotion: EMOTIONS.count(emotion) ** 0.5 for emotion in drawn}
    for emotion, count in drawn.items():  # of 9,600 draws: the standard error of a share is below 0.006
        assert count / drawn.total() == pytest.approx(roots[emotion] / sum(roots.values()), abs=0.02)


def test_length_bucketed_batches_hold_less_padding(split: Split) -> None:
    lengths = split.rows["num_tokens"].astype(np.int64)
    config = replace(CONFIG, order="length-bucketed", batch_size=4)

    def padding(order: OrderKind) -> int:
        (samples,) = epochs(split, replace(config, order=order))
        batches = lengths[samples].reshape(-1, 4)
        return int((batches.max(axis=1, keepdims=True) - batches).sum())

    assert padding("length-bucketed") < padding("shuffle") / 2


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_in_any_order_that_was_stopped_and_resumed_ends_as_one_never_stopped(
    shards: Path, tmp_path: Path, order: OrderKind
) -> None:
    config = replace(in_order(order, shards_per_block=3), batch_size=8, max_epochs=2, checkpoint_steps=2)
    run(shards, tmp_path / "whole", model=TEXT, config=config)

    def stop(info: StepInfo) -> None:
        if (info.epoch, info.step) == (1, 3):
            raise StopHereError

    with pytest.raises(StopHereError):
        run(shards, tmp_path / "stopped", model=TEXT, config=config, on_step=stop)
    run(shards, tmp_path / "stopped", model=TEXT, config=replace(config, num_readers=1, check=True), resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_does_not_go_on_in_another_order(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, max_epochs=1, order="block-shuffle", shards_per_block=3)
    run(shards, tmp_path / "run", model=TEXT, config=config)
    before = [path.read_bytes() for path in checkpoint_paths(tmp_path / "run")]
    with pytest.raises(TrainingError, match="order: 'block-shuffle' against 'class-balanced'"):
        run(
            shards,
            tmp_path / "run",
            model=TEXT,
            config=replace(CONFIG, order="class-balanced", max_epochs=2),
            resume=True,
        )
    with pytest.raises(TrainingError, match="shards_per_block: 3 against 4"):
        run(shards, tmp_path / "run", model=TEXT, config=replace(config, shards_per_block=4, max_epochs=2), resume=True)
    assert [path.read_bytes() for path in checkpoint_paths(tmp_path / "run")] == before
