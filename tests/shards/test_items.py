import torch
from torch.utils.data import default_collate

from shards.items import Item, sample_item
from shards.schema import MELD_LABELS
from shards.spec import FeatureSpec
from tests.support.samples import make_sample, make_spec


def test_an_item_is_the_sample_as_tensors() -> None:
    spec, sample = make_spec(), make_sample(3)
    item = sample_item(sample, number=7, spec=spec, label_sets=MELD_LABELS)
    assert (item.key, item.sample, item.num_hops) == (sample.meta.key, 7, sample.meta.num_hops)
    assert item.video_frames.shape == (3, 4, 8, 8)
    assert item.video_frames.permute(1, 2, 3, 0).numpy().tobytes() == sample.frames.tobytes()
    assert item.audio_features.numpy().tobytes() == sample.logmel.tobytes()
    assert item.text_input.input_ids.tolist() == sample.tokens.tolist()
    assert int(item.text_input.attention_mask.sum()) == sample.meta.num_tokens
    assert item.labels == {labels.task: labels.index(sample.meta.labels[labels.task]) for labels in MELD_LABELS}
    assert item.present.tolist() == [True, True, True]
    assert item.features == {}


def test_a_jpeg_is_decoded_and_an_encoded_modality_has_features_in_place_of_its_array() -> None:
    for spec in (make_spec(storage="jpeg"), make_spec(storage="jpeg", widths={"video": 5})):
        item = sample_item(make_sample(0, spec=spec), number=0, spec=spec, label_sets=MELD_LABELS)
        encoded = "video" in spec.encoded
        assert item.video_frames.shape == ((0,) if encoded else (3, 4, 8, 8))
        assert {name: features.shape for name, features in item.features.items()} == (
            {"video": (5,)} if encoded else {}
        )


def batch_of(spec: FeatureSpec) -> Item:
    samples = [make_sample(number, spec=spec, absent=("audio",) if number else ()) for number in range(2)]
    items = [
        sample_item(sample, number=number, spec=spec, label_sets=MELD_LABELS) for number, sample in enumerate(samples)
    ]
    batch: Item = default_collate(items)
    return batch


def test_torch_s_own_collation_gives_an_item_with_a_batch_axis() -> None:
    batch = batch_of(make_spec(widths={"text": 3}))
    assert isinstance(batch, Item)
    assert len(batch.key) == 2
    assert batch.text_input.input_ids.shape == (2, 0)
    assert (batch.video_frames.shape, batch.audio_features.shape) == ((2, 3, 4, 8, 8), (2, 6, 10))
    assert batch.present.tolist() == [[True, True, True], [True, False, True]]
    assert batch.features["text"].shape == (2, 3)
    numbers = torch.as_tensor(batch.sample)
    assert (numbers.tolist(), torch.as_tensor(batch.labels["emotion"]).dtype) == ([0, 1], torch.int64)
