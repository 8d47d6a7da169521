"""What the model is and how it is trained."""

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any, Literal, Self, get_args

from shards.schema import DEFAULT_TEXT_ENCODER, MODALITIES, SCRATCH, Modality

__all__ = [
    "ClassWeights",
    "Fusion",
    "ModelConfig",
    "OrderKind",
    "Precision",
    "Schedule",
    "Selection",
    "TextPooling",
    "TrainConfig",
    "VideoEncoderName",
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
    text_encoder: str = DEFAULT_TEXT_ENCODER
    """A Hugging Face name, a local folder, or `scratch`: a small BERT from random weights for the shards' tokenizer."""
    text_pooling: TextPooling = "pooler"
    """What of the text encoder's output is taken: BERT's `pooler`, the first token (`cls`), or the `mean` of the
    utterance's own tokens, which scores higher with a frozen encoder (docs/results.md)."""
    video_encoder: VideoEncoderName = "r3d_18"
    """A video model of torchvision, by its name there."""
    video_weights: str = "kinetics"
    """Of the video encoder: `kinetics`, `none` for random ones, or the path of a state dict (.pth, .safetensors)."""
    train_encoders: tuple[Modality, ...] = ()
    """Pre-trained encoders to train as well. Those that start from random weights are always trained."""
    feature_dim: int = 128
    """Width of each modality after its encoder."""
    fusion_dim: int = 256
    """Width after fusion."""
    encoder_dropout: float = 0.2
    """Of the modality features."""
    fusion_dropout: float = 0.3
    """Of the fused features."""
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
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"unknown {name} {getattr(self, name)!r}, known are {known}")
        if self.dialogue_turns < 1:
            raise ValueError(f"dialogue_turns must be at least 1, got {self.dialogue_turns}")
        if self.feature_dim < 1 or self.fusion_dim < 1:
            raise ValueError(f"widths must be at least 1, got {self.feature_dim}, {self.fusion_dim}")

    @property
    def random_encoders(self) -> tuple[Modality, ...]:
        """Modalities whose encoder starts from random weights, and is trained for that; others are pre-trained."""
        random = {"video": self.video_weights == "none", "audio": True, "text": self.text_encoder == SCRATCH}
        return tuple(name for name in self.modalities if random[name])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(_Plain):
    """The training run."""

    batch_size: int = 32
    """Samples of a step."""
    max_epochs: int = 20
    """Passes over the training split, at most."""
    learning_rate: float = 1e-4
    """Of Adam, for everything that starts from random weights."""
    text_learning_rate: float = 1e-5
    """Of a pre-trained text encoder that is trained."""
    video_learning_rate: float = 1e-5
    """Of a pre-trained video encoder that is trained."""
    layer_decay: float = 1.0
    """In a pre-trained encoder that is trained, each layer learns at this times the rate of the layer above it."""
    warmup_steps: int = 0
    """First steps over which all learning rates rise in a line from 0 to what they are."""
    schedule: Schedule = "plateau"
    """Of the learning rates: `plateau` lowers them when the validation loss stops falling; `linear` lets them fall in a
    line, from the end of the warm-up to 0 after `max_epochs`, as is usual where text encoders are fine-tuned."""
    plateau_factor: float = 0.1
    """Learning rates are multiplied by it when the validation loss stops falling."""
    plateau_patience: int = 2
    """Epochs in a row that may pass before that without a validation loss lower by a ten-thousandth of itself."""
    selection: Selection = "loss"
    """Which epoch's weights are kept: that of the lowest validation `loss`, or of the highest `weighted-f1`, mean over
    the tasks, as is usual for MELD: the loss rises with a model's confidence when its choices still get better."""
    early_stopping_patience: int = 5
    """Epochs in a row that may pass without a better one before the run ends."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    class_weights: ClassWeights = "none"
    """Of the losses, from the training labels: the inverse of each class's frequency, or its square root
    (`sqrt`); mean 1 over the samples."""
    label_smoothing: float = 0.0
    """Part of each target that is spread over all classes, 0 to below 1."""
    modality_dropout: float = 0.0
    """Probability, in training, with which each modality of a sample is hidden from the model; never all of one."""
    crop_and_flip: bool = False
    """In training, take a random part of the picture and mirror every other clip, the same for all frames of one."""
    spec_augment: bool = False
    """In training, hide bands of the log-mel in time and frequency (https://arxiv.org/abs/1904.08779)."""
    ema_decay: float = 0.0
    """Validate and keep a moving average of the weights with this decay per step; 0 is without it."""
    accumulation_steps: int = 1
    """Parts in which the batch of a step is computed one after the other: so many times less memory for activations.
    Batch normalisation, of the audio branch and of a video network that is trained, then sees a part at a time."""
    compile: bool = False
    """Compile the encoders by `torch.compile`: slower to start, faster to go on."""
    deterministic: bool = False
    """Algorithms that give the same bits in each run on the same kind of device, as a CPU does anyway; on a GPU slower,
    and refused where an operation has none."""
    precision: Precision = "auto"
    """Of the forward pass: `auto` takes bf16 on a GPU that computes in it, fp16 on another, and fp32 on a CPU."""
    seed: int = 0
    """Of the weights, the order of samples and dropout."""
    order: OrderKind = "shuffle"
    """Of the training samples: `shuffle`, each once in random order; `block-shuffle`, the same within blocks of shards,
    for shards behind a network or on a slow disk; `class-balanced`, every class of the first task equally often;
    `class-weighted`, by the square root of its frequency; `length-bucketed`, batches of texts of like length."""
    shards_per_block: int = 8
    """With `block-shuffle`: how many shards are mixed."""
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
        if self.plateau_patience < 0 or not 0 < self.plateau_factor < 1:
            raise ValueError(
                f"need patience >= 0 and 0 < factor < 1, got {self.plateau_patience}, {self.plateau_factor}"
            )
        if self.class_weights not in get_args(ClassWeights) or self.precision not in get_args(Precision):
            raise ValueError(f"unknown class_weights {self.class_weights!r} or precision {self.precision!r}")
        for name, choices in (("schedule", Schedule), ("selection", Selection)):
            if getattr(self, name) not in get_args(choices):
                known = ", ".join(get_args(choices))
                raise ValueError(f"unknown {name} {getattr(self, name)!r}, known are {known}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        for name in ("label_smoothing", "modality_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1, got {getattr(self, name)}")
        corrections = {
            "order": self.order in ("class-balanced", "class-weighted"),
            "class_weights": self.class_weights != "none",
        }
        if sum(corrections.values()) > 1:
            found = " and ".join(f"{name} {getattr(self, name)}" for name, does in corrections.items() if does)
            raise ValueError(f"{found} each correct for how often a class comes: choose one of them")
        if self.accumulation_steps > self.batch_size:
            raise ValueError(f"a batch of {self.batch_size} has no {self.accumulation_steps} parts")
        if self.order not in get_args(OrderKind):
            raise ValueError(f"unknown order {self.order!r}, known are {', '.join(get_args(OrderKind))}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be from 0 to 2^63 - 1, got {self.seed}")
