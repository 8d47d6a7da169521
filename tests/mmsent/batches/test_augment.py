from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsent.batches.augment import augment
from mmsent.batches.batch import Batch
from mmsent.config import TrainConfig
from shards.schema import MODALITIES, Modality
from tests.support.batches import make_batch

ALL = TrainConfig(crop_and_flip=True, spec_augment=True, modality_dropout=0.4, seed=3)
ABSENT: dict[int, tuple[Modality, ...]] = {2: ("video", "audio"), 5: ("audio",), 7: MODALITIES}


def augmented(samples: Sequence[int], config: TrainConfig = ALL, *, epoch: int = 4) -> Batch:
    return augment(make_batch(samples, absent=ABSENT), config, epoch=epoch, modalities=MODALITIES)


def row(batch: Batch, index: int) -> dict[str, torch.Tensor]:
    """All that augmentation may change of a row."""
    assert batch.logmel_hidden is not None
    has = torch.tensor([index in rows.tolist() for rows in batch.rows.values()])
    return {"frames": batch.frames[index], "hidden": batch.logmel_hidden[index], "has": has}


@settings(deadline=None, max_examples=20)
@given(samples=st.lists(st.integers(0, 9), min_size=1, max_size=6), epoch=st.integers(0, 2**40))
def test_a_sample_is_changed_in_the_same_way_in_whatever_batch_it_is(samples: list[int], epoch: int) -> None:
    together = augmented(samples, epoch=epoch)
    for index, number in enumerate(samples):
        torch.testing.assert_close(row(together, index), row(augmented([number], epoch=epoch), 0))


def test_epochs_seeds_and_samples_differ() -> None:
    first = row(augmented([1, 3]), 0)
    for other in (
        row(augmented([1, 3], epoch=5), 0),
        row(augmented([1, 3], replace(ALL, seed=4)), 0),
    ):
        assert not torch.equal(first["frames"], other["frames"])


def test_a_part_of_the_result_is_the_result_of_the_part() -> None:
    batch = make_batch([3, 4, 5, 6], window=[[-1, 0], [0, 1], [3, 2]], absent=ABSENT)
    whole = augment(batch, ALL, epoch=1, modalities=MODALITIES).part(1, 3)
    part = augment(batch.part(1, 3), ALL, epoch=1, modalities=MODALITIES)
    assert [item.tolist() for item in part.rows.values()] == [item.tolist() for item in whole.rows.values()]
    for ours, theirs in zip(whole.tensors(), part.tensors(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_without_options_a_batch_stays_as_it_is() -> None:
    batch = make_batch([1, 2])
    assert augment(batch, TrainConfig(), epoch=0, modalities=MODALITIES) is batch


def test_no_rows_are_no_trouble() -> None:
    assert len(augmented([])) == 0


def test_all_frames_of_a_clip_are_cut_in_the_same_place_and_mirrored_alike() -> None:
    batch = make_batch(range(8))
    still = batch.frames[:, :, :1].expand(-1, -1, 4, -1, -1)
    frames = augment(
        replace(batch, frames=still), replace(ALL, spec_augment=False), epoch=0, modalities=MODALITIES
    ).frames
    for frame in range(1, 4):
        torch.testing.assert_close(frames[:, :, frame], frames[:, :, 0])


def test_a_cut_shows_from_eight_tenths_of_each_side_to_all_of_it_and_every_other_one_is_mirrored() -> None:
    """A picture whose values are its places, from -1 to 1, tells what part of it is seen."""
    batch = make_batch([number % 10 for number in range(400)])
    batch = replace(batch, samples=torch.arange(400))
    places = (torch.arange(8) + 0.5) / 4 - 1
    picture = torch.stack([places.expand(8, 8), places.view(8, 1).expand(8, 8), torch.zeros(8, 8)])
    frames = picture.view(1, 3, 1, 8, 8).expand(400, 3, 4, 8, 8)
    shown = augment(replace(batch, frames=frames), ALL, epoch=0, modalities=MODALITIES).frames
    width = (shown[:, 0, 0, 4, 4] - shown[:, 0, 0, 4, 3]) / (places[4] - places[3])
    height = (shown[:, 1, 0, 4, 4] - shown[:, 1, 0, 3, 4]) / (places[4] - places[3])
    for sides in (width.abs(), height):
        assert 0.8 - 1e-4 <= float(sides.min()) <= 0.81
        assert 0.99 <= float(sides.max()) <= 1 + 1e-4
    assert 150 < int((width < 0).sum()) < 250
    middles = shown[:, 0, 0, 4, 3:5].mean(dim=1)
    assert float((middles.abs() - (1 - width.abs())).max()) < 1e-4  # never beyond the picture's edge


def test_bands_lie_within_the_real_hops_and_are_no_wider_than_they_may_be() -> None:
    batch = make_batch([0] * 300)
    hops = torch.randint(1, 101, (300,))
    batch = replace(batch, samples=torch.arange(300), logmel=torch.zeros(300, 50, 100).half(), num_hops=hops)
    hidden = augment(batch, ALL, epoch=0, modalities=MODALITIES).logmel_hidden
    assert hidden is not None
    in_time, in_frequency = hidden.all(dim=1), hidden.all(dim=2)  # (R, S), (R, M)
    assert (in_time.sum(dim=1) <= 2 * (hops // 10)).all()
    assert (in_frequency.sum(dim=1) <= 2 * 6).all()
    assert not (in_time & (torch.arange(100) >= hops.unsqueeze(1))).any()
    assert in_time.any(dim=0).sum() > 90
    assert in_frequency.any(dim=0).all()


@pytest.mark.parametrize("modalities", [MODALITIES, ("audio", "text"), ("text",)])
def test_no_sample_loses_the_last_modality_that_the_model_would_see(modalities: tuple[Modality, ...]) -> None:
    samples = list(range(10))
    config = TrainConfig(modality_dropout=0.9)
    batch = make_batch(samples, absent=ABSENT)
    for epoch in range(20):
        after = augment(batch, config, epoch=epoch, modalities=modalities)
        for index in samples:
            before = [name for name in modalities if index in batch.rows[name].tolist()]
            left = [name for name in modalities if index in after.rows[name].tolist()]
            assert set(left) <= set(before)
            assert bool(left) == bool(before)


def test_modalities_are_hidden_as_often_as_asked() -> None:
    batch = replace(make_batch([0] * 2000), samples=torch.arange(2000))
    after = augment(batch, TrainConfig(modality_dropout=0.3), epoch=0, modalities=MODALITIES)
    for name in MODALITIES:
        assert len(after.rows[name]) / 2000 == pytest.approx(0.7 + 0.3**3 / 3, abs=0.04)
