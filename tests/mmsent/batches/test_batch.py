from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsent.batches.batch import Batch, to_device
from shards.reading.host_batch import HostBatch
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.schema import MODALITIES, Modality
from tests.support.batches import make_batch
from tests.support.samples import loader_in_order, make_sample, make_spec, write_split


def loader_of(tmp_path: Path, *, absent: tuple[str, ...] = ()) -> ShardLoader:
    write_split(tmp_path, [make_sample(i, absent=absent if i == 1 else ()) for i in range(4)])
    return loader_in_order(Split(tmp_path / "train"), batch_size=4)


def test_frames_reach_the_model_as_channels_first_in_channels_last_memory(tmp_path: Path) -> None:
    batch = to_device(next(iter(loader_of(tmp_path))), torch.device("cpu"))
    assert batch.frames.shape == (4, 3, 4, 8, 8)
    assert batch.frames.is_contiguous(memory_format=torch.channels_last_3d)
    expected = make_sample(2).frames.transpose(3, 0, 1, 2)
    np.testing.assert_array_equal(batch.frames[2].numpy(), expected)


def test_text_is_cut_to_the_longest_of_the_batch(tmp_path: Path) -> None:
    batch = to_device(next(iter(loader_of(tmp_path))), torch.device("cpu"))
    lengths = [make_sample(i).meta.num_tokens for i in range(4)]
    assert batch.tokens.shape == (4, max(lengths))
    assert max(lengths) < make_spec().text.max_tokens
    assert batch.token_mask.sum(dim=1).tolist() == lengths


def test_rows_name_the_samples_that_have_a_modality(tmp_path: Path) -> None:
    batch = to_device(next(iter(loader_of(tmp_path, absent=("video", "audio")))), torch.device("cpu"))
    assert batch.rows["video"].tolist() == [0, 2, 3]
    assert batch.rows["audio"].tolist() == [0, 2, 3]
    assert batch.rows["text"].tolist() == [0, 1, 2, 3]


def test_without_a_dialogue_every_sample_is_a_window_of_its_own(tmp_path: Path) -> None:
    batch = to_device(next(iter(loader_of(tmp_path))), torch.device("cpu"))
    assert batch.window.tolist() == [[0], [1], [2], [3]]
    assert batch.samples.tolist() == [0, 1, 2, 3]
    assert (len(batch), batch.num_rows) == (4, 4)


def assert_same(got: Batch, expected: Batch) -> None:
    for ours, theirs in zip(got.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert got.samples.tolist() == expected.samples.tolist()


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_a_part_is_the_batch_of_its_samples_alone(data: st.DataObject) -> None:
    """Sample i is judged with rows of its own past; which of them, and what they lack, is drawn."""
    num_judged, num_others, turns = (data.draw(st.integers(low, 4)) for low in (1, 0, 1))
    numbers = data.draw(st.permutations(range(20)))[: num_judged + num_others]
    places = st.lists(st.integers(-1, len(numbers) - 1), min_size=turns - 1, max_size=turns - 1)
    window = [[*sorted(data.draw(places), key=lambda place: place >= 0), row] for row in range(num_judged)]
    absent: dict[int, tuple[Modality, ...]] = {3: ("video",), 4: ("audio", "text"), 5: MODALITIES}
    features: dict[Modality, int] = {"text": 5}
    whole = make_batch(numbers, window=window, absent=absent, features=features)
    start = data.draw(st.integers(0, num_judged - 1))
    stop = data.draw(st.integers(start + 1, num_judged))
    judged = range(start, stop)
    others = sorted({place for row in judged for place in window[row] if place >= 0} - set(judged))
    rows = [*judged, *others]
    expected = make_batch(
        [numbers[row] for row in rows],
        window=[[rows.index(place) if place >= 0 else -1 for place in window[row]] for row in judged],
        absent=absent,
        features=features,
    )
    labels = {task: values[start:stop] for task, values in whole.labels.items()}
    if (start, stop) == (0, num_judged):
        assert whole.part(start, stop) is whole
    else:
        assert_same(whole.part(start, stop), replace(expected, labels=labels))


def test_a_part_leaves_channels_last_memory_and_arrays_that_are_not_there_as_they_are() -> None:
    batch = replace(make_batch([1, 2, 3], window=[[-1, 0], [2, 1]]), logmel=torch.zeros(0), tokens=torch.zeros(0))
    part = batch.part(1, 2)
    assert part.frames.is_contiguous(memory_format=torch.channels_last_3d)
    assert part.logmel.shape == part.tokens.shape == (0,)
    assert part.samples.tolist() == [2, 3]


def test_an_array_that_is_not_to_be_read_and_encoded_features_reach_the_device(tmp_path: Path) -> None:
    host = next(iter(loader_of(tmp_path)))
    features = np.arange(8, dtype=np.float32).reshape(4, 2)
    window = np.array([[-1, 0], [0, 1]])
    values = {name: getattr(host, name) for name in (*HostBatch.__dataclass_fields__,)}
    values |= {"frames": np.zeros(0, np.uint8), "tokens": np.zeros(0, np.int32)}
    encoded: Any = SimpleNamespace(**{**values, "features": {"video": features}, "window": window})
    batch = to_device(encoded, torch.device("cpu"))
    assert batch.frames.shape == batch.tokens.shape == batch.token_mask.shape == (0,)
    assert torch.equal(batch.features["video"], torch.from_numpy(features))
    assert (len(batch), batch.num_rows) == (2, 4)
