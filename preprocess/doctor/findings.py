"""What the doctor can find: every detector by name, and a finding as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from preprocess.clips.mp4_header import Mp4Header
from preprocess.doctor.open_clips import OpenedClip

__all__ = ["DETECTORS", "Clip", "Detector", "Finding", "Severity"]

Severity = Literal["error", "warning", "note"]
"""error: rows lose a modality, the data set is incomplete, or labels contradict each other. warning: suspicious.
note: good to know, and handled by preprocessing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One kind of trouble."""

    severity: Severity
    title: str
    """What was found, for a heading."""
    meaning: str
    """What it means for training, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that a detector found in the data."""

    detector: str
    """A name of `DETECTORS`."""
    split: str
    """Empty for what is about the whole data set."""
    detail: str
    key: str = ""
    """Key of the row it is about; empty for what is about a file without a row, or about a split."""
    file: str = ""
    """What it is about, relative to the data set's folder; empty where no file is."""

    @property
    def severity(self) -> Severity:
        """How bad it is, by its detector."""
        return DETECTORS[self.detector].severity

    @property
    def title(self) -> str:
        """What kind of finding it is, in words."""
        return DETECTORS[self.detector].title

    @property
    def where(self) -> str:
        """The row, or else the file, or else the split it is about."""
        return self.key or self.file or self.split


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What is known of a clip's file."""

    path: str
    """Relative to the data set's folder, with forward slashes."""
    num_bytes: int
    header: Mp4Header | None
    """None for a file that has none to read."""
    reason: str
    """Why not; empty otherwise."""
    opened: OpenedClip | None = None
    """What opening it gave; None where it was not opened."""

    @property
    def seconds(self) -> float | None:
        """How long the picture lasts; None where the header does not say."""
        picture = self.header.picture if self.header is not None else None
        return picture.duration_seconds if picture is not None and picture.duration_seconds else None


def _d(severity: Severity, title: str, meaning: str) -> Detector:
    return Detector(severity=severity, title=title, meaning=meaning)


DETECTORS: Mapping[str, Detector] = {
    # The data set and its splits.
    "missing-split": _d(
        "error", "split without annotations", "Copy its CSV into the folder; without it the split does not exist."
    ),
    "no-clips": _d(
        "error", "split without clips", "Every row has its text and labels only. Copy the clips beside the CSVs."
    ),
    "row-count": _d(
        "warning", "another number of rows than MELD's", "Incomplete, a subset, or another version: scores differ."
    ),
    "clip-count": _d(
        "warning", "another number of clips than MELD's", "Incomplete, a subset, or unpacked in part: copy again."
    ),
    # Rows.
    "label-contradiction": _d(
        "error", "emotion and sentiment contradict", "Joy is positive, anger negative, and so on: mend the row."
    ),
    "ambiguous-sentiment": _d(
        "note", "emotion with more than one sentiment", "Read the sentiment from its column, not from the emotion."
    ),
    "no-duration": _d(
        "warning", "row shorter than 0.1 s or backwards", "Two or three frames of picture, less than a window of sound."
    ),
    "short-row": _d("note", "row shorter than 0.2 s", "Kept; a model sees a handful of frames."),
    "long": _d("warning", "implausibly long for one utterance", "Mis-cut in all likelihood: look at it."),
    "few-words": _d(
        "warning", "few words for so long a row", "More than the line is in it, or another one: look at it."
    ),
    "same-time": _d("warning", "rows of a split at the same time", "The same stretch of an episode, twice."),
    "leakage": _d(
        "warning",
        "dev or test row inside a train row",
        "The same seconds of the same episode: a score on it is too good.",
    ),
    # How the CSVs are written.
    "control-characters": _d(
        "note", "C1 control characters in the text", "Left-overs of cp1252; preprocessing restores what they meant."
    ),
    "line-separator": _d(
        "note", "U+0085 in the text", "A line break to some readers, which would tear the row; not to this one."
    ),
    "one-digit-hour": _d("note", "times with a one-digit hour", "0:05:18,667 beside 00:05:18,667; both are read."),
    "odd-milliseconds": _d("note", "times without three digits of milliseconds", "Counted as milliseconds."),
    "repeated-number": _d("note", "`Sr No.` that repeats", "No key; dialogue and utterance id are."),
    "id-gap": _d("note", "gaps in the utterance ids", "The place in a dialogue is counted, not read from the id."),
    # Files.
    "missing-clip": _d("error", "row without a clip", "Kept with its text; picture and sound are marked absent."),
    "empty-clip": _d("error", "clip of no bytes", "Copy it again."),
    "unreadable-clip": _d("error", "clip that cannot be opened", "Copy it again; else picture and sound are absent."),
    "odd-header": _d(
        "warning", "clip that opens in spite of its header", "Read by PyAV; from its header nothing was taken."
    ),
    "truncated-clip": _d("error", "clip that is cut short", "Copy it again; else what is left of it is used."),
    "no-picture": _d("error", "clip without a picture", "Kept; the picture is marked absent."),
    "no-audio": _d("error", "clip without sound", "Kept; the sound is marked absent."),
    "extra-clip": _d("note", "clip without a row", "Never becomes a sample."),
    "no-clip-file": _d("note", "file that is no clip", "Passed over, such as the ._ companions that macOS writes."),
    "same-content": _d(
        "warning", "rows that share one clip's bytes", "The same footage under two labels, or in two splits."
    ),
    "twin-fits": _d(
        "note", "twin that fits the annotation better", "Used instead of the plain clip (`preprocess.test_clips`)."
    ),
    "twin-does-not-fit": _d("note", "twin that fits no better", "The plain clip is used (`preprocess.test_clips`)."),
    # What a header says of a clip.
    "duration-mismatch": _d(
        "warning", "clip as long as its row says not", "Another scene, or cut elsewhere: the label may not be of it."
    ),
    "sound-mismatch": _d("warning", "picture and sound of different lengths", "One of the two ends early."),
    "one-frame": _d("note", "clip of a single frame", "Repeated."),
    "variable-frame-rate": _d("note", "variable frame rate", "Frames are chosen by time, not by number."),
    "surround": _d("note", "more than two channels", "All are mixed: the voice is in the centre."),
    "odd-size": _d("note", "another picture size than most", "Scaled like the others."),
    "hidden-frames": _d("note", "frames hidden by an edit list", "Left out, as players do; Decord is not used for it."),
    "fragmented": _d("note", "fragmented file", "Its header does not say what it holds; `--deep` does."),
    "large-file": _d("note", "clip of more than 2.5 MB", "Disturbed sound was reported for most of them."),
    # What opening a clip gives.
    "crash": _d("error", "clip that crashes or hangs the decoder", "Costs itself and not the run."),
    "damaged": _d("error", "clip that cannot be decoded", "Copy it again; else what cannot be decoded is absent."),
    "silent": _d("error", "digital silence", "The sound is marked absent."),
    "clipped": _d("warning", "sound at its limit", "Recorded too loud or disturbed: listen to it."),
}
"""What is looked for, by name, in the order of a report."""
