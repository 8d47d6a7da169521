"""Detectors that need the files: names and sizes, headers, and what opening them gave where that was done."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from preprocess.clips.clip import LONG_SECONDS, MISMATCH_SECONDS
from preprocess.clips.mp4_header import Mp4Header, PictureTrack
from preprocess.datasets.annotations import Dataset, DatasetSplit, Utterance
from preprocess.doctor.findings import Clip, Finding
from shards.files import sha256_file

__all__ = ["find_in_clips", "find_same_content", "usual_size"]

Clips = Mapping[str, Clip]
"""What is known of each file, by its path relative to the data set's folder."""
Size = tuple[int, int]
"""Width and height in pixels."""

_LARGE_BYTES = 2_500_000
"""Most of MELD's clips beyond it have disturbed sound (https://github.com/declare-lab/MELD/issues/9)."""
_CLIPPED_SHARE = 0.01


def find_in_clips(split: DatasetSplit, clips: Clips, *, usual: Size | None) -> Iterator[Finding]:
    """Yield what is odd about the files of a split.

    Args:
        split: The split.
        clips: What is known of its files.
        usual: The size of most pictures of the data set; None without any.
    """
    used = {path for row in split.utterances for path in (row.clip, row.twin) if path}
    if not used:
        where = f"{split.clip_folder} holds no row's clip" if split.clip_folder else "there is no folder of them"
        detail = f"{len(split.utterances):,} rows, and {where}"
        yield Finding(detector="no-clips", split=split.name, file=split.clip_folder, detail=detail)
    for row in split.utterances if used else ():
        if not row.clip and not row.twin:
            detail = f"there is no {row.clip_name}"
            yield Finding(detector="missing-clip", split=split.name, key=row.key, file=row.clip_name, detail=detail)
            continue
        yield from _twin(row, clips)
        chosen = _choose(row, clips)
        for path in filter(None, (row.clip, row.twin)):
            unusable = list(_unusable(row, clips[path]))
            yield from unusable
            if path == chosen and not unusable:
                yield from _odd(row, clips[path], usual=usual)
    for name in (*split.orphan_clips, *split.twins):
        if (path := split.clip_folder + name) not in used:
            size = f"{clips[path].num_bytes:,} bytes" if path in clips else "no row asks for it"
            yield Finding(detector="extra-clip", split=split.name, file=path, detail=size)
    for name in split.ignored_files:
        detail = "a macOS companion of another file" if name.startswith("._") else "not named like a clip"
        yield Finding(detector="no-clip-file", split=split.name, file=split.clip_folder + name, detail=detail)


def find_same_content(dataset: Dataset, clips: Clips) -> Iterator[Finding]:
    """Yield the rows whose clips are byte for byte the same; only files of equal size are read."""
    by_size: dict[int, list[tuple[Utterance, str]]] = defaultdict(list)
    for split in dataset.splits:
        for row in split.utterances:
            for path in filter(None, (row.clip, row.twin)):
                if clips[path].num_bytes:
                    by_size[clips[path].num_bytes].append((row, path))
    for files in by_size.values():
        if len({row.key for row, _ in files}) < 2:
            continue
        same: dict[str, list[tuple[Utterance, str]]] = defaultdict(list)
        for row, path in files:
            if (digest := _digest(dataset.root / path)) is not None:
                same[digest].append((row, path))
        for group in same.values():
            first, path = group[0]
            others = [
                f"{row.key} ({'same' if row.labels == first.labels else 'another'} label)" for row, _ in group[1:]
            ]
            if any(row.key != first.key for row, _ in group):
                more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
                detail = f"the same bytes as {', '.join(others[:5])}{more}"
                yield Finding(detector="same-content", split=first.split, key=first.key, file=path, detail=detail)


def usual_size(clips: Clips) -> Size | None:
    """Return the size of most pictures, so that another one stands out."""
    pictures = [clip.header.picture for clip in clips.values() if clip.header is not None]
    sizes = Counter((picture.width, picture.height) for picture in pictures if picture is not None)
    return sizes.most_common(1)[0][0] if sizes else None


def _digest(path: Path) -> str | None:
    """Return None for a file that cannot be read, which another detector says."""
    try:
        return sha256_file(path)
    except OSError:
        return None


def _choose(row: Utterance, clips: Clips) -> str:
    """Return the file that preprocessing takes: of two the one closer to the annotation, see `extract.choose_clip`."""
    if not row.clip or not row.twin:
        return row.clip or row.twin
    return row.twin if _error(row, clips[row.twin]) < _error(row, clips[row.clip]) else row.clip


def _error(row: Utterance, clip: Clip) -> float:
    return abs(clip.seconds - row.annotated_seconds) if clip.seconds is not None else float("inf")


def _twin(row: Utterance, clips: Clips) -> Iterator[Finding]:
    if not row.twin:
        return
    plain = clips[row.clip] if row.clip else None
    twin = clips[row.twin]
    fits = _choose(row, clips) == row.twin
    detail = (
        f"the twin lasts {_length(twin)}, the plain clip {_length(plain)}, the annotation {row.annotated_seconds:.2f} s"
    )
    detector = "twin-fits" if fits else "twin-does-not-fit"
    yield Finding(detector=detector, split=row.split, key=row.key, file=row.twin, detail=detail)


def _length(clip: Clip | None) -> str:
    if clip is None:
        return "is not there"
    return f"{clip.seconds:.2f} s" if clip.seconds is not None else "cannot be measured"


def _unusable(row: Utterance, clip: Clip) -> Iterator[Finding]:
    """Yield why a clip cannot be used at all, or not to its end."""

    def found(detector: str, detail: str) -> Finding:
        return Finding(detector=detector, split=row.split, key=row.key, file=clip.path, detail=detail)

    opened = clip.opened
    if not clip.num_bytes:
        yield found("empty-clip", clip.reason)
    elif clip.header is None:
        opens = opened is not None and opened.num_frames and not opened.picture_trouble
        yield found("odd-header" if opens else "unreadable-clip", clip.reason)
        return
    elif clip.header.missing_bytes:
        held = f"; of {opened.promised_frames} frames {opened.num_frames} are there" if opened is not None else ""
        yield found("truncated-clip", f"{clip.header.missing_bytes:,} bytes are missing{held}")
    elif opened is not None and opened.num_frames < opened.promised_frames and not opened.death:
        yield found(
            "truncated-clip", f"the header promises {opened.promised_frames} frames, the file holds {opened.num_frames}"
        )
    if opened is not None and opened.death:
        yield found("crash", opened.death)
    for trouble in (opened.picture_trouble, opened.sound_trouble) if opened is not None else ():
        if trouble:
            yield found("damaged", trouble)


def _odd(row: Utterance, clip: Clip, *, usual: Size | None) -> Iterator[Finding]:
    """Yield what is worth knowing of a clip that can be used."""
    header, opened = clip.header, clip.opened
    found: dict[str, str] = {}
    if header is None:
        return
    if header.fragmented:
        found["fragmented"] = "the frames are listed behind the header"
    if header.picture is None or not (header.picture.num_frames or header.fragmented):
        found["no-picture"] = "there is no video stream" if header.picture is None else "there is no frame"
    else:
        found |= _odd_picture(header.picture, usual=usual) | _odd_lengths(row, clip)
    if header.sound is None:
        found["no-audio"] = "there is no audio stream"
    else:
        found |= _odd_sound(header)
    if clip.num_bytes > _LARGE_BYTES:
        found["large-file"] = f"{clip.num_bytes / 1e6:.1f} MB"
    if opened is not None and opened.silent:
        found["silent"] = "the whole sound is below -100 dB"
    if opened is not None and opened.clipped_share > _CLIPPED_SHARE:
        found["clipped"] = f"{opened.clipped_share:.1%} of the sound is at full scale"
    for detector, detail in found.items():
        yield Finding(detector=detector, split=row.split, key=row.key, file=clip.path, detail=detail)


def _odd_picture(picture: PictureTrack, *, usual: Size | None) -> dict[str, str]:
    found = {}
    shown = picture.num_frames - picture.num_hidden
    if shown == 1:
        found["one-frame"] = "the clip has a single frame"
    if picture.variable_frame_rate:
        found["variable-frame-rate"] = f"{shown} frames in {picture.duration_seconds:.2f} s, unevenly spaced"
    if picture.num_hidden:
        found["hidden-frames"] = f"{picture.num_hidden} of {picture.num_frames} frames"
    if usual is not None and (picture.width, picture.height) != usual:
        found["odd-size"] = f"{picture.width}x{picture.height}, most are {usual[0]}x{usual[1]}"
    return found


def _odd_lengths(row: Utterance, clip: Clip) -> dict[str, str]:
    found: dict[str, str] = {}
    annotated = row.annotated_seconds
    if clip.seconds is None:
        return found
    if row.span is not None and abs(clip.seconds - annotated) > max(MISMATCH_SECONDS, annotated / 10):
        found["duration-mismatch"] = f"the clip lasts {clip.seconds:.2f} s, the annotation {annotated:.2f} s"
    if clip.seconds > LONG_SECONDS >= annotated:
        found["long"] = f"the clip lasts {clip.seconds:.2f} s, with {len(row.text.split())} words"
    return found


def _odd_sound(header: Mp4Header) -> dict[str, str]:
    found: dict[str, str] = {}
    picture, sound = header.picture, header.sound
    if sound is None:
        return found
    if sound.num_channels > 2:
        found["surround"] = f"{sound.num_channels} channels"
    if picture is not None and not header.fragmented:
        longest = max(picture.duration_seconds, sound.duration_seconds)
        if abs(picture.duration_seconds - sound.duration_seconds) > max(MISMATCH_SECONDS, longest / 10):
            found["sound-mismatch"] = (
                f"the picture lasts {picture.duration_seconds:.2f} s, the sound {sound.duration_seconds:.2f} s"
            )
    return found
