"""The long-term average spectrum of samples against data, on signals with known spectra."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal

from benchmarks import spectrum

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * RATE))


def test_the_density_is_scipys() -> None:
    wave = np.cumsum(noise(2.0)) * 0.1
    frequencies, density = spectrum.power_density(wave, RATE)
    expected = scipy.signal.welch(wave, RATE, "hann", spectrum.WINDOW, detrend=False)
    np.testing.assert_allclose(frequencies, expected[0])
    np.testing.assert_allclose(density, expected[1], rtol=1e-8)


def test_bands_reach_from_100_hz_to_7_khz() -> None:
    centers, _ = spectrum.third_octave_levels(noise(1.0), RATE)
    assert len(centers) == 19
    assert centers[[0, 10, 18]] == pytest.approx([99.2, 1000.0, 6349.6], rel=1e-3)
    assert spectrum.third_octave_levels(noise(1.0), 8000)[0].max() < 4000.0 * 2 ** (-1 / 6)


def test_white_noise_has_the_power_of_the_widths_of_the_bands() -> None:
    centers, levels = spectrum.third_octave_levels(noise(60.0), RATE)
    widths = centers * (2.0 ** (1 / 6) - 2.0 ** (-1 / 6))
    expected = 10.0 * np.log10(0.01 * widths / (RATE / 2))
    np.testing.assert_allclose(levels, expected, atol=0.5)


@pytest.mark.parametrize("hertz", [125.0, 1000.0, 6300.0])
def test_a_sine_is_in_its_band(hertz: float) -> None:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE)
    centers, levels = spectrum.third_octave_levels(wave, RATE)
    band = int(np.abs(np.log(centers / hertz)).argmin())
    assert levels.argmax() == band
    assert levels[band] == pytest.approx(10.0 * math.log10(0.125), abs=0.1)
    assert (np.delete(levels, band) < levels[band] - 15.0).all()


def test_a_filter_shows_as_its_gain() -> None:
    wave = noise(30.0)
    taps = scipy.signal.firwin(801, 1000.0, fs=RATE)
    low = np.convolve(wave, taps, "same")
    centers, before = spectrum.third_octave_levels(wave, RATE)
    _, after = spectrum.third_octave_levels(wave + low, RATE)
    # Without delay, the sum has twice the amplitude below 1 kHz.
    expected = np.where(centers < 1000.0, 20.0 * math.log10(2.0), 0.0)
    away = np.abs(np.log2(centers / 1000.0)) > 0.5
    np.testing.assert_allclose((after - before)[away], expected[away], atol=0.02)
    _, halved = spectrum.third_octave_levels(0.5 * wave, RATE)
    np.testing.assert_allclose(halved - before, 20.0 * math.log10(0.5), atol=1e-6)


def test_too_short_a_sound() -> None:
    with pytest.raises(SystemExit, match="too few for a spectrum"):
        spectrum.third_octave_levels(np.zeros(100), RATE)


def test_a_run_is_measured(
    tone_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--split", "train", "--seconds", "3", "--voices", "3"]
    monkeypatch.setattr(sys, "argv", ["spectrum", str(tone_run), *options, "--json"])
    spectrum.main()
    result = json.loads(capsys.readouterr().out)
    assert result["seconds"] == pytest.approx(3.0, abs=0.05)
    gaps = np.abs(np.array(result["samples_db"]) - np.array(result["data_db"]))
    assert result["largest_difference_db"] == gaps.max()
    assert result["bands_hz"][int(gaps.argmax())] == result["at_hz"]
    # Tones of 100 to 400 Hz in the data.
    assert 90.0 < result["bands_hz"][int(np.argmax(result["data_db"]))] < 450.0
    monkeypatch.setattr(sys, "argv", ["spectrum", str(tone_run), *options])
    spectrum.main()
    assert "largest difference" in capsys.readouterr().out
