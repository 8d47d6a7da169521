import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from preprocess.building.build import build_shards, check_run
from preprocess.building.estimate import estimate_run
from preprocess.building.feature_spec import build_tokenizer, feature_spec
from preprocess.building.repair import repair_shards
from preprocess.building.split_maker import SplitMade
from preprocess.config import DatasetFormat, Part, PreprocessConfig, max_tokens_for
from preprocess.datasets.adapters import read_dataset
from preprocess.datasets.annotations import Dataset, Utterance
from preprocess.datasets.meld import read_meld
from preprocess.on_the_fly.dataset import MeldDataset
from preprocess.text.context import with_context
from preprocess.text.tokenizer import TextTokenizer, learn_tokenizer
from shards.format.index import read_index
from tests.preprocess.building.test_build import content_of, ignore_progress, samples_of
from tests.support.clips import make_rows, make_utterance, small_config, write_csv, write_meld
from tests.support.commands import mmsent

TOKENIZER = learn_tokenizer([f"{row.speaker}: {row.text}" for row in make_rows(7)])
NOTHING = {"video": 0, "audio": 0}


# Which lines.


def rows_of(dialogues: str) -> list[Utterance]:
    """Make rows, one for each letter, which names its dialogue."""
    return [
        replace(
            make_utterance(number, text=f"line {number}"), dialogue_id=name, turn_index=dialogues[:number].count(name)
        )
        for number, name in enumerate(dialogues)
    ]


def test_a_row_is_given_the_lines_before_it_in_its_dialogue_with_their_speakers() -> None:
    contexts = [row.context for row in with_context(rows_of("aabaa"), context_utterances=2)]
    assert contexts == [
        (),
        ("Ross: line 0",),
        (),
        ("Ross: line 0", "Ross: line 1"),
        ("Ross: line 1", "Ross: line 3"),
    ]


def test_without_context_rows_stay_as_they_are() -> None:
    rows = rows_of("aab")
    assert with_context(rows, context_utterances=0) == tuple(rows)


@given(dialogues=st.text("abc", max_size=30), count=st.integers(1, 5))
def test_a_context_is_of_the_own_dialogue_and_as_long_as_the_dialogue_allows(dialogues: str, count: int) -> None:
    rows = rows_of(dialogues)
    found = with_context(rows, context_utterances=count)
    assert [replace(row, context=()) for row in found] == rows
    for place, row in enumerate(found):
        expected = [other.line for other in rows[:place] if other.dialogue_id == row.dialogue_id]
        assert row.context == tuple(expected[-count:])


def test_turns_decide_and_not_the_order_of_the_rows() -> None:
    """A CSV of own clips may give its turns in any order."""
    rows = [replace(row, turn_index=turn) for row, turn in zip(rows_of("aaa"), (2, 0, 1), strict=True)]
    contexts = [row.context for row in with_context(rows, context_utterances=2)]
    assert contexts == [("Ross: line 1", "Ross: line 2"), (), ("Ross: line 1",)]


def test_a_line_without_a_speaker_is_its_text_and_an_empty_one_is_left_out() -> None:
    first, second, third, fourth = rows_of("aaaa")
    rows = [replace(first, speaker=""), replace(second, text=" "), third, fourth]
    found = with_context(rows, context_utterances=2)
    assert [row.context for row in found] == [(), ("line 0",), ("line 0",), ("Ross: line 2",)]


# How many tokens.


@pytest.mark.parametrize(
    ("count", "expected"), [(0, 128), (1, 128), (3, 128), (4, 160), (7, 256), (15, 512), (99, 512)]
)
def test_room_grows_with_the_context_up_to_the_positions_of_bert(count: int, expected: int) -> None:
    assert max_tokens_for(count) == expected


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="context_utterances must not be negative, got -1"):
        PreprocessConfig(context_utterances=-1)


# Shards.


def config_of(**changes: Any) -> PreprocessConfig:
    """Make a config of two rows a shard, so that dialogues, of three, lie across their borders."""
    return small_config(**{"samples_per_shard": 2, "max_tokens": 64, "context_utterances": 2, **changes})


def made_by(data: Path, out: Path, *, tokenizer: TextTokenizer = TOKENIZER, **changes: Any) -> dict[str, SplitMade]:
    return build_shards(
        read_meld(data),
        out,
        config=config_of(**changes),
        tokenizer=tokenizer,
        num_workers=1,
        part=Part(),
        remake=False,
        on_progress=ignore_progress,
    )


def words_of(out: Path, split: str = "train") -> list[str]:
    """Return the tokens of each sample by name, without padding."""
    saved = Tokenizer.from_file(str(out / "tokenizer" / "tokenizer.json"))
    return [
        " ".join(str(saved.id_to_token(int(token))) for token in sample.tokens[: sample.meta.num_tokens])
        for sample in samples_of(out, split)
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_meld(tmp_path_factory.mktemp("original") / "meld")


@pytest.fixture(scope="module")
def fresh(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with 2 earlier utterances, which no test changes."""
    out = tmp_path_factory.mktemp("fresh") / "shards"
    made_by(original, out)
    return out


@pytest.fixture
def out(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "shards"))


@pytest.fixture
def meld(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "meld"))


def line(number: int) -> str:
    """Return the tokens of the line of a row of `make_rows`."""
    return f"{('ross', 'rachel')[number % 2]} : line {number} , isn ' t it"


def test_tokens_hold_the_lines_before_across_the_borders_of_shards(fresh: Path) -> None:
    contexts = [[], [0], [0, 1], [], [3], [3, 4], []]
    assert words_of(fresh) == [
        "[CLS] " + "".join(f"{line(number)} [SEP] " for number in [*context, own])[:-1]
        for own, context in enumerate(contexts)
    ]


def test_the_text_of_a_sample_stays_its_own(fresh: Path) -> None:
    assert [sample.meta.text for sample in samples_of(fresh)] == [row.text for row in make_rows(7)]


def test_the_spec_says_how_many_utterances_back(fresh: Path) -> None:
    assert read_index(fresh / "train").spec.text.context_utterances == 2


def changed_rows(meld: Path, number: int, **changes: Any) -> None:
    rows = make_rows(7)
    rows[number] = replace(rows[number], **changes)
    write_csv(meld / "train_sent_emo.csv", rows)


@pytest.mark.parametrize(
    ("number", "changes", "made_again"),
    [
        (1, {"text": "Corrected"}, {0, 1}),  # row 2, in the second shard, has it before itself
        (1, {"speaker": "Joey"}, {0, 1}),
        (1, {"emotion": "fear", "sentiment": "negative"}, {0}),
        (2, {"text": "Corrected"}, {1}),  # the last of its dialogue, and the next one begins in the same shard
        (5, {"text": "Corrected"}, {2}),
    ],
)
def test_a_changed_line_is_seen_in_every_shard_whose_rows_have_it_before_them_and_in_no_other(
    meld: Path, out: Path, tmp_path: Path, number: int, changes: Mapping[str, Any], made_again: set[int]
) -> None:
    before = {path.name: path.stat().st_ino for path in out.glob("train/*.tar")}
    changed_rows(meld, number, **changes)
    made = made_by(meld, out)
    after = {path.name: path.stat().st_ino for path in out.glob("train/*.tar")}
    assert {name for name in before if after[name] != before[name]} == {
        f"train-0000{shard}.tar" for shard in made_again
    }
    assert all(item.decoded == NOTHING for item in made.values())
    made_by(meld, tmp_path / "from scratch")
    assert content_of(out) == content_of(tmp_path / "from scratch")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_another_context_makes_all_tokens_again_and_decodes_nothing(original: Path, out: Path, count: int) -> None:
    made = made_by(original, out, context_utterances=count)
    assert made["train"].shards_made == 4
    assert made["train"].decoded == NOTHING
    assert made["train"].reused == {"video": 7, "audio": 7}
    rows = with_context(read_meld(original).splits[0].utterances, context_utterances=count)
    for sample, row in zip(samples_of(out), rows, strict=True):
        text = row.line if count else row.text
        expected = TOKENIZER.encode(text, before=row.context, max_tokens=64).ids
        np.testing.assert_array_equal(sample.tokens, expected)


def test_an_estimate_knows_which_shards_a_changed_line_reaches(meld: Path, out: Path) -> None:
    changed_rows(meld, 1, text="Corrected")
    config = config_of()
    found = estimate_run(
        read_meld(meld), out, config=config, spec=feature_spec(config, TOKENIZER), part=Part(), num_workers=1
    )
    assert (found.num_rows, found.num_rows_done, found.clips_measured) == (11, 7, 0)


def test_a_repair_makes_the_same_tokens(original: Path, fresh: Path, out: Path) -> None:
    (out / "train" / "train-00001.tar").unlink()
    broken = {"train": ["train-00001.tar"]}
    repair_shards(out, original, broken=broken, num_workers=1, on_progress=ignore_progress)
    assert content_of(out) == content_of(fresh)


def test_the_data_set_without_a_cache_gives_the_same_tokens(original: Path, fresh: Path) -> None:
    config = config_of()
    dataset = MeldDataset(original, "train", config=config, spec=feature_spec(config, TOKENIZER), tokenizer=TOKENIZER)
    for index, sample in enumerate(samples_of(fresh)):
        text = dataset[index].text_input
        np.testing.assert_array_equal(text.input_ids.numpy(), sample.tokens)
        assert int(text.attention_mask.sum()) == sample.meta.num_tokens


def test_what_did_not_fit_is_noted(original: Path, tmp_path: Path) -> None:
    made_by(original, tmp_path / "out", max_tokens=30)  # room for two lines of 10 tokens with their special tokens
    notes = {
        sample.meta.key: [(note.kind, note.detail) for note in sample.meta.notes]
        for sample in samples_of(tmp_path / "out")
    }
    expected = ("context_cut", "the last 1 of 2 earlier utterances are kept")
    assert {key for key, found in notes.items() if expected in found} == {"train-dia0-utt2", "train-dia1-utt2"}


@pytest.mark.parametrize(("count", "known"), [(0, False), (1, True)])
def test_a_learned_tokenizer_knows_the_speakers_with_context_alone(
    original: Path, tmp_path: Path, count: int, known: bool
) -> None:
    build_tokenizer(read_meld(original), config_of(context_utterances=count)).save(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ("rachel" in saved.get_vocab()) is known


# Other data sets.


def write_own(root: Path, *, dialogue: bool) -> Path:
    root.mkdir()
    rows = ["id,split,text,path,laughter,speaker" + (",dialogue" if dialogue else "")]
    for number in range(4):
        values = [
            f"a{number}",
            "train",
            f"Line {number}",
            "none.mp4",
            ("no", "yes")[number % 2],
            ("Ann", "")[number % 2],
        ]
        rows.append(",".join([*values, "d"] if dialogue else values))
    (root / "utterances.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return root


EMORYNLP = """Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time
Hi.,"['Monica Geller', 'Ross Geller']",Joyful,1,1,1,1,"0:00:01,000","0:00:02,000"
Oh.,['Joey Tribbiani'],Sad,1,3,1,1,"0:00:02,000","0:00:03,000"
"""


def checked(dataset: Dataset, out: Path) -> None:
    check_run(dataset, out, config=config_of(), tokenizer=TOKENIZER, remake=False)


def test_own_clips_and_emorynlp_have_context_too(tmp_path: Path) -> None:
    kinds: dict[DatasetFormat, Path] = {
        "csv": write_own(tmp_path / "own", dialogue=True),
        "emorynlp": tmp_path / "emory",
    }
    kinds["emorynlp"].mkdir()
    (kinds["emorynlp"] / "emorynlp_train_final.csv").write_text(EMORYNLP, "utf-8")
    last = {}
    for kind, root in kinds.items():
        dataset = read_dataset(root, kind)
        checked(dataset, tmp_path / "out")
        last[kind] = with_context(dataset.splits[0].utterances, context_utterances=2)[-1].context
    assert last == {"csv": ("Line 1", "Ann: Line 2"), "emorynlp": ("Monica Geller, Ross Geller: Hi.",)}


@pytest.mark.slow
def test_context_without_dialogues_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = write_own(tmp_path / "own", dialogue=False)
    for more in ((), ("--dry-run",)):
        result = mmsent(
            "preprocess", data, "--out", tmp_path / "out", "--text-encoder", "scratch", "--context", "3", *more
        )
        assert result.returncode == 1
        assert "3 earlier utterances of each dialogue are asked for, and none has a second one" in result.stderr
        assert "a column `dialogue`" in result.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_writes_context_and_says_when_it_changes(tmp_path: Path) -> None:
    data, out = write_own(tmp_path / "own", dialogue=True), tmp_path / "out"
    command = (
        "preprocess",
        data,
        "--out",
        out,
        "--text-encoder",
        "scratch",
        "--set",
        "preprocess.max_failed_fraction=1",
    )
    assert mmsent(*command).returncode == 0
    result = mmsent(*command, "--context", "5")
    assert result.returncode == 0, result.stderr
    assert "text.context_utterances: 0 against 5" in result.stderr
    spec = read_index(out / "train").spec.text
    assert (spec.context_utterances, spec.max_tokens) == (5, 192)
    assert words_of(out)[1] == "[CLS] ann : line 0 [SEP] line 1 [SEP]"
