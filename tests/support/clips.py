"""Tiny real clips and MELD-format folders of them, for the tests.

Shape letters: T frames, H height, W width, N waveform values.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from preprocess.config import PreprocessConfig
from preprocess.datasets.annotations import Span, Utterance
from shards.spec import FeatureSpec, TextSpec

SAMPLE_RATE = 48_000
FRAME_RATE = Fraction(24)
TICKS = 24_000
"""Units of a frame's time per second."""
FRAME_TICKS = int(TICKS / FRAME_RATE)
COLUMNS = (
    "Sr No.", "Utterance", "Speaker", "Emotion", "Sentiment", "Dialogue_ID", "Utterance_ID", "Season", "Episode",
    "StartTime", "EndTime",
)  # fmt: skip

_NUM_CHANNELS = {"mono": 1, "stereo": 2, "5.1": 6}
_AAC_FRAME = 1024
_DARKEST, _STEP = 24, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of an annotation file; a clip of 24 frames agrees with the default times."""

    dialogue_id: int = 0
    utterance_id: int = 0
    text: str = "Hello there"
    speaker: str = "Ross"
    emotion: str = "neutral"
    sentiment: str = "neutral"
    start: str = "00:00:01,000"
    end: str = "00:00:02,000"
    serial: int = 1

    @property
    def clip_name(self) -> str:
        return f"dia{self.dialogue_id}_utt{self.utterance_id}.mp4"


def index_pictures(num_frames: int, *, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Draw `(T, H, W, 3)` frames whose red grows with their number; `frame_numbers` reads it back. 32 at most.

    Blue falls as red grows, so that exchanged channels are seen; the top row is white and the rest of the left column
    black, so that a sheared picture is seen.
    """
    numbers = np.arange(num_frames)
    red = _DARKEST + _STEP * numbers
    colours = np.stack([red, np.full(num_frames, 128), 255 - red], axis=-1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (num_frames, height, width, 3)).copy()


def frame_numbers(frames: NDArray[np.uint8]) -> list[int]:
    """Tell from `(T, H, W, 3)` decoded pictures which of `index_pictures` they show."""
    red = frames[..., 0].mean(axis=(1, 2))
    blue = frames[..., 2].mean(axis=(1, 2))
    return [round(((r - b) / 2 + 127.5 - _DARKEST) / _STEP) for r, b in zip(red, blue, strict=True)]


def tone(num_values: int, *, hertz: float = 440.0, amplitude: float = 0.4) -> NDArray[np.float32]:
    """Return `(N,)` of a sine at `SAMPLE_RATE`."""
    seconds = np.arange(num_values) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * seconds)).astype(np.float32)


def write_clip(
    path: Path,
    *,
    pictures: NDArray[np.uint8] | int = 24,
    layout: str | None = "stereo",
    channels: NDArray[np.float32] | None = None,
    gaps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    b_frames: int = 0,
    key_every: int = 250,
) -> Path:
    """Encode an mp4 with H.264 and AAC.

    Args:
        path: Where.
        pictures: `(T, H, W, 3)` uint8 RGB, or how many of `index_pictures`.
        layout: Of the sound: `mono`, `stereo`, `5.1`, or None for a clip without sound.
        channels: `(channels, N)` in [-1, 1]; a tone as long as the picture if not given.
        gaps: Frames' time on screen in 24ths of a second; 1 for each if not given.
        options: Of the container, such as `{"movflags": "faststart"}`.
        b_frames: Frames in a row that refer to a later one, so that the file's order is not that of time.
        key_every: Frames from one that refers to no other to the next, at most.
    """
    if isinstance(pictures, int):
        pictures = index_pictures(pictures)
    gaps = gaps or [1] * len(pictures)
    starts = [0, *accumulate(gaps)]
    with av.open(path, "w", format="mp4", options={"fflags": "+bitexact", **(options or {})}) as container:
        video = _add_video(
            container, height=pictures.shape[1], width=pictures.shape[2], b_frames=b_frames, key_every=key_every
        )
        audio = _add_audio(container, layout) if layout is not None else None
        _encode_picture(container, video, pictures, starts=starts)
        if audio is not None and layout is not None:
            if channels is None:
                channels = np.stack([tone(int(SAMPLE_RATE * starts[-1] / FRAME_RATE))] * _NUM_CHANNELS[layout])
            _encode_sound(container, audio, channels, layout=layout)
    return path


def _add_video(container: OutputContainer, *, height: int, width: int, b_frames: int, key_every: int) -> VideoStream:
    options = {"preset": "ultrafast", "crf": "4", "bf": str(b_frames), "g": str(key_every)}
    video = container.add_stream("libx264", rate=FRAME_RATE, options=options)
    video.height, video.width, video.pix_fmt = height, width, "yuv420p"
    video.codec_context.thread_count = 1
    video.codec_context.time_base = Fraction(1, TICKS)
    return video


def _encode_picture(
    container: OutputContainer, video: VideoStream, pictures: NDArray[np.uint8], *, starts: Sequence[int]
) -> None:
    ticks = [start * FRAME_TICKS for start in starts]
    durations = {start: end - start for start, end in pairwise(ticks)}
    frames = []
    for start, picture in zip(ticks, pictures, strict=False):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = start, Fraction(1, TICKS)
        frames.append(frame)
    for packet in (packet for frame in (*frames, None) for packet in video.encode(frame)):
        packet.duration = durations[packet.pts or 0]  # the last frame's is written nowhere else
        container.mux(packet)


def _add_audio(container: OutputContainer, layout: str) -> AudioStream:
    audio = container.add_stream("aac", rate=SAMPLE_RATE, layout=layout, format="fltp")
    audio.bit_rate = 64_000 * _NUM_CHANNELS[layout]
    return audio


def _encode_sound(
    container: OutputContainer, audio: AudioStream, channels: NDArray[np.float32], *, layout: str
) -> None:
    for start in range(0, channels.shape[1], _AAC_FRAME):
        values = np.ascontiguousarray(channels[:, start : start + _AAC_FRAME])
        frame = av.AudioFrame.from_ndarray(values, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))


def write_sound(path: Path, *, layout: str, seconds: float) -> Path:
    """Encode a tone as AAC in a file of nothing else, which can be followed by another one's content."""
    channels = np.stack([tone(int(SAMPLE_RATE * seconds))] * _NUM_CHANNELS[layout])
    with av.open(path, "w", format="adts") as container:
        _encode_sound(container, _add_audio(container, layout), channels, layout=layout)
    return path


def write_csv(path: Path, rows: Sequence[Row], *, encoding: str = "utf-8") -> Path:
    """Write an annotation file in MELD's columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(
                [
                    row.serial, row.text, row.speaker, row.emotion, row.sentiment, row.dialogue_id, row.utterance_id,
                    1, 1, row.start, row.end,
                ]
            )  # fmt: skip
    return path


CLIP_FOLDERS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_EMOTIONS = (("neutral", "neutral"), ("joy", "positive"), ("anger", "negative"), ("surprise", "negative"))


def make_rows(num_rows: int) -> list[Row]:
    """Make the rows of a split in dialogues of three, each unlike the others."""
    rows = []
    for number in range(num_rows):
        emotion, sentiment = _EMOTIONS[number % len(_EMOTIONS)]
        rows.append(
            Row(
                dialogue_id=number // 3,
                utterance_id=number % 3,
                text=f"Line {number}, isn't it",
                speaker=("Ross", "Rachel")[number % 2],
                emotion=emotion,
                sentiment=sentiment,
                serial=number + 1,
            )
        )
    return rows


def write_meld(root: Path, *, train: int = 7, dev: int = 2, test: int = 2) -> Path:
    """Write a MELD-format folder of so many rows with a clip for each, no two alike; 0 leaves a split out."""
    for split, num_rows in {"train": train, "dev": dev, "test": test}.items():
        if not num_rows:
            continue
        rows = make_rows(num_rows)
        write_csv(root / f"{split}_sent_emo.csv", rows)
        for number, row in enumerate(rows):
            write_numbered_clip(clip_path(root, split, row), number + 10 * len(split))
    return root


def write_numbered_clip(path: Path, number: int) -> Path:
    """Write a short clip whose picture and sound follow from a number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = index_pictures(8 + number % 5)
    pictures[:, :16] = number * 5 % 256
    length = int(len(pictures) * SAMPLE_RATE / FRAME_RATE)
    return write_clip(path, pictures=pictures, channels=np.stack([tone(length, hertz=200 + 20 * number)] * 2))


def clip_path(root: Path, split: str, row: Row) -> Path:
    """Return where the clip of a row lies."""
    return root / CLIP_FOLDERS[split] / row.clip_name


def make_utterance(
    number: int = 0, *, clip: str = "", twin: str = "", annotated_seconds: float = 1.0, text: str = "Hello there"
) -> Utterance:
    """Make a test row; paths of clips are relative to the data set's folder."""
    return Utterance(
        key=f"test-dia0-utt{number}",
        split="test",
        dialogue_id="0",
        utterance_id=str(number),
        turn_index=number,
        speaker="Ross",
        text=text,
        text_repaired=False,
        labels={"emotion": "joy", "sentiment": "positive"},
        span=Span(start_seconds=10.0, end_seconds=10.0 + annotated_seconds),
        clip=clip,
        twin=twin,
        clip_name=f"clips/dia0_utt{number}.mp4",
    )


def small_config(**changes: object) -> PreprocessConfig:
    """Make a config whose samples are small; the width is one that needs no padding."""
    values: dict[str, object] = {
        "num_frames": 4, "height": 32, "width": 64, "num_hops": 24, "max_tokens": 16, "text_encoder": "scratch",
        "samples_per_shard": 3, "max_failed_fraction": 1.0,
    }  # fmt: skip
    return PreprocessConfig(**{**values, **changes})  # type: ignore[arg-type]


def small_spec(config: PreprocessConfig) -> FeatureSpec:
    """Make the spec of a config, with a tokenizer that nothing looks at."""
    text = TextSpec(
        tokenizer="scratch", tokenizer_sha256="0" * 64, vocab_size=50, pad_id=0, max_tokens=config.max_tokens,
        normalisation="cp1252", context_utterances=config.context_utterances,
    )  # fmt: skip
    return FeatureSpec(
        video=config.video_spec(decoder_version="1", encoder_version="1"),
        audio=config.audio_spec(decoder_version="1", transform_version="1"),
        text=text,
    )


def write_crashing_clip(path: Path) -> Path:
    """Write a clip whose table of frame times claims two thousand million frames: Decord aborts its process."""
    content = bytearray(write_clip(path).read_bytes())
    table = content.index(b"stts")
    content[table + 12 : table + 16] = (2**31 - 1).to_bytes(4, "big")
    path.write_bytes(content)
    return path


def cut_without_encoding(path: Path, source: Path, *, hidden: int) -> Path:
    """Copy a clip's packets so that an edit list hides its first frames, as `ffmpeg -ss … -c copy` does."""
    with av.open(source) as reader, av.open(path, "w", options={"use_editlist": "1"}) as writer:
        stream = writer.add_stream_from_template(reader.streams.video[0])
        start = hidden * FRAME_TICKS
        for packet in reader.demux(video=0):
            if packet.pts is None or packet.dts is None:
                continue
            packet.pts -= start
            packet.dts -= start
            packet.stream = stream
            writer.mux(packet)
    return path
