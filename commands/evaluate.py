"""`mmsent evaluate`: scores of a run."""

import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from commands.options import (
    CACHE_GIGABYTES,
    CacheOption,
    CacheSizeOption,
    JsonOption,
    url_cache,
)
from commands.score_tables import print_evaluation, print_scores_over_seeds
from commands.terminal import print_json, stdout

__all__ = ["evaluate_command"]

_LOG = logging.getLogger(__name__)


def evaluate_command(
    run: Annotated[Path, typer.Option(help="Folder that `mmsent train` made.")],
    shards: Annotated[
        str | None, typer.Option(help="Folder of shards, or its URL.", show_default="those of the run")
    ] = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "test",
    cache: CacheOption = None,
    cache_size: CacheSizeOption = CACHE_GIGABYTES,
    as_json: JsonOption = False,
) -> None:
    """Score a run's best checkpoint on a split, every sample once, next to the majority baseline.

    Writes metrics.json, predictions.csv, a confusion matrix per task and the training curves to RUN/evaluation-SPLIT/.
    A folder that `mmsent train --seeds` made is scored seed by seed, with mean and deviation in one table.

    Example: `mmsent evaluate --run runs/meld-shards`
    """
    from mmsent.evaluation.evaluate_run import evaluate_run
    from mmsent.evaluation.seeds import evaluate_seeds, evaluation_scores
    from mmsent.runs.folder import seed_folders, shards_of

    if shards is None:
        shards = shards_of(run)
    store = url_cache(shards, cache, cache_size)
    if seed_folders(run):
        found = {}
        for seed, evaluation in evaluate_seeds(shards, run, split=split, cache=store):
            _LOG.info("seed %d: %s", seed, evaluation.directory)
            found[seed] = evaluation
        scores = evaluation_scores(found)
        if as_json:
            by_seed = {seed: evaluation.to_json() for seed, evaluation in found.items()}
            print_json({"seeds": by_seed, split: [score.to_json() for score in scores]})
        else:
            print_scores_over_seeds(scores, split=split)
            for task, item in next(iter(found.values())).scores.items():
                base = f"{item.baseline.weighted_f1:.3f}, {item.baseline.macro_f1:.3f}, {item.baseline.accuracy:.3f}"
                label = escape(item.baseline.label)
                stdout.print(f"{task}: always '{label}' scores {base}", highlight=False, soft_wrap=True)
            where = escape(str(run / f"evaluation-{split}"))
            stdout.print(f"Means and deviations in {where}; each run's own report in its folder", highlight=False)
        return
    evaluation = evaluate_run(shards, run, split=split, cache=store)
    if as_json:
        print_json(evaluation.to_json())
        return
    print_evaluation(evaluation)
