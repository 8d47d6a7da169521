"""The benchmark for GPUs, in its smoke form: that it runs is known before there is a GPU."""

import json
from pathlib import Path

import pytest

from tests.support.warm_start import ROOT, start_python

pytestmark = pytest.mark.slow

PARTS = ("limits", "first-steps", "runs", "training", "compile", "loaders", "encoding", "other-precisions", "jpegs")


def test_every_part_runs_on_a_cpu_and_what_is_compared_holds(tmp_path: Path) -> None:
    process = start_python("-m", "benchmarks.gpu", "--smoke", "--out", str(tmp_path), cwd=ROOT)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, output + errors
    report = json.loads((tmp_path / "gpu.json").read_bytes())
    assert report["failures"] == {}
    assert report["not_reached"] == ["compile: there is no GPU"]
    held = [figure["values"]["holds"] for figure in report["figures"] if "holds" in figure["values"]]
    assert held
    assert all(held)
    for part in PARTS:
        assert f"-- {part}:" in output


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_names_the_smoke_form(tmp_path: Path) -> None:
    process = start_python("-m", "benchmarks.gpu", "--out", str(tmp_path), cwd=ROOT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "--smoke" in errors
