"""Digests of what mmsent makes, to compare two commits: moving code must not change a byte or a digit.

Run: `python -m benchmarks.digests [DATA …]`. It prints a SHA-256 for each file of the shards of a small demo and of
each further data set, and for each weight after two steps of training on the demo.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import typer
from safetensors.torch import load_file

MMSENT = Path(sys.executable).parent / "mmsent"
SHARDS = ("--text-encoder", "scratch", "--frames", "4", "--size", "32x32")
TWO_STEPS = ("--text-encoder", "scratch", "--video-weights", "none", "--epochs", "1", "--precision", "fp32")


def main(data: list[Path] = typer.Argument(None, help="Further data sets, as `mmsent preprocess` reads them.")) -> None:  # noqa: B008
    """Make everything anew in a temporary folder and print the digests."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        _run("make-demo", root / "demo", "--utterances", "40")
        for name, source in (("demo", root / "demo"), *((path.name, path) for path in data or ())):
            shards = root / f"{name}-shards"
            _run("preprocess", source, "--out", shards, *SHARDS)
            files = (path for pattern in ("*.tar", "*.npy", "index.json") for path in shards.glob(f"*/{pattern}"))
            for path in sorted(files):
                _say(path.read_bytes(), f"{name}/{path.relative_to(shards).as_posix()}")
        _run("train", "--shards", root / "demo-shards", "--out", root / "run", *TWO_STEPS, "--batch-size", "16")
        weights = load_file(root / "run" / "best.safetensors")
        for key, weight in sorted(weights.items()):
            _say(weight.contiguous().numpy().tobytes(), f"weights/{key}")


def _run(*arguments: str | Path) -> None:
    subprocess.run([MMSENT, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _say(content: bytes, name: str) -> None:
    typer.echo(f"{hashlib.sha256(content).hexdigest()}  {name}")


if __name__ == "__main__":
    typer.run(main)
