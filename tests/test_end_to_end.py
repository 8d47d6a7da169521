"""The whole job by the real commands, on a small demo data set."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmsent.runs.folder import checkpoint_paths
from tests.support.commands import ROOT, mmsent, start_mmsent

MELD_MINI = ROOT.parent / "shared" / "meld-mini"
SMALL = (
    "--text-encoder",
    "scratch",
    "--frames",
    "4",
    "--size",
    "32x32",
    "--set",
    "preprocess.num_hops=100",
    "--set",
    "preprocess.samples_per_shard=5",
)
TRAIN = ("--text-encoder", "scratch", "--video-weights", "none", "--batch-size", "8", "--precision", "fp32")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "meld"
    result = mmsent("make-demo", root, "--utterances", "36", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["num_clips"] == len(list(root.rglob("*.mp4")))
    return root


@pytest.fixture(scope="module")
def shards(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "shards"
    result = mmsent("preprocess", demo, "--out", out, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "Next: mmsent train" in result.stdout
    return out


@pytest.mark.slow
def test_every_row_of_the_demo_becomes_a_sample_with_all_three_modalities(demo: Path, shards: Path) -> None:
    report = json.loads((shards / "report.json").read_text())
    for split, item in report["splits"].items():
        rows = len((demo / f"{split}_sent_emo.csv").read_text().splitlines()) - 1
        assert item["num_samples"] == rows
        assert item["usable"] == {"video": rows, "audio": rows, "text": rows}
    assert mmsent("verify", shards).returncode == 0


@pytest.mark.slow
def test_preprocessing_again_makes_nothing(demo: Path, shards: Path) -> None:
    result = mmsent("preprocess", demo, "--out", shards, *SMALL, "--json")
    assert result.returncode == 0, result.stderr
    assert [item["num_shards_made"] for item in json.loads(result.stdout)["splits"].values()] == [0, 0, 0]


@pytest.fixture(scope="module")
def real_shards(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of real-format footage where that is there, and of the demo where it is not."""
    if not MELD_MINI.is_dir():
        return shards
    out = tmp_path_factory.mktemp("real") / "shards"
    result = mmsent("preprocess", MELD_MINI, "--out", out, *SMALL)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_a_run_killed_after_its_first_epoch_and_resumed_ends_as_one_never_killed(
    real_shards: Path, tmp_path: Path
) -> None:
    arguments = ("train", "--shards", real_shards, *TRAIN, "--set", "model.video_encoder=mc3_18", "--epochs", "2")
    assert mmsent(*arguments, "--out", tmp_path / "whole").returncode == 0
    process = start_mmsent(*arguments, "--out", tmp_path / "killed")
    while not (tmp_path / "killed" / "history.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert len(json.loads((tmp_path / "killed" / "history.json").read_text())) == 1
    resumed = mmsent(*arguments, "--out", tmp_path / "killed", "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert len(json.loads(resumed.stdout)["epochs"]) == 2
    runs = [tmp_path / "whole", tmp_path / "killed"]
    for paths in ([run / "best.safetensors" for run in runs], [checkpoint_paths(run)[-1] for run in runs]):
        whole, killed = map(load_file, paths)
        assert whole.keys() == killed.keys()
        assert [key for key in whole if not torch.equal(whole[key], killed[key])] == []


@pytest.mark.slow
def test_scores_come_with_figures_and_the_baseline(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = mmsent("train", "--shards", shards, "--out", run, *TRAIN, "--epochs", "1", "--modalities", "audio,text")
    assert trained.returncode == 0, trained.stderr
    assert "wait" in trained.stderr
    result = mmsent("evaluate", "--shards", shards, "--run", run, "--split", "test")
    assert result.returncode == 0, result.stderr
    assert "weighted F1" in result.stdout
    assert "always '" in result.stdout
    for name in ("confusion-emotion.png", "confusion-sentiment.png", "training-curves.png"):
        assert (run / "evaluation-test" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_checkpoint_of_other_shards_is_refused(demo: Path, shards: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    longer = ("--text-encoder", "scratch", "--frames", "5", "--size", "32x32", "--set", "preprocess.num_hops=100")
    assert mmsent("preprocess", demo, "--out", other, *longer).returncode == 0
    run = tmp_path / "run"
    trained = mmsent("train", "--shards", shards, "--out", run, *TRAIN, "--epochs", "1", "--modalities", "text")
    assert trained.returncode == 0, trained.stderr
    result = mmsent("evaluate", "--shards", other, "--run", run)
    assert result.returncode == 1
    assert "video.num_frames: 4 against 5" in result.stderr
