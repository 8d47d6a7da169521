"""A batch in memory.

Shape letters: B batch, R rows, K utterances, T frames, H height, W width (of features: how many), M mel bins, S hops,
L tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.format.codec import RAW_DTYPES, ArrayMember
from shards.schema import RAW_ARRAYS, Modality

__all__ = ["Allocate", "HostBatch", "batch_arrays"]

Allocate = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]
"""Makes the memory of a batch, for example page-locked for a GPU. Called once per array and ring slot."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostBatch:
    """One rank's share of one global batch, in memory that is used again.

    The arrays are valid until the next batch is asked for: copy what must live longer.

    Of its R rows the first B are the samples of the batch. The others, if it brings dialogues, are earlier utterances
    that are not among these, each once, in the order of the split.

    Attributes:
        frames: `(R, T, H, W, 3)` uint8; `(0,)` if video is encoded or not asked for, likewise the next two.
        logmel: `(R, M, S)` float16.
        tokens: `(R, L)` int32.
        features: `(R, W)` float32 of each encoded modality that was asked for.
        num_frames: `(R,)` int64, real frames; likewise `num_hops` and `num_tokens`.
        present: `(R, 3)` bool, in the order of `shards.schema.MODALITIES`; False for what was not asked for.
        labels: `(B,)` int64 by task.
        samples: `(R,)` int64, place of each row in the split.
        window: `(B, K)` int64, rows of the last K utterances of each sample's dialogue, oldest first, itself last; -1
            where the dialogue began later. Without dialogues K is 1.
        global_size: Samples of the global batch, over all ranks. B may be 0 on a ragged tail; this is not.
    """

    frames: NDArray[np.uint8]
    logmel: NDArray[np.float16]
    tokens: NDArray[np.int32]
    features: Mapping[Modality, NDArray[np.float32]]
    num_frames: NDArray[np.int64]
    num_hops: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    present: NDArray[np.bool_]
    labels: Mapping[str, NDArray[np.int64]]
    samples: NDArray[np.int64]
    window: NDArray[np.int64]
    global_size: int

    def __len__(self) -> int:
        return len(self.window)


def batch_arrays(arrays: Mapping[Modality, NDArray[Any]], members: Mapping[Modality, ArrayMember]) -> dict[str, Any]:
    """Return the fields `frames`, `logmel`, `tokens` and `features` of a `HostBatch` from arrays by modality."""
    raw = {RAW_ARRAYS[name]: np.empty(0, dtype) for name, dtype in RAW_DTYPES.items()}
    features = {}
    for name, array in arrays.items():
        if members[name].is_raw:
            raw[RAW_ARRAYS[name]] = array
        else:
            features[name] = array
    return {**raw, "features": features}
