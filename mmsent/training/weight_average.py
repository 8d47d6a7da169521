"""A moving average of the weights, which scores steadier than the weights of any one step."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mmsent.model.multimodal import MultimodalModel

__all__ = ["AveragedModel"]


class AveragedModel:
    """The exponential moving average of a model in training (https://arxiv.org/abs/1803.05407, section 3.2).

    Attributes:
        model: A model with the averaged weights; what training never changes it shares with the one in training.
    """

    def __init__(self, model: MultimodalModel, *, decay: float) -> None:
        """Begin with the weights of now.

        Args:
            model: On its device.
            decay: Per step; at first a smaller one, or the random weights of the beginning would stay in it for long.
        """
        shared: dict[int, Any] = {id(item): item for item in model.parameters() if not item.requires_grad}
        self.model = copy.deepcopy(model, shared)
        self.model.requires_grad_(False)
        self.model.eval()
        self._decay = decay
        averages, values = self.model.trained_state(), model.trained_state()
        self._averages: list[Tensor] = [item for item in averages.values() if item.is_floating_point()]
        self._values: list[Tensor] = [values[name] for name, item in averages.items() if item.is_floating_point()]
        self._counts = [(item, values[name]) for name, item in averages.items() if not item.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step with this number, from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(decay)(self._averages, self._values, None)  # type: ignore[no-untyped-call]
        for average, value in self._counts:
            average.copy_(value)
