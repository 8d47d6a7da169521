"""Our own commands, run by benchmarks that train: their output, and the rows of tables of scores."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmsent.runs.folder import HISTORY, seed_folders

__all__ = ["HEADER", "mmsent", "say", "scored", "table_row"]

HEADER = (
    "| setting | emotion, weighted F1 | emotion, macro F1 | sentiment, weighted F1 | training, per seed |",
    "|---|---|---|---|---|",
)


def mmsent(*arguments: object) -> str:
    """Run a command of ours and return what it printed; its progress and logs go to this terminal."""
    command = [sys.executable, "-c", "from cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mmsent {' '.join(map(str, arguments))} ended with {done.returncode}")
    return done.stdout


def scored(run: Path, scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of a folder of seeds with the seconds of their steps.

    Args:
        run: What `mmsent train --seeds --out` made.
        scores: As in the JSON of `mmsent evaluate`.
    """
    histories = [json.loads((folder / HISTORY).read_text()) for folder in seed_folders(run).values()]
    seconds = statistics.fmean(sum(epoch["seconds"] for epoch in history) for history in histories)
    return {"scores": {f"{item['task']} {item['score']}": item for item in scores}, "seconds_per_seed": seconds}


def table_row(words: str, result: dict[str, Any]) -> str:
    """Return a row under `HEADER`: means and deviations in percent, from `scored`."""
    cells = [words]
    for name in ("emotion weighted F1", "emotion macro F1", "sentiment weighted F1"):
        score = result["scores"][name]
        cells.append(f"{100 * score['mean']:.1f} ± {100 * score['deviation']:.1f}")
    cells.append(f"{result['seconds_per_seed']:.0f} s")
    return f"| {' | '.join(cells)} |"


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
