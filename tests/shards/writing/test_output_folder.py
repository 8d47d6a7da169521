from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shards.errors import OutputBusyError, ShardError, SpecMismatchError
from shards.writing.output_folder import OutputFolder, kept_shard, remove_stale_shards
from shards.writing.shard_writer import record_path, rows_path
from tests.support.samples import make_sample, write_split


@dataclass(frozen=True)
class Colour:
    """A manifest by which only red is dear."""

    name: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Colour":
        return cls(value["name"])

    def differences(self, asked: "Colour") -> list[str]:
        return [] if self == asked else [f"{self.name} against {asked.name}"]

    def refusal(self, differences: Sequence[str]) -> str:
        return "red would be gone" if differences and self.name == "red" else ""


def folder(path: Path) -> OutputFolder[Colour]:
    return OutputFolder(path=path, manifest_name="colour.json", command="mmsent paint", parse=Colour.from_json)


def test_a_claimed_folder_is_known_again_and_closed_to_others(tmp_path: Path) -> None:
    ours = folder(tmp_path / "new" / "out")
    with ours.claimed(Colour("red"), remake=False):
        assert ours.read() == Colour("red")
        with pytest.raises(OutputBusyError), ours.claimed(Colour("red"), remake=False):
            pass
    with ours.claimed(Colour("red"), remake=False):
        assert ours.check(Colour("red"), remake=False) == []


def test_what_is_dear_is_made_again_only_when_asked_to(tmp_path: Path) -> None:
    ours = folder(tmp_path)
    with ours.claimed(Colour("red"), remake=False):
        pass
    with (
        pytest.raises(SpecMismatchError, match=r"(?s)red would be gone.*colour\.json.*--remake"),
        ours.claimed(Colour("blue"), remake=False),
    ):
        pass
    assert ours.read() == Colour("red")
    with ours.claimed(Colour("blue"), remake=True):
        assert ours.read() == Colour("blue")
    with ours.claimed(Colour("green"), remake=False):  # blue is cheap
        assert ours.read() == Colour("green")


def test_a_claim_sweeps_what_a_killed_run_left_unless_others_may_be_at_it(tmp_path: Path) -> None:
    left = tmp_path / "train" / ".train-00000.tar.tmp"
    left.parent.mkdir()
    ours = folder(tmp_path)
    (tmp_path / "colour.json").write_text('{"name":"red"}')
    left.touch()
    with ours.claimed(Colour("red"), remake=False, number=1, count=2):
        assert left.exists()
    with ours.claimed(Colour("red"), remake=False):
        assert not left.exists()


def test_a_folder_of_something_else_is_refused_and_nothing_is_left_in_it(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").touch()
    with (
        pytest.raises(ShardError, match="holds no shards of `mmsent paint`"),
        folder(tmp_path).claimed(Colour("red"), remake=True),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_folder_without_a_manifest_says_who_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"(?s)there is no colour\.json.*`mmsent paint --out`"):
        folder(tmp_path).read()


def test_shards_that_a_split_no_longer_has_go_with_their_records_and_no_other_tar_does(tmp_path: Path) -> None:
    index = write_split(tmp_path, [make_sample(i) for i in range(5)])
    directory = tmp_path / "train"
    assert len(index.shards) > 1
    for name in ("train-mine.tar", "dev-00000.tar", "thesis.tar"):
        (directory / name).touch()
    remove_stale_shards(directory, split="train", shards=index.shards[:1])
    assert {path.name for path in directory.glob("*.tar")} == {
        "train-00000.tar", "train-mine.tar", "dev-00000.tar", "thesis.tar",
    }  # fmt: skip
    for shard in index.shards:
        path = directory / shard.name
        assert record_path(path).exists() == rows_path(path).exists() == (shard == index.shards[0])


def test_a_shard_is_kept_if_it_was_made_from_the_same(tmp_path: Path) -> None:
    [shard] = write_split(tmp_path, [make_sample(0)]).shards
    path = tmp_path / "train" / shard.name
    assert kept_shard(path, inputs_sha256=shard.inputs_sha256) == shard
    assert kept_shard(path, inputs_sha256="another") is None
    with path.open("ab") as file:
        file.write(b"\0")
    assert kept_shard(path, inputs_sha256=shard.inputs_sha256) is None
