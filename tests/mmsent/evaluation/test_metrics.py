import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmsent.evaluation.metrics import score_task
from mmsent.training.data_statistics import class_weights
from shards.schema import EMOTION, SENTIMENT

GOLDEN = Path(__file__).parents[2] / "data" / "scores.json"
"""Made by tests/data/make_golden.py with scikit-learn."""


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text()), ids=lambda case: case["name"])
def test_scores_are_those_of_scikit_learn(case: dict[str, Any]) -> None:
    labels, predicted = torch.tensor(case["labels"]), torch.tensor(case["predicted"])
    score = score_task(predicted, labels, label_set=EMOTION, train_counts={"neutral": 9})
    assert score.accuracy == pytest.approx(case["accuracy"], abs=1e-6)
    assert score.weighted_f1 == pytest.approx(case["weighted_f1"], abs=1e-6)
    assert score.macro_f1 == pytest.approx(case["macro_f1"], abs=1e-6)
    assert [item.precision for item in score.classes] == pytest.approx(case["precision"], abs=1e-6)
    assert [item.recall for item in score.classes] == pytest.approx(case["recall"], abs=1e-6)
    assert [list(row) for row in score.confusion] == case["confusion"]


def test_the_baseline_answers_the_commonest_class_of_the_training_split() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    score = score_task(labels, labels, label_set=SENTIMENT, train_counts={"negative": 1, "neutral": 2, "positive": 5})
    assert score.baseline.label == "positive"
    assert score.baseline.accuracy == 0.25


def test_a_class_that_occurs_and_is_never_predicted_is_named() -> None:
    score = score_task(
        torch.tensor([0, 0, 0]), torch.tensor([0, 1, 0]), label_set=SENTIMENT, train_counts={"negative": 1}
    )
    assert score.never_predicted == ("neutral",)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        score_task(torch.tensor([]), torch.tensor([]), label_set=SENTIMENT, train_counts={})


def test_class_weights_go_by_label_name() -> None:
    counts = {"positive": 1, "negative": 4, "neutral": 16}
    inverse = class_weights(counts, SENTIMENT, kind="inverse")
    root = class_weights(counts, SENTIMENT, kind="sqrt")
    assert inverse is not None
    assert root is not None
    assert (inverse / inverse[1]).tolist() == pytest.approx([4, 1, 16])
    assert (root / root[1]).tolist() == pytest.approx([2, 1, 4])
    assert class_weights(counts, SENTIMENT, kind="none") is None


def test_class_weights_average_one_over_the_samples_and_survive_an_empty_class() -> None:
    weights = class_weights({"positive": 0, "negative": 4, "neutral": 16}, SENTIMENT, kind="sqrt")
    assert weights is not None
    assert weights[2] == 0
    assert (weights[0] * 4 + weights[1] * 16) / 20 == pytest.approx(1)
