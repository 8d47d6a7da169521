import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mmsent.evaluation.seeds import dev_scores, evaluate_seeds, evaluation_scores
from mmsent.runs.folder import seed_folder, seed_folders
from tests.mmsent.training.test_start import CONFIG, run, shards

__all__ = ["shards"]


def test_runs_of_several_seeds_are_scored_one_by_one_and_together(shards: Path, tmp_path: Path) -> None:
    results = {
        seed: run(shards, seed_folder(tmp_path / "runs", seed), config=replace(CONFIG, seed=seed, max_epochs=2))
        for seed in (0, 10, 2)
    }
    assert list(seed_folders(tmp_path / "runs")) == [0, 2, 10]
    [score] = [one for one in dev_scores(results) if (one.task, one.score) == ("emotion", "weighted F1")]
    best = {seed: result.epochs[result.best_epoch or 0] for seed, result in results.items()}
    values = [epoch.dev_weighted_f1["emotion"] for epoch in best.values()]
    mean = sum(values) / 3
    assert score.mean == pytest.approx(mean)
    assert score.deviation == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 2))
    found = dict(evaluate_seeds(shards, tmp_path / "runs", split="test"))
    assert {seed: item.directory.parent.name for seed, item in found.items()} == {
        0: "seed-0",
        2: "seed-2",
        10: "seed-10",
    }
    written = json.loads((tmp_path / "runs" / "evaluation-test" / "seeds.json").read_text())
    assert written == json.loads(json.dumps([one.to_json() for one in evaluation_scores(found)]))
    assert {one["score"] for one in written} == {"weighted F1", "macro F1", "accuracy"}


def test_a_single_seed_has_no_deviation_and_a_folder_of_one_run_no_seeds(shards: Path, tmp_path: Path) -> None:
    result = run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    assert [score.deviation for score in dev_scores({0: result})] == [0.0] * 4
    assert seed_folders(tmp_path / "run") == {}
