"""What needs shards alone runs on machines that have no decoder: they are for making shards."""

from pathlib import Path

import pytest

from tests.support.commands import COMMAND
from tests.support.encoders import save_bert
from tests.support.samples import make_sample, make_spec, write_split
from tests.support.warm_start import ROOT, environment, start_python

pytestmark = pytest.mark.slow

SPEC = make_spec(num_frames=2, size=16, num_mels=8, num_hops=24)
ENCODERS = ("--video-weights", "none", "--set", "model.video_encoder=mc3_18")
BLOCKED = ("av", "decord")


def run_without_decoders(blocked: Path, *arguments: str | Path) -> str:
    """Run `mmsent` where importing a decoder fails, and return what it printed."""
    output, errors, exit_code = run_python(blocked, *COMMAND[1:], *map(str, arguments))
    assert exit_code == 0, output + errors
    return output


def run_python(blocked: Path, *words: str) -> tuple[str, str, int]:
    environ = {**environment(), "PYTHONPATH": f"{blocked}:{ROOT}"}
    process = start_python(*words, env=environ)
    output, errors = process.communicate(timeout=600)
    return output, errors, process.returncode


@pytest.fixture(scope="module")
def blocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose modules have the decoders' names and cannot be imported."""
    folder = tmp_path_factory.mktemp("blocked")
    for name in BLOCKED:
        (folder / f"{name}.py").write_text('raise ImportError("there is no decoder here")\n', "utf-8")
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards") / "shards"
    for split in ("train", "dev"):
        write_split(root, [make_sample(i, spec=SPEC, split=split) for i in range(8)], spec=SPEC, split=split)
    return root


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder") / "scratch")


@pytest.fixture(scope="module")
def run(blocked: Path, shards: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ("--text-encoder", encoder, *ENCODERS, "--batch-size", "4", "--epochs", "1", "--precision", "fp32")
    run_without_decoders(blocked, "train", "--shards", shards, "--out", out, *options)
    return out


@pytest.mark.parametrize("name", BLOCKED)
def test_a_decoder_cannot_be_imported_here(blocked: Path, name: str) -> None:
    """Else the other tests would prove nothing."""
    _, errors, exit_code = run_python(blocked, "-c", f"import {name}")
    assert exit_code == 1
    assert "there is no decoder here" in errors


def test_a_model_is_trained_without_a_decoder(run: Path) -> None:
    assert (run / "best.safetensors").exists()


def test_a_run_is_evaluated_without_a_decoder(blocked: Path, shards: Path, run: Path) -> None:
    output = run_without_decoders(blocked, "evaluate", "--shards", shards, "--run", run, "--split", "dev")
    assert "weighted F1" in output


def test_samples_are_encoded_without_a_decoder(blocked: Path, shards: Path, run: Path, tmp_path: Path) -> None:
    where = ("--shards", shards, "--out", tmp_path / "out")
    output = run_without_decoders(blocked, "encode", *where, "--run", run, "--modalities", "audio")
    assert "16 samples encoded" in output


def test_loaders_are_measured_without_a_decoder(blocked: Path, shards: Path, encoder: Path) -> None:
    options = (
        "--text-encoder",
        encoder,
        *ENCODERS,
        "--batch-size",
        "4",
        "--samples",
        "8",
        "--seconds",
        "0.1",
        "--rounds",
        "1",
        "--json",
    )
    assert "mmsent" in run_without_decoders(blocked, "bench", "--shards", shards, *options)
