"""The text encoders: part of a batch -> features `(n, D)`.

Shape letters: n rows, L tokens, W width of a backbone, D feature width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmsent.config import TextPooling
from mmsent.errors import EncoderError
from shards.errors import describe
from shards.schema import SCRATCH
from shards.spec import TextSpec

__all__ = ["TextEncoder", "load_text_model", "scratch_text_config", "takes_whole_mask"]


class TextEncoder(nn.Module):
    """A Hugging Face encoder, its output pooled -> Linear."""

    def __init__(
        self,
        backbone: nn.Module | None,
        *,
        pooling: TextPooling,
        width: int,
        feature_dim: int,
        context: bool = False,
    ) -> None:
        """Put an encoder together; without a backbone it goes on from `width` values that one gave before.

        With `context` earlier utterances stand before the one that is meant: then a mean is over its tokens alone.
        """
        super().__init__()
        self.backbone = backbone
        self.width = width
        self.head = nn.Linear(width, feature_dim)
        self._pooling = pooling
        self._context = context
        self._whole_mask = False

    def encode(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Return `(n, W)` of the backbone for `(n, L)` int64 with mask `(n, L)` bool, n at least 1."""
        assert self.backbone is not None
        mask = token_mask.long()
        if self._whole_mask:
            size = tokens.shape[1]
            mask = token_mask[:, None, None].expand(-1, 1, size, -1)  # (n, 1, L, L)
        output = self.backbone(input_ids=tokens, attention_mask=mask)
        pooled: Tensor
        if self._pooling == "pooler":
            pooled = output.pooler_output
        elif self._pooling == "cls":
            pooled = output.last_hidden_state[:, 0]
        else:
            mask = (_own(tokens, token_mask) if self._context else token_mask).unsqueeze(2)
            total = output.last_hidden_state.float().masked_fill(~mask, 0).sum(dim=1)
            pooled = total / mask.sum(dim=1).clamp(min=1)
        return pooled

    def use_whole_mask(self) -> None:
        """Give the backbone a mask of who may look at whom, if it takes one, in place of one of what is padding.

        Of the latter transformers asks whether anything is masked at all, for which the CPU waits until the GPU has
        done all that it was given before: it then has nothing to do until the CPU has caught up.
        """
        self._whole_mask = self.backbone is not None and takes_whole_mask(self.backbone)

    def compile_backbone(self) -> None:
        """Compile the backbone for any number of rows and tokens."""
        assert self.backbone is not None
        self.backbone.compile(dynamic=True)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Encode `(n, L)` int64 with mask `(n, L)` bool to `(n, D)`."""
        features: Tensor = self.head(self.encode(tokens, token_mask))
        return features


def _own(tokens: Tensor, token_mask: Tensor) -> Tensor:
    """Return `(n, L)` bool, True behind the closing token of the last earlier utterance: the whole text without one.

    `[CLS] earlier [SEP] own [SEP]`: an earlier utterance ends with the token with which all ends, as `docs/format.md`
    says; RoBERTa's `</s></s>` with two of them.

    Args:
        tokens: `(n, L)`.
        token_mask: `(n, L)` bool, True where a token is real.
    """
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = token_mask.sum(dim=1, keepdim=True) - 1  # (n, 1)
    closing = tokens.gather(1, last.clamp(min=0))  # (n, 1)
    start = torch.where((tokens == closing) & (places < last), places + 1, 0).amax(dim=1, keepdim=True)
    return token_mask & (places >= start)


def takes_whole_mask(backbone: Any) -> bool:
    """Return whether an encoder makes the same of a mask `(n, 1, L, L)` bool as of one `(n, L)`, by trying both.

    Args:
        backbone: A Hugging Face encoder; it is left in the mode it is in.
    """
    device = next(backbone.parameters()).device
    tokens = torch.arange(8, device=device).view(2, 4) % backbone.config.vocab_size
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=torch.bool, device=device)
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.inference_mode():
            expected = backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[mask]
            found = backbone(input_ids=tokens, attention_mask=mask[:, None, None].expand(-1, 1, 4, -1))
            return torch.allclose(found.last_hidden_state[mask], expected, rtol=1e-4, atol=1e-5)
    except (RuntimeError, ValueError, IndexError, TypeError):  # of a shape that it does not know
        return False
    finally:
        backbone.train(was_training)


def scratch_text_config(spec: TextSpec) -> dict[str, Any]:
    """Return the Hugging Face config of the small BERT for a tokenizer learned from the training texts."""
    return {
        "model_type": "bert",
        "vocab_size": spec.vocab_size,
        "pad_token_id": spec.pad_id,
        "max_position_embeddings": spec.max_tokens,
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        # BERT's 0.02 is for 768 wide and a billion words; so small a network learns faster from livelier weights
        # (demo, text alone, 8 epochs: test accuracy 0.41 and 0.47 with 0.02, 0.54 and 0.55 with 0.05).
        "initializer_range": 0.05,
    }


def load_text_model(name: str, *, pooling: TextPooling, config: dict[str, Any] | None, spec: TextSpec) -> Any:
    """Return a Hugging Face encoder in float32, without the layers that `pooling` does not use.

    Args:
        name: Hugging Face name, local folder, or `scratch`.
        pooling: What of its output is taken.
        config: If given, build from it with random weights, to be filled from a checkpoint: no network is needed.
        spec: What the tokens are.

    Raises:
        EncoderError: if the encoder cannot be had, is none, cannot be pooled so, or is not for these tokens.
    """
    import transformers

    if config is None and name == SCRATCH:
        config = scratch_text_config(spec)
    if config is not None:
        values = dict(config)
        auto_model: Any = transformers.AutoModel  # its methods are not typed
        model = auto_model.from_config(transformers.AutoConfig.for_model(values.pop("model_type"), **values))
    else:
        model = _pretrained(name, pooling=pooling)
    if pooling == "pooler" and getattr(model, "pooler", None) is None:
        raise EncoderError(_no_pooler(name, "has no pooled output"))
    if pooling != "pooler" and hasattr(model, "pooler"):
        model.pooler = None  # as `add_pooling_layer=False`, which some models do not know; else it trained in vain
    _check_tokens(model, name, spec)
    return model


def _pretrained(name: str, *, pooling: TextPooling) -> Any:
    """Load an encoder with its weights.

    Raises:
        EncoderError: if it cannot be had, is none, or lacks weights that would then be random.
    """
    import transformers

    auto_model: Any = transformers.AutoModel
    if Path(name).is_dir():
        bars: Any = transformers.utils.logging  # not typed either
        bars.disable_progress_bar()  # of a blink; a download keeps its own
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        _check_architecture(config, name)  # before gigabytes are downloaded
        # Without a dtype, weights stored in half precision would be trained in it.
        model, report = auto_model.from_pretrained(name, config=config, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError) as exc:  # no network, no such model, no such folder: all are one of these
        reason = str(exc).strip().splitlines() or [type(exc).__name__]
        then = (
            f"with a network, run `hf download {name}` once; or, of a local folder, which shards know by its name "
            f"alone, give the path by `--text-encoder PATH`; or train a small one on shards made with "
            f"`--text-encoder {SCRATCH}`"
        )
        what = f"the text encoder {name!r} is neither a folder here nor to be had from the Hugging Face hub"
        raise EncoderError(describe(f"{what} ({reason[0]})", then=then)) from exc
    except EncoderError:
        raise
    except Exception as exc:  # of a damaged file: SafetensorError, RuntimeError, UnpicklingError and others
        lines = str(exc).strip().splitlines() or [""]
        what = f"the weights of text encoder {name!r} cannot be read: {type(exc).__name__}: {lines[-1].strip()}"
        raise EncoderError(describe(what, then="download or copy the encoder again")) from exc
    missing = sorted(report["missing_keys"])
    pooler = [key for key in missing if key.startswith("pooler")]
    if pooler and pooling == "pooler":
        raise EncoderError(_no_pooler(name, "comes without weights for its pooler, which would be random"))
    if lost := [key for key in missing if key not in pooler]:
        what = f"the weights of text encoder {name!r} lack {len(lost)} tensors, {lost[0]} among them"
        raise EncoderError(describe(what, then="give the name or the folder of a whole encoder"))
    return model


def _no_pooler(name: str, what: str) -> str:
    return describe(f"text encoder {name!r} {what}", then="pass `--set model.text_pooling=mean`, or `cls`")


def _check_architecture(config: Any, name: str) -> None:
    """Refuse a model that does not look at a text from both sides.

    Raises:
        EncoderError: for an encoder-decoder, a decoder, and what is no model of texts.
    """
    from transformers.models.auto import modeling_auto

    kind = config.model_type
    then = "choose an encoder such as bert-base-uncased, roberta-base or microsoft/deberta-v3-base"
    if config.is_encoder_decoder:
        raise EncoderError(describe(f"{name!r} is an encoder-decoder ({kind}), not a text encoder", then=then))
    decoders = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(
        modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if kind in decoders or getattr(config, "is_decoder", False):
        what = f"{name!r} is a decoder ({kind}), in which a token knows only those before it, not a text encoder"
        raise EncoderError(describe(what, then=then))
    if not hasattr(config, "vocab_size") or not hasattr(config, "hidden_size"):
        raise EncoderError(describe(f"{name!r} is no model of texts ({kind})", then=then))


def _check_tokens(model: Any, name: str, spec: TextSpec) -> None:
    """Refuse tokens or lengths that the embeddings are not for.

    Raises:
        EncoderError: with both numbers.
    """
    if model.config.vocab_size < spec.vocab_size:
        what = f"text encoder {name!r} knows {model.config.vocab_size} tokens, the shards use {spec.vocab_size}"
        raise EncoderError(describe(what, then=f"make the shards with `--text-encoder {name}`"))
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if not isinstance(positions, nn.Embedding):
        return  # relative or rotary
    # RoBERTa and its kin count from behind the padding's place: of 514 positions 512 are for tokens.
    num_positions = positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
    if num_positions < spec.max_tokens:
        what = f"text encoder {name!r} has {num_positions} positions, the shards hold up to {spec.max_tokens} tokens"
        raise EncoderError(describe(what, then="choose an encoder for longer texts, or make shards with shorter ones"))
