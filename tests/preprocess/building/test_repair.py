"""Splits finished from parts, and broken shards made again."""

import hashlib
import shutil
from pathlib import Path

import pytest

from preprocess.building.manifest import MANIFEST_NAME, Manifest, shard_folder
from preprocess.building.repair import complete_splits, repair_shards
from preprocess.clips.extract import MEDIA
from preprocess.config import Part, PreprocessConfig
from preprocess.errors import DatasetError, TokenizerError
from preprocess.text.tokenizer import learn_tokenizer
from shards.errors import ShardError, SpecMismatchError
from shards.format.index import read_index
from shards.schema import MELD_LABELS
from shards.writing.verify import verify_split
from tests.preprocess.building.test_build import TOKENIZER, build, content_of, ignore_progress
from tests.support.clips import clip_path, make_rows, small_config, write_meld, write_numbered_clip
from tests.support.commands import mmsent
from tests.support.samples import with_byte_changed

pytestmark = pytest.mark.slow

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 7, 2 and 2 rows that no test changes."""
    return write_meld(tmp_path_factory.mktemp("data") / "meld")


@pytest.fixture(scope="module")
def fresh(meld: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fresh") / "shards"
    build(meld, out)
    return out


@pytest.fixture
def out(fresh: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fresh, tmp_path / "shards"))


def problems(out: Path) -> list[str]:
    return [problem.what for split in SPLITS for problem in verify_split(out / split).problems]


# Parts.


def test_parts_made_on_machines_apart_are_finished_when_they_are_copied_together(
    meld: Path, fresh: Path, tmp_path: Path
) -> None:
    for number in (1, 2):
        build(meld, tmp_path / f"machine-{number}", part=Part(number=number, count=2))
        shutil.copytree(tmp_path / f"machine-{number}", tmp_path / "together", dirs_exist_ok=True)
    assert not (tmp_path / "together" / "train" / "index.json").exists()
    assert complete_splits(tmp_path / "together") == {"dev": 1, "test": 1, "train": 3}
    assert content_of(tmp_path / "together") == content_of(fresh)


def test_a_split_that_lacks_shards_is_named_with_them_and_the_others_are_finished(meld: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "out", part=Part(number=1, count=2))
    for split in ("dev", "test"):
        (tmp_path / "out" / split / "index.json").unlink()
    with pytest.raises(ShardError, match=r"train lacks train-00001\.tar of 3 shards") as caught:
        complete_splits(tmp_path / "out")
    assert "run the parts that are not done" in str(caught.value)
    assert [(tmp_path / "out" / split / "index.json").exists() for split in SPLITS] == [False, True, True]


def test_finishing_what_is_finished_changes_nothing(fresh: Path, out: Path) -> None:
    assert complete_splits(out) == {"dev": 1, "test": 1, "train": 3}
    assert content_of(out) == content_of(fresh)


def test_shards_made_in_another_way_do_not_finish_a_split(meld: Path, out: Path, tmp_path: Path) -> None:
    build(meld, tmp_path / "other", num_mels=32)
    for name in ("train-00001.tar", ".work/train-00001.npy", ".work/train-00001.json"):
        shutil.copy2(tmp_path / "other" / "train" / name, out / "train" / name)
    with pytest.raises(ShardError, match=r"train lacks train-00001\.tar"):
        complete_splits(out)


@pytest.mark.parametrize("content", [b"{", b"\xff"])
def test_of_a_plan_that_cannot_be_read_nothing_is_guessed(out: Path, content: bytes) -> None:
    (out / "train" / ".work" / "plan.json").write_bytes(content)
    with pytest.raises(ShardError, match="cannot be read"):
        complete_splits(out)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="there are no shards here"):
        complete_splits(tmp_path)


def test_parts_that_are_copied_together_without_what_says_how_they_were_made_are_refused(out: Path) -> None:
    (out / MANIFEST_NAME).unlink()
    with pytest.raises(ShardError, match=f"there is no {MANIFEST_NAME}"):
        complete_splits(out)


@pytest.mark.parametrize("lost", [MANIFEST_NAME, "dev/index.json"])
@pytest.mark.parametrize("name", ["index.json", "samples.npy"])
def test_of_a_split_whose_records_are_lost_index_and_table_are_made_of_the_tars(
    fresh: Path, out: Path, name: str, lost: str
) -> None:
    for split in SPLITS:
        shutil.rmtree(out / split / ".work")
    (out / "train" / name).unlink()
    (out / lost).unlink()
    result = mmsent("index", out)
    assert result.returncode == 0, result.stderr
    assert "Finished: dev 1 shards, test 1 shards, train 3 shards" in result.stdout
    assert ("3 shards, 7 samples; nothing tells of any after the last" in result.stderr) == (name == "index.json")
    assert problems(out) == []
    table = out / "train" / "samples.npy"
    assert table.read_bytes() == (fresh / "train" / "samples.npy").read_bytes()


def test_tars_of_which_nothing_says_how_they_were_made_are_refused(out: Path) -> None:
    for split in SPLITS:
        shutil.rmtree(out / split / ".work")
        (out / split / "index.json").unlink()
    (out / MANIFEST_NAME).unlink()
    with pytest.raises(ShardError, match=f"nothing says how(?s:.*)copy {MANIFEST_NAME} or one index.json"):
        complete_splits(out)


def test_what_is_recorded_of_the_making_leads_to_the_same_making(fresh: Path) -> None:
    config = small_config()
    manifest = shard_folder(fresh).read()
    assert manifest.config() == PreprocessConfig(
        num_frames=config.num_frames,
        height=config.height,
        width=config.width,
        num_hops=config.num_hops,
        max_tokens=config.max_tokens,
        text_encoder="scratch",
        samples_per_shard=config.samples_per_shard,
    )
    again = Manifest(adapter="meld", samples_per_shard=3, test_clips="auto", label_sets=MELD_LABELS, spec=manifest.spec)
    assert again == manifest


# Repair.


DAMAGES = ["flipped", "cut", "gone", "rows", "record"]


def damage(out: Path, kind: str) -> None:
    shard = out / "train" / "train-00001.tar"
    if kind == "flipped":
        shard.write_bytes(with_byte_changed(shard.read_bytes(), 700))
    elif kind == "cut":
        shard.write_bytes(shard.read_bytes()[:5000])
    elif kind == "gone":
        shard.unlink()
    elif kind == "rows":
        shard.write_bytes(with_byte_changed(shard.read_bytes(), 700))
        (out / "train" / ".work" / "train-00001.npy").write_bytes(b"nothing")
    elif kind == "record":
        shard.write_bytes(with_byte_changed(shard.read_bytes(), 700))
        (out / "train" / ".work" / "train-00001.json").unlink()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_broken_shard_is_made_again_and_no_other(meld: Path, fresh: Path, out: Path, kind: str) -> None:
    damage(out, kind)
    others = {path: path.stat().st_mtime_ns for path in out.glob("*/*.tar") if path.name != "train-00001.tar"}
    broken = {split: verify_split(out / split).broken_shards for split in SPLITS}
    assert broken == {"train": ("train-00001.tar",), "dev": (), "test": ()}
    made = repair_shards(out, meld, broken=broken, num_workers=1, on_progress=ignore_progress)
    assert {split: item.shards_made for split, item in made.items()} == {"train": 1, "dev": 0, "test": 0}
    one_sample = kind == "flipped"  # the other samples are good
    assert made["train"].decoded == dict.fromkeys(MEDIA, 1 if one_sample else 3)
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert problems(out) == []
    assert content_of(out) == content_of(fresh)


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_broken_index_is_written_again_without_decoding(
    meld: Path, fresh: Path, out: Path, content: bytes | None
) -> None:
    index = out / "dev" / "index.json"
    if content is None:
        index.unlink()
    else:
        index.write_bytes(content)
    made = repair_shards(out, meld, broken={}, num_workers=1, on_progress=ignore_progress)
    assert made["dev"].decoded == dict.fromkeys(MEDIA, 0)
    assert content_of(out) == content_of(fresh)


def test_a_repair_leaves_a_shard_alone_whose_clip_has_changed_since(fresh: Path, out: Path, tmp_path: Path) -> None:
    """Bringing shards up to date is for `preprocess`; a repair gives back what was there."""
    data = write_meld(tmp_path / "meld")
    write_numbered_clip(clip_path(data, "train", make_rows(1)[0]), 99)
    damage(out, "gone")
    repair_shards(out, data, broken={"train": ["train-00001.tar"]}, num_workers=1, on_progress=ignore_progress)
    assert content_of(out) == content_of(fresh)


@pytest.mark.parametrize("what", ["preprocess.clips.clip._REVISION", "preprocess.clips.logmel._REVISION"])
def test_a_repair_by_other_versions_is_refused_and_changes_nothing(
    meld: Path, out: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    damage(out, "gone")
    before = content_of(out)
    monkeypatch.setattr(what, 9)
    with pytest.raises(SpecMismatchError, match=r"_version: '.*revision \d' against '.*revision 9'") as caught:
        repair_shards(out, meld, broken={"train": ["train-00001.tar"]}, num_workers=1, on_progress=ignore_progress)
    assert "install the versions that made the shards" in str(caught.value)
    assert content_of(out) == before


def test_another_data_set_is_refused(out: Path, tmp_path: Path) -> None:
    data = write_meld(tmp_path / "meld", train=8)
    damage(out, "gone")
    with pytest.raises(DatasetError, match="does not fit this data set"):
        repair_shards(out, data, broken={"train": ["train-00001.tar"]}, num_workers=1, on_progress=ignore_progress)


def test_another_tokenizer_beside_the_shards_is_refused(meld: Path, out: Path) -> None:
    learn_tokenizer(["something else"]).save(out / "tokenizer")
    with pytest.raises(TokenizerError, match="is not the one they were made with"):
        repair_shards(out, meld, broken={}, num_workers=1, on_progress=ignore_progress)
    (out / "tokenizer" / "tokenizer.json").write_bytes(b"{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        repair_shards(out, meld, broken={}, num_workers=1, on_progress=ignore_progress)


@pytest.mark.parametrize("with_work", [True, False])
@pytest.mark.parametrize("damage", ["gone", "flipped"])
def test_the_command_restores_a_table_from_the_shards(
    meld: Path, fresh: Path, out: Path, damage: str, with_work: bool
) -> None:
    table = out / "train" / "samples.npy"
    if damage == "gone":
        table.unlink()
    else:
        table.write_bytes(with_byte_changed(table.read_bytes(), 300))
    if not with_work:
        for split in SPLITS:
            shutil.rmtree(out / split / ".work")
    shards = {path: path.stat().st_mtime_ns for path in out.glob("*/*.tar")}
    assert mmsent("verify", out).returncode == 1
    result = mmsent("verify", out, "--repair", meld)
    assert result.returncode == 0, result.stderr
    assert "samples.npy" in result.stdout
    assert content_of(out) == content_of(fresh)
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


def test_a_broken_shard_and_a_broken_table_are_mended_together(meld: Path, fresh: Path, out: Path) -> None:
    damage(out, "flipped")
    (out / "train" / "samples.npy").unlink()
    (out / "dev" / "samples.npy").write_bytes(b"")
    result = mmsent("verify", out, "--repair", meld, "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert content_of(out) == content_of(fresh)


@pytest.mark.parametrize("name", ["index.json", "samples.npy"])
def test_finishing_writes_again_what_is_missing_without_the_clips(fresh: Path, out: Path, name: str) -> None:
    (out / "train" / name).unlink()
    complete_splits(out)
    assert content_of(out) == content_of(fresh)


def test_the_command_repairs_what_it_finds(meld: Path, fresh: Path, out: Path) -> None:
    damage(out, "flipped")
    assert mmsent("verify", out).returncode == 1
    result = mmsent("verify", out, "--repair", meld, "--workers", "1")
    assert result.returncode == 0, result.stderr
    assert "its SHA-256 is not the one in the index" in result.stdout
    digest = hashlib.sha256((out / "train" / "train-00001.tar").read_bytes()).hexdigest()
    assert digest == read_index(fresh / "train").shards[1].sha256
    assert TOKENIZER.sha256 == shard_folder(out).read().spec.text.tokenizer_sha256
