"""Where a run stands: all that a checkpoint to go on from holds, as live objects that may be saved after any step."""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsent.compute.distributed import ALONE, World
from mmsent.compute.precision import ResolvedPrecision
from mmsent.config import TrainConfig
from mmsent.errors import TrainingError
from mmsent.runs.checkpoint import Checkpoint, save_checkpoint, save_step_checkpoint
from mmsent.runs.folder import BEST
from mmsent.runs.history import EpochResult, publish_history
from mmsent.training.step import Stepper
from shards.errors import describe
from shards.reading.planner import LoaderState
from shards.reading.split import Split

__all__ = ["EpochSums", "RunState"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSums:
    """Sums over the steps of an epoch; a checkpoint has them, so that a resumed epoch reports as one never stopped."""

    loss: float = 0.0
    """Sum over the samples; in a checkpoint alone, since a live one lies on the device."""
    num_samples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0
    """Time in which the trainer waited for the loader."""

    @property
    def samples_per_second(self) -> float:
        """Samples of all ranks in a second of training."""
        return self.num_samples / max(self.seconds, 1e-9)

    @property
    def wait_share(self) -> float:
        """Part of the time in which the trainer waited for the loader, from 0 to 1."""
        return self.wait_seconds / max(self.seconds, 1e-9)


class RunState:
    """A run after its last step: weights and optimizer, place in the data, sums of the epoch, history.

    A signal's thread may save it at any time: weights and place change together, under a lock.

    Attributes:
        loader: Place in the training data.
        sums: What the current epoch adds up, without the loss.
        history: Epochs that are finished.
    """

    def __init__(
        self,
        run: Path,
        stepper: Stepper,
        *,
        loader: LoaderState,
        train_split: Split,
        dev_split: Split,
        config: TrainConfig,
        device: torch.device,
        precision: ResolvedPrecision,
        world: World = ALONE,
    ) -> None:
        self.loader = loader
        self.sums = EpochSums()
        self.history: tuple[EpochResult, ...] = ()
        self._run = run
        self._stepper = stepper
        self._split = train_split
        self._train_counts = train_split.label_counts()
        self._data = {"train": train_split.content_sha256, "dev": dev_split.content_sha256}
        self._config = config
        self._precision = precision
        self._world = world
        self._frozen_sha256 = stepper.model.frozen_sha256()
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=device)  # of the epoch, over its samples
        self._lock = threading.Lock()  # held while what a checkpoint holds is changed or read
        self._saved_steps = -1

    def make_step(self, loss: Tensor, *, num_samples: int, loader: LoaderState) -> None:
        """Update the weights by the gradients that are there, after which the run stands at another place.

        Args:
            loss: Mean over the samples of the step, on the device.
            num_samples: Samples of all ranks.
            loader: Place after the step.
        """
        with self._lock:
            norm = self._stepper.optimizer_step()
            self._loss_sum += loss.double() * num_samples
            if not self._stepper.optimizer.skips_infinite_steps:
                self._loss_sum += norm.double() * 0  # not a number from here on, if the norm is none
            self.loader = loader
            self.sums = replace(self.sums, num_samples=self.sums.num_samples + num_samples)

    def add_time(self, *, seconds: float = 0.0, wait_seconds: float = 0.0) -> None:
        """Add to the times of the epoch."""
        sums = self.sums
        self.sums = replace(sums, seconds=sums.seconds + seconds, wait_seconds=sums.wait_seconds + wait_seconds)

    def mean_loss(self) -> float:
        """Return the mean loss of the epoch so far; on a GPU that waits until all steps are done.

        Raises:
            TrainingError: if it is no longer a number.
        """
        loss = float(self._loss_sum)
        self.check_finite(loss)
        return loss / max(self.sums.num_samples, 1)

    def check_finite(self, loss: float, *, name: str = "the loss", culprits: Callable[[], str] = lambda: "") -> None:
        """Refuse a loss that is no number; from then on nothing is saved.

        Args:
            loss: Value to look at.
            name: Words for it.
            culprits: Called where it is no number; returns on which samples, in words, if that can be told.

        Raises:
            TrainingError: with what to try.
        """
        if not math.isfinite(loss):
            self._loss_sum.fill_(math.nan)
            what = f"{name} is {loss} in epoch {len(self.history) + 1}: training has diverged{culprits()}"
            then = "start a new run in another --out with a lower `--learning-rate`, or `--precision fp32`"
            raise TrainingError(describe(what, file=self._run, then=then))

    def end_epoch(self, result: EpochResult, *, loader: LoaderState) -> None:
        """Keep the weights of an epoch if they are the best so far, and save where the next epoch begins.

        Args:
            result: The epoch.
            loader: Place at the start of the next one.

        Raises:
            CheckpointError: if the disk is full or cannot be written.
        """
        with self._lock:  # a signal's save waits: best and last are of the same history
            history = (*self.history, result)
            if result.best and self._world.is_first:
                # First: where it fails, the epoch is one that is yet to be validated.
                best = self._checkpoint(history, tensors=self._stepper.evaluated_tensors(), state={})
                save_checkpoint(self._run / BEST, best)
            self._stepper.optimizer.end_epoch(result.dev_loss)
            self.loader, self.sums, self.history = loader, EpochSums(), history
            self._loss_sum.zero_()
            self._save()
        self.publish_history()

    def publish_history(self) -> None:
        """Write the epochs that are finished to the folder of the run."""
        if self._world.is_first and self.history:
            publish_history(self._run, self.history)

    def save(self) -> None:
        """Save the weights and all that the next step depends on.

        Raises:
            TrainingError: if the loss is no longer a number.
            CheckpointError: if the disk is full or cannot be written.
        """
        self.check_finite(float(self._loss_sum))
        with self._lock:
            self._save()

    def save_for_signal(self) -> None:
        """Save the same unless it is saved, or the loss is no number; from any thread, at any time."""
        with self._lock:
            if self._stepper.num_steps != self._saved_steps and math.isfinite(float(self._loss_sum)):
                self._save()

    def restore(self, last: Checkpoint) -> None:
        """Go on where a checkpoint was made.

        Raises:
            TrainingError: if samples or the number format are not those of the checkpoint.
        """
        state = last.state
        if state["precision"] != self._precision:
            what = f"the run computed in {state['precision']}, here `auto` means {self._precision}"
            then = f"go on with `--precision {state['precision']}` on a like machine, or start a new run"
            raise TrainingError(describe(what, file=self._run, then=then))
        if changed := [name for name, digest in self._data.items() if state["data"][name] != digest]:
            what = f"the samples of {' and '.join(changed)} are not those that the run was started with"
            then = "give the shards it was started with, or start a new run in another --out"
            raise TrainingError(describe(what, file=self._run, then=then))
        if state["world_size"] != self._world.size and self._world.is_first:
            _LOG.warning(
                "the run had %d processes and goes on with %d: the same batches, other random numbers for dropout",
                state["world_size"],
                self._world.size,
            )
        self._stepper.load(last.tensors, state["stepper"])
        self.loader = LoaderState(**state["loader"])
        sums = EpochSums(**state["sums"])
        self._loss_sum.fill_(sums.loss)
        self.sums = replace(sums, loss=0.0)
        self.history = last.history
        self._saved_steps = self._stepper.num_steps

    def _save(self) -> None:
        if not self._world.is_first:
            return
        state = {
            "loader": asdict(self.loader),
            "sums": asdict(replace(self.sums, loss=float(self._loss_sum))),
            "stepper": self._stepper.state(),
            "precision": self._precision,
            "world_size": self._world.size,
            "data": self._data,
        }
        checkpoint = self._checkpoint(self.history, tensors=self._stepper.tensors(), state=state)
        save_step_checkpoint(self._run, checkpoint, step=self._stepper.num_steps, keep=self._config.keep_checkpoints)
        self._saved_steps = self._stepper.num_steps

    def _checkpoint(
        self, history: Sequence[EpochResult], *, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> Checkpoint:
        model = self._stepper.model
        return Checkpoint(
            model_config=model.config,
            train_config=self._config,
            spec=self._split.spec,
            label_sets=self._split.label_sets,
            train_counts=self._train_counts,
            text_config=model.text_config(),
            frozen_sha256=self._frozen_sha256,
            history=tuple(history),
            state=state,
            tensors=tensors,
        )
