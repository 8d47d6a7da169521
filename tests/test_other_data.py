"""The whole job by the real commands, on data sets whose labels are not MELD's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from preprocess.datasets.emorynlp import EMORYNLP_EMOTION
from tests.support.clips import write_clip, write_numbered_clip
from tests.support.commands import mmsent
from tests.support.tables import emorynlp_row, own_row, write_table

SMALL = ("--text-encoder", "scratch", "--frames", "4", "--size", "32x32", "--set", "preprocess.num_hops=24")
TRAIN = ("--text-encoder", "scratch", "--video-weights", "none", "--epochs", "1", "--batch-size", "4")
ROWS = {"train": 8, "dev": 4, "test": 4}


def write_own(root: Path) -> Path:
    """Write own clips of one task: most in files of their own, the last two of each split cut from a long one."""
    rows = []
    root.mkdir()
    write_clip(root / "long.mp4", pictures=32)
    for split, count in ROWS.items():
        for number in range(count - 2):
            name = f"{split}/{number}.mp4"
            write_numbered_clip(root / name, number + 10 * len(split))
            rows.append(own_row(number, split=split, path=name, start="", end=""))
        for number, (start, end) in enumerate((("0", "0.5"), ("0:00:00.5", "1.25")), start=count - 2):
            rows.append(own_row(number, split=split, path="long.mp4", start=start, end=end))
    return write_table(root / "laughs.csv", rows)


def write_emorynlp(root: Path) -> Path:
    """Write an EmoryNLP folder; dev and test have rows of four of the seven emotions."""
    for split, count in ROWS.items():
        rows = []
        for number in range(count):
            row = emorynlp_row(
                number + 1, Emotion=EMORYNLP_EMOTION.names[number % 7].title(), Utterance=f"Line {number}"
            )
            rows.append(row)
            clip = root / f"emorynlp_{split}_splits" / f"sea1_ep15_sc1_utt{number + 1}.mp4"
            write_numbered_clip(clip, number + 10 * len(split))
        write_table(root / f"emorynlp_{split}_final.csv", rows)
    return root


DATA = {
    "own clips": (write_own, "csv", {"laughter": ["no", "yes"]}, "video,audio,text"),
    # Without the picture: r3d_18 is most of the time, and the labels do not care.
    "EmoryNLP": (write_emorynlp, "emorynlp", {"emotion": list(EMORYNLP_EMOTION.names)}, "audio,text"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("write", "adapter", "labels", "modalities"), DATA.values(), ids=DATA.keys())
def test_a_data_set_of_other_labels_goes_from_clips_to_scores(
    tmp_path: Path, write: Callable[[Path], Path], adapter: str, labels: dict[str, list[str]], modalities: str
) -> None:
    data, shards, run = write(tmp_path / "data"), tmp_path / "shards", tmp_path / "run"
    made = mmsent("preprocess", data, "--out", shards, *SMALL)
    assert made.returncode == 0, made.stderr
    report = json.loads((shards / "report.json").read_text())
    assert {name: split["usable"]["video"] for name, split in report["splits"].items()} == ROWS
    assert json.loads((shards / "preprocess.json").read_text())["adapter"] == adapter

    verified = mmsent("verify", shards)
    assert verified.returncode == 0, verified.stdout

    trained = mmsent("train", "--shards", shards, "--out", run, *TRAIN, "--modalities", modalities)
    assert trained.returncode == 0, trained.stderr
    assert json.loads((run / "run.json").read_text())["labels"] == labels

    scored = mmsent("evaluate", "--shards", shards, "--run", run)
    assert scored.returncode == 0, scored.stderr
    evaluation = run / "evaluation-test"
    tasks = json.loads((evaluation / "metrics.json").read_text())["tasks"]
    assert {task: [item["name"] for item in score["classes"]] for task, score in tasks.items()} == labels
    with (evaluation / "predictions.csv").open(encoding="utf-8", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == ROWS["test"]
    for task, names in labels.items():
        assert {row[f"{task}_predicted"] for row in predictions} <= set(names)
        assert (evaluation / f"confusion-{task}.png").is_file()


def test_labels_that_look_like_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from commands.score_tables import print_evaluation
    from mmsent.evaluation.evaluate_run import Evaluation
    from mmsent.evaluation.metrics import score_task
    from shards.schema import LabelSet

    labels = LabelSet(task="mood", names=("[/no]", "[red]"))
    true, predicted = torch.tensor([0, 1]), torch.tensor([0, 0])
    item = score_task(predicted, true, label_set=labels, train_counts={"[/no]": 1, "[red]": 0})
    evaluation = Evaluation(
        split="test", num_samples=2, epoch=0, precision="fp32", loss=1.0, scores={"mood": item}, directory=Path("run")
    )
    print_evaluation(evaluation)
    printed = capsys.readouterr()
    assert printed.out.count("[/no]") == 2
    assert printed.out.count("[red]") == 1
    assert "never predicted: [red]" in printed.err
