from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from preprocess.building.build import build_shards
from preprocess.building.feature_spec import feature_spec
from preprocess.config import Part
from preprocess.datasets.meld import read_meld
from preprocess.errors import DatasetError
from preprocess.on_the_fly.dataset import MeldDataset
from preprocess.text.tokenizer import learn_tokenizer
from shards.reading.split import read_split
from shards.schema import EMOTION, MODALITIES, SENTIMENT, Sample
from tests.support.clips import (
    Row,
    clip_path,
    make_rows,
    small_config,
    write_clip,
    write_csv,
    write_meld,
    write_numbered_clip,
)

CONFIG = small_config()
TOKENIZER = learn_tokenizer([row.text for row in make_rows(7)])
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def meld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with a missing clip, a broken one, one without sound, one with a twin and an empty transcript."""
    root = write_meld(tmp_path_factory.mktemp("dataset") / "meld", train=5, dev=2, test=2)
    rows = make_rows(5)
    clip_path(root, "train", rows[0]).unlink()
    clip_path(root, "train", rows[1]).write_bytes(b"hello" * 100)
    write_clip(clip_path(root, "train", rows[2]), layout=None)
    plain = clip_path(root, "test", rows[0])
    write_numbered_clip(plain.with_name(f"final_videos_test{plain.name}"), 70)
    write_csv(root / "dev_sent_emo.csv", [rows[0], Row(dialogue_id=0, utterance_id=1, text="")])
    return root


@pytest.fixture(scope="module")
def shards(meld: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Sample]]:
    out = tmp_path_factory.mktemp("dataset") / "shards"
    build_shards(
        read_meld(meld),
        out,
        config=CONFIG,
        tokenizer=TOKENIZER,
        num_workers=1,
        part=Part(),
        remake=False,
        on_progress=lambda *call: None,
    )
    return {split: list(read_split(out / split)) for split in SPLITS}


def open_split(meld: Path, split: str) -> MeldDataset:
    spec = feature_spec(CONFIG, TOKENIZER)
    return MeldDataset(meld, split, config=CONFIG, spec=spec, tokenizer=TOKENIZER)


@pytest.mark.parametrize("split", SPLITS)
def test_items_hold_the_arrays_of_the_shards(meld: Path, shards: dict[str, list[Sample]], split: str) -> None:
    dataset = open_split(meld, split)
    assert len(dataset) == len(shards[split])
    for index, sample in enumerate(shards[split]):
        item = dataset[index]
        np.testing.assert_array_equal(item.video_frames.numpy(), sample.frames.transpose(3, 0, 1, 2))
        np.testing.assert_array_equal(item.audio_features.numpy(), sample.logmel)
        np.testing.assert_array_equal(item.text_input.input_ids.numpy(), sample.tokens)
        assert item.text_input.attention_mask.tolist() == [
            int(place < sample.meta.num_tokens) for place in range(CONFIG.max_tokens)
        ]
        assert item.present.tolist() == [sample.meta.presence[name].present for name in MODALITIES]
        assert (item.key, item.num_hops) == (sample.meta.key, sample.meta.num_hops)
        assert EMOTION.names[item.labels["emotion"]] == sample.meta.labels["emotion"]
        assert SENTIMENT.names[item.labels["sentiment"]] == sample.meta.labels["sentiment"]


def test_an_item_has_the_shapes_and_types_it_promises(meld: Path) -> None:
    item = open_split(meld, "train")[3]
    for tokens in item.text_input:
        assert (tokens.shape, tokens.dtype) == ((16,), torch.int64)
    assert (item.video_frames.shape, item.video_frames.dtype) == ((3, 4, 32, 64), torch.uint8)
    assert (item.audio_features.shape, item.audio_features.dtype) == ((64, 24), torch.float16)
    assert (item.present.shape, item.present.dtype) == ((3,), torch.bool)
    assert {name: type(label) for name, label in item.labels.items()} == {"emotion": int, "sentiment": int}
    assert (type(item.num_hops), item.features) == (int, {})
    assert item.key == "train-dia1-utt0"


def test_what_is_absent_is_zeros_of_the_same_shape(meld: Path) -> None:
    dataset = open_split(meld, "train")
    missing, broken, silent = dataset[0], dataset[1], dataset[2]
    for item in (missing, broken):
        assert item.present.tolist() == [False, False, True]
        assert not item.video_frames.any()
    assert silent.present.tolist() == [True, False, True]
    assert not silent.audio_features.any()
    assert len({tuple(item.video_frames.shape) for item in (missing, broken, silent)}) == 1


def test_frames_are_a_view_in_channels_last_memory(meld: Path) -> None:
    frames = open_split(meld, "train")[3].video_frames
    assert frames.unsqueeze(0).is_contiguous(memory_format=torch.channels_last_3d)


def test_a_loader_makes_batches_of_it(meld: Path) -> None:
    batches = list(DataLoader(open_split(meld, "train"), batch_size=3))
    assert [len(batch.present) for batch in batches] == [3, 2]
    batch = batches[0]
    assert batch.video_frames.shape == (3, 3, 4, 32, 64)
    assert batch.audio_features.shape == (3, 64, 24)
    assert batch.text_input.input_ids.shape == (3, 16)
    assert batch.labels["emotion"].tolist() == [EMOTION.index(row.emotion) for row in make_rows(3)]


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    root = write_meld(tmp_path / "meld", train=1, dev=0, test=1)
    with pytest.raises(DatasetError, match="there is no split dev") as caught:
        open_split(root, "dev")
    assert "choose from ['test', 'train']" in str(caught.value)
