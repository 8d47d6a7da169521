"""A run in progress: epochs of steps, validation, and saves that lose nothing, whatever ends it.

Shape letters: B batch.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from mmsent.batches.augment import augment
from mmsent.batches.batch import Batch
from mmsent.batches.device_feed import DeviceFeed
from mmsent.batches.training_order import training_order
from mmsent.compute.distributed import ALONE, Agreement, World
from mmsent.compute.memory import training_memory_named
from mmsent.compute.precision import autocast, choose_device, resolve_precision
from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import PeerError
from mmsent.evaluation.predict import predict, score
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.checkpoint import Checkpoint, restore_model
from mmsent.runs.folder import PROFILE, TENSORBOARD
from mmsent.runs.history import EpochResult, StepInfo, TrainResult, is_best, is_finished, stopped_early, write_board
from mmsent.training.assemble import new_loader, new_model, new_stepper
from mmsent.training.interrupt import SignalWatch
from mmsent.training.profiling import profiled
from mmsent.training.run_state import RunState
from shards.errors import ExpectedError
from shards.order.orders import InOrder
from shards.reading.split import Split

__all__ = ["Trainer"]

_LOOK_STEPS = 16
"""Steps on a GPU between two looks at the loss: each makes the CPU wait until the GPU has come so far."""


class _StopAsked(Exception):  # noqa: N818 - no error: it unwinds to where the run ends
    """The run is to end here, everything being saved."""


class Trainer:
    """A run in progress, from its first step or from a checkpoint to its end."""

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
        self._split = train_split
        self._train_counts = train_split.label_counts()
        order = training_order(train_split, train_config)
        loader = new_loader(train_split, order, model.config, train_config, self.device, world)
        self._feed = DeviceFeed(loader, self.device)
        self._dev_loader = new_loader(
            dev_split, InOrder(len(dev_split)), model.config, train_config, self.device, world
        )
        self._stepper = new_stepper(
            model,
            train_split,
            train_config,
            self.device,
            self.precision,
            steps_per_epoch=len(loader),
            world=world,
        )
        self._state = RunState(
            run,
            self._stepper,
            loader=self._feed.state(),
            train_split=train_split,
            dev_split=dev_split,
            config=train_config,
            device=self.device,
            precision=self.precision,
            world=world,
        )
        self._agreement = Agreement(world)
        self._mean_loss = 0.0  # of the epoch, at the last look
        self._signum = 0

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
        trainer._state.restore(last)
        trainer._feed.seek(trainer._state.loader)
        trainer._mean_loss = trainer._state.mean_loss()
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

        state, is_first = self._state, self.world.is_first
        with ExitStack() as stack:
            save = state.save_for_signal if is_first else None
            self._watch = stack.enter_context(SignalWatch(save=save, on_exit=on_exit, echoed=self.world.launched))
            stack.callback(self.__dict__.pop, "_watch")  # it holds the trainer, with all of its memory
            board = (
                stack.enter_context(SummaryWriter(self._run / TENSORBOARD, purge_step=len(state.history)))
                if is_first
                else None
            )
            after_step = stack.enter_context(profiled(self._run / PROFILE)) if profile and is_first else _do_nothing
            state.publish_history()  # a kill may have come between the last checkpoint and it
            try:
                while not is_finished(state.history, self.config):
                    with training_memory_named(self.config, self.precision):
                        self._train_epoch(on_step, after_step)
                        result = self._finish_epoch()
                    if board is not None:
                        write_board(board, result)
                    on_epoch(result)
                # One that came after the last step: other runs are not to begin.
                self._signum = self._agreement.settle(self._watch.signum)
            except _StopAsked:
                state.save_for_signal()  # a signal to another rank alone has saved nothing yet
            except ExpectedError as exc:
                # A damaged shard, a rank that died: no step that was made is lost. But on a GPU the weights lie behind
                # an exchange of gradients that will never end.
                lost = isinstance(exc, PeerError) and self.device.type == "cuda"
                if self._stepper.num_steps and not lost:
                    state.save_for_signal()
                raise
        return TrainResult(
            epochs=state.history,
            best_epoch=max((result.epoch for result in state.history if result.best), default=None),
            stopped_early=stopped_early(state.history, self.config),
            signum=self._signum,
            num_steps=self._stepper.num_steps,
            device=self.device.type,
            precision=self.precision,
            world_size=self.world.size,
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
            self._state.add_time(wait_seconds=self._feed.wait_seconds - waited)
            waited = self._feed.wait_seconds
            if batch is None:
                break
            self._step(batch)
            after_step()
            step = -(-self._state.loader.position // self.config.batch_size)
            # On a GPU only now and then, so that nobody waits for it.
            if self.device.type == "cpu" or step % _LOOK_STEPS == 0 or step == num_steps:
                self._mean_loss = self._state.mean_loss()
            now = time.perf_counter()
            self._state.add_time(seconds=now - clock)
            clock = now
            on_step(self._info(step=step, num_steps=num_steps))
            if step % self.config.checkpoint_steps == 0 and step < num_steps:
                self._state.save()

    def _step(self, batch: Batch) -> None:
        """Make one step, after which the state is the next one."""
        before, after = self._state.loader, self._feed.state()
        global_size = after.position - before.position
        batch = augment(batch, self.config, epoch=before.epoch, modalities=self.model.config.modalities)
        loss = self.world.all_reduce(self._stepper.forward_backward(batch, global_size=global_size))
        if self.device.type == "cpu":  # where looking costs nothing, before the weights are spoilt
            self._state.check_finite(float(loss), culprits=lambda: self._culprits(batch))
        if self.world.size == 1 and self._watch.signum:
            self._watch.wait_until_saved()  # what is saved is the step before: this one is made again
            self._signum = self._watch.signum
            raise _StopAsked
        self._state.make_step(loss, num_samples=global_size, loader=after)

    def _culprits(self, batch: Batch) -> str:
        """Say which samples of a batch have no finite outputs, with the statistics of batches before it."""
        self.model.eval()
        with torch.inference_mode(), autocast(self.precision, self.device):
            outputs = self.model(batch).values()
        bad = torch.stack([~logits.isfinite().all(dim=1) for logits in outputs]).any(dim=0).cpu()
        if not bad.any():
            return ""
        if bad.all():
            return " on every sample of the batch: its weights are no numbers any more"
        keys = [self._split.meta(int(number)).key for number in batch.samples[: len(batch)][bad]]
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        return f" first on {', '.join(keys[:3])}{more}, of {len(batch)} samples of the batch"

    def _info(self, *, step: int, num_steps: int) -> StepInfo:
        return StepInfo(
            epoch=len(self._state.history),
            step=step,
            num_steps=num_steps,
            loss=self._mean_loss,
            samples_per_second=self._state.sums.samples_per_second,
            wait_share=self._state.sums.wait_share,
        )

    def _finish_epoch(self) -> EpochResult:
        """Validate, keep the weights if they are the best so far, and save where the next epoch begins."""
        self._stepper.broadcast_buffers()
        predictions = predict(
            self._stepper.evaluated_model,
            self._dev_loader,
            device=self.device,
            precision=self.precision,
            world=self.world,
            before_batch=self._end_if_asked,
        )
        scores = score(predictions, self._dev_loader, train_counts=self._train_counts)
        train_loss = self._state.mean_loss()
        self._state.check_finite(predictions.loss, name="the validation loss")
        sums, history = self._state.sums, self._state.history
        result = EpochResult(
            epoch=len(history),
            train_loss=train_loss,
            dev_loss=predictions.loss,
            dev_accuracy={task: item.accuracy for task, item in scores.items()},
            dev_weighted_f1={task: item.weighted_f1 for task, item in scores.items()},
            learning_rate=self._stepper.learning_rate,
            seconds=sums.seconds,
            samples_per_second=sums.samples_per_second,
            wait_share=sums.wait_share,
            best=False,
        )
        result = replace(result, best=is_best(result, history, selection=self.config.selection))
        self._state.end_epoch(result, loader=self._feed.state())
        self._mean_loss = 0.0
        return result

    def _end_if_asked(self) -> None:
        self._signum = self._agreement.say(self._watch.signum)
        if self._signum:
            raise _StopAsked


def _do_nothing() -> None:
    """Stand in for a profiler's step."""
