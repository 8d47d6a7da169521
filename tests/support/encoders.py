"""Small text encoders that the tests make for themselves."""

from pathlib import Path

import torch


def save_bert(folder: Path, *, num_layers: int = 1, dropout: float = 0.0) -> Path:
    """Save a BERT of random weights for the tokens of `tests.support.samples`; a folder `scratch` is for those."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder
