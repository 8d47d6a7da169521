import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.building.digests import SourceDigests, clip_sha256, inputs_sha256, rows_sha256
from preprocess.building.plan import plan_shards
from preprocess.config import Part
from preprocess.config import TestClips as WhichClips  # under its own name pytest would take it for tests
from preprocess.datasets.annotations import Span, Utterance
from shards.files import sha256_file
from shards.schema import EMOTION, MELD_LABELS, SENTIMENT, LabelSet
from tests.support.clips import make_utterance


def numbered(number: int, *, twin: bool = False) -> Utterance:
    name = f"dia0_utt{number}.mp4"
    return make_utterance(number, clip=f"clips/{name}", twin=f"clips/final_videos_test{name}" if twin else "")


def sha256_of(rows: list[Utterance], *, content: str = "", test_clips: WhichClips = "auto") -> str:
    """Digest rows whose clips hold their own path and `content`."""

    def digest(path: str) -> str:
        return hashlib.sha256((path + content).encode()).hexdigest()

    clips = [clip_sha256(row, digest=digest, test_clips=test_clips) for row in rows]
    return inputs_sha256(rows_sha256(rows, MELD_LABELS), clips)


# What a row's clip gives.


@pytest.mark.parametrize("change", [{"text": "Other"}, {"speaker": "Joey"}, {"labels": {"emotion": "anger"}}])
def test_what_is_said_and_how_it_is_labelled_does_not_decide_what_a_clip_gives(change: dict[str, object]) -> None:
    """So a corrected transcript costs no decoding."""
    row = numbered(0)
    changed = dataclasses.replace(row, **change)  # type: ignore[arg-type]
    ours, theirs = (clip_sha256(item, digest=str, test_clips="auto") for item in (row, changed))
    assert ours == theirs
    assert sha256_of([row]) != sha256_of([changed])


def test_parts_remember_apart_and_read_what_all_remember(tmp_path: Path, clip: Path, reads: list[Path]) -> None:
    for number in (1, 2):
        digests = SourceDigests(tmp_path / ".work", root=tmp_path / "meld", part=Part(number=number, count=2))
        digests("clips/a.mp4")
        digests.save()
    assert reads == [clip]
    assert [path.name for path in (tmp_path / ".work").iterdir()] == ["sources-1-of-2.json"]


def test_another_set_of_labels_is_seen_though_no_row_changed() -> None:
    """A label's index is stored, and a new label moves those behind it."""
    more = LabelSet(task="emotion", names=("a new one", *EMOTION.names))
    assert rows_sha256([numbered(0)], MELD_LABELS) != rows_sha256([numbered(0)], (more, SENTIMENT))


def test_rows_without_context_have_the_digest_they_had_before_there_was_any() -> None:
    """So shards made without it are kept."""
    found = rows_sha256([numbered(0), numbered(1)], MELD_LABELS)
    assert found == "f0c519152c4a8b5cc661e3c66139ac66f141651b0c33c159aae381ea61c476f0"


# Plans.


@given(num_rows=st.integers(0, 60), samples_per_shard=st.integers(1, 20))
def test_a_plan_holds_every_row_once_and_in_order(num_rows: int, samples_per_shard: int) -> None:
    rows = [numbered(number) for number in range(num_rows)]
    plan = plan_shards("test", rows, samples_per_shard=samples_per_shard, context_utterances=0)
    assert [row for shard in plan for row in shard.utterances] == rows
    assert all(len(shard.utterances) == samples_per_shard for shard in plan[:-1])
    assert all(shard.utterances for shard in plan)
    assert [shard.name for shard in plan] == [f"test-{number:05d}.tar" for number in range(len(plan))]


@given(num_rows=st.integers(1, 30), more=st.integers(1, 30))
def test_rows_added_at_the_end_leave_the_full_shards_as_they_were(num_rows: int, more: int) -> None:
    rows = [numbered(number) for number in range(num_rows + more)]
    before = plan_shards("test", rows[:num_rows], samples_per_shard=4, context_utterances=0)
    after = plan_shards("test", rows, samples_per_shard=4, context_utterances=0)
    full = num_rows // 4
    assert after[:full] == before[:full]


# The digest of a shard's inputs.

CHANGES: list[dict[str, object]] = [
    {"key": "test-dia0-utt9"},
    {"dialogue_id": "1"},
    {"utterance_id": "9"},
    {"turn_index": 9},
    {"speaker": "Rachel"},
    {"text": "Hello there!"},
    {"text_repaired": True},
    {"labels": {"emotion": "anger", "sentiment": "positive"}},
    {"labels": {"emotion": "joy", "sentiment": "negative"}},
    {"span": Span(start_seconds=10.0, end_seconds=11.501)},
    {"cut_by_span": True},
    {"context": ("Ross: Hi.",)},
    {"clip": ""},
    {"clip": "elsewhere/dia0_utt0.mp4"},
    {"twin": "clips/final_videos_testdia0_utt0.mp4"},
    {"clip_name": "elsewhere/dia0_utt0.mp4"},  # the reason given for a missing clip names it
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(map(str, change)))
def test_a_change_of_any_field_of_a_row_is_seen(change: dict[str, object]) -> None:
    row, other = numbered(0), numbered(1)
    changed = dataclasses.replace(row, **change)  # type: ignore[arg-type]
    assert sha256_of([changed, other]) != sha256_of([row, other])


def test_every_field_of_a_row_is_among_the_changes_or_follows_from_them() -> None:
    """Who adds a field to `Utterance` decides here whether it decides the bytes of a shard."""
    tried = {name for change in CHANGES for name in change}
    assert {field.name for field in dataclasses.fields(Utterance)} - tried == {"split", "season", "episode"}


def test_a_change_of_a_clip_or_of_its_twin_is_seen() -> None:
    row = numbered(0, twin=True)

    def digest(changed: str) -> Callable[[str], str]:
        return lambda path: path + ("changed" if path == changed else "")

    digests = {clip_sha256(row, digest=digest(path), test_clips="auto") for path in ("", row.clip, row.twin)}
    assert len(digests) == 3


def test_the_order_of_the_rows_is_seen() -> None:
    rows = [numbered(0), numbered(1)]
    assert sha256_of(rows) != sha256_of(rows[::-1])


def test_the_choice_between_twins_matters_only_to_rows_that_have_one() -> None:
    plain, twin = [numbered(0)], [numbered(0, twin=True)]
    choices: list[WhichClips] = ["auto", "corrected", "plain"]
    assert len({sha256_of(plain, test_clips=choice) for choice in choices}) == 1
    assert len({sha256_of(twin, test_clips=choice) for choice in choices}) == 3


def test_the_digest_of_the_same_inputs_stays_the_same() -> None:
    assert sha256_of([numbered(0)]) == sha256_of([numbered(0)])


# What is remembered of clips.


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to digest them, as they are."""
    found: list[Path] = []

    def counting(path: Path) -> str:
        found.append(path)
        return sha256_file(path)

    monkeypatch.setattr("preprocess.building.digests.sha256_file", counting)
    return found


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "meld" / "clips" / "a.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"picture and sound")
    return path


def open_digests(tmp_path: Path) -> SourceDigests:
    return SourceDigests(tmp_path / "out" / ".work", root=tmp_path / "meld", part=Part())


def test_a_digest_is_that_of_the_content(tmp_path: Path, clip: Path) -> None:
    assert open_digests(tmp_path)("clips/a.mp4") == hashlib.sha256(clip.read_bytes()).hexdigest()


def test_a_clip_that_did_not_change_is_read_once(tmp_path: Path, clip: Path, reads: list[Path]) -> None:
    first = open_digests(tmp_path)
    digest = first("clips/a.mp4")
    assert first("clips/a.mp4") == digest
    first.save()
    assert open_digests(tmp_path)("clips/a.mp4") == digest
    assert reads == [clip]


@pytest.mark.parametrize("content", [b"longer than it was before", b"sound and picture"], ids=["size", "same size"])
def test_a_clip_that_changed_is_read_again(tmp_path: Path, clip: Path, content: bytes) -> None:
    first = open_digests(tmp_path)
    first("clips/a.mp4")
    first.save()
    stat = clip.stat()
    clip.write_bytes(content)
    os.utime(clip, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    assert open_digests(tmp_path)("clips/a.mp4") == hashlib.sha256(content).hexdigest()


def test_what_was_not_saved_is_not_remembered(tmp_path: Path, clip: Path, reads: list[Path]) -> None:
    open_digests(tmp_path)("clips/a.mp4")
    open_digests(tmp_path)("clips/a.mp4")
    assert reads == [clip, clip]


DAMAGE = [b"", b"{", b"null", b"[]", b"[1]", b"\xff", b'{"clips/a.mp4": 5}', b'{"clips/a.mp4": []}']


@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_memory_is_as_good_as_none(tmp_path: Path, clip: Path, content: bytes) -> None:
    file = tmp_path / "out" / ".work" / "sources.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    digests = open_digests(tmp_path)
    assert digests("clips/a.mp4") == hashlib.sha256(clip.read_bytes()).hexdigest()
    digests.save()
    assert json.loads(file.read_bytes())["clips/a.mp4"][2] == digests("clips/a.mp4")


def test_an_entry_without_its_digest_is_as_good_as_none(tmp_path: Path, clip: Path) -> None:
    stat = clip.stat()
    file = tmp_path / "out" / ".work" / "sources.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"clips/a.mp4": [stat.st_size, stat.st_mtime_ns]}), "utf-8")
    assert open_digests(tmp_path)("clips/a.mp4") == hashlib.sha256(clip.read_bytes()).hexdigest()


def test_a_clip_that_cannot_be_read_has_no_digest(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").symlink_to("/proc/self/mem")  # a file whose reading fails, also for root
    digests = SourceDigests(tmp_path, root=tmp_path, part=Part())
    assert digests("a.mp4") == digests("gone.mp4") == ""
    digests.save()
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "a.mp4").write_bytes(b"now it can")
    assert len(SourceDigests(tmp_path, root=tmp_path, part=Part())("a.mp4")) == 64
