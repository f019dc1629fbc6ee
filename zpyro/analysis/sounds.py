"""Sequences as sound: recordings as they are, piano rolls by a small synthesizer."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from zpyro.analysis.selection import OnNote
from zpyro.datasets.formats import audio, midi
from zpyro.io import files
from zpyro.training.checkpoint import DataSpec

RATE = 22_050
"""Samples a second of synthesized sound."""
PEAK = 0.8
"""Largest sample of synthesized sound, full scale 1."""
PARTIALS = 12
"""Of each note at most, those below :data:`HIGHEST` times the sample rate."""
HIGHEST = 0.45
ATTACK, RELEASE = 0.008, 0.06
"""Seconds in which a note rises, and in which it fades after its end."""
REVERBERANT_SECONDS = 1.5
"""After so long a note of 440 Hz has a tenth of its first amplitude; higher ones fade faster."""
COMPRESSED = (("MP3", "MPEG_LAYER_III", "audio/mpeg"), ("FLAC", "PCM_16", "audio/flac"))
"""Container, coding and media type of sounds within a page; the first one loses detail."""
NOTE_ON = 0.5
"""A note sounds where its value, or probability, is above this."""


def has_sound(data: DataSpec) -> bool:
    """Whether sequences of these data can be heard."""
    return data.sample_rate is not None or data.steps_per_quarter is not None


def frames_per_second(data: DataSpec, frame_size: int) -> float:
    """Of data that can be heard."""
    if data.steps_per_quarter is not None:
        return data.steps_per_quarter * midi.TEMPO / 60.0
    assert data.sample_rate is not None
    return data.sample_rate / frame_size


def waveform_of(data: DataSpec, values: np.ndarray) -> tuple[NDArray[np.float32], int]:
    """Samples (N,) and their rate: those of a recording, or a roll (T, 88) as a piano plays it.

    Args:
        data: what the sequence is.
        values: raw frames.
    """
    if data.steps_per_quarter is not None:
        return synthesize(values > NOTE_ON, data.steps_per_quarter), RATE
    assert data.sample_rate is not None
    return np.asarray(values, np.float32).reshape(-1), data.sample_rate


def write_sound(
    path: Path,
    data: DataSpec,
    values: np.ndarray,
    on_note: OnNote | None = None,
    dither: np.random.Generator | None = None,
) -> Path:
    """Write a sequence as a wav file, and a roll as a MIDI file beside it; return the wav's path.

    A recording beyond full scale is divided by its peak; ``on_note`` receives a line about it.
    Without mido no MIDI file is written. With random numbers ``dither``, noise of one step of 16
    bits makes the rounding independent of the sound.

    Raises:
        UserError: if a file cannot be written, or a sample is NaN or infinite.
    """
    waveform, rate = waveform_of(data, values)
    with files.translate_os_errors(path):
        path.touch()  # soundfile raises errors of its own
    peak = audio.write_wav(path, waveform, rate, dither)
    if peak > 1.0 and on_note is not None:
        on_note(
            f"note: {path}: its peak of {audio.describe_peak(peak)} is beyond full scale; scaled to"
            " fit"
        )
    if data.steps_per_quarter is not None and midi.is_installed():
        roll = (values > NOTE_ON).astype(np.uint8)
        midi.write(path.with_suffix(".mid"), roll, data.steps_per_quarter)
    return path


def compress(path: Path, *, lossless: bool) -> tuple[bytes, str]:
    """A wav file in a smaller form that all browsers play, and its media type.

    FLAC without loss, else MP3 where libsndfile writes it for this sample rate. What neither can
    hold is left as it is.

    Args:
        path: the wav file.
        lossless: whether every sample is kept.
    """
    samples, rate = soundfile.read(path, dtype="int16")
    for container, subtype, mime in COMPRESSED[lossless:]:
        stream = io.BytesIO()
        with contextlib.suppress(soundfile.SoundFileError, ValueError):
            soundfile.write(stream, samples, rate, format=container, subtype=subtype)
            return stream.getvalue(), mime
    return path.read_bytes(), "audio/wav"


def synthesize(roll: np.ndarray, steps_per_quarter: int) -> NDArray[np.float32]:
    """A roll as sound, at :data:`zpyro.datasets.formats.midi.TEMPO` quarter notes a minute.

    A note of frequency f is a sum of partials k f with amplitudes 1 / k^2 that decay with rate
    proportional to sqrt(k f), within an envelope that rises in 8 ms and fades in 60 ms after the
    note's last frame. Frames of a note that follow each other are one note. The whole is scaled
    so that its largest sample is 0.8; a roll without notes is silence.

    Args:
        roll: (T, 88), not 0 where a note sounds.
        steps_per_quarter: frames in a quarter note.

    Returns:
        Samples at :data:`RATE`, as long as the roll and the release of its last notes.
    """
    step = 60.0 / (midi.TEMPO * steps_per_quarter)
    sound = np.zeros(round((len(roll) * step + RELEASE) * RATE) + 1)
    for key, begin, end in midi.notes(np.asarray(roll != 0, np.uint8)):
        note = _note(midi.LOWEST + key, (end - begin) * step)
        first = round(begin * step * RATE)
        sound[first : first + len(note)] += note[: len(sound) - first]
    peak = float(np.abs(sound).max())
    return (sound * (PEAK / peak if peak else 0.0)).astype(np.float32)


def _note(number: int, seconds: float) -> NDArray[np.float64]:
    frequency = 440.0 * 2.0 ** ((number - 69) / 12.0)
    time = np.arange(round((seconds + RELEASE) * RATE)) / RATE
    count = max(1, min(PARTIALS, int(HIGHEST * RATE / frequency)))
    partials = np.arange(1, count + 1)[:, None]
    decay = np.log(10.0) / REVERBERANT_SECONDS * np.sqrt(partials * frequency / 440.0)
    waves = np.sin(2.0 * np.pi * partials * frequency * time) * np.exp(-decay * time)
    envelope = np.minimum(time / ATTACK, 1.0)
    envelope *= np.clip((seconds + RELEASE - time) / RELEASE, 0.0, 1.0)
    return envelope * (waves / partials**2).sum(0)
