"""A source-filter voice: glottal pulses through moving formant resonators.

The source is the glottal flow derivative of Klatt and Klatt (JASA 87, 1990), with jitter, shimmer,
aspiration and a spectral tilt; the filter is their cascade of formant resonators. Vowel targets are
the means that Peterson and Barney measured (JASA 24, 1952). Times are in seconds, frequencies in
Hz; all utterances are synthesized side by side, sample by sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

Track = NDArray[np.float64]

RATE = 16_000
OVERSAMPLING = 2
CONTROL_RATE = 500
"""Control tracks (pitch, formants, amplitudes) have so many values, ticks, a second."""

HIGHEST_PITCH = 1000.0
CYCLES_PER_TICK = 3
"""More glottal cycles than a tick can hold at the highest pitch: draws for each are set aside."""

JITTER_SAMPLES = 128

VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (270.0, 2290.0, 3010.0),
    "I": (390.0, 1990.0, 2550.0),
    "E": (530.0, 1840.0, 2480.0),
    "ae": (660.0, 1720.0, 2410.0),
    "a": (730.0, 1090.0, 2440.0),
    "O": (570.0, 840.0, 2410.0),
    "U": (440.0, 1020.0, 2240.0),
    "u": (300.0, 870.0, 2240.0),
    "V": (640.0, 1190.0, 2390.0),
    "3": (490.0, 1350.0, 1690.0),
}
"""First three formants of a man's vowels, Peterson and Barney (1952), table II."""

HIGHER_FORMANTS = (3400.0, 4300.0)
BANDWIDTHS = (60.0, 85.0, 120.0, 180.0, 250.0)
FORMANTS = len(BANDWIDTHS)


@dataclass(frozen=True)
class Speaker:
    """Who speaks: mean pitch (Hz), vocal tract (factor on all formants), breathiness."""

    pitch: float
    tract: float
    breath: float


SYLLABLE = {
    "consonant": (0, 20),
    "closure": (15, 31),
    "burst": (4, 10),
    "onset": (2, 16),
    "fricative": (30, 66),
    "first": (0, len(VOWELS)),
    "last": (0, len(VOWELS)),
    "vowel": (45, 131),
    "glide": (0, 20),
    "pauses": (0, 20),
    "pause": (30, 81),
    "gap": (0, 16),
}
"""Whole numbers of a syllable, lowest and first not taken: durations in ticks, vowels, and chances
of 20 (consonant: below 5 a fricative, below 12 a stop; glide below 7; pauses below 5)."""

KINDS = {
    "man": Speaker(115.0, 1.0, 0.03),
    "woman": Speaker(205.0, 1.17, 0.06),
    "child": Speaker(270.0, 1.32, 0.05),
}


@dataclass(frozen=True, eq=False)
class Score:
    """The control tracks of one utterance, each (C,) or (C, 5), at :data:`CONTROL_RATE`.

    Attributes:
        pitch: fundamental frequency.
        voice: amplitude of voicing.
        breath: amplitude of aspiration noise.
        hiss: amplitude of fricative noise.
        hiss_center: its center frequency.
        formants: (C, 5).
    """

    pitch: Track
    voice: Track
    breath: Track
    hiss: Track
    hiss_center: Track
    formants: Track


def compose(seed: np.random.SeedSequence, count: int) -> Score:
    """Draw an utterance of ``count`` ticks: a speaker, syllables, a pitch contour.

    Only whole numbers decide how many numbers are drawn and where a sound begins; they come from
    a stream of their own. Floating-point numbers that another machine rounds otherwise therefore
    change a sound by as little, and never shift the draws that follow.
    """
    structure, levels, drift = (np.random.default_rng(s) for s in seed.spawn(3))
    speaker = _speaker(structure, levels)
    voice, hiss, breath = np.zeros(count), np.zeros(count), np.zeros(count)
    center = np.full(count, 4000.0)
    formants = np.tile(_target(int(structure.integers(len(VOWELS))), levels, speaker), (count, 1))
    accent = np.zeros(count)
    position = int(structure.integers(10, 31))
    while position < count:
        syllable = _syllable(structure)
        position = _consonant(syllable, levels, position, hiss, center)
        end = position + syllable["vowel"]
        span = slice(position, min(end, count))
        here = max(0, span.stop - span.start)
        first = _target(syllable["first"], levels, speaker)
        last = _target(syllable["last"], levels, speaker)
        loudness, breathing, rise = levels.uniform((0.6, 0.5, 0.0), (1.0, 1.5, 0.12))
        # A third of the vowels glide to another one, the rest stay.
        glides = syllable["glide"] < 7
        glide = np.linspace(0.0, 1.0, here)[:, None] if glides else 0.0
        formants[position:] = last if glides else first
        formants[span] = first + glide * (last - first)
        voice[span] = loudness
        breath[span] = speaker.breath * breathing
        accent[span] = levels.normal(0.0, 0.10) + rise * np.sin(np.linspace(0.0, np.pi, here))
        position = span.stop + syllable["pause" if syllable["pauses"] < 5 else "gap"]
    fade = _edges(count)
    return Score(
        pitch=_pitch(drift, speaker, _smooth(accent, 0.08)),
        voice=_smooth(voice, 0.03) * fade,
        breath=_smooth(breath, 0.03) * fade,
        hiss=_smooth(hiss, 0.012) * fade,
        hiss_center=_smooth(center, 0.03),
        # The tract moves slower than the voice starts: neighbors color each other.
        formants=np.stack([_smooth(formants[:, k], 0.07) for k in range(FORMANTS)], axis=1),
    )


def synthesize(
    scores: Sequence[Score], seeds: Sequence[np.random.SeedSequence]
) -> list[NDArray[np.float32]]:
    """Sing several scores side by side; waveforms at :data:`RATE`, peaks below 1.

    A waveform depends on its own score and seed, not on the others (but for rounding).
    """
    rate = RATE * OVERSAMPLING
    factor = rate // CONTROL_RATE
    count = max(len(score.pitch) for score in scores)
    sources = [_draw(seed, len(s.pitch), factor) for s, seed in zip(scores, seeds, strict=True)]

    def track(name: str) -> Track:
        padded = [_pad(getattr(score, name), count) for score in scores]
        return np.repeat(np.stack(padded), factor, axis=1)

    noise = np.stack([_pad(source.noise, count * factor) for source in sources])
    pulses, opened = _glottis(track("pitch"), sources)
    # Breath is drawn in while the glottis is open: noise follows the pulse.
    source = track("voice") * pulses + track("breath") * noise * (0.3 + 0.7 * opened)
    voiced = _cascade(source, np.stack([_pad(s.formants, count) for s in scores]), rate, factor)
    hissed = _hiss(noise, np.stack([_pad(s.hiss_center, count) for s in scores]), rate, factor)
    sound = voiced + 0.3 * track("hiss") * hissed
    return [
        _finish(sound[i, : len(score.pitch) * factor], sources[i]) for i, score in enumerate(scores)
    ]


@dataclass(frozen=True, eq=False)
class _Source:
    """Random numbers of one utterance of n samples at the higher rate.

    Attributes:
        noise: (n,), of breath and hiss.
        jitter: factors on the pitch, one for :data:`JITTER_SAMPLES` samples.
        shimmer: factors on the amplitude of each glottal cycle, more than there can be.
        phase: of the first cycle, in [0, 1).
        level: standard deviation of the waveform.
        room: noise of the room at :data:`RATE`, (n / 2 + 2,).
    """

    noise: Track
    jitter: Track
    shimmer: Track
    phase: float
    level: float
    room: Track


def _draw(seed: np.random.SeedSequence, count: int, factor: int) -> _Source:
    streams = (np.random.default_rng(child) for child in seed.spawn(5))
    noise, jitter, shimmer, single, room = streams
    samples = count * factor
    return _Source(
        noise=noise.standard_normal(samples),
        jitter=jitter.normal(1.0, 0.012, samples // JITTER_SAMPLES + 1),
        shimmer=shimmer.normal(1.0, 0.05, count * CYCLES_PER_TICK),
        phase=single.uniform(0.0, 1.0),
        level=single.uniform(0.06, 0.10),
        room=room.standard_normal(samples // OVERSAMPLING + 2),
    )


def _syllable(structure: np.random.Generator) -> dict[str, int]:
    """The whole numbers of a syllable, each in its range of :data:`SYLLABLE`."""
    low, high = zip(*SYLLABLE.values(), strict=True)
    return dict(zip(SYLLABLE, structure.integers(low, high).tolist(), strict=True))


def _speaker(structure: np.random.Generator, levels: np.random.Generator) -> Speaker:
    lot = int(structure.integers(20))
    kind = KINDS["man" if lot < 9 else "woman" if lot < 17 else "child"]
    pitch, tract, breath = levels.uniform((0.85, 0.95, 0.5), (1.2, 1.05, 1.5))
    return Speaker(kind.pitch * pitch, kind.tract * tract, kind.breath * breath)


def _target(vowel: int, levels: np.random.Generator, speaker: Speaker) -> Track:
    formants = np.array([*list(VOWELS.values())[vowel], *HIGHER_FORMANTS]) * speaker.tract
    return np.minimum(formants * levels.normal(1.0, 0.02, FORMANTS), 0.45 * RATE)


def _consonant(
    syllable: dict[str, int],
    levels: np.random.Generator,
    position: int,
    hiss: Track,
    center: Track,
) -> int:
    """Write a fricative, a stop, or nothing; return where the vowel starts."""
    fricative, burst, hertz = levels.uniform((0.15, 0.3, 2500.0), (0.45, 0.8, 6500.0))
    if syllable["consonant"] >= 12:
        return position
    stop = syllable["consonant"] >= 5
    begin = position + (syllable["closure"] if stop else 0)
    end = begin + syllable["burst" if stop else "fricative"]
    hiss[begin:end] = burst if stop else fricative
    center[begin:end] = hertz
    # After a stop the voice waits a moment (voice onset time).
    return end + (syllable["onset"] if stop else 0)


def _pitch(random: np.random.Generator, speaker: Speaker, accent: Track) -> Track:
    """Hz, at most :data:`HIGHEST_PITCH`."""
    count = len(accent)
    declination = np.linspace(0.08, -0.14, count)
    drift = _smooth(random.standard_normal(count), 0.15)
    drift *= 0.03 / max(float(drift.std()), 1e-9)
    return np.minimum(speaker.pitch * np.exp(declination + accent + drift), HIGHEST_PITCH)


def _glottis(pitch: Track, sources: Sequence[_Source]) -> tuple[Track, Track]:
    """Flow derivative of the glottis and how far it is open, each (U, N)."""
    rate = RATE * OVERSAMPLING
    samples = pitch.shape[1]
    jitter = np.stack([_pad(s.jitter, samples // JITTER_SAMPLES + 1) for s in sources])
    jitter = np.repeat(jitter, JITTER_SAMPLES, axis=1)[:, :samples]
    phase = np.cumsum(pitch * jitter / rate, axis=1) + np.array([[s.phase] for s in sources])
    cycle = phase.astype(np.int64)
    quotient = 0.6
    within = np.minimum((phase - cycle) / quotient, 1.0)
    # KLGLOTT88: flow u^2 - u^3 while open, so its derivative is 2 u - 3 u^2 and then nothing.
    pulses = (2.0 * within - 3.0 * within**2) * (within < 1.0)
    shimmer = np.stack([_pad(s.shimmer, max(len(s.shimmer) for s in sources)) for s in sources])
    pulses = pulses * np.take_along_axis(shimmer, cycle, axis=1)
    return _tilt(pulses), within**2 * (1.0 - within) * 6.75


def _tilt(pulses: Track, pole: float = 0.6) -> Track:
    """A one-pole low-pass: a voice loses about 12 dB an octave, the bare pulse less."""
    kernel = (1.0 - pole) * pole ** np.arange(48)
    size = pulses.shape[1] + len(kernel)
    spectrum = np.fft.rfft(pulses, size) * np.fft.rfft(kernel, size)
    return np.fft.irfft(spectrum, size)[:, : pulses.shape[1]]


def _cascade(source: Track, formants: Track, rate: int, factor: int) -> Track:
    """The source (U, N) through five moving resonators in a row; formants (U, C, 5)."""
    gain, first, second = _resonators(formants, np.array(BANDWIDTHS), rate)
    out = np.empty_like(source)
    # Resonator k works on the sample that resonator k - 1 gave one sample ago: all five at once.
    last, before = np.zeros((FORMANTS, len(source))), np.zeros((FORMANTS, len(source)))
    entering = np.zeros_like(last)
    for n in range(source.shape[1]):
        entering[1:] = last[:-1]
        entering[0] = source[:, n]
        c = n // factor
        now = gain[c] * entering + first[c] * last + second[c] * before
        before, last = last, now
        out[:, n] = now[-1]
    return out


def _hiss(noise: Track, center: Track, rate: int, factor: int) -> Track:
    """Noise (U, N) through one wide moving resonator at the center frequencies (U, C)."""
    gain, first, second = _resonators(center[..., None], np.array([900.0]), rate)
    out = np.empty_like(noise)
    last, before = np.zeros(len(noise)), np.zeros(len(noise))
    for n in range(noise.shape[1]):
        c = n // factor
        now = gain[c, 0] * noise[:, n] + first[c, 0] * last + second[c, 0] * before
        before, last = last, now
        out[:, n] = now
    return out


def _resonators(frequency: Track, bandwidth: Track, rate: int) -> tuple[Track, Track, Track]:
    """Coefficients (C, K, U) of y_n = a x_n + b y_{n-1} + c y_{n-2}, unit gain at 0 Hz."""
    radius = np.exp(-np.pi * bandwidth / rate)
    second = np.broadcast_to(-(radius**2), frequency.shape)
    first = 2.0 * radius * np.cos(2.0 * np.pi * frequency / rate)
    turned = [np.ascontiguousarray(v.transpose(1, 2, 0)) for v in (first, second)]
    return 1.0 - turned[0] - turned[1], turned[0], turned[1]


def _finish(sound: Track, source: _Source) -> NDArray[np.float32]:
    """Down to :data:`RATE`, levelled, in a quiet room."""
    waveform = soxr.resample(sound, RATE * OVERSAMPLING, RATE)
    waveform = waveform * (source.level / max(float(waveform.std()), 1e-9))
    waveform = waveform + 5e-4 * np.convolve(source.room, (0.25, 0.5, 0.25), "valid")
    return np.clip(waveform, -0.99, 0.99).astype(np.float32)


def _smooth(track: Track, seconds: float) -> Track:
    """Average over a Hann window of that length, ends held."""
    width = max(3, round(seconds * CONTROL_RATE) | 1)
    window: Track = np.hanning(width + 2)[1:-1]
    padded = np.pad(track, width // 2, mode="edge")
    return np.asarray(np.convolve(padded, window / window.sum(), "valid"), dtype=np.float64)


def _edges(count: int) -> Track:
    """Silence at both ends of an utterance, with soft shoulders."""
    fade = np.ones(count)
    quiet = round(0.02 * CONTROL_RATE)
    fade[:quiet] = fade[-quiet:] = 0.0
    return _smooth(fade, 0.04)


def _pad(track: Track, count: int) -> Track:
    missing = count - len(track)
    return np.pad(track, ((0, missing), *((0, 0),) * (track.ndim - 1)), mode="edge")
