"""What of a dialogue goes into the tokens of an utterance: its own line and those before it, each with its speaker.

`Speaker: text` is EmoBERTa's (https://arxiv.org/abs/2108.12009) and needs no tokens of its own for speakers. EmoBERTa
joins the earlier lines by spaces; here special tokens stand between any two, so that each is the same wherever it is.
"""

from collections.abc import Sequence
from dataclasses import replace

from preprocess.datasets.annotations import Utterance
from preprocess.text.tokenizer import TextTokenizer, Tokens
from shards.spec import TextSpec

__all__ = ["spoken", "tokenize", "with_context"]


def with_context(utterances: Sequence[Utterance], *, context_utterances: int) -> tuple[Utterance, ...]:
    """Give each row of a split the lines of the utterances before it in its dialogue.

    Args:
        utterances: All rows of the split, in any order.
        context_utterances: How many utterances back. One whose transcript is empty counts and has no line.

    Returns:
        The rows, in the same order. A dialogue goes by its turns, and by the order of the rows where two have the same.
    """
    if not context_utterances:
        return tuple(utterances)
    dialogues: dict[str, list[Utterance]] = {}
    for row in sorted(utterances, key=lambda row: row.turn_index):
        dialogues.setdefault(row.dialogue_id, []).append(row)
    contexts = {
        row.key: tuple(
            earlier.line for earlier in rows[max(0, place - context_utterances) : place] if earlier.text.strip()
        )
        for rows in dialogues.values()
        for place, row in enumerate(rows)
    }
    return tuple(replace(row, context=contexts[row.key]) for row in utterances)


def spoken(row: Utterance, *, context_utterances: int) -> str:
    """Return what a row's own tokens are of: its text, and with context its line."""
    return row.line if context_utterances else row.text


def tokenize(row: Utterance, tokenizer: TextTokenizer, spec: TextSpec) -> Tokens:
    """Tokenize a row from `with_context`, as a spec says."""
    text = spoken(row, context_utterances=spec.context_utterances)
    return tokenizer.encode(text, before=row.context, max_tokens=spec.max_tokens)
