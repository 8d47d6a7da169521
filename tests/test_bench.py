"""`mmsent bench` in processes of its own, on shards so small that every figure is noise."""

import gc
import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cli import app
from mmsent.bench.cases import file_cases, loader_cases, train_cases
from mmsent.bench.timing import Case, Timing, measure
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import TrainingError
from mmsent.model.multimodal import MultimodalModel
from mmsent.training.assemble import new_model
from shards.errors import ShardError
from shards.reading.split import Split
from shards.spec import Storage
from tests.support.clips import write_meld
from tests.support.commands import mmsent
from tests.support.samples import make_sample, make_spec, write_split

pytestmark = pytest.mark.slow

TINY = ("--rounds", "1", "--samples", "8", "--seconds", "0.1", "--batch-size", "4")
SCRATCH = ("--text-encoder", "scratch", "--video-weights", "none")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    spec = make_spec(size=16)
    write_split(root, [make_sample(i, spec=spec) for i in range(12)], spec=spec, samples_per_shard=4)
    return root


@pytest.fixture(scope="module")
def measured(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run with all that it can measure, and the chart it drew."""
    root = tmp_path_factory.mktemp("raw")
    meld = write_meld(root / "meld", train=3, dev=0, test=0)
    arguments = ("--raw", meld, "--plot", root / "chart.png", "--set", "train.num_readers=3")
    return mmsent("bench", "--shards", shards, *SCRATCH, *TINY, *arguments), root / "chart.png"


def test_the_table_has_every_way_in_its_group(
    measured: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, _ = measured
    assert result.returncode == 0, result.stderr
    lines = [line.split("│")[1].strip() for line in result.stdout.splitlines() if line.startswith("│")]
    assert re.sub(r"mmsent, [124] readers? ", "", " ".join(line for line in lines if line)) == (
        "batches in memory copying memory, one thread mmsent, 3 readers stock webdataset stock webdataset, 2 workers "
        "torch DataLoader over files torch DataLoader over files, 2 workers "
        "…and every byte read copying memory, one thread mmsent, 3 readers "
        "samples from raw clips Decord on every access PyAV on every access tutorial on every access "
        "training trainer, one batch again trainer, loader's batches"
    )


def test_the_table_fits_into_80_columns_and_is_explained(
    measured: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, _ = measured
    table, _, rest = result.stdout.partition("└")
    assert max(map(len, table.splitlines())) <= 80
    assert "Every byte read: " in " ".join(rest.split())


def test_the_verdict_ends_it(measured: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    result, chart = measured
    words = [line for line in result.stdout.splitlines() if line.startswith("- ")]
    assert re.match(r"- (The model|The data) bounds training here", words[0])
    assert any(line.startswith("- Decord on every access: ") for line in words)
    assert result.stdout.splitlines()[-1] == f"Chart: {chart}"


def test_the_chart_opens_as_a_picture(measured: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, chart = measured
    with Image.open(chart) as image:
        image.load()
        assert image.format == "PNG"
        assert min(image.size) > 300


def test_an_encoder_that_cannot_be_had_is_not_measured_with_its_reason_and_all_else_is(
    shards: Path, tmp_path: Path
) -> None:
    result = mmsent("bench", "--shards", shards, *TINY, "--video-weights", tmp_path / "no.pth", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    failed = [timing for timing in document["timings"] if timing["failure"]]
    assert [(timing["group"], timing["kind"]) for timing in failed] == [("training", "headroom"), ("training", "fed")]
    assert all(timing["samples_per_second"] == [] for timing in failed)
    assert "\n  next: " in failed[0]["failure"]
    for timing in document["timings"]:
        if timing not in failed:
            assert len(timing["samples_per_second"]) == len(timing["cpu_seconds_per_1000"]) == 1
            assert timing["samples_per_second"][0] > 0
    reason = failed[0]["failure"].splitlines()[0]
    not_known = f"What bounds training is not known, since the trainer was not measured ({reason})."
    assert document["verdict"][0] == not_known


def test_a_model_that_cannot_be_built_is_tried_once(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[ModelConfig] = []

    def count(split: Split, config: ModelConfig, train_config: TrainConfig) -> MultimodalModel:
        built.append(config)
        return new_model(split, config, train_config)

    monkeypatch.setattr("mmsent.bench.train_bench.new_model", count)
    model_config = ModelConfig(text_encoder="scratch", video_weights=str(tmp_path / "no.pth"))
    cases = train_cases(Split(shards / "train"), model_config=model_config, train_config=TrainConfig(), seconds=0.1)
    alone, fed = measure(cases, rounds=2)
    assert alone.failure == fed.failure != ""
    assert len(built) == 1


def test_a_trainer_that_fails_in_one_way_alone_leaves_the_rest_of_the_table(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(cases: Sequence[Case], **_: object) -> list[Timing]:
        return measure(
            [replace(case, run=_diverge if case.kind == "headroom" else _four, prepare=None) for case in cases],
            rounds=1,
        )

    monkeypatch.setattr("mmsent.bench.timing.measure", diverges)
    result = CliRunner().invoke(app, ["bench", "--shards", str(shards), *SCRATCH, *TINY], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.exception
    assert "Not measured: trainer, one batch again: the loss is nan\n" in result.output
    assert "trainer, loader's" in result.output
    assert "the trainer was not measured (the loss is nan)" in result.output


def _diverge() -> int:
    raise TrainingError("the loss is nan")


def _four() -> int:
    return 4


def test_shards_that_are_not_there_are_an_error_before_anything_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["bench", "--shards", str(tmp_path)])
    assert isinstance(result.exception, ShardError)
    assert "mmsent preprocess" in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--shards", "s", "--rounds", "0"),
        ("--shards", "s", "--samples", "0"),
        ("--shards", "s", "--seconds", "0"),
        ("--shards", "s", "--seconds", "nan"),
        ("--shards", "s", "--batch-size", "0"),
        ("--shards", "s", "--set", "train.num_readers=0"),
        ("--shards", "s", "--precision", "int4"),
        ("--shards", "s", "--plot", "chart.txt"),
        ("--shards", "s", "--plot", "chart"),
        ("--shards", "s", "--plot", "no-such-folder/chart.png"),
    ],
)
def test_wrong_usage_is_exit_code_2_before_anything_is_read(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2, result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # webdataset leaves tars to the collector
@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_every_loader_reads_shards_of_any_storage(tmp_path: Path, storage: Storage) -> None:
    spec = make_spec(size=16, storage=storage)
    write_split(tmp_path, [make_sample(i, spec=spec) for i in range(12)], spec=spec, samples_per_shard=4)
    split = Split(tmp_path / "train")
    cases = loader_cases(split, num_samples=5, batch_size=3, readers=(1, 3))
    with file_cases(split, batch_size=3) as from_files:
        timings = measure([case for case in (*cases, *from_files) if "workers" not in case.name], rounds=1)
        assert [timing.failure for timing in timings] == [""] * len(timings)
        assert [case.run() for case in cases if "workers" not in case.name] == [8] * 7  # of two whole shards
        assert [case.run() for case in from_files if "workers" not in case.name] == [12]
    assert [case.num_readers for case in cases if case.kind == "ours"] == [1, 3, 1, 3]
    gc.collect()


def test_the_files_of_the_comparison_are_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    write_split(tmp_path, [make_sample(i) for i in range(3)])
    with file_cases(Split(tmp_path / "train"), batch_size=2):
        assert len(list(tmp_path.glob("temporary/*/*.npy"))) == 9
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("batch_size", [4, 5, 12])
def test_the_trainer_has_full_batches_however_the_split_is_cut(shards: Path, batch_size: int) -> None:
    """12 samples: the last batch of an epoch is ragged, or the epoch ends with it."""
    cases = train_cases(
        Split(shards / "train"),
        model_config=ModelConfig(text_encoder="scratch", modalities=("text",)),
        train_config=TrainConfig(batch_size=batch_size),
        seconds=1e-3,
    )
    [headroom, fed] = cases
    assert headroom.prepare is not None
    headroom.prepare()
    assert [headroom.run() for _ in range(4)] == 4 * [batch_size]
    assert fed.run() > 0
    assert headroom.run() == batch_size


def test_a_split_smaller_than_a_batch_is_a_reason_not_to_measure_the_trainer(shards: Path) -> None:
    [headroom, _] = train_cases(
        Split(shards / "train"),
        model_config=ModelConfig(text_encoder="scratch", modalities=("text",)),
        train_config=TrainConfig(batch_size=13),
        seconds=1e-3,
    )
    assert headroom.prepare is not None
    with pytest.raises(ShardError, match="the split has 12 samples, less than a batch of 13"):
        headroom.prepare()


def test_shards_behind_a_url_are_not_measured() -> None:
    result = mmsent("bench", "--shards", "s3://bucket/shards")
    assert result.returncode == 1
    assert "bench measures shards on this machine, not behind a URL" in result.stderr
    assert "s3://bucket/shards" in result.stderr


def test_it_says_what_was_measured_on_what(shards: Path) -> None:
    result = mmsent("bench", "--shards", shards, "--json", *SCRATCH, *TINY)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert re.match(r"\d+ cores of .+, torch \d", value["machine"])
    assert value["samples"].endswith("12 samples of frames 4x16x16x3, log-mel 6x10, tokens 12; batches of 4")
    assert value["rounds"] == 1
    assert all(item["median"] > 0 for item in value["timings"] if not item["failure"])
