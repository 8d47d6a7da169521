"""Our loader and those of others on the same samples, side by side in one run (Linux).

    python -m benchmarks.peers --install              # makes a virtual environment for each peer first
    python -m benchmarks.peers --only mmsent dali spdl copy_limit
    python -m benchmarks.peers --split data/shards/train

Samples, environments and what the peers make of the samples stay in the work folder, for the next run. Every peer is
checked once to give exactly the samples that were written. Then rounds: in each, every loader has its turn in a fresh
process, with the files in the page cache. docs/benchmarks.md says how to read the table.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.environments import install
from benchmarks.peers.peer import load_peer, peer_names
from benchmarks.peers.rounds import Options, measure
from benchmarks.peers.samples import export, make_split
from benchmarks.peers.table import markdown


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", type=Path, help="a split's folder; made if not given")
    parser.add_argument("--samples", type=int, default=1000, help="how many to make (642 kB each, once per peer)")
    parser.add_argument("--only", nargs="+", default=peer_names(), choices=peer_names(), metavar="PEER")
    parser.add_argument("--work", type=Path, default=_cache_folder(), help="keeps samples and environments")
    parser.add_argument("--install", action="store_true", help="make the environments that are missing, with pip")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=1.0, help="repeat epochs for at least so long, each round")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds one process may take")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that no peer is left running
    load = os.getloadavg()[0]
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if options.install:
        _say("installing")
        install(map(load_peer, peer_names()), work)
    _say("making the samples")
    split = (options.split or make_split(work, options.samples)).resolve()
    name = hashlib.sha256(f"{split} {(split / 'index.json').read_text('utf-8')}".encode()).hexdigest()[:16]
    samples = export(split, work / "samples" / name / "tars")
    how = Options(
        batch_size=options.batch_size,
        rounds=options.rounds,
        least_seconds=options.seconds,
        timeout_seconds=options.timeout,
    )
    rows = measure(options.only, samples, work, options=how, on_step=_say)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    else:
        sys.stdout.write(_circumstances(samples.expected.num_samples, how, load))
        sys.stdout.write(markdown(rows, samples.expected.num_samples) + "\n")


def _circumstances(num_samples: int, how: Options, load: float) -> str:
    """Return a paragraph about the machine and the run."""
    models = [line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name")]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{len(os.sched_getaffinity(0))} cores of {models[0].partition(': ')[2] if models else platform.machine()}, "
        f"{gigabytes:.0f} GB of memory, {platform.system()} {platform.release()}, Python {platform.python_version()}; "
        f"{num_samples:,} samples, batches of {how.batch_size}, {how.rounds} rounds; "
        f"load average {load:.1f} before.\n\n"
    )


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsent-peers"


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
