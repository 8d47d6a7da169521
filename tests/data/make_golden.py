"""Make the golden files of this folder with another implementation: `pip install scikit-learn`, then run this."""

import json
import random
from pathlib import Path

from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

NUM_CLASSES = 7


def scores(name: str, labels: list[int], predicted: list[int]) -> dict[str, object]:
    each = {"labels": range(NUM_CLASSES), "average": None, "zero_division": 0}
    return {
        "name": name,
        "labels": labels,
        "predicted": predicted,
        "accuracy": accuracy_score(labels, predicted),
        "weighted_f1": f1_score(labels, predicted, average="weighted", zero_division=0),
        "macro_f1": f1_score(labels, predicted, average="macro", zero_division=0),
        "precision": precision_score(labels, predicted, **each).tolist(),
        "recall": recall_score(labels, predicted, **each).tolist(),
        "confusion": confusion_matrix(labels, predicted, labels=range(NUM_CLASSES)).tolist(),
    }


def main() -> None:
    rng = random.Random(0)
    labels = [rng.randrange(NUM_CLASSES) for _ in range(60)]
    noisy = [label if rng.random() < 0.6 else rng.randrange(NUM_CLASSES) for label in labels]
    few = [rng.choice([0, 3, 4]) for _ in range(30)]
    cases = [
        scores("noisy", labels, noisy),
        scores("constant", labels, [4] * 60),
        scores("classes that never occur", few, [rng.choice([0, 3]) for _ in few]),
        scores("one sample", [2], [2]),
    ]
    (Path(__file__).parent / "scores.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
