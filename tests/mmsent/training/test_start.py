import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmsent.compute.precision import resolve_precision
from mmsent.config import ModelConfig, Precision, Selection, TrainConfig
from mmsent.errors import CheckpointError, EncoderError, TrainingError
from mmsent.evaluation.evaluate_run import evaluate_run
from mmsent.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mmsent.runs.folder import BEST, checkpoint_paths
from mmsent.runs.history import EpochResult, StepInfo, TrainResult
from mmsent.training.data_statistics import logmel_statistics
from mmsent.training.start import train
from shards.errors import OutputBusyError, ShardCorruptError, ShardError, SpecMismatchError
from shards.lock import locked
from shards.reading.split import Split
from shards.schema import Modality
from tests.support.encoders import save_bert
from tests.support.samples import make_sample, make_spec, with_byte_changed, write_split

pytestmark = pytest.mark.slow

MODEL = ModelConfig(text_encoder="scratch", video_weights="none")
SMALL = replace(MODEL, modalities=("audio", "text"))
CONFIG = TrainConfig(batch_size=5, max_epochs=3, precision="fp32", learning_rate=1e-3, checkpoint_steps=2)


class StopHereError(Exception):
    """Raised by a test in place of a kill that can be placed at an exact step."""


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    root = tmp_path / "shards"
    for split, count in (("train", 13), ("dev", 4), ("test", 5)):
        absent = {1: ("video", "audio"), 2: ("audio",)}
        write_split(root, [make_sample(i, split=split, absent=absent.get(i, ())) for i in range(count)], split=split)
    return root


def run(
    shards: Path,
    out: Path,
    *,
    model: ModelConfig = SMALL,
    config: TrainConfig = CONFIG,
    resume: bool = False,
    on_step: Callable[[StepInfo], None] = lambda info: None,
    on_epoch: Callable[[EpochResult], None] = lambda result: None,
) -> TrainResult:
    return train(
        shards, out, model_config=model, train_config=config, resume=resume, on_step=on_step, on_epoch=on_epoch
    )


def assert_same_run(first: Path, second: Path) -> None:
    """Compare two runs bit by bit: the best weights, and all that the next step would depend on."""
    for name in ("best", "last"):
        paths = [run / BEST if name == "best" else checkpoint_paths(run)[-1] for run in (first, second)]
        a, b = map(load_file, paths)
        assert a.keys() == b.keys()
        assert [key for key in a if not torch.equal(a[key], b[key])] == []
    histories = [load_checkpoint(checkpoint_paths(run)[-1]).history for run in (first, second)]
    losses = [[(item.train_loss, item.dev_loss) for item in history] for history in histories]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("stop_at", [(0, 1), (0, 2), (1, 3), (2, 1)])
def test_a_run_stopped_at_any_step_and_resumed_ends_as_one_never_stopped(
    shards: Path, tmp_path: Path, stop_at: tuple[int, int]
) -> None:
    run(shards, tmp_path / "whole")

    def stop(info: StepInfo) -> None:
        if (info.epoch, info.step) == stop_at:
            raise StopHereError

    with pytest.raises(StopHereError):
        run(shards, tmp_path / "stopped", on_step=stop)
    run(shards, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_that_ended_goes_on_with_more_epochs(shards: Path, tmp_path: Path) -> None:
    whole = run(shards, tmp_path / "whole")
    run(shards, tmp_path / "more", config=replace(CONFIG, max_epochs=1))
    more = run(shards, tmp_path / "more", resume=True)
    assert [item.dev_loss for item in more.epochs] == [item.dev_loss for item in whole.epochs]
    assert_same_run(tmp_path / "whole", tmp_path / "more")


def test_two_trainers_in_one_folder_are_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"), pytest.raises(OutputBusyError, match=f"process {os.getpid()}"):
        run(shards, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1)).num_steps == 3


def test_scoring_says_that_a_run_has_epochs_before_it(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(info: StepInfo) -> None:
        if info.epoch == 1:
            raise StopHereError

    with pytest.raises(StopHereError):
        run(shards, tmp_path / "run", on_step=stop)
    evaluate_run(shards, tmp_path / "run", split="dev")
    assert "is not finished: 1 of at most 3 epochs are made" in caplog.text
    caplog.clear()
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1), resume=True)
    evaluate_run(shards, tmp_path / "run", split="dev")
    assert "not finished" not in caplog.text
    run(shards, tmp_path / "run", resume=True)
    evaluate_run(shards, tmp_path / "run", split="dev")
    assert "not finished" not in caplog.text


def test_all_three_encoders_learn_together(shards: Path, tmp_path: Path) -> None:
    result = run(shards, tmp_path / "run", model=MODEL, config=replace(CONFIG, max_epochs=3))
    assert result.epochs[-1].train_loss < result.epochs[0].train_loss


def test_bf16_autocast_runs_on_a_cpu(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, precision="bf16", max_epochs=1)
    assert run(shards, tmp_path / "run", config=config).precision == "bf16"


def test_fp16_on_a_cpu_is_refused_with_the_remedy() -> None:
    with pytest.raises(TrainingError, match="--precision auto"):
        resolve_precision("fp16", torch.device("cpu"))


@pytest.mark.parametrize(("precision", "expected"), [("auto", "fp32"), ("bf16", "bf16"), ("fp32", "fp32")])
def test_auto_on_a_cpu_is_fp32_and_what_is_asked_is_kept(precision: Precision, expected: str) -> None:
    assert resolve_precision(precision, torch.device("cpu")) == expected


def test_a_run_stops_when_the_validation_loss_no_longer_falls(shards: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, max_epochs=60, early_stopping_patience=2, learning_rate=3e-2)
    result = run(shards, tmp_path / "run", config=config)
    assert result.stopped_early
    assert result.best_epoch == len(result.epochs) - 3


@pytest.mark.parametrize("selection", ["loss", "weighted-f1"])
def test_the_weights_of_the_best_epoch_are_kept_by_either_measure(
    shards: Path, tmp_path: Path, selection: Selection
) -> None:
    config = replace(CONFIG, selection=selection, max_epochs=6, learning_rate=1e-2)
    epochs = run(shards, tmp_path / "run", config=config).epochs
    scores = [-e.dev_loss if selection == "loss" else sum(e.dev_weighted_f1.values()) for e in epochs]
    best = scores.index(max(scores))
    assert [e.best for e in epochs] == [score > max(scores[:i], default=-1e9) for i, score in enumerate(scores)]
    kept = evaluate_run(shards, tmp_path / "run", split="dev")
    assert kept.epoch == best
    assert kept.loss == pytest.approx(epochs[best].dev_loss)


def test_check_ends_a_run_at_a_damaged_sample_and_names_its_shard(shards: Path, tmp_path: Path) -> None:
    path = shards / "train" / "train-00001.tar"
    raw = path.read_bytes()
    path.write_bytes(with_byte_changed(raw, raw.index(make_sample(4).frames.tobytes()) + 7))
    config = replace(CONFIG, max_epochs=1)
    run(shards, tmp_path / "unchecked", config=config)
    with pytest.raises(ShardCorruptError, match=r"train-00001\.tar"):
        run(shards, tmp_path / "checked", config=replace(config, check=True))


def test_a_folder_with_a_run_is_not_overwritten(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")}
    with pytest.raises(TrainingError, match="--resume"):
        run(shards, tmp_path / "run")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.safetensors")} == before


def test_a_folder_of_something_else_is_left_alone(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(TrainingError, match="not empty"):
        run(shards, tmp_path / "run")


def test_resuming_with_other_options_names_them(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    with pytest.raises(TrainingError, match=r"learning_rate: 0\.001 against 0\.5"):
        run(shards, tmp_path / "run", config=replace(CONFIG, learning_rate=0.5), resume=True)


def test_resuming_on_shards_of_another_spec_is_refused(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    spec = make_spec(num_hops=12)
    for split in ("train", "dev"):
        write_split(
            tmp_path / "other", [make_sample(i, spec=spec, split=split) for i in range(3)], spec=spec, split=split
        )
    with pytest.raises(SpecMismatchError, match=r"audio\.num_hops: 10 against 12"):
        run(tmp_path / "other", tmp_path / "run", resume=True)


@pytest.mark.parametrize("count", [7, 13])
def test_resuming_on_other_samples_of_the_same_spec_is_refused(shards: Path, tmp_path: Path, count: int) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    write_split(tmp_path / "other", [make_sample(i + 1) for i in range(count)])
    write_split(tmp_path / "other", [make_sample(i, split="dev") for i in range(4)], split="dev")
    with pytest.raises(TrainingError, match="the samples of train and dev are not those"):
        run(tmp_path / "other", tmp_path / "run", resume=True)


def test_a_dev_split_that_was_made_in_another_way_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "shards", [make_sample(i) for i in range(3)])
    spec = make_spec(num_hops=12)
    samples = [make_sample(i, spec=spec, split="dev") for i in range(3)]
    write_split(tmp_path / "shards", samples, spec=spec, split="dev")
    with pytest.raises(SpecMismatchError, match=r"audio\.num_hops: 10 against 12"):
        run(tmp_path / "shards", tmp_path / "run")


def test_a_file_in_place_of_the_run_folder_is_refused(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(TrainingError, match="--out is a file"):
        run(shards, tmp_path / "run")


@pytest.mark.parametrize("resume", [False, True])
def test_best_weights_whose_run_cannot_go_on_are_not_overwritten(shards: Path, tmp_path: Path, resume: bool) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    for path in checkpoint_paths(tmp_path / "run"):
        path.unlink()
    with pytest.raises(TrainingError, match="checkpoints to go on from are gone"):
        run(shards, tmp_path / "run", resume=resume)
    assert (tmp_path / "run" / BEST).is_file()


def test_a_history_lost_to_a_kill_comes_back_with_the_next_run(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run")
    whole = (tmp_path / "run" / "history.json").read_bytes()
    (tmp_path / "run" / "history.json").unlink()
    run(shards, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "history.json").read_bytes() == whole


def test_one_clip_too_small_for_batch_statistics_is_refused(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write_split(tmp_path / "s", [make_sample(i, split=split) for i in range(6)], split=split)  # batches of 5 and 1
    with pytest.raises(EncoderError, match="larger `--size`"):
        run(tmp_path / "s", tmp_path / "run", model=MODEL)


def test_training_without_a_dev_split_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path / "shards", [make_sample(0)])
    with pytest.raises(TrainingError, match="missing: dev"):
        run(tmp_path / "shards", tmp_path / "run")


def test_a_loss_that_is_no_number_ends_the_run(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="diverged on every sample of the batch"):
        run(shards, tmp_path / "run", config=replace(CONFIG, learning_rate=1e30, max_grad_norm=1e30))


def test_a_sample_on_which_training_diverges_is_named(tmp_path: Path) -> None:
    spec = make_spec(widths={"audio": 8})
    samples = [make_sample(i, spec=spec) for i in range(9)]
    samples[4] = replace(samples[4], features={"audio": np.full(8, 3e38, np.float32)})
    write_split(tmp_path / "shards", samples, spec=spec)
    write_split(tmp_path / "shards", [make_sample(i, spec=spec, split="dev") for i in range(2)], spec=spec, split="dev")
    with pytest.raises(TrainingError, match=f"first on {samples[4].meta.key}, of"):
        run(tmp_path / "shards", tmp_path / "run")


def test_statistics_of_the_log_mel_are_over_real_hops_alone(shards: Path) -> None:
    split = Split(shards / "train")
    mean, std = logmel_statistics(split)
    samples = [split.sample(i) for i in range(len(split))]
    columns = np.concatenate([sample.logmel[:, : sample.meta.num_hops] for sample in samples], axis=1).astype(float)
    np.testing.assert_allclose(mean.numpy(), columns.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std.numpy(), columns.std(axis=1), rtol=1e-5)


def test_an_evaluation_scores_every_sample_with_the_best_weights(shards: Path, tmp_path: Path) -> None:
    import csv
    import json

    run(shards, tmp_path / "run")
    evaluation = evaluate_run(shards, tmp_path / "run", split="test")
    directory = tmp_path / "run" / "evaluation-test"
    assert sorted(path.name for path in directory.iterdir()) == [
        "confusion-emotion.png",
        "confusion-sentiment.png",
        "metrics.json",
        "predictions.csv",
        "training-curves.png",
    ]
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics["num_samples"] == sum(sum(row) for row in metrics["tasks"]["emotion"]["confusion"]) == 5
    with (directory / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    hits = sum(row["emotion"] == row["emotion_predicted"] for row in rows)
    assert hits / len(rows) == pytest.approx(evaluation.scores["emotion"].accuracy)
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert evaluation.epoch == min(history, key=lambda item: item["dev_loss"])["epoch"]


def test_a_run_in_fp16_is_evaluated_on_a_cpu_in_fp32(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    path = tmp_path / "run" / BEST
    checkpoint = load_checkpoint(path)
    save_checkpoint(path, replace(checkpoint, train_config=replace(CONFIG, precision="fp16")))
    assert evaluate_run(shards, tmp_path / "run", split="test").precision == "fp32"


def test_a_damaged_history_is_named(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    (tmp_path / "run" / "history.json").write_text("[{")
    with pytest.raises(CheckpointError, match="history cannot be read"):
        evaluate_run(shards, tmp_path / "run", split="test")


def test_evaluating_a_split_that_is_not_there_names_those_that_are(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="train, dev, test"):
        evaluate_run(shards, tmp_path, split="final")


def test_a_disk_that_is_full_when_the_best_weights_are_saved_loses_no_epoch(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(shards, tmp_path / "whole")
    num_best = sum(item.best for item in run(shards, tmp_path / "whole", resume=True).epochs)
    saved: list[Path] = []

    def save(path: Path, checkpoint: Checkpoint) -> None:
        saved.append(path)
        if len(saved) == num_best:
            raise CheckpointError("no room")
        save_checkpoint(path, checkpoint)

    monkeypatch.setattr("mmsent.training.run_state.save_checkpoint", save)
    with pytest.raises(CheckpointError, match="no room"):
        run(shards, tmp_path / "full")
    monkeypatch.undo()
    run(shards, tmp_path / "full", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "full")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of torch's own use of itself
def test_compiled_encoders_learn_as_others_do(shards: Path, tmp_path: Path) -> None:
    plain = run(shards, tmp_path / "plain", model=replace(SMALL, modalities=("text",)))
    compiled = run(
        shards, tmp_path / "compiled", model=replace(SMALL, modalities=("text",)), config=replace(CONFIG, compile=True)
    )
    losses = [[epoch.train_loss for epoch in result.epochs] for result in (plain, compiled)]
    # Dropout is drawn in another way in compiled code.
    assert losses[1] == pytest.approx(losses[0], rel=0.1)
    assert losses[1][-1] < losses[1][0]
    resumed = run(shards, tmp_path / "plain", model=replace(SMALL, modalities=("text",)), resume=True)
    assert resumed.epochs == plain.epochs


def test_a_profile_of_a_few_steps_is_left_beside_the_run(shards: Path, tmp_path: Path) -> None:
    import json

    train(shards, tmp_path / "run", model_config=SMALL, train_config=CONFIG, resume=False, profile=True)
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())
    assert any("Adam" in event.get("name", "") for event in trace["traceEvents"])
    assert "aten::" in (tmp_path / "run" / "profile" / "operators.txt").read_text()


@pytest.mark.parametrize("labels", ["order", "names"])
def test_shards_with_labels_in_another_order_or_of_other_names_are_refused(
    shards: Path, tmp_path: Path, labels: str
) -> None:
    """Indices would mean other classes: https://github.com/declare-lab/MELD/issues/51."""
    import json

    from shards.format.index import INDEX_NAME, read_index, write_index
    from shards.schema import LabelSet

    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    for split in ("train", "dev"):
        index = read_index(shards / split)
        emotion, *others = index.label_sets
        names = emotion.names[::-1] if labels == "order" else (*emotion.names[:-1], "astonishment")
        changed = LabelSet(task=emotion.task, names=names)
        write_index(shards / split, replace(index, label_sets=(changed, *others)))
        assert json.loads((shards / split / INDEX_NAME).read_text())["label_sets"][0]["names"] == list(names)
    with pytest.raises(SpecMismatchError, match="labels of emotion"):
        run(shards, tmp_path / "run", resume=True)
    with pytest.raises(SpecMismatchError, match="labels of emotion"):
        evaluate_run(shards, tmp_path / "run", split="dev")


def test_a_run_whose_frozen_weights_are_gone_or_others_is_refused(shards: Path, tmp_path: Path) -> None:
    model = replace(SMALL, text_encoder=str(save_bert(tmp_path / "scratch")))
    run(shards, tmp_path / "run", model=model, config=replace(CONFIG, max_epochs=1))
    frozen = tmp_path / "run" / "frozen.safetensors"
    raw = frozen.read_bytes()
    frozen.write_bytes(raw[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="not those that the run was trained with"):
        run(shards, tmp_path / "run", model=model, resume=True)
    frozen.unlink()
    with pytest.raises(CheckpointError, match=r"lacks frozen\.safetensors"):
        evaluate_run(shards, tmp_path / "run", split="test")


def test_weights_of_a_video_encoder_that_are_not_there_are_refused_by_path(shards: Path, tmp_path: Path) -> None:
    model = replace(MODEL, video_weights=str(tmp_path / "r3d_18.pth"))
    with pytest.raises(EncoderError, match=r"(?s)cannot be read.*r3d_18\.pth.*next: "):
        run(shards, tmp_path / "run", model=model)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("trained", [(), ("text",)])
def test_training_with_frozen_encoders_alone_says_once_that_encode_would_run_them_once(
    shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, trained: tuple[Modality, ...]
) -> None:
    model = replace(
        SMALL, text_encoder=str(save_bert(tmp_path / "scratch")), text_pooling="mean", train_encoders=trained
    )
    with caplog.at_level(logging.INFO):
        run(shards, tmp_path / "run", model=model, config=replace(CONFIG, max_epochs=2))
    said = [record.message for record in caplog.records if "`mmsent encode` would compute" in record.message]
    assert len(said) == (0 if trained else 1)
    assert all("(text)" in line for line in said)
