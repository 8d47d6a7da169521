"""What the text of MELD gives: the product's own model on the official splits, by the real commands.

Sound and picture are absent, as in a folder with MELD's CSVs and no clips; everything else is what a user runs:
`mmsent preprocess`, `encode`, `train --seeds`, `evaluate`. A setting that is finished in `--work` is not run again.

Example:
    python -m benchmarks.meld_text MELD-CSVS --encoder FOLDER --work DIR --seeds 0,1
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.commands import HEADER, mmsent, say, scored, table_row
from mmsent.runs.folder import RUN, seed_folder, seed_folders

__all__ = ["SETTINGS", "Setting"]

_TINY = (
    "--frames",
    "1",
    "--size",
    "16x16",
    "--set",
    "preprocess.num_hops=1",
    "--set",
    "preprocess.max_failed_fraction=1",
)
"""Of pictures and sounds that are not there."""

_FINE_TUNED = (
    "--train-encoders", "text", "--epochs", "4", "--learning-rate", "5e-4", "--precision", "bf16",
    "--set", "model.text_pooling=mean", "--set", "train.selection=weighted-f1", "--set", "train.warmup_steps=100",
    "--set", "train.schedule=linear", "--set", "train.text_learning_rate=5e-5", "--set", "train.order=length-bucketed",
)  # fmt: skip
_FROZEN = (
    "--learning-rate",
    "1e-3",
    "--epochs",
    "40",
    "--set",
    "train.early_stopping_patience=8",
    "--set",
    "train.selection=weighted-f1",
)
_FROZEN_MEAN = ("--set", "model.text_pooling=mean", *_FROZEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One row of the table."""

    name: str
    words: str
    options: tuple[str, ...]
    """Of `mmsent train`."""
    context: int = 0
    """Earlier utterances in the tokens."""
    encoded: bool = True
    """Whether the encoder is frozen, so that its outputs are computed once by `mmsent encode`."""
    features_of: str = ""
    """Name of the setting whose trained encoders give the features; empty for the pre-trained ones."""


SETTINGS = (
    Setting(name="frozen-pooler", words="frozen, pooler output (default)", options=_FROZEN),
    Setting(name="frozen-cls", words="frozen, first token", options=("--set", "model.text_pooling=cls", *_FROZEN)),
    Setting(name="frozen-mean", words="frozen, mean of tokens", options=_FROZEN_MEAN),
    Setting(
        name="frozen-mean-sqrt",
        words="the same, `train.class_weights=sqrt`",
        options=(*_FROZEN_MEAN, "--set", "train.class_weights=sqrt"),
    ),
    Setting(
        name="frozen-mean-inverse",
        words="the same, `train.class_weights=inverse`",
        options=(*_FROZEN_MEAN, "--set", "train.class_weights=inverse"),
    ),
    Setting(
        name="frozen-mean-smoothed",
        words="the same, `train.label_smoothing=0.1`",
        options=(*_FROZEN_MEAN, "--set", "train.label_smoothing=0.1"),
    ),
    Setting(
        name="frozen-mean-ema",
        words="the same, `train.ema_decay=0.999`",
        options=(*_FROZEN_MEAN, "--set", "train.ema_decay=0.999"),
    ),
    Setting(
        name="frozen-mean-gru",
        words="the same, GRU over the dialogue (`model.dialogue_turns=12`)",
        options=(*_FROZEN_MEAN, "--set", "model.dialogue_turns=12"),
    ),
    Setting(name="frozen-context", words="frozen, mean, `--context 3`", options=_FROZEN_MEAN, context=3),
    Setting(name="fine-tuned", words="fine-tuned, mean of tokens", options=_FINE_TUNED, encoded=False),
    Setting(
        name="fine-tuned-sqrt",
        words="the same, `train.class_weights=sqrt`",
        options=(*_FINE_TUNED, "--set", "train.class_weights=sqrt"),
        encoded=False,
    ),
    Setting(
        name="fine-tuned-ema",
        words="the same, `train.ema_decay=0.998`",
        options=(*_FINE_TUNED, "--set", "train.ema_decay=0.998"),
        encoded=False,
    ),
    Setting(
        name="fine-tuned-context",
        words="fine-tuned, `--context 3`",
        options=_FINE_TUNED,
        context=3,
        encoded=False,
    ),
    Setting(
        name="retrained-head",
        words="head retrained on the features of the fine-tuned encoder (`encode --run`)",
        options=_FROZEN,
        features_of="fine-tuned",
    ),
)


def main() -> None:
    """Run the settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path, help="folder with MELD's CSVs")
    parser.add_argument("--encoder", required=True, help="text encoder: a folder or a Hugging Face name")
    parser.add_argument("--work", type=Path, required=True, help="folder for shards and runs; run again to go on")
    parser.add_argument("--seeds", default="0,1", help="of each setting")
    parser.add_argument("--only", nargs="*", default=[], help="names of settings")
    arguments = parser.parse_args()
    names = [setting.name for setting in SETTINGS]
    if unknown := set(arguments.only) - set(names):
        parser.error(f"no such settings: {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    arguments.work.mkdir(parents=True, exist_ok=True)
    for line in HEADER:
        say(line)
    for setting in SETTINGS:
        if not arguments.only or setting.name in arguments.only:
            result = _run(setting, arguments.meld, arguments.encoder, arguments.work, arguments.seeds)
            say(table_row(setting.words, result))


def _run(setting: Setting, meld: Path, encoder: str, work: Path, seeds: str) -> dict[str, Any]:
    """Run one setting to its scores on the test split, unless that was done."""
    run = work / f"run-{setting.name}"
    result = work / f"{setting.name}-{seeds.replace(',', '-')}.json"
    if result.is_file():
        return dict(json.loads(result.read_text()))
    shards = work / f"shards-context-{setting.context}"
    context = ("--context", str(setting.context)) if setting.context else ()
    mmsent("preprocess", meld, "--out", shards, "--text-encoder", encoder, *_TINY, *context)
    model = ("--modalities", "text", "--text-encoder", encoder)
    if setting.features_of:
        # Each seed trains on the features of that seed's encoder.
        evaluations = {}
        for seed, source in seed_folders(work / f"run-{setting.features_of}").items():
            encoded = work / f"encoded-{setting.name}-{seed}"
            mmsent("encode", "--shards", shards, "--out", encoded, "--run", source, "--modalities", "text")
            options = (*_model_of(source), *setting.options)
            folder = seed_folder(run, seed)
            mmsent("train", "--shards", encoded, "--out", folder, *options, "--seed", str(seed), "--resume")
            evaluations[seed] = encoded
        found = _over_seeds(run, evaluations)
    else:
        if setting.encoded:
            pooling = _pooling_of(setting.options)
            encoded = work / f"encoded-{pooling}-context-{setting.context}"
            mmsent(
                "encode", "--shards", shards, "--out", encoded, "--modalities", "text", "--text-encoder", encoder,
                "--set", f"model.text_pooling={pooling}",
            )  # fmt: skip
            shards = encoded
        mmsent("train", "--shards", shards, "--out", run, *model, *setting.options, "--seeds", seeds, "--resume")
        found = json.loads(mmsent("evaluate", "--shards", shards, "--run", run, "--split", "test", "--json"))["test"]
    value = scored(run, found)
    result.write_text(json.dumps(value, indent=1))
    return value


def _over_seeds(run: Path, shards: dict[int, Path]) -> list[dict[str, Any]]:
    """Score runs that were each trained on shards of their own."""
    from mmsent.evaluation.evaluate_run import evaluate_run
    from mmsent.evaluation.seeds import evaluation_scores

    found = {
        seed: evaluate_run(folder, seed_folder(run, seed), split="test") for seed, folder in sorted(shards.items())
    }
    return [score.to_json() for score in evaluation_scores(found)]


def _model_of(run: Path) -> tuple[str, ...]:
    """Return the options that name the encoder of a run: its name alone, since a folder has other weights than it."""
    model = json.loads((run / RUN).read_text())["model"]
    return (
        "--modalities", ",".join(model["modalities"]), "--text-encoder", Path(model["text_encoder"]).name,
        "--set", f"model.text_pooling={model['text_pooling']}",
    )  # fmt: skip


def _pooling_of(options: Sequence[str]) -> str:
    said = [option.removeprefix("model.text_pooling=") for option in options if "text_pooling=" in option]
    return said[0] if said else "pooler"


if __name__ == "__main__":
    main()
