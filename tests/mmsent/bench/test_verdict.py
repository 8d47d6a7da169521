import pytest

from mmsent.bench.timing import Group, Kind, Timing
from mmsent.bench.verdict import three_figures, verdict


def timing(
    name: str, *rates: float, kind: Kind = "other", group: Group = "loading", num_readers: int = 0, failure: str = ""
) -> Timing:
    return Timing(
        name=name,
        kind=kind,
        group=group,
        num_readers=num_readers,
        samples_per_second=rates,
        cpu_seconds_per_1000=(0.1,) * len(rates),
        failure=failure,
    )


def loader(*rates: float) -> list[Timing]:
    """A limit of 12,000, and the loader with 1, 2, … readers at these rates."""
    ours = [timing(f"mmsent, {n}", rate, kind="ours", num_readers=n) for n, rate in enumerate(rates, start=1)]
    return [timing("copying memory", 12_000.0, kind="limit"), *ours]


def trainer(
    headroom: float | tuple[float, ...], fed: float | tuple[float, ...], *, num_readers: int = 1
) -> list[Timing]:
    rates = [value if isinstance(value, tuple) else (value,) for value in (headroom, fed)]
    return [
        timing("alone", *rates[0], kind="headroom", group="training"),
        timing("fed", *rates[1], kind="fed", group="training", num_readers=num_readers),
    ]


def test_a_trainer_that_hardly_waits_is_bound_by_the_model() -> None:
    first, then, *_ = verdict([*loader(900.0), *trainer(100.0, 99.0)])
    assert first == (
        "The model bounds training here, not the data: 100 samples/s on one batch again and again, 99.0 on the "
        "loader's batches. The loader alone gives 9.00 times what the model takes."
    )
    assert "`mmsent train --precision`" in then


def test_a_trainer_that_was_faster_with_the_loader_waits_for_nothing() -> None:
    first, *_ = verdict([*loader(900.0), *trainer(100.0, 104.0)])
    assert first.startswith("The model bounds training here, not the data")


def test_a_loader_that_gives_far_more_than_the_model_takes_is_not_what_it_waited_for() -> None:
    first, *_ = verdict([*loader(9_000.0), *trainer(1.2, 0.8)])
    assert first.startswith("The model bounds training here, not the data: 1.20 samples/s on one batch")


def test_a_small_difference_between_rates_that_overlap_is_none() -> None:
    first, *_ = verdict([*loader(900.0), *trainer((100.0, 90.0, 110.0), (90.0, 81.0, 99.0))])
    assert first.startswith("The model bounds training here, not the data")


def test_a_large_difference_counts_even_between_rates_that_overlap() -> None:
    first, *_ = verdict([*loader(900.0), *trainer((100.0, 100.0, 10.0), (20.0, 20.0, 11.0))])
    assert first.startswith("The data bounds training here")


def test_a_loader_that_is_faster_with_more_readers_names_their_number() -> None:
    words = verdict([*loader(3_000.0, 5_000.0, 9_000.0), *trainer(8_000.0, 2_800.0)])
    assert words[0] == (
        "The data bounds training here: 8,000 samples/s on one batch again and again, 2,800 on the loader's batches; "
        "65% of the time is lost."
    )
    assert words[1] == "Give `mmsent train` `--set train.num_readers=3`, which loads 3.0 times as fast."


def test_a_loader_that_is_faster_with_fewer_readers_names_their_number() -> None:
    words = verdict([*loader(9_000.0, 3_000.0), *trainer(8_000.0, 2_800.0, num_readers=2)])
    assert words[1].startswith("Give `mmsent train` `--set train.num_readers=1`")


@pytest.mark.parametrize("rates", [(5_000.0, 5_200.0), (5_200.0, 5_000.0)])
def test_a_loader_that_no_number_of_readers_helps_asks_for_smaller_samples(rates: tuple[float, float]) -> None:
    words = verdict([*loader(*rates), *trainer(8_000.0, 4_500.0)])
    assert words[0].startswith("The model bounds training here, but waits for data: ")
    assert words[0].endswith("44% of the time is lost.")
    assert words[1].startswith("Other numbers of readers (`train.num_readers`) do not help: make smaller samples")


def test_a_loader_that_is_fast_enough_by_itself_is_not_given_more_readers() -> None:
    words = verdict([*loader(500.0, 9_000.0), *trainer(100.0, 80.0)])
    assert words[0].startswith("The model bounds training here, but waits for data: ")
    assert "The loader alone gives 5.00 times what the model takes" in words[1]
    assert "`OMP_NUM_THREADS`" in words[1]
    assert "Give `mmsent train`" not in " ".join(words)


def test_the_loader_is_held_against_the_copy() -> None:
    words = verdict([*loader(6_000.0, 9_000.0), *trainer(100.0, 100.0)])
    assert "The loader alone gives 9,000 samples/s with 2 readers: 0.75 of what one thread copies." in words
    words = verdict([*loader(9_000.0), *trainer(100.0, 100.0)])
    assert "The loader alone gives 9,000 samples/s with 1 reader: 0.75 of what one thread copies." in words


def test_a_trainer_that_could_not_be_measured_is_said_with_the_first_line_of_its_reason() -> None:
    failed = [
        timing("alone", kind="headroom", group="training", failure="no such weights\n  next: download them"),
        timing("fed", kind="fed", group="training", failure="no such weights\n  next: download them"),
    ]
    first, second, *_ = verdict([*loader(9_000.0), *failed])
    assert first == "What bounds training is not known, since the trainer was not measured (no such weights)."
    assert second.startswith("The loader alone gives 9,000")


def test_a_trainer_that_failed_only_with_the_loader_is_not_measured_either() -> None:
    alone, _ = trainer(100.0, 90.0)
    failed = timing("fed", kind="fed", group="training", failure="the loss is nan")
    first, *_ = verdict([*loader(9_000.0), alone, failed])
    assert first == "What bounds training is not known, since the trainer was not measured (the loss is nan)."


def test_without_a_trainer_nothing_is_said_of_its_reason() -> None:
    first, *_ = verdict(loader(9_000.0))
    assert first == "What bounds training is not known, since the trainer was not measured."


def test_a_loader_that_could_not_be_measured_is_the_verdict() -> None:
    ours = timing("mmsent, 1", kind="ours", num_readers=1, failure="a.tar is damaged\n  next: repair it")
    assert verdict([timing("copying memory", 1.0, kind="limit"), ours, *trainer(1.0, 1.0)]) == [
        "Nothing can be said, since the loader was not measured (a.tar is damaged)."
    ]


def test_others_come_fastest_first_with_what_training_on_them_would_lose() -> None:
    others = [
        timing("stock webdataset", 40.0),
        timing("torch over files", 300.0),
        timing("Decord on every access", 4.0, group="decoding"),
        timing("not there", failure="no"),
    ]
    words = verdict([*loader(9_000.0), *others, *trainer(100.0, 100.0)])
    assert words[3:] == [
        "Torch over files: 300 samples/s; the loader gives 30.0 times that.",
        "Stock webdataset: 40.0 samples/s; the loader gives 225 times that, "
        "and training on it would wait for at least 60% of the time.",
        "Decord on every access: 4.00 samples/s; the loader gives 2,250 times that, "
        "and training on it would wait for at least 96% of the time.",
    ]


def test_others_are_compared_with_the_loader_where_no_trainer_is() -> None:
    words = verdict([*loader(9_000.0), timing("stock webdataset", 40.0)])
    assert words[-1] == "Stock webdataset: 40.0 samples/s; the loader gives 225 times that."


def test_every_byte_read_is_another_comparison_and_does_not_count_here() -> None:
    reading = [timing("copying", 1.0, kind="limit", group="reading"), timing("m", 1.0, kind="ours", group="reading")]
    assert verdict([*reading, *loader(9_000.0)]) == verdict(loader(9_000.0))


@pytest.mark.parametrize(
    ("value", "text"), [(0.004, "0.00"), (1.678, "1.68"), (9.994, "9.99"), (99.7, "99.7"), (1234.5, "1,234")]
)
def test_numbers_have_three_figures_and_no_exponent(value: float, text: str) -> None:
    assert three_figures(value) == text
