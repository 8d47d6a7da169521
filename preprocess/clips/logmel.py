"""Waveform -> log-mel. The one door to torchaudio, imported on use: planning and writing shards needs no torch.

Shape letters: N waveform values, M mel bins, S hops.
"""

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shards.spec import AudioSpec

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LogMel", "transform_version"]


def transform_version() -> str:
    """Return the versions of the libraries that compute the spectrogram, and the revision of what is done here."""
    torchaudio, torch = (version(name).partition("+")[0] for name in ("torchaudio", "torch"))
    return f"torchaudio {torchaudio}, torch {torch}, revision {_REVISION}"


_REVISION = 1
"""Raised by every change of this program that changes a spectrogram, but not the waveform that it is made from."""


class LogMel:
    """Mel power on the scale of a spec, a column per hop, padded with zeros to a fixed number of hops."""

    def __init__(self, spec: AudioSpec) -> None:
        from torchaudio.transforms import MelSpectrogram

        self._spec = spec
        self._mel = MelSpectrogram(
            sample_rate=spec.sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, n_mels=spec.num_mels
        )

    @property
    def max_values(self) -> int:
        """Waveform values that the kept hops can see: a window is centred on its hop."""
        return self._spec.num_hops * self._spec.hop_length + self._spec.n_fft

    def __call__(self, waveform: NDArray[np.float32]) -> tuple[NDArray[np.float16], int]:
        """Transform the start of a waveform.

        Args:
            waveform: `(N,)` float32 at the spec's sample rate, N at least 1.

        Returns:
            `(M, S)` float16 and the number of real hops; the columns after them are zero.
        """
        spec = self._spec
        num_hops = min(1 + len(waveform) // spec.hop_length, spec.num_hops)
        # A window reflects at the ends, so a sound shorter than half of one is padded with silence first.
        padded = np.pad(waveform[: self.max_values], (0, max(0, spec.n_fft - len(waveform))))
        import torch

        with torch.inference_mode():
            power = self._mel(torch.from_numpy(padded))  # (M, hops)
            logmel = self._scaled(power[:, :num_hops]).numpy()
        result = np.zeros(spec.shape, dtype=np.float16)
        result[:, :num_hops] = logmel
        return result, num_hops

    def _scaled(self, power: "Tensor") -> "Tensor":
        """Return `(M, hops)` mel power on the scale of the spec."""
        if self._spec.scale == "log":
            return (power + self._spec.log_epsilon).log()
        return (power - power.mean()) / power.std(unbiased=False).clamp(min=self._spec.log_epsilon)
