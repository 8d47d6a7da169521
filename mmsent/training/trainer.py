"""A run in progress: epochs of steps, validation, and saves that lose nothing, whatever ends it.

Shape letters: B batch.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsent.batches.augment import augment
from mmsent.batches.batch import Batch, allocate_pinned
from mmsent.batches.device_feed import DeviceFeed
from mmsent.batches.training_order import training_order
from mmsent.compute.distributed import ALONE, Agreement, World
from mmsent.compute.memory import training_memory_named
from mmsent.compute.precision import choose_device, resolve_precision
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import PeerError, TrainingError
from mmsent.evaluation.predict import predict, score
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.checkpoint import Checkpoint, restore_model, save_checkpoint, save_step_checkpoint
from mmsent.runs.history import BEST, EpochResult, StepInfo, TrainResult, is_finished, stopped_early, write_board
from mmsent.training.assemble import new_model, new_stepper
from mmsent.training.interrupt import SignalWatch
from mmsent.training.profiling import profiled
from shards.errors import ExpectedError, describe
from shards.files import publish
from shards.order.orders import InOrder, Order
from shards.reading.loader import ShardLoader
from shards.reading.planner import LoaderState
from shards.reading.split import Split

__all__ = ["Trainer"]

_LOG = logging.getLogger(__name__)

_LOOK_STEPS = 16
"""Steps on a GPU between two looks at the loss: each makes the CPU wait until the GPU has come so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sums:
    """What an epoch adds up; part of a checkpoint, so that a resumed epoch reports as one that was never stopped."""

    loss: float = 0.0
    num_samples: int = 0
    seconds: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the run stands after its last step; never changed, only replaced, together with the weights."""

    loader: LoaderState
    sums: _Sums = field(default_factory=_Sums)
    history: tuple[EpochResult, ...] = ()


class _StopAsked(Exception):  # noqa: N818 - no error: it unwinds to where the run ends
    """The run is to end here, everything being saved."""


class Trainer:
    """A run in progress: what a checkpoint holds, as live objects."""

    def __init__(
        self,
        model: MultimodalModel,
        train_split: Split,
        dev_split: Split,
        run: Path,
        train_config: TrainConfig,
        world: World = ALONE,
    ) -> None:
        self.device = choose_device()
        self.precision = resolve_precision(train_config.precision, self.device)
        self.config = train_config
        self.model = model.place(self.device, self.precision, deterministic=train_config.deterministic)
        self.world = world
        self._run = run
        self._counts = train_split.label_counts()
        self._data = {"train": train_split.content_sha256, "dev": dev_split.content_sha256}
        self._loader = self._new_loader(train_split, training_order(train_split, train_config))
        self._feed = DeviceFeed(self._loader, self.device)
        self._dev_loader = self._new_loader(dev_split, InOrder(len(dev_split)))
        self._stepper = new_stepper(
            model,
            train_split,
            train_config,
            self.device,
            self.precision,
            steps_per_epoch=len(self._loader),
            world=world,
        )
        self._agreement = Agreement(world)
        self._lock = threading.Lock()  # held while what a checkpoint holds is changed or read
        self._place = _Place(loader=self._feed.state())
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)  # of the epoch, over its samples
        self._saved_steps = -1
        self._mean_loss = 0.0  # of the epoch, at the last look
        self._signum = 0
        self._frozen_sha256 = model.frozen_sha256()

    @classmethod
    def new(
        cls,
        train_split: Split,
        dev_split: Split,
        run: Path,
        *,
        model_config: ModelConfig,
        train_config: TrainConfig,
        world: World = ALONE,
    ) -> "Trainer":
        """Start from random and pre-trained weights."""
        return cls(new_model(train_split, model_config, train_config), train_split, dev_split, run, train_config, world)

    @classmethod
    def resumed(
        cls,
        last: Checkpoint,
        train_split: Split,
        dev_split: Split,
        run: Path,
        *,
        train_config: TrainConfig,
        world: World = ALONE,
    ) -> "Trainer":
        """Go on exactly where a checkpoint was made.

        Raises:
            TrainingError: if samples or the number format are not those of the checkpoint.
            CheckpointError: if the weights of frozen encoders are gone or others.
        """
        trainer = cls(restore_model(last, run), train_split, dev_split, run, train_config, world)
        trainer._load_state(last)
        return trainer

    def run(
        self,
        *,
        profile: bool = False,
        on_step: Callable[[StepInfo], None],
        on_epoch: Callable[[EpochResult], None],
        on_exit: Callable[[str], None],
    ) -> TrainResult:
        """Train to the end: epochs until the last, or until the validation loss has stopped falling, or a signal.

        Args:
            profile: Profile a few of the first steps.
            on_step: Called after each step.
            on_epoch: Called after each epoch.
            on_exit: Called with a line to show if a signal ends the process in the middle of a step.
        """
        from torch.utils.tensorboard import SummaryWriter

        with ExitStack() as stack:
            save = self._save_for_signal if self.world.is_first else None
            self._watch = stack.enter_context(SignalWatch(save=save, on_exit=on_exit, echoed=self.world.launched))
            stack.callback(self.__dict__.pop, "_watch")  # it holds the trainer, with all of its memory
            board = (
                stack.enter_context(SummaryWriter(self._run / "tensorboard", purge_step=len(self._place.history)))
                if self.world.is_first
                else None
            )
            after_step = (
                stack.enter_context(profiled(self._run / "profile")) if profile and self.world.is_first else _do_nothing
            )
            self._publish_history()  # a kill may have come between the last checkpoint and it
            try:
                while not is_finished(self._place.history, self.config):
                    with training_memory_named(self.config, self.precision):
                        self._train_epoch(on_step, after_step)
                        result = self._finish_epoch()
                    if board is not None:
                        write_board(board, result)
                    on_epoch(result)
                # One that came after the last step: other runs are not to begin.
                self._signum = self._agreement.settle(self._watch.signum)
            except _StopAsked:
                self._save_for_signal()  # a signal to another rank alone has saved nothing yet
            except ExpectedError as exc:
                # A damaged shard, a rank that died: no step that was made is lost. But on a GPU the weights lie behind
                # an exchange of gradients that will never end.
                lost = isinstance(exc, PeerError) and self.device.type == "cuda"
                if self._stepper.num_steps and not lost and self._is_finite():
                    self._save_for_signal()
                raise
        return TrainResult(
            epochs=self._place.history,
            best_epoch=max((result.epoch for result in self._place.history if result.best), default=None),
            stopped_early=stopped_early(self._place.history, self.config),
            signum=self._signum,
            num_steps=self._stepper.num_steps,
            device=self.device.type,
            precision=self.precision,
            world_size=self.world.size,
        )

    def _new_loader(self, split: Split, order: Order) -> ShardLoader:
        return ShardLoader(
            split,
            order=order,
            batch_size=self.config.batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            num_readers=self.config.num_readers,
            check=self.config.check,
            allocate=allocate_pinned if self.device.type == "cuda" else np.empty,
            modalities=self.model.config.modalities,
            dialogue_turns=self.model.config.dialogue_turns,
        )

    def _train_epoch(self, on_step: Callable[[StepInfo], None], after_step: Callable[[], None]) -> None:
        """Make the steps that are left of the current epoch."""
        self.model.train()
        num_steps = len(self._feed)
        batches = iter(self._feed)
        clock, waited = time.perf_counter(), self._feed.wait_seconds
        while True:
            self._end_if_asked()
            batch = next(batches, None)
            sums = self._place.sums
            sums = replace(sums, wait_seconds=sums.wait_seconds + self._feed.wait_seconds - waited)
            self._place, waited = replace(self._place, sums=sums), self._feed.wait_seconds
            if batch is None:
                break
            self._step(batch)
            after_step()
            step = -(-self._place.loader.position // self.config.batch_size)
            self._look(step, num_steps=num_steps)
            now = time.perf_counter()
            sums = self._place.sums
            self._place = replace(self._place, sums=replace(sums, seconds=sums.seconds + now - clock))
            clock = now
            on_step(self._info(step=step, num_steps=num_steps))
            if step % self.config.checkpoint_steps == 0 and step < num_steps:
                self._save()

    def _step(self, batch: Batch) -> None:
        """Make one step, after which the place is the next one."""
        state = self._feed.state()
        global_size = state.position - self._place.loader.position
        batch = augment(batch, self.config, epoch=self._place.loader.epoch, modalities=self.model.config.modalities)
        loss = self.world.sum_(self._stepper.compute(batch, global_size=global_size))
        if self.device.type == "cpu":  # where looking costs nothing, before the weights are spoilt
            self._check_finite(float(loss))
        if self.world.size == 1 and self._watch.signum:
            self._watch.wait_until_saved()  # what is saved is the step before: this one is made again
            self._signum = self._watch.signum
            raise _StopAsked
        with self._lock:
            norm = self._stepper.update()
            self._loss_sum += loss.double() * global_size
            if not self._stepper.optimizer.skips_infinite_steps:
                self._loss_sum += norm.double() * 0  # not a number from here on, if the norm is none
            sums = self._place.sums
            self._place = replace(
                self._place, loader=state, sums=replace(sums, num_samples=sums.num_samples + global_size)
            )

    def _look(self, step: int, *, num_steps: int) -> None:
        """Take note of the loss, at every step on a CPU and now and then on a GPU, so that nobody waits for it."""
        if self.device.type == "cpu" or step % _LOOK_STEPS == 0 or step == num_steps:
            loss = float(self._loss_sum)
            self._check_finite(loss)
            self._mean_loss = loss / max(self._place.sums.num_samples, 1)

    def _info(self, *, step: int, num_steps: int) -> StepInfo:
        sums = self._place.sums
        return StepInfo(
            epoch=len(self._place.history),
            step=step,
            num_steps=num_steps,
            loss=self._mean_loss,
            samples_per_second=sums.num_samples / max(sums.seconds, 1e-9),
            wait_share=sums.wait_seconds / max(sums.seconds, 1e-9),
        )

    def _finish_epoch(self) -> EpochResult:
        """Validate, keep the weights if they are the best so far, and save where the next epoch begins."""
        self._stepper.unite_buffers()
        predictions = predict(
            self._stepper.evaluated_model,
            self._dev_loader,
            device=self.device,
            precision=self.precision,
            world=self.world,
            before_batch=self._end_if_asked,
        )
        scores = score(predictions, self._dev_loader, train_counts=self._counts)
        self._check_finite(float(self._loss_sum))
        self._check_finite(predictions.loss, of="the validation loss")
        sums, history = self._place.sums, self._place.history
        result = EpochResult(
            epoch=len(history),
            train_loss=float(self._loss_sum) / max(sums.num_samples, 1),
            dev_loss=predictions.loss,
            dev_accuracy={task: item.accuracy for task, item in scores.items()},
            dev_weighted_f1={task: item.weighted_f1 for task, item in scores.items()},
            learning_rate=self._stepper.learning_rate,
            seconds=sums.seconds,
            samples_per_second=sums.num_samples / max(sums.seconds, 1e-9),
            wait_share=sums.wait_seconds / max(sums.seconds, 1e-9),
            best=False,
        )
        selection = self.config.selection
        before = max((item.merit(selection) for item in history), default=-math.inf)
        result = replace(result, best=result.merit(selection) > before)
        with self._lock:  # a signal's save waits: best and last are of the same history
            history = (*history, result)
            if result.best and self.world.is_first:
                # First: where it fails, the epoch is one that is yet to be validated.
                best = self._checkpoint(history, tensors=self._stepper.evaluated_tensors(), state={})
                save_checkpoint(self._run / BEST, best)
            self._stepper.optimizer.end_epoch(predictions.loss)
            self._place = _Place(loader=self._feed.state(), history=history)
            self._loss_sum.zero_()
            self._mean_loss = 0.0
            self._save_locked()
        self._publish_history()
        return result

    def _publish_history(self) -> None:
        if self.world.is_first and self._place.history:
            content = json.dumps([asdict(item) for item in self._place.history], indent=1)
            publish(self._run / "history.json", f"{content}\n".encode())

    def _end_if_asked(self) -> None:
        self._signum = self._agreement.say(self._watch.signum)
        if self._signum:
            raise _StopAsked

    def _is_finite(self) -> bool:
        return math.isfinite(float(self._loss_sum))

    def _check_finite(self, value: float, *, of: str = "the loss") -> None:
        if not math.isfinite(value):
            self._loss_sum.fill_(math.nan)  # nothing of this is saved
            what = f"{of} is {value} in epoch {len(self._place.history) + 1}: training has diverged"
            then = "start a new run in another --out with a lower `--learning-rate`, or `--precision fp32`"
            raise TrainingError(describe(what, file=self._run, then=then))

    def _save_for_signal(self) -> None:
        """Save where the run stands after its last step, unless that is saved; from any thread, at any time."""
        with self._lock:
            if self._stepper.num_steps != self._saved_steps and self._is_finite():
                self._save_locked()

    def _save(self) -> None:
        self._check_finite(float(self._loss_sum))
        with self._lock:
            self._save_locked()

    def _save_locked(self) -> None:
        """Save the weights and all that the next step depends on."""
        if not self.world.is_first:
            return
        place = self._place
        state = {
            "loader": asdict(place.loader),
            "sums": asdict(replace(place.sums, loss=float(self._loss_sum))),
            "stepper": self._stepper.state(),
            "precision": self.precision,
            "world_size": self.world.size,
            "data": self._data,
        }
        checkpoint = self._checkpoint(place.history, tensors=self._stepper.tensors(), state=state)
        save_step_checkpoint(self._run, checkpoint, step=self._stepper.num_steps, keep=self.config.keep_checkpoints)
        self._saved_steps = self._stepper.num_steps

    def _checkpoint(
        self, history: Sequence[EpochResult], *, tensors: dict[str, Tensor], state: dict[str, Any]
    ) -> Checkpoint:
        return Checkpoint(
            model_config=self.model.config,
            train_config=self.config,
            spec=self._loader.split.spec,
            label_sets=self._loader.split.label_sets,
            train_counts=self._counts,
            text_config=self.model.text_config(),
            frozen_sha256=self._frozen_sha256,
            state={"history": [asdict(item) for item in history], **state},
            tensors=tensors,
        )

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
        if state["world_size"] != self.world.size and self.world.is_first:
            _LOG.warning(
                "the run had %d processes and goes on with %d: the same batches, other random numbers for dropout",
                state["world_size"],
                self.world.size,
            )
        self._stepper.load(last.tensors, state["stepper"])
        place = LoaderState(**state["loader"])
        self._feed.seek(place)
        sums = _Sums(**state["sums"])
        self._loss_sum.fill_(sums.loss)
        self._mean_loss = sums.loss / max(sums.num_samples, 1)
        history = tuple(EpochResult(**item) for item in state["history"])
        self._place = _Place(loader=place, sums=sums, history=history)
        self._saved_steps = self._stepper.num_steps


def _do_nothing() -> None:
    """Stand in for a profiler's step."""
