"""Files made by ffmpeg out of the drawn pictures and the spoken sound, and what ffmpeg itself reads from them.

Shape letters: T frames, H height, W width, N waveform values.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from tests.support.matrix.drawing import FRAME_RATE, HEIGHT, WIDTH, draw_pictures, speak

__all__ = ["SAMPLE_RATE", "Reference", "Studio", "read_by_ffmpeg", "run_ffmpeg"]

SAMPLE_RATE = 16_000
"""Of sound as it is read, in Hz."""


def run_ffmpeg(*arguments: str | Path, log: str = "error") -> tuple[bytes, str]:
    """Run ffmpeg without asking anything; return what it wrote to its output and to its log."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-v", log, "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.decode(errors='replace')[-2000:]}")
    return done.stdout, done.stderr.decode(errors="replace")


class Studio:
    """A folder with raw pictures and sounds, each written when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def pictures(self, *, height: int = HEIGHT, width: int = WIDTH) -> list[str]:
        """Return ffmpeg's arguments that read the drawn pictures."""
        path = self.folder / f"{width}x{height}.rgb"
        if not path.exists():
            path.write_bytes(draw_pictures(height=height, width=width).tobytes())
        size = ["-pix_fmt", "rgb24", "-video_size", f"{width}x{height}", "-framerate", str(FRAME_RATE)]
        return ["-f", "rawvideo", *size, "-i", str(path)]

    def sound(self, *, num_channels: int = 1, sample_rate: int = 48_000, beeps: bool = True) -> list[str]:
        """Return ffmpeg's arguments that read the spoken sound."""
        path = self.folder / f"{num_channels}-{sample_rate}-{beeps}.f32"
        if not path.exists():
            values = speak(sample_rate=sample_rate, num_channels=num_channels, beeps=beeps)
            path.write_bytes(np.ascontiguousarray(values.T).tobytes())
        return ["-f", "f32le", "-ar", str(sample_rate), "-ac", str(num_channels), "-i", str(path)]

    def encode(
        self,
        path: Path,
        *options: str,
        video: Sequence[str] = (),
        audio: Sequence[str] = (),
        num_channels: int = 1,
        sample_rate: int = 48_000,
        height: int = HEIGHT,
        width: int = WIDTH,
    ) -> None:
        """Encode the pictures, the sound, or both.

        Args:
            path: Where; its ending names the container.
            options: Of the output, behind those of the codecs.
            video: The codec and its options; without them there is no picture.
            audio: The same for the sound.
            num_channels: Of the sound.
            sample_rate: Of the sound, in Hz.
            height: Of the picture.
            width: Of the picture.
        """
        inputs: list[str] = []
        if video:
            inputs += self.pictures(height=height, width=width)
        if audio:
            inputs += self.sound(num_channels=num_channels, sample_rate=sample_rate)
        run_ffmpeg(*inputs, *video, *audio, *options, path)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What ffmpeg reads from a file, on the file's clock: its zero is the earliest start of a stream.

    Attributes:
        frames: `(T, H, W, 3)` uint8, turned as the file says; none without a picture.
        starts: `(T,)` float64 seconds.
        waveform: `(N,)` float32 mono at `SAMPLE_RATE`, gaps and a late start filled with silence; empty without sound.
    """

    frames: NDArray[np.uint8]
    starts: NDArray[np.float64]
    waveform: NDArray[np.float32]


def read_by_ffmpeg(path: Path, *, picture: str = "0:V:0", sound: str = "0:a:0") -> Reference:
    """Let ffmpeg decode a whole file.

    Args:
        path: The file.
        picture: Its stream, as `-map` takes it; empty for none.
        sound: Likewise.
    """
    graph = ["-vf", "showinfo=checksum=0", "-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo"]
    # Gaps filled; 16 bits, for which ffmpeg mixes so that nothing clips.
    filled = ["-af", "aresample=async=1:min_hard_comp=0.06:first_pts=0", "-ac", "1", "-ar", str(SAMPLE_RATE)]
    with TemporaryDirectory() as folder:
        raw_picture, raw_sound = Path(folder, "picture"), Path(folder, "sound")
        outputs: list[str | Path] = []
        # Both in one run, also those that nobody wants: the clock begins with the first of all that is read.
        with av.open(path) as container:
            if container.streams.video:
                outputs += ["-map", picture or "0:v:0", *graph, raw_picture]
            if container.streams.audio:
                outputs += ["-map", sound or "0:a:0", *filled, "-f", "s16le", raw_sound]
        _, log = run_ffmpeg("-i", path, *outputs, log="info")
        shown = re.findall(r"n: *\d+ pts: *\S+ +pts_time: *(\S+) .*? s:(\d+)x(\d+)", log) if picture else []
        frames, starts = np.empty((0, HEIGHT, WIDTH, 3), np.uint8), np.empty(0)
        if shown:
            width, height = int(shown[0][1]), int(shown[0][2])
            frames = np.frombuffer(raw_picture.read_bytes(), np.uint8).reshape(-1, height, width, 3)
            starts = np.array([float(time) for time, _, _ in shown[: len(frames)]])
        values = np.frombuffer(raw_sound.read_bytes() if sound and raw_sound.exists() else b"", "<i2")
    return Reference(frames=frames, starts=starts, waveform=values.astype(np.float32) / np.float32(32_768))
