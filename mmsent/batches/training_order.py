"""The order of training samples by its name in the configuration.

Shape letters: N samples of the split.
"""

import numpy as np

from mmsent.config import TrainConfig
from shards.order.orders import BlockShuffled, Order, Shuffled
from shards.order.sampling import ClassBalanced, LengthBucketed, Weighted, class_sample_weights
from shards.reading.split import Split

__all__ = ["training_order"]


def training_order(split: Split, config: TrainConfig) -> Order:
    """Return the order that `config` asks for, of the samples of a split.

    Classes are those of the first task; labels and lengths come from the samples table, not from payloads.
    """
    shuffled = Shuffled(len(split), config.seed)
    if config.order == "shuffle":
        return shuffled
    if config.order == "block-shuffle":
        sizes = tuple(shard.num_samples for shard in split.index.shards)
        return BlockShuffled(sizes, config.seed, config.shards_per_block)
    if config.order == "length-bucketed":
        lengths = split.rows["num_tokens"].astype(np.int64)
        return LengthBucketed(shuffled, lengths, config.batch_size, config.seed)
    classes = split.rows["labels"][:, 0].astype(np.int64)  # (N,)
    if config.order == "class-balanced":
        return ClassBalanced(classes, config.seed)
    return Weighted(class_sample_weights(classes, power=0.5), config.seed)
