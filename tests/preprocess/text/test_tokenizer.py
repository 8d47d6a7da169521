import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from preprocess.errors import TokenizerError
from preprocess.text.tokenizer import TextTokenizer, Tokens, learn_tokenizer, load_saved_tokenizer, load_tokenizer
from shards.schema import SCRATCH

ROOT = Path(__file__).parents[3]
TEXTS = [f"Oh my God, it’s {word}! You know, {word} and I, we were on a break." for word in "abcdefgh"] + ["Hi café."]


def pieces(
    tokenizer: TextTokenizer, directory: Path, text: str, *, before: Sequence[str] = (), max_tokens: int = 12
) -> list[str | None]:
    """Return the tokens of a text by name, padding included, as the saved tokenizer knows them."""
    tokenizer.save(directory)
    saved = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return [saved.id_to_token(int(token)) for token in tokenizer.encode(text, before=before, max_tokens=max_tokens).ids]


def lengths(tokens: Tokens) -> tuple[int, int, int]:
    """Return the length of the array, the real tokens, and those that the text needs."""
    return len(tokens.ids), tokens.num_tokens, tokens.num_needed


def write_folder(directory: Path, *, pad_token: object = "[PAD]", config: bool = True) -> Path:
    """Write a folder such as transformers saves a tokenizer in."""
    learn_tokenizer(TEXTS).save(directory)
    if config:
        (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad_token}), "utf-8")
    return directory


# A learned tokenizer.


def learn_elsewhere(hash_seed: int) -> str:
    """Learn in a process of its own; return the digest."""
    code = "import json, sys, preprocess.text.tokenizer as t; print(t.learn_tokenizer(json.load(sys.stdin)).sha256)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(TEXTS * 20),
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()


def test_learning_gives_the_same_tokenizer_in_every_process() -> None:
    digests = {learn_elsewhere(hash_seed) for hash_seed in (0, 1, 2)}
    assert digests == {learn_tokenizer(TEXTS * 20).sha256}


def test_other_texts_give_another_digest() -> None:
    assert learn_tokenizer(TEXTS).sha256 != learn_tokenizer([*TEXTS, "Pivot! Pivot!"]).sha256


def test_every_letter_of_the_training_texts_is_known(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS)
    assert "[UNK]" not in pieces(tokenizer, tmp_path, "it’s a café", max_tokens=30)
    assert "[UNK]" in pieces(tokenizer, tmp_path, "жизнь", max_tokens=30)


def test_capitals_are_not_told_apart() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    upper, lower = (tokenizer.encode(text, max_tokens=12).ids for text in ("OH MY GOD", "oh my god"))
    np.testing.assert_array_equal(upper, lower)


def test_the_vocabulary_is_as_small_as_asked_for() -> None:
    spec = learn_tokenizer(TEXTS * 20, vocab_size=120).spec(max_tokens=12, context_utterances=0)
    assert spec.vocab_size <= 120


def test_no_texts_to_speak_of_still_give_a_tokenizer() -> None:
    tokens = learn_tokenizer([""]).encode("anything", max_tokens=5)
    assert tokens.num_tokens == 3
    assert tokens.ids.shape == (5,)


# Encoding.


def test_a_short_text_is_padded_behind_its_closing_token(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS * 5)
    tokens = tokenizer.encode("Oh my God", max_tokens=12)
    assert tokens.ids.dtype == np.int32
    assert tokens.ids.shape == (12,)
    assert tokens.num_tokens == tokens.num_needed < 12
    assert pieces(tokenizer, tmp_path, "Oh my God") == [
        "[CLS]", "oh", "my", "god", "[SEP]", *["[PAD]"] * 7,
    ]  # fmt: skip
    assert (tokens.ids[tokens.num_tokens :] == tokenizer.pad_id).all()


def test_a_long_text_is_cut_and_keeps_its_closing_token(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS * 5)
    text = "oh my god " * 20
    assert lengths(tokenizer.encode(text, max_tokens=6)) == (6, 6, 62)
    assert pieces(tokenizer, tmp_path, text, max_tokens=6) == ["[CLS]", "oh", "my", "god", "oh", "[SEP]"]


def test_a_text_of_exactly_the_length_is_not_cut() -> None:
    assert lengths(learn_tokenizer(TEXTS * 5).encode("oh my god", max_tokens=5)) == (5, 5, 5)


def test_a_cut_text_leaves_no_trace_in_the_next_one() -> None:
    tokenizer = learn_tokenizer(TEXTS * 5)
    before = tokenizer.encode("oh my god, oh my god", max_tokens=12)
    tokenizer.encode("oh my god " * 20, max_tokens=4)
    after = tokenizer.encode("oh my god, oh my god", max_tokens=12)
    np.testing.assert_array_equal(before.ids, after.ids)
    assert lengths(before) == lengths(after)


def test_an_empty_text_is_two_special_tokens(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS)
    assert lengths(tokenizer.encode("", max_tokens=4)) == (4, 2, 2)
    assert pieces(tokenizer, tmp_path, "", max_tokens=4) == ["[CLS]", "[SEP]", "[PAD]", "[PAD]"]


def test_the_spec_says_what_decides_the_ids() -> None:
    tokenizer = learn_tokenizer(TEXTS)
    spec = tokenizer.spec(max_tokens=12, context_utterances=0)
    assert (spec.tokenizer, spec.max_tokens, spec.pad_id) == (SCRATCH, 12, 0)
    assert spec.tokenizer_sha256 == tokenizer.sha256
    assert len(spec.tokenizer_sha256) == 64


# Texts said before.


def test_texts_said_before_stand_in_front_with_a_special_token_between_any_two(tmp_path: Path) -> None:
    tokenizer = learn_tokenizer(TEXTS * 5)
    assert pieces(tokenizer, tmp_path, "oh my god", before=["it", "you know"]) == [
        "[CLS]", "it", "[SEP]", "you", "know", "[SEP]", "oh", "my", "god", "[SEP]", "[PAD]", "[PAD]",
    ]  # fmt: skip
    tokens = tokenizer.encode("oh my god", before=["it", "you know"], max_tokens=12)
    assert (*lengths(tokens), tokens.num_before) == (12, 10, 5, 2)


@pytest.mark.parametrize(
    ("max_tokens", "expected"),
    [
        (10, "[CLS] it [SEP] you know [SEP] oh my god [SEP]"),
        (9, "[CLS] you know [SEP] oh my god [SEP] [PAD]"),
        (8, "[CLS] you know [SEP] oh my god [SEP]"),
        (7, "[CLS] oh my god [SEP] [PAD] [PAD]"),
        (5, "[CLS] oh my god [SEP]"),
        (4, "[CLS] oh my [SEP]"),
    ],
)
def test_without_room_the_oldest_are_left_out_whole_and_the_text_itself_is_cut_last(
    tmp_path: Path, max_tokens: int, expected: str
) -> None:
    tokenizer, before = learn_tokenizer(TEXTS * 5), ["it", "you know"]
    assert pieces(tokenizer, tmp_path, "oh my god", before=before, max_tokens=max_tokens) == expected.split()
    tokens = tokenizer.encode("oh my god", before=before, max_tokens=max_tokens)
    assert tokens.num_before == expected.count("[SEP]") - 1
    assert tokens.num_needed == 5


def test_a_short_older_text_does_not_take_the_place_of_a_long_later_one() -> None:
    tokenizer = learn_tokenizer(TEXTS * 5)
    tokens = tokenizer.encode("oh", before=["it", "you know you know"], max_tokens=6)
    assert (tokens.num_before, tokens.num_tokens) == (0, 3)


def write_roberta(directory: Path, post_processor: processors.PostProcessor | None) -> Path:
    """Write a folder with a tokenizer of whole words."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "one", "two", "three"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}', "utf-8")
    return directory


ROBERTA = "<s> one </s> </s> two </s> </s> three </s>"
PROCESSORS = {
    "roberta": (processors.RobertaProcessing(("</s>", 2), ("<s>", 0)), ROBERTA),
    "bert": (processors.BertProcessing(("</s>", 2), ("<s>", 0)), "<s> one </s> two </s> three </s>"),
    "a template in a sequence": (
        processors.Sequence(
            [
                processors.ByteLevel(),
                processors.TemplateProcessing(
                    single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
                ),
            ]
        ),
        ROBERTA,
    ),
    "t5": (
        processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]),
        "one </s> two </s> three </s>",
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_special_tokens_are_those_that_the_tokenizer_itself_puts_between_two_texts(
    tmp_path: Path, kind: str
) -> None:
    post_processor, expected = PROCESSORS[kind]
    tokenizer = load_tokenizer(str(write_roberta(tmp_path / "encoder", post_processor)))
    found = pieces(tokenizer, tmp_path / "saved", "three", before=["one", "two"], max_tokens=len(expected.split()))
    assert found == expected.split()
    library = Tokenizer.from_file(str(tmp_path / "encoder" / "tokenizer.json"))
    pair = tokenizer.encode("three", before=["two"], max_tokens=20)
    assert pair.ids[: pair.num_tokens].tolist() == library.encode("two", "three").ids


def test_a_tokenizer_without_special_tokens_is_refused_for_context_alone(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(write_roberta(tmp_path / "encoder", None)))
    assert tokenizer.spec(max_tokens=9, context_utterances=0).context_utterances == 0
    with pytest.raises(TokenizerError, match="tokenizer encoder puts no special token between two texts") as caught:
        tokenizer.spec(max_tokens=9, context_utterances=1)
    assert_remedy(str(caught.value))


# A tokenizer from elsewhere.


def test_a_saved_tokenizer_loads_and_gives_the_same_ids(tmp_path: Path) -> None:
    first = learn_tokenizer(TEXTS)
    folder = write_folder(tmp_path / "encoder")
    second = load_tokenizer(str(folder))
    np.testing.assert_array_equal(
        second.encode("it’s a break", max_tokens=12).ids, first.encode("it’s a break", max_tokens=12).ids
    )
    assert second.sha256 == first.sha256
    assert second.name == "encoder"


def test_padding_and_cutting_saved_with_a_tokenizer_do_not_count(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_padding(length=50)
    saved.enable_truncation(3)
    saved.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(str(folder)).encode("oh my god", max_tokens=8).num_tokens > 3
    assert load_tokenizer(str(folder)).sha256 == learn_tokenizer(TEXTS).sha256


@pytest.mark.parametrize("pad_token", ["[MASK]", {"content": "[MASK]", "lstrip": False}])
def test_the_padding_token_is_the_one_that_the_folder_names(tmp_path: Path, pad_token: object) -> None:
    tokenizer = load_tokenizer(str(write_folder(tmp_path, pad_token=pad_token)))
    assert tokenizer.encode("", max_tokens=4).ids[-1] == tokenizer.pad_id == 4


def test_without_a_word_on_padding_it_is_berts(tmp_path: Path) -> None:
    assert load_tokenizer(str(write_folder(tmp_path, config=False))).pad_id == 0


def test_a_padding_token_of_null_is_none_and_not_the_word_none(tmp_path: Path) -> None:
    """GPT-2's folder says `"pad_token": null`, and its vocabulary has the word `None`."""
    folder = write_folder(tmp_path, pad_token=None)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.add_tokens(["None"])
    saved.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(str(folder)).pad_id == 0


def assert_remedy(message: str) -> None:
    assert "\n  next: " in message
    assert "Traceback" not in message


def test_an_unknown_padding_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"has no padding token '<pad>'") as caught:
        load_tokenizer(str(write_folder(tmp_path, pad_token="<pad>")))
    assert_remedy(str(caught.value))


def test_a_folder_without_a_tokenizer_is_refused_with_how_to_save_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\.json") as caught:
        load_tokenizer(str(tmp_path))
    assert "save_pretrained" in str(caught.value)
    assert f"file: {tmp_path}" in str(caught.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1}x', b"\xff\xfe"])
def test_a_damaged_tokenizer_file_is_refused_by_its_name(tmp_path: Path, file: str, content: bytes) -> None:
    folder = write_folder(tmp_path)
    (folder / file).write_bytes(content)
    with pytest.raises(TokenizerError, match=file.replace(".", r"\.")) as caught:
        load_tokenizer(str(folder))
    assert_remedy(str(caught.value))


@pytest.mark.parametrize("name", ["bert-base-uncased", "nobody/nothing", "no such name at all!"])
def test_without_a_network_a_name_is_refused_with_every_way_out(tmp_path: Path, name: str) -> None:
    code = f"""
import sys
from preprocess.errors import TokenizerError
from preprocess.text.tokenizer import load_tokenizer
try:
    load_tokenizer({name!r})
except TokenizerError as exc:
    sys.stdout.write(str(exc))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"the tokenizer of {name!r} is neither a folder here nor to be had from the Hugging Face hub" in done.stdout
    assert f"hf download {name}" in done.stdout
    assert "--text-encoder scratch" in done.stdout


def write_unigram(directory: Path, *, added: bool) -> Path:
    """Write a folder of a Unigram tokenizer as XLM-R's or T5's, its special tokens in the vocabulary or beside it."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = [(f"{mark}{letter}", -3.0) for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "\u2581")]
    vocabulary = [*((token, 0.0) for token in special), *letters] if not added else [("<unk>", 0.0), *letters]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0 if added else 3))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=ids
    )
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}), "utf-8")
    return directory


@pytest.mark.parametrize("added", [False, True])
def test_a_unigram_tokenizer_is_found_again_beside_the_shards(tmp_path: Path, added: bool) -> None:
    tokenizer = load_tokenizer(str(write_unigram(tmp_path / "xlmr", added=added)))
    spec = tokenizer.spec(max_tokens=16, context_utterances=1)
    tokenizer.save(tmp_path / "shards")
    again = load_saved_tokenizer(tmp_path / "shards", spec)
    before = ("so it goes",)
    for found, expected in zip(
        (again.encode(text, before=before, max_tokens=16) for text in ("hello you", "", "a" * 40)),
        (tokenizer.encode(text, before=before, max_tokens=16) for text in ("hello you", "", "a" * 40)),
        strict=True,
    ):
        assert found.ids.tolist() == expected.ids.tolist()
        assert lengths(found) == lengths(expected)
