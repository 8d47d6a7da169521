import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mmsent.batches.batch import to_device
from mmsent.config import ModelConfig, Precision, TrainConfig
from mmsent.encoding.encode_shards import EncodeResult, encode_shards
from mmsent.encoding.frozen_encoders import Pretrained, Run
from mmsent.errors import CheckpointError, EncoderError
from mmsent.model.multimodal import MultimodalModel
from mmsent.runs.checkpoint import load_checkpoint, restore_model
from mmsent.runs.folder import BEST
from mmsent.training.start import train
from shards.errors import OutputBusyError, ShardError, SpecMismatchError
from shards.format.index import INDEX_NAME, read_index
from shards.format.samples_table import TABLE_NAME
from shards.lock import locked
from shards.order.orders import InOrder, Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.schema import MELD_LABELS, MODALITIES, Modality, Sample
from shards.spec import FeatureSpec
from shards.storage.cache import ShardCache
from shards.writing.verify import verify_split
from tests.support.commands import ROOT, environment, mmsent
from tests.support.encoders import save_bert
from tests.support.samples import make_sample, make_spec, with_labels, write_split

pytestmark = pytest.mark.slow

SIZES = {"train": 7, "dev": 2}  # in shards of 3
ABSENT: dict[int, tuple[str, ...]] = {1: ("video",), 4: ("video", "audio")}


@dataclass(frozen=True)
class Encoders:
    """Files of a small text encoder and a video encoder."""

    text: Path
    video: Path

    def config(self, *, modalities: tuple[Modality, ...] = ("video", "text")) -> ModelConfig:
        return ModelConfig(
            modalities=modalities,
            text_encoder=str(self.text),
            text_pooling="mean" if "text" in modalities else "pooler",
            video_encoder="mc3_18" if "video" in modalities else "r3d_18",
            video_weights=str(self.video),
        )


def save_video_weights(path: Path, seed: int) -> Path:
    from torchvision.models.video import mc3_18

    torch.manual_seed(seed)
    torch.save(mc3_18().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    from transformers import BertConfig, BertModel

    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    small = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    BertModel(small).save_pretrained(root / "tiny-bert")
    return Encoders(text=root / "tiny-bert", video=save_video_weights(root / "video.pth", 0))


def make_raw_spec() -> FeatureSpec:
    spec = make_spec(num_frames=2, size=16)
    return replace(spec, text=replace(spec.text, tokenizer="tiny-bert"))


def make_samples(split: str, *, spec: FeatureSpec) -> list[Sample]:
    return [make_sample(i, split=split, spec=spec, absent=ABSENT.get(i, ())) for i in range(SIZES[split])]


def write_shards(root: Path, *, spec: FeatureSpec | None = None) -> Path:
    spec = spec or make_raw_spec()
    for split in SIZES:
        write_split(root, make_samples(split, spec=spec), spec=spec, split=split)
    return root


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make raw shards, which the tests read and leave alone."""
    return write_shards(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, shards: Path, encoders: Encoders) -> Path:
    """Make encoded shards, which the tests copy before they change anything."""
    out = tmp_path_factory.mktemp("encoded") / "features"
    encode(shards, out, encoders.config())
    return out


def encode(
    shards: Path | str,
    out: Path,
    config: ModelConfig,
    *,
    precision: Precision = "fp32",
    remake: bool = False,
    cache: ShardCache | None = None,
) -> EncodeResult:
    return encode_shards(
        shards, out, encoders=Pretrained(config), batch_size=2, precision=precision, remake=remake, cache=cache
    )


def content(root: Path) -> dict[str, bytes]:
    """Return all files below a folder but locks."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def logits_of(model: MultimodalModel, split: Split) -> dict[str, torch.Tensor]:
    """Return what a model says of all samples, in the batches of a shuffled order."""
    loader = ShardLoader(split, order=Shuffled(len(split), seed=1), batch_size=4)
    found: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for host in loader:
            for task, logits in model.eval()(to_device(host, torch.device("cpu"))).items():
                found.setdefault(task, []).append(logits)
    return {task: torch.cat(logits) for task, logits in found.items()}


def test_encoded_shards_are_whole_and_hold_the_same_samples_under_the_same_names(shards: Path, made: Path) -> None:
    for split in SIZES:
        raw, encoded = read_index(shards / split), read_index(made / split)
        assert verify_split(made / split).problems == ()
        assert [(one.name, one.num_samples) for one in encoded.shards] == [
            (one.name, one.num_samples) for one in raw.shards
        ]
        assert list(Split(made / split).metas()) == list(Split(shards / split).metas())
        rows, raw_rows = Split(made / split).rows, Split(shards / split).rows
        for field in ("labels", "present", "dialogue", "num_frames", "num_hops", "num_tokens"):
            assert rows[field].tolist() == raw_rows[field].tolist()


def test_the_spec_says_what_the_features_are_of(made: Path) -> None:
    encoded = Split(made / "train").spec.encoded
    said = {name: (one.encoder, one.pooling, one.width, one.precision) for name, one in encoded.items()}
    assert said == {"video": ("mc3_18", "", 512, "fp32"), "text": ("tiny-bert", "mean", 16, "fp32")}
    assert len({one.weights_sha256 for one in encoded.values()}) == 2


def test_any_order_gives_the_batches_that_it_gives_of_raw_shards(shards: Path, made: Path) -> None:
    raw, encoded = Split(shards / "train"), Split(made / "train")
    for order in (InOrder(7), Shuffled(7, seed=3)):
        pairs = zip(
            ShardLoader(raw, order=order, batch_size=2), ShardLoader(encoded, order=order, batch_size=2), strict=True
        )
        for ours, theirs in pairs:
            assert ours.samples.tolist() == theirs.samples.tolist()
            assert ours.logmel.tobytes() == theirs.logmel.tobytes()
            assert ours.labels["emotion"].tolist() == theirs.labels["emotion"].tolist()


def test_a_model_says_of_features_what_it_says_of_raw_arrays(shards: Path, made: Path, encoders: Encoders) -> None:
    config = encoders.config(modalities=MODALITIES)
    torch.manual_seed(0)
    raw, encoded = Split(shards / "train"), Split(made / "train")
    whole = MultimodalModel(config, spec=raw.spec, label_sets=MELD_LABELS, pretrained=True)
    head = MultimodalModel(config, spec=encoded.spec, label_sets=MELD_LABELS, pretrained=True)
    missing, _ = head.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    expected, got = logits_of(whole, raw), logits_of(head, encoded)
    for task in expected:
        torch.testing.assert_close(got[task], expected[task], atol=1e-5, rtol=0)


def test_outputs_of_other_weights_than_those_that_are_given_are_refused(
    made: Path, tmp_path: Path, encoders: Encoders
) -> None:
    spec = Split(made / "train").spec
    video = replace(encoders.config(), video_weights=str(save_video_weights(tmp_path / "other.pth", 1)))
    text = replace(encoders.config(), text_encoder=str(save_bert(tmp_path / "tiny-bert")))
    named = replace(encoders.config(), text_encoder="tiny-bert", video_weights="kinetics")
    for config, option in ((video, "--video-weights"), (text, "--text-encoder")):
        with pytest.raises(EncoderError, match=f"other weights than those in {option} {tmp_path}"):
            MultimodalModel(config, spec=spec, label_sets=MELD_LABELS, pretrained=True)
    MultimodalModel(named, spec=spec, label_sets=MELD_LABELS, pretrained=True)


def test_what_a_sample_does_not_have_is_zeros_and_absent(made: Path) -> None:
    split = Split(made / "train")
    for number in range(7):
        sample = split.sample(number)
        absent = "video" in ABSENT.get(number, ())
        assert sample.meta.presence["video"].present != absent
        assert (not sample.features["video"].any()) == absent
        assert sample.features["text"].any()


def test_a_second_run_encodes_nothing_and_leaves_every_byte(
    shards: Path, made: Path, tmp_path: Path, encoders: Encoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    before = content(out)

    def encode_one(*_: object) -> None:
        raise AssertionError("an encoder was run")

    monkeypatch.setattr(MultimodalModel, "encode", encode_one)
    result = encode(shards, out, encoders.config())
    assert (result.num_shards_made, result.num_shards_kept, result.num_samples_encoded) == (0, 4, 0)
    assert (result.num_samples, result.num_bytes) == (9, sum(path.stat().st_size for path in out.glob("*/*.tar")))
    assert content(out) == before


def test_a_lost_index_or_table_is_written_again_without_encoding(
    shards: Path, made: Path, tmp_path: Path, encoders: Encoders
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    (out / "train" / INDEX_NAME).unlink()
    (out / "dev" / TABLE_NAME).unlink()
    assert encode(shards, out, encoders.config()).num_shards_made == 0
    assert content(out) == content(made)


def test_only_a_shard_whose_raw_shard_has_changed_is_encoded_again(
    made: Path, tmp_path: Path, encoders: Encoders
) -> None:
    spec, out = make_raw_spec(), shutil.copytree(made, tmp_path / "out")
    samples = make_samples("train", spec=spec)
    samples[4] = with_labels(samples[4], emotion="joy")  # in the second of three shards
    write_split(tmp_path / "raw", samples, spec=spec)
    write_split(tmp_path / "raw", make_samples("dev", spec=spec), spec=spec, split="dev")
    result = encode(tmp_path / "raw", out, encoders.config())
    assert (result.num_shards_made, result.num_samples_encoded) == (1, 3)
    assert Split(out / "train").meta(4).labels["emotion"] == "joy"
    assert verify_split(out / "train").problems == ()
    encode(tmp_path / "raw", tmp_path / "anew", encoders.config())
    assert content(out) == content(tmp_path / "anew")


def test_a_shard_that_the_raw_split_no_longer_has_is_removed(made: Path, tmp_path: Path, encoders: Encoders) -> None:
    spec, out = make_raw_spec(), shutil.copytree(made, tmp_path / "out")
    write_split(tmp_path / "raw", make_samples("train", spec=spec)[:6], spec=spec)
    write_split(tmp_path / "raw", make_samples("dev", spec=spec), spec=spec, split="dev")
    assert encode(tmp_path / "raw", out, encoders.config()).num_shards_made == 0
    assert verify_split(out / "train").problems == ()
    assert sorted(path.name for path in (out / "train").glob("*.tar")) == ["train-00000.tar", "train-00001.tar"]


KILLED_AT_EACH_RENAME = """
import os, signal, sys
from pathlib import Path
from transformers import BertModel  # before the forks, which would each take a second for it
from tests.mmsent.encoding.test_encode_shards import Encoders, encode

text, shards, root = map(Path, sys.argv[1:])

def encode_until_rename(number: int) -> None:
    left = number

    def kill_at_rename(event: str, args: object) -> None:
        nonlocal left
        if event == "os.rename":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill_at_rename)
    encode(shards, root / str(number), Encoders(text=text, video=Path()).config(modalities=("text",)))

for number in range(1, 100):
    child = os.fork()  # torch takes seconds to start, and is not used before this
    if child == 0:
        encode_until_rename(number)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
"""
"""Arguments: text encoder, raw shards, and where each killed run leaves its folder."""


def test_a_run_that_is_killed_at_any_rename_goes_on_to_the_same_bytes(
    shards: Path, tmp_path: Path, encoders: Encoders
) -> None:
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", KILLED_AT_EACH_RENAME, *map(str, [encoders.text, shards, tmp_path / "killed"])]
    alone = {**environment(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    config = encoders.config(modalities=("text",))
    encode(shards, tmp_path / "whole", config)
    whole = content(tmp_path / "whole")
    found = sorted((tmp_path / "killed").iterdir(), key=lambda path: int(path.name))
    killed = found[:-1]  # the last one ended by itself
    kept = []
    for out in killed:
        assert content(out) != whole
        kept.append(encode(shards, out, config).num_shards_kept)
        assert content(out) == whole
    assert len(kept) == 17  # the claim; rows, tar and record of four shards; table and index of two splits
    assert kept == sorted(kept)
    assert (kept[0], kept[-1]) == (0, 4)


def test_other_weights_are_refused_by_name_and_taken_when_asked_to(
    shards: Path, made: Path, tmp_path: Path, encoders: Encoders, caplog: pytest.LogCaptureFixture
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    other = replace(encoders.config(), video_weights=str(save_video_weights(tmp_path / "other.pth", 1)))
    with pytest.raises(SpecMismatchError, match=r"(?s)encoded\.video\.weights_sha256: .*encode\.json.*--remake"):
        encode(shards, out, other)
    assert content(out) == content(made)
    with caplog.at_level(logging.INFO):
        assert encode(shards, out, other, remake=True).num_shards_made == 4
    assert "encoded.video.weights_sha256" in caplog.text
    encode(shards, tmp_path / "anew", other)
    assert content(out) == content(tmp_path / "anew")
    assert verify_split(out / "train").problems == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text_pooling": "cls"}, r"encoded\.text\.pooling: 'mean' against 'cls'"),
        ({"modalities": ("text",), "video_encoder": "r3d_18"}, r"encoded\.video: 'outputs of mc3_18' against 'raw'"),
    ],
)
def test_other_encoders_into_the_same_folder_are_refused_by_name(
    shards: Path, made: Path, encoders: Encoders, change: dict[str, object], field: str
) -> None:
    with pytest.raises(SpecMismatchError, match=field):
        encode(shards, made, replace(encoders.config(), **change))  # type: ignore[arg-type]


def test_another_precision_into_the_same_folder_is_refused_by_name(
    shards: Path, made: Path, encoders: Encoders
) -> None:
    with pytest.raises(SpecMismatchError, match=r"encoded\.video\.precision: 'fp32' against 'bf16'"):
        encode(shards, made, encoders.config(), precision="bf16")


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (ModelConfig(text_encoder="scratch", modalities=("text",)), "text"),
        (ModelConfig(video_weights="none", text_encoder="scratch", modalities=("video", "text")), "video and text"),
        (ModelConfig(modalities=("audio",)), "audio"),
    ],
)
def test_random_weights_are_refused_before_anything_is_made(
    shards: Path, tmp_path: Path, config: ModelConfig, names: str
) -> None:
    with pytest.raises(EncoderError, match=rf"the encoder of {names} starts from random weights(?s:.*)--run RUN"):
        encode(shards, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_gives_no_numbers_is_an_error_and_leaves_no_shard(
    shards: Path, tmp_path: Path, encoders: Encoders
) -> None:
    state = torch.load(encoders.video)
    state["stem.0.weight"][:] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    config = replace(encoders.config(modalities=("video",)), video_weights=str(tmp_path / "broken.pth"))
    with pytest.raises(EncoderError, match=r"(?s)video encoder gives numbers that are not finite.*train-00000\.tar"):
        encode(shards, tmp_path / "out", config)
    assert not list((tmp_path / "out").glob("*/*.tar"))


def test_a_split_whose_shards_are_being_made_again_is_unfinished(
    shards: Path, made: Path, tmp_path: Path, encoders: Encoders
) -> None:
    out = shutil.copytree(made, tmp_path / "out")
    state = torch.load(encoders.video)
    state["stem.0.weight"][:] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    with pytest.raises(EncoderError, match="not finite"):
        encode(shards, out, replace(encoders.config(), video_weights=str(tmp_path / "broken.pth")), remake=True)
    assert not (out / "train" / INDEX_NAME).exists()
    encode(shards, out, encoders.config(), remake=True)
    assert content(out) == content(made)


def test_modalities_can_be_encoded_one_after_the_other_but_none_twice(
    shards: Path, made: Path, tmp_path: Path, encoders: Encoders
) -> None:
    encode(shards, tmp_path / "text", encoders.config(modalities=("text",)))
    encode(tmp_path / "text", tmp_path / "both", encoders.config(modalities=("video",)))
    for split in SIZES:
        for path in sorted((made / split).glob("*.tar")):
            assert (tmp_path / "both" / split / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(SpecMismatchError, match=r"(?s)hold video and text as outputs of an encoder already.*raw"):
        encode(made, tmp_path / "again", encoders.config())


@pytest.mark.parametrize("kind", ["file", "other folder"])
def test_a_folder_that_holds_something_else_is_refused_and_left(
    shards: Path, tmp_path: Path, encoders: Encoders, kind: str
) -> None:
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("a letter")
    else:
        out.mkdir()
        (out / "letter.txt").write_text("a letter")
    with pytest.raises(ShardError, match="holds no shards of `mmsent encode`"):
        encode(shards, out, encoders.config())
    assert list(content(tmp_path).values()) == [b"a letter"]


def test_the_folder_of_raw_shards_is_never_written_to(tmp_path: Path, encoders: Encoders) -> None:
    raw = write_shards(tmp_path / "raw")
    before = content(raw)
    with pytest.raises(ShardError, match="holds no shards of `mmsent encode`"):
        encode(raw, raw, encoders.config(), remake=True)
    assert content(raw) == before


def test_two_runs_into_one_folder_are_refused(shards: Path, tmp_path: Path, encoders: Encoders) -> None:
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(OutputBusyError, match=f"process {os.getpid()}"):
        encode(shards, tmp_path / "out", encoders.config())
    assert encode(shards, tmp_path / "out", encoders.config(modalities=("text",))).num_shards_made == 4


def test_splits_that_were_not_made_alike_are_refused_by_name(tmp_path: Path, encoders: Encoders) -> None:
    spec = make_raw_spec()
    write_split(tmp_path, make_samples("train", spec=spec), spec=spec)
    other = replace(spec, audio=replace(spec.audio, n_fft=512))
    write_split(tmp_path, make_samples("dev", spec=other), spec=other, split="dev")
    with pytest.raises(SpecMismatchError, match=r"audio\.n_fft: 1024 against 512"):
        encode(tmp_path, tmp_path / "out", encoders.config())


def test_shards_behind_a_url_give_the_same_bytes(shards: Path, made: Path, tmp_path: Path, encoders: Encoders) -> None:
    cache = ShardCache(tmp_path / "cache", max_bytes=10**8)
    encode(shards.as_uri(), tmp_path / "out", encoders.config(), cache=cache)
    assert content(tmp_path / "out") == content(made)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Train sound and text from random weights; returns shards and run."""
    root = tmp_path_factory.mktemp("trained")
    spec = make_spec(num_frames=2, size=16)
    train(
        write_shards(root / "raw", spec=spec),
        root / "run",
        model_config=ModelConfig(modalities=("audio", "text"), text_encoder="scratch", video_weights="none"),
        train_config=TrainConfig(batch_size=4, max_epochs=2, precision="fp32", learning_rate=1e-2),
        resume=False,
        on_step=lambda info: None,
        on_epoch=lambda result: None,
    )
    return root / "raw", root / "run"


def encode_run(shards: Path, out: Path, run: Path, *modalities: Modality) -> EncodeResult:
    return encode_shards(shards, out, encoders=Run(run, modalities), batch_size=2, precision="fp32")


def test_what_a_run_has_learned_is_encoded_sound_included(trained: tuple[Path, Path], tmp_path: Path) -> None:
    shards, run = trained
    encode_run(shards, tmp_path / "out", run, "audio", "text")
    raw, encoded = Split(shards / "train"), Split(tmp_path / "out" / "train")
    assert verify_split(tmp_path / "out" / "train").problems == ()
    assert {name: one.encoder for name, one in encoded.spec.encoded.items()} == {"audio": "conv1d", "text": "scratch"}
    checkpoint = load_checkpoint(run / BEST)
    whole = restore_model(checkpoint, run)
    head = MultimodalModel(checkpoint.model_config, spec=encoded.spec, label_sets=MELD_LABELS, pretrained=True)
    head.load_state_dict(whole.state_dict(), strict=False)
    expected, got = logits_of(whole, raw), logits_of(head, encoded)
    for task in expected:
        torch.testing.assert_close(got[task], expected[task], atol=1e-5, rtol=0)
    assert not encoded.sample(4).features["audio"].any()


def test_a_run_without_the_encoder_or_the_checkpoint_or_of_other_shards_is_refused(
    trained: tuple[Path, Path], shards: Path, tmp_path: Path
) -> None:
    own, run = trained
    with pytest.raises(EncoderError, match=r"the run has no encoder of video, only of audio, text"):
        encode_run(own, tmp_path / "out", run, "video")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        encode_run(own, tmp_path / "out", tmp_path, "text")
    with pytest.raises(SpecMismatchError, match=r"text\.tokenizer"):
        encode_run(shards, tmp_path / "out", run, "text")
    assert not (tmp_path / "out").exists()


def test_progress_is_told_by_split_in_samples(shards: Path, tmp_path: Path, encoders: Encoders) -> None:
    told: list[tuple[str, int, int]] = []
    encode_shards(
        shards,
        tmp_path / "out",
        encoders=Pretrained(encoders.config(modalities=("text",))),
        batch_size=2,
        precision="fp32",
        on_progress=lambda split, done, total: told.append((split, done, total)),
    )
    assert told == [("train", 0, 7), ("train", 3, 7), ("train", 6, 7), ("train", 7, 7), ("dev", 0, 2), ("dev", 2, 2)]


def test_the_command_says_what_it_made_and_what_to_run_next(shards: Path, tmp_path: Path, encoders: Encoders) -> None:
    command = ["encode", "--shards", str(shards), "--out", str(tmp_path / "out"), "--batch-size", "2"]
    command += ["--text-encoder", str(encoders.text), "--set", "model.text_pooling=mean"]
    command += ["--set", "model.video_encoder=mc3_18", "--video-weights", str(encoders.video)]
    done = mmsent(*command)
    assert done.returncode == 0, done.stderr
    assert "9 samples encoded in" in done.stdout
    assert "4 shards made, 0 kept" in done.stdout
    wanted = "--set model.video_encoder=mc3_18 --set model.text_pooling=mean"
    assert f"mmsent train --shards {tmp_path / 'out'} {wanted}" in " ".join(done.stdout.split())
    again = mmsent(*command)
    assert "nothing to do: all 4 shards are up to date" in again.stdout
    refused = mmsent(*command, "--run", tmp_path)
    assert refused.returncode == 2
    assert "--run has encoders of its own" in " ".join(refused.stderr.replace("│", "").split())
