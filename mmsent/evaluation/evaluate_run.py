"""Evaluate a run on a split and leave a report: numbers, figures, and every prediction."""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmsent.compute.memory import device_memory_named
from mmsent.compute.precision import ResolvedPrecision, choose_device, resolve_precision
from mmsent.config import TrainConfig
from mmsent.errors import CheckpointError
from mmsent.evaluation.metrics import TaskScore
from mmsent.evaluation.plots import plot_confusion, plot_curves
from mmsent.evaluation.predict import Predictions, predict, score
from mmsent.runs.checkpoint import Checkpoint, check_fit, load_checkpoint, restore_model
from mmsent.runs.folder import BEST, CURVES, METRICS, PREDICTIONS, RUN, confusion_figure, evaluation_folder
from mmsent.runs.history import EpochResult, is_finished, read_history
from shards.errors import describe
from shards.files import publish
from shards.order.orders import InOrder
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.splits import open_split
from shards.storage.cache import ShardCache

__all__ = ["Evaluation", "evaluate_run"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The scores of one run on one split, and where they lie."""

    split: str
    num_samples: int
    epoch: int
    """Whose weights were used, from 0: the best on the validation split, never simply the last."""
    precision: ResolvedPrecision
    """Of the forward pass: the run's own, but fp32 on a CPU for a run in fp16."""
    loss: float
    scores: dict[str, TaskScore]
    directory: Path

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as in `metrics.json`."""
        return {
            "split": self.split,
            "num_samples": self.num_samples,
            "checkpoint": BEST,
            "epoch": self.epoch,
            "precision": self.precision,
            "loss": self.loss,
            "tasks": {
                task: {**asdict(item), "never_predicted": list(item.never_predicted)}
                for task, item in self.scores.items()
            },
        }


def evaluate_run(shards: str | Path, run: Path, *, split: str, cache: ShardCache | None = None) -> Evaluation:
    """Score the best checkpoint of a run on a split, every sample once.

    Writes `metrics.json`, `predictions.csv`, `confusion-<task>.png` and `training-curves.png` to
    `run/evaluation-<split>/`.

    Raises:
        CheckpointError: if the run has no best checkpoint yet, or it is damaged.
        SpecMismatchError: if the checkpoint does not fit the shards.
        ShardError: if the split cannot be read.
    """
    samples = open_split(shards, split, cache=cache)
    if not run.is_dir():
        then = "give the folder that `mmsent train --out` made"
        raise CheckpointError(describe("there is no such run", file=run, then=then))
    checkpoint = load_checkpoint(run / BEST)
    check_fit(checkpoint, samples, path=run / BEST)
    device = choose_device()
    trained_in = checkpoint.train_config.precision
    precision = resolve_precision("auto" if trained_in == "fp16" and device.type == "cpu" else trained_in, device)
    loader = ShardLoader(
        samples,
        order=InOrder(len(samples)),
        batch_size=checkpoint.train_config.batch_size,
        modalities=checkpoint.model_config.modalities,
        dialogue_turns=checkpoint.model_config.dialogue_turns,
    )
    model = restore_model(checkpoint, run).place(device, precision, deterministic=checkpoint.train_config.deterministic)
    then = "free the GPU of other programs, or evaluate on the CPU: `CUDA_VISIBLE_DEVICES= mmsent evaluate …`"
    batch_size = checkpoint.train_config.batch_size
    with device_memory_named("evaluation", batch_size=batch_size, precision=precision, then=then):
        predictions = predict(model, loader, device=device, precision=precision)
    evaluation = Evaluation(
        split=split,
        num_samples=len(samples),
        epoch=checkpoint.history[-1].epoch,
        precision=precision,
        loss=predictions.loss,
        scores=score(predictions, loader, train_counts=checkpoint.train_counts),
        directory=evaluation_folder(run, split),
    )
    epochs = read_history(run) or checkpoint.history  # what is written goes on after the best epoch
    config = _config_of(run, checkpoint)
    if not is_finished(epochs, config):
        most = config.max_epochs
        _LOG.warning("the run in %s is not finished: %d of at most %d epochs are made", run, len(epochs), most)
    _write(evaluation, predictions, samples, epochs)
    return evaluation


def _config_of(run: Path, checkpoint: Checkpoint) -> TrainConfig:
    """Return how a run was trained when it was started last: some options may change when it goes on."""
    path = run / RUN
    if not path.is_file():  # a folder of which only the best checkpoint was copied
        return checkpoint.train_config
    try:
        return TrainConfig.from_json(json.loads(path.read_bytes())["train"])
    except (ValueError, TypeError, KeyError) as exc:
        then = "delete it: the options are then those of the best checkpoint"
        raise CheckpointError(describe(f"the options of the run cannot be read: {exc}", file=path, then=then)) from exc


def _write(evaluation: Evaluation, predictions: Predictions, samples: Split, epochs: Sequence[EpochResult]) -> None:
    directory = evaluation.directory
    directory.mkdir(exist_ok=True)
    for task, item in evaluation.scores.items():
        plot_confusion(item, directory / confusion_figure(task))
    plot_curves(epochs, directory / CURVES)
    publish(directory / PREDICTIONS, _predictions_csv(predictions, samples))
    publish(directory / METRICS, (json.dumps(evaluation.to_json(), indent=1) + "\n").encode())


def _predictions_csv(predictions: Predictions, samples: Split) -> bytes:
    """One row per sample: its text, what is true, what was predicted and how sure the model was."""
    text = io.StringIO()
    writer = csv.writer(text)
    tasks = [labels.task for labels in samples.label_sets]
    columns = [f"{task}{suffix}" for task in tasks for suffix in ("", "_predicted", "_probability")]
    writer.writerow(["key", "text", *columns])
    probabilities = {task: predictions.logits[task].softmax(dim=1).max(dim=1) for task in tasks}
    for number in range(len(samples)):
        meta = samples.meta(number)
        values: list[object] = [meta.key, meta.text]
        for labels in samples.label_sets:
            sure, index = probabilities[labels.task]
            values += [meta.labels[labels.task], labels.names[int(index[number])], f"{float(sure[number]):.4f}"]
        writer.writerow(values)
    return text.getvalue().encode()
