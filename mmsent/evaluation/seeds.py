"""The same run from several seeds: a score without its deviation says little."""

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsent.evaluation.evaluate_run import Evaluation, evaluate_run
from mmsent.runs.folder import SEED_SCORES, evaluation_folder, seed_folders
from mmsent.runs.history import TrainResult
from shards.files import publish
from shards.storage.cache import ShardCache

__all__ = ["ScoreOverSeeds", "dev_scores", "evaluate_seeds", "evaluation_scores"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreOverSeeds:
    """One score of one task in all runs, from 0 to 1."""

    task: str
    score: str
    """`weighted F1`, `macro F1` or `accuracy`."""
    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.by_seed.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample (n - 1); 0 of a single seed."""
        return statistics.stdev(self.by_seed.values()) if len(self.by_seed) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, mean and deviation among them."""
        return {**asdict(self), "mean": self.mean, "deviation": self.deviation}


def dev_scores(results: Mapping[int, TrainResult]) -> list[ScoreOverSeeds]:
    """Return the validation scores of each run's best epoch."""
    best = {seed: result.epochs[result.best_epoch] for seed, result in results.items() if result.best_epoch is not None}
    scores: list[ScoreOverSeeds] = []
    for task in next(iter(best.values())).dev_weighted_f1 if best else ():
        for name, field in (("weighted F1", "dev_weighted_f1"), ("accuracy", "dev_accuracy")):
            by_seed = {seed: getattr(result, field)[task] for seed, result in best.items()}
            scores.append(ScoreOverSeeds(task=task, score=name, by_seed=by_seed))
    return scores


def evaluate_seeds(
    shards: str | Path, run: Path, *, split: str, cache: ShardCache | None = None
) -> Iterator[tuple[int, Evaluation]]:
    """Score the run of each seed on a split, as `evaluate_run` does; yield them as they come.

    Also writes `run/evaluation-<split>/seeds.json` after the last one.

    Raises:
        ExpectedError: as `evaluate_run`, for the first run that cannot be scored.
    """
    found: dict[int, Evaluation] = {}
    for seed, folder in seed_folders(run).items():
        found[seed] = evaluate_run(shards, folder, split=split, cache=cache)
        yield seed, found[seed]
    directory = evaluation_folder(run, split)
    directory.mkdir(exist_ok=True)
    scores = [score.to_json() for score in evaluation_scores(found)]
    publish(directory / SEED_SCORES, (json.dumps(scores, indent=1) + "\n").encode())


def evaluation_scores(evaluations: Mapping[int, Evaluation]) -> list[ScoreOverSeeds]:
    """Return the scores of all runs by task."""
    scores: list[ScoreOverSeeds] = []
    for task in next(iter(evaluations.values())).scores if evaluations else ():
        for name, field in (("weighted F1", "weighted_f1"), ("macro F1", "macro_f1"), ("accuracy", "accuracy")):
            by_seed = {seed: float(getattr(item.scores[task], field)) for seed, item in evaluations.items()}
            scores.append(ScoreOverSeeds(task=task, score=name, by_seed=by_seed))
    return scores
