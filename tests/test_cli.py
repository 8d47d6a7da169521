import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import app
from tests.support.commands import ROOT, environment, mmsent

COMMANDS = ("make-demo", "doctor", "preprocess", "index", "verify", "encode", "train", "evaluate", "bench")
OPTIONS = ROOT / "tests" / "data" / "cli_options.txt"


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    assert f"Example: mmsent {command}" in " ".join(help_of(command).split())


def test_every_option_is_in_the_list_that_makes_adding_one_a_decision() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert sorted(commands) == sorted(COMMANDS)
    found = [
        f"{command} {option}"
        for command in COMMANDS
        for option in sorted(name for item in commands[command].params for name in item.opts if name.startswith("--"))
    ]
    listed = OPTIONS.read_text().split("\n")
    assert found == [line for line in listed if line]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert f"mmsent {command}" in (ROOT / "README.md").read_text("utf-8")


def test_help_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "av", "transformers", "webdataset")
    code = f"import sys, cli; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert result.stdout.strip() == "[]"


def test_expected_trouble_is_a_message_on_standard_error_and_exit_code_1(tmp_path: Path) -> None:
    result = mmsent("preprocess", tmp_path / "nothing", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: there is no such folder or file\n  file: ")
    assert "\n  next: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_path_with_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    result = mmsent("verify", tmp_path / "[old]" / "a[1]")
    assert "[old]/a[1]" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("preprocess",),
        ("train",),
        ("encode", "--shards", "s"),
        ("preprocess", "somewhere", "--out", "x", "--frames", "0"),
        ("preprocess", "somewhere", "--out", "x", "--size", "112"),
        ("preprocess", "somewhere", "--out", "x", "--workers", "-1"),
        ("preprocess", "somewhere", "--out", "x", "--workers", "0"),
        ("make-demo", "somewhere", "--workers", "0"),
        ("preprocess", "somewhere", "--out", "x", "--size", "³x3"),
        ("preprocess", "somewhere", "--out", "x", "--size", "100000x100000"),
        ("preprocess", "somewhere", "--out", "x", "--set", "preprocess.clip_timeout_seconds=nan"),
        ("train", "--shards", "s", "--out", "r", "--encoder-learning-rate", "1"),
        ("train", "--shards", "s", "--out", "r", "--seed", str(2**64)),
        ("train", "--shards", "s", "--out", "r", "--set", "train.order=by-name"),
        ("train", "--shards", "s", "--out", "r", "--set", "train.shards_per_block=4"),
        (
            "train",
            "--shards",
            "s",
            "--out",
            "r",
            "--set",
            "train.order=block-shuffle",
            "--set",
            "train.shards_per_block=0",
        ),
        ("train", "--shards", "s", "--out", "r", "--modalities", "smell"),
        ("train", "--shards", "s", "--out", "r", "--modalities", ""),
        ("train", "--shards", "s", "--out", "r", "--learning-rate", "0"),
        ("train", "--shards", "s", "--out", "r", "--precision", "int4"),
        ("make-demo", "somewhere", "--utterances", "1"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_no_terminal_has_no_control_characters(tmp_path: Path) -> None:
    result = mmsent("verify", tmp_path)
    assert "\x1b" not in result.stdout + result.stderr


@pytest.mark.parametrize("command", ["train", "evaluate", "verify"])
def test_a_folder_without_shards_says_which_command_makes_them(command: str, tmp_path: Path) -> None:
    arguments = {
        "train": ("--shards", tmp_path, "--out", tmp_path / "run"),
        "evaluate": ("--shards", tmp_path, "--run", tmp_path),
        "verify": (tmp_path,),
    }[command]
    result = mmsent(command, *arguments)
    assert result.returncode == 1
    assert "mmsent preprocess" in result.stderr


def test_one_of_several_processes_that_does_not_know_its_place_is_refused_rather_than_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = mmsent("train", "--shards", tmp_path, "--out", tmp_path / "run")
    assert result.returncode == 1
    assert "torchrun" in result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "train.layer_decay=0.9"), "of which `--train-encoders` names none"),
        (
            ("--set", "train.video_learning_rate=1e-3", "--train-encoders", "text"),
            "which `--train-encoders` does not name",
        ),
        (("--set", "train.crop_and_flip=true", "--modalities", "audio,text"), "for video"),
        (("--set", "train.spec_augment=true", "--modalities", "text"), "for audio"),
        (("--set", "train.modality_dropout=0.1", "--modalities", "text"), "the only modality"),
        (("--seed", "3", "--seeds", "0,1"), "--seed or --seeds"),
        (("--seeds", "0,0"), "different numbers"),
        (("--seeds", str(2**64)), "seed must be from 0 to 2^63 - 1"),
        (("--set", "train.seed"), "--set takes KEY=VALUE"),
        (("--set", "train.sede=1"), "did you mean train.seed?"),
        (("--set", "train.seed=one"), "train.seed must be a whole number, got 'one'"),
        (("--set", "train.check=1"), "train.check must be true or false, got 1"),
        (("--set", "train.order=by-name"), "train.order must be one of shuffle, block-shuffle"),
        (("--set", "preprocess.num_frames=1"), "is a key of `mmsent preprocess`, not of `mmsent train`"),
        (("--seeds", "a"), "different numbers"),
        (("--set", "model.text_pooling=mean", "--modalities", "audio"), "for text"),
        (("--set", "model.video_encoder=mc3_18", "--modalities", "audio"), "for video"),
        (("--set", "model.fusion=gated", "--modalities", "audio"), "several modalities"),
        (("--set", "train.accumulation_steps=64"), "train.accumulation_steps must be at most `--batch-size`, here 32"),
        (("--set", "train.ema_decay=1"), "train.ema_decay must be from 0 to below 1"),
        (("--set", "train.order=class-balanced", "--set", "train.class_weights=inverse"), "choose one of them"),
        (("--epochs", "0"), "--epochs must be at least 1"),
        (("--modalities", ","), "--modalities must be some of video, audio, text"),
    ],
)
def test_an_option_of_train_that_cannot_be_as_it_is_given_is_wrong_usage(
    options: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    arguments = ["train", "--shards", str(tmp_path), "--out", str(tmp_path / "run"), *options]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == []


def test_the_readme_says_what_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    said = set(re.findall(r"`?make ([a-z-]+)", (ROOT / "README.md").read_text("utf-8")))
    assert said <= targets
    assert {"demo", "test"} <= said


def test_json_of_verify_is_one_document(tmp_path: Path) -> None:
    from tests.support.samples import make_sample, write_split

    write_split(tmp_path, [make_sample(0)])
    result = mmsent("verify", tmp_path, "--json")
    assert result.returncode == 0
    assert json.loads(result.stdout)["train"]["num_samples"] == 1


def test_verify_looks_at_a_split_of_which_only_the_index_was_copied(tmp_path: Path) -> None:
    from tests.support.samples import make_sample, write_split

    for split in ("train", "test"):
        write_split(tmp_path, [make_sample(0, split=split)], split=split)
    for path in (tmp_path / "test").glob("*.tar"):
        path.unlink()
    result = mmsent("verify", tmp_path)
    assert result.returncode == 1
    assert "test-00000.tar" in result.stdout
    assert "Next: copy these files again, or make them again with `mmsent verify" in result.stdout


def test_a_disk_that_refuses_is_a_message_and_exit_code_1(tmp_path: Path) -> None:
    from tests.support.samples import make_sample, write_split

    for split in ("train", "dev"):
        write_split(tmp_path / "s", [make_sample(0, split=split)], split=split)
    (tmp_path / "file").write_text("mine")
    arguments = ("--text-encoder", "scratch", "--video-weights", "none", "--modalities", "text")
    result = mmsent("train", "--shards", tmp_path / "s", "--out", tmp_path / "file" / "run", *arguments)
    assert result.returncode == 1
    assert "error: the folder of the run cannot be made: what should hold it is a file\n  file: " in result.stderr
    assert "Traceback" not in result.stderr
