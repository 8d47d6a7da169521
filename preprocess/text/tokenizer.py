"""Transcript -> token ids. The one door to tokenizers.

Shape letters: L tokens.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.errors import TokenizerError
from shards.errors import describe
from shards.files import publish
from shards.schema import SCRATCH
from shards.spec import TextSpec

__all__ = ["TextTokenizer", "Tokens", "learn_tokenizer", "load_saved_tokenizer", "load_tokenizer"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tokens:
    """The tokens of one text.

    Attributes:
        ids: `(L,)` int32, padding after the real tokens.
        num_tokens: The real ones.
        num_needed: Those of the text without a cut and without what is said before it, special tokens included.
        num_before: How many of the texts before it are in `ids`: the last ones.
    """

    ids: NDArray[np.int32]
    num_tokens: int
    num_needed: int
    num_before: int


class TextTokenizer:
    """A Hugging Face tokenizer with what the shards must know of it."""

    def __init__(self, serialised: str, *, name: str, pad_token: str) -> None:
        """Build from the content of a `tokenizer.json`.

        Raises:
            TokenizerError: if it has no such padding token.
        """
        from tokenizers import Tokenizer

        self.name = name
        self._tokenizer = Tokenizer.from_str(serialised)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        pad_id = self._tokenizer.token_to_id(pad_token)
        if pad_id is None:
            raise TokenizerError(
                describe(f"tokenizer {name} has no padding token {pad_token!r}", then="choose another")
            )
        self.pad_id: int = pad_id
        self._serialised = self._tokenizer.to_str(pretty=True)

    @property
    def sha256(self) -> str:
        """Digest of all that decides token ids."""
        return hashlib.sha256(self._serialised.encode()).hexdigest()

    def spec(self, *, max_tokens: int, context_utterances: int) -> TextSpec:
        """Return how tokens are made with this tokenizer.

        Raises:
            TokenizerError: if there is to be context, and no special token to tell utterances apart by.
        """
        if context_utterances and not self._between:
            what = f"tokenizer {self.name} puts no special token between two texts, so that they would run together"
            raise TokenizerError(describe(what, then="choose another --text-encoder, or leave out --context"))
        return TextSpec(
            tokenizer=self.name,
            tokenizer_sha256=self.sha256,
            vocab_size=self._tokenizer.get_vocab_size(),
            pad_id=self.pad_id,
            max_tokens=max_tokens,
            normalisation="cp1252",
            context_utterances=context_utterances,
        )

    def encode(self, text: str, *, before: Sequence[str] = (), max_tokens: int) -> Tokens:
        """Tokenize one text and as many of the texts said before it as there is room for, special tokens included.

        `[CLS] oldest [SEP] … [SEP] last [SEP] text [SEP]` with BERT's tokens. Where there are too many, whole texts are
        left out, the oldest first; `text` itself is cut only if it alone is too long.

        Args:
            text: What the tokens are of.
            before: Oldest first.
            max_tokens: L.
        """
        alone = self._tokenizer.encode(text).ids
        kept = alone
        if len(alone) > max_tokens:
            self._tokenizer.enable_truncation(max_tokens)  # cuts the text and keeps the closing special token
            kept = self._tokenizer.encode(text).ids
            self._tokenizer.no_truncation()
        num_before = 0
        for earlier in reversed(before):
            pieces = [*self._tokenizer.encode(earlier, add_special_tokens=False).ids, *self._between]
            if len(kept) + len(pieces) > max_tokens:
                break
            kept = [*kept[: self._num_opening], *pieces, *kept[self._num_opening :]]
            num_before += 1
        ids = np.full(max_tokens, self.pad_id, dtype=np.int32)
        ids[: len(kept)] = kept
        return Tokens(ids=ids, num_tokens=len(kept), num_needed=len(alone), num_before=num_before)

    @cached_property
    def _num_opening(self) -> int:
        """Special tokens in front of a text, as BERT's `[CLS]`."""
        return int(self._tokenizer.encode("a").sequence_ids.index(0))

    @cached_property
    def _between(self) -> list[int]:
        """Special tokens between two texts: BERT's `[SEP]`, RoBERTa's `</s></s>`.

        Of a tokenizer that has no word on two texts, as one that was learned here, those behind a single one.
        """
        pair = self._tokenizer.encode("a", "a")
        last = len(pair.sequence_ids) - 1 - pair.sequence_ids[::-1].index(0)
        between: list[int] = pair.ids[last + 1 : pair.sequence_ids.index(1)]
        single = self._tokenizer.encode("a")
        return between or single.ids[len(single.sequence_ids) - single.sequence_ids[::-1].index(0) :]

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`, so that the shards' ids can be turned back into text without a network."""
        directory.mkdir(parents=True, exist_ok=True)
        publish(directory / "tokenizer.json", self._serialised.encode())


def load_tokenizer(name: str) -> TextTokenizer:
    """Load a tokenizer from a local folder or the Hugging Face hub (its cache first where that is set up).

    Raises:
        TokenizerError: if it cannot be had, with the remedy.
    """
    folder = Path(name)
    if folder.is_dir():
        path = folder / "tokenizer.json"
        config = folder / "tokenizer_config.json"
        if not path.is_file():
            then = (
                f"save it there with transformers: AutoTokenizer.from_pretrained(...).save_pretrained({str(folder)!r})"
            )
            raise TokenizerError(describe("the folder has no tokenizer.json", file=folder, then=then))
        name = folder.resolve().name  # the path is this machine's affair
    else:
        path, config = _download(name, "tokenizer.json"), _download(name, "tokenizer_config.json")
    pad_token = _pad_token(config)
    try:
        return TextTokenizer(path.read_text("utf-8"), name=name, pad_token=pad_token)
    except TokenizerError:
        raise
    except Exception as exc:  # the library raises bare Exceptions about a tokenizer.json
        raise _damaged(path, exc) from exc


def load_saved_tokenizer(directory: Path, spec: TextSpec) -> TextTokenizer:
    """Load what `TextTokenizer.save` wrote beside the shards of a spec.

    Raises:
        TokenizerError: if it is not there, cannot be read, or is not the one of the spec.
    """
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    then = "run `mmsent preprocess` as before, which writes it again"
    try:
        serialised = path.read_text("utf-8")
        # Not from the vocabulary in the file: a Unigram model has a list, and the token may stand among those added.
        pad_token = Tokenizer.from_str(serialised).id_to_token(spec.pad_id)
        tokenizer = TextTokenizer(serialised, name=spec.tokenizer, pad_token=pad_token or "")
    except Exception as exc:  # the library raises bare Exceptions about a tokenizer.json
        raise TokenizerError(describe(f"the shards' tokenizer cannot be read: {exc}", file=path, then=then)) from exc
    if tokenizer.sha256 != spec.tokenizer_sha256:
        what = "the tokenizer beside the shards is not the one they were made with"
        raise TokenizerError(describe(what, file=path, then=then))
    return tokenizer


def learn_tokenizer(texts: Iterable[str], *, vocab_size: int = 4000) -> TextTokenizer:
    """Learn a lower-case WordPiece tokenizer, the same from the same texts on every run.

    Args:
        texts: Transcripts of the training split alone: dev and test must not shape what the model reads.
        vocab_size: The most there may be; small data gives fewer.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    texts = list(texts)
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    letters = sorted(
        {
            letter
            for text in texts
            for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
            for letter in word
        }
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizer
    learner.pre_tokenizer = splitter
    # The trainer numbers single letters in the order of a hash map that is seeded anew in every process, and breaks
    # ties between merges by those numbers. Naming the letters beforehand, as "special" tokens, fixes both.
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*special, *letters, *(f"##{letter}" for letter in letters)],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return TextTokenizer(tokenizer.to_str(), name=SCRATCH, pad_token="[PAD]")


def _download(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file))
    except (OSError, ValueError) as exc:  # no network, no such model, no such name: all are one of these
        if isinstance(exc, EntryNotFoundError) and not isinstance(exc, LocalEntryNotFoundError):
            then = "choose an encoder with a fast tokenizer, or save one in a local folder and give its path"
            raise TokenizerError(describe(f"{name} on the Hugging Face hub has no {file}", then=then)) from exc
        what = f"the tokenizer of {name!r} is neither a folder here nor to be had from the Hugging Face hub"
        then = (
            f"with a network, run `hf download {name}` once; or give a local folder with a tokenizer.json; "
            f"or learn one from the training texts with `--text-encoder {SCRATCH}`"
        )
        reason = str(exc).strip().splitlines() or [type(exc).__name__]
        raise TokenizerError(describe(f"{what} ({reason[0]})", then=then)) from exc


def _pad_token(config: Path) -> str:
    """Return the padding token that a `tokenizer_config.json` names; `[PAD]`, BERT's, where none is named."""
    if not config.is_file():
        return "[PAD]"
    try:
        named = json.loads(config.read_text("utf-8"))
    except ValueError as exc:
        raise _damaged(config, exc) from exc
    if not isinstance(named, dict):
        raise _damaged(config, "it holds no JSON object")
    value = named.get("pad_token")
    if isinstance(value, dict):
        value = value.get("content")
    return "[PAD]" if value is None else str(value)


def _damaged(path: Path, why: object) -> TokenizerError:
    what = f"{path.name} cannot be read: {why}"
    return TokenizerError(describe(what, file=path, then="save or download the tokenizer again"))
