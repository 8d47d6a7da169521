"""Training samples per second: a batch that stays on the device against the loader's, and the share of the limit."""

import gc
import statistics
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.setting import Setting, Value, free_memory
from mmsent.batches.batch import Batch
from mmsent.bench.train_bench import TrainBench
from mmsent.config import Precision, TrainConfig
from shards.reading.split import Split
from shards.schema import Modality

__all__ = ["StepKind", "compiled", "other_precisions", "prepared", "rate_of", "training"]

_WARM_STEPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKind:
    """A model and how it is trained."""

    trained: tuple[Modality, ...] = ()
    batch_size: int
    precision: Precision
    compile: bool = False

    @property
    def name(self) -> str:
        """In words: `video trained, text frozen, bf16, batch 64, compiled`."""
        video, text = ("trained" if name in self.trained else "frozen" for name in ("video", "text"))
        words = f"video {video}, text {text}, {self.precision}, batch {self.batch_size}"
        return words + (", compiled" if self.compile else "")


def training(setting: Setting) -> None:
    """Time every choice of trained encoders in the device's own precision at every batch size."""
    precision: Precision = "bf16" if setting.device.type == "cuda" else "fp32"
    for trained in setting.sizes.trained:
        for batch_size in setting.sizes.batch_sizes:
            _time(setting, StepKind(trained=trained, batch_size=batch_size, precision=precision), "training")


def other_precisions(setting: Setting) -> None:
    """Time fp16, and fp32 with TF32, where a GPU has them."""
    precisions: tuple[Precision, ...] = ("fp16", "fp32") if setting.device.type == "cuda" else ("bf16",)
    batch_size = setting.sizes.batch_sizes[0]
    for trained in setting.sizes.trained[:2]:
        for precision in precisions:
            _time(setting, StepKind(trained=trained, batch_size=batch_size, precision=precision), "other precisions")


def compiled(setting: Setting) -> None:
    """Time `train.compile`, on a GPU: what a CPU compiles says nothing of it and takes minutes."""
    if setting.device.type != "cuda":
        setting.report.skip("compile: there is no GPU")
        return
    batch_size = setting.sizes.batch_sizes[0]
    choices: tuple[tuple[Modality, ...], ...] = (("video",), ("text",), ())
    for trained in choices:
        kind = StepKind(trained=trained, batch_size=batch_size, precision="bf16", compile=True)
        _time(setting, kind, "compile", estimate=40.0)


def prepared(setting: Setting, kind: StepKind, split: Split) -> TrainBench:
    """Return a model in training, after its first steps."""
    bench = TrainBench(
        split,
        model_config=setting.model_config(*kind.trained),
        train_config=TrainConfig(batch_size=kind.batch_size, precision=kind.precision, compile=kind.compile),
        seconds=setting.sizes.seconds,
    )
    bench.prepare()
    return bench


def rate_of(bench: TrainBench, batches: Iterator[Batch]) -> float:
    """Return the samples per second of steps on batches, after a few that are not counted."""
    for _ in range(_WARM_STEPS):
        bench.step(next(batches))
    bench.wait()
    start, num_samples = time.perf_counter(), 0
    for _ in range(bench.num_steps):
        batch = next(batches)
        bench.step(batch)
        num_samples += len(batch)
    bench.wait()
    return num_samples / (time.perf_counter() - start)


def _time(setting: Setting, kind: StepKind, part: str, *, estimate: float = 9.0) -> None:
    """Time the same steps on one batch and on the loader's, in turns."""
    if not setting.has_time(estimate, f"{part}: {kind.name}"):
        return
    with free_memory(setting.device):
        start = time.perf_counter()
        bench = prepared(setting, kind, setting.train_split())
        ready = time.perf_counter() - start
        resident, fed, waits = [], [], []
        flops = _flops_per_sample(bench) if not kind.compile else 0.0
        for _ in range(setting.sizes.rounds):
            resident.append(rate_of(bench, _again(bench.batch)))
            loader = _forever(bench)
            begin, waited = time.perf_counter(), bench.feed.wait_seconds
            fed.append(rate_of(bench, loader))
            waits.append((bench.feed.wait_seconds - waited) / (time.perf_counter() - begin))
        alone = statistics.median(resident)
        limit = setting.matmul_flops.get(kind.precision, 0.0)
        values: dict[str, Value] = {
            "resident_samples_per_second": alone,
            "loader_samples_per_second": statistics.median(fed),
            "loader_share": statistics.median(
                with_loader / without for with_loader, without in zip(fed, resident, strict=True)
            ),
            "wait_share": statistics.median(waits),
            "seconds_to_first_rate": ready,
        }
        if flops:
            values |= {"gflop_per_sample": flops / 1e9, "tflops": alone * flops / 1e12}
            if limit:
                values["share_of_matmul"] = alone * flops / limit
        if setting.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
            values |= _of_the_host(bench)
        setting.report.add(part, kind.name, **values)
        del bench, loader
        gc.collect()


def _of_the_host(bench: TrainBench) -> dict[str, Value]:
    """Return how long the CPU takes to give a step to the GPU, and where in it the one waits for the other."""
    seconds = []
    for _ in range(5):
        bench.wait()
        start = time.perf_counter()
        bench.step(bench.batch)
        seconds.append(time.perf_counter() - start)
    bench.wait()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        bench.step(bench.batch)
        torch.cuda.set_sync_debug_mode("default")
    waits = [item for item in caught if "synchroniz" in str(item.message)]
    places = sorted({f"{Path(item.filename).name}:{item.lineno}" for item in waits})
    return {"host_seconds_per_step": statistics.median(seconds), "waits_per_step": len(waits), "at": " ".join(places)}


def _flops_per_sample(bench: TrainBench) -> float:
    """Count what a step computes, a multiplication and an addition being two; products and convolutions alone."""
    with FlopCounterMode(display=False) as counter:
        bench.step(bench.batch)
    bench.wait()
    return float(counter.get_total_flops()) / len(bench.batch)


def _again(batch: Batch) -> Iterator[Batch]:
    while True:
        yield batch


def _forever(bench: TrainBench) -> Iterator[Batch]:
    while True:
        yield from bench.feed
