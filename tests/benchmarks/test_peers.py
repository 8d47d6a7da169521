"""The parts of the comparison with other loaders that need none of them."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.child import Timing, read_every_byte
from benchmarks.peers.environments import PeerError, find_python, install
from benchmarks.peers.peer import FIELDS, Batch, digest, load_peer, read_tars
from benchmarks.peers.processes import Memory, family, family_cpu_seconds, family_memory
from benchmarks.peers.rounds import Options, Row, measure
from benchmarks.peers.samples import Samples, export
from benchmarks.peers.table import markdown, median_ratio, spread
from tests.support.samples import make_sample, make_spec, write_split

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
OPTIONS = Options(batch_size=4, rounds=2, least_seconds=0.01, timeout_seconds=60)

needs_proc = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="reads /proc of Linux")


def make_samples(folder: Path, *, num_samples: int = 10) -> Samples:
    write_split(folder / "made", [make_sample(i) for i in range(num_samples)])
    return export(folder / "made" / "train", folder / "samples" / "tars")


def make_batch(*, rows: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        random.integers(0, 255, (rows, 2, 3, 3, 3)).astype(np.uint8),
        random.normal(size=(rows, 4, 5)).astype(np.float16),
        random.integers(0, 9, (rows, 3)).astype(np.int32),
        random.integers(0, 7, (rows, 2)),
    )


def make_row(title: str, *rates: float, failure: str = "") -> Row:
    timings = [
        Timing(first_batch_seconds=0.5, samples_per_second=rate, cpu_seconds=0.25, reading_samples_per_second=rate / 2)
        for rate in rates
    ]
    memory = Memory(own=100, resident=200)
    return Row(peer=title, title=title, settings="as is", workers=1, failure=failure, memory=memory, timings=timings)


def test_the_digest_is_the_same_in_any_order_and_any_batches() -> None:
    batch = make_batch(rows=7)
    order = np.random.default_rng(1).permutation(7)
    parts = [Batch(*(array[order[chosen]] for array in batch)) for chosen in (slice(0, 3), slice(3, 7))]
    assert sum(map(digest, parts)) == digest(batch)


@pytest.mark.parametrize("field", range(len(FIELDS)))
def test_the_digest_sees_one_changed_value_in_any_field(field: int) -> None:
    batch = make_batch(rows=3)
    changed = [array.copy() for array in batch]
    changed[field].reshape(-1)[-1] += 1
    assert digest(Batch(*changed)) != digest(batch)


@pytest.mark.parametrize("field", range(len(FIELDS)))
def test_reading_every_byte_reads_each_field_to_its_end(field: int) -> None:
    arrays = [np.zeros_like(array) for array in make_batch(rows=3)]
    arrays[field].reshape(-1).view(np.uint8)[-1] = 200
    assert read_every_byte(Batch(*arrays)) == 200


def test_the_plain_tars_hold_the_samples_of_the_split(tmp_path: Path) -> None:
    samples = make_samples(tmp_path, num_samples=5)
    found = list(read_tars(samples.source.tars))
    assert len(found) == samples.expected.num_samples == 5
    for number, (_, arrays) in enumerate(found):
        sample = make_sample(number)
        np.testing.assert_array_equal(arrays["frames"], sample.frames)
        np.testing.assert_array_equal(arrays["logmel"], sample.logmel)
        np.testing.assert_array_equal(arrays["tokens"], sample.tokens)
        assert arrays["labels"].tolist() == [number % 7, number % 3]


def test_exporting_again_writes_nothing_and_expects_the_same(tmp_path: Path) -> None:
    first = make_samples(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in first.source.tars.iterdir()}
    assert export(first.source.split, first.source.tars) == first
    assert {path: path.stat().st_mtime_ns for path in first.source.tars.iterdir()} == times


def test_a_split_of_jpegs_is_refused(tmp_path: Path) -> None:
    spec = make_spec(storage="jpeg")
    write_split(tmp_path, [make_sample(0, spec=spec)], spec=spec)
    with pytest.raises(ValueError, match="jpeg"):
        export(tmp_path / "train", tmp_path / "tars")


def test_every_peer_says_how_it_is_used_and_loads_without_its_library() -> None:
    program = """
import sys
from benchmarks.peers.peer import load_peer, peer_names
peers = [load_peer(name) for name in peer_names()]
assert all(peer.settings and peer.variants for peer in peers)
assert all(peer.requirements for peer in peers if peer.environment)
theirs = {module.partition(".")[0] for peer in peers if peer.environment for module in peer.modules}
assert not theirs & set(sys.modules)
assert not {"torch", "shards", "tests"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_an_unknown_peer_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'nobody'.*copy_limit"):
        load_peer("nobody")


@needs_proc
def test_our_loader_and_the_limit_are_measured_each_in_processes_of_its_own(tmp_path: Path) -> None:
    steps: list[str] = []
    samples = make_samples(tmp_path)
    rows = measure(["copy_limit", "mmsent"], samples, tmp_path, options=OPTIONS, on_step=steps.append)
    assert [row.title for row in rows] == ["copy limit, one thread", "mmsent, 1 reader", "mmsent, 2 readers"]
    assert [row.failure for row in rows] == ["", "", ""]
    assert all(len(row.timings) == OPTIONS.rounds for row in rows)
    assert all(row.memory is not None and row.memory.own > row.imports_megabytes * 0.5 for row in rows)
    in_turns = [step.rpartition(": ")[2] for step in steps if step.startswith("round")]
    assert in_turns == [row.title for row in rows] * OPTIONS.rounds


CONVERTED = """echo '{"seconds": 1.0, "version": "9.9"}' > "$4"; exit 0"""


def make_environment(work: Path, program: str) -> None:
    """Make the environment of `spdl` with a shell script for an interpreter: `$3` is the task, `$4` the answer."""
    folder = work / "environments" / "spdl"
    (folder / "bin").mkdir(parents=True)
    (folder / "installed.txt").touch()
    (folder / "bin" / "python").write_text(f"#!/bin/sh\n{program}\n", "utf-8")
    (folder / "bin" / "python").chmod(0o755)


@needs_proc
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo 'OSError: the disk is | gone'; exit 3", r"convert ended with 3: OSError: the disk is \| gone"),
        ("exit 0", "convert ended with 0: no word"),
        (
            f"""grep -q '"convert"' "$3" && {{ {CONVERTED}; }}
            echo '{{"num_samples": 9, "digest": 5, "arrays": ""}}' > "$4" """,
            "gives other samples: .*num_samples=9, digest=5.* instead of .*num_samples=10",
        ),
    ],
    ids=["an error", "no answer", "other samples"],
)
def test_a_peer_that_fails_keeps_its_rows_with_the_reason(tmp_path: Path, program: str, reason: str) -> None:
    samples = make_samples(tmp_path)
    make_environment(tmp_path, program)
    rows = measure(["spdl", "copy_limit"], samples, tmp_path, options=OPTIONS, on_step=lambda step: None)
    assert [row.peer for row in rows] == ["spdl", "spdl", "copy_limit"]
    for row in rows[:2]:
        assert re.search(reason, row.failure)
        assert not row.timings
    assert rows[2].timings


@needs_proc
def test_a_peer_that_hangs_is_ended_after_its_time_and_not_tried_again_for_its_other_rows(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    make_environment(tmp_path, f"echo again >> {tmp_path}/tries; sleep 600")
    options = Options(batch_size=4, rounds=1, least_seconds=0.01, timeout_seconds=1)
    rows = measure(["spdl"], samples, tmp_path, options=options, on_step=lambda step: None)
    assert [row.failure for row in rows] == ["convert took more than 1 s"] * 2
    assert (tmp_path / "tries").read_text("ascii").split() == ["again"]


@needs_proc
def test_workers_that_a_peer_leaves_behind_are_ended(tmp_path: Path) -> None:
    samples = make_samples(tmp_path)
    make_environment(tmp_path, f"sleep 600 & echo $! > {tmp_path}/left; exit 1")
    measure(["spdl"], samples, tmp_path, options=OPTIONS, on_step=lambda step: None)
    left = Path(f"/proc/{(tmp_path / 'left').read_text('ascii').strip()}/stat")
    deadline = time.monotonic() + 10
    while left.exists() and left.read_text("ascii").split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left.exists() or left.read_text("ascii").split()[2] == "Z"


def test_a_peer_whose_environment_was_not_made_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="--install"):
        find_python(load_peer("spdl"), tmp_path)


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path) -> None:
    peer = replace(load_peer("spdl"), requirements=(f"{tmp_path}/no-such-package",))
    install([peer], tmp_path)
    with pytest.raises(PeerError, match=r"not installed: ERROR.*no-such-package"):
        find_python(peer, tmp_path)


@needs_proc
def test_cpu_time_counts_workers_that_live_and_workers_that_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    before = family_cpu_seconds()
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        living = family_cpu_seconds() - before
        worker.communicate(b"\n")
    ended = family_cpu_seconds() - before
    assert living >= 0.28
    assert ended >= living - 0.02


@needs_proc
def test_memory_counts_what_a_worker_takes_and_the_family_is_it_and_those_below() -> None:
    hold = "held = bytearray(50_000_000)\nprint('held', flush=True)\ninput()"
    before = family_memory(os.getpid())
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert family(worker.pid) == {worker.pid}
        assert {worker.pid, os.getpid()} <= family(os.getpid())
        assert family_memory(worker.pid).own >= 50
        assert family_memory(os.getpid()).own >= before.own + 49
        worker.communicate(b"\n")
    assert family_memory(worker.pid) == Memory(own=0, resident=0)


def test_figures_are_medians_with_the_lowest_and_the_highest_beside_them() -> None:
    assert spread([3000, 1000, 2500]) == "2,500 (1,000, 3,000)"


def test_a_ratio_is_the_median_of_the_ratios_within_rounds() -> None:
    # A round in which the whole machine was slow says as much as the others.
    assert median_ratio([10, 1, 30], [5, 0.5, 10]) == 2


def test_the_table_has_the_fastest_first_and_those_that_failed_last() -> None:
    rows = [
        make_row("broken, 1", failure="it says | no\nand more"),
        make_row("slow, 1", 10, 20, 30),
        make_row("mmsent, 1 reader", 100, 200, 400),
        make_row("copy limit, one thread", 200, 400, 500),
    ]
    lines = markdown(rows, num_samples=10).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "copy limit, one thread",
        "mmsent, 1 reader",
        "slow, 1",
        "broken, 1",
    ]
    assert lines[3].startswith("| mmsent, 1 reader | 200 (100, 400) | 0.50 | 1.00 | 0.250 | 0.500 | 100 (0) | 200 |")
    assert "| 0.05 | 10 |" in lines[4]
    assert "it says / no and more" in lines[5]
    assert {line.count("|") for line in lines[:6]} == {10}


def test_a_peer_measured_alone_has_no_ratios() -> None:
    line = markdown([make_row("slow, 1", 10, 20, 30)], num_samples=10).splitlines()[2]
    assert line.startswith("| slow, 1 | 20 (10, 30) |  |  | 0.250 |")


@needs_proc
def test_the_command_prints_the_table_or_json(tmp_path: Path) -> None:
    make_samples(tmp_path)
    command = [sys.executable, "-m", "benchmarks.peers", "--split", str(tmp_path / "made" / "train")]
    command += ["--work", str(tmp_path / "work"), "--only", "copy_limit", "--rounds", "1", "--seconds", "0.01"]
    table = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "| copy limit, one thread |" in table
    rows = json.loads(subprocess.run([*command, "--json"], cwd=ROOT, check=True, capture_output=True).stdout)
    assert [row["title"] for row in rows] == ["copy limit, one thread"]
    assert rows[0]["timings"][0]["samples_per_second"] > 0
