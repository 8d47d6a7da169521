import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from preprocess.clips.extract import MEDIA, Extract, Medium, absent_feature, extract
from preprocess.clips.extract_all import Request, _Clips, _context, extract_all
from preprocess.clips.known_good import write_known_good
from preprocess.clips.process_pool import (
    _AHEAD,
    Death,
    WorkerDiedError,
    WorkerHungError,
    Workers,
    keep_quiet,
    outcome_of,
)
from preprocess.config import TestClips as WhichClips  # under its own name pytest would take it for tests
from preprocess.datasets.annotations import Utterance
from preprocess.errors import MachineError
from tests.support.clips import (
    make_utterance,
    small_config,
    small_spec,
    write_clip,
    write_crashing_clip,
    write_numbered_clip,
)


def wanted(rows: Iterable[Utterance], media: tuple[Medium, ...] = MEDIA) -> Iterator[Request]:
    return (Request(row=row, media=media) for row in rows)


def run(
    root: Path,
    rows: list[Utterance],
    *,
    num_workers: int = 1,
    clip_timeout_seconds: float = 60.0,
    test_clips: WhichClips = "auto",
) -> list[Extract]:
    config = small_config(clip_timeout_seconds=clip_timeout_seconds, test_clips=test_clips)
    return list(extract_all(root, wanted(rows), config=config, spec=small_spec(config), num_workers=num_workers))


def write_rows(root: Path, num_rows: int) -> list[Utterance]:
    for number in range(num_rows):
        write_numbered_clip(root / f"{number}.mp4", number)
    return [make_utterance(number, clip=f"{number}.mp4") for number in range(num_rows)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_rows(tmp_path: Path, num_workers: int) -> None:
    rows = write_rows(tmp_path, 9)
    extracts = run(tmp_path, rows, num_workers=num_workers)
    assert [extracted.path for extracted in extracts] == [row.clip for row in rows]
    assert all(extracted.video.presence.present and extracted.audio.presence.present for extracted in extracts)
    assert len({extracted.audio.array.tobytes() for extracted in extracts}) == 9


def second_decoder(extracted: Extract) -> list[str]:
    notes = (*extracted.video.notes, *extracted.audio.notes)
    return [note.detail for note in notes if note.kind == "second_decoder"]


def test_no_rows_give_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, []) == []


def test_a_row_without_a_clip_needs_none_and_says_which_was_looked_for(tmp_path: Path) -> None:
    (extracted,) = run(tmp_path, [make_utterance(7)])
    reason = "the clip is missing: there is no clips/dia0_utt7.mp4"
    assert (extracted.video.presence.reason, extracted.audio.presence.reason) == (reason, reason)
    assert extracted.path == ""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_clip_that_would_crash_decord_is_known_beforehand_and_read_by_pyav(tmp_path: Path, num_workers: int) -> None:
    rows = write_rows(tmp_path, 5)
    write_crashing_clip(tmp_path / "2.mp4")
    extracts = run(tmp_path, rows, num_workers=num_workers)
    assert all(extracted.video.presence.present and extracted.audio.presence.present for extracted in extracts)
    assert extracts[2].path == "2.mp4"
    why = "the header promises 2,147,483,647 frames, more than any clip holds, and Decord is for whole mp4 files"
    assert second_decoder(extracts[2]) == [f"picture by PyAV: {why}", f"sound by PyAV: {why}"]
    assert [second_decoder(extracts[number]) for number in (0, 1, 3, 4)] == [[], [], [], []]


@pytest.mark.parametrize("medium", MEDIA)
def test_what_crashes_decord_gives_alone_what_it_gives_together(tmp_path: Path, medium: Medium) -> None:
    row = make_utterance(clip="0.mp4")
    write_crashing_clip(tmp_path / "0.mp4")
    config = small_config()
    together, alone = (
        next(extract_all(tmp_path, wanted([row], media), config=config, spec=small_spec(config), num_workers=1))
        for media in (MEDIA, (medium,))
    )
    ours, theirs = together.features[medium], alone.features[medium]
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert (ours.notes, ours.seconds) == (theirs.notes, theirs.seconds)


def test_a_row_of_which_nothing_is_wanted_is_passed_through_without_a_look(tmp_path: Path) -> None:
    config = small_config()
    requests = wanted([make_utterance(clip="not there.mp4")], ())
    (extracted,) = extract_all(tmp_path, requests, config=config, spec=small_spec(config), num_workers=1)
    assert extracted.features == {}


def test_a_twin_that_crashes_its_decoder_does_not_cost_the_clip_beside_it(tmp_path: Path) -> None:
    (row,) = write_rows(tmp_path, 1)
    write_crashing_clip(tmp_path / "twin.mp4")
    with_twin = make_utterance(0, clip=row.clip, twin="twin.mp4", annotated_seconds=0.1)
    choices: tuple[WhichClips, ...] = ("auto", "plain")
    for test_clips in choices:
        (extracted,) = run(tmp_path, [with_twin], test_clips=test_clips)
        assert extracted.video.presence.present
        assert extracted.path == row.clip


def test_a_clip_that_hangs_its_decoder_costs_itself_alone(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 4)
    pipe = tmp_path / "1.mp4"
    pipe.unlink()
    os.mkfifo(pipe)  # opening it waits for somebody who writes to it

    def release() -> None:
        writer = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        pipe.unlink()
        os.close(writer)

    late = threading.Timer(30, release)  # so that a pool without a timeout fails this test and does not hang it
    late.start()
    extracts = run(tmp_path, rows, num_workers=2, clip_timeout_seconds=2.0)
    late.cancel()
    assert [extracted.video.presence.present for extracted in extracts] == [True, False, True, True]
    hung = "the decoder hung: killed after 2 s"
    assert extracts[1].video.presence.reason == extracts[1].audio.presence.reason == f"{hung}; with PyAV, {hung}"
    assert extracts[1].video.killed
    assert extracts[1].audio.killed


class DiesWhereDecordIs(Workers):
    """Does the work itself, but for the picture of a row by Decord, over which every worker dies."""

    def __init__(self, death: signal.Signals) -> None:
        """Start no process."""
        self._death = death

    def schedule(
        self, function: Callable[..., Any], *, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float
    ) -> "Future[Any]":
        future: Future[Any] = Future()
        if kwargs["trouble"] or kwargs["media"] == ("audio",) or args[1].clip == "known-good.mp4":
            future.set_result(function(*args, **kwargs))
        else:
            future.set_exception(WorkerDiedError(-self._death))
        return future


def test_a_clip_over_which_decord_crashes_is_read_by_pyav(tmp_path: Path) -> None:
    config = small_config()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clips = _Clips(DiesWhereDecordIs(signal.SIGABRT), tmp_path, config=config, spec=small_spec(config), scratch=scratch)
    (row,) = write_rows(tmp_path, 1)
    extracted = clips.finish(clips.start(Request(row=row, media=MEDIA)))
    assert second_decoder(extracted) == ["picture by PyAV: the decoder crashed: SIGABRT"]  # its sound alone does not
    assert (extracted.video.presence.present, extracted.video.killed) == (True, False)


def test_what_pyav_reads_because_decord_was_killed_from_outside_is_tried_again_by_the_next_run(tmp_path: Path) -> None:
    """Else two runs over the same clips would give different bytes, by what else the machine was at."""
    config = small_config()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clips = _Clips(DiesWhereDecordIs(signal.SIGKILL), tmp_path, config=config, spec=small_spec(config), scratch=scratch)
    (row,) = write_rows(tmp_path, 1)
    extracted = clips.finish(clips.start(Request(row=row, media=MEDIA)))
    assert second_decoder(extracted) == ["picture by PyAV: the decoder crashed: SIGKILL"]
    assert (extracted.video.presence.present, extracted.video.killed) == (True, True)
    assert (extracted.audio.presence.present, extracted.audio.killed) == (True, False)


class DiesOfEverything(Workers):
    """Workers of a machine on which no clip can be decoded: each dies, or says that there is no memory."""

    def __init__(self, outcome: Exception | str) -> None:
        """Start no process."""
        self._outcome = outcome

    def schedule(
        self, function: Callable[..., Any], *, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float
    ) -> "Future[Any]":
        future: Future[Any] = Future()
        if isinstance(self._outcome, Exception):
            future.set_exception(self._outcome)
        else:
            features = {medium: absent_feature(self._outcome) for medium in kwargs["media"]}
            future.set_result(Extract(path="", notes=(), features=features))
        return future


@pytest.mark.parametrize(
    "outcome",
    [
        WorkerDiedError(1),
        WorkerDiedError(-signal.SIGSEGV),
        WorkerDiedError(-signal.SIGKILL),
        WorkerHungError(),
        MemoryError(),
        ImportError("libcuda.so.1"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        "the picture cannot be read: Cannot allocate memory",
    ],
    ids=str,
)
def test_what_fails_of_every_clip_is_the_machine_and_ends_the_run(tmp_path: Path, outcome: Exception | str) -> None:
    config = small_config()
    rows = write_rows(tmp_path, 1)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    clips = _Clips(DiesOfEverything(outcome), tmp_path, config=config, spec=small_spec(config), scratch=scratch)
    with pytest.raises(MachineError, match="fewer `--workers`"):
        clips.finish(clips.start(Request(row=rows[0], media=MEDIA)))


def test_the_known_good_clip_is_good(tmp_path: Path) -> None:
    for decoder in ("decord", "pyav"):
        config = small_config(decoder=decoder)
        found = extract(
            tmp_path,
            write_known_good(tmp_path),
            media=MEDIA,
            decoder=config.decoder,
            spec=small_spec(config),
            test_clips="plain",
        )
        assert found.video.presence.present
        assert found.audio.presence.present
        assert found.notes == ()


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("name", ["ep01-12:30.mp4", "file:a.mp4", "-y.mp4", "concat:a|b.mp4", "%03d.mp4"])
def test_a_name_of_any_letters_is_a_file_below_a_relative_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: Literal["decord", "pyav"], name: str
) -> None:
    write_clip(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    config = small_config(decoder=decoder)
    row = make_utterance(clip=name)
    found = extract(Path(), row, media=MEDIA, decoder=decoder, spec=small_spec(config), test_clips="plain")
    assert found.video.presence.present
    assert found.audio.presence.present


def test_a_larger_file_has_more_time(tmp_path: Path) -> None:
    """By the tasks' own account: waiting for it would take too long."""
    for name, size in (("small.mp4", 0), ("large.mp4", 3_000_000)):
        (tmp_path / name).write_bytes(bytes(size))
    config = small_config(clip_timeout_seconds=5.0)
    workers = Workers(1, initializer=keep_quiet, context=_context())
    clips = _Clips(workers, tmp_path, config=config, spec=small_spec(config), scratch=tmp_path)
    tasks = [
        clips.start(Request(row=make_utterance(clip=clip, twin=twin), media=MEDIA))
        for clip, twin in (("small.mp4", ""), ("large.mp4", ""), ("large.mp4", "large.mp4"))
    ]
    workers.stop()
    assert [task.timeout_seconds for task in tasks] == [5.0, 35.0, 65.0]


def test_a_bug_in_a_worker_is_raised_and_leaves_no_process_behind(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 2)
    rows[1] = replace(rows[1], span="soon")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        run(tmp_path, rows)
    assert multiprocessing.active_children() == []


def test_a_run_that_ends_early_leaves_no_process_behind(tmp_path: Path) -> None:
    rows = write_rows(tmp_path, 6)
    config = small_config()
    extracts = extract_all(tmp_path, wanted(rows), config=config, spec=small_spec(config), num_workers=2)
    next(extracts)
    assert multiprocessing.active_children() != []
    extracts.close()
    assert multiprocessing.active_children() == []


def test_rows_are_taken_only_a_little_ahead(tmp_path: Path) -> None:
    taken = []

    def rows() -> Iterator[Utterance]:
        for number in range(100):
            taken.append(number)
            yield make_utterance(number)

    config = small_config()
    extracts = extract_all(tmp_path, wanted(rows()), config=config, spec=small_spec(config), num_workers=2)
    for _ in range(3):
        next(extracts)
    assert len(taken) <= 3 + 2 * _AHEAD
    extracts.close()


# How a worker may end. These run in workers, so they stand at the top of the file.


def sleep_long() -> None:
    time.sleep(60)


def abort() -> None:
    os.abort()


def exit_at_once(code: int) -> None:
    os._exit(code)


def send_signal(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def raise_assertion() -> None:
    raise AssertionError("a bug")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    workers = Workers(2, initializer=keep_quiet, context=_context())
    yield workers
    workers.stop()


def death_in(workers: Workers, function: Callable[..., None], *args: int, timeout_seconds: float = 30.0) -> Death:
    future = workers.schedule(function, args=args, kwargs={}, timeout=timeout_seconds)
    outcome = outcome_of(future, timeout_seconds=timeout_seconds)
    assert isinstance(outcome, Death)
    return outcome


@pytest.mark.parametrize(
    ("function", "args", "reason"),
    [
        (abort, (), "SIGABRT"),
        (send_signal, (signal.SIGKILL,), "SIGKILL"),
        (send_signal, (signal.SIGSEGV,), "SIGSEGV"),
        (send_signal, (40,), "signal 40"),
        (exit_at_once, (7,), "exit code 7"),
    ],
)
def test_a_worker_that_dies_is_a_reason(
    workers: Workers, function: Callable[..., None], args: tuple[int], reason: str
) -> None:
    death = death_in(workers, function, *args)
    assert death == Death(reason=f"the decoder crashed: {reason}", from_outside=reason == "SIGKILL")


def test_a_worker_that_hangs_is_killed_and_is_a_reason(workers: Workers) -> None:
    death = death_in(workers, sleep_long, timeout_seconds=1.0)
    assert death == Death(reason="the decoder hung: killed after 1 s", timed_out=True)


def test_an_error_that_is_not_about_the_clip_is_raised(workers: Workers) -> None:
    with pytest.raises(AssertionError, match="a bug"):
        death_in(workers, raise_assertion)


def test_a_worker_says_nothing_on_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.mp4").write_bytes(b"hello" * 200)  # FFmpeg has something to say about it
    write_clip(tmp_path / "1.mp4")
    run(tmp_path, [make_utterance(0, clip="0.mp4"), make_utterance(1, clip="1.mp4")])
    assert capfd.readouterr() == ("", "")


def test_arrays_come_back_as_they_were_made(tmp_path: Path) -> None:
    (row,) = write_rows(tmp_path, 1)
    (extracted,) = run(tmp_path, [row])
    config = small_config()
    assert extracted.video.array.shape == (config.num_frames, config.height, config.width, 3)
    assert extracted.video.array.dtype == np.uint8
    assert extracted.audio.array.shape == (config.num_mels, config.num_hops)
    assert extracted.audio.array.dtype == np.float16
