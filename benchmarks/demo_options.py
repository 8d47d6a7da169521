"""What options of `mmsent train` that concern sound, picture and fusion do to the scores of the demo.

Clips of MELD cannot be given away, so this trains on the made-up ones of `mmsent make-demo`, from random weights, and
says nothing about MELD. Sound and text together take seconds, pictures minutes.

Example:
    mmsent make-demo DIR/meld
    mmsent preprocess DIR/meld --out DIR/shards --text-encoder scratch --frames 8 --size 32x32
    python -m benchmarks.demo_options DIR/shards --work DIR --seeds 0,1,2
"""

import argparse
import json
from pathlib import Path

from benchmarks.commands import HEADER, mmsent, say, scored, table_row

_COMMON = (
    "--text-encoder", "scratch", "--video-weights", "none", "--epochs", "8", "--batch-size", "16",
    "--learning-rate", "1e-3",
)  # fmt: skip

_SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("audio,text", ()),
    "gated": ("audio,text", ("--set", "model.fusion=gated")),
    "modality-dropout": ("audio,text", ("--set", "train.modality_dropout=0.2")),
    "spec-augment": (
        "audio,text",
        (
            "--set",
            "train.spec_augment=true",
        ),
    ),
    "gru": ("audio,text", ("--set", "model.dialogue_turns=6")),
    "picture": ("video", ()),
    "crop-and-flip": (
        "video",
        (
            "--set",
            "train.crop_and_flip=true",
        ),
    ),
}


def main() -> None:
    """Run the settings and print the table; runs that are there already are only scored."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="of the demo")
    parser.add_argument("--work", type=Path, required=True, help="folder for runs; run again to go on")
    parser.add_argument("--seeds", default="0,1,2", help="of each setting")
    parser.add_argument("--only", nargs="*", choices=list(_SETTINGS), default=list(_SETTINGS), help="names of settings")
    arguments = parser.parse_args()
    for line in HEADER:
        say(line)
    for name in arguments.only:
        modalities, options = _SETTINGS[name]
        run = arguments.work / f"options-{name}"
        common = ("--shards", arguments.shards, "--out", run, *_COMMON, "--modalities", modalities)
        mmsent("train", *common, *options, "--seeds", arguments.seeds, "--resume")
        found = mmsent("evaluate", "--shards", arguments.shards, "--run", run, "--split", "test", "--json")
        words = f"{modalities}, `{' '.join(options)}`" if options else modalities
        say(table_row(words, scored(run, json.loads(found)["test"])))


if __name__ == "__main__":
    main()
