"""Signals to a run in this very process, placed at exact steps; tests/test_training_kills.py has real processes."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mmsent.runs.folder import checkpoint_paths
from mmsent.runs.history import EpochResult, StepInfo
from mmsent.training.interrupt import SignalWatch
from tests.mmsent.training.test_start import CONFIG, assert_same_run, run, shards

__all__ = ["shards"]


def send(signum: int) -> None:
    """Signal this process, and wait until the thread that watches has seen it."""
    os.kill(os.getpid(), signum)
    time.sleep(0.2)


RARELY = replace(CONFIG, checkpoint_steps=1000)  # so that nothing but the signal saves within an epoch


@pytest.mark.parametrize(
    ("stop_at", "signum"),
    [
        ((0, 1), signal.SIGTERM),
        ((0, 2), signal.SIGINT),
        ((1, 1), signal.SIGHUP),
        ((2, 2), signal.SIGUSR1),
        ((0, 1), signal.SIGINT),
        ((2, 2), signal.SIGTERM),
    ],
)
def test_a_run_that_a_signal_ended_at_any_step_and_resumed_ends_as_one_never_stopped(
    shards: Path, tmp_path: Path, stop_at: tuple[int, int], signum: int
) -> None:
    run(shards, tmp_path / "whole", config=RARELY)

    def stop(info: StepInfo) -> None:
        if (info.epoch, info.step) == stop_at:
            send(signum)

    stopped = run(shards, tmp_path / "stopped", config=RARELY, on_step=stop)
    assert stopped.signum == signum
    assert stopped.num_steps < 9
    assert run(shards, tmp_path / "stopped", config=RARELY, resume=True).signum == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_signal_that_is_ignored_stays_ignored(shards: Path, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` leaves it
    try:
        assert run(shards, tmp_path / "run", config=RARELY, on_step=lambda info: send(signal.SIGHUP)).signum == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_a_signal_ended_in_evaluation_goes_on_with_it(shards: Path, tmp_path: Path) -> None:
    run(shards, tmp_path / "whole", config=RARELY)

    def stop(info: StepInfo) -> None:
        if info.step == info.num_steps:  # the next thing that the run does is to evaluate
            send(signal.SIGTERM)

    seen: list[EpochResult] = []
    stopped = run(shards, tmp_path / "stopped", config=RARELY, on_step=stop, on_epoch=seen.append)
    assert (stopped.num_steps, len(stopped.epochs), seen) == (3, 0, [])
    steps: list[StepInfo] = []
    run(shards, tmp_path / "stopped", config=RARELY, resume=True, on_step=steps.append)
    assert steps[0].epoch == 1
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_signal_between_two_epochs_saves_nothing_twice(shards: Path, tmp_path: Path) -> None:
    def stop(_: EpochResult) -> None:
        send(signal.SIGTERM)

    stopped = run(shards, tmp_path / "run", config=RARELY, on_epoch=stop)
    assert (stopped.num_steps, len(stopped.epochs)) == (3, 1)
    assert len(checkpoint_paths(tmp_path / "run")) == 1


def test_the_default_actions_of_signals_are_back_after_a_run(shards: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    run(shards, tmp_path / "run", config=replace(CONFIG, max_epochs=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_save_that_fails_is_raised_where_the_run_ends() -> None:
    def save() -> None:
        raise OSError("no room")

    watch = SignalWatch(save=save, on_exit=lambda line: None)
    with pytest.raises(OSError, match="no room"), watch:
        send(signal.SIGTERM)


def test_a_run_outside_of_the_main_thread_leaves_signals_alone(shards: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def note(_: StepInfo) -> None:
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(
        target=run,
        args=(shards, tmp_path / "run"),
        kwargs={"config": replace(CONFIG, max_epochs=1), "on_step": note},
    )
    thread.start()
    thread.join()
    assert seen == [before] * 3
