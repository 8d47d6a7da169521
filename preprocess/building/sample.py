"""A row of the annotations and what its clip gave -> a sample."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from preprocess.clips.clip import SHORT_SECONDS
from preprocess.clips.extract import Extract
from preprocess.datasets.annotations import Utterance
from preprocess.text.context import tokenize
from preprocess.text.tokenizer import TextTokenizer
from shards.format.frame_jpeg import encode_frame_jpeg
from shards.schema import PRESENT, Note, Presence, Sample, SampleMeta, SourceClip
from shards.spec import FeatureSpec, VideoSpec

__all__ = ["make_sample"]


def make_sample(
    row: Utterance, extracted: Extract, *, spec: FeatureSpec, tokenizer: TextTokenizer, source_sha256: str
) -> Sample:
    """Put a row and what its clip gave together; an absent modality is zeros of the same size.

    Args:
        row: The row, with its context.
        extracted: Picture and sound, present or not.
        spec: How arrays are made.
        tokenizer: That of `spec.text`.
        source_sha256: Digest of the chosen clip's content; empty for a row without one.
    """
    tokens = tokenize(row, tokenizer, spec.text)
    video, audio = extracted.features["video"], extracted.features["audio"]
    notes = [*extracted.notes]
    if row.span is not None and row.annotated_seconds < SHORT_SECONDS:
        detail = f"the annotation gives {row.annotated_seconds:.3f} s"
        notes.append(Note(kind="short_row", about="row", detail=detail))
    notes += [*video.notes, *audio.notes]
    if row.text_repaired:
        detail = "cp1252 control characters replaced by what they meant"
        notes.append(Note(kind="text_repaired", about="text", detail=detail))
    if tokens.num_needed > spec.text.max_tokens:
        detail = f"the first {tokens.num_tokens} of {tokens.num_needed} tokens are kept"
        notes.append(Note(kind="text_cut", about="text", detail=detail))
    if tokens.num_before < len(row.context):
        detail = f"the last {tokens.num_before} of {len(row.context)} earlier utterances are kept"
        notes.append(Note(kind="context_cut", about="text", detail=detail))
    has_text = bool(row.text.strip())
    meta = SampleMeta(
        key=row.key,
        split=row.split,
        dialogue_id=row.dialogue_id,
        utterance_id=row.utterance_id,
        turn_index=row.turn_index,
        speaker=row.speaker,
        text=row.text,
        labels=row.labels,
        num_frames=video.length,
        num_hops=audio.length,
        num_tokens=tokens.num_tokens,
        presence={
            "video": video.presence,
            "audio": audio.presence,
            "text": PRESENT if has_text else Presence(present=False, reason="the transcript is empty"),
        },
        source=SourceClip(path=extracted.path, sha256=source_sha256),
        video_seconds=video.seconds,
        audio_seconds=audio.seconds,
        annotated_seconds=row.annotated_seconds,
        notes=tuple(notes),
    )
    return Sample(
        meta=meta,
        frames=video.array if video.presence.present else _no_frames(spec.video),
        logmel=audio.array if audio.presence.present else np.zeros(spec.audio.shape, np.float16),
        tokens=tokens.ids,
    )


@cache
def _no_frames(spec: VideoSpec) -> NDArray[np.uint8]:
    """Return black frames as they are stored."""
    black = np.zeros(spec.shape, np.uint8)
    return encode_frame_jpeg(black, quality=spec.jpeg_quality) if spec.storage == "jpeg" else black
