"""Pictures of odd files, by what a row of them gives: which, which way up, and what is noted."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from preprocess.clips.extract import Feature, extract
from preprocess.config import Decoder
from preprocess.datasets.annotations import Span
from tests.support.clips import frame_numbers, make_utterance, small_config, small_spec, write_clip
from tests.support.matrix import edits
from tests.support.matrix.codecs import picture, sound
from tests.support.matrix.drawing import corners, numbers
from tests.support.matrix.studio import Studio, run_ffmpeg

AAC = sound("aac")
each_decoder = pytest.mark.parametrize("decoder", get_args(Decoder))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


def shown(
    path: Path, *, decoder: Decoder = "pyav", span: tuple[float, float] | None = None, frames: int = 8
) -> Feature:
    row = make_utterance(clip=path.name)
    if span is not None:
        row = replace(row, span=Span(start_seconds=span[0], end_seconds=span[1]), cut_by_span=True)
    spec = small_spec(small_config(num_frames=frames, height=72, width=96))
    extracted = extract(path.parent, row, media=("video",), decoder=decoder, spec=spec, test_clips="auto")
    assert extracted.video.presence.present, extracted.video.presence.reason
    return extracted.video


def assert_shows(feature: Feature, expected: Sequence[int], *, within: float = 0.7) -> None:
    """Check which pictures the real frames show; conversion moves the grey that tells by half a picture."""
    np.testing.assert_allclose(numbers(feature.array[: feature.length]), expected, atol=within)


def notes_of(feature: Feature) -> dict[str, str]:
    return {note.kind: note.detail for note in feature.notes}


@each_decoder
def test_a_frame_that_begins_where_a_part_ends_is_not_in_it(tmp_path: Path, studio: Studio, decoder: Decoder) -> None:
    """1.4 is 1.3999999 in 32 bits, and less than 1.4 in 64."""
    studio.encode(tmp_path / "a.mp4", video=picture("h264"), audio=AAC)
    assert_shows(shown(tmp_path / "a.mp4", decoder=decoder, span=(0.9, 1.4), frames=20), range(22, 35))


@each_decoder
def test_the_edges_of_a_part_are_exact_an_hour_into_the_file(tmp_path: Path, decoder: Decoder) -> None:
    """A second before the hour is a second to 0.24 ms in 32 bits."""
    path = write_clip(tmp_path / "a.mp4", pictures=25, gaps=[24 * 3600] + [1] * 24, layout=None)
    found = shown(path, decoder=decoder, span=(3600.0 + 6 / 24, 3600.0 + 12 / 24), frames=10)
    assert frame_numbers(found.array[: found.length]) == [7, 8, 9, 10, 11, 12]


@each_decoder
@pytest.mark.parametrize(
    ("codec", "gop"), [("h264", "open"), ("h264", "refresh"), ("hevc", "open"), ("hevc", "layers")]
)
def test_a_part_begins_right_wherever_the_decoder_must_begin(
    tmp_path: Path, studio: Studio, decoder: Decoder, codec: str, gop: str
) -> None:
    studio.encode(tmp_path / "a.mp4", video=picture(codec, gop), audio=AAC)
    for first in range(0, 44, 4):
        found = shown(tmp_path / "a.mp4", decoder=decoder, span=(first / 25, (first + 4) / 25))
        assert_shows(found, range(first, first + 4))


@each_decoder
@pytest.mark.parametrize("part", [None, (0.2, 0.8)])
def test_a_phones_clip_that_was_trimmed_stands_upright(
    tmp_path: Path, studio: Studio, decoder: Decoder, part: tuple[float, float] | None
) -> None:
    turn = ("-display_rotation", "90")
    edits.turned(picture("h264", "one-key"), AAC, studio, tmp_path / "a.mp4", options=turn, seconds=0.6)
    found = shown(tmp_path / "a.mp4", decoder=decoder, span=part)
    assert corners(found.array[0]) == "gwrb"
    first, last = numbers(found.array)[[0, -1]]
    assert 15 <= first < last < 50


@pytest.mark.parametrize("container", ["h264", "avi"])
def test_frames_without_times_are_taken_in_the_order_they_are_shown_in(
    tmp_path: Path, studio: Studio, container: str
) -> None:
    studio.encode(tmp_path / f"a.{container}", video=picture("h264", "pyramid"))
    found = shown(tmp_path / f"a.{container}")
    assert_shows(found, [3, 9, 15, 21, 28, 34, 40, 46], within=1.5)
    assert notes_of(found)["odd_times"].startswith("the ")


def test_frames_of_one_time_are_noted(tmp_path: Path, studio: Studio) -> None:
    edits.alike_times(picture("h264", "no-b"), AAC, studio, tmp_path / "a.mkv")
    assert notes_of(shown(tmp_path / "a.mkv"))["odd_times"].startswith("5 frames have the time of the one before")


@each_decoder
@pytest.mark.parametrize(("codec", "container"), [("h264", "mp4"), ("hevc", "mp4"), ("mpeg4", "mkv")])
def test_damaged_packets_cost_their_frames_and_are_counted(
    tmp_path: Path, studio: Studio, decoder: Decoder, codec: str, container: str
) -> None:
    path = tmp_path / f"a.{container}"
    edits.noise_in_picture(picture(codec), AAC, studio, path)
    found = shown(path, decoder=decoder)
    assert notes_of(found)["damaged"].endswith("packets of the picture cannot be decoded")
    assert_shows(
        found, [3, 9, 15, 21, 28, 34, 40, 46], within=8
    )  # those after it until the next key frame are lost too
    assert (np.diff(numbers(found.array)) > 0).all()


@pytest.mark.parametrize(
    ("write", "kind", "words"),
    [
        (partial(edits.interlaced, "mpeg2", "tff"), "interlaced", "two fields"),
        (partial(edits.two_pictures, marked=1), "other_streams", "number 2 of 2 pictures was taken, marked as default"),
        (partial(edits.with_cover, first=True, trimmed=False), "", ""),
    ],
)
def test_what_is_odd_about_a_picture_is_noted(
    tmp_path: Path, studio: Studio, write: Any, kind: str, words: str
) -> None:
    write(studio, tmp_path / "a.mp4")
    notes = notes_of(shown(tmp_path / "a.mp4"))
    notes.pop("duration_mismatch", None)  # with the annotation, which is made up
    assert list(notes) == [kind] * bool(kind)
    assert words in notes.get(kind, "")


def test_a_file_of_sound_with_a_cover_has_no_picture(tmp_path: Path, studio: Studio) -> None:
    studio.encode(tmp_path / "sound.m4a", audio=AAC)
    studio.encode(tmp_path / "cover.jpg", "-frames:v", "1", video=("-c:v", "mjpeg"))
    inputs: list[str | Path] = ["-i", tmp_path / "sound.m4a", "-i", tmp_path / "cover.jpg"]
    run_ffmpeg(*inputs, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic", tmp_path / "a.m4a")
    row = make_utterance(clip="a.m4a")
    decoders: tuple[Decoder, ...] = get_args(Decoder)
    for decoder in decoders:
        extracted = extract(
            tmp_path, row, media=("video",), decoder=decoder, spec=small_spec(small_config()), test_clips="auto"
        )
        assert extracted.video.presence.reason == "there is only a cover picture"
