from typing import Any, get_args

import pytest
import torch
from torch import nn

from mmsent.config import VideoEncoderName
from mmsent.model.text_encoder import load_text_model
from mmsent.model.video_encoder import load_video_model
from mmsent.training.optimizer import layer_groups
from tests.mmsent.model.test_text_encoder import KINDS, SPEC, config_of


def backbone_of(name: str) -> nn.Module:
    with torch.device("meta"):  # without numbers, so that none are drawn
        if name in get_args(VideoEncoderName):
            return load_video_model(name, "none")[0]  # type: ignore[arg-type]
        model: nn.Module = load_text_model(name, pooling="mean", config=config_of(name), spec=SPEC)
        return model


def groups_of(name: str, decay: float) -> dict[str, dict[str, Any]]:
    groups = layer_groups(backbone_of(name), name="x", learning_rate=1.0, decay=decay)
    return {group["name"]: group for group in groups}


@pytest.mark.parametrize("decay", [0.5, 1.0])
@pytest.mark.parametrize("name", [*get_args(VideoEncoderName), *KINDS])
def test_every_parameter_is_in_exactly_one_group(name: str, decay: float) -> None:
    backbone = backbone_of(name)
    groups = layer_groups(backbone, name="x", learning_rate=1.0, decay=decay)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [
        ("r3d_18", 4),
        ("r2plus1d_18", 4),
        ("mvit_v1_b", 16),
        ("mvit_v2_s", 16),
        ("swin3d_t", 7),  # four stages, and between them what merges patches
        ("bert", 2),
        ("roberta", 2),
        ("mpnet", 2),
        ("distilbert", 2),
        ("deberta-v2", 2),
        ("electra", 2),
        ("modernbert", 2),
        ("albert", 1),  # which all layers share
    ],
)
def test_rates_fall_from_the_top_layer_to_the_stem(name: str, num_layers: int) -> None:
    groups = groups_of(name, decay=0.5)
    rates = {group: values["lr"] for group, values in groups.items()}
    expected = {f"x.layer.{i}": 0.5 ** (num_layers - 1 - i) for i in range(num_layers)} | {"x.stem": 0.5**num_layers}
    assert {group: rate for group, rate in rates.items() if group != "x.top"} == expected
    assert rates.get("x.top", 1.0) == 1.0


def test_without_decay_an_encoder_is_one_group() -> None:
    assert list(groups_of("bert", decay=1.0)) == ["x"]
