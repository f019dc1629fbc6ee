"""Recordings whose sound might be damaged unnoticed: peaks, channels that cancel, offsets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from zpyro import UserError, datasets
from zpyro.datasets.formats import audio

pytestmark = pytest.mark.fast

RATE = 16_000
SECONDS = np.arange(RATE) / RATE
TONE = 0.3 * np.sin(2 * np.pi * 220 * SECONDS)
OTHER = 0.3 * np.sin(2 * np.pi * 331 * SECONDS)
CANCEL = "channels cancel each other, only the loudest is read"
SILENT = "silent channels left out"


def write(path: Path, *channels: np.ndarray, subtype: str = "FLOAT", rate: int = RATE) -> Path:
    soundfile.write(path, np.stack(channels, axis=1), rate, subtype=subtype)
    return path


@pytest.mark.parametrize("peak", [4.5, 127.0, 9000.0, 32768.0, 8388607.0, 2.0**31])
@pytest.mark.parametrize("name", ["wav", "blizzard", "timit"])
def test_whole_numbers_stored_as_floats_are_refused(tmp_path: Path, peak: float, name: str) -> None:
    folder = tmp_path / "dr1" / "fabc0"
    folder.mkdir(parents=True)
    for number in range(6):
        write(folder / f"sa{number}.wav", TONE if number != 3 else TONE / TONE.max() * peak)
    with pytest.raises(UserError, match=r"sa3\.wav: has a peak of .*divide its samples") as caught:
        datasets.load(name, tmp_path)
    assert f"{peak:.6g}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("peak", [1.0001, 1.001, 1.5, 3.9])
def test_samples_beyond_full_scale_keep_their_shape(tmp_path: Path, peak: float) -> None:
    for number in range(6):
        write(tmp_path / f"{number}.wav", TONE if number else TONE / TONE.max() * peak)
    data = datasets.load("wav", tmp_path)
    shown = {1.0001: "1.0001", 1.001: "1.001", 1.5: "1.5", 3.9: "3.9"}[peak]
    assert f"samples beyond full scale, kept: 1 recording (0.wav, peak {shown})" in data.notes
    names = data.split("all").names
    frames = data.split("all").values[names.index("0.wav")]
    raw = data.train.normalization.invert(frames.reshape(-1))
    np.testing.assert_allclose(raw, (TONE / TONE.max() * peak)[200:], atol=1e-5)
    books = datasets.load("blizzard", tmp_path, segment_length=4)
    note = "samples beyond full scale, divided by the peak: 1 recording"
    assert f"{note} (0.wav, peak {shown})" in books.notes
    first = books.train.normalization.invert(np.concatenate(list(books.train.values[:19])))
    np.testing.assert_allclose(first.reshape(-1), (TONE / TONE.max())[200 : 200 * 77], atol=1e-4)


def test_resampling_does_not_clip(tmp_path: Path) -> None:
    """A square wave of full scale overshoots when it is resampled."""
    square = np.sign(np.sin(2 * np.pi * 100 * SECONDS)) * 0.999
    for number in range(6):
        write(tmp_path / f"{number}.wav", square, subtype="PCM_16", rate=22_050)
    books = datasets.load("blizzard", tmp_path, segment_length=4)
    assert any("divided by the peak: 6 recordings" in note for note in books.notes)
    assert any("resampled to 16000 samples a second: 6" in note for note in books.notes)
    samples = books.train.normalization.invert(np.concatenate(list(books.train.values)))
    assert (np.abs(samples) > 0.9999).mean() < 1e-3


@pytest.mark.parametrize(
    ("channels", "expected", "note"),
    [
        ((TONE, -TONE), TONE, CANCEL),
        ((TONE, -0.9 * TONE), TONE, CANCEL),
        ((0.5 * TONE, -TONE), -TONE, CANCEL),
        ((TONE + OTHER, 0.1 * OTHER - TONE), TONE + OTHER, CANCEL),
        ((TONE, -TONE, 0.001 * OTHER), TONE, CANCEL),
        ((TONE, -TONE, TONE, -TONE), TONE, CANCEL),
        ((TONE, 0 * TONE), TONE, SILENT),
        ((0 * TONE, TONE, 0 * TONE, TONE, 0 * TONE, 0 * TONE), TONE, SILENT),
        ((1e-5 * OTHER, TONE), TONE, SILENT),
        ((TONE, TONE), TONE, None),
        ((TONE, OTHER), (TONE + OTHER) / 2, None),
        ((TONE, 0.1 * OTHER), (TONE + 0.1 * OTHER) / 2, None),
        ((TONE * (SECONDS < 0.5), OTHER * (SECONDS >= 0.5)), None, None),
        ((0 * TONE, 0 * TONE), 0 * TONE, "silent throughout, kept"),
    ],
)
def test_channels_that_cancel_or_are_silent(
    tmp_path: Path,
    channels: tuple[np.ndarray, ...],
    expected: np.ndarray | None,
    note: str | None,
) -> None:
    path = write(tmp_path / "a.wav", *channels)
    waveform, _, remarks = audio.read_with_remarks(path)
    expected = np.mean(channels, axis=0) if expected is None else expected
    np.testing.assert_allclose(waveform, expected, atol=1e-5)
    assert list(remarks) == ([] if note is None else [note])


def test_channels_that_cancel_for_some_seconds(tmp_path: Path) -> None:
    left = np.tile(TONE, 10)
    right = np.concatenate([np.tile(TONE, 7), -np.tile(TONE, 3)])
    waveform, _, remarks = audio.read_with_remarks(write(tmp_path / "a.wav", left, right))
    np.testing.assert_allclose(waveform, left, atol=1e-5)
    assert list(remarks) == [CANCEL]


def test_data_sets_note_channels_that_cancel(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / f"s{number}.wav", TONE, -TONE, subtype="PCM_16")
    data = datasets.load("wav", tmp_path)
    assert data.train.normalization.scale == pytest.approx(TONE.std(), rel=0.01)
    assert any(note.startswith(f"{CANCEL}: 9 recordings (s0.wav, ") for note in data.notes)
    books = datasets.load("blizzard", tmp_path, segment_length=4)
    assert books.train.normalization.scale == pytest.approx(TONE.std(), rel=0.01)
    assert any(note.startswith(f"{CANCEL}: 9 recordings") for note in books.notes)


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        *(("PCM_U8", 1e-2), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-6)),
        *(("FLOAT", 1e-6), ("DOUBLE", 1e-6), ("ULAW", 2e-2), ("IMA_ADPCM", 5e-2)),
    ],
)
def test_every_coding_has_one_scale(tmp_path: Path, subtype: str, tolerance: float) -> None:
    path = write(tmp_path / "a.wav", TONE, subtype=subtype)
    waveform, _, remarks = audio.read_with_remarks(path)
    np.testing.assert_allclose(waveform[100 : len(TONE)], TONE[100:], atol=tolerance)
    assert remarks == {}


def test_offsets_are_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", TONE + 0.2)
    waveform, _, remarks = audio.read_with_remarks(path)
    np.testing.assert_allclose(waveform, TONE + 0.2, atol=1e-6)
    assert remarks == {"constant offset, kept": "0.2"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_not_finite_are_refused(
    tmp_path: Path, value: float, channels: int
) -> None:
    bad = TONE.copy()
    bad[700] = value
    path = write(tmp_path / "a.wav", *[bad] * channels, subtype="DOUBLE")
    with pytest.raises(UserError, match=r"a\.wav: holds NaN or infinity"):
        audio.read(path)


def test_a_recording_too_quiet_for_16_bits_is_noted(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"{number}.wav", TONE * (1e-4 if number == 2 else 1.0))
    books = datasets.load("blizzard", tmp_path, segment_length=4)
    assert "too quiet for 16 bits, rounded: 1 recording (2.wav, peak 3e-05)" in books.notes
    assert not datasets.load("wav", tmp_path).notes


@pytest.mark.parametrize("peak", [1.0001, 2.0, 9000.0, 1e20])
def test_written_samples_beyond_full_scale_are_scaled(tmp_path: Path, peak: float) -> None:
    wave = TONE / TONE.max() * peak
    assert audio.write_wav(tmp_path / "a.wav", wave, RATE) == pytest.approx(peak)
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav")[0], wave / peak, atol=1e-4)


def test_16_bit_samples_are_written_as_they_are(tmp_path: Path) -> None:
    stored = np.array([-32768, -32767, -20001, -1, 0, 1, 2, 16385, 32767], np.int16)
    audio.write_wav(tmp_path / "a.wav", stored / 32768.0, RATE)
    np.testing.assert_array_equal(soundfile.read(tmp_path / "a.wav", dtype="int16")[0], stored)


def test_dither_makes_the_rounding_error_independent_of_the_level(tmp_path: Path) -> None:
    path, count, step = tmp_path / "a.wav", 40_000, 1.0 / 32768.0
    for level in (0.0, 0.25, 0.4, 100.4):
        wave = np.full(count, level * step)
        audio.write_wav(path, wave, RATE, np.random.default_rng(0))
        stored = soundfile.read(path, dtype="int16")[0].astype(np.float64)
        # The triangular noise has a variance of 1/6 squared steps, rounding adds 1/12.
        assert stored.mean() == pytest.approx(level, abs=5.0 * 0.5 / count**0.5)
        assert stored.var() == pytest.approx(0.25, rel=0.05)
        audio.write_wav(path, wave, RATE)
        assert (soundfile.read(path, dtype="int16")[0] == np.rint(level)).all()
    audio.write_wav(path, np.tile([1.0, -1.0], 2000), RATE, np.random.default_rng(0))
    loud = soundfile.read(path)[0]
    assert loud[::2].min() > 0.999
    assert loud[1::2].max() < -0.999


def test_samples_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match=r"a\.wav: its samples are not finite"):
            audio.write_wav(tmp_path / "a.wav", np.array([0.1, value]), RATE)


@pytest.mark.parametrize(
    "channels",
    [
        (TONE + 0.2, -TONE + 0.2),
        (TONE - 0.3, -TONE + 0.1),
        (TONE + 0.01, -0.9 * TONE + 0.3),
        (-TONE, TONE + 0.5, 1e-3 * OTHER + 0.1),
        (TONE, -TONE + 0.4, TONE, -TONE),
    ],
)
def test_channels_that_cancel_beside_an_offset(
    tmp_path: Path, channels: tuple[np.ndarray, ...]
) -> None:
    path = write(tmp_path / "a.wav", *channels)
    waveform, _, remarks = audio.read_with_remarks(path)
    assert CANCEL in remarks
    np.testing.assert_allclose(np.abs(waveform - waveform.mean()).max(), 0.3, atol=0.01)


def test_a_channel_with_only_an_offset_is_silent(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", TONE, np.full(RATE, 0.2))
    waveform, _, remarks = audio.read_with_remarks(path)
    assert remarks == {SILENT: "1 of 2"}
    np.testing.assert_allclose(waveform, TONE, atol=1e-6)


@pytest.mark.parametrize("level", [0.0, 0.02, -0.5])
@pytest.mark.parametrize("channels", [1, 2])
def test_silence_is_noted(tmp_path: Path, level: float, channels: int) -> None:
    path = write(tmp_path / "a.wav", *[np.full(RATE, level)] * channels)
    remarks = audio.read_with_remarks(path)[2]
    assert "silent throughout, kept" in remarks
    assert CANCEL not in remarks


def test_resampled_recordings_are_noted(tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.wav", TONE, rate=RATE if number else 8_000)
    notes = datasets.load("wav", tmp_path, sample_rate=RATE).notes
    assert "resampled to 16000 samples a second: 1 recording (0.wav, from 8000)" in notes
