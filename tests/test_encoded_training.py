"""`mmsent encode`, then `mmsent train`, against training on raw shards with the same frozen encoders."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmsent.model.video_encoder import load_video_model
from tests.support.commands import ROOT, mmsent

MELD_MINI = ROOT.parent / "shared" / "meld-mini"
SMALL = (
    "--frames",
    "4",
    "--size",
    "32x32",
    "--set",
    "preprocess.num_hops=100",
    "--set",
    "preprocess.samples_per_shard=5",
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A BERT for the words of a small tokenizer, and a state dict of r3d_18, both from random weights."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("encoders")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
    ]
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    text = folder / "small-bert"
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(text)
    tokenizer.save(str(text / "tokenizer.json"))
    network, _ = load_video_model("r3d_18", "none")
    torch.save(network.state_dict(), folder / "r3d_18.pth")
    return text, folder / "r3d_18.pth"


@pytest.fixture(scope="module", params=["demo", "meld-mini"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "meld-mini":
        if not MELD_MINI.is_dir():
            pytest.skip("meld-mini is not here")
        return MELD_MINI
    root = tmp_path_factory.mktemp("demo") / "meld"
    assert mmsent("make-demo", root, "--utterances", "40").returncode == 0
    return root


def trained(shards: Path, run: Path, *options: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train, and return what training says of itself and the scores on test."""
    train = mmsent("train", "--shards", shards, "--out", run, *options, "--json")
    assert train.returncode == 0, train.stderr
    scores = mmsent("evaluate", "--shards", shards, "--run", run, "--split", "test", "--json")
    assert scores.returncode == 0, scores.stderr
    return json.loads(train.stdout), json.loads(scores.stdout)


@pytest.mark.slow
def test_training_on_encoded_shards_scores_as_training_on_raw_ones(
    data: Path, encoders: tuple[Path, Path], tmp_path: Path
) -> None:
    text, video = encoders
    raw, encoded = tmp_path / "raw", tmp_path / "encoded"
    made = mmsent("preprocess", data, "--out", raw, "--text-encoder", text, *SMALL)
    assert made.returncode == 0, made.stderr
    names: tuple[str | Path, ...] = ("--text-encoder", text, "--video-weights", video)
    once = mmsent("encode", "--shards", raw, "--out", encoded, *names)
    assert once.returncode == 0, once.stderr
    options = (*names, "--epochs", "3", "--batch-size", "8", "--learning-rate", "1e-3", "--precision", "fp32")
    direct, direct_scores = trained(raw, tmp_path / "direct", *options)
    cached, cached_scores = trained(encoded, tmp_path / "cached", *options)
    for ours, theirs in zip(cached["epochs"], direct["epochs"], strict=True):
        # Features of a sample depend on the shape of its batch in their last digits, and Adam makes more of them.
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        assert ours["dev_loss"] == pytest.approx(theirs["dev_loss"], rel=1e-3)
    for task, item in direct_scores["tasks"].items():
        assert cached_scores["tasks"][task]["confusion"] == item["confusion"]
    assert (tmp_path / "direct" / "frozen.safetensors").is_file()
    assert not (tmp_path / "cached" / "frozen.safetensors").exists()
    refused = mmsent("evaluate", "--shards", raw, "--run", tmp_path / "cached", "--split", "test")
    assert refused.returncode == 1
    assert "encoded" in refused.stderr
