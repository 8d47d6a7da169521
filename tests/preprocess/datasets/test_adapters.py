import logging
from pathlib import Path
from typing import get_args

import pytest

from preprocess.config import DatasetFormat
from preprocess.datasets.adapters import ADAPTERS, read_dataset
from preprocess.errors import DatasetError
from tests.support.clips import Row, write_csv
from tests.support.tables import emorynlp_row, own_rows, write_table


def write_meld(root: Path) -> None:
    write_csv(root / "train_sent_emo.csv", [Row()])


def write_emorynlp(root: Path) -> None:
    write_table(root / "emorynlp_train_final.csv", [emorynlp_row()])


def write_own(root: Path) -> None:
    write_table(root / "utterances.csv", own_rows(2))


WRITERS = {"meld": write_meld, "emorynlp": write_emorynlp, "csv": write_own}


def refusal(root: Path, kind: DatasetFormat = "auto") -> str:
    """Read what is to be refused; return the message, which must name a file and say what to do."""
    with pytest.raises(DatasetError) as caught:
        read_dataset(root, kind)
    message = str(caught.value)
    assert "\n  file: " in message
    assert "\n  next: " in message
    return message


def test_every_format_that_can_be_asked_for_has_its_adapter() -> None:
    assert ("auto", *ADAPTERS) == get_args(DatasetFormat)


@pytest.mark.parametrize("name", WRITERS)
def test_each_data_set_is_recognised_by_its_own_adapter_alone(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    assert [other for other, adapter in ADAPTERS.items() if adapter.recognises(tmp_path)] == [name]
    assert read_dataset(tmp_path, "auto").adapter == name


@pytest.mark.parametrize("name", WRITERS)
def test_an_adapter_names_itself_so_that_a_repair_finds_it_again(tmp_path: Path, name: DatasetFormat) -> None:
    WRITERS[name](tmp_path)
    assert read_dataset(tmp_path, name).adapter == name


def test_a_folder_of_two_data_sets_says_which_one_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_meld(tmp_path / "data" / "MELD")
    write_emorynlp(tmp_path / "data" / "emorynlp")
    with caplog.at_level(logging.WARNING):
        assert read_dataset(tmp_path, "auto").adapter == "meld"
    assert caplog.messages == ["read as meld, but it looks like emorynlp too: --format chooses"]
    assert read_dataset(tmp_path, "emorynlp").adapter == "emorynlp"


def test_a_folder_of_one_data_set_is_read_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_own(tmp_path)
    read_dataset(tmp_path, "auto")
    assert caplog.messages == []


@pytest.mark.parametrize("kind", get_args(DatasetFormat))
def test_a_path_that_is_not_there_is_refused_whatever_was_asked_for(tmp_path: Path, kind: DatasetFormat) -> None:
    assert "there is no such folder or file" in refusal(tmp_path / "nothing", kind)


def test_a_folder_that_nothing_recognises_is_refused_saying_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "clips.csv").touch()
    message = refusal(tmp_path)
    for name in ("train_sent_emo.csv", "emorynlp_train_final.csv", "utterances.csv"):
        assert name in message
    assert "found clips.csv, videos/" in message


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    assert "found nothing" in refusal(tmp_path)


def test_a_file_that_is_no_csv_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0" * 100)
    assert "found clip.mp4" in refusal(tmp_path / "clip.mp4")


def test_own_clips_in_another_encoding_are_refused_as_that_and_not_as_an_unknown_folder(tmp_path: Path) -> None:
    write_table(tmp_path / "utterances.csv", own_rows(2, text="It’s"), encoding="cp1252")
    assert "is not UTF-8" in refusal(tmp_path)


def test_asking_for_one_data_set_never_reads_another(tmp_path: Path) -> None:
    write_own(tmp_path)
    assert "this is no MELD folder" in refusal(tmp_path, "meld")
    assert "this is no EmoryNLP folder" in refusal(tmp_path, "emorynlp")


@pytest.mark.parametrize("kind", ["auto", "csv"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, kind: DatasetFormat) -> None:
    (tmp_path / "utterances.csv").symlink_to("/proc/self/mem")  # a file whose reading fails, also for root
    assert "cannot be read: " in refusal(tmp_path, kind)
