from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsent.bench.timing import Case, Group, Kind, Timing, measure
from shards.errors import ShardError, describe


class Fake:
    """A case that keeps account of its calls."""

    def __init__(self, name: str, calls: list[str], *, fails_at: int = 0, failure: Exception | None = None) -> None:
        self.name = name
        self.num_runs = 0
        self._calls = calls
        self._fails_at = fails_at
        self._failure = failure or ShardError("no")

    def run(self) -> int:
        self.num_runs += 1
        self._calls.append(self.name)
        if self.num_runs == self._fails_at:
            raise self._failure
        return 10

    def case(
        self,
        *,
        group: Group = "loading",
        kind: Kind = "ours",
        prepare: Callable[[], None] | None = None,
        once_if_over_seconds: float = 60.0,
    ) -> Case:
        return Case(
            name=self.name,
            run=self.run,
            kind=kind,
            group=group,
            prepare=prepare,
            once_if_over_seconds=once_if_over_seconds,
        )


def timing_of(*rates: float, group: Group = "loading", failure: str = "") -> Timing:
    return Timing(
        name="a",
        kind="ours",
        group=group,
        num_readers=1,
        samples_per_second=rates,
        cpu_seconds_per_1000=rates,
        failure=failure,
    )


def test_every_round_is_a_figure_and_the_first_run_is_none() -> None:
    fake = Fake("a", [])
    (timing,) = measure([fake.case()], rounds=3)
    assert fake.num_runs == 4
    assert len(timing.samples_per_second) == len(timing.cpu_seconds_per_1000) == 3
    assert min(timing.samples_per_second) > 0
    assert min(timing.cpu_seconds_per_1000) >= 0
    assert (timing.name, timing.kind, timing.group, timing.failure) == ("a", "ours", "loading", "")


def test_what_is_prepared_needs_no_run_that_does_not_count() -> None:
    calls: list[str] = []
    (timing,) = measure([Fake("run", calls).case(prepare=lambda: calls.append("prepare"))], rounds=2)
    assert calls == ["prepare", "run", "run"]
    assert len(timing.samples_per_second) == 2


def test_cases_of_a_group_take_turns_and_groups_come_one_after_the_other() -> None:
    calls: list[str] = []
    training, loading, reading = Fake("t", calls), Fake("l", calls), Fake("r", calls)
    other = Fake("o", calls)
    cases = [loading.case(), training.case(group="training"), reading.case(group="reading"), other.case()]
    timings = measure(cases, rounds=2)
    assert calls == [*"lololo", *"ttt", *"rrr"]
    assert [timing.name for timing in timings] == ["l", "t", "r", "o"]


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_way_that_fails_is_not_tried_again_and_has_its_reason_instead_of_figures(fails_at: int) -> None:
    calls: list[str] = []
    reason = describe("no weights", then="get some")
    bad, good = Fake("bad", calls, fails_at=fails_at, failure=ShardError(reason)), Fake("good", calls)
    failed, fine = measure([bad.case(), good.case()], rounds=3)
    assert bad.num_runs == fails_at
    assert good.num_runs == 4
    assert failed.failure == reason
    assert failed.samples_per_second == failed.cpu_seconds_per_1000 == ()
    assert len(fine.samples_per_second) == 3


def test_a_way_that_cannot_be_prepared_is_not_run() -> None:
    def prepare() -> None:
        raise ImportError("no such library")

    fake = Fake("a", [])
    (timing,) = measure([fake.case(prepare=prepare)], rounds=2)
    assert (fake.num_runs, timing.failure) == (0, "no such library")


def test_a_bug_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        measure([Fake("a", [], fails_at=2, failure=ZeroDivisionError()).case()], rounds=2)


def test_whatever_fails_in_what_others_made_is_a_result_and_not_the_end() -> None:
    failure = RuntimeError("worker (pid 7) is killed by signal: Bus error")
    (timing,) = measure([Fake("a", [], fails_at=2, failure=failure).case(kind="other")], rounds=2)
    assert timing.failure == "RuntimeError: worker (pid 7) is killed by signal: Bus error"


def test_a_run_that_took_too_long_is_not_repeated_and_counts() -> None:
    slow, quick = Fake("slow", []), Fake("quick", [])
    slow_timing, quick_timing = measure([slow.case(once_if_over_seconds=0.0), quick.case()], rounds=4)
    assert (slow.num_runs, len(slow_timing.samples_per_second)) == (2, 1)  # the one that does not count, and one
    assert (quick.num_runs, len(quick_timing.samples_per_second)) == (5, 4)
    assert not slow_timing.failure


def test_progress_counts_to_the_end_whatever_is_left_out() -> None:
    seen: list[tuple[int, int]] = []
    cases = [Fake("a", [], fails_at=1).case(), Fake("b", []).case(group="training", once_if_over_seconds=0.0)]
    measure(cases, rounds=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]


def test_processor_time_is_that_of_all_threads() -> None:
    def burn() -> None:
        sum(i * i for i in range(1_000_000))

    def run() -> int:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(burn).result()
        return 1

    (timing,) = measure([Case(name="a", run=run, kind="ours", group="loading")], rounds=1)
    assert timing.cpu_seconds_per_1000[0] > 5  # 5 ms of a thread that the caller waits for


def test_median_and_spread_are_over_the_rounds() -> None:
    timing = timing_of(30.0, 10.0, 20.0)
    assert (timing.median, timing.spread) == (20.0, (10.0, 30.0))


def test_what_was_not_measured_has_a_rate_of_nothing() -> None:
    timing = timing_of(failure="no")
    assert (timing.median, timing.spread) == (0.0, (0.0, 0.0))


def test_times_is_the_median_of_the_ratios_of_each_round_so_that_a_slow_minute_meets_both() -> None:
    slow_second_round, also_slow = timing_of(100.0, 10.0, 100.0), timing_of(50.0, 5.0, 20.0)
    assert slow_second_round.times(also_slow) == 2.0


def test_times_across_groups_or_with_runs_left_out_is_of_medians() -> None:
    assert timing_of(100.0, 10.0, 90.0).times(timing_of(9.0, 9.0, 1.0, group="training")) == 10.0
    assert timing_of(100.0, 10.0, 90.0).times(timing_of(9.0)) == 10.0


@given(st.lists(st.floats(1.0, 1e6), min_size=1, max_size=7), st.floats(1.0, 100.0))
def test_a_way_that_is_always_so_many_times_as_fast_is_that_many_times_as_fast(
    rates: list[float], ratio: float
) -> None:
    slow, fast = timing_of(*rates), timing_of(*(rate * ratio for rate in rates))
    assert fast.times(slow) == pytest.approx(ratio)
    assert slow.times(fast) == pytest.approx(1 / ratio)
    low, high = slow.spread
    assert low <= slow.median <= high
