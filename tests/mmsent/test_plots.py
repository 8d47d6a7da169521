from pathlib import Path

import pytest
import torch

from mmsent.metrics import TaskScore, score_task
from mmsent.plots import plot_confusion
from shards.schema import LabelSet


def score_of(*names: str) -> TaskScore:
    labels = torch.arange(4) % len(names)
    counts = dict.fromkeys(names, 1)
    return score_task(labels, labels, label_set=LabelSet(task="price", names=names), train_counts=counts)


@pytest.mark.parametrize("names", [("no", "yes"), ("$\\frac$", "_^{"), ("a\nb", "c"), tuple(map(str, range(30)))])
def test_a_confusion_matrix_is_drawn_whatever_the_labels_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    plot_confusion(score_of(*names), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
