import pytest
import torch
from torch import nn

from mmsent.model.weights import load_part, weights_sha256


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))


def test_equal_weights_have_equal_digests_and_a_single_changed_value_another() -> None:
    first, second = module(), module()
    assert weights_sha256(first) == weights_sha256(second)
    assert isinstance(second[1], nn.BatchNorm1d)  # type: ignore[index]
    second[1].running_mean[1] = 1e-7  # type: ignore[index]
    assert weights_sha256(first) != weights_sha256(second)


@pytest.mark.parametrize("change", ["name", "dtype", "shape"])
def test_the_digest_is_also_of_names_dtypes_and_shapes(change: str) -> None:
    plain = nn.ParameterDict({"a": torch.zeros(4)})
    changed = {
        "name": nn.ParameterDict({"b": torch.zeros(4)}),
        "dtype": nn.ParameterDict({"a": torch.zeros(8, dtype=torch.bfloat16)}),
        "shape": nn.ParameterDict({"a": torch.zeros(2, 2)}),
    }
    assert weights_sha256(plain) != weights_sha256(changed[change])


def test_the_digest_does_not_depend_on_the_memory_that_weights_lie_in() -> None:
    conv = nn.Conv3d(2, 4, 3)
    digest = weights_sha256(conv)
    assert weights_sha256(conv.to(memory_format=torch.channels_last_3d)) == digest  # type: ignore[call-overload]


@pytest.mark.parametrize("change", [{"0.weight": None}, {"other": torch.zeros(1)}, {"0.bias": torch.zeros(9)}])
def test_a_part_that_is_not_the_one_asked_for_is_refused(change: dict[str, torch.Tensor | None]) -> None:
    net = module()
    names = [name for name in net.state_dict() if name.startswith("0.")]
    state = {name: torch.ones_like(net.state_dict()[name]) for name in names}
    load_part(net, state, names=names)
    assert all((net.state_dict()[name] == 1).all() for name in names)
    state |= {name: value for name, value in change.items() if value is not None}
    state = {name: value for name, value in state.items() if name not in change or change[name] is not None}
    with pytest.raises(RuntimeError, match=next(iter(change)).replace(".", r"\.")):
        load_part(net, state, names=names)
