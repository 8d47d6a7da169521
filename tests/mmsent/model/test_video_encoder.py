from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from torch import nn

from mmsent.batches.batch import normalise_frames
from mmsent.compute.precision import ResolvedPrecision, autocast
from mmsent.config import VideoEncoderName
from mmsent.errors import EncoderError
from mmsent.model.video_encoder import VideoEncoder, check_clip_size, load_video_model
from tests.support.samples import make_spec

pytestmark = pytest.mark.slow

NAMES: tuple[VideoEncoderName, ...] = get_args(VideoEncoderName)
Resnet = Literal["r3d_18", "mc3_18", "r2plus1d_18"]


def encoder(name: VideoEncoderName, *, frozen: bool = False) -> VideoEncoder:
    torch.manual_seed(0)
    backbone, width = load_video_model(name, "none")
    if frozen:
        backbone.requires_grad_(False).eval()
    return VideoEncoder(name, backbone, width=width, feature_dim=8, dropout=0.0)


def clips(count: int, num_frames: int, size: int) -> torch.Tensor:
    frames = torch.randint(0, 256, (count, num_frames, size, size, 3), dtype=torch.uint8)
    return frames.permute(0, 4, 1, 2, 3)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_loses_its_classifier_and_tells_its_width(name: VideoEncoderName) -> None:
    with torch.device("meta"):  # without numbers, so that none are drawn
        backbone, width = load_video_model(name, "none")
    assert width in (512, 768, 1024)
    assert 400 not in {len(parameter) for parameter in backbone.parameters()}  # the classes of Kinetics


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "r2plus1d_18", "swin3d_t"])
def test_models_without_a_fixed_size_take_any_and_give_their_width(name: VideoEncoderName) -> None:
    check_clip_size(name, make_spec().video)
    model = encoder(name, frozen=True)
    assert model.encode(clips(2, 4, 16)).shape == (2, model.width)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s", "swin3d_s", "swin3d_b"])
def test_large_models_give_their_width_for_the_clips_they_were_trained_on(name: VideoEncoderName) -> None:
    model = encoder(name, frozen=True)
    with torch.inference_mode():
        assert model.encode(clips(1, 16, 224)).shape == (1, model.width)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s"])
def test_clips_of_another_size_than_a_model_is_for_are_refused_with_the_one_that_fits(name: VideoEncoderName) -> None:
    spec = make_spec(num_frames=16, size=112).video
    with pytest.raises(EncoderError, match="--frames 16 --size 224") as caught:
        check_clip_size(name, spec)
    assert "16 frames of 112x112" in str(caught.value)
    check_clip_size(name, replace(spec, height=224, width=224))


@pytest.mark.parametrize("name", ["r3d_18", "mvit_v2_s", "swin3d_t"])
def test_frames_are_scaled_as_the_weights_were_trained(name: VideoEncoderName) -> None:
    from torchvision.models import get_model_weights

    frames = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8)
    preset = get_model_weights(name).DEFAULT.transforms(crop_size=(32, 32), resize_size=(32, 32))
    expected = preset(frames.permute(0, 2, 1, 3, 4).contiguous())
    model = VideoEncoder(name, nn.Identity(), width=3, feature_dim=8, dropout=0.0)
    torch.testing.assert_close(model.encode(frames), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode(frames.float()), expected, atol=1e-5, rtol=1e-5)


def test_scaled_frames_stay_in_the_memory_that_they_came_in() -> None:
    scaled = normalise_frames(clips(2, 4, 8), mean=torch.zeros(3), std=torch.ones(3))
    assert scaled.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("name", ["r3d_18", "swin3d_t"])
def test_weights_are_read_from_a_state_dict(tmp_path: Path, name: VideoEncoderName) -> None:
    from safetensors.torch import save_file
    from torchvision.models import get_model

    torch.manual_seed(3)
    weights = get_model(name, weights=None).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        state = load_video_model(name, str(tmp_path / file))[0].state_dict()
        assert all(torch.equal(state[key], weights[key]) for key in state)


def test_the_weights_of_another_model_are_refused_by_both_names(tmp_path: Path) -> None:
    torch.save(load_video_model("r3d_18", "none")[0].state_dict(), tmp_path / "r3d.pth")
    with pytest.raises(EncoderError, match="r2plus1d_18") as caught:
        load_video_model("r2plus1d_18", str(tmp_path / "r3d.pth"))
    assert "r3d.pth" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a tensor", {"conv.weight": torch.zeros(1)}, {1: 2}, [1]], ids=repr)
def test_a_foreign_weight_file_is_refused_by_name(tmp_path: Path, content: object) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(EncoderError, match=r"weights\.pth"):
        load_video_model("r3d_18", str(path))


class Hostile:
    """What runs code when a pickle is opened."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("hostile-was-here"),)


@pytest.mark.parametrize("content", ["good", "cut", "hostile", "of another model"])
def test_kinetics_weights_come_from_torchvisions_cache_and_run_no_code(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hub" / "checkpoints" / "r3d_18-b3b3357e.pth"
    path.parent.mkdir(parents=True)
    model = load_video_model("mc3_18" if content == "of another model" else "r3d_18", "none")[0]
    good = model.state_dict()
    torch.save({"fc.weight": Hostile()} if content == "hostile" else good, path)
    if content == "good":
        state = load_video_model("r3d_18", "kinetics")[0].state_dict()
        assert all(torch.equal(state[name], value) for name, value in good.items())
        return
    if content == "cut":
        path.write_bytes(path.read_bytes()[:10_000])
    with pytest.raises(EncoderError, match=r"r3d_18-b3b3357e\.pth"):
        load_video_model("r3d_18", "kinetics")
    assert not (tmp_path / "hostile-was-here").exists()


def test_a_weight_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nothing\.pth"):
        load_video_model("r3d_18", str(tmp_path / "nothing.pth"))


@pytest.mark.parametrize(("name", "num_frames"), [("r3d_18", 8), ("r2plus1d_18", 8), ("mc3_18", 1)])
def test_one_clip_that_leaves_one_value_per_channel_is_refused_in_training(name: Resnet, num_frames: int) -> None:
    model = encoder(name).train()
    with pytest.raises(EncoderError, match="larger `--size`"):
        model(clips(1, num_frames, 16))
    model(clips(1, num_frames + 1, 16))  # one frame more leaves two
    model.eval()(clips(1, num_frames, 16))


def test_gradients_of_a_video_network_trained_in_bf16_are_those_of_fp32() -> None:
    """With two frames left in layer 3, oneDNN's bf16 gradients are garbage on CPUs with AVX512_BF16."""
    model = encoder("r3d_18")
    frames = clips(4, 8, 32)
    assert model.backbone is not None
    weight = model.backbone.get_parameter("layer3.1.conv1.0.weight")
    gradients = []
    precisions: list[ResolvedPrecision] = ["fp32", "bf16"]
    for precision in precisions:
        model.zero_grad()
        with autocast(precision, torch.device("cpu")):
            features = model(frames)
        features.float().square().sum().backward()
        assert weight.grad is not None
        gradients.append(weight.grad.flatten().clone())
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.99


def test_a_frozen_video_network_runs_in_bf16_where_that_is_asked() -> None:
    model = encoder("r3d_18", frozen=True)
    assert model.backbone is not None
    seen = []
    model.backbone.get_submodule("stem.0").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    with autocast("bf16", torch.device("cpu")):
        model(torch.zeros((1, 3, 8, 32, 32), dtype=torch.uint8))
    assert seen == [torch.bfloat16]
