import pytest
import torch
from torch import nn

from mmsent.errors import EncoderError
from mmsent.model.layers import layers_from_top
from mmsent.model.text_encoder import load_text_model
from mmsent.model.video_encoder import load_video_model
from tests.mmsent.model.test_text_encoder import SPEC, config_of


def test_layers_come_from_the_top_down_and_know_how_many_are_above_them() -> None:
    with torch.device("meta"):
        backbone, _ = load_video_model("r3d_18", "none")
    found = [(layer.name, layer.depth) for layer in layers_from_top(backbone, name="video")]
    assert found == [("layer.3", 0), ("layer.2", 1), ("layer.1", 2), ("layer.0", 3), ("stem", 4)]


def test_what_comes_after_the_layers_is_the_top_and_what_they_share_the_stem() -> None:
    backbone = load_text_model("mpnet", pooling="pooler", config=config_of("mpnet"), spec=SPEC)
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    layers = {layer.name: layer for layer in layers_from_top(backbone, name="text")}
    by_name = {name: {names[id(parameter)] for parameter in layer.parameters} for name, layer in layers.items()}
    assert by_name["top"] == {"pooler.dense.weight", "pooler.dense.bias"}
    assert layers["top"].depth == 0
    assert "encoder.relative_attention_bias.weight" in by_name["stem"]


def test_an_encoder_of_unknown_layers_is_refused_with_the_remedy() -> None:
    with pytest.raises(EncoderError, match=r"(?s)the text encoder Linear has.*--set train\.layer_decay=1"):
        layers_from_top(nn.Linear(2, 2), name="text")
