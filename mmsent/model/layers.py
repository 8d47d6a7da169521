"""The layers of a pre-trained encoder, from its output down."""

from dataclasses import dataclass

from torch import nn

from mmsent.errors import EncoderError
from shards.errors import describe

__all__ = ["Layer", "layers_from_top"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Names of the layers of torchvision's residual networks, after `stem`."""

_LISTS = (
    "encoder.layer",  # BERT, RoBERTa, ELECTRA, DeBERTa, MPNet
    "transformer.layer",  # DistilBERT
    "layers",  # ModernBERT
    "encoder.layers",
    "encoder.albert_layer_groups",
    "blocks",  # MViT
    "features",  # Swin: stages, and what merges patches between them
)
"""Where models keep their layers, from the bottom to the top."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """Parameters of an encoder that lie equally deep.

    Attributes:
        name: `layer.0` for the lowest layer; `top` for what comes after the last one, which is as deep as that; `stem`
            for embeddings and all else that several layers share.
        depth: Layers above it.
        parameters: None of them in another layer; never empty.
    """

    name: str
    depth: int
    parameters: tuple[nn.Parameter, ...]


def layers_from_top(backbone: nn.Module, *, name: str) -> list[Layer]:
    """Return the parameters of an encoder by layer, `top` first and `stem` last.

    Args:
        backbone: Encoder as it was built.
        name: Modality, for the message.

    Raises:
        EncoderError: if it is not known what the layers of the encoder are.
    """
    prefixes, after = _layers(backbone, name)
    found: dict[str, list[nn.Parameter]] = {"top": []}
    found |= {f"layer.{number}": [] for number in reversed(range(len(prefixes)))}
    found |= {"stem": []}
    for path, parameter in backbone.named_parameters():
        number = next((number for number, prefix in enumerate(prefixes) if path.startswith(prefix)), None)
        outside = "top" if path.partition(".")[0] in after else "stem"
        found[outside if number is None else f"layer.{number}"].append(parameter)
    return [
        Layer(name=layer, depth=max(0, place - 1), parameters=tuple(parameters))
        for place, (layer, parameters) in enumerate(found.items())
        if parameters
    ]


def _layers(backbone: nn.Module, name: str) -> tuple[list[str], set[str]]:
    """Return the prefixes of the layers' parameters from the bottom up, and which children come after all layers."""
    children = [child for child, _ in backbone.named_children()]
    if set(_STAGES) <= set(children):
        prefixes, last = [f"{stage}." for stage in _STAGES], _STAGES[-1]
    else:
        paths = dict(backbone.named_modules())
        where = next((path for path in _LISTS if isinstance(paths.get(path), nn.ModuleList | nn.Sequential)), None)
        if where is None:
            what = f"it is not known which layers the {name} encoder {type(backbone).__name__} has"
            raise EncoderError(describe(what, then="train it at one rate: `--set train.layer_decay=1`"))
        numbers = [number for number, _ in paths[where].named_children()]
        prefixes, last = [f"{where}.{number}." for number in numbers], where.partition(".")[0]
    return prefixes, set(children[children.index(last) + 1 :])
