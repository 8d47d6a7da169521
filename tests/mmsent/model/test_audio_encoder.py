import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmsent.model.audio_encoder import AUDIO_WIDTH, AudioBackbone, AudioEncoder, MaskedBatchNorm1d


def encoder() -> AudioEncoder:
    torch.manual_seed(0)
    return AudioEncoder(AudioBackbone(num_mels=6), width=AUDIO_WIDTH, feature_dim=5, dropout=0.0)


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


def test_a_hidden_value_counts_as_the_mean_of_the_training_split() -> None:
    model = encoder().eval()
    assert isinstance(model.backbone, AudioBackbone)
    model.backbone.logmel_mean.copy_(torch.arange(6.0))
    logmel, num_hops = torch.randn(2, 6, 10), torch.tensor([10, 10])
    hidden = torch.rand(2, 6, 10) < 0.3
    filled = torch.where(hidden, torch.arange(6.0).view(6, 1), logmel)
    torch.testing.assert_close(model.encode(logmel, num_hops, hidden), model.encode(filled, num_hops))


def test_no_rows_at_all_give_gradients_of_zero_and_leave_the_statistics_as_they_are() -> None:
    model = encoder().train()
    before = copy.deepcopy(model.state_dict())
    features = model(torch.zeros(0, 6, 10), torch.zeros(0, dtype=torch.int64))
    features.sum().backward()
    assert features.shape == (0, 5)
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    running = [name for name in before if "running" in name]
    assert len(running) == 4
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in running)


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
