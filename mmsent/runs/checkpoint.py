"""A checkpoint is one safetensors file, published by rename: tensors, and all else as JSON in its header. No pickle.

What training never changes, the weights of frozen encoders, lies once beside the checkpoints of a run.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmsent.config import ModelConfig, TrainConfig
from mmsent.errors import CheckpointError, TrainingError
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.folder import BEST, FROZEN, RUN, check_place, checkpoint_path, checkpoint_paths, seed_folders, visible
from mmsent.runs.history import EpochResult
from shards.errors import ShardError, SpecMismatchError, describe
from shards.files import sync_directory
from shards.reading.split import Split
from shards.schema import LabelSet
from shards.spec import FeatureSpec

__all__ = [
    "Checkpoint",
    "check_fit",
    "checkpoint_to_resume",
    "load_checkpoint",
    "part_of",
    "restore_model",
    "save_checkpoint",
    "save_frozen",
    "save_step_checkpoint",
]

_LOG = logging.getLogger(__name__)

CHECKPOINT_VERSION = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checkpoint:
    """Weights and everything that is needed to use them, or to go on training.

    Attributes:
        model_config: The network.
        train_config: The run.
        spec: How the samples were made that it was trained on.
        label_sets: What its outputs mean.
        train_counts: Samples per task and label in the training split.
        text_config: Hugging Face config of the text encoder, if there is one.
        frozen_sha256: Of the weights of each frozen encoder by modality; they lie in `frozen.safetensors`.
        history: Epochs that were finished.
        state: Where training stands, as plain values, see `mmsent.training.run_state`; empty with the best weights.
        tensors: `model.*`, without frozen encoders, and in a checkpoint to go on from also `optimizer.*` and
            `average.*`.
    """

    model_config: ModelConfig
    train_config: TrainConfig
    spec: FeatureSpec
    label_sets: tuple[LabelSet, ...]
    train_counts: Mapping[str, Mapping[str, int]]
    text_config: dict[str, Any] | None
    frozen_sha256: Mapping[str, str]
    history: tuple[EpochResult, ...]
    state: dict[str, Any]
    tensors: Mapping[str, Tensor]


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the tensors under `name.`, without the prefix."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one step: the file has the old content or all of the new one, also after a power cut.

    Raises:
        CheckpointError: if the disk is full or cannot be written.
    """
    meta = {
        "version": CHECKPOINT_VERSION,
        "model_config": checkpoint.model_config.to_json(),
        "train_config": checkpoint.train_config.to_json(),
        "spec": checkpoint.spec.to_json(),
        "label_sets": [asdict(item) for item in checkpoint.label_sets],
        "train_counts": {task: dict(counts) for task, counts in checkpoint.train_counts.items()},
        "text_config": checkpoint.text_config,
        "frozen_sha256": dict(checkpoint.frozen_sha256),
        "history": [asdict(item) for item in checkpoint.history],
        "state": checkpoint.state,
    }
    _publish(path, checkpoint.tensors, {"mmsent": json.dumps(meta)})


def save_frozen(run: Path, model: MultimodalModel) -> None:
    """Write the weights of the frozen encoders of a run, once: its checkpoints do not repeat them."""
    if state := model.frozen_state():
        _publish(run / FROZEN, state, {"mmsent-frozen": json.dumps(model.frozen_sha256())})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: if there is none, it is cut or damaged, or it is no checkpoint of ours.
    """
    if not path.is_file():
        then = "give the folder that `mmsent train --out` made, after its first epoch"
        raise CheckpointError(describe("there is no checkpoint", file=path, then=then))
    try:
        with safe_open(path, framework="pt") as file:
            raw = (file.metadata() or {}).get("mmsent")
            if raw is None:
                raise CheckpointError(describe("this is no checkpoint of mmsent", file=path, then="check the path"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        meta = json.loads(raw)
        if meta["version"] != CHECKPOINT_VERSION:
            what = f"the checkpoint is of version {meta['version']}, this program reads {CHECKPOINT_VERSION}"
            raise CheckpointError(describe(what, file=path, then="use the mmsent that made it, or train again"))
        return Checkpoint(
            model_config=ModelConfig.from_json(meta["model_config"]),
            train_config=TrainConfig.from_json(meta["train_config"]),
            spec=FeatureSpec.from_json(meta["spec"]),
            label_sets=tuple(LabelSet(task=item["task"], names=tuple(item["names"])) for item in meta["label_sets"]),
            train_counts=meta["train_counts"],
            text_config=meta["text_config"],
            frozen_sha256=meta["frozen_sha256"],
            history=tuple(EpochResult(**item) for item in meta["history"]),
            state=meta["state"],
            tensors=tensors,
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ShardError) as exc:
        then = "use another checkpoint of the run, or train again"
        raise CheckpointError(describe(f"the checkpoint is damaged: {exc}", file=path, then=then)) from exc


def restore_model(checkpoint: Checkpoint, run: Path) -> MultimodalModel:
    """Rebuild the network of a checkpoint on the CPU; needs no network connection.

    Args:
        checkpoint: Of the run.
        run: Its folder, for the weights of frozen encoders.

    Raises:
        CheckpointError: if weights are missing or are not those that the run was trained with.
    """
    model = MultimodalModel(
        checkpoint.model_config,
        spec=checkpoint.spec,
        label_sets=checkpoint.label_sets,
        text_config=checkpoint.text_config,
        pretrained=False,
    )
    try:
        model.load_trained_state(part_of(checkpoint.tensors, "model"))
        if checkpoint.frozen_sha256:
            model.load_frozen_state(_load_frozen(run / FROZEN))
    except RuntimeError as exc:
        reason = (str(exc).strip().splitlines() or [""])[-1].strip()
        what = f"the weights do not fit the network they claim to be of: {reason}"
        then = "copy the whole folder of the run again from where it was made"
        raise CheckpointError(describe(what, file=run, then=then)) from exc
    if model.frozen_sha256() != dict(checkpoint.frozen_sha256):
        what = "the weights of frozen encoders are not those that the run was trained with"
        then = "copy the file again from where the run was made"
        raise CheckpointError(describe(what, file=run / FROZEN, then=then))
    return model


def check_fit(checkpoint: Checkpoint, split: Split, *, path: Path) -> None:
    """Refuse shards that are not made as those the weights were trained on.

    Raises:
        SpecMismatchError: naming every field that differs, or the labels.
    """
    if differences := split.differences(checkpoint.spec, checkpoint.label_sets):
        what = f"the checkpoint does not fit the shards in {split.source.location} (checkpoint against shards): "
        then = "give the shards it was trained on, or make shards with the same options"
        if checkpoint.spec.encoded.keys() != split.spec.encoded.keys():
            then = "give shards of the kind it was trained on: raw ones, or those that `mmsent encode` made of them"
        raise SpecMismatchError(describe(what + "; ".join(differences), file=path, then=then))


def _load_frozen(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        what = f"the run lacks {path.name}, the weights of its frozen encoders"
        raise CheckpointError(describe(what, file=path, then="copy the whole folder of the run"))
    try:
        return load_file(path)
    except (OSError, SafetensorError) as exc:
        then = "copy the file again from where the run was made"
        raise CheckpointError(describe(f"the weights cannot be read: {exc}", file=path, then=then)) from exc


def _publish(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file in one step.

    Raises:
        CheckpointError: if the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_cpu, temporary, metadata=metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as exc:
        temporary.unlink(missing_ok=True)
        then = "make room; a checkpoint before this one, if any, is still there: go on with `--resume`"
        raise CheckpointError(describe(f"cannot write a checkpoint: {exc}", file=path, then=then)) from exc
    sync_directory(path.parent)


def save_step_checkpoint(run: Path, checkpoint: Checkpoint, *, step: int, keep: int) -> Path:
    """Save a checkpoint under the number of its step; then remove the oldest ones until `keep` are left.

    Raises:
        CheckpointError: if the disk is full or cannot be written; the others are all still there then.
    """
    path = checkpoint_path(run, step)
    path.parent.mkdir(exist_ok=True)
    save_checkpoint(path, checkpoint)
    for older in checkpoint_paths(run)[:-keep]:
        older.unlink()
    return path


def checkpoint_to_resume(run: Path, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None to begin in a folder that is new or empty.

    Raises:
        TrainingError: if the folder cannot be made, holds something else, or a run and `resume` does not say to go on.
        CheckpointError: if the newest checkpoint is cut, damaged or of another program.
    """
    check_place(run)
    if paths := checkpoint_paths(run):
        if resume:
            return _load_newest(paths)
        then = "go on with `--resume`, or choose another --out"
        raise TrainingError(describe("the folder holds a run already", file=run, then=then))
    # A run that was killed before its first checkpoint has left run.json and has nothing to lose.
    if run.exists() and not run.is_dir():
        raise TrainingError(describe("--out is a file", file=run, then="choose another --out"))
    if (run / BEST).is_file():
        what = "the folder holds a run whose checkpoints to go on from are gone"
        raise TrainingError(
            describe(what, file=run, then="choose another --out; `mmsent evaluate` still reads this one")
        )
    if any((folder / RUN).is_file() for folder in seed_folders(run).values()):
        then = "go on with `--seeds`, or choose another --out"
        raise TrainingError(describe("the folder holds the runs of several seeds", file=run, then=then))
    if run.exists() and not (run / RUN).is_file() and visible(run):
        what = "the folder is not empty and holds no run to go on from"
        raise TrainingError(describe(what, file=run, then="choose another --out"))
    if resume:
        _LOG.info("nothing to resume, starting from the beginning: there is no checkpoint in %s", run)
    return None


def _load_newest(paths: list[Path]) -> Checkpoint:
    """Read the last of some checkpoints; if that cannot be read, it is for the user to give up its steps.

    Raises:
        CheckpointError: if it is cut, damaged or of another program.
    """
    try:
        return load_checkpoint(paths[-1])
    except CheckpointError as exc:
        what = str(exc).partition("\n")[0]
        before = f"go on from {paths[-2].name}" if len(paths) > 1 else "begin again"
        then = f"delete it to {before}: run the same command again after that"
        raise CheckpointError(describe(what, file=paths[-1], then=then)) from exc
