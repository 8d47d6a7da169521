"""Tables of scores: of one run, and over several seeds."""

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from commands.terminal import stderr, stdout

if TYPE_CHECKING:
    from mmsent.evaluation.evaluate_run import Evaluation
    from mmsent.evaluation.seeds import ScoreOverSeeds

__all__ = ["print_evaluation", "print_scores_over_seeds"]


def print_evaluation(evaluation: "Evaluation") -> None:
    """Draw the scores of each task."""
    for task, item in evaluation.scores.items():
        table = Table(title=f"{task} on {evaluation.split}, {item.num_samples} samples")
        for column in ("class", "precision", "recall", "F1", "samples", "predicted"):
            table.add_column(column, justify="left" if column == "class" else "right")
        for one in item.classes:
            values = (f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support))
            table.add_row(escape(one.name), *values, str(one.num_predicted))
        stdout.print(table)
        base = item.baseline
        stdout.print(
            f"weighted F1 [bold]{item.weighted_f1:.3f}[/], macro F1 {item.macro_f1:.3f}, accuracy {item.accuracy:.3f}; "
            f"always '{escape(base.label)}': {base.weighted_f1:.3f}, {base.macro_f1:.3f}, {base.accuracy:.3f}",
            highlight=False,
            soft_wrap=True,
        )
        if item.never_predicted:
            names = ", ".join(item.never_predicted)
            stderr.print(f"[yellow]warning:[/] never predicted: {escape(names)}", highlight=False, soft_wrap=True)
    stdout.print(
        f"Weights of epoch {evaluation.epoch + 1}, chosen on dev. All in {escape(str(evaluation.directory))}",
        highlight=False,
        soft_wrap=True,
    )


def print_scores_over_seeds(scores: list["ScoreOverSeeds"], *, split: str) -> None:
    """Draw the scores of the runs of several seeds: each, their mean and their deviation."""
    seeds = list(scores[0].by_seed) if scores else []
    table = Table(title=f"{split}, {len(seeds)} seed{'s' * (len(seeds) != 1)}")
    for column in ("task", "score", "mean", "deviation", *(f"seed {seed}" for seed in seeds)):
        table.add_column(column, justify="left" if column in ("task", "score") else "right", overflow="fold")
    for score in scores:
        values = [f"{value:.3f}" for value in score.by_seed.values()]
        deviation = f"{score.deviation:.3f}" if len(seeds) > 1 else "—"
        table.add_row(escape(score.task), score.score, f"[bold]{score.mean:.3f}[/]", deviation, *values)
    stdout.print(table)
