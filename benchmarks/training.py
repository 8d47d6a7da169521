"""What training costs beside the model: an epoch on encoded shards, and memory against the number of samples.

    python -m benchmarks.training epoch      # a split of MELD's size, all modalities encoded
    python -m benchmarks.training memory     # 2,000 and 20,000 samples, log-mel and tokens raw

Shards are made up in a temporary folder: random numbers of the real shapes. `mmsent.training.start.train` is what runs.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmsent.config import ModelConfig, TrainConfig
from mmsent.runs.history import EpochResult, StepInfo
from mmsent.training.start import train
from shards.format.codec import RAW_DTYPES
from shards.schema import MELD_LABELS, PRESENT, RAW_ARRAYS, Modality, Sample, SampleMeta, Source
from shards.spec import AudioSpec, Encoding, FeatureSpec, TextSpec, VideoSpec
from shards.writing.finish import finish_split
from shards.writing.shard_writer import Origin, shard_name, write_shard

_MELD = {"train": 9_989, "dev": 1_109}
_WIDTHS: dict[Modality, int] = {"video": 512, "audio": 128, "text": 768}
_SAMPLES_PER_SHARD = 128


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["epoch", "memory", "memory-of-one"])
    parser.add_argument("--samples", type=int, default=sum((*_MELD.values(), 2_610)), help="in an epoch")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[32, 64, 256])
    parser.add_argument("--shards", type=Path, help="of memory-of-one, which is what memory runs")
    arguments = parser.parse_args()
    if arguments.what == "memory-of-one":
        _say(_memory_of_training(arguments.shards))
        return
    with tempfile.TemporaryDirectory(prefix="mmsent-training-") as folder:
        if arguments.what == "epoch":
            _epochs(Path(folder), arguments.samples, arguments.batch_sizes)
        else:
            _memory(Path(folder))


def _epochs(folder: Path, num_samples: int, batch_sizes: list[int]) -> None:
    spec = _spec(encoded=True)
    _write(folder / "shards", spec, {"train": num_samples, "dev": _MELD["dev"]})
    _say(f"{num_samples:,} samples of {sum(_WIDTHS.values())} floats, {torch.get_num_threads()} threads; medians of 5")
    _say("| batch size | epoch, s | samples/s | waiting for data | with validation and saving, s |")
    _say("|---|---|---|---|---|")
    for batch_size in batch_sizes:
        ends: list[float] = []

        def note(_: EpochResult, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter())

        result = train(
            folder / "shards",
            folder / f"run-{batch_size}",
            model_config=ModelConfig(text_encoder="text net", video_encoder="r3d_18"),
            train_config=TrainConfig(batch_size=batch_size, max_epochs=7, early_stopping_patience=7),
            resume=False,
            on_epoch=note,
        )
        epochs = result.epochs[2:]  # those before warm up
        seconds = statistics.median(item.seconds for item in epochs)
        wait = statistics.median(item.wait_share for item in epochs)
        whole = statistics.median(np.diff(ends)[1:])
        _say(f"| {batch_size} | {seconds:.2f} | {num_samples / seconds:,.0f} | {wait:.1%} | {whole:.2f} |")


def _memory(folder: Path) -> None:
    _say("| samples | data, MB | own memory at most, MB | with mapped files, MB |")
    _say("|---|---|---|---|")
    for num_samples in (2_000, 20_000):
        shards = folder / f"shards-{num_samples}"
        _write(shards, _spec(encoded=False), {"train": num_samples, "dev": 100})
        size = sum(path.stat().st_size for path in shards.rglob("*.tar")) / 1e6
        command = [sys.executable, "-m", "benchmarks.training", "memory-of-one", "--shards", str(shards)]
        measured = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
        _say(f"| {num_samples:,} | {size:,.0f} | {measured} |")


def _memory_of_training(shards: Path) -> str:
    """Train for one epoch and return the most memory of its own, and with mapped files, that the process had."""
    own = [0.0]

    def look(info: StepInfo) -> None:
        if info.step % 8 == 0:
            own[0] = max(own[0], _megabytes("RssAnon"))

    train(
        shards,
        shards.with_name(f"{shards.name}-run"),
        model_config=ModelConfig(modalities=("audio", "text"), text_encoder="scratch"),
        train_config=TrainConfig(max_epochs=1),
        resume=False,
        on_step=look,
    )
    return f"{own[0]:.0f} | {_megabytes('VmHWM'):.0f}"


def _megabytes(field: str) -> float:
    """Return a line of this process's `/proc/self/status`, Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1000
    raise SystemExit(f"/proc/self/status has no {field}")


def _spec(*, encoded: bool) -> FeatureSpec:
    names: dict[Modality, str] = {"video": "r3d_18", "audio": "audio", "text": "text net"}
    return FeatureSpec(
        video=VideoSpec(
            num_frames=2, height=16, width=16, sampling="uniform-time", storage="raw", jpeg_quality=0, decoder="none",
            decoder_version="", encoder_version="",
        ),
        audio=AudioSpec(
            num_mels=64, num_hops=300, sample_rate=16_000, n_fft=1024, hop_length=512, scale="log", log_epsilon=1e-6,
            downmix="itu", decoder="none", decoder_version="", transform_version="",
        ),
        text=TextSpec(
            tokenizer="text net" if encoded else "scratch", tokenizer_sha256="", vocab_size=1000, pad_id=0,
            max_tokens=32, normalisation="cp1252", context_utterances=0,
        ),
        encoded={
            name: Encoding(
                encoder=names[name], weights_sha256="0" * 64, pooling="pooler" if name == "text" else "", width=width,
                precision="fp32",
            )
            for name, width in _WIDTHS.items()
            if encoded
        },
    )  # fmt: skip


def _write(root: Path, spec: FeatureSpec, sizes: dict[str, int]) -> None:
    for split, size in sizes.items():
        directory = root / split
        directory.mkdir(parents=True)
        shards = tuple(
            write_shard(
                directory / shard_name(split, number),
                (_sample(split, place, spec) for place in range(start, min(start + _SAMPLES_PER_SHARD, size))),
                spec=spec,
                label_sets=MELD_LABELS,
                origin=lambda: Origin(rows_sha256="", inputs_sha256="", fingerprints=spec.fingerprints(), sources={}),
            )
            for number, start in enumerate(range(0, size, _SAMPLES_PER_SHARD))
        )
        finish_split(directory, split=split, spec=spec, label_sets=MELD_LABELS, shards=shards)


def _sample(split: str, place: int, spec: FeatureSpec) -> Sample:
    rng = np.random.default_rng(place)
    features = {name: rng.normal(size=encoding.width).astype(np.float32) for name, encoding in spec.encoded.items()}
    num_hops = int(rng.integers(30, spec.audio.num_hops))
    raw: dict[str, Any] = {
        "frames": rng.integers(0, 256, spec.video.shape).astype(np.uint8),
        "logmel": rng.normal(size=spec.audio.shape).astype(np.float16),
        "tokens": rng.integers(1, spec.text.vocab_size, spec.text.shape).astype(np.int32),
    }
    arrays = raw | {RAW_ARRAYS[name]: np.empty(0, RAW_DTYPES[name]) for name in features}
    labels = {one.task: str(rng.choice(one.names)) for one in MELD_LABELS}
    meta = SampleMeta(
        key=f"{split}-{place}", split=split, dialogue_id=str(place // 10), utterance_id=str(place % 10),
        turn_index=place % 10, speaker="", text="", labels=labels,
        num_frames=spec.video.num_frames, num_hops=num_hops, num_tokens=int(rng.integers(3, 32)),
        presence={"video": PRESENT, "audio": PRESENT, "text": PRESENT}, source=Source(path="", sha256=""),
        video_seconds=0.0, audio_seconds=0.0, annotated_seconds=0.0,
    )  # fmt: skip
    return Sample(meta=meta, features=features, **arrays)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
