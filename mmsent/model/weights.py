"""The weights of a network as a whole: what they are told apart by, and how they are split."""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shards.schema import MODALITIES, Modality

__all__ = ["drawn_apart", "load_part", "weights_sha256"]


@contextmanager
def drawn_apart(name: Modality) -> Iterator[None]:
    """Draw the random weights of a backbone without moving on the numbers that all else is drawn from.

    So a model of encoded shards starts from the very heads that it would have on raw ones.
    """
    seed = (torch.initial_seed() + 1 + MODALITIES.index(name)) % 2**63
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def weights_sha256(module: nn.Module) -> str:
    """Return the SHA-256, as hex, of names, dtypes, shapes and bytes of a state dict, whatever device it is on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}\n".encode())
        # Seen as bytes, since NumPy has no bfloat16; `reshape`, since a single value cannot be seen otherwise.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_part(module: nn.Module, state: Mapping[str, Tensor], *, names: Collection[str]) -> None:
    """Fill some tensors of a module, neither more nor fewer.

    Args:
        module: Whose `state_dict` has `names`.
        state: The values.
        names: Which they must be.

    Raises:
        RuntimeError: if a tensor is missing, unknown or of another shape, as of `load_state_dict`.
    """
    missing, unknown = sorted(set(names) - set(state)), sorted(set(state) - set(names))
    if missing or unknown:
        raise RuntimeError(f"missing tensors: {missing}, unknown tensors: {unknown}")
    module.load_state_dict(state, strict=False)
