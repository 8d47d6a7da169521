"""What each modality of the demo scores alone, all together, and with options of sound, picture and fusion.

Clips of MELD cannot be given away, so this trains on the made-up ones of `mmsent make-demo`, from random weights, and
says nothing about MELD. Without pictures a run takes seconds, with them minutes; one thread, because two gain nothing
on frames as small as these and other work beside them makes them wait for each other. Set it before the start.

Example:
    mmsent make-demo DIR/meld
    mmsent preprocess DIR/meld --out DIR/shards --text-encoder scratch --frames 4 --size 16x16
    OMP_NUM_THREADS=1 python -m benchmarks.demo_options DIR/shards --work DIR --seeds 0,1,2
"""

import argparse
import json
from pathlib import Path

from benchmarks.commands import HEADER, mmsent, say, scored, table_row

_COMMON = (
    "--video-weights", "none", "--epochs", "8", "--batch-size", "16", "--learning-rate", "5e-4",
)  # fmt: skip

_TEXT = ("--set", "model.text_pooling=mean")
"""Refused without text."""

_SETTINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "text": ("text", ()),
    "audio": ("audio", ()),
    "video": ("video", ()),
    "all": ("text,audio,video", ()),
    "audio-text": ("audio,text", ()),
    "gated": ("audio,text", ("--set", "model.fusion=gated")),
    "modality-dropout": ("audio,text", ("--set", "train.modality_dropout=0.2")),
    "spec-augment": ("audio,text", ("--set", "train.spec_augment=true")),
    "gru": ("audio,text", ("--set", "model.dialogue_turns=6")),
    "crop-and-flip": ("video", ("--set", "train.crop_and_flip=true")),
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
        pooling = _TEXT if "text" in modalities else ()
        mmsent("train", *common, *pooling, *options, "--seeds", arguments.seeds, "--resume")
        found = mmsent("evaluate", "--shards", arguments.shards, "--run", run, "--split", "test", "--json")
        words = f"{modalities}, `{' '.join(options)}`" if options else modalities
        say(table_row(words, scored(run, json.loads(found)["test"])))


if __name__ == "__main__":
    main()
