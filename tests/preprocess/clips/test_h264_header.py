from contextlib import suppress
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from preprocess.clips.h264_header import H264Header, parse_avcc
from preprocess.errors import ClipError
from tests.support.matrix.codecs import picture
from tests.support.matrix.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(tmp_path_factory.mktemp("studio"))


def header_of(studio: Studio, path: Path, *options: str, way: str = "closed") -> H264Header:
    studio.encode(path, *options, video=picture("h264", way))
    return parse_avcc(config_of(path))


def config_of(path: Path) -> bytes:
    with av.open(path) as container:
        return container.streams.video[0].codec_context.extradata or b""


@pytest.mark.parametrize(("way", "reorders"), [("closed", True), ("pyramid", True), ("no-b", False), ("intra", False)])
def test_a_stream_says_whether_its_frames_are_stored_in_another_order(
    tmp_path: Path, studio: Studio, way: str, reorders: bool
) -> None:
    header = header_of(studio, tmp_path / "a.mp4", way=way)
    assert header == H264Header(
        length_bytes=4, eight_bit_420=True, progressive=True, reorders=reorders, transfer=header.transfer
    )


@pytest.mark.parametrize(
    ("pixels", "common"), [("yuv420p", True), ("yuv422p", False), ("yuv444p", False), ("yuv420p10le", False)]
)
def test_a_stream_says_how_its_colours_are_kept(tmp_path: Path, studio: Studio, pixels: str, common: bool) -> None:
    assert header_of(studio, tmp_path / "a.mp4", "-pix_fmt", pixels).eight_bit_420 == common


@pytest.mark.parametrize(("transfer", "number"), [("bt709", 1), ("smpte2084", 16), ("arib-std-b67", 18)])
def test_a_stream_says_how_its_brightness_is_coded(tmp_path: Path, studio: Studio, transfer: str, number: int) -> None:
    marks = ("-vf", f"setparams=color_trc={transfer}:color_primaries=bt709:colorspace=bt709")
    assert header_of(studio, tmp_path / "a.mp4", *marks).transfer == number


def test_fields_are_not_progressive(tmp_path: Path, studio: Studio) -> None:
    video = ("-c:v", "libx264", "-x264-params", "tff=1", "-pix_fmt", "yuv420p")
    studio.encode(tmp_path / "a.mp4", video=video, height=128)
    assert not parse_avcc(config_of(tmp_path / "a.mp4")).progressive


def test_a_configuration_that_is_cut_is_damaged_wherever_it_is_cut(tmp_path: Path, studio: Studio) -> None:
    studio.encode(tmp_path / "a.mp4", video=picture("h264"))
    config = config_of(tmp_path / "a.mp4")
    size = 8 + int.from_bytes(config[6:8], "big")
    for length in range(size):
        with pytest.raises(ClipError, match="the header is damaged"):
            parse_avcc(config[:length])
    parse_avcc(config[:size])


@given(st.binary(max_size=80))
def test_any_bytes_are_a_header_or_damaged(content: bytes) -> None:
    with suppress(ClipError):
        parse_avcc(b"\1\x64\0\x1f\xff\xe1" + (len(content) + 1).to_bytes(2, "big") + b"\x67" + content)
