"""What training without a cache does for every sample of every epoch: the ways that shards are held against."""

import os
import subprocess
import tempfile
import wave
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from preprocess.building.feature_spec import feature_spec
from preprocess.clips.extract import MEDIA, Feature, extract
from preprocess.clips.extract_all import Request, extract_all
from preprocess.clips.logmel import LogMel
from preprocess.clips.mp4_header import probe_mp4
from preprocess.clips.pyav_clip import probe_seconds
from preprocess.config import Decoder, PreprocessConfig, preset
from preprocess.datasets.annotations import Utterance
from preprocess.datasets.meld import read_meld
from preprocess.errors import ClipError, DatasetError
from preprocess.text.tokenizer import learn_tokenizer
from shards.errors import describe
from shards.spec import FeatureSpec

__all__ = ["choose_rows", "decode_row", "on_the_fly_ways", "tutorial"]

Decode = Callable[[Path, Utterance], None]


def on_the_fly_ways(root: Path, *, num_clips: int) -> dict[str, Callable[[], int]]:
    """Return the ways to samples from the raw clips of a MELD folder, in this process, one clip after the other.

    Each decodes the clips once and returns how many they are.

    Args:
        root: A MELD folder.
        num_clips: How many of its clips, spread evenly over those of at most 30 s. Each is first decoded in a process
            of its own, and left out if Decord does not survive or cannot read it: here it would end the comparison.

    Raises:
        DatasetError: if it is no MELD folder, or has no clip that can be decoded.
    """
    rows = _read_by_decord(root, choose_rows(root, num_clips=num_clips, longest_seconds=30))
    if not rows:
        then = "`mmsent doctor --deep` says what is wrong with them"
        raise DatasetError(describe("no clip here can be decoded", file=root, then=then))
    ways: dict[str, Callable[[], Decode]] = {
        "Decord on every access": partial(decode_row, "decord"),
        "PyAV on every access": partial(decode_row, "pyav"),
        "tutorial on every access": tutorial,
    }
    return {name: partial(_run, make, root, rows) for name, make in ways.items()}


def decode_row(decoder: Decoder) -> Decode:
    """Return what a worker of preprocessing does with a clip: frames, waveform, log-mel, notes."""
    spec = _spec(PreprocessConfig(text_encoder="scratch", decoder=decoder))

    def decode(root: Path, row: Utterance) -> None:
        extract(root, row, media=MEDIA, decoder=decoder, spec=spec, test_clips="plain")

    return decode


def tutorial() -> Decode:
    """Return what the widely copied notebooks do with a clip, of whose picture they see the first 1.25 s.

    The first 30 frames by OpenCV at 224x224, an ffmpeg process that writes the sound to a file, a mel spectrogram.

    Raises:
        ImportError: if OpenCV or imageio-ffmpeg are not installed; `pip install -e '.[bench]'` brings them.
    """
    try:
        import cv2
        import imageio_ffmpeg
    except ImportError as exc:
        raise ImportError(describe(str(exc), then="install what it needs: `pip install -e '.[bench]'`")) from exc

    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = "threads;1"
    cv2.setNumThreads(1)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    mel = LogMel(_spec(preset("tutorial")).audio)

    def decode(root: Path, row: Utterance) -> None:
        capture = cv2.VideoCapture(str(root / row.clip), cv2.CAP_FFMPEG)
        frames: list[np.ndarray] = []
        while len(frames) < 30:
            more, frame = capture.read()
            if not more:
                break
            frames.append(cv2.resize(frame, (224, 224)) / 255.0)
        capture.release()
        padded = np.zeros((30, 224, 224, 3), np.float32)
        padded[: len(frames)] = frames
        np.ascontiguousarray(padded.transpose(0, 3, 1, 2))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "sound.wav"
            command = [ffmpeg, "-i", str(root / row.clip), "-vn", "-acodec", "pcm_s16le", "-ar", "16000", "-ac", "1"]
            subprocess.run([*command, str(path)], check=True, capture_output=True)
            with wave.open(str(path)) as file:
                values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        mel((values / 32768).astype(np.float32))

    return decode


def choose_rows(root: Path, *, num_clips: int, longest_seconds: float) -> list[Utterance]:
    """Return rows spread over a MELD folder whose clips open, have sound and are not too long; as many as there are."""
    rows = [row for split in read_meld(root).splits for row in split.utterances if row.clip]
    tried = _spread(rows, 4 * num_clips)  # to open all of them would take longer than what is to be measured
    found = []
    for row in tried:
        with suppress(ClipError):
            path = root / row.clip
            if 0 < probe_seconds(path) <= longest_seconds and probe_mp4(path).sound is not None:
                found.append(row)
    return _spread(found, num_clips)


def _read_by_decord(root: Path, rows: list[Utterance]) -> list[Utterance]:
    config = PreprocessConfig(text_encoder="scratch", decoder="decord", test_clips="plain")
    requests = [Request(row=row, media=MEDIA) for row in rows]
    results = extract_all(root, requests, config=config, spec=_spec(config), num_workers=1) if rows else ()
    return [row for row, result in zip(rows, results, strict=True) if all(map(_is_decords, result.features.values()))]


def _is_decords(feature: Feature) -> bool:
    return feature.presence.present and all(note.kind != "second_decoder" for note in feature.notes)


def _spec(config: PreprocessConfig) -> FeatureSpec:
    return feature_spec(config, learn_tokenizer(["a"]))  # no transcript is tokenized here


def _spread(rows: list[Utterance], num_rows: int) -> list[Utterance]:
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(num_rows, len(rows))).astype(int)]


def _run(make: Callable[[], Decode], root: Path, rows: list[Utterance]) -> int:
    decode = make()
    for row in rows:
        decode(root, row)
    return len(rows)
