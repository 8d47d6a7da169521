"""How many files of the matrix each decoder reads as ffmpeg does, by what is particular about them.

    python -m benchmarks.conformance
    python -m benchmarks.conformance --list

The files are those of `tests/support/matrix`: small clips whose every picture carries its number, made on the spot.
A file agrees if both picture and sound do, is noted if it differs and a note of the sample says what was lost, absent
if it has no picture or no sound and a reason, and wrong if it differs without a word.
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

from preprocess.config import Decoder
from tests.support.matrix.cases import all_cases
from tests.support.matrix.judge import Judgement, Outcome
from tests.support.matrix.run import Matrix


def table(matrix: Matrix, judgements: dict[Decoder, dict[str, Judgement]]) -> str:
    """Return counts by axis, decoder and outcome as a Markdown table."""
    outcomes: tuple[Outcome, ...] = get_args(Outcome)
    counts: dict[str, dict[Decoder, Counter[Outcome]]] = defaultdict(lambda: defaultdict(Counter))
    for case in matrix.cases:
        for decoder, found in judgements.items():
            for axis in (case.axis, "all"):
                counts[axis][decoder][found[case.name].outcome] += 1
    columns = [f"{decoder}: {outcome}" for decoder in judgements for outcome in outcomes]
    lines = [f"| files | count | {' | '.join(columns)} |", "|---|" + "---|" * (len(columns) + 1)]
    for axis in sorted(counts, key=lambda axis: (axis == "all", axis)):
        total = next(iter(counts[axis].values())).total()
        cells = [counts[axis][decoder][outcome] for decoder in judgements for outcome in outcomes]
        lines.append(f"| {axis} | {total} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Make the files, read them by both decoders, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print every file that differs, and how")
    arguments = parser.parse_args()
    decoders: tuple[Decoder, ...] = get_args(Decoder)
    with TemporaryDirectory() as folder:
        matrix = Matrix(Path(folder), all_cases())
        judgements = {decoder: matrix.judge(decoder) for decoder in decoders}
    sys.stdout.write(table(matrix, judgements) + "\n")
    for decoder, found in judgements.items() if arguments.list else ():
        for name, judgement in found.items():
            if judgement.outcome != "agrees":
                sys.stdout.write(f"{decoder}, {judgement.outcome}: {name}: {'; '.join(judgement.why)}\n")


if __name__ == "__main__":
    main()
