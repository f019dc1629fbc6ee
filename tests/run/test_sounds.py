"""Synthesized sound: the right pitch, at the right time, at a level that does not clip."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from zpyro.analysis import sounds
from zpyro.datasets.formats import midi
from zpyro.training.checkpoint import DataSpec

pytestmark = pytest.mark.fast

DATA = DataSpec("music", "binary", None, 0.0, 1.0, steps_per_quarter=2)


def roll(*notes: tuple[int, int, int], steps: int = 8) -> np.ndarray:
    """Notes of a MIDI number from a frame to another."""
    found = np.zeros((steps, 88), np.uint8)
    for number, begin, end in notes:
        found[begin:end, number - midi.LOWEST] = 1
    return found


def loudest(sound: np.ndarray) -> float:
    """Frequency of the largest power, Hz."""
    size = 1 << 17
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), size))
    return float(np.argmax(spectrum)) * sounds.RATE / size


@pytest.mark.parametrize("number", [21, 33, 60, 69, 81, 108])
def test_a_note_has_its_frequency_and_overtones(number: int) -> None:
    sound = sounds.synthesize(roll((number, 0, 8)), 2)
    frequency = 440 * 2 ** ((number - 69) / 12)
    assert loudest(sound) == pytest.approx(frequency, rel=0.01)
    power = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17)) ** 2
    second = power[round(2 * frequency * (1 << 17) / sounds.RATE)]
    assert 0.001 < second / power.max() < 0.5
    above = np.fft.rfftfreq(1 << 17, 1 / sounds.RATE) < 0.8 * frequency
    assert power[above].sum() < 0.01 * power.sum()


@pytest.mark.parametrize(
    ("rate", "lossless", "expected"),
    [
        (22_050, False, "audio/mpeg"),
        (22_050, True, "audio/flac"),
        (12_345, False, "audio/flac"),
        (900_000, True, "audio/wav"),
    ],
)
def test_a_compressed_sound_is_the_same_sound(
    tmp_path: Path, rate: int, lossless: bool, expected: str
) -> None:
    path = tmp_path / "sound.wav"
    sound = np.asarray(sounds.synthesize(roll((60, 0, 4), (64, 0, 8)), 2) * 32767, np.int16)
    soundfile.write(path, sound, rate)
    content, mime = sounds.compress(path, lossless=lossless)
    assert mime == expected
    played, same_rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert same_rate == rate
    difference = (played[: len(sound)] - sound.astype(float)).std()
    assert difference < 0.05 * sound.std() if mime == "audio/mpeg" else difference == 0


def test_the_peak_is_the_documented_one_for_one_note_and_for_many() -> None:
    many = [(number, 0, 8) for number in range(21, 109)]
    for notes in ([(60, 2, 4)], many):
        sound = sounds.synthesize(roll(*notes), 2)
        assert np.abs(sound).max() == pytest.approx(0.8, rel=1e-6)
    assert not sounds.synthesize(roll(), 2).any()


def test_notes_sound_when_they_are_on() -> None:
    # Half a second a quarter note, two frames each: frames 2 and 3 are 0.5 s to 1 s.
    sound = sounds.synthesize(roll((60, 2, 4), (72, 6, 8)), 2)
    level = np.abs(sound)
    time = np.arange(len(sound)) / sounds.RATE
    assert not level[time < 0.499].any()
    assert level[(time > 0.52) & (time < 0.99)].max() > 0.3
    assert not level[(time > 1.0 + sounds.RELEASE + 0.001) & (time < 1.499)].any()
    assert loudest(sound[(time > 0.5) & (time < 1.0)]) == pytest.approx(261.63, rel=0.01)
    assert loudest(sound[(time > 1.5) & (time < 2.0)]) == pytest.approx(523.25, rel=0.01)
    assert len(sound) / sounds.RATE == pytest.approx(2.0 + sounds.RELEASE, abs=0.001)
    # No click where a note begins or ends.
    steps = np.abs(np.diff(sound, append=0.0))
    for edge in (0.5, 1.0 + sounds.RELEASE, 1.5, 2.0 + sounds.RELEASE):
        assert steps[np.abs(time - edge) < 0.0005].max() < 0.02


def test_probabilities_are_notes_above_a_half(tmp_path: Path) -> None:
    pytest.importorskip("mido", reason="the extra music is not installed")
    values = np.where(roll((60, 0, 8)) == 1, 0.6, 0.4)
    path = sounds.write_sound(tmp_path / "a.wav", DATA, values)
    found, rate = soundfile.read(path)
    assert rate == sounds.RATE
    assert loudest(found) == pytest.approx(261.63, rel=0.01)
    (piece,) = midi.read(tmp_path / "a.mid", 2)
    assert midi.notes(piece.roll) == [(39, 0, 8)]
    assert sounds.frames_per_second(DATA, 88) == 4.0


def test_without_mido_there_is_sound_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(midi, "is_installed", lambda: False)
    sounds.write_sound(tmp_path / "a.wav", DATA, roll((60, 0, 8)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
