"""Long-term average spectrum of samples and data: ``python -m benchmarks.spectrum RUN``.

Samples a minute of sound from a run, and prints the level of samples and recordings in third-octave
bands from 100 Hz to 7 kHz, in dB of full scale, with the largest difference. ``--temperature`` and
``--output-noise`` are those of ``zpyro sample``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.analysis import load_run, sample
from zpyro.analysis.loading import LoadedRun
from zpyro.errors import UserError

Array = NDArray[np.float64]

WINDOW = 4096
"""Samples in a window of the spectrum: 4 Hz apart at 16 kHz, where the lowest band has 23 Hz."""
LOWEST, HIGHEST = 100.0, 7_200.0
"""Bands lie between these frequencies, Hz, but for rounding; the last one ends at 7,127 Hz."""
SILENCE = 1e-20
"""Added to powers, whose logarithm is taken: -200 dB."""


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", choices=["train", "valid", "test"], default="test")
    parser.add_argument("--seconds", type=float, default=60.0, help="of samples in all")
    parser.add_argument("--voices", type=int, default=12, help="sequences that share the seconds")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--output-noise", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not (options.seconds > 0 and options.voices > 0 and options.temperature > 0):
        parser.error("seconds, voices and temperature must be above 0")
    if not 0 <= options.output_noise <= 1:
        parser.error("--output-noise must be from 0 to 1")
    try:
        result = measure(load_run(options.run), options)
    except UserError as error:
        parser.error(str(error))
    print(json.dumps(result) if options.json else _table(result))


def measure(loaded: LoadedRun, options: argparse.Namespace) -> dict[str, Any]:
    """Levels of samples and recordings by band, and their largest difference, dB."""
    sequences, size = loaded.split(options.split), loaded.model.likelihood.size
    rate = sequences.sample_rate
    if rate is None:
        raise SystemExit(f"{options.run}: its data are no sound; choose another run")
    frames = max(1, round(options.seconds * rate / options.voices / size))
    sampled = sample(
        loaded.checkpoint,
        options.voices,
        frames,
        seed=options.seed,
        temperature=options.temperature,
        output_noise=options.output_noise,
    )
    # Rows of one recording follow each other, so joints are few.
    recorded = np.concatenate([np.asarray(value).reshape(-1) for value in sequences.values])
    recorded = sequences.normalization.invert(recorded)
    centers, of_data = third_octave_levels(recorded, rate)
    _, of_samples = third_octave_levels(sampled.reshape(-1), rate)
    difference = of_samples - of_data
    return {
        "seconds": sampled.size / rate,
        "seconds_of_data": recorded.size / rate,
        "bands_hz": centers.tolist(),
        "data_db": of_data.tolist(),
        "samples_db": of_samples.tolist(),
        "largest_difference_db": float(np.abs(difference).max()),
        "at_hz": float(centers[np.abs(difference).argmax()]),
    }


def third_octave_levels(waveform: NDArray[Any], rate: int) -> tuple[Array, Array]:
    """Centers of third-octave bands (K,), Hz, and the mean power in each, dB of full scale.

    The spectrum is Welch's: the average over Hann windows that overlap by half. Band k reaches
    from 1000 * 2^((k - 1/2) / 3) to 1000 * 2^((k + 1/2) / 3) Hz (IEC 61260). Bands that reach
    beyond half the sample rate are left out. A sine of amplitude a has the level 10 log10(a^2 / 2).

    Args:
        waveform: (N,), at least one window.
        rate: samples a second.
    """
    frequencies, density = power_density(waveform, rate)
    numbers = np.arange(-10, 9)
    centers = 1000.0 * 2.0 ** (numbers / 3.0)
    low, high = centers * 2.0 ** (-1.0 / 6.0), centers * 2.0 ** (1.0 / 6.0)
    kept = high <= min(HIGHEST, rate / 2.0)
    # Power below a frequency, with bins as wide as their distance: narrow bands cut through bins.
    step = frequencies[1]
    edges = np.append(frequencies - 0.5 * step, frequencies[-1] + 0.5 * step)
    below = np.append(0.0, np.cumsum(density) * step)
    power = np.interp(high, edges, below) - np.interp(low, edges, below)
    return centers[kept], 10.0 * np.log10(power[kept] + SILENCE)


def power_density(waveform: NDArray[Any], rate: int) -> tuple[Array, Array]:
    """Frequencies (WINDOW / 2 + 1,), Hz, and the one-sided power per Hz at each."""
    if len(waveform) < WINDOW:
        raise SystemExit(f"{len(waveform)} samples are too few for a spectrum; give {WINDOW}")
    window = np.hanning(WINDOW + 1)[:-1]
    starts = range(0, len(waveform) - WINDOW + 1, WINDOW // 2)
    powers = np.zeros(WINDOW // 2 + 1, np.float64)
    for start in starts:
        part = np.asarray(waveform[start : start + WINDOW], np.float64)
        powers += np.abs(np.fft.rfft(window * part)) ** 2
    density = 2.0 * powers / (len(starts) * rate * np.square(window).sum())
    density[[0, -1]] /= 2.0
    return np.asarray(np.fft.rfftfreq(WINDOW, 1.0 / rate), np.float64), density


def _table(result: dict[str, Any]) -> str:
    lines = ["    band, Hz   data, dB   samples, dB   difference, dB"]
    rows = zip(result["bands_hz"], result["data_db"], result["samples_db"], strict=True)
    lines += [f"{hz:12,.0f} {a:10.1f} {b:13.1f} {b - a:+16.1f}" for hz, a, b in rows]
    lines.append(
        f"largest difference {result['largest_difference_db']:.1f} dB at "
        f"{result['at_hz']:,.0f} Hz; {result['seconds']:.0f} s of samples, "
        f"{result['seconds_of_data']:.0f} s of data"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
