"""Sound beyond full scale, from recordings to the files that the commands write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import RATE, Zpyro, train

PEAK = 3.5


@pytest.fixture(scope="module")
def loud_run(zpyro: Zpyro, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on float recordings with a peak of 3.5."""
    folder = tmp_path_factory.mktemp("loud")
    random = np.random.default_rng(0)
    for number in range(20):
        noise = random.uniform(-PEAK, PEAK, 700)
        soundfile.write(folder / f"{number}.wav", noise, RATE, subtype="FLOAT")
    return train(zpyro, "wav", folder, folder / "run", "--set=data.frame_size=40")


def written(path: Path, stderr: str) -> float:
    """Check a file that was scaled, and return the peak that was told."""
    sound, _ = soundfile.read(path)
    assert np.abs(sound).max() == pytest.approx(1.0, abs=1e-3)
    assert (np.abs(sound) > 0.999).mean() < 0.02
    (note,) = [line for line in stderr.splitlines() if str(path) in line]
    assert note.startswith(f"note: {path}: its peak of ")
    assert note.endswith(" is beyond full scale; scaled to fit")
    return float(note.split("peak of ")[1].split()[0])


def test_samples_are_scaled_and_told(zpyro: Zpyro, loud_run: Path, tmp_path: Path) -> None:
    result = zpyro("sample", loud_run, "-n2", "--seconds=1", "--out", tmp_path)
    assert result.exit_code == 0
    for number in (1, 2):
        assert written(tmp_path / f"sample_{number}.wav", result.stderr) > 2.0


def test_reconstructions_are_scaled_and_told(zpyro: Zpyro, loud_run: Path, tmp_path: Path) -> None:
    result = zpyro("reconstruct", loud_run, "--sequence=1", "--out", tmp_path)
    assert result.exit_code == 0
    assert written(tmp_path / "1_input.wav", result.stderr) == pytest.approx(PEAK, abs=0.1)


def test_continuations_are_scaled_and_told(zpyro: Zpyro, loud_run: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "prefix.wav"
    tone = 3.0 * np.sin(np.arange(800) / 3)
    soundfile.write(prefix, np.stack([tone, -tone], axis=1), RATE, subtype="FLOAT")
    arguments = ("-n1", "--seconds=1", "--prefix", prefix, "--out", tmp_path / "out")
    result = zpyro("sample", loud_run, *arguments)
    assert written(tmp_path / "out" / "sample_1.wav", result.stderr) > 2.0
    assert "note: channels cancel each other, only the loudest is read" in result.stderr
    assert str(prefix) in result.stderr


def test_interpolations_are_scaled_and_told(zpyro: Zpyro, loud_run: Path, tmp_path: Path) -> None:
    result = zpyro("interpolate", loud_run, "0", "1", "--steps=3", "--draw", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert written(tmp_path / "step_1.wav", result.stderr) > 2.0


def test_reports_say_what_was_scaled(zpyro: Zpyro, loud_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    result = zpyro("inspect", loud_run, "--sequence=0", "--out", out)
    assert result.exit_code == 0, result.output
    assert ", scaled to fit full scale" in next(out.glob("*.html")).read_text()


def test_quiet_sound_is_written_as_it_is(zpyro: Zpyro, tone_run: Path, tmp_path: Path) -> None:
    result = zpyro("reconstruct", tone_run, "--sequence=1", "--out", tmp_path)
    assert "1_input.wav" not in result.stderr
    assert np.abs(soundfile.read(tmp_path / "1_input.wav")[0]).max() < 0.7


def test_training_shows_the_notes(zpyro: Zpyro, tmp_path: Path) -> None:
    tone = 0.3 * np.sin(np.arange(700) / 3)
    for number in range(9):
        soundfile.write(tmp_path / f"{number}.wav", np.stack([tone, -tone], axis=1), RATE)
    (tmp_path / "a.m4a").write_bytes(b"something")
    size = "data.frame_size=40"
    shown = zpyro("data", "info", "wav", "--data", tmp_path, "--set", size).stdout
    out = tmp_path / "run"
    small = ("--set=model.hidden_size=6", f"--set={size}", "--max-steps=1")
    trained = zpyro("train", "--dataset=wav", "--data", tmp_path, "--out", out, *small)
    assert "channels cancel" in shown
    for note in (
        "note: channels cancel each other, only the loudest is read: 9 recordings (0.wav, ",
        "note: left out, not readable as audio: 1 .m4a (a.m4a)",
    ):
        assert note in trained.stderr


def test_evaluation_of_other_data_shows_the_notes(
    zpyro: Zpyro, tone_run: Path, tmp_path: Path
) -> None:
    tone = 0.3 * np.sin(np.arange(700) / 3)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, -tone], axis=1), RATE)
    result = zpyro("evaluate", tone_run, "--data", tmp_path)
    assert result.exit_code == 0, result.output
    assert "note: channels cancel each other, only the loudest is read: 1 rec" in result.stderr
