"""What a run takes from older shards, and what it makes again."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from preprocess.building.build import build_shards
from preprocess.building.feature_spec import build_tokenizer
from preprocess.building.split_maker import SplitMade
from preprocess.clips.extract import Medium
from preprocess.config import Part
from preprocess.datasets.meld import read_meld
from preprocess.text.tokenizer import TextTokenizer, learn_tokenizer
from shards.errors import OutputBusyError, SpecMismatchError
from shards.format.index import read_index
from shards.schema import LabelSet
from shards.writing.verify import verify_split
from tests.preprocess.building.test_build import (
    TOKENIZER,
    assert_like_fresh,
    build,
    content_of,
    ignore_progress,
    samples_of,
)
from tests.support.clips import Row, clip_path, make_rows, small_config, write_csv, write_meld, write_numbered_clip
from tests.support.samples import with_byte_changed

pytestmark = pytest.mark.slow

OTHER_TOKENIZER = learn_tokenizer(["quite other words", "and a few more of them"])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 7, 2 and 2 rows, one with a twin, one with a broken clip, one without; no test changes it."""
    root = write_meld(tmp_path_factory.mktemp("original") / "meld")
    rows = make_rows(7)
    plain = clip_path(root, "test", rows[0])
    write_numbered_clip(plain.with_name(f"final_videos_test{plain.name}"), 77)
    clip_path(root, "train", rows[1]).write_bytes(b"hello" * 100)
    clip_path(root, "train", rows[5]).unlink()
    return root


@pytest.fixture(scope="module")
def fresh(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fresh") / "shards"
    build(original, out)
    return out


@pytest.fixture
def meld(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "meld"))


@pytest.fixture
def out(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "shards"))


def made_by(
    meld: Path, out: Path, *, tokenizer: TextTokenizer = TOKENIZER, remake: bool = False, **changes: Any
) -> dict[str, SplitMade]:
    return build_shards(
        read_meld(meld),
        out,
        config=small_config(**changes),
        tokenizer=tokenizer,
        num_workers=1,
        part=Part(),
        remake=remake,
        on_progress=ignore_progress,
    )


def counts(made: dict[str, SplitMade], split: str = "train") -> tuple[Mapping[Medium, int], Mapping[Medium, int]]:
    return made[split].decoded, made[split].reused


# The clips of train: 7 rows, one of them without a clip.


def test_another_tokenizer_decodes_nothing(original: Path, out: Path, tmp_path: Path) -> None:
    made = made_by(original, out, tokenizer=OTHER_TOKENIZER)
    assert counts(made) == ({"video": 0, "audio": 0}, {"video": 7, "audio": 7})
    assert_like_fresh(original, out, tmp_path, tokenizer=OTHER_TOKENIZER)


def test_more_tokens_decode_nothing(original: Path, out: Path, tmp_path: Path) -> None:
    assert counts(made_by(original, out, max_tokens=20))[0] == {"video": 0, "audio": 0}
    assert_like_fresh(original, out, tmp_path, max_tokens=20)


def test_a_program_that_makes_other_log_mels_makes_them_again(
    original: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.clips.logmel._REVISION", 2)
    assert counts(made_by(original, out)) == ({"video": 0, "audio": 6}, {"video": 7, "audio": 0})


def test_a_program_that_makes_other_pictures_does_not_take_old_ones_for_its_own(
    original: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocess.clips.clip._REVISION", 9)
    with pytest.raises(SpecMismatchError, match=r"decoder_version: '.*, revision \d' against '.*, revision 9'"):
        made_by(original, out)


@pytest.mark.parametrize("change", [{"num_mels": 32}, {"num_hops": 12}, {"scale": "standardised-power"}])
def test_another_log_mel_decodes_sound_and_no_picture(
    original: Path, out: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    made = made_by(original, out, **change)
    assert counts(made) == ({"video": 0, "audio": 6}, {"video": 7, "audio": 0})
    assert counts(made, "test") == ({"video": 0, "audio": 2}, {"video": 2, "audio": 0})
    assert_like_fresh(original, out, tmp_path, **change)


@pytest.mark.parametrize("change", [{"num_frames": 3}, {"storage": "jpeg"}, {"sampling": "first"}])
def test_another_picture_is_made_when_asked_to_and_keeps_the_sound(
    original: Path, out: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    made = made_by(original, out, remake=True, **change)
    assert counts(made) == ({"video": 6, "audio": 0}, {"video": 0, "audio": 7})
    assert_like_fresh(original, out, tmp_path, **change)


def test_another_cut_into_shards_takes_what_has_the_same_name(original: Path, out: Path, tmp_path: Path) -> None:
    made = made_by(original, out, remake=True, samples_per_shard=2)
    assert counts(made)[1] == {"video": 3, "audio": 3}  # rows 0, 1 and 3: 2 was in the first shard, 4 in the second
    assert_like_fresh(original, out, tmp_path, samples_per_shard=2)


def test_a_corrected_text_decodes_nothing(meld: Path, out: Path, tmp_path: Path) -> None:
    rows = make_rows(7)
    write_csv(meld / "train_sent_emo.csv", [Row(text="Corrected", speaker="Joey", emotion="fear"), *rows[1:]])
    made = made_by(meld, out)
    assert made["train"].shards_made == 1
    assert counts(made) == ({"video": 0, "audio": 0}, {"video": 3, "audio": 3})
    assert samples_of(out)[0].meta.labels["emotion"] == "fear"


def test_a_replaced_clip_is_the_only_one_that_is_decoded(meld: Path, out: Path, tmp_path: Path) -> None:
    write_numbered_clip(clip_path(meld, "train", make_rows(7)[4]), 99)
    made = made_by(meld, out)
    assert made["train"].shards_made == 1
    assert counts(made) == ({"video": 1, "audio": 1}, {"video": 2, "audio": 2})
    assert_like_fresh(meld, out, tmp_path)


def test_a_row_in_front_moves_the_others_without_decoding_them_where_their_shard_stays(
    meld: Path, out: Path, tmp_path: Path
) -> None:
    rows = make_rows(7)
    write_csv(meld / "train_sent_emo.csv", [Row(dialogue_id=9, utterance_id=9), *rows])
    made = made_by(meld, out)
    assert counts(made)[1]["video"] == 5  # 0 and 1, 3 and 4, 6; the others went to the next shard
    assert_like_fresh(meld, out, tmp_path)


def test_a_flipped_byte_costs_its_sample_when_the_shard_is_made_again(meld: Path, out: Path, tmp_path: Path) -> None:
    path = out / "train" / "train-00000.tar"
    path.write_bytes(with_byte_changed(path.read_bytes(), 700))  # in the first sample's frames
    made = made_by(meld, out, tokenizer=OTHER_TOKENIZER)
    assert counts(made)[0] == {"video": 1, "audio": 1}
    assert_like_fresh(meld, out, tmp_path, tokenizer=OTHER_TOKENIZER)


def test_a_change_made_and_taken_back_gives_the_first_bytes(original: Path, fresh: Path, out: Path) -> None:
    made_by(original, out, num_mels=32)
    made_by(original, out)
    assert content_of(out) == content_of(fresh)


def test_a_learned_tokenizer_follows_changed_texts(meld: Path, tmp_path: Path) -> None:
    config = small_config()
    out = tmp_path / "learned"
    made_by(meld, out, tokenizer=build_tokenizer(read_meld(meld), config))
    write_csv(meld / "train_sent_emo.csv", [Row(text="Quite another line"), *make_rows(7)[1:]])
    tokenizer = build_tokenizer(read_meld(meld), config)
    assert counts(made_by(meld, out, tokenizer=tokenizer))[0] == {"video": 0, "audio": 0}
    assert read_index(out / "test").spec.text.tokenizer_sha256 == tokenizer.sha256


# Parts.


def test_parts_give_the_bytes_of_one_run_in_any_order(original: Path, fresh: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    for number in (3, 1, 2):
        assert not (out / "train" / "index.json").exists()
        build(original, out, part=Part(number=number, count=3))
    assert content_of(out) == content_of(fresh)
    assert [verify_split(out / split).problems for split in ("train", "dev", "test")] == [(), (), ()]


def test_parts_share_the_shards_among_them(original: Path, tmp_path: Path) -> None:
    made = [build(original, tmp_path / "parts", part=Part(number=number, count=2)) for number in (1, 2)]
    assert made == [{"train": 2, "dev": 1, "test": 1}, {"train": 1, "dev": 0, "test": 0}]


def test_more_parts_than_shards_leave_some_with_nothing_to_do(original: Path, tmp_path: Path) -> None:
    made = [build(original, tmp_path / "parts", part=Part(number=number, count=5)) for number in range(1, 6)]
    assert sum(item["train"] for item in made) == 3
    assert (tmp_path / "parts" / "train" / "index.json").exists()


def test_a_part_is_refused_while_the_whole_is_made_and_while_others_cut_it_differently(
    original: Path, tmp_path: Path
) -> None:
    refusals: list[str] = []

    def meanwhile(split: str, done: int, total: int) -> None:
        if not refusals:
            for part in (Part(number=1, count=3), Part(), Part(number=1, count=2)):
                with pytest.raises(OutputBusyError, match=r"another run|being made already") as caught:
                    build(original, tmp_path / "out", part=part)
                refusals.append(str(caught.value).splitlines()[0])

    build(original, tmp_path / "out", part=Part(number=1, count=2), on_progress=meanwhile)
    assert refusals[0] == "another run is writing here (parts of 2)"
    assert refusals[1] == "another run is writing here (parts of 2)"
    assert refusals[2].startswith("part 1 of 2 is being made already (process ")


def test_a_label_task_that_was_added_costs_no_clip(meld: Path, out: Path) -> None:
    dataset = read_meld(meld)
    splits = tuple(
        replace(split, utterances=tuple(replace(row, labels={**row.labels, "new": "no"}) for row in split.utterances))
        for split in dataset.splits
    )
    labels = (*dataset.label_sets, LabelSet(task="new", names=("no", "yes")))
    made = build_shards(
        replace(dataset, label_sets=labels, splits=splits),
        out,
        config=small_config(),
        tokenizer=TOKENIZER,
        num_workers=1,
        part=Part(),
        remake=False,
        on_progress=ignore_progress,
    )
    assert counts(made) == ({"video": 0, "audio": 0}, {"video": 7, "audio": 7})
    assert verify_split(out / "train", on_progress=lambda done, total: None).problems == ()
