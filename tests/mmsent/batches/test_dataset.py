import pickle
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, WeightedRandomSampler

from mmsent.batches.batch import Batch, to_device
from mmsent.batches.dataset import ShardDataset, collate
from mmsent.config import ModelConfig
from mmsent.model.multimodal import MultimodalModel
from preprocess.building.build import build_shards
from preprocess.building.feature_spec import feature_spec
from preprocess.config import Part
from preprocess.datasets.meld import read_meld
from preprocess.on_the_fly.dataset import MeldDataset
from preprocess.text.tokenizer import learn_tokenizer
from shards.errors import ShardCorruptError
from shards.items import Item
from shards.reading.split import Split
from shards.reading.stream import ShardStream
from shards.schema import MELD_LABELS
from shards.spec import Storage
from tests.support.clips import clip_path, make_rows, small_config, write_meld
from tests.support.samples import loader_in_order, make_sample, make_spec, with_byte_changed, write_split

NUM_SAMPLES = 7


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("dataset"))


def write(root: Path, *, storage: Storage = "raw") -> Path:
    spec = make_spec(storage=storage, size=16)
    absent = {1: ("video", "audio")}
    write_split(root, [make_sample(i, spec=spec, absent=absent.get(i, ())) for i in range(NUM_SAMPLES)], spec=spec)
    return root / "train"


def assert_same_batch(got: Batch, expected: Batch) -> None:
    for item in fields(Batch):
        ours, theirs = getattr(got, item.name), getattr(expected, item.name)
        if ours is None or theirs is None:
            assert ours is theirs, item.name
            continue
        pairs = {"": (ours, theirs)} if isinstance(ours, Tensor) else {key: (ours[key], theirs[key]) for key in theirs}
        assert isinstance(ours, Tensor) or ours.keys() == theirs.keys()
        for key, (a, b) in pairs.items():
            assert a.dtype == b.dtype, (item.name, key)
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), (item.name, key)


def batches_of_the_loader(directory: Path, batch_size: int) -> list[Batch]:
    loader = loader_in_order(Split(directory), batch_size=batch_size)
    return [
        pickle.loads(pickle.dumps(to_device(host, torch.device("cpu")))) for host in loader
    ]  # their memory is reused


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_a_torch_loader_gives_the_batches_of_ours(tmp_path: Path, num_workers: int, storage: Storage) -> None:
    directory = write(tmp_path, storage=storage)
    dataset = ShardDataset(Split(directory))
    got = list(DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=num_workers))
    expected = batches_of_the_loader(directory, 3)
    assert [len(batch) for batch in got] == [len(batch) for batch in expected] == [3, 3, 1]
    for ours, theirs in zip(got, expected, strict=True):
        assert_same_batch(ours, theirs)
        assert ours.frames.is_contiguous(memory_format=torch.channels_last_3d)


def test_workers_that_are_started_anew_open_the_shards_for_themselves(directory: Path) -> None:
    dataset = ShardDataset(Split(directory))
    dataset[0]  # a map is open, and cannot travel
    loader = DataLoader(dataset, batch_size=4, collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    for ours, theirs in zip(loader, batches_of_the_loader(directory, 4), strict=True):
        assert_same_batch(ours, theirs)


def test_items_are_those_of_the_data_set_without_a_cache(tmp_path: Path) -> None:
    root = write_meld(tmp_path / "meld", train=3, dev=1, test=1)
    clip_path(root, "train", make_rows(3)[0]).unlink()
    tokenizer, config, dataset = learn_tokenizer([row.text for row in make_rows(3)]), small_config(), read_meld(root)
    build_shards(
        dataset,
        tmp_path / "shards",
        config=config,
        tokenizer=tokenizer,
        num_workers=1,
        part=Part(),
        remake=False,
        on_progress=lambda *call: None,
    )
    cached = ShardDataset(Split(tmp_path / "shards" / "train"))
    raw = MeldDataset(root, "train", config=config, spec=feature_spec(config, tokenizer), tokenizer=tokenizer)
    assert len(cached) == len(raw) == 3
    for ours, theirs in zip((cached[i] for i in range(3)), (raw[i] for i in range(3)), strict=True):
        assert (ours.key, ours.sample, ours.labels) == (theirs.key, theirs.sample, theirs.labels)
    assert_same_batch(collate([cached[i] for i in range(3)]), collate([raw[i] for i in range(3)]))


def test_samplers_and_subsets_choose_by_number(directory: Path) -> None:
    dataset = ShardDataset(Split(directory))
    weights = [float(i == 5) for i in range(len(dataset))]
    sampler = WeightedRandomSampler(weights, 4)
    [batch] = DataLoader(dataset, batch_size=4, sampler=sampler, collate_fn=collate)
    assert batch.labels["emotion"].tolist() == [5, 5, 5, 5]
    subset: Subset[Item] = Subset(dataset, [6, 0])
    assert [subset[i].key for i in range(2)] == ["train-dia1-utt1", "train-dia0-utt0"]


def test_torch_s_own_collation_works_too(directory: Path) -> None:
    [batch] = DataLoader(ShardDataset(Split(directory)), batch_size=NUM_SAMPLES)
    assert list(batch.key) == [make_sample(i).meta.key for i in range(NUM_SAMPLES)]
    assert batch.video_frames.shape == (NUM_SAMPLES, 3, 4, 16, 16)
    assert batch.text_input.input_ids.shape == (NUM_SAMPLES, 12)
    assert batch.num_hops.tolist() == [make_sample(i).meta.num_hops if i != 1 else 0 for i in range(NUM_SAMPLES)]


@pytest.mark.parametrize("check", [False, True])
def test_a_negative_number_counts_from_the_end_and_one_outside_ends_a_for_loop(directory: Path, check: bool) -> None:
    dataset = ShardDataset(Split(directory), check=check)
    assert dataset[-1].key == dataset[NUM_SAMPLES - 1].key
    assert sum(1 for _ in iter(dataset)) == NUM_SAMPLES
    for outside in (NUM_SAMPLES, -NUM_SAMPLES - 1):
        with pytest.raises(IndexError, match=f"sample {outside} of a split of 7"):
            dataset[outside]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_with_check_a_changed_byte_is_an_error_in_the_caller(tmp_path: Path, num_workers: int) -> None:
    directory = write(tmp_path)
    shard = directory / "train-00001.tar"
    shard.write_bytes(with_byte_changed(shard.read_bytes(), int(Split(directory).rows["video_offset"][4])))
    ShardDataset(Split(directory))[4]
    dataset = ShardDataset(Split(directory), check=True)
    with pytest.raises(ShardCorruptError, match="sample 4 of the split is damaged"):
        list(DataLoader(dataset, batch_size=2, collate_fn=collate, num_workers=num_workers))


def test_other_shards_under_the_same_path_are_refused_by_a_worker(tmp_path: Path) -> None:
    sent = pickle.dumps(ShardDataset(Split(write(tmp_path))))
    shutil.rmtree(tmp_path / "train")
    write_split(tmp_path, [make_sample(1)])
    with pytest.raises(ShardCorruptError, match="the shards were replaced"):
        pickle.loads(sent)


def test_a_batch_moves_to_a_device_as_trainers_ask_for_it(directory: Path) -> None:
    [batch] = DataLoader(ShardDataset(Split(directory)), batch_size=NUM_SAMPLES, collate_fn=collate)
    moved = batch.to(torch.device("meta"))
    assert {moved.frames.device, moved.rows["video"].device, moved.labels["emotion"].device} == {torch.device("meta")}
    assert moved.frames.is_contiguous(memory_format=torch.channels_last_3d)
    assert_same_batch(batch.to(torch.device("cpu")), batch)


def test_a_step_of_training_is_the_same_with_a_batch_from_anywhere(directory: Path) -> None:
    spec, split = make_spec(size=16), Split(directory)
    urls = [f"{directory}/train-{{00000..00002}}.tar"]
    batches = (
        to_device(next(iter(loader_in_order(split, batch_size=4))), torch.device("cpu")),
        to_device(next(iter(ShardStream(urls, spec=spec, label_sets=MELD_LABELS, batch_size=4))), torch.device("cpu")),
        next(iter(DataLoader(ShardDataset(split), batch_size=4, collate_fn=collate))),
    )
    steps = []
    for batch in batches:
        torch.manual_seed(0)
        config = ModelConfig(text_encoder="scratch", video_weights="none")
        model = MultimodalModel(config, spec=spec, label_sets=MELD_LABELS, pretrained=True)
        logits = model(batch)
        loss = torch.stack([F.cross_entropy(logits[task], batch.labels[task]) for task in logits]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad.norm() for parameter in model.parameters() if parameter.grad is not None]
        steps.append((loss.item(), torch.stack(gradients).norm().item()))
    assert steps[1] == pytest.approx(steps[0], rel=1e-4)
    assert steps[2] == pytest.approx(steps[0], rel=1e-4)


@pytest.mark.parametrize("check", [False, True])
def test_an_item_of_an_encoded_split_has_features_in_place_of_raw_arrays(tmp_path: Path, check: bool) -> None:
    spec = make_spec(widths={"video": 5, "text": 3})
    samples = [make_sample(i, spec=spec) for i in range(3)]
    write_split(tmp_path, samples, spec=spec)
    dataset = ShardDataset(Split(tmp_path / "train"), check=check)
    for number, sample in enumerate(samples):
        item = dataset[number]
        assert {name: features.tolist() for name, features in item.features.items()} == {
            name: features.tolist() for name, features in sample.features.items()
        }
        assert item.video_frames.shape == item.text_input.input_ids.shape == (0,)
        assert item.audio_features.tolist() == sample.logmel.tolist()


def test_a_torch_loader_gives_the_batches_of_ours_from_encoded_shards(tmp_path: Path) -> None:
    spec = make_spec(widths={"video": 5, "text": 3})
    samples = [make_sample(i, spec=spec, absent=("video",) if i == 1 else ()) for i in range(NUM_SAMPLES)]
    write_split(tmp_path, samples, spec=spec)
    got = list(DataLoader(ShardDataset(Split(tmp_path / "train")), batch_size=3, collate_fn=collate))
    for ours, theirs in zip(got, batches_of_the_loader(tmp_path / "train", 3), strict=True):
        assert ours.features.keys() == {"video", "text"}
        assert_same_batch(ours, theirs)
