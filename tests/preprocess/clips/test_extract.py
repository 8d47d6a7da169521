import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest

from preprocess.clips.extract import MEDIA, Extract, Medium, absent_feature, choose_clip, extract
from preprocess.config import Decoder
from preprocess.config import TestClips as WhichClips  # under its own name pytest would take it for tests
from preprocess.datasets.annotations import Span, Utterance
from shards.format.codec import pixels
from tests.support.clips import (
    SAMPLE_RATE,
    cut_without_encoding,
    frame_numbers,
    index_pictures,
    make_utterance,
    small_config,
    small_spec,
    tone,
    write_clip,
)

CONFIG = small_config()
SPEC = small_spec(CONFIG)
ABSENT = 0


def extract_row(root: Path, row: Utterance, *, test_clips: WhichClips = "auto") -> Extract:
    return extract(root, row, media=MEDIA, decoder="decord", spec=SPEC, test_clips=test_clips)


def extract_clip(path: Path, *, annotated_seconds: float = 1.0) -> Extract:
    return extract_row(path.parent, make_utterance(clip=path.name, annotated_seconds=annotated_seconds))


def notes_of(extracted: Extract) -> dict[str, str]:
    """Return all notes, on the row, the picture and the sound."""
    notes = (*extracted.notes, *extracted.video.notes, *extracted.audio.notes)
    return {note.kind: note.detail for note in notes}


def seconds_of(extracted: Extract) -> float:
    return max(extracted.video.seconds, extracted.audio.seconds)


def test_an_ordinary_clip_gives_picture_and_sound_and_nothing_to_note(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4"))
    assert extracted.video.presence.present
    assert extracted.audio.presence.present
    assert extracted.video.array.shape == SPEC.video.shape
    assert extracted.audio.array.shape == SPEC.audio.shape
    assert (extracted.video.length, extracted.audio.length) == (4, SPEC.audio.num_hops)
    assert seconds_of(extracted) == pytest.approx(1.0, abs=0.01)
    assert set(notes_of(extracted)) == {"audio_cut"}


def test_a_clip_that_fits_has_no_notes(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", pictures=12), annotated_seconds=0.5)
    assert notes_of(extracted) == {}
    assert 0 < extracted.audio.length < SPEC.audio.num_hops
    assert not extracted.audio.array[:, extracted.audio.length :].any()


def test_a_clip_without_sound_keeps_its_picture(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", layout=None))
    assert extracted.video.presence.present
    assert extracted.audio.presence.reason == "there is no audio stream"
    assert (extracted.audio.array.size, extracted.audio.length) == (ABSENT, 0)


def test_a_clip_of_silence_keeps_its_picture(tmp_path: Path) -> None:
    silence = np.zeros((2, SAMPLE_RATE), np.float32)
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", channels=silence))
    assert extracted.video.presence.present
    assert extracted.audio.presence.reason == "the sound is digital silence"
    assert (extracted.audio.array.size, extracted.audio.length) == (ABSENT, 0)


def test_a_clip_that_cannot_be_opened_is_absent_twice_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"hello" * 100)
    extracted = extract_row(tmp_path, make_utterance(clip="a.mp4"))
    assert extracted.path == "a.mp4"
    assert extracted.video.presence.reason == extracted.audio.presence.reason
    assert extracted.video.presence.reason.startswith("cannot be opened")
    assert seconds_of(extracted) == 0.0


def test_an_absent_feature_has_nothing_but_its_reason() -> None:
    feature = absent_feature("it is gone")
    assert feature.presence.reason == "it is gone"
    assert (feature.array.size, feature.length, feature.seconds, feature.notes) == (ABSENT, 0, 0.0, ())


@pytest.mark.parametrize("medium", MEDIA)
@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_one_of_picture_and_sound_is_the_same_alone(tmp_path: Path, medium: Medium, decoder: Decoder) -> None:
    write_clip(tmp_path / "a.mp4", layout="5.1")
    row = make_utterance(clip="a.mp4")
    both = extract(tmp_path, row, media=MEDIA, decoder=decoder, spec=SPEC, test_clips="auto")
    alone = extract(tmp_path, row, media=(medium,), decoder=decoder, spec=SPEC, test_clips="auto")
    assert set(alone.features) == {medium}
    ours, theirs = both.features[medium], alone.features[medium]
    np.testing.assert_array_equal(ours.array, theirs.array)
    assert (ours.length, ours.seconds, ours.notes) == (theirs.length, theirs.seconds, theirs.notes)


def test_frames_may_be_stored_as_one_jpeg(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4")
    row = make_utterance(clip="a.mp4")
    spec = small_spec(small_config(storage="jpeg", jpeg_quality=95))
    raw, jpeg = (
        extract(tmp_path, row, media=("video",), decoder="decord", spec=item, test_clips="auto").video.array
        for item in (SPEC, spec)
    )
    assert jpeg[:3].tobytes() == b"\xff\xd8\xff"
    assert np.abs(pixels(jpeg, spec.video).astype(int) - raw).mean() < 3


def test_the_first_frames_are_those_with_black_after_a_clip_that_is_too_short(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", pictures=24)
    write_clip(tmp_path / "short.mp4", pictures=3)
    spec = small_spec(small_config(num_frames=5, sampling="first"))
    decoders: tuple[Decoder, ...] = get_args(Decoder)
    for decoder in decoders:
        long, short = (
            extract(tmp_path, row, media=("video",), decoder=decoder, spec=spec, test_clips="auto")
            for row in (make_utterance(clip="a.mp4"), make_utterance(clip="short.mp4"))
        )
        assert frame_numbers(long.video.array) == [0, 1, 2, 3, 4]
        assert frame_numbers(short.video.array[:3]) == [0, 1, 2]
        assert not short.video.array[3:].any()
        assert short.video.length == 3


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_a_row_may_be_a_part_of_its_file(tmp_path: Path, decoder: Decoder) -> None:
    """Half a second of a low tone, then half a second of a high one; the row is the second half."""
    sound = np.concatenate([tone(SAMPLE_RATE // 2, hertz=300), tone(SAMPLE_RATE // 2, hertz=2400)])
    write_clip(tmp_path / "a.mp4", channels=np.stack([sound] * 2))
    row = make_utterance(clip="a.mp4")
    row = replace(row, span=Span(start_seconds=0.5, end_seconds=1.0), cut_by_span=True)
    extracted = extract(tmp_path, row, media=MEDIA, decoder=decoder, spec=SPEC, test_clips="auto")
    assert frame_numbers(extracted.video.array) == [13, 16, 19, 22]
    assert extracted.video.seconds == pytest.approx(0.5, abs=1e-4)
    assert extracted.audio.seconds == pytest.approx(0.5, abs=0.03)
    loudest = extracted.audio.array[:, 2 : extracted.audio.length - 2].astype(float).argmax(axis=0)
    assert (loudest > 25).all()  # mel bins of 2400 Hz; 300 Hz is in the lowest ten
    assert "duration_mismatch" not in notes_of(extracted)


@pytest.mark.parametrize("decoder", get_args(Decoder))
def test_a_part_behind_the_end_of_its_file_is_absent_with_both_lengths(tmp_path: Path, decoder: Decoder) -> None:
    write_clip(tmp_path / "a.mp4")
    row = replace(make_utterance(clip="a.mp4"), span=Span(start_seconds=7.0, end_seconds=8.0), cut_by_span=True)
    extracted = extract(tmp_path, row, media=MEDIA, decoder=decoder, spec=SPEC, test_clips="auto")
    assert extracted.video.presence.reason == "no frame from 7.000 to 8.000 s: the file lasts 1.000 s"
    assert extracted.audio.presence.reason == "the sound has no values"


def test_the_length_is_that_of_the_longer_of_picture_and_sound(tmp_path: Path) -> None:
    long_sound = np.stack([tone(2 * SAMPLE_RATE)] * 2)
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", pictures=12, channels=long_sound))
    assert seconds_of(extracted) == pytest.approx(2.0, abs=0.03)


# What is worth a note.


def test_a_clip_of_one_frame_is_noted_and_used(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", pictures=1), annotated_seconds=0.0)
    assert extracted.video.presence.present
    assert extracted.video.length == 1
    assert (extracted.video.array == extracted.video.array[0]).all()
    assert notes_of(extracted).keys() == {"one_frame"}


def test_surround_sound_is_noted(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4", pictures=12, layout="5.1"), annotated_seconds=0.5)
    assert notes_of(extracted) == {"surround": "6 channels, mixed to one"}


def test_a_variable_frame_rate_is_noted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=9, gaps=[1] * 6 + [2] * 3)
    assert notes_of(extract_clip(path, annotated_seconds=0.5)) == {
        "variable_frame_rate": "9 frames in 0.50 s, unevenly spaced"
    }


def test_sound_that_is_cut_is_noted(tmp_path: Path) -> None:
    extracted = extract_clip(write_clip(tmp_path / "a.mp4"))
    assert notes_of(extracted) == {"audio_cut": "the first 0.77 s of 1.00 s are kept"}


@pytest.mark.parametrize(("annotated_seconds", "noted"), [(0.51, False), (0.5, False), (1.06, True), (0.0, True)])
def test_a_length_is_noted_where_it_is_far_from_the_annotation(
    tmp_path: Path, annotated_seconds: float, noted: bool
) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=13)  # 0.542 s
    assert ("duration_mismatch" in notes_of(extract_clip(path, annotated_seconds=annotated_seconds))) == noted


@pytest.mark.parametrize(("annotated_seconds", "noted"), [(36.0, False), (30.0, True)])
def test_of_a_long_clip_a_tenth_may_differ(tmp_path: Path, annotated_seconds: float, noted: bool) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=2, gaps=[420, 420], layout=None)  # 35 s
    notes = notes_of(extract_clip(path, annotated_seconds=annotated_seconds))
    assert ("duration_mismatch" in notes) == noted
    assert notes["long_clip"] == "35.00 s for one utterance"


# Which decoder.


def test_frames_hidden_by_an_edit_list_are_left_to_pyav(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", pictures=24, layout=None)
    cut = cut_without_encoding(tmp_path / "cut.mp4", whole, hidden=8)
    extracted = extract_clip(cut, annotated_seconds=16 / 24)
    assert seconds_of(extracted) == pytest.approx(16 / 24, abs=0.001)
    assert frame_numbers(extracted.video.array) == [10, 14, 18, 22]
    assert "hides frames" in notes_of(extracted)["second_decoder"]


def test_what_decord_refuses_is_read_by_pyav_with_the_reason(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", pictures=24, layout=None, options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    with av.open(path) as container:
        *_, (start, size) = ((packet.pos or 0, packet.size) for packet in container.demux(video=0) if packet.size)
    content[start : start + size] = bytes(size)  # behind the last chosen frame, and Decord gives up the whole clip
    path.write_bytes(content)
    extracted = extract_clip(path)
    assert extracted.video.presence.present
    assert notes_of(extracted)["second_decoder"].startswith("picture by PyAV: Decord says that it cannot be decoded")


# The clip or its twin.

PLAIN, TWIN = "dia0_utt0.mp4", "final_videos_testdia0_utt0.mp4"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain clip of 0.5 s, a twin of 1 s, and one of each that cannot be opened."""
    root = tmp_path_factory.mktemp("pair")
    write_clip(root / PLAIN, pictures=12)
    write_clip(root / TWIN, pictures=index_pictures(24)[::-1])
    (root / "broken.mp4").write_bytes(b"hello")
    return root


def chosen(root: Path, test_clips: WhichClips, *, clip: str = PLAIN, twin: str = TWIN, seconds: float) -> str:
    row = make_utterance(clip=clip, twin=twin, annotated_seconds=seconds)
    return choose_clip(root, row, test_clips=test_clips)[0]


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, PLAIN), (0.5, PLAIN), (0.74, PLAIN), (0.76, TWIN), (1.0, TWIN), (9.0, TWIN)]
)
def test_automatically_the_length_that_fits_decides(pair: Path, seconds: float, expected: str) -> None:
    assert chosen(pair, "auto", seconds=seconds) == expected


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_on_request_it_is_always_or_never_the_twin(pair: Path, seconds: float) -> None:
    assert chosen(pair, "corrected", seconds=seconds) == TWIN
    assert chosen(pair, "plain", seconds=seconds) == PLAIN


def test_automatically_a_clip_that_cannot_be_opened_is_not_chosen(pair: Path) -> None:
    assert chosen(pair, "auto", clip="broken.mp4", seconds=0.5) == TWIN
    assert chosen(pair, "auto", twin="broken.mp4", seconds=9.0) == PLAIN
    assert chosen(pair, "auto", clip="broken.mp4", twin="broken.mp4", seconds=0.5) == "broken.mp4"


@pytest.mark.parametrize("test_clips", ["auto", "corrected", "plain"])
def test_the_only_clip_there_is_is_taken(pair: Path, test_clips: WhichClips) -> None:
    assert chosen(pair, test_clips, clip=PLAIN, twin="", seconds=1.0) == PLAIN
    assert chosen(pair, test_clips, clip="", twin=TWIN, seconds=0.5) == TWIN


def test_a_row_without_a_twin_has_nothing_to_choose_and_no_note(pair: Path) -> None:
    assert choose_clip(pair, make_utterance(clip=PLAIN), test_clips="auto") == (PLAIN, ())


def test_the_choice_is_noted_with_both_lengths_and_no_folder(pair: Path) -> None:
    for seconds, kind in ((1.0, "corrected_twin_used"), (0.5, "corrected_twin_not_used")):
        row = make_utterance(clip=PLAIN, twin=TWIN, annotated_seconds=seconds)
        _, (note,) = choose_clip(pair, row, test_clips="auto")
        assert note.kind == kind
        assert re.findall(r"\S+\.mp4|\d\.\d\d s", note.detail) == [TWIN, "1.00 s", PLAIN, "0.50 s", f"{seconds:.2f} s"]
        assert str(pair) not in note.detail


@pytest.mark.parametrize("test_clips", ["corrected", "plain"])
def test_on_request_the_other_file_is_not_even_opened(pair: Path, test_clips: WhichClips) -> None:
    """It may be the kind that crashes its decoder."""
    clip, twin = (PLAIN, "missing.mp4") if test_clips == "plain" else ("missing.mp4", PLAIN)
    row = make_utterance(clip=clip, twin=twin)
    path, (note,) = choose_clip(pair, row, test_clips=test_clips)
    assert path == PLAIN
    assert "was not looked at" in note.detail


def test_a_twin_in_place_of_a_missing_clip_is_noted(pair: Path) -> None:
    _, (note,) = choose_clip(pair, make_utterance(twin=TWIN), test_clips="plain")
    assert note.kind == "corrected_twin_used"


def test_the_note_of_a_twin_that_cannot_be_opened_says_so(pair: Path) -> None:
    row = make_utterance(clip=PLAIN, twin="broken.mp4", annotated_seconds=0.5)
    _, (note,) = choose_clip(pair, row, test_clips="auto")
    assert note.kind == "corrected_twin_not_used"
    assert "inf" not in note.detail
    assert "cannot be opened" in note.detail


def test_the_sample_is_made_from_the_chosen_clip(pair: Path) -> None:
    row = make_utterance(clip=PLAIN, twin=TWIN, annotated_seconds=1.0)
    from_twin, from_plain = extract_row(pair, row), extract_row(pair, row, test_clips="plain")
    assert (from_twin.path, from_plain.path) == (TWIN, PLAIN)
    assert not np.array_equal(from_twin.video.array, from_plain.video.array)
    assert "duration_mismatch" in notes_of(from_plain) or seconds_of(from_plain) < seconds_of(from_twin)
