"""Encoders of real size from random weights: what they score is worth nothing, what they cost is real."""

from pathlib import Path

import torch

from mmsent.config import VideoEncoderName

__all__ = ["TEXT_ENCODER", "save_text_encoder", "save_video_weights"]

TEXT_ENCODER = "text-net"
"""Name of the folder, and so of the tokenizer that the shards are for."""


def save_text_encoder(folder: Path, *, width: int, num_layers: int, vocab_size: int, dropout: bool) -> Path:
    """Save a BERT of random weights and return its folder.

    Args:
        folder: Parent of the encoder's own folder.
        width: Hidden size; 768 with 12 layers is BERT-base.
        num_layers: Its layers.
        vocab_size: Its tokens.
        dropout: Whether it drops what BERT does.
    """
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=max(2, width // 64),
        intermediate_size=4 * width,
        vocab_size=vocab_size,
        hidden_dropout_prob=0.1 if dropout else 0.0,
        attention_probs_dropout_prob=0.1 if dropout else 0.0,
    )
    path = folder / TEXT_ENCODER
    BertModel(config).save_pretrained(path)
    return path


def save_video_weights(folder: Path, name: VideoEncoderName) -> Path:
    """Save random weights of a video model of torchvision and return the file."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    path = folder / f"{name}.pth"
    torch.save(get_model(name, weights=None).state_dict(), path)
    return path
