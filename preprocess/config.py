"""What one preprocessing run does, and what a demo data set is like."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from shards.schema import DEFAULT_TEXT_ENCODER
from shards.spec import AudioSpec, Sampling, Scale, Storage, VideoSpec

__all__ = [
    "DRAWN_HEIGHT",
    "DatasetFormat",
    "Decoder",
    "DemoConfig",
    "Part",
    "PreprocessConfig",
    "Preset",
    "TestClips",
    "max_tokens_for",
    "preset",
]

DatasetFormat = Literal["auto", "meld", "emorynlp", "csv"]
Preset = Literal["default", "tutorial"]
Decoder = Literal["decord", "pyav"]
TestClips = Literal["auto", "corrected", "plain"]

DRAWN_HEIGHT = 90
"""Rows in which a picture of the demo is drawn, before it is enlarged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """How large a demo data set is and which one of its kind."""

    num_utterances: int = 800
    """All splits together: half of them train, 1/6 dev, 1/3 test, so that a score on test tells something."""
    seed: int = 0
    """Chooses every label, word, sound and picture."""
    height: int = 180
    """Rows of pixels of a clip, 16 columns to 9 rows; 720 as in MELD."""
    num_workers: int = 2
    """Processes that encode clips; changes no byte."""

    def __post_init__(self) -> None:
        if self.num_utterances < 18:
            # Fewer would leave dev and test without a dialogue of the shortest length.
            raise ValueError(f"num_utterances must be at least 18, got {self.num_utterances}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.height < 1 or self.height % (2 * DRAWN_HEIGHT):
            raise ValueError(f"height must be a multiple of {2 * DRAWN_HEIGHT}, got {self.height}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessConfig:
    """Choices of a run. Those that decide bytes end up in the `FeatureSpec` of the shards."""

    num_frames: int = 16
    """Frames per clip, evenly spaced in time over the whole clip; a shorter clip repeats its last one."""
    height: int = 112
    """Height of a frame in pixels; the whole picture is scaled to it, nothing is cropped."""
    width: int = 112
    """Width of a frame in pixels."""
    sampling: Sampling = "uniform-time"
    """Frames that are taken: evenly spaced over the whole clip, or the `first` ones, as tutorials take them."""
    storage: Storage = "raw"
    """Form of the frames: `raw` values, or one `jpeg` per sample, which is smaller and has to be decoded while
    training."""
    jpeg_quality: int = 90
    """JPEG quality, 1 to 100; without effect on raw storage."""
    num_hops: int = 300
    """Columns of the log-mel kept from the start of the sound; 300 are 9.6 s."""
    sample_rate: int = 16_000
    """Rate of the mono waveform, in Hz."""
    n_fft: int = 1024
    """Window of the spectrogram, in waveform values."""
    hop_length: int = 512
    """Distance of two columns of the spectrogram, in waveform values."""
    num_mels: int = 64
    """Rows of the log-mel."""
    scale: Scale = "log"
    """Scale of the spectrogram: the natural logarithm of mel power, or the power less its mean and by its deviation."""
    log_epsilon: float = 1e-6
    """Added to the power before the logarithm, so that digital silence is finite."""
    text_encoder: str = DEFAULT_TEXT_ENCODER
    """Text encoder whose tokenizer is taken: a Hugging Face name, a local folder, or `scratch` for one learned from the
    training texts."""
    max_tokens: int = 128
    """Tokens kept of a transcript, special tokens included. MELD's longest has 95 (bert-base-uncased). On the command
    line and in files, where it is left out, 32 for each of `context_utterances` and one more, if that is above 128."""
    context_utterances: int = 0
    """Earlier utterances of the dialogue whose lines stand before an utterance's own in its tokens; 0 for none."""
    samples_per_shard: int = 128
    """Rows in a shard; fixed, so that the plan of a split does not depend on what decoding finds."""
    test_clips: TestClips = "auto"
    """File of a test row with a `final_videos_test*` twin: the one whose duration fits the annotation better, the twin
    (`corrected`), or never the twin (`plain`)."""
    decoder: Decoder = "decord"
    """`decord` decodes every frame, and PyAV takes over where it refuses, crashes, hangs or is known to be wrong;
    `pyav` alone decodes only what the chosen frames need. Both choose the same frames and scale them alike."""
    clip_timeout_seconds: float = 60.0
    """Seconds after which a clip's decoder is killed, and 10 more per megabyte of the file."""
    max_failed_fraction: float = 0.1
    """Fraction of a split's rows without picture above which it is refused: a wrong folder, not a few bad clips."""

    def __post_init__(self) -> None:
        for name in (
            "num_frames", "height", "width", "num_hops", "sample_rate", "n_fft", "hop_length", "num_mels",
            "samples_per_shard",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_tokens < 3:
            raise ValueError(
                f"max_tokens must leave room for one token between two special ones, got {self.max_tokens}"
            )
        if self.context_utterances < 0:
            raise ValueError(f"context_utterances must not be negative, got {self.context_utterances}")
        for name in ("log_epsilon", "clip_timeout_seconds"):
            if not (getattr(self, name) > 0 and isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be a number above 0, got {getattr(self, name)}")
        if (frame_bytes := 3 * self.num_frames * self.height * self.width) > 2**30:
            raise ValueError(f"frames of one sample would take {frame_bytes / 1e9:.1f} GB; the most is 1.07 GB")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ValueError(f"max_failed_fraction must be from 0 to 1, got {self.max_failed_fraction}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be from 1 to 100, got {self.jpeg_quality}")
        if self.storage == "jpeg" and max(self.num_frames * self.height, self.width) > 65_535:
            raise ValueError(
                f"{self.num_frames} frames of {self.height}x{self.width} are too many for one JPEG of at most 65,535 "
                "pixels: take fewer or smaller frames, or raw storage"
            )
        for name, choices in (
            ("sampling", Sampling), ("storage", Storage), ("scale", Scale), ("decoder", Decoder),
            ("test_clips", TestClips),
        ):  # fmt: skip
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {getattr(self, name)!r}")

    def video_spec(self, *, decoder_version: str, encoder_version: str) -> VideoSpec:
        """Return how frames are made under this config."""
        jpeg = self.storage == "jpeg"
        return VideoSpec(
            num_frames=self.num_frames,
            height=self.height,
            width=self.width,
            sampling=self.sampling,
            storage=self.storage,
            jpeg_quality=self.jpeg_quality if jpeg else 0,
            decoder=self.decoder,
            decoder_version=decoder_version,
            encoder_version=encoder_version if jpeg else "",
        )

    def audio_spec(self, *, decoder_version: str, transform_version: str) -> AudioSpec:
        """Return how log-mels are made under this config."""
        return AudioSpec(
            num_mels=self.num_mels,
            num_hops=self.num_hops,
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            scale=self.scale,
            log_epsilon=self.log_epsilon,
            downmix="itu",
            decoder=self.decoder,
            decoder_version=decoder_version,
            transform_version=transform_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of several runs, on any machines, that share the shards of a data set among them."""

    number: int = 1
    """From 1."""
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"a part is i/n with 1 <= i <= n, got {self.number}/{self.count}")

    def makes(self, shard_index: int) -> bool:
        """Whether the shard with this number, from 0, is this part's. They take turns, so that all end together."""
        return shard_index % self.count == self.number - 1


def max_tokens_for(context_utterances: int) -> int:
    """Return how many tokens hold the lines of so many earlier utterances and of the one to judge.

    32 for each of them; never fewer than without any, and never more than BERT's and RoBERTa's 512 positions. With
    BERT's tokenizer, 0.12 % of MELD's rows then lose their oldest line at 3 earlier utterances and 0.01 % at 5.
    """
    return min(512, max(PreprocessConfig().max_tokens, 32 * (1 + context_utterances)))


def preset(name: Preset) -> PreprocessConfig:
    """Return the choices of a preset.

    `tutorial` is what the widely copied notebooks feed to r3d_18 (docs/preprocessing.md): the first 30 frames at
    224x224, black where a clip is shorter, and 300 hops of mel power without a logarithm, standardised per clip.
    """
    if name == "tutorial":
        return PreprocessConfig(
            num_frames=30, height=224, width=224, sampling="first", num_hops=300, scale="standardised-power"
        )
    return PreprocessConfig()
