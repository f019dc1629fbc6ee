"""A run on piano rolls: what it scores, samples, continues and reports."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from tests.cli.conftest import Zpyro, train
from tests.datasets.test_music import rolls, write_cells
from zpyro.datasets.formats import midi

pytest.importorskip("mido", reason="the extra music is not installed")


CONSTANT = "--set=train.learning_rate_schedule=constant"
"""Other schedules depend on the budget, which a resumed run changes."""


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("traindata", "validdata", "testdata")
    splits = {name: rolls(9 - 3 * seed, seed) for seed, name in enumerate(names)}
    return write_cells(tmp_path_factory.mktemp("pieces") / "pieces.mat", splits)


@pytest.fixture(scope="module")
def music_run(zpyro: Zpyro, pieces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "music"
    more = ("--preset=music-jsb", "--set=train.average=0", CONSTANT)
    return train(zpyro, "music", pieces, out, *more)


def test_transposed_training_continues_as_if_uninterrupted(
    zpyro: Zpyro, pieces: Path, music_run: Path, tmp_path: Path
) -> None:
    more = ("--preset=music-jsb", "--set=train.average=0", CONSTANT)
    train(zpyro, "music", pieces, tmp_path / "run", *more, "--max-steps", 5)
    result = zpyro("train", "--resume", tmp_path / "run", "--max-steps", 12)
    assert result.exit_code == 0, result.output
    whole, resumed = (
        load_file(run / "last" / "model.safetensors") for run in (music_run, tmp_path / "run")
    )
    for name, values in whole.items():
        assert torch.equal(resumed[name], values), name


def test_scores_are_sums_over_frames(zpyro: Zpyro, music_run: Path) -> None:
    result = zpyro("evaluate", music_run, "--split=test", "--bound=smc", "--particles=4", "--json")
    values = json.loads(result.stdout)
    assert (values["sequences"], values["frames"]) == (3, 9 + 10 + 11)
    for bound in ("elbo", "smc"):
        assert values[f"{bound}_per_frame"] == pytest.approx(values[bound] * 3 / 30)
    assert values["baseline_markov"] < 0
    assert values["baseline_markov_per_frame"] * 30 == pytest.approx(values["baseline_markov"] * 3)


def test_samples_and_continuations_are_midi_and_sound(
    zpyro: Zpyro, music_run: Path, tmp_path: Path
) -> None:
    roll = np.zeros((4, 88), np.uint8)
    roll[:, 60 - midi.LOWEST] = 1
    midi.write(tmp_path / "prefix.mid", roll, 1)
    more = ("-n", 2, "--seconds", 3, "--prefix", tmp_path / "prefix.mid", "--out", tmp_path)
    result = zpyro("sample", music_run, *more)
    assert result.exit_code == 0, result.output
    assert "2 wav files, each with a MIDI file, in " in result.stdout
    for number in (1, 2):
        (piece,) = midi.read(tmp_path / f"sample_{number}.mid", 1)
        # 3 seconds are 6 quarter notes; notes that follow the prefix without a gap join it.
        assert 4 <= len(piece.roll) <= 10
        np.testing.assert_array_equal(piece.roll[:4], roll)
        sound, rate = soundfile.read(tmp_path / f"sample_{number}.wav")
        assert len(sound) / rate == pytest.approx(5.0, abs=0.1)
        assert np.abs(sound).max() == pytest.approx(0.8, abs=1e-3)
    assert (tmp_path / "samples.png").stat().st_size > 1000


def test_a_prefix_of_another_type_is_refused_in_words_of_music(
    zpyro: Zpyro, music_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "prefix.wav").write_bytes(b"RIFF")
    result = zpyro("sample", music_run, "--prefix", tmp_path / "prefix.wav")
    assert result.exit_code == 2
    assert "prefix.wav: is no MIDI file (.mid, .midi, .smf) or .npy array" in result.stderr


def test_results_into_a_folder_with_files_are_announced(
    zpyro: Zpyro, music_run: Path, tmp_path: Path
) -> None:
    more = ("--seconds", 3, "--out", tmp_path / "samples")
    assert "already" not in zpyro("sample", music_run, "-n", 2, *more).stderr
    found = len(list((tmp_path / "samples").iterdir()))
    again = zpyro("sample", music_run, "-n", 1, *more)
    assert f"samples has {found} files already; equal names are replaced" in again.stderr


def test_reconstructions_are_midi_and_sound(
    zpyro: Zpyro, music_run: Path, pieces: Path, tmp_path: Path
) -> None:
    del pieces
    result = zpyro("reconstruct", music_run, "--sequence=1", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "1 pair of wav files, each with a MIDI file, in " in result.stdout
    names = {"1_input.mid", "1_input.wav", "1_reconstruction.mid", "1_reconstruction.wav"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    expected = rolls(3, 2)[1]
    (piece,) = midi.read(tmp_path / "1_input.mid", 1)
    np.testing.assert_array_equal(piece.roll, expected[: len(piece.roll)])
    assert not expected[len(piece.roll) :].any()


def test_the_report_has_rolls_and_players(zpyro: Zpyro, music_run: Path, tmp_path: Path) -> None:
    result = zpyro("inspect", music_run, "--sequence=0", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("<audio") >= 5  # input, reconstruction, latents alone, and samples
    embedded = [
        base64.b64decode(each) for each in re.findall(r"data:audio/mpeg;base64,([^\"]+)", text)
    ]
    assert len(embedded) == text.count("<audio")
    files = list(tmp_path.glob("*.wav"))
    assert 5 * sum(map(len, embedded)) < sum(path.stat().st_size for path in files)
    (path,) = tmp_path.glob("*-input.wav")
    written, rate = soundfile.read(path)
    played, same_rate = soundfile.read(io.BytesIO(embedded[0]))
    assert same_rate == rate
    assert np.abs(played[: len(written)] - written).std() < 0.1 * written.std()
    assert "Notes of test#0" in text
    assert "each note given the same one a frame before, nats/sequence" in text
    assert "the same per step, nats/frame" in text
    assert "pixel" not in text


def test_the_data_are_described(zpyro: Zpyro, pieces: Path) -> None:
    shown = zpyro("data", "info", "music", "--data", pieces).stdout
    for text in ("notes a frame", "a Markov chain a note", "4 frames in a quarter note"):
        assert text in shown


def test_other_files_are_named_in_one_line(zpyro: Zpyro, tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.mid").write_bytes(b"MThd")
    result = zpyro("train", "--dataset=music", "--data", tmp_path, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "0.mid: is cut short" in result.stderr
    assert not (tmp_path / "run").exists()
