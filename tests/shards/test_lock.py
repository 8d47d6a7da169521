import errno
import fcntl
from pathlib import Path

import pytest

from shards.errors import OutputBusyError
from shards.lock import locked


def test_a_folder_is_for_one_run_or_for_the_parts_of_one(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OutputBusyError, match="another run is writing here"), locked(tmp_path):
        pass
    with locked(tmp_path, number=1, count=2), locked(tmp_path, number=2, count=2):
        with pytest.raises(OutputBusyError, match="part 2 of 2"), locked(tmp_path, number=2, count=2):
            pass
        with pytest.raises(OutputBusyError, match="parts of 2"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_said_and_not_an_end(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path):
        assert "has no locks" in caplog.text


def test_other_trouble_with_a_lock_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="the disk is gone"), locked(tmp_path):
        pass
