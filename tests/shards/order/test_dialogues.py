import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.errors import ShardError
from shards.order.dialogues import check_dialogues, rows_of_turns


def in_dialogues(sizes: list[int]) -> NDArray[np.uint64]:
    """Return the dialogue of each sample; those of the third and sixth one and so on are unknown."""
    numbers = [
        0 if (place + 1) % 3 == 0 else 2**64 - 1 - place for place, size in enumerate(sizes) for _ in range(size)
    ]
    return np.array(numbers, dtype=np.uint64)


def naive_turns(sample: int, dialogues: NDArray[np.uint64], num_turns: int) -> list[int]:
    """Go back from a sample, one by one, oldest first in the result; -1 where there is none."""
    found = [sample]
    while len(found) < num_turns:
        last = found[0]
        goes_on = last > 0 and dialogues[last] != 0 and dialogues[last - 1] == dialogues[last]
        if last == -1 or not goes_on:
            return [-1] * (num_turns - len(found)) + found
        found.insert(0, last - 1)
    return found


@settings(deadline=None, max_examples=200)
@example(sizes=[3], num_turns=2, places=[2, 1])
@example(sizes=[4], num_turns=4, places=[3, 3, 0])
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    num_turns=st.integers(1, 8),
    places=st.lists(st.integers(0, 29), max_size=9),
)
def test_windows_are_what_going_back_one_by_one_finds(sizes: list[int], num_turns: int, places: list[int]) -> None:
    dialogues = in_dialogues(sizes)
    asked = np.array([place % len(dialogues) for place in places], dtype=np.int64)
    samples, window = rows_of_turns(asked, dialogues=dialogues, num_turns=num_turns)
    expected = [naive_turns(int(sample), dialogues, num_turns) for sample in asked]
    assert window.shape == (len(asked), num_turns)
    assert [[-1 if row < 0 else int(samples[row]) for row in rows] for rows in window] == expected
    assert window[:, -1].tolist() == list(range(len(asked)))


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    num_turns=st.integers(1, 8),
    places=st.lists(st.integers(0, 29), max_size=9),
)
def test_rows_are_the_samples_asked_for_and_each_earlier_one_once(
    sizes: list[int], num_turns: int, places: list[int]
) -> None:
    dialogues = in_dialogues(sizes)
    asked = np.array([place % len(dialogues) for place in places], dtype=np.int64)
    samples, _ = rows_of_turns(asked, dialogues=dialogues, num_turns=num_turns)
    needed = {turn for sample in asked for turn in naive_turns(int(sample), dialogues, num_turns)} - {-1}
    assert samples[: len(asked)].tolist() == asked.tolist()
    assert samples[len(asked) :].tolist() == sorted(needed - set(asked.tolist()))


@settings(deadline=None, max_examples=100)
@example(numbers=[1, 2, 1], num_turns=3)
@given(numbers=st.lists(st.integers(0, 2), min_size=1, max_size=12), num_turns=st.integers(1, 5))
def test_a_dialogue_begins_anew_after_a_sample_of_another(numbers: list[int], num_turns: int) -> None:
    dialogues = np.array(numbers, dtype=np.uint64)
    asked = np.arange(len(numbers))
    samples, window = rows_of_turns(asked, dialogues=dialogues, num_turns=num_turns)
    assert samples.tolist() == asked.tolist()
    assert window.tolist() == [naive_turns(sample, dialogues, num_turns) for sample in asked.tolist()]


def test_the_example_of_the_documentation_is_true() -> None:
    samples, window = rows_of_turns(np.array([3, 2]), dialogues=np.array([7, 8, 8, 8], dtype=np.uint64), num_turns=2)
    assert (samples.tolist(), window.tolist()) == ([3, 2, 1], [[1, 0], [2, 1]])


@pytest.mark.parametrize("numbers", [[5, 5, 6, 6], [0, 5, 0, 0, 6], [5]], ids=str)
def test_dialogues_in_one_piece_each_are_taken(numbers: list[int]) -> None:
    check_dialogues(np.array(numbers, dtype=np.uint64), where="here")


def test_a_split_without_dialogues_is_refused_with_the_remedy() -> None:
    with pytest.raises(ShardError, match=r"(?s)do not say which dialogue.*file: here.*--set model.dialogue_turns=1"):
        check_dialogues(np.zeros(3, dtype=np.uint64), where="here")


@pytest.mark.parametrize(("numbers", "pieces"), [([5, 6, 5], 3), ([5, 0, 5], 2), ([0, 5, 6, 0, 6], 3)], ids=str)
def test_a_dialogue_in_pieces_is_refused_with_their_number(numbers: list[int], pieces: int) -> None:
    with pytest.raises(ShardError, match=rf"(?s)lie in {pieces} pieces.*file: here.*sort the annotations"):
        check_dialogues(np.array(numbers, dtype=np.uint64), where="here")
