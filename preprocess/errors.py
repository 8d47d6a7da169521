"""Expected trouble while reading a dataset or a clip."""

from shards.errors import ExpectedError

__all__ = ["ClipError", "DatasetError", "MachineError", "TokenizerError"]


class ClipError(ExpectedError):
    """One clip, or one stream of it, cannot be used. The message is the reason stored in the sample."""


class DatasetError(ExpectedError):
    """The folder or its annotations are not a dataset this program can read."""


class MachineError(ExpectedError):
    """Memory, processes or libraries that this machine lacks: never a fact about a clip."""


class TokenizerError(ExpectedError):
    """The tokenizer asked for is not to be had here."""
