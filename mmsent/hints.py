"""What a run could save, from what it measures of itself."""

import shlex
import time

import torch

from mmsent.batch import Batch
from mmsent.config import ModelConfig
from mmsent.model import MultimodalModel
from mmsent.precision import ResolvedPrecision, autocast

__all__ = ["FrozenClock"]

_AT_STEP = 3
"""Of this process: by then memory is allocated and kernels are chosen."""

_WORTH = 0.2
"""Of a step: from here on the frozen encoders are worth a word."""


class FrozenClock:
    """How long the frozen encoders of a model take, which `mmsent encode` would spare every epoch."""

    def __init__(self, model: MultimodalModel, device: torch.device, precision: ResolvedPrecision) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._num_steps = 0
        self._seconds = 0.0
        self._num_samples = self._num_rows = 1

    def look(self, batch: Batch) -> None:
        """Time the frozen encoders on the batch of one of the first steps; at other steps nothing is done."""
        self._num_steps += 1
        if self._num_steps < _AT_STEP or self._seconds or not len(batch) or not self._model.frozen_modalities:
            return
        self._wait()
        start = time.perf_counter()
        for name in self._model.frozen_modalities:
            with torch.inference_mode(), autocast(self._precision, self._device):
                self._model.encode(name, batch)
        self._wait()
        self._seconds = time.perf_counter() - start
        self._num_samples, self._num_rows = len(batch), batch.num_rows

    def hint(self, *, epoch_seconds: float, epoch_samples: int, world_size: int, all_samples: int, shards: str) -> str:
        """Say what encoding would save; empty if not much, or if it was not timed.

        Args:
            epoch_seconds: Of the steps of an epoch.
            epoch_samples: In it, over all ranks.
            world_size: Ranks that share them.
            all_samples: To be encoded, of all splits that training reads.
            shards: Where they are.
        """
        if not self._seconds:
            return ""
        frozen = min(self._seconds / self._num_samples * epoch_samples / world_size, epoch_seconds)
        share = frozen / max(epoch_seconds, 1e-9)
        if share < _WORTH:
            return ""
        names = " and ".join(self._model.frozen_modalities)
        once = _duration(self._seconds / self._num_rows * all_samples)
        before, after = _duration(epoch_seconds), _duration(epoch_seconds - frozen)
        command = f"mmsent encode --shards {shlex.quote(shards)} --out DIR{self._options()}"
        return (
            f"frozen encoders ({names}) take {share:.0%} of each step: `{command}` computes their outputs once, "
            f"in about {once}, after which an epoch takes about {after} in place of {before}"
        )

    def _options(self) -> str:
        """Return the options that name the model's encoders, as far as they are no defaults."""
        config, default = self._model.config, ModelConfig()
        fields = ("text_encoder", "text_pooling", "video_encoder", "video_weights")
        asked = {name: getattr(config, name) for name in fields if getattr(config, name) != getattr(default, name)}
        options = [f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in asked.items()]
        if self._model.frozen_modalities != ("video", "text"):
            options.append(f"--modalities {','.join(self._model.frozen_modalities)}")
        return "".join(f" {option}" for option in options)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _duration(seconds: float) -> str:
    """Write a duration as people say it: `0.8 s`, `45 s`, `12 min`, `3.4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
