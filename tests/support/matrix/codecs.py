"""The codecs of the matrix: ffmpeg's options of each, by the way its pictures refer to each other."""

__all__ = ["PICTURES", "SOUNDS", "picture", "sound"]

_X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "6", "-pix_fmt", "yuv420p", "-threads", "1")
_X265 = ("-c:v", "libx265", "-preset", "veryfast", "-crf", "6", "-pix_fmt", "yuv420p", "-tag:v", "hvc1")


def _x264(parameters: str) -> tuple[str, ...]:
    return (*_X264, "-x264-params", parameters)


def _x265(parameters: str) -> tuple[str, ...]:
    return (*_X265, "-x265-params", f"log-level=none:pools=1:frame-threads=1:{parameters}")


_VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "4", "-crf", "4", "-b:v", "3M", "-g", "20")
_VP9 = ("-c:v", "libvpx-vp9", "-cpu-used", "5", "-crf", "8", "-b:v", "0", "-g", "20")
_SVT = ("-c:v", "libsvtav1", "-preset", "10", "-crf", "12", "-g", "24", "-pix_fmt", "yuv420p")
_AOM = ("-c:v", "libaom-av1", "-cpu-used", "8", "-crf", "12", "-g", "24", "-pix_fmt", "yuv420p", "-threads", "1")
_HIDDEN = ("-auto-alt-ref", "1", "-lag-in-frames", "12")
"""Frames that are never shown, and that others refer to."""
_MPEG2 = ("-c:v", "mpeg2video", "-q:v", "2", "-g", "12")

PICTURES: dict[str, dict[str, tuple[str, ...]]] = {
    "h264": {
        "closed": _x264("keyint=12:bframes=2"),
        "open": _x264("keyint=12:min-keyint=4:bframes=3:open-gop=1"),
        "intra": _x264("keyint=1"),
        "refresh": _x264("keyint=12:intra-refresh=1"),
        "one-key": _x264("keyint=250:bframes=2"),
        "pyramid": _x264("keyint=25:bframes=6:b-pyramid=normal:b-adapt=0"),
        "no-b": _x264("keyint=12:bframes=0"),
    },
    "hevc": {
        "closed": _x265("keyint=12:open-gop=0"),
        "open": _x265("keyint=12:min-keyint=4:open-gop=1"),
        "intra": _x265("keyint=1"),
        "refresh": _x265("keyint=12:intra-refresh=1"),
        "one-key": _x265("keyint=250"),
        "pyramid": _x265("keyint=25:bframes=7:b-adapt=0:b-pyramid=1"),
        "layers": _x265("keyint=24:bframes=7:b-adapt=0:temporal-layers=3"),
        "no-b": _x265("keyint=12:bframes=0"),
    },
    "av1": {"svt": (*_SVT, "-svtav1-params", "lp=1"), "hidden": _AOM},
    "vp8": {"hidden": (*_VP8, *_HIDDEN)},
    "vp9": {"hidden": (*_VP9, *_HIDDEN), "plain": (*_VP9, "-deadline", "realtime", "-auto-alt-ref", "0")},
    "mpeg4": {
        "no-b": ("-c:v", "mpeg4", "-q:v", "2", "-g", "12"),
        "b": ("-c:v", "mpeg4", "-q:v", "2", "-g", "12", "-bf", "2"),
        "packed": ("-c:v", "libxvid", "-q:v", "2", "-g", "12", "-bf", "1"),
    },
    "mpeg2": {
        "open": (*_MPEG2, "-bf", "2"),
        "closed": (*_MPEG2, "-bf", "2", "-flags", "+cgop", "-sc_threshold", "1000000000"),
        "no-b": (*_MPEG2, "-bf", "0"),
    },
    "mpeg1": {"open": ("-c:v", "mpeg1video", "-q:v", "2", "-g", "12", "-bf", "2")},
    "mjpeg": {"intra": ("-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")},
    "prores": {"intra": ("-c:v", "prores_ks", "-profile:v", "1")},
    "prores4444": {"intra": ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le")},
    "ffv1": {"intra": ("-c:v", "ffv1")},
    "png": {"intra": ("-c:v", "png")},
    "wmv1": {"no-b": ("-c:v", "wmv1", "-q:v", "2", "-g", "12")},
    "wmv2": {"no-b": ("-c:v", "wmv2", "-q:v", "2", "-g", "12"), "one-key": ("-c:v", "wmv2", "-q:v", "2", "-g", "250")},
    "msmpeg4": {"no-b": ("-c:v", "msmpeg4", "-q:v", "2", "-g", "12")},
    "flv1": {"no-b": ("-c:v", "flv", "-q:v", "2", "-g", "12")},
    "h263": {"no-b": ("-c:v", "h263", "-q:v", "2", "-g", "12", "-s", "176x144")},
    "theora": {"no-b": ("-c:v", "libtheora", "-q:v", "10", "-g", "12")},
    "gif": {"intra": ("-c:v", "gif")},
}  # fmt: skip
"""By codec and way of referring: all of them give every picture its own number back."""

SOUNDS: dict[str, tuple[str, ...]] = {
    "aac": ("-c:a", "aac", "-b:a", "96k"),
    "ac3": ("-c:a", "ac3", "-b:a", "192k"),
    "eac3": ("-c:a", "eac3", "-b:a", "192k"),
    "alac": ("-c:a", "alac"),
    "flac": ("-c:a", "flac"),
    "mp2": ("-c:a", "mp2", "-b:a", "128k"),
    "mp3": ("-c:a", "libmp3lame", "-b:a", "128k"),
    "opus": ("-c:a", "libopus", "-b:a", "96k"),
    "vorbis": ("-c:a", "libvorbis", "-q:a", "5"),
    "wma": ("-c:a", "wmav2", "-b:a", "128k"),
    "u8": ("-c:a", "pcm_u8"),
    "s16": ("-c:a", "pcm_s16le"),
    "s24": ("-c:a", "pcm_s24le"),
    "s32": ("-c:a", "pcm_s32le"),
    "f32": ("-c:a", "pcm_f32le"),
    "f64": ("-c:a", "pcm_f64le"),
}


def picture(codec: str, way: str = "") -> tuple[str, ...]:
    """Return the options of a codec; the first way where none is named."""
    ways = PICTURES[codec]
    return ways[way or next(iter(ways))]


def sound(codec: str) -> tuple[str, ...]:
    """Return the options of a codec of sound."""
    return SOUNDS[codec]
