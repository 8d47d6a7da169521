from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsent.config import TextPooling
from mmsent.errors import EncoderError
from mmsent.model.text_encoder import TextEncoder, load_text_model
from tests.support.samples import make_spec

SPEC = make_spec().text
SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
WITH_POOLER: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "mpnet": {},
    "albert": {"embedding_size": 8},
}
WITHOUT_POOLER: dict[str, dict[str, Any]] = {
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 16},
    "deberta-v2": {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]},
    "electra": {"embedding_size": 8},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
}
KINDS = {**WITH_POOLER, **WITHOUT_POOLER}


def config_of(kind: str, **changes: object) -> dict[str, Any]:
    return {"model_type": kind, **SMALL, **KINDS.get(kind, {}), **changes}


def built(kind: str, pooling: TextPooling, **changes: object) -> Any:
    torch.manual_seed(0)
    return load_text_model(kind, pooling=pooling, config=config_of(kind, **changes), spec=SPEC)


def encoder(kind: str, pooling: TextPooling) -> TextEncoder:
    return TextEncoder(built(kind, pooling), pooling=pooling, width=16, feature_dim=4).eval()


def saved(folder: Path, model: Any) -> str:
    model.save_pretrained(folder)
    return str(folder)


def real_tokens(length: int) -> torch.Tensor:
    return torch.randint(3, 50, (1, length), generator=torch.Generator().manual_seed(length))


@settings(deadline=None, max_examples=10)
@given(length=st.integers(1, 9), padding=st.integers(1, 4))
@pytest.mark.parametrize(
    ("kind", "pooling"), [(kind, "mean") for kind in KINDS] + [("bert", "pooler"), ("bert", "cls")]
)
def test_padding_of_a_text_never_changes_a_result(kind: str, pooling: TextPooling, length: int, padding: int) -> None:
    model = encoder(kind, pooling)
    tokens = real_tokens(length)
    assert model.backbone is not None
    pad: Any = model.backbone.config
    padded = torch.nn.functional.pad(tokens, (0, padding), value=pad.pad_token_id)
    mask = torch.arange(length + padding) < length
    alone = model(tokens, torch.ones(1, length, dtype=torch.bool))
    torch.testing.assert_close(model(padded, mask.unsqueeze(0)), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("damage", ["empty", "cut", "other shapes"])
def test_damaged_weights_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = saved(tmp_path / "encoder", built("bert", "pooler"))
    path = Path(folder) / "model.safetensors"
    if damage == "other shapes":
        wide = built("bert", "pooler", hidden_size=32)
        path.write_bytes((Path(saved(tmp_path / "wide", wide)) / "model.safetensors").read_bytes())
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 5000])
    with pytest.raises(EncoderError, match=r"(?s)encoder' cannot be read: .*next: "):
        load_text_model(folder, pooling="pooler", config=None, spec=SPEC)


@pytest.mark.parametrize(
    ("before", "own"),
    [
        ([], [1, 9, 8, 2]),
        ([1, 5, 2], [9, 8, 2]),
        ([1, 5, 2, 6, 7, 2], [9, 2]),
        ([0, 5, 2, 2], [9, 8, 2]),
        ([1, 5, 2], [2]),  # all of the text was cut
    ],
)
def test_with_context_the_mean_is_over_the_own_utterance(before: list[int], own: list[int]) -> None:
    model = TextEncoder(built("bert", "mean"), pooling="mean", width=16, feature_dim=4, context=True).eval()
    tokens = torch.tensor([[*before, *own, 0, 0], [1, *[7] * (len(before) + len(own) - 1), 2, 0]])
    mask = torch.tensor([[True] * (len(before) + len(own)) + [False] * 2, [True] * (tokens.shape[1] - 1) + [False]])
    encoded = model.encode(tokens, mask)
    assert model.backbone is not None
    hidden = model.backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    length = len(before) + len(own)
    torch.testing.assert_close(encoded[0], hidden[0, len(before) : length].mean(dim=0))
    torch.testing.assert_close(encoded[1], hidden[1, : length + 1].mean(dim=0))


def test_the_mean_is_over_the_real_tokens() -> None:
    model = encoder("bert", "mean")
    tokens, mask = real_tokens(5), torch.tensor([[True, True, True, False, False]])
    assert model.backbone is not None
    states = model.backbone(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(model.encode(tokens, mask), states[:, :3].mean(dim=1))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_pooler_no_parameter_is_trained_in_vain(kind: str, pooling: TextPooling) -> None:
    model = TextEncoder(built(kind, pooling), pooling=pooling, width=16, feature_dim=4).train()
    model(real_tokens(5), torch.ones(1, 5, dtype=torch.bool)).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", WITHOUT_POOLER)
def test_an_encoder_without_a_pooler_names_the_pooling_that_it_has(kind: str) -> None:
    with pytest.raises(EncoderError, match=r"--set model\.text_pooling=mean"):
        built(kind, "pooler")


def test_a_pooler_that_would_start_from_random_weights_is_refused(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForMaskedLM

    name = saved(tmp_path, RobertaForMaskedLM(RobertaConfig(**SMALL)))  # as language models are published: no pooler
    with pytest.raises(EncoderError, match="random") as caught:
        load_text_model(name, pooling="pooler", config=None, spec=SPEC)
    assert "--set model.text_pooling=mean" in str(caught.value)
    assert load_text_model(name, pooling="mean", config=None, spec=SPEC).pooler is None


def test_weights_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    name = saved(tmp_path, BertModel(BertConfig(**SMALL)))
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"lack 1 tensors, encoder\.layer\.1\.output\.dense\.weight"):
        load_text_model(name, pooling="mean", config=None, spec=SPEC)


@pytest.mark.parametrize(
    ("kind", "what"),
    [("t5", "encoder-decoder"), ("bart", "encoder-decoder"), ("gpt2", "decoder"), ("llama", "decoder")],
)
def test_a_model_that_is_no_encoder_is_refused_before_its_weights_are_looked_for(
    tmp_path: Path, kind: str, what: str
) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, bos_token_id=1, eos_token_id=2, vocab_size=60)
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=rf"is an? {what} \({kind}\)"):
        load_text_model(str(tmp_path), pooling="mean", config=None, spec=SPEC)


def test_a_model_of_pictures_is_no_text_encoder(tmp_path: Path) -> None:
    from transformers import ViTConfig

    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="no model of texts"):
        load_text_model(str(tmp_path), pooling="mean", config=None, spec=SPEC)


@pytest.mark.parametrize(("kind", "num_positions"), [("bert", 12), ("roberta", 14), ("mpnet", 14), ("distilbert", 12)])
def test_texts_longer_than_a_model_has_positions_are_refused(kind: str, num_positions: int) -> None:
    """The shards hold up to 12 tokens; RoBERTa and its kin do not use their first two positions."""
    built(kind, "mean", max_position_embeddings=num_positions)
    with pytest.raises(EncoderError, match="has 11 positions, the shards hold up to 12 tokens"):
        built(kind, "mean", max_position_embeddings=num_positions - 1)


def test_a_text_encoder_that_is_not_to_be_had_says_what_to_do() -> None:
    with pytest.raises(EncoderError, match="hf download no-such/encoder"):
        load_text_model("no-such/encoder", pooling="pooler", config=None, spec=SPEC)


def test_a_text_encoder_is_loaded_from_a_local_folder_in_float32(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    there = BertModel(BertConfig(**SMALL))
    for parameter in there.parameters():
        parameter.data = parameter.data.half()  # as many are published
    model = load_text_model(saved(tmp_path, there), pooling="pooler", config=None, spec=SPEC)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    expected = {name: values.float() for name, values in there.state_dict().items()}
    torch.testing.assert_close({name: values.float() for name, values in model.state_dict().items()}, expected)


def test_a_text_encoder_with_fewer_tokens_than_the_shards_is_refused() -> None:
    with pytest.raises(EncoderError, match="knows 9 tokens, the shards use 50"):
        built("bert", "pooler", vocab_size=9)


@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_the_encoder_from_scratch_works_with_every_pooling(pooling: TextPooling) -> None:
    backbone = load_text_model("scratch", pooling=pooling, config=None, spec=replace(SPEC, max_tokens=30))
    model = TextEncoder(backbone, pooling=pooling, width=backbone.config.hidden_size, feature_dim=4)
    assert model(real_tokens(30), torch.ones(1, 30, dtype=torch.bool)).shape == (1, 4)
