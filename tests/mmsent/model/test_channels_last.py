"""The layout for GPUs computes what the plain network does; here on a CPU in float32."""

import copy

import pytest
import torch
from torch import Tensor, nn

from mmsent.model.channels_last import use_channels_last


def make_network() -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm3d(16)
    nn.init.normal_(norm.weight)
    network = nn.Sequential(nn.Conv3d(3, 16, 3, padding=1), norm, nn.ReLU(inplace=True), nn.Conv3d(16, 8, 3, stride=2))
    network(make_clips())  # its statistics are of something
    return network


def make_clips() -> Tensor:
    return torch.randn(4, 6, 8, 8, 3).permute(0, 4, 1, 2, 3)  # channels-last, as frames are


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_outputs_gradients_and_statistics_are_those_of_the_plain_network(training: bool, gradients: bool) -> None:
    plain = make_network().train(training)
    fast = copy.deepcopy(plain)
    use_channels_last(fast)
    clips = make_clips()
    for network in (plain, fast):
        network.zero_grad()
        with torch.set_grad_enabled(gradients):
            loss = network(clips).square().mean()
        if gradients:
            loss.backward()
    torch.testing.assert_close(fast(clips), plain(clips), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    for kept, expected in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(kept, expected)


def test_names_parameters_and_the_mode_stay_the_same() -> None:
    network = make_network().eval()
    names, parameters = list(network.state_dict()), list(network.parameters())
    network.requires_grad_(False)
    use_channels_last(network)
    assert list(network.state_dict()) == names
    assert all(ours is theirs for ours, theirs in zip(network.parameters(), parameters, strict=True))
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(module.training for module in network.modules())


def test_clips_in_another_layout_are_taken_too() -> None:
    plain = make_network().eval()
    fast = copy.deepcopy(plain)
    use_channels_last(fast)
    with torch.inference_mode():
        hidden = plain[0](make_clips()).contiguous()
        torch.testing.assert_close(fast[1](hidden), plain[1](hidden), rtol=1e-4, atol=1e-5)
