"""Which earlier utterances of its dialogue a sample comes with. Pure: rows of the samples table in, places out.

Shape letters: N samples of a split, B samples asked for, K utterances, R rows of a batch.
"""

import numpy as np
from numpy.typing import NDArray

from shards.errors import ShardError, describe

__all__ = ["check_dialogues", "rows_of_turns"]


def rows_of_turns(
    asked: NDArray[np.int64], *, dialogues: NDArray[np.uint64], num_turns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the last utterances of the dialogue of each sample.

    An utterance belongs to the dialogue of the sample right after it in the split if both have its number, which is not
    0. Samples 3 and 2, of a dialogue that began with sample 1, and 2 turns: rows `[3, 2, 1]`, window
    `[[1, 0], [2, 1]]`.

    Args:
        asked: `(B,)` places in the split; one may come twice.
        dialogues: `(N,)` of all samples of the split, as the samples table has them.
        num_turns: K, the sample itself included.

    Returns:
        `(R,)` places in the split, those asked for and then each earlier utterance that is not among them, ascending;
        and `(B, K)` rows of these, oldest first, the sample itself last, -1 where the dialogue began later.
    """
    rows = np.arange(len(asked))
    if num_turns == 1:
        return asked, rows[:, None]
    earlier = asked[:, None] - np.arange(num_turns - 1, 0, -1)  # (B, K - 1), the nearest one last
    numbers = dialogues[asked][:, None]
    same = (earlier >= 0) & (dialogues[np.maximum(earlier, 0)] == numbers) & (numbers != 0)
    there = np.logical_and.accumulate(same[:, ::-1], axis=1)[:, ::-1]  # as far back as there is no gap
    known, first = np.unique(asked, return_index=True)
    added = np.setdiff1d(earlier[there], known)
    samples = np.concatenate([known, added])
    row_of = np.concatenate([first, len(asked) + np.arange(len(added))])
    by_sample = np.argsort(samples)
    found = np.searchsorted(samples, earlier[there], sorter=by_sample)
    window = np.full((len(asked), num_turns), -1, dtype=np.int64)
    window[:, -1] = rows
    window[:, :-1][there] = row_of[by_sample[found]]
    return np.concatenate([asked, added]), window


def check_dialogues(dialogues: NDArray[np.uint64], *, where: str) -> None:
    """Check that a split says which samples are a dialogue, and has the samples of each one after the other.

    Args:
        dialogues: `(N,)` of all samples of the split, as the samples table has them.
        where: Path or URL of the split, for the message.

    Raises:
        ShardError: if no sample has a dialogue, or one comes in several pieces.
    """
    known = dialogues[dialogues != 0]
    if not len(known):
        what = "the samples of the split do not say which dialogue they are of"
        raise ShardError(describe(what, file=where, then="train without dialogues: `--set model.dialogue_turns=1`"))
    starts = np.flatnonzero((dialogues[1:] != dialogues[:-1]) & (dialogues[1:] != 0)) + 1
    num_pieces = len(starts) + int(dialogues[0] != 0)
    num_dialogues = len(np.unique(known))
    if num_pieces != num_dialogues:
        what = f"{num_dialogues} dialogues of the split lie in {num_pieces} pieces: their order cannot be told"
        then = (
            "sort the annotations by dialogue and turn and make the shards again, "
            "or train with `--set model.dialogue_turns=1`"
        )
        raise ShardError(describe(what, file=where, then=then))
