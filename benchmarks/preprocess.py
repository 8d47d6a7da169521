"""Speed and memory of preprocessing, side by side with the limit and with what it replaces.

    mmsent make-demo DIR --height 720 && python -m benchmarks.preprocess DIR
    python -m benchmarks.preprocess MELD.Raw --clips 60 --rounds 5

In every round all ways go over the same clips, on one core, in turns; then whole runs with 1 and 2 workers. The table
has medians over the rounds, and every share is the median of the shares within a round.

The limit is decoding every frame and all sound of each clip in this process, and nothing else. `tutorial` is what the
widely copied notebooks do for every sample of every epoch: the first 30 frames by OpenCV at 224x224, an ffmpeg process
that writes the sound to a file, a mel spectrogram. It needs `pip install -e '.[bench]'`;
without that its row is left out.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from preprocess.building.feature_spec import feature_spec
from preprocess.clips.extract import MEDIA
from preprocess.clips.extract_all import Request, extract_all
from preprocess.config import Decoder, PreprocessConfig
from preprocess.datasets.annotations import Utterance
from preprocess.on_the_fly.bench_cases import choose_rows, decode_row, tutorial
from preprocess.text.tokenizer import learn_tokenizer
from shards.spec import FeatureSpec

Way = Callable[[Path, Utterance], None]

_WORKERS = (1, 2)


def decode_all(root: Path, row: Utterance) -> None:
    """Decode every frame and all sound of a clip, and nothing else: the limit."""
    import av

    with av.open(str(root / row.clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(*container.streams.video[:1], *container.streams.audio[:1]):
            del frame


def clips_per_second(ways: dict[str, Way], root: Path, rows: list[Utterance]) -> dict[str, float]:
    """Time all ways over all clips, on one core, in turns clip by clip: the machine's moods meet all of them alike."""
    seconds = dict.fromkeys(ways, 0.0)
    with _one_core():
        for row in rows:
            for name, way in ways.items():
                start = time.perf_counter()
                way(root, row)
                seconds[name] += time.perf_counter() - start
    return {name: len(rows) / spent for name, spent in seconds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pass over the clips through worker processes."""

    clips_per_second: float
    """From the first result to the last: the start of Python and torch, the same for any number of workers, is out."""
    largest_worker_megabytes: float


def run_workers(root: Path, rows: list[Utterance], *, num_workers: int, decoder: Decoder) -> Run:
    """Decode the rows through worker processes, as `mmsent preprocess` does, without writing shards."""
    config = PreprocessConfig(text_encoder="scratch", decoder=decoder)
    requests = [Request(row=row, media=MEDIA) for row in rows]
    marks = []
    megabytes = 0.0
    for _ in extract_all(root, requests, config=config, spec=_spec(config), num_workers=num_workers):
        marks.append(time.perf_counter())
        if len(marks) % 20 == 0 or len(marks) == len(rows):  # after the last result the workers still live
            megabytes = max(megabytes, peak_of_descendants())
    return Run(clips_per_second=(len(marks) - 1) / (marks[-1] - marks[0]), largest_worker_megabytes=megabytes)


def peak_of_descendants() -> float:
    """Return the largest peak resident set in MB among the processes below this one (Linux).

    It counts the pages of libraries, which the workers share with the fork server, in each of them.
    """
    parents: dict[int, int] = {}
    peaks: dict[int, float] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended meanwhile
            continue
        pid = int(status.parent.name)
        parents[pid] = int(fields["PPid"])
        peaks[pid] = float(fields.get("VmHWM", "0 kB").split()[0]) / 1000
    below = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= found
    return max((peaks[pid] for pid in below - {os.getpid()}), default=0.0)


def _spec(config: PreprocessConfig) -> FeatureSpec:
    """Return the spec of a config; no transcript is tokenized here."""
    return feature_spec(config, learn_tokenizer(["a"]))


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this process and those it starts on one core, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def measure(root: Path, rows: list[Utterance], *, rounds: int) -> dict[str, list[float]]:
    """Return clips per second by way and round, every way once in each round, and MB of the largest worker."""
    ways: dict[str, Way] = {"limit": decode_all, "decord": decode_row("decord"), "pyav": decode_row("pyav")}
    try:
        ways["tutorial"] = tutorial()
    except ImportError as exc:
        sys.stderr.write(f"without the tutorial's way: {exc}; pip install -e '.[bench]'\n")
    found: dict[str, list[float]] = defaultdict(list)
    decoders: tuple[Decoder, ...] = ("decord", "pyav")
    for way in ways.values():
        way(root, rows[0])  # what is imported or built on first use
    for number in range(rounds):
        for name, rate in clips_per_second(ways, root, rows).items():
            found[name].append(rate)
        for decoder in decoders:
            for num_workers in _WORKERS:
                run = run_workers(root, rows, num_workers=num_workers, decoder=decoder)
                found[f"{decoder}, {num_workers} workers"].append(run.clips_per_second)
                found[f"{decoder}, MB"].append(run.largest_worker_megabytes)
        sys.stderr.write(f"round {number + 1} of {rounds}\n")
    return dict(found)


def table(found: dict[str, list[float]]) -> str:
    """Draw what `measure` found in Markdown."""
    words = {
        "limit": "decoding every frame and all sound, nothing else",
        "decord": "mmsent, Decord: frames over the whole clip and log-mel",
        "pyav": "mmsent, PyAV: the same, skipping unneeded frames",
        "tutorial": "the tutorial: first 30 frames by OpenCV, an ffmpeg process, mel",
    }
    lines = ["| one core, in process | clips/s (lowest, highest) | of the limit |", "|---|---|---|"]
    lines += [
        f"| {what} | {_spread(found[name])} | {_ratio(found[name], found['limit']):.2f} |"
        for name, what in words.items()
        if name in found
    ]
    lines += ["", "| whole run | 1 worker | 2 workers | ratio | largest worker |", "|---|---|---|---|---|"]
    for decoder in ("decord", "pyav"):
        one, two = (found[f"{decoder}, {num} workers"] for num in _WORKERS)
        megabytes = max(found[f"{decoder}, MB"])
        lines.append(f"| {decoder} | {_spread(one)} | {_spread(two)} | {_ratio(two, one):.2f} | {megabytes:.0f} MB |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}, {max(values):.2f})"


def _ratio(values: list[float], base: list[float]) -> float:
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path, help="a MELD folder")
    parser.add_argument("--clips", type=int, default=60, help="how many, spread evenly")
    parser.add_argument("--longest", type=float, default=30.0, help="leave out clips of more seconds than this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = choose_rows(options.meld, num_clips=options.clips, longest_seconds=options.longest)
    found = measure(options.meld, rows, rounds=options.rounds)
    sys.stdout.write((json.dumps(found, indent=1) if options.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
