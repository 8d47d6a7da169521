"""The trainer without a run around it, for benchmarks."""

import copy
import time
from dataclasses import replace

import torch

from mmsent.batches.batch import Batch
from mmsent.batches.device_feed import DeviceFeed
from mmsent.compute.memory import training_memory_named
from mmsent.compute.precision import choose_device, resolve_precision
from mmsent.config import ModelConfig, TrainConfig
from mmsent.training.assemble import new_loader, new_model, new_stepper
from mmsent.training.step import Stepper
from shards.errors import ExpectedError, ShardError, describe
from shards.order.orders import Shuffled
from shards.reading.split import Split

__all__ = ["TrainBench"]


class TrainBench:
    """A model in training, without a run around it: steps on one batch again and again, and on the loader's batches.

    Attributes:
        device: Where it computes.
        feed: The loader's batches on the device.
        num_steps: Steps of a run, known once it is prepared.
    """

    def __init__(self, split: Split, *, model_config: ModelConfig, train_config: TrainConfig, seconds: float) -> None:
        self._split = split
        self._model_config = model_config
        self._train_config = train_config
        self._seconds = seconds
        self._stepper: Stepper | None = None
        self._batch: Batch | None = None
        self._failure: ExpectedError | None = None
        self.num_steps = 1
        self.device = choose_device()
        self._loader = new_loader(split, Shuffled(len(split), 0), model_config, train_config, self.device)
        self.feed = DeviceFeed(self._loader, self.device)

    def prepare(self) -> None:
        """Build the model and see how long a step takes, once; a failure is raised again, not tried again."""
        if self._failure is not None:
            raise self._failure
        if self._stepper is None:
            config = self._train_config
            try:
                with training_memory_named(config, resolve_precision(config.precision, self.device)):
                    self._stepper = self._new_stepper()
            except ExpectedError as exc:  # perhaps after minutes of attempts at a download
                self._failure = exc
                raise

    def _new_stepper(self) -> Stepper:
        precision = resolve_precision(self._train_config.precision, self.device)
        model = new_model(self._split, self._model_config, self._train_config)
        model.place(self.device, precision, deterministic=self._train_config.deterministic)
        stepper = new_stepper(
            model, self._split, self._train_config, self.device, precision, steps_per_epoch=len(self._loader)
        )
        model.train()
        batch = self._batch = self._first_batch()
        for _ in range(3):  # the first steps allocate, tune and compile; one that takes long as it is says enough
            start = time.perf_counter()
            _step(stepper, batch)
            self.wait()
            seconds = time.perf_counter() - start
            if seconds > self._seconds:
                break
        self.num_steps = max(1, min(200, int(self._seconds / seconds)))
        return stepper

    @property
    def batch(self) -> Batch:
        """The batch that is trained on again and again."""
        assert self._batch is not None
        return self._batch

    def run_headroom(self) -> int:
        """Train on one batch again and again."""
        for _ in range(self.num_steps):
            self.step(self.batch)
        self.wait()
        return self.num_steps * len(self.batch)

    def run_fed(self) -> int:
        """Train on the loader's batches, going on where the last time ended."""
        num_samples = num_steps = 0
        while num_steps < self.num_steps:
            for batch in self.feed:
                self.step(batch)
                num_samples += len(batch)
                num_steps += 1
                if num_steps == self.num_steps:
                    break
        self.wait()
        return num_samples

    def step(self, batch: Batch) -> None:
        """Make one step."""
        assert self._stepper is not None
        _step(self._stepper, batch)

    def wait(self) -> None:
        """Return when the device has done what it was given: on a GPU a step only begins it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _first_batch(self) -> Batch:
        """Return a copy of an epoch's first batch, a full one: a ragged one at its end would be another step."""
        if len(self._split) < self._train_config.batch_size:
            what = f"the split has {len(self._split)} samples, less than a batch of {self._train_config.batch_size}"
            then = f"give `--batch-size {len(self._split)}` or less, or another `--split`"
            raise ShardError(describe(what, file=self._split.source.location, then=then))
        self.feed.seek(replace(self.feed.state(), position=0))
        return copy.deepcopy(next(iter(self.feed)))  # on a CPU it is the loader's own memory


def _step(stepper: Stepper, batch: Batch) -> None:
    stepper.forward_backward(batch, global_size=len(batch))
    stepper.optimizer_step()
