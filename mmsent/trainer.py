"""A run in progress: steps, validation, schedule, and everything that a stop must not lose.

Shape letters: B batch.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmsent.batch import Batch, allocate_pinned
from mmsent.checkpoint import Checkpoint, restore_model, save_checkpoint
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import TrainingError
from mmsent.evaluate import predict, score
from mmsent.feed import DeviceFeed
from mmsent.model import MultimodalModel
from mmsent.ordering import training_order
from mmsent.precision import ResolvedPrecision, autocast, choose_device, resolve_precision
from mmsent.statistics import class_weights, logmel_statistics
from shards.errors import describe
from shards.index import publish
from shards.loader import LoaderState, ShardLoader
from shards.order import InOrder
from shards.reader import Split

__all__ = ["BEST", "LAST", "EpochResult", "StepInfo", "TrainResult", "Trainer"]

BEST = "best.safetensors"
LAST = "last.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """Where an epoch stands."""

    epoch: int
    step: int
    num_steps: int
    loss: float
    """Mean over the epoch so far."""
    samples_per_second: float
    wait_share: float
    """Part of the time in which the trainer waited for the loader, from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochResult:
    """One epoch; losses are sums over the tasks."""

    epoch: int
    train_loss: float
    dev_loss: float
    dev_accuracy: dict[str, float]
    dev_weighted_f1: dict[str, float]
    learning_rate: float
    samples_per_second: float
    wait_share: float
    best: bool
    """Whether its validation loss is the lowest so far, so that its weights are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished run."""

    epochs: tuple[EpochResult, ...]
    best_epoch: int
    stopped_early: bool
    device: str
    precision: ResolvedPrecision


class Trainer:
    """A run in progress: what a checkpoint holds, as live objects."""

    def __init__(
        self, model: MultimodalModel, train_split: Split, dev_split: Split, run: Path, train_config: TrainConfig
    ) -> None:
        self.device = choose_device()
        self.precision = resolve_precision(train_config.precision, self.device)
        self.model = model.to(self.device)
        self.config = train_config
        self._run = run
        self._counts = train_split.label_counts()
        self._data = {"train": train_split.content_sha256, "dev": dev_split.content_sha256}
        allocate = allocate_pinned if self.device.type == "cuda" else np.empty
        self._loader = ShardLoader(
            train_split,
            order=training_order(train_split, train_config),
            batch_size=train_config.batch_size,
            num_readers=train_config.num_readers,
            check=train_config.check,
            allocate=allocate,
        )
        self._feed = DeviceFeed(self._loader, self.device)
        self._dev_loader = ShardLoader(
            dev_split,
            order=InOrder(len(dev_split)),
            batch_size=train_config.batch_size,
            num_readers=train_config.num_readers,
            check=train_config.check,
            allocate=allocate,
        )
        self._optimizer = torch.optim.Adam(model.parameter_groups(train_config), fused=True)
        self._scheduler = ReduceLROnPlateau(
            self._optimizer, factor=train_config.plateau_factor, patience=train_config.plateau_patience
        )
        self._scaler = torch.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._weights: dict[str, Tensor | None] = {}
        for labels in train_split.label_sets:
            weights = class_weights(self._counts[labels.task], labels, kind=train_config.class_weights)
            self._weights[labels.task] = None if weights is None else weights.to(self.device)
        self._sums = _Sums()
        self._history: list[EpochResult] = []

    @classmethod
    def new(
        cls, train_split: Split, dev_split: Split, run: Path, *, model_config: ModelConfig, train_config: TrainConfig
    ) -> "Trainer":
        """Start from random and pre-trained weights."""
        torch.manual_seed(train_config.seed)
        model = MultimodalModel(model_config, spec=train_split.spec, label_sets=train_split.label_sets, pretrained=True)
        if "audio" in model_config.modalities:
            model.set_logmel_statistics(*logmel_statistics(train_split))
        return cls(model, train_split, dev_split, run, train_config)

    @classmethod
    def resumed(
        cls, last: Checkpoint, train_split: Split, dev_split: Split, run: Path, *, train_config: TrainConfig
    ) -> "Trainer":
        """Go on exactly where a checkpoint was made."""
        trainer = cls(restore_model(last), train_split, dev_split, run, train_config)
        trainer._load_state(last)
        trainer._publish_history()  # a kill may have come between the checkpoint and it
        return trainer

    def run(self, *, on_step: Callable[[StepInfo], None], on_epoch: Callable[[EpochResult], None]) -> TrainResult:
        """Train to the end: epochs until the last or until the validation loss has stopped falling."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self._run / "tensorboard", purge_step=len(self._history)) as board:
            while len(self._history) < self.config.max_epochs and not self._stopped_early():
                self._train_epoch(on_step)
                result = self._finish_epoch()
                _write_board(board, result)
                on_epoch(result)
        return TrainResult(
            epochs=tuple(self._history),
            best_epoch=max(result.epoch for result in self._history if result.best),
            stopped_early=self._stopped_early(),
            device=self.device.type,
            precision=self.precision,
        )

    def step(self, batch: Batch) -> float:
        """Make one step on a batch that is on the device, and return its loss."""
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self.precision, self.device):
            logits = self.model(batch)
        loss = torch.stack(
            [F.cross_entropy(logits[task], batch.labels[task], weight=self._weights[task]) for task in logits]
        ).sum()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        norm = clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self.config.max_grad_norm)
        if not self._scaler.is_enabled():  # a scaler skips such a step itself and lowers its scale
            self._check_finite(float(norm), of="the gradients' norm")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        return float(loss.detach())

    def _train_epoch(self, on_step: Callable[[StepInfo], None]) -> None:
        """Make the steps that are left of the current epoch."""
        self.model.train()
        num_steps = len(self._feed)
        batches = iter(self._feed)
        clock = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                break
            self._sums.wait_seconds += time.perf_counter() - asked
            loss = self.step(batch)
            self._sums.loss += loss * len(batch)
            self._sums.num_samples += len(batch)
            self._check_finite(loss)
            now = time.perf_counter()
            self._sums.seconds += now - clock
            clock = now
            step = -(-self._sums.num_samples // self.config.batch_size)
            on_step(self._sums.info(epoch=len(self._history), step=step, num_steps=num_steps))
            if step % self.config.checkpoint_steps == 0 and step < num_steps:
                self._save(LAST)

    def _finish_epoch(self) -> EpochResult:
        """Validate, keep the weights if they are the best so far, and save where the next epoch begins."""
        predictions = predict(self.model, self._dev_loader, device=self.device, precision=self.precision)
        scores = score(predictions, self._dev_loader, train_counts=self._counts)
        info = self._sums.info(epoch=len(self._history), step=0, num_steps=0)
        result = EpochResult(
            epoch=info.epoch,
            train_loss=info.loss,
            dev_loss=predictions.loss,
            dev_accuracy={task: item.accuracy for task, item in scores.items()},
            dev_weighted_f1={task: item.weighted_f1 for task, item in scores.items()},
            learning_rate=self._optimizer.param_groups[0]["lr"],
            samples_per_second=info.samples_per_second,
            wait_share=info.wait_share,
            best=predictions.loss < min((item.dev_loss for item in self._history), default=math.inf),
        )
        self._check_finite(predictions.loss)
        self._scheduler.step(predictions.loss)
        self._history.append(result)
        self._sums = _Sums()
        if result.best:
            self._save(BEST)
        self._save(LAST)
        self._publish_history()
        return result

    def _publish_history(self) -> None:
        publish(self._run / "history.json", _json([asdict(item) for item in self._history]))

    def _stopped_early(self) -> bool:
        since_best = 0
        for result in self._history:
            since_best = 0 if result.best else since_best + 1
        return since_best >= self.config.early_stopping_patience

    def _check_finite(self, value: float, *, of: str = "the loss") -> None:
        if not math.isfinite(value):
            what = f"{of} is {value} in epoch {len(self._history) + 1}: training has diverged"
            then = "start a new run in another --out with a lower `--learning-rate`, or `--precision fp32`"
            raise TrainingError(describe(what, file=self._run, then=then))

    def _save(self, name: str) -> None:
        """Save the weights; for LAST also all that the next step depends on."""
        tensors = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        state: dict[str, Any] = {"history": [asdict(item) for item in self._history]}
        if name == LAST:
            optimizer = self._optimizer.state_dict()
            for number, values in optimizer["state"].items():
                tensors |= {f"optimizer.{number}.{key}": value for key, value in values.items()}
            tensors["rng.cpu"] = torch.get_rng_state()
            if self.device.type == "cuda":
                tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
            state |= {
                "loader": asdict(self._feed.state()),
                "sums": asdict(self._sums),
                "param_groups": optimizer["param_groups"],
                "scheduler": self._scheduler.state_dict(),
                "scaler": self._scaler.state_dict(),
                "precision": self.precision,
                "data": self._data,
            }
        checkpoint = Checkpoint(
            model_config=self.model.config,
            train_config=self.config,
            spec=self._loader.split.spec,
            label_sets=self._loader.split.label_sets,
            train_counts=self._counts,
            text_config=self.model.text_config(),
            state=state,
            tensors=tensors,
        )
        save_checkpoint(self._run / name, checkpoint)

    def _load_state(self, last: Checkpoint) -> None:
        state = last.state
        if state["precision"] != self.precision:
            what = f"the run computed in {state['precision']}, here `auto` means {self.precision}"
            then = f"go on with `--precision {state['precision']}` on a like machine, or start a new run"
            raise TrainingError(describe(what, file=self._run, then=then))
        if changed := [name for name, digest in self._data.items() if state["data"][name] != digest]:
            what = f"the samples of {' and '.join(changed)} are not those that the run was started with"
            then = "give the shards it was started with, or start a new run in another --out"
            raise TrainingError(describe(what, file=self._run, then=then))
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in last.part("optimizer").items():
            number, _, key = name.partition(".")
            slots.setdefault(int(number), {})[key] = tensor
        self._optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})
        self._scheduler.load_state_dict(state["scheduler"])
        self._scaler.load_state_dict(state["scaler"])
        self._feed.seek(LoaderState(**state["loader"]))
        self._sums = _Sums(**state["sums"])
        self._history = [EpochResult(**item) for item in state["history"]]
        torch.set_rng_state(last.tensors["rng.cpu"])
        if self.device.type == "cuda" and "rng.cuda" in last.tensors:
            torch.cuda.set_rng_state(last.tensors["rng.cuda"], self.device)


@dataclass(slots=True)
class _Sums:
    """What an epoch adds up; part of a checkpoint, so that a resumed epoch reports as one that was never stopped."""

    loss: float = 0.0
    num_samples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0

    def info(self, *, epoch: int, step: int, num_steps: int) -> StepInfo:
        """Return the means of what there is."""
        return StepInfo(
            epoch=epoch,
            step=step,
            num_steps=num_steps,
            loss=self.loss / max(self.num_samples, 1),
            samples_per_second=self.num_samples / max(self.seconds, 1e-9),
            wait_share=self.wait_seconds / max(self.seconds, 1e-9),
        )


def _write_board(board: Any, result: EpochResult) -> None:
    for name in ("train_loss", "dev_loss", "learning_rate", "samples_per_second", "wait_share"):
        board.add_scalar(name, getattr(result, name), result.epoch)
    for task in result.dev_weighted_f1:
        board.add_scalar(f"dev_weighted_f1/{task}", result.dev_weighted_f1[task], result.epoch)
        board.add_scalar(f"dev_accuracy/{task}", result.dev_accuracy[task], result.epoch)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
