"""The keys of config files: what each command reads, what a value may be, what it means."""

import ast
import inspect
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from mmsent.config import DataConfig, EncodeConfig, ModelConfig, TrainConfig
from mmsent.runs.config_toml import toml_value
from preprocess.config import PreprocessConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["OPTION_OF", "SECTIONS", "Section", "allowed", "config_text", "meanings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table of a config file."""

    config: type["DataclassInstance"]
    """Whose fields are the keys."""
    only: tuple[str, ...] = ()
    """Fields that the command reads; all of them if empty."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the keys, in the order of the fields."""
        return tuple(item.name for item in fields(self.config) if not self.only or item.name in self.only)

    def hint(self, key: str) -> Any:
        """Return the type of a key's value."""
        return get_type_hints(self.config)[key]


_TRAINING = MappingProxyType(
    {"data": Section(config=DataConfig), "model": Section(config=ModelConfig), "train": Section(config=TrainConfig)}
)
SECTIONS: Mapping[str, Mapping[str, Section]] = MappingProxyType(
    {
        "preprocess": {"preprocess": Section(config=PreprocessConfig)},
        "encode": {
            "data": Section(config=DataConfig),
            "model": Section(
                config=ModelConfig, only=("text_encoder", "text_pooling", "video_encoder", "video_weights")
            ),
            "encode": Section(config=EncodeConfig),
        },
        "train": _TRAINING,
        "bench": _TRAINING,
    }
)
"""The tables that each command reads, by name."""

OPTION_OF: Mapping[str, str] = MappingProxyType(
    {
        "data.shards": "--shards",
        "encode.batch_size": "--batch-size",
        "encode.modalities": "--modalities",
        "encode.precision": "--precision",
        "model.modalities": "--modalities",
        "model.text_encoder": "--text-encoder",
        "model.train_encoders": "--train-encoders",
        "model.video_weights": "--video-weights",
        "preprocess.context_utterances": "--context",
        "preprocess.height": "--size",
        "preprocess.num_frames": "--frames",
        "preprocess.text_encoder": "--text-encoder",
        "preprocess.width": "--size",
        "train.batch_size": "--batch-size",
        "train.learning_rate": "--learning-rate",
        "train.max_epochs": "--epochs",
        "train.precision": "--precision",
        "train.seed": "--seed",
    }
)
"""The keys that have an option of their own."""


def allowed(hint: Any) -> str:
    """Return in words what a value may be."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        return f"a list of some of {', '.join(get_args(get_args(hint)[0]))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}[hint]


def meanings(config: type["DataclassInstance"]) -> dict[str, str]:
    """Return what the fields of a config mean: the texts under them in its source."""
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def config_text(command: str, configs: Mapping[str, "DataclassInstance"], *, derived: Collection[str] = ()) -> str:
    """Return a file with all settings of a command, their meanings and defaults as comments.

    Args:
        command: Whose keys are written.
        configs: The values by table.
        derived: Keys, as `table.key`, that follow from others where they are left out, and so stand in a comment.
    """
    lines = [f"# Settings of `mmsent {command} --config FILE`; a key that is left out has its default."]
    for table, section in SECTIONS[command].items():
        lines += ["", f"[{table}]"]
        said, default = meanings(section.config), section.config()
        for name in section.names():
            choices = f" {allowed(section.hint(name)).capitalize()}." if get_origin(section.hint(name)) else ""
            words = f"{said[name]}{choices} Default: {toml_value(getattr(default, name))}."
            lines += textwrap.wrap(words, 100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            hidden = "# " if f"{table}.{name}" in derived else ""
            lines.append(f"{hidden}{name} = {toml_value(getattr(configs[table], name))}")
    return "\n".join(lines) + "\n"
