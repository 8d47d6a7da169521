from pathlib import Path

import numpy as np
import torch

from mmsent.batch import normalise_frames, to_device
from shards.loader import ShardLoader
from shards.reader import Split
from tests.samples import loader_in_order, make_sample, make_spec, write_split


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


def test_frames_are_scaled_as_the_kinetics_weights_were_trained() -> None:
    from torchvision.models.video import R3D_18_Weights

    frames = torch.randint(0, 256, (2, 3, 4, 112, 112), dtype=torch.uint8)
    preset = R3D_18_Weights.KINETICS400_V1.transforms(resize_size=(112, 112))
    expected = preset(frames.permute(0, 2, 1, 3, 4).contiguous())
    torch.testing.assert_close(normalise_frames(frames), expected, atol=1e-5, rtol=1e-5)
