"""Raw frames against one JPEG per sample: size, likeness, and the speed of reading them while training.

    mmsent make-demo DIR --height 720 && python -m benchmarks.storage DIR
    python -m benchmarks.storage MELD.Raw --clips 64

Decodes the clips once at the default size, encodes the frames in each way, writes a split of each, and reads it through
the loader with one reader, in turns. PSNR is over all values of all frames, against the raw ones.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from preprocess.building.feature_spec import feature_spec
from preprocess.clips.extract import extract
from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Utterance
from preprocess.on_the_fly.bench_cases import choose_rows
from preprocess.text.tokenizer import learn_tokenizer
from shards.format.frame_jpeg import decode_frame_jpeg, encode_frame_jpeg
from shards.order.orders import Shuffled
from shards.reading.loader import ShardLoader
from shards.reading.split import Split
from shards.schema import MELD_LABELS, PRESENT, Sample, SampleMeta, SourceClip
from shards.spec import FeatureSpec
from shards.writing.finish import finish_split
from shards.writing.shard_writer import Origin, shard_name, write_shard

_BATCH_SIZE = 32
_SAMPLES = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to store frames."""

    name: str
    kilobytes: float
    """Of the frames of a sample, mean."""
    psnr: float
    """In dB; infinite for raw frames."""
    encode_milliseconds: float
    decode_milliseconds: float
    samples_per_second: float
    """Of the loader with one reader, median over the rounds."""


def measure(root: Path, rows: list[Utterance], *, qualities: list[int], rounds: int) -> list[Way]:
    """Store the frames of the rows' clips raw and as JPEG of each quality."""
    tokenizer = learn_tokenizer(["a"])
    spec = feature_spec(PreprocessConfig(text_encoder="scratch"), tokenizer)
    clips = [
        extract(root, row, media=("video",), decoder="pyav", spec=spec, test_clips="plain").video.array for row in rows
    ]
    clips = [frames for frames in clips if frames.ndim == 4]
    with tempfile.TemporaryDirectory() as folder:
        splits = {"raw": _write(Path(folder) / "raw", clips, spec)}
        stored = {"raw": clips}
        seconds = {"raw": (0.0, 0.0)}
        for quality in qualities:
            name = f"JPEG {quality}"
            config = PreprocessConfig(text_encoder="scratch", storage="jpeg", jpeg_quality=quality)
            start = time.perf_counter()
            stored[name] = [encode_frame_jpeg(frames, quality=quality) for frames in clips]
            encoded = time.perf_counter()
            for jpeg in stored[name]:
                decode_frame_jpeg(jpeg, shape=spec.video.shape)
            seconds[name] = (encoded - start, time.perf_counter() - encoded)
            splits[name] = _write(Path(folder) / name, stored[name], feature_spec(config, tokenizer))
        rates: dict[str, list[float]] = {name: [] for name in splits}
        for _ in range(rounds):
            for name, split in splits.items():
                rates[name].append(_samples_per_second(split))
        return [
            Way(
                name=name,
                kilobytes=sum(frames.nbytes for frames in stored[name]) / len(clips) / 1000,
                psnr=_psnr(clips, stored[name], spec) if name != "raw" else float("inf"),
                encode_milliseconds=seconds[name][0] / len(clips) * 1000,
                decode_milliseconds=seconds[name][1] / len(clips) * 1000,
                samples_per_second=statistics.median(rates[name]),
            )
            for name in splits
        ]


def _write(directory: Path, frames: list[NDArray[np.uint8]], spec: FeatureSpec) -> Split:
    """Write a split of `_SAMPLES` samples, the clips in turn."""
    directory.mkdir()

    def sample(number: int) -> Sample:
        meta = SampleMeta(
            key=f"train-dia{number}-utt0",
            split="train",
            dialogue_id=str(number),
            utterance_id="0",
            turn_index=0,
            speaker="",
            text="",
            labels={"emotion": "joy", "sentiment": "positive"},
            num_frames=spec.video.num_frames,
            num_hops=0,
            num_tokens=0,
            presence=dict.fromkeys(("video", "audio", "text"), PRESENT),
            source=SourceClip(path="", sha256=""),
            video_seconds=1.0,
            audio_seconds=1.0,
            annotated_seconds=1.0,
        )
        return Sample(
            meta=meta,
            frames=frames[number % len(frames)],
            logmel=np.zeros(spec.audio.shape, np.float16),
            tokens=np.zeros(spec.text.shape, np.int32),
        )

    info = write_shard(
        directory / shard_name("train", 0),
        (sample(number) for number in range(_SAMPLES)),
        spec=spec,
        label_sets=MELD_LABELS,
        origin=lambda: Origin(rows_sha256="", inputs_sha256="", fingerprints={}, sources={}),
    )
    finish_split(directory, split="train", spec=spec, label_sets=MELD_LABELS, shards=(info,))
    return Split(directory)


def _samples_per_second(split: Split) -> float:
    loader = ShardLoader(split, order=Shuffled(len(split), 0), batch_size=_BATCH_SIZE)
    for _ in loader:  # the memory of the ring is new, and the pages of the file may be
        pass
    start = time.perf_counter()
    for _ in loader:
        pass
    return len(split) / (time.perf_counter() - start)


def _psnr(clips: list[NDArray[np.uint8]], jpegs: list[NDArray[np.uint8]], spec: FeatureSpec) -> float:
    errors = [
        np.square(decode_frame_jpeg(jpeg, shape=spec.video.shape).astype(np.float64) - frames).mean()
        for frames, jpeg in zip(clips, jpegs, strict=True)
    ]
    return float(10 * np.log10(255**2 / np.mean(errors)))


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meld", type=Path, help="a MELD folder")
    parser.add_argument("--clips", type=int, default=48, help="how many, spread evenly")
    parser.add_argument("--qualities", type=int, nargs="+", default=[75, 90, 95])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args()
    rows = choose_rows(options.meld, num_clips=options.clips, longest_seconds=30.0)
    ways = measure(options.meld, rows, qualities=options.qualities, rounds=options.rounds)
    if options.json:
        plain = [asdict(way if np.isfinite(way.psnr) else replace(way, psnr=0.0)) for way in ways]
        sys.stdout.write(json.dumps(plain, indent=1) + "\n")
        return
    lines = [
        "| frames | kB a sample | of raw | PSNR | encode | decode | loader, samples/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for way in ways:
        cells = [way.name, f"{way.kilobytes:.0f}", f"{way.kilobytes / ways[0].kilobytes:.1%}"]
        if way.name == "raw":
            cells += ["—"] * 3
        else:
            cells += [f"{way.psnr:.1f} dB", f"{way.encode_milliseconds:.1f} ms", f"{way.decode_milliseconds:.1f} ms"]
        lines.append(f"| {' | '.join([*cells, f'{way.samples_per_second:,.0f}'])} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
