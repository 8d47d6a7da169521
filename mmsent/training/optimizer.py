"""What an optimizer trains, and at which rate each layer of a pre-trained encoder learns."""

from typing import Any

from torch import nn

from mmsent.config import TrainConfig
from mmsent.errors import EncoderError
from mmsent.model.multimodal import MultimodalModel
from shards.errors import describe

__all__ = ["layer_groups", "parameter_groups"]

_STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Of torchvision's residual networks, after `stem`."""

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


def parameter_groups(model: MultimodalModel, config: TrainConfig) -> list[dict[str, Any]]:
    """Return what an optimizer trains, as groups with `name`, `params` and `lr`; the first starts from scratch.

    Raises:
        EncoderError: if `layer_decay` is asked for and the layers of an encoder are not known.
    """
    rates = {"text": config.text_learning_rate, "video": config.video_learning_rate}
    groups = [
        group
        for name in model.finetuned_modalities
        for group in layer_groups(model.backbone(name), name=name, learning_rate=rates[name], decay=config.layer_decay)
    ]
    finetuned = {id(parameter) for group in groups for parameter in group["params"]}
    rest = [item for item in model.parameters() if item.requires_grad and id(item) not in finetuned]
    return [{"name": "scratch", "params": rest, "lr": config.learning_rate}, *groups]


def layer_groups(backbone: nn.Module, *, name: str, learning_rate: float, decay: float) -> list[dict[str, Any]]:
    """Return the parameters of an encoder as groups of an optimizer, the layers at the top first.

    The top layer, and what comes after it, learn at `learning_rate`; each layer below at `decay` times the rate of the
    one above it; embeddings, and all else that several layers share, at `decay` times the rate of the lowest layer.

    Args:
        backbone: As the encoder was built.
        name: What the groups are called: `text` gives `text.top`, `text.layer.3`, … `text.stem`.
        learning_rate: Of the top layer.
        decay: Above 0; with 1 there is a single group, `name`.

    Raises:
        EncoderError: if it is not known what the layers of the encoder are.
    """
    if decay == 1:
        return [{"name": name, "params": list(backbone.parameters()), "lr": learning_rate}]
    prefixes, after = _layers(backbone, name)
    groups: dict[str, list[nn.Parameter]] = {"top": [], **{f"layer.{i}": [] for i in range(len(prefixes))}, "stem": []}
    for path, parameter in backbone.named_parameters():
        layer = next((i for i, prefix in enumerate(prefixes) if path.startswith(prefix)), None)
        where = "top" if path.partition(".")[0] in after else "stem"
        groups[where if layer is None else f"layer.{layer}"].append(parameter)
    depths = {"top": 0, "stem": len(prefixes)} | {f"layer.{i}": len(prefixes) - 1 - i for i in range(len(prefixes))}
    ordered = sorted((group for group, params in groups.items() if params), key=lambda group: depths[group])
    return [
        {"name": f"{name}.{group}", "params": groups[group], "lr": learning_rate * decay ** depths[group]}
        for group in ordered
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
            raise EncoderError(describe(what, then="pass `--set train.layer_decay=1`"))
        numbers = [number for number, _ in paths[where].named_children()]
        prefixes, last = [f"{where}.{number}." for number in numbers], where.partition(".")[0]
    return prefixes, set(children[children.index(last) + 1 :])
