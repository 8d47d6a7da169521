"""What the model is and how it is trained."""

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, Self, get_args

from shards.schema import MODALITIES, SCRATCH, Modality

__all__ = [
    "OF_SHARDS",
    "ClassWeights",
    "DataConfig",
    "EncodeConfig",
    "Fusion",
    "ModelConfig",
    "OrderKind",
    "Precision",
    "Schedule",
    "Selection",
    "TextPooling",
    "TrainConfig",
    "VideoEncoderName",
    "check_together",
]

Precision = Literal["auto", "bf16", "fp16", "fp32"]
ClassWeights = Literal["none", "sqrt", "inverse"]
Schedule = Literal["plateau", "linear"]
Selection = Literal["loss", "weighted-f1"]
Fusion = Literal["concat", "gated"]
TextPooling = Literal["pooler", "cls", "mean"]
VideoEncoderName = Literal[
    "r3d_18", "mc3_18", "r2plus1d_18", "mvit_v1_b", "mvit_v2_s", "swin3d_t", "swin3d_s", "swin3d_b"
]
OF_SHARDS = "auto"
"""In place of a text encoder's name: the one whose tokenizer the shards were made with."""
OrderKind = Literal["shuffle", "block-shuffle", "class-balanced", "class-weighted", "length-bucketed"]


class _Plain:
    """To and from plain values, for JSON."""

    __slots__ = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Rebuild from `to_json`; `TypeError` if a field is missing or unknown."""
        return cls(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()})

    def differences(self, other: Self, *, ignore: tuple[str, ...] = ()) -> list[str]:
        """List the fields in which two configs disagree, as `name: ours against theirs`."""
        return [
            f"{item.name}: {getattr(self, item.name)!r} against {getattr(other, item.name)!r}"
            for item in fields(self)  # type: ignore[arg-type]
            if item.name not in ignore and getattr(self, item.name) != getattr(other, item.name)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(_Plain):
    """The network. Defaults are the ones of docs/model.md."""

    modalities: tuple[Modality, ...] = MODALITIES
    """What the model looks at; the others are not even computed."""
    text_encoder: str = OF_SHARDS
    """Text encoder: `auto` for the one whose tokenizer the shards were made with, or another one with the same
    tokenizer: a Hugging Face name, a local folder, or `scratch`, a small BERT from random weights."""
    text_pooling: TextPooling = "pooler"
    """What is taken of the text encoder's output: BERT's `pooler`, the first token (`cls`), or the `mean` of the
    utterance's own tokens, which scores higher with a frozen encoder (docs/results.md)."""
    video_encoder: VideoEncoderName = "r3d_18"
    """A video model of torchvision, by its name there."""
    video_weights: str = "kinetics"
    """Weights of the video encoder: `kinetics`, `none` for random ones, or the path of a state dict (.pth,
    .safetensors)."""
    train_encoders: tuple[Modality, ...] = ()
    """Pre-trained encoders to train as well. Those that start from random weights are always trained."""
    feature_dim: int = 128
    """Width of each modality after its encoder."""
    fusion_dim: int = 256
    """Width after fusion."""
    encoder_dropout: float = 0.2
    """Dropout of the features of each modality."""
    fusion_dropout: float = 0.3
    """Dropout of the fused features."""
    fusion: Fusion = "concat"
    """How the features of the modalities become one: side by side (`concat`), or weighted element by element by gates
    that look at all of them (`gated`, https://arxiv.org/abs/1702.01992)."""
    dialogue_turns: int = 1
    """Utterances of a dialogue, up to and with the one to be judged, that a GRU goes over; 1 is without it."""

    def __post_init__(self) -> None:
        if not self.modalities or list(self.modalities) != [name for name in MODALITIES if name in self.modalities]:
            got = ", ".join(self.modalities) or "none"
            raise ValueError(f"modalities must be some of {', '.join(MODALITIES)}, in this order, got {got}")
        if unknown := set(self.train_encoders) - {"video", "text"}:
            raise ValueError(f"train_encoders names pre-trained encoders, video or text, got {sorted(unknown)}")
        if unused := set(self.train_encoders) - set(self.modalities):
            raise ValueError(f"train_encoders names {sorted(unused)}, which the model does not look at")
        if always := [name for name in self.train_encoders if name in self.random_encoders]:
            raise ValueError(f"{always} start from random weights and are trained anyway: leave them out")
        for name in ("encoder_dropout", "fusion_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        for name, choices in (("text_pooling", TextPooling), ("fusion", Fusion), ("video_encoder", VideoEncoderName)):
            _check_choice(name, getattr(self, name), choices)
        for name in ("dialogue_turns", "feature_dim", "fusion_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, modality in (("text_pooling", "text"), ("video_encoder", "video")):
            if modality not in self.modalities and getattr(self, name) != _default(self, name):
                raise ValueError(f"{name} is for {modality}, which `modalities` leaves out")
        if len(self.modalities) == 1 and self.fusion != _default(self, "fusion"):
            raise ValueError(f"fusion is for several modalities, got {self.modalities[0]} alone")

    @property
    def random_encoders(self) -> tuple[Modality, ...]:
        """Modalities whose encoder starts from random weights, and is trained for that; others are pre-trained."""
        random = {"video": self.video_weights == "none", "audio": True, "text": self.text_encoder == SCRATCH}
        return tuple(name for name in self.modalities if random[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(_Plain):
    """The training run."""

    batch_size: int = 32
    """Samples of a step, over all processes."""
    max_epochs: int = 20
    """Passes over the training split, at most."""
    learning_rate: float = 1e-4
    """Adam's learning rate for parameters that start from random values."""
    text_learning_rate: float = 1e-5
    """Learning rate of a pre-trained text encoder that is trained."""
    video_learning_rate: float = 1e-5
    """Learning rate of a pre-trained video encoder that is trained."""
    layer_decay: float = 1.0
    """Factor from the learning rate of one layer to that of the layer below it, in a pre-trained encoder that is
    trained."""
    warmup_steps: int = 0
    """First steps over which all learning rates rise in a line from 0 to what they are."""
    schedule: Schedule = "plateau"
    """Course of the learning rates: `plateau` lowers them when the validation loss stops falling; `linear` lets them
    fall in a line, from the end of the warm-up to 0 after `max_epochs`, as is usual where text encoders are
    fine-tuned."""
    plateau_factor: float = 0.1
    """Factor of the learning rates when the validation loss stops falling."""
    plateau_patience: int = 2
    """Epochs in a row that may pass without a validation loss lower by a ten-thousandth, before the rates fall."""
    selection: Selection = "loss"
    """Epoch whose weights are kept: that of the lowest validation `loss`, or of the highest `weighted-f1`, mean over
    the tasks, as is usual for MELD: the loss rises with a model's confidence when its choices still get better."""
    early_stopping_patience: int = 5
    """Epochs in a row that may pass without a better one before the run ends."""
    max_grad_norm: float = 1.0
    """Norm to which gradients are scaled down."""
    class_weights: ClassWeights = "none"
    """Weight of each class in the loss: the `inverse` of its frequency in train, or the square root of that (`sqrt`);
    mean 1 over the samples."""
    label_smoothing: float = 0.0
    """Part of each target that is spread over all classes, 0 to below 1."""
    modality_dropout: float = 0.0
    """Probability with which each modality of a training sample is hidden from the model; never all of one."""
    crop_and_flip: bool = False
    """Train on random parts of the picture, every other clip mirrored, the same for all frames of a clip."""
    spec_augment: bool = False
    """Hide bands of the log-mel in time and frequency while training (https://arxiv.org/abs/1904.08779)."""
    ema_decay: float = 0.0
    """Decay per step of a moving average of the weights, which is then validated and kept; 0 is without it."""
    accumulation_steps: int = 1
    """Parts in which the batch of a step is computed one after the other: so many times less memory for activations.
    Batch normalisation, of the audio branch and of a video network that is trained, then sees a part at a time."""
    compile: bool = False
    """Compile the encoders by `torch.compile`: slower to start, faster to go on."""
    deterministic: bool = False
    """Algorithms that give the same bits in each run on the same kind of device, as a CPU does anyway; on a GPU slower,
    and refused where an operation has none."""
    precision: Precision = "auto"
    """Number format of the forward pass: `auto` takes bf16 on a GPU that computes in it, fp16 on another, and fp32 on a
    CPU."""
    seed: int = 0
    """Seed of the weights, the order of samples, dropout and augmentation."""
    order: OrderKind = "shuffle"
    """Order of the training samples: `shuffle`, each once in random order; `block-shuffle`, the same within blocks of
    shards, for shards behind a network or on a slow disk; `class-balanced`, every class of the first task equally
    often; `class-weighted`, by the square root of its frequency; `length-bucketed`, batches of texts of like length."""
    shards_per_block: int = 8
    """Shards that the order `block-shuffle` mixes at a time."""
    num_readers: int = 2
    """Threads that fill batches; they do not change any."""
    check: bool = False
    """Compare every sample with its CRC-32 when it is read."""
    checkpoint_steps: int = 500
    """Steps between two saves within an epoch; each epoch ends with one."""
    keep_checkpoints: int = 2
    """How many of the last checkpoints are kept to go on from."""

    def __post_init__(self) -> None:
        counts = ("batch_size", "max_epochs", "num_readers", "checkpoint_steps", "early_stopping_patience")
        for name in (*counts, "shards_per_block", "accumulation_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "text_learning_rate", "video_learning_rate", "max_grad_norm"):
            if not (getattr(self, name) > 0 and isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        if not 0 < self.plateau_factor < 1:
            raise ValueError(f"plateau_factor must be above 0 and below 1, got {self.plateau_factor}")
        for name, choices in (
            ("class_weights", ClassWeights), ("precision", Precision), ("schedule", Schedule),
            ("selection", Selection), ("order", OrderKind),
        ):  # fmt: skip
            _check_choice(name, getattr(self, name), choices)
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        for name in ("warmup_steps", "plateau_patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("label_smoothing", "modality_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        corrections = {
            "order": self.order in ("class-balanced", "class-weighted"),
            "class_weights": self.class_weights != "none",
        }
        if sum(corrections.values()) > 1:
            found = " and ".join(f"`{name}` {getattr(self, name)}" for name, does in corrections.items() if does)
            raise ValueError(f"{found} each correct for how often a class comes: choose one of them")
        if self.accumulation_steps > self.batch_size:
            what = f"accumulation_steps must be at most `batch_size`, here {self.batch_size}"
            raise ValueError(f"{what}, got {self.accumulation_steps}")
        if self.shards_per_block != _default(self, "shards_per_block") and self.order != "block-shuffle":
            raise ValueError(f"shards_per_block is for the `order` block-shuffle, got {self.order}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(_Plain):
    """The data of a run."""

    shards: str = ""
    """Folder of shards, or its URL; empty where `--shards` gives it. A run writes it as an absolute path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeConfig(_Plain):
    """What `mmsent encode` makes of shards."""

    modalities: tuple[Modality, ...] = ("video", "text")
    """Modalities to encode; the others keep their arrays. Audio is encoded by a run's encoder alone (`--run`)."""
    batch_size: int = 32
    """Samples that are encoded at a time."""
    precision: Precision = "auto"
    """Number format of the forward pass: `auto` takes bf16 on a GPU that computes in it, fp16 on another, and fp32 on a
    CPU."""

    def __post_init__(self) -> None:
        if not self.modalities or list(self.modalities) != [name for name in MODALITIES if name in self.modalities]:
            got = ", ".join(self.modalities) or "none"
            raise ValueError(f"modalities must be some of {', '.join(MODALITIES)}, in this order, got {got}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        _check_choice("precision", self.precision, Precision)


def check_together(model: ModelConfig, train: TrainConfig) -> None:
    """Refuse a training run that asks for what its model has no use for.

    Raises:
        ValueError: naming both fields.
    """
    for name in ("text", "video"):
        field = f"{name}_learning_rate"
        if name not in model.train_encoders and getattr(train, field) != _default(train, field):
            raise ValueError(f"{field} is for a trained {name} encoder, which `train_encoders` does not name")
    if train.layer_decay != _default(train, "layer_decay") and not model.train_encoders:
        raise ValueError("layer_decay is for trained encoders, of which `train_encoders` names none")
    for field, wanted, name in (
        ("crop_and_flip", train.crop_and_flip, "video"),
        ("spec_augment", train.spec_augment, "audio"),
    ):
        if wanted and name not in model.modalities:
            raise ValueError(f"{field} is for {name}, which `modalities` leaves out")
    if train.modality_dropout and len(model.modalities) == 1:
        raise ValueError("modality_dropout never hides the only modality there is")


def _default(config: Any, name: str) -> object:
    """Return the default of a field."""
    [default] = [item.default for item in fields(config) if item.name == name]
    return default


def _check_choice(name: str, value: str, choices: Any) -> None:
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
