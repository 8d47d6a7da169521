from pathlib import Path

import pytest
import torch

from mmsent.bench.chart import plot_timings
from mmsent.bench.timing import Timing
from mmsent.evaluation.metrics import TaskScore, score_task
from mmsent.evaluation.plots import plot_confusion
from shards.schema import LabelSet


def score_of(*names: str) -> TaskScore:
    labels = torch.arange(4) % len(names)
    counts = dict.fromkeys(names, 1)
    return score_task(labels, labels, label_set=LabelSet(task="price", names=names), train_counts=counts)


@pytest.mark.parametrize(
    "names",
    [("no", "yes"), ("$\\frac$", "_^{"), ("a\nb", "c"), ("喜び", "sad"), ("غضب", "😀"), tuple(map(str, range(30)))],
)
def test_a_confusion_matrix_is_drawn_whatever_the_labels_are(tmp_path: Path, names: tuple[str, ...]) -> None:
    plot_confusion(score_of(*names), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("rates", [(0.004,), (120.0, 90.0, 100.0), (1e6, 5e6)])
def test_timings_are_drawn_whatever_was_measured_beside_the_limit(tmp_path: Path, rates: tuple[float, ...]) -> None:
    limit = Timing(
        name="copying $x_{",
        kind="limit",
        group="loading",
        num_readers=0,
        samples_per_second=rates,
        cpu_seconds_per_1000=rates,
    )
    failed = Timing(
        name="trainer",
        kind="fed",
        group="training",
        num_readers=1,
        samples_per_second=(),
        cpu_seconds_per_1000=(),
        failure="no weights",
    )
    plot_timings([limit, failed], tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
