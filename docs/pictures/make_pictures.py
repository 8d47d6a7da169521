"""Draw `demo.png`, the README's picture, from what `make demo` left: utterances as the model gets them, and its scores.

Example:
    python docs/pictures/make_pictures.py data/demo/shards data/demo/run
"""

import argparse
import csv
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

OUT = Path(__file__).parent / "demo.png"
NUM_FRAMES, NUM_COLOURS = 4, 96
INK, FAINT, RIGHT, WRONG = "#1d2330", "#667085", "#137a3e", "#b42318"


def draw_frames(axes: Axes, frames: NDArray[np.uint8], num_frames: int) -> float:
    """Draw some of a sample's frames, `(T, H, W, 3)`, side by side; return how high the strip is for its width."""
    chosen = frames[np.linspace(0, num_frames - 1, NUM_FRAMES).round().astype(int)]
    gap = np.full((frames.shape[1], 1, 3), 255, dtype=np.uint8)
    strip = np.concatenate([part for frame in chosen for part in (frame, gap)][:-1], axis=1)
    axes.imshow(strip)
    axes.axis("off")
    return float(strip.shape[0] / strip.shape[1])


def draw_logmel(axes: Axes, logmel: NDArray[np.float16], num_hops: int) -> None:
    """Draw the real hops of a log-mel, `(M, S)`, low tones below."""
    axes.imshow(logmel[:, :num_hops].astype(np.float32), origin="lower", aspect="auto", cmap="magma")
    axes.axis("off")


def draw_confusion(axes: Axes, score: dict[str, Any]) -> None:
    """Draw the confusion matrix of one task of `metrics.json`: counts, and as colour the share of the true class."""
    counts = np.array(score["confusion"])  # (K, K)
    names = [item["name"] for item in score["classes"]]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted", color=FAINT)
    axes.set_ylabel("true", color=FAINT)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=9)
    least = score["baseline"]["weighted_f1"]
    title = f"{score['task']} on the test split\nweighted F1 {score['weighted_f1']:.2f}; always one class {least:.2f}"
    axes.set_title(title, fontsize=11, color=INK)


def main() -> None:
    """Draw three utterances of different emotions of the test split with what the run says of them, and its matrix."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="of the demo")
    parser.add_argument("run", type=Path, help="trained on them, and evaluated on test")
    arguments = parser.parse_args()
    report = arguments.run / "evaluation-test"
    with (report / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predictions = {row["key"]: row for row in csv.DictReader(file)}
    tars = sorted(map(str, (arguments.shards / "test").glob("*.tar")))
    by_emotion: dict[str, dict[str, Any]] = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False).decode():
        by_emotion.setdefault(predictions[sample["__key__"]]["emotion"], sample)
    samples = list(islice(by_emotion.values(), 3))

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    [[left, right]] = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.45, 1))
    for row, sample in zip(left.subfigures(len(samples), 1, squeeze=False)[:, 0], samples, strict=True):
        said = predictions[sample["__key__"]]
        predicted, probability = said["emotion_predicted"], float(said["emotion_probability"])
        picture, sound = row.subplots(1, 2, width_ratios=(2, 1))
        height = draw_frames(picture, sample["frames.npy"], sample["json"]["num_frames"])
        draw_logmel(sound, sample["logmel.npy"], sample["json"]["num_hops"])
        sound.set_box_aspect(2 * height)
        picture.set_title(f"“{said['text']}”", loc="left", fontsize=10, color=INK, parse_math=False)
        colour = RIGHT if predicted == said["emotion"] else WRONG
        words = f"{said['emotion']}, predicted {predicted} {probability:.0%}"
        sound.set_title(words, loc="right", fontsize=9, color=colour, parse_math=False)
    draw_confusion(right.subplots(), json.loads((report / "metrics.json").read_text("utf-8"))["tasks"]["emotion"])
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100)
    Image.open(drawn).convert("RGB").quantize(NUM_COLOURS).save(OUT, optimize=True)  # a palette: a third of the bytes


if __name__ == "__main__":
    main()
