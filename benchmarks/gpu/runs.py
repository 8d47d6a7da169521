"""Whole runs of the real command: killed and resumed, evaluated here and on the CPU, and out of memory."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.gpu.setting import Setting
from mmsent.runs.folder import BEST, HISTORY, checkpoint_paths

__all__ = ["runs"]

_COMMAND = (sys.executable, "-c", "from cli import main; main()")
_EPOCHS = 3
_TOLERANCE = 2e-2
"""Of the losses of a resumed run, relative, where algorithms are free: a GPU adds in another order each time."""


@dataclass(frozen=True, slots=True)
class _Started:
    name: str
    run: Path
    process: "subprocess.Popen[bytes]"
    log: Path


def runs(setting: Setting) -> None:
    """Train in eight processes at once, kill half of them in the middle, resume, compare; then evaluate the first."""
    if not setting.has_time(60, "runs that are killed and resumed"):
        return
    shards = setting.small_shards()
    ways = ("free", "deterministic") if setting.device.type == "cuda" else ("free",)
    on_gpu = setting.device.type == "cuda"  # where a second run may differ
    kinds = ("whole", *("again",) * on_gpu, *setting.sizes.interruptions)
    started = [_start(setting, shards, way, kind) for way in ways for kind in kinds]
    for one in started:
        _kill_in_the_middle(one)
    resumed = [
        _start(setting, shards, *one.name.split(), resume=True) if one.name.endswith(("SIGTERM", "SIGKILL")) else one
        for one in started
    ]
    for one in resumed:
        _wait(one)
    found = {one.name: _losses(one.run) for one in resumed}
    exact = {one.name: _weights(one.run) for one in resumed}
    for way in ways:
        whole = f"{way} whole"
        for kind in kinds[1:]:
            name = f"{way} {kind}"
            error = max(abs(ours - theirs) / theirs for ours, theirs in zip(found[name], found[whole], strict=True))
            same = exact[name] == exact[whole]
            words = "a second run" if kind == "again" else f"resumed after {kind}"
            holds = same if way == "deterministic" or not on_gpu else error <= _TOLERANCE
            setting.report.add(
                "runs", f"{words}, {way} algorithms", loss_error=error, bit_for_bit=same, holds=bool(holds)
            )
    _evaluate(setting, shards, resumed[0].run)
    if on_gpu:
        _out_of_memory(setting, shards)


def _start(setting: Setting, shards: Path, way: str, kind: str, *, resume: bool = False) -> _Started:
    run = setting.scratch / "runs" / f"{way}-{kind}"
    run.parent.mkdir(exist_ok=True)
    options = _options(setting, shards, run)
    options += ["--set", "train.deterministic=true"] * (way == "deterministic") + ["--resume"] * resume
    log = run.with_suffix(".resumed.log" if resume else ".log")
    with log.open("wb") as output:
        process = subprocess.Popen([*_COMMAND, *options], stdout=output, stderr=output, env=_environment())
    return _Started(f"{way} {kind}", run, process, log)


def _options(setting: Setting, shards: Path, run: Path, *, batch_size: int = 16) -> list[str]:
    return [
        "train", "--shards", str(shards), "--out", str(run), "--text-encoder", str(setting.text_encoder()),
        "--set", f"model.video_encoder={setting.sizes.video_encoder}", "--video-weights", str(setting.video_weights()),
        "--train-encoders", "video,text", "--epochs", str(_EPOCHS), "--batch-size", str(batch_size),
        "--set", "train.checkpoint_steps=4",
    ]  # fmt: skip


def _environment(**more: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1", "HF_HUB_OFFLINE": "1", **more}


def _kill_in_the_middle(one: _Started) -> None:
    """Send a run its signal once it has saved in the middle of an epoch."""
    kind = one.name.split()[1]
    if kind not in ("SIGTERM", "SIGKILL"):
        return
    while one.process.poll() is None and not checkpoint_paths(one.run):
        time.sleep(0.02)
    one.process.send_signal(signal.Signals[kind])
    one.process.wait()


def _wait(one: _Started) -> None:
    if code := one.process.wait():
        raise RuntimeError(f"the run {one.name!r} ended with {code}: {one.log.read_text()[-2000:]}")


def _losses(run: Path) -> list[float]:
    history = json.loads((run / HISTORY).read_bytes())
    return [epoch[name] for epoch in history for name in ("train_loss", "dev_loss")]


def _weights(run: Path) -> list[bytes]:
    with safe_open(run / BEST, "pt") as tensors:
        return [tensors.get_tensor(name).numpy().tobytes() for name in sorted(tensors.keys())]


def _evaluate(setting: Setting, shards: Path, run: Path) -> None:
    """Compare the scores of a run on the device with those on the CPU, once where the CPU is the device."""
    found: list[dict[str, Any]] = []
    for more in ({}, {"CUDA_VISIBLE_DEVICES": ""})[: 2 if setting.device.type == "cuda" else 1]:
        options = ["evaluate", "--shards", str(shards), "--run", str(run), "--split", "dev", "--json"]
        done = subprocess.run(
            [*_COMMAND, *options], stdout=subprocess.PIPE, env=_environment(**more), check=True, timeout=120
        )
        found.append(json.loads(done.stdout)["tasks"])
    here, cpu = found[0], found[-1]
    difference = max(
        abs(here[task][name] - cpu[task][name]) for task in here for name in ("accuracy", "weighted_f1", "macro_f1")
    )
    setting.report.add(
        "runs",
        "evaluation here and on the CPU",
        weighted_f1=here["emotion"]["weighted_f1"],
        largest_difference=difference,
        holds=difference < 1e-3,
    )


def _out_of_memory(setting: Setting, shards: Path) -> None:
    """Train with a twentieth of the GPU's memory, and read what the command says."""
    program = "import torch; torch.cuda.set_per_process_memory_fraction(0.05); from cli import main; main()"
    options = _options(setting, shards, setting.scratch / "runs" / "too-large", batch_size=256)
    done = subprocess.run(
        [sys.executable, "-c", program, *options], capture_output=True, text=True, env=_environment(), check=False
    )
    words = ("256", "train.accumulation_steps=", "bf16", "more were asked for")
    named = done.returncode == 1 and "Traceback" not in done.stderr and all(word in done.stderr for word in words)
    setting.report.add("runs", "out of memory", said=done.stderr.strip()[-600:], holds=named)
