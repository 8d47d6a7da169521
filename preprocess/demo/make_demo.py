"""A data set to try the program with: a folder like MELD's, invented from a seed, that anyone may have and share."""

import csv
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from preprocess.config import DRAWN_HEIGHT, DemoConfig
from preprocess.demo.clip_writer import write_clip
from preprocess.demo.face_and_voice import SAMPLE_RATE, draw_pictures, speak
from preprocess.demo.rows import CLIP_FOLDERS, FRAME_RATE, DemoRow, make_rows
from preprocess.errors import DatasetError
from shards.errors import describe
from shards.schema import SPLITS

__all__ = ["DemoSummary", "make_demo"]

_COLUMNS = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
_SEASON = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSummary:
    """What `make_demo` wrote."""

    num_rows: Mapping[str, int]
    """Utterances of each split, in the order of the splits."""
    num_clips: int
    total_bytes: int
    """Clips and csv files."""
    footage_seconds: float


def make_demo(directory: Path, config: DemoConfig, *, on_progress: Callable[[int, int], None]) -> DemoSummary:
    """Write the data set of `config` as MELD's archive unpacks: three csv files beside three folders of clips.

    The folder appears under its name when it is complete; until then it grows in a hidden one beside it.

    Args:
        directory: where to write; missing or empty.
        config: what to invent. Whatever `num_workers` is, all else being equal gives the same bytes with the same
            NumPy and PyAV on the same kind of processor.
        on_progress: called in this process after each clip with the clips done and the clips in all.

    Raises:
        DatasetError: if `directory` is something else than an empty folder, or cannot be written.
    """
    try:
        return _make_demo(directory.resolve(), config, on_progress=on_progress)
    except OSError as exc:
        then = "make room or choose another folder"
        raise DatasetError(
            describe(f"the demo data set cannot be written: {exc.strerror or exc}", file=directory, then=then)
        ) from exc


def _make_demo(directory: Path, config: DemoConfig, *, on_progress: Callable[[int, int], None]) -> DemoSummary:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise DatasetError(
            describe(
                "the demo data set needs a new or empty folder, this is neither",
                file=directory,
                then="name another folder, or delete this one",
            )
        )
    rows = make_rows(config)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}-", dir=directory.parent) as scratch:
        # A folder within, because the temporary one can be read by its owner alone.
        work = Path(scratch) / directory.name
        for split in SPLITS:
            (work / CLIP_FOLDERS[split]).mkdir(parents=True)
            _write_csv(work / f"{split}_sent_emo.csv", [row for row in rows if row.split == split])
        # Spawned, not forked: forking a process that has threads, as PyTorch starts them, can hang the child.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(config.num_workers, mp_context=context, initializer=_follow_parent) as pool:
            encode = partial(_encode, directory=work, seed=config.seed, scale=config.height // DRAWN_HEIGHT)
            for done, _ in enumerate(pool.map(encode, rows), start=1):
                on_progress(done, len(rows))
        summary = DemoSummary(
            num_rows={split: sum(row.split == split for row in rows) for split in SPLITS},
            num_clips=len(rows),
            total_bytes=sum(path.stat().st_size for path in work.rglob("*") if path.is_file()),
            footage_seconds=float(sum(row.num_frames for row in rows) / FRAME_RATE),
        )
        if directory.exists():
            directory.rmdir()
        work.rename(directory)
    return summary


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, which cancels what is not begun and removes the unfinished folder; end with it.

    Without the second, the workers of a parent that was killed wait for ever: each holds the pipe of the others open.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with, args=(parent,), daemon=True).start()


def _encode(row: DemoRow, *, directory: Path, seed: int, scale: int) -> None:
    """Write the clip of `row`, from a generator of its own: which process does it, and when, changes nothing."""
    generator = np.random.default_rng([seed, SPLITS.index(row.split), row.dialogue_id, row.utterance_id])
    pictures = draw_pictures(row.face_emotion, row.speaker, num_frames=row.num_frames, generator=generator)
    waveform = speak(row.voice_emotion, row.speaker, num_frames=row.num_frames, generator=generator)
    write_clip(
        directory / row.clip,
        pictures=pictures,
        scale=scale,
        frame_rate=FRAME_RATE,
        waveform=waveform,
        sample_rate=SAMPLE_RATE,
    )


def _write_csv(path: Path, rows: Sequence[DemoRow]) -> None:
    """Write the annotations of one split with the line ends and quotes of MELD's."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(_COLUMNS.split(","))
        for row in rows:
            names = (row.serial, row.text, row.speaker, row.emotion, row.sentiment, row.dialogue_id, row.utterance_id)
            times = (_clock(row.start_milliseconds), _clock(row.end_milliseconds))
            writer.writerow((*names, _SEASON, row.episode, *times))


def _clock(milliseconds: int) -> str:
    """`83042 -> 00:01:23,042`."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02},{rest:03}"
