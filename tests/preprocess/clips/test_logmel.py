import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchaudio.functional import melscale_fbanks

from preprocess.clips.logmel import LogMel, transform_version
from preprocess.config import PreprocessConfig
from shards.spec import AudioSpec


def make_spec(*, num_hops: int = 40, num_mels: int = 64, n_fft: int = 1024, hop_length: int = 512) -> AudioSpec:
    config = PreprocessConfig(num_hops=num_hops, num_mels=num_mels, n_fft=n_fft, hop_length=hop_length)
    return config.audio_spec(decoder_version="1", transform_version="1")


def noise(num_values: int, *, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(scale=0.1, size=num_values).astype(np.float32)


def logmel_by_numpy(waveform: NDArray[np.float32], spec: AudioSpec) -> NDArray[np.float64]:
    """Compute `(M, hops)` of a whole waveform: periodic Hann window, centred on its hop, reflected at both ends."""
    padded = np.pad(waveform.astype(np.float64), (0, max(0, spec.n_fft - len(waveform))))
    padded = np.pad(padded, spec.n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.n_fft) / spec.n_fft)
    num_hops = 1 + len(waveform) // spec.hop_length
    windows = [padded[hop * spec.hop_length :][: spec.n_fft] * window for hop in range(num_hops)]
    power = np.abs(np.fft.rfft(windows)) ** 2  # (hops, bins)
    mel = melscale_fbanks(spec.n_fft // 2 + 1, 0.0, spec.sample_rate / 2, spec.num_mels, spec.sample_rate)
    result: NDArray[np.float64] = np.log(power @ mel.double().numpy() + spec.log_epsilon).T
    return result


@pytest.mark.parametrize("num_values", [1, 300, 511, 512, 600, 1023, 1024, 1025, 5000, 16_000])
@pytest.mark.parametrize("changes", [{}, {"num_mels": 40, "n_fft": 512, "hop_length": 160}], ids=["default", "other"])
def test_it_is_what_numpy_computes(num_values: int, changes: dict[str, int]) -> None:
    spec = make_spec(num_hops=120, **changes)
    waveform = noise(num_values)
    result, num_hops = LogMel(spec)(waveform)
    expected = logmel_by_numpy(waveform, spec)
    assert num_hops == expected.shape[1] == 1 + num_values // spec.hop_length
    # 2^-7 is half a step of a float16 from 8 to 16.
    np.testing.assert_allclose(result[:, :num_hops].astype(np.float64), expected, atol=2**-7 + 1e-3, rtol=0)


def test_columns_after_the_sound_are_zero() -> None:
    spec = make_spec(num_hops=40)
    result, num_hops = LogMel(spec)(noise(5 * 512))
    assert result.shape == spec.shape == (64, 40)
    assert result.dtype == np.float16
    assert num_hops == 6
    assert not result[:, 6:].any()
    assert result[:, :6].all()


@settings(max_examples=30, deadline=None)
@given(num_values=st.integers(1, 30_000))
def test_the_number_of_hops_follows_from_the_length_and_has_a_limit(num_values: int) -> None:
    result, num_hops = LogMel(make_spec(num_hops=20))(noise(num_values))
    assert num_hops == min(1 + num_values // 512, 20)
    assert np.isfinite(result).all()


def test_one_value_of_sound_is_enough() -> None:
    result, num_hops = LogMel(make_spec())(np.array([0.5], np.float32))
    assert num_hops == 1
    assert np.isfinite(result).all()


def test_silence_is_the_logarithm_of_epsilon() -> None:
    spec = make_spec()
    result, num_hops = LogMel(spec)(np.zeros(2048, np.float32))
    np.testing.assert_allclose(result[:, :num_hops], np.log(spec.log_epsilon), atol=2**-7)


@pytest.mark.parametrize("hop_length", [512, 160], ids=["default", "windows over several hops"])
@pytest.mark.parametrize("extra", [0, 1, 511, 20_000])
def test_of_a_long_sound_the_hops_are_those_of_the_whole(extra: int, hop_length: int) -> None:
    spec = make_spec(num_hops=10, hop_length=hop_length)
    transform = LogMel(spec)
    waveform = noise(transform.max_values + extra)
    result, num_hops = transform(waveform)
    assert num_hops == 10
    expected = logmel_by_numpy(waveform, spec)[:, :10]
    np.testing.assert_allclose(result.astype(np.float64), expected, atol=2**-7 + 1e-3, rtol=0)


def test_what_the_kept_hops_cannot_see_does_not_change_them() -> None:
    transform = LogMel(make_spec(num_hops=10))
    waveform = noise(transform.max_values + 5000)
    np.testing.assert_array_equal(transform(waveform)[0], transform(waveform[: transform.max_values])[0])


def test_a_waveform_is_left_as_it_was() -> None:
    waveform = noise(100)
    before = waveform.copy()
    LogMel(make_spec())(waveform)
    np.testing.assert_array_equal(waveform, before)


def test_the_transform_version_names_torchaudio_torch_and_what_is_done_here() -> None:
    assert re.fullmatch(r"torchaudio \d+\.\d+\.\d+, torch \d+\.\d+\.\d+, revision \d+", transform_version())


def test_standardised_power_has_mean_zero_and_deviation_one_over_the_clip_and_no_logarithm() -> None:
    spec = replace(make_spec(num_hops=100), scale="standardised-power")
    waveform = noise(16_000)
    power, num_hops = LogMel(spec)(waveform)
    assert num_hops == 32
    real = power[:, :num_hops].astype(np.float64)
    assert real.mean() == pytest.approx(0, abs=1e-3)
    assert real.std() == pytest.approx(1, abs=1e-3)
    logmel, _ = LogMel(replace(spec, scale="log"))(waveform)
    values = np.exp(logmel[:, :num_hops].astype(np.float64))
    assert np.corrcoef(values.ravel(), real.ravel())[0, 1] > 0.999


def test_standardised_power_of_next_to_nothing_is_finite() -> None:
    spec = replace(make_spec(), scale="standardised-power")
    power, _ = LogMel(spec)(np.full(16_000, 1e-9, np.float32))
    assert np.isfinite(power).all()
