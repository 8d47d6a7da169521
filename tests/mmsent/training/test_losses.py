from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from mmsent.config import ClassWeights, TrainConfig
from mmsent.training.data_statistics import class_weights
from mmsent.training.losses import MultitaskLoss
from shards.schema import LabelSet

COLOUR = LabelSet(task="colour", names=("red", "green", "blue"))
SIZE = LabelSet(task="size", names=("small", "large"))
COUNTS = {"colour": {"red": 1, "green": 4, "blue": 25}, "size": {"small": 20, "large": 10}}
CPU = torch.device("cpu")


def make_loss(config: TrainConfig) -> MultitaskLoss:
    return MultitaskLoss(config, (COLOUR, SIZE), COUNTS, CPU)


def draw(size: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    logits = {labels.task: torch.randn(size, len(labels.names), generator=generator) for labels in (COLOUR, SIZE)}
    labels = {task: torch.randint(values.shape[1], (size,), generator=generator) for task, values in logits.items()}
    return logits, labels


def whole(loss: MultitaskLoss, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
    return loss(logits, labels, weight=loss.weight(labels))


@pytest.mark.parametrize("weights", ["none", "sqrt", "inverse"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_sum_over_tasks_of_what_torch_means_by_the_mean(
    weights: ClassWeights, smoothing: float
) -> None:
    logits, labels = draw(30, seed=1)
    config = TrainConfig(class_weights=weights, label_smoothing=smoothing)
    expected = sum(
        F.cross_entropy(
            logits[one.task],
            labels[one.task],
            weight=class_weights(COUNTS[one.task], one, kind=weights),
            label_smoothing=smoothing,
        )
        for one in (COLOUR, SIZE)
    )
    torch.testing.assert_close(whole(make_loss(config), logits, labels), expected)


CORRECTED = [TrainConfig(), TrainConfig(class_weights="sqrt")]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=4).filter(sum), st.sampled_from(CORRECTED))
def test_the_parts_of_a_batch_add_up_to_its_loss_however_it_is_cut(sizes: list[int], config: TrainConfig) -> None:
    logits, labels = draw(sum(sizes), seed=len(sizes))
    loss = make_loss(replace(config, label_smoothing=0.1))
    weight = loss.weight(labels)
    total = torch.zeros(())
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        total = total + loss(
            {task: values[part] for task, values in logits.items()},
            {task: values[part] for task, values in labels.items()},
            weight=weight,
        )
        start += size
    torch.testing.assert_close(total, whole(loss, logits, labels))


def test_an_empty_share_of_a_batch_adds_nothing_and_has_a_gradient_of_nothing() -> None:
    _, labels = draw(8, seed=3)
    loss = make_loss(TrainConfig(class_weights="sqrt"))
    logits = {"colour": torch.zeros(0, 3, requires_grad=True), "size": torch.zeros(0, 2, requires_grad=True)}
    empty = {"colour": torch.zeros(0, dtype=torch.int64), "size": torch.zeros(0, dtype=torch.int64)}
    value = loss(logits, empty, weight=loss.weight(labels))
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == 0
    assert logits["colour"].grad is not None


def test_only_weighted_losses_need_the_labels_of_all_ranks() -> None:
    config = TrainConfig()
    assert not make_loss(config).is_weighted
    assert make_loss(replace(config, class_weights="inverse")).is_weighted
