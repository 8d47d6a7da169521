"""Expected trouble with weights, checkpoints and runs."""

from shards.errors import ExpectedError

__all__ = ["CheckpointError", "DeviceMemoryError", "EncoderError", "PeerError", "TrainingError"]


class CheckpointError(ExpectedError):
    """A checkpoint that is missing, damaged, or made for other data."""


class EncoderError(ExpectedError):
    """Weights of a pre-trained encoder that are not to be had, or do not fit."""


class TrainingError(ExpectedError):
    """A run that cannot start or go on."""


class DeviceMemoryError(TrainingError):
    """Memory that a GPU does not have."""


class PeerError(TrainingError):
    """Another process of a run that is gone."""
