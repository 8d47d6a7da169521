"""Settings from files, `--set` and the command line; what each command reads, and what it refuses."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import app
from commands.config_file import ConfigError, Settings, read_settings
from commands.config_keys import OPTION_OF, SECTIONS, config_text, meanings
from mmsent.config import DataConfig, EncodeConfig, ModelConfig, TrainConfig
from mmsent.runs.config_toml import config_toml
from preprocess.config import PreprocessConfig
from tests.support.commands import ROOT

CONFIGS = {
    "data": DataConfig(),
    "model": ModelConfig(),
    "train": TrainConfig(),
    "encode": EncodeConfig(),
    "preprocess": PreprocessConfig(),
}


def configs_of(command: str) -> dict[str, Any]:
    return {table: CONFIGS[table] for table in SECTIONS[command]}


def read(file: Path | None = None, *assignments: str, command: str = "train", **options: object) -> Settings:
    by_key = {name.replace("__", "."): value for name, value in options.items()}
    return read_settings(command, file=file, assignments=assignments, options=by_key)


def written(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_the_command_line_wins_over_set_and_set_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[train]\nseed = 1\nbatch_size = 2\nmax_epochs = 3\n")
    config = read(file, "train.batch_size=20", "train.max_epochs=30", train__max_epochs=300).make(
        "train", TrainConfig()
    )
    assert (config.seed, config.batch_size, config.max_epochs) == (1, 20, 300)


def test_an_option_that_was_not_given_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, "[train]\nmax_epochs = 3\n")
    assert read(file, train__max_epochs=None).make("train", TrainConfig()).max_epochs == 3


@pytest.mark.parametrize(
    ("assignment", "field", "expected"),
    [
        ("model.modalities=text,video", "modalities", ("video", "text")),
        ('model.modalities=["text"]', "modalities", ("text",)),
        ("model.video_weights=my weights.pth", "video_weights", "my weights.pth"),
        ('model.video_weights="none"', "video_weights", "none"),
        ("model.fusion=gated", "fusion", "gated"),
        ("model.encoder_dropout=0", "encoder_dropout", 0.0),
        ("model.text_encoder=C:\\a=b", "text_encoder", "C:\\a=b"),
    ],
)
def test_a_value_is_typed_without_quotes_and_brackets(assignment: str, field: str, expected: object) -> None:
    found = getattr(read(None, assignment).make("model", ModelConfig()), field)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train\n", "no TOML: Expected"),
        ("seed = 1\n", "there is no key seed; did you mean train.seed?\n  file: {file}, line 1\n"),
        ("# mine\n[train]\nsede = 1\n", "no key train.sede; did you mean train.seed?\n  file: {file}, line 3\n"),
        ("[model]\nwarmup_steps = 1\n", "no key model.warmup_steps; did you mean train.warmup_steps?"),
        ("[trian]\n\nseed = 1\n", "no key trian.seed; did you mean train.seed?\n  file: {file}, line 3\n"),
        ("[preprocess]\nnum_frames = 4\n", "is a key of `mmsent preprocess`, not of `mmsent train`"),
        ('[train]\n\nseed = "1"\n', "train.seed must be a whole number, got '1'\n  file: {file}, line 3\n"),
        ("[train]\nseed = true\n", "train.seed must be a whole number, got True"),
        ("[train]\nlearning_rate = 'fast'\n", "train.learning_rate must be a number, got 'fast'"),
        ("[train]\ncheck = 1\n", "train.check must be true or false, got 1"),
        ("[train]\nseed = {a = 1}\n", "train.seed must be a whole number, got {'a': 1}"),
        ("[data]\nshards = 1\n", "data.shards must be a text in quotes, got 1"),
        ("train = {\"order\" = 'by-name'}\n", "must be one of shuffle, block-shuffle, class-balanced"),
        ("[model]\nmodalities = ['smell']\n", "must be a list of some of video, audio, text, got ['smell']"),
        ("[model]\nmodalities = 'text'\n", "must be a list of some of video, audio, text, got 'text'"),
        ("train.seed.a = 1\n", "train.seed must be a whole number"),
        ("[[train]]\nseed = 1\n", "there is no key train"),
    ],
)
def test_a_file_that_cannot_be_followed_is_told_with_line_and_what_is_allowed(
    text: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert said.replace("{file}", str(file)) in str(caught.value)
    assert "mmsent train --show-config" in str(caught.value)


def test_a_value_that_the_config_refuses_is_told_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "[train]\n\nseed = -3\n")
    with pytest.raises(ConfigError, match=r"^train.seed must be from 0 .*\n  file: .*my.toml, line 3\n"):
        read(file).make("train", TrainConfig())


def test_what_the_command_line_makes_of_a_file_is_told_by_what_was_typed(tmp_path: Path) -> None:
    file = written(tmp_path, "[train]\naccumulation_steps = 8\n")
    with pytest.raises(ConfigError, match=r"^train.accumulation_steps must be at most `--batch-size`, here 4, got 8\n"):
        read(file, train__batch_size=4).make("train", TrainConfig())


@pytest.mark.parametrize("name", ["nothing.toml", "."])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the config cannot be read"):
        read(tmp_path / name)


def test_a_file_of_bytes_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no TOML"):
        read(tmp_path / "a.toml")


def test_an_empty_file_and_empty_tables_change_nothing(tmp_path: Path) -> None:
    assert read(written(tmp_path, "[train]\n[model]\n")).make("train", TrainConfig()) == TrainConfig()


def test_encode_refuses_what_of_a_model_it_does_not_build() -> None:
    with pytest.raises(typer.BadParameter, match=r"model\.fusion is a key of `mmsent train`, not of `mmsent encode`"):
        read(None, "model.fusion=gated", command="encode")


@pytest.mark.parametrize("command", SECTIONS)
def test_what_show_config_prints_is_read_back_as_it_was(command: str, tmp_path: Path) -> None:
    arguments = {"preprocess": ["--set", "preprocess.num_frames=3"]}.get(command, ["--set", "data.shards=a b"])
    result = CliRunner().invoke(app, [command, *arguments, "--show-config"])
    assert result.exit_code == 0, result.output
    file = written(tmp_path, result.output)
    settings = read(file, command=command)
    for table, config in configs_of(command).items():
        found = settings.make(table, config)
        expected: dict[str, dict[str, object]] = {"preprocess": {"num_frames": 3}, "data": {"shards": "a b"}}
        changed = expected.get(table, {})
        assert {name: getattr(found, name) for name in changed} == changed
        assert all(
            getattr(found, name) == getattr(config, name) or name in (*changed, "modalities")
            for name in SECTIONS[command][table].names()
        )


def test_more_earlier_utterances_leave_room_for_their_tokens_in_what_show_config_prints() -> None:
    result = CliRunner().invoke(app, ["preprocess", "--context", "5", "--show-config"])
    assert "\n# max_tokens = 192\n" in result.output
    result = CliRunner().invoke(app, ["preprocess", "--set", "preprocess.max_tokens=40", "--show-config"])
    assert "\nmax_tokens = 40\n" in result.output


@pytest.mark.parametrize("command", SECTIONS)
def test_every_key_has_its_meaning(command: str) -> None:
    for table, section in SECTIONS[command].items():
        assert set(section.names()) <= set(meanings(section.config)), table
    text = config_text(command, configs_of(command))
    assert max(map(len, text.splitlines())) <= 100


def test_options_of_keys_exist() -> None:
    listed = (ROOT / "tests" / "data" / "cli_options.txt").read_text().split("\n")
    for key, option in OPTION_OF.items():
        table, _, name = key.partition(".")
        readers = [command for command, tables in SECTIONS.items() if table in tables and name in tables[table].names()]
        assert any(f"{command} {option}" in listed for command in readers), key


def test_a_config_goes_through_toml_unchanged() -> None:
    config = TrainConfig(learning_rate=1e-5, compile=True, seed=2**63 - 1)
    model = ModelConfig(modalities=("text",), text_encoder='a "b" \\ \t\x7f ä 😀', train_encoders=("text",))
    text = config_toml({"train": config.to_json(), "model": model.to_json()})
    document = tomllib.loads(text)
    assert TrainConfig.from_json(document["train"]) == config
    assert ModelConfig.from_json(document["model"]) == model


def test_the_page_of_keys_is_what_the_configs_say() -> None:
    from tests.support.config_page import PAGE, page

    assert PAGE.read_text("utf-8") == page(), "stale: renew it by `python -m tests.support.config_page`"
