"""The benchmark for GPUs, in its smoke form: that it runs is known before there is a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT, environment

PARTS = ("limits", "first-steps", "runs", "training", "compile", "loaders", "encoding", "other-precisions", "jpegs")


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_what_is_compared_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment(), timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_bytes())
    assert report["failures"] == {}
    assert report["not_reached"] == ["compile: there is no GPU"]
    held = [figure["values"]["holds"] for figure in report["figures"] if "holds" in figure["values"]]
    assert held
    assert all(held)
    for part in PARTS:
        assert f"-- {part}:" in done.stdout


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_names_the_smoke_form(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
    assert done.returncode == 2
    assert "--smoke" in done.stderr
