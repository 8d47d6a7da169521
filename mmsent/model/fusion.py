"""How the features of the modalities become one, and how a dialogue is read.

Shape letters: R rows, B samples to be judged, K turns, D feature width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["DialogueGru", "GatedFusion"]


class GatedFusion(nn.Module):
    """Gated multimodal units (https://arxiv.org/abs/1702.01992): a weighted sum, element by element.

    `tanh(W x)` of each modality, weighted by `sigmoid(V [x1 … xn])`. As in the paper nothing has an offset within the
    tanh, so the zeros of an absent modality contribute exactly nothing.
    """

    def __init__(self, *, num_modalities: int, feature_dim: int) -> None:
        super().__init__()
        self.values = nn.ModuleList(nn.Linear(feature_dim, feature_dim, bias=False) for _ in range(num_modalities))
        self.gates = nn.Linear(num_modalities * feature_dim, num_modalities * feature_dim)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return `(R, D)` for `(R, D)` of each modality."""
        gates = torch.sigmoid(self.gates(torch.cat(list(features), dim=1))).chunk(len(features), dim=1)
        values = [torch.tanh(value(x)) for value, x in zip(self.values, features, strict=True)]
        return torch.stack([gate * value for gate, value in zip(gates, values, strict=True)]).sum(dim=0)


class DialogueGru(nn.Module):
    """A GRU over the last turns of a dialogue, whose last state is added to what is known of the utterance itself.

    It starts at the first turn that is there: a sample's result depends neither on how far the window reaches beyond
    the beginning of the dialogue nor on the other samples of the batch.
    """

    def __init__(self, *, dim: int) -> None:
        super().__init__()
        # Step by step: windows begin at different turns, and packing them would have a GPU wait for their lengths.
        self.cell = nn.GRUCell(dim, dim)

    def forward(self, fused: Tensor, window: Tensor) -> Tensor:
        """Return `(B, D)`.

        Args:
            fused: `(R, D)`.
            window: `(B, K)` int64 as of `mmsent.batches.batch.Batch`.
        """
        real = (window >= 0).unsqueeze(2)  # (B, K, 1)
        # Indexed, not `index_select`, whose gradient on a GPU is a sum in whatever order.
        turns = fused[window.clamp(min=0)].masked_fill(~real, 0)  # (B, K, D)
        state = torch.zeros_like(turns[:, 0])
        for turn in range(window.shape[1]):
            # The type is kept, since under autocast the cell computes in another one.
            state = torch.where(real[:, turn], self.cell(turns[:, turn], state).to(state.dtype), state)
        return turns[:, -1] + state
