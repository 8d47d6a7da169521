"""What of a recorded shard is still good, without clips: extracts are made up."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from preprocess.building.kept import GatheredOrigin, RecordedShard, recorded_shard
from preprocess.clips.extract import MEDIA, Extract, Medium, absent_feature
from shards.schema import MELD_LABELS
from shards.spec import FeatureSpec
from shards.writing.shard_writer import Origin, write_shard
from tests.support.clips import make_utterance
from tests.support.samples import make_sample, make_spec

SPEC = make_spec()
ROWS = "rows"
CLIPS = ["clip 0", "clip 1"]
KEYS = [make_utterance(number).key for number in range(2)]


def origin_of(killed: Mapping[int, Medium]) -> Origin:
    """Gather two rows; `killed` has the medium of a row that a decoder was killed over."""
    gathered = GatheredOrigin(SPEC, ROWS)
    for number, clip in enumerate(CLIPS):
        features = {name: absent_feature("no such thing", killed=killed.get(number) == name) for name in MEDIA}
        gathered.add(make_utterance(number), Extract(path="", notes=(), features=features), source=clip)
    return gathered.origin()


def recorded(
    root: Path, *, spec: FeatureSpec = SPEC, killed: Mapping[int, Medium] | None = None
) -> RecordedShard | None:
    path = root / "train-00000.tar"
    samples = [make_sample(number) for number in range(2)]
    write_shard(path, samples, spec=SPEC, label_sets=MELD_LABELS, origin=lambda: origin_of(killed or {}))
    return recorded_shard(path, spec=spec)


def test_a_shard_of_the_same_rows_clips_and_spec_is_good_as_it_is(tmp_path: Path) -> None:
    shard = recorded(tmp_path)
    assert shard is not None
    assert (shard.of_rows(ROWS), shard.settled, shard.of_clips(CLIPS)) == (True, True, True)
    assert (shard.of_rows("other"), shard.of_clips(CLIPS[::-1])) == (False, False)
    assert [shard.source(key, medium) for key in KEYS for medium in MEDIA] == ["clip 0", "clip 0", "clip 1", "clip 1"]


@pytest.mark.parametrize("part", ["video", "audio", "text"])
def test_what_is_made_in_another_way_now_costs_only_itself(tmp_path: Path, part: str) -> None:
    spec = {
        "video": replace(SPEC, video=replace(SPEC.video, decoder_version="2")),
        "audio": replace(SPEC, audio=replace(SPEC.audio, transform_version="2")),
        "text": replace(SPEC, text=replace(SPEC.text, tokenizer_sha256="2")),
    }[part]
    shard = recorded(tmp_path, spec=spec)
    assert shard is not None
    assert not shard.made_alike
    assert not shard.of_rows(ROWS)
    assert {medium: shard.source(KEYS[0], medium) for medium in MEDIA} == {
        medium: "" if medium == part else "clip 0" for medium in MEDIA
    }


def test_what_a_decoder_was_killed_over_is_made_again(tmp_path: Path) -> None:
    shard = recorded(tmp_path, killed={1: "audio"})
    assert shard is not None
    assert (shard.of_rows(ROWS), shard.settled, shard.of_clips(CLIPS)) == (True, False, False)
    assert [shard.source(KEYS[1], medium) for medium in MEDIA] == ["clip 1", ""]


def test_a_row_that_is_not_in_it_has_no_source(tmp_path: Path) -> None:
    shard = recorded(tmp_path)
    assert shard is not None
    assert shard.source("train-dia99-utt9", "video") == ""


def test_nothing_is_said_of_a_shard_that_is_not_whole(tmp_path: Path) -> None:
    assert recorded_shard(tmp_path / "train-00000.tar", spec=SPEC) is None
    recorded(tmp_path)
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:-1])
    assert recorded_shard(path, spec=SPEC) is None
