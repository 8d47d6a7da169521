import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmsent.encoders import AudioEncoder, MaskedBatchNorm1d, VideoEncoder, load_r3d_18, load_text_model
from mmsent.errors import EncoderError
from mmsent.precision import ResolvedPrecision, autocast
from tests.samples import make_spec


def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(num_mels=6, feature_dim=5, dropout=0.0)


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 17), padding=st.integers(0, 9), training=st.booleans(), filler=st.floats(-5, 5))
def test_padding_of_a_log_mel_never_changes_a_result(length: int, padding: int, training: bool, filler: float) -> None:
    model = encoder().train(training)
    torch.manual_seed(length)
    other = torch.randn(1, 6, 20)
    real = torch.randn(1, 6, length)
    padded = torch.cat([real, torch.full((1, 6, padding), filler)], dim=2)

    def run(x: torch.Tensor) -> torch.Tensor:
        batch = torch.full((2, 6, 30), 99.0)
        batch[0, :, : x.shape[2]] = x[0]
        batch[1, :, :20] = other[0]
        features: torch.Tensor = copy.deepcopy(model)(batch, torch.tensor([length, 20]))
        return features

    torch.testing.assert_close(run(padded), run(real))


def test_padding_may_hold_values_that_are_no_numbers() -> None:
    batch = torch.randn(2, 6, 10)
    batch[0, :, 4:] = torch.nan
    assert torch.isfinite(encoder()(batch, torch.tensor([4, 10]))).all()


def test_masked_batch_norm_without_padding_is_batch_norm() -> None:
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm1d(3), nn.BatchNorm1d(3)
    x = torch.randn(4, 3, 7) * 3 + 1
    mask = torch.ones(4, 1, 7, dtype=torch.bool)
    torch.testing.assert_close(ours(x, mask), theirs(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x, mask), theirs.eval()(x))


def test_masked_batch_norm_is_batch_norm_of_the_real_steps() -> None:
    torch.manual_seed(0)
    ours, theirs = MaskedBatchNorm1d(3), nn.BatchNorm1d(3)
    x = torch.randn(2, 3, 5)
    mask = torch.tensor([[[True] * 5], [[True, True, False, False, False]]])
    real = x.transpose(1, 2)[mask.squeeze(1)]  # (steps, C)
    torch.testing.assert_close(ours(x, mask).transpose(1, 2)[mask.squeeze(1)], theirs(real))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_weights_of_r3d_18_are_read_from_a_state_dict(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from torchvision.models.video import r3d_18

    torch.manual_seed(3)
    weights = r3d_18(weights=None).state_dict()
    torch.save(weights, tmp_path / "w.pth")
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        state = load_r3d_18(str(tmp_path / name)).state_dict()
        assert all(torch.equal(state[key], weights[key]) for key in state)


@pytest.mark.parametrize("content", [b"", b"not a tensor", None])
def test_a_foreign_weight_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"conv.weight": torch.zeros(1)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(EncoderError, match=r"weights\.pth"):
        load_r3d_18(str(path))


def test_a_weight_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nothing\.pth"):
        load_r3d_18(str(tmp_path / "nothing.pth"))


def test_a_text_encoder_that_is_not_to_be_had_says_what_to_do() -> None:
    with pytest.raises(EncoderError, match="hf download no-such/encoder"):
        load_text_model("no-such/encoder", config=None, spec=make_spec().text)


def test_a_text_encoder_is_loaded_from_a_local_folder(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    there = BertModel(config)
    there.save_pretrained(tmp_path)
    model = load_text_model(str(tmp_path), config=None, spec=make_spec().text)
    torch.testing.assert_close(model.state_dict(), there.state_dict())


def test_a_text_encoder_with_fewer_tokens_than_the_shards_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="knows 9 tokens, the shards use 50"):
        load_text_model(str(tmp_path), config=None, spec=make_spec().text)


def test_gradients_of_a_video_network_trained_in_bf16_are_those_of_fp32() -> None:
    """With two frames left in layer 3, oneDNN's bf16 gradients are garbage on CPUs with AVX512_BF16."""
    model = VideoEncoder(load_r3d_18("none"), feature_dim=8, dropout=0.0)
    frames = torch.randint(0, 256, (4, 3, 8, 32, 32), dtype=torch.uint8)
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
    model = VideoEncoder(load_r3d_18("none").requires_grad_(False).eval(), feature_dim=8, dropout=0.0)
    seen = []
    model.backbone.get_submodule("stem.0").register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    with autocast("bf16", torch.device("cpu")):
        model(torch.zeros((1, 3, 8, 32, 32), dtype=torch.uint8))
    assert seen == [torch.bfloat16]
