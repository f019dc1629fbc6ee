"""zpyro reconstruct and zpyro interpolate on every kind of run, and what they say to mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

import zpyro as library
from tests.cli.conftest import Zpyro, train
from tests.datasets.test_mnist import digits, write_text
from zpyro.datasets.npz import load_plain
from zpyro.training import runs

WORDS = ("the", "film", "was", "not", "bad", "at", "all", "good")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZPYRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def text_run(zpyro: Zpyro, tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=random.integers(2, 8))) + "." for _ in range(60)]
    path = tmp_path_factory.mktemp("lines") / "notes.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return train(zpyro, "text", path, tmp_path_factory.mktemp("runs") / "text")


@pytest.fixture(scope="module")
def digit_run(zpyro: Zpyro, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    for seed, (name, count) in enumerate((("train", 40), ("valid", 6), ("test", 10))):
        write_text(folder / f"binarized_mnist_{name}.amat", digits(count, seed))
    out = tmp_path_factory.mktemp("runs") / "digits"
    return train(zpyro, "mnist", folder, out, "--preset=mnist-small", "--set=data.downsample=4")


def mistake(zpyro: Zpyro, *arguments: object) -> str:
    result = zpyro(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.strip().splitlines()[-1].startswith("error: ")
    return result.stderr.strip().splitlines()[-1]


def test_sound_comes_in_pairs(zpyro: Zpyro, tone_run: Path, tones: Path, tmp_path: Path) -> None:
    result = zpyro("reconstruct", tone_run, "--sequence", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    before, rate = soundfile.read(tmp_path / "1_input.wav")
    after, _ = soundfile.read(tmp_path / "1_reconstruction.wav")
    assert rate == 4000
    assert before.shape == after.shape
    name = result.stdout.splitlines()[1].partition(":")[0]
    recorded, _ = soundfile.read(tones / name)
    # The first frame of 40 samples is what the sequence starts from, not a part of it.
    np.testing.assert_allclose(before, recorded[40 : 40 + len(before)], atol=1e-4)
    assert "root mean square" in result.stdout
    assert imread(tmp_path / "reconstructions.png").std() > 0.05


def test_a_file_is_an_end_to_walk_from(
    zpyro: Zpyro, tone_run: Path, tones: Path, tmp_path: Path
) -> None:
    file = next(tones.glob("*.wav"))
    result = zpyro("interpolate", tone_run, file, 0, "--steps", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lengths = [len(soundfile.read(tmp_path / f"step_{n}.wav")[0]) for n in range(3)]
    frames = len(soundfile.read(file)[0]) // 40 - 1
    assert lengths[0] == 40 * frames
    assert lengths[1] / 40 == round((lengths[0] + lengths[2]) / 80)


def test_digits_are_pictures_and_arrays(zpyro: Zpyro, digit_run: Path, tmp_path: Path) -> None:
    result = zpyro("reconstruct", digit_run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("of the bits") == 8
    arrays = load_plain(tmp_path / "reconstructions.npz")
    assert arrays["input_0"].shape == arrays["reconstruction_7"].shape == (7, 7)
    assert ((arrays["reconstruction_7"] > 0) & (arrays["reconstruction_7"] < 1)).all()
    wide = imread(tmp_path / "reconstructions.png")
    assert wide.shape[1] > wide.shape[0]
    drawn = zpyro("reconstruct", digit_run, "--draw", "--free", "--out", tmp_path)
    assert drawn.exit_code == 0, drawn.output
    bits = load_plain(tmp_path / "reconstructions.npz")["reconstruction_7"]
    assert set(np.unique(bits)) <= {0.0, 1.0}
    walk = zpyro("interpolate", digit_run, 0, 1, "--steps", 4, "--out", tmp_path)
    assert walk.exit_code == 0, walk.output
    assert set(load_plain(tmp_path / "interpolation.npz")) == {f"step_{n}" for n in range(4)}
    assert (tmp_path / "interpolation.png").exists()


def test_free_reconstructions_are_those_of_the_library(
    zpyro: Zpyro, array_run: Path, tmp_path: Path
) -> None:
    result = zpyro("reconstruct", array_run, "--sequence", 2, "--free", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    run = runs.open_run(array_run)
    checkpoint = run.load()
    config = run.config()
    data = library.datasets.load(config.dataset, config.data_folder, config.data).test
    batch = data[[2]].batch()
    z = library.reconstruct(checkpoint.model, batch, use_mean=True).z[0]
    made = library.decode(checkpoint.model, z, start=batch.start, use_mean=True).mean[0]
    raw = data.normalization.invert(made.numpy())
    arrays = load_plain(tmp_path / "reconstructions.npz")
    np.testing.assert_allclose(arrays["reconstruction_2"], raw, rtol=1e-5)


def test_text_stands_line_by_line(zpyro: Zpyro, text_run: Path, tmp_path: Path) -> None:
    result = zpyro("reconstruct", text_run, "--sequence", 0, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["input", "reconstruction"]
    assert "of the tokens" in lines[2]
    tabbed = (tmp_path / "reconstructions.txt").read_text(encoding="utf-8")
    assert lines[0].removeprefix("input").strip() == tabbed.split("\t")[0]


def test_sentences_are_ends_to_walk_between(zpyro: Zpyro, text_run: Path, tmp_path: Path) -> None:
    ends = "the film was not bad.", "not all good."
    result = zpyro("interpolate", text_run, *ends, "--steps", 3, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["first", "0.00", "0.50", "1.00", "second"]
    assert lines[0].endswith(ends[0])
    assert lines[-1].endswith(ends[1])
    file = tmp_path / "sentence.txt"
    file.write_text(ends[0], encoding="utf-8")
    again = zpyro("interpolate", text_run, file, ends[1], "--steps", 3, "--out", tmp_path)
    assert again.stdout == result.stdout


def test_plain_tokens_need_no_words(zpyro: Zpyro, token_run: Path, tmp_path: Path) -> None:
    assert zpyro("reconstruct", token_run, "--out", tmp_path).exit_code == 0
    assert zpyro("interpolate", token_run, 0, 1, "--out", tmp_path).exit_code == 0
    assert load_plain(tmp_path / "interpolation.npz")["step_3"].shape == (7,)


@pytest.mark.parametrize("command", ["reconstruct", "interpolate"])
def test_mistakes_are_told_in_a_line(
    zpyro: Zpyro, array_run: Path, command: str, tmp_path: Path
) -> None:
    def asked(run: Path, *wanted: object) -> str:
        extra = wanted if command == "interpolate" else ("--sequence", wanted[0])
        return mistake(zpyro, command, run, *extra, "--out", tmp_path)

    assert "99 is out of range: the test split has" in asked(array_run, 99, 0)
    assert "'nobody' is not in the test split" in asked(array_run, "nobody", 0)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(array_run / "config.toml", empty)
    assert "has no best checkpoint yet" in asked(empty, 0, 1)
    assert "is not a run directory" in asked(tmp_path / "nowhere", 0, 1)


def test_a_model_without_latents_is_told(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    run = train(zpyro, "npz", arrays, tmp_path / "rnn", "--set=model.name=rnn")
    assert "RNN has no latents" in mistake(zpyro, "reconstruct", run)
    assert "RNN has no latents" in mistake(zpyro, "interpolate", run, 0, 1)


def test_files_that_do_not_fit_are_told(zpyro: Zpyro, array_run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros((4, 3)))
    line = mistake(zpyro, "interpolate", array_run, tmp_path / "other.npy", 0)
    assert "other.npy: has shape (4, 3); it must be (P, 5)" in line
    assert "is missing" in mistake(zpyro, "interpolate", array_run, tmp_path / "no.npy", 0)


def test_without_matplotlib_the_rest_is_there(
    zpyro: Zpyro, array_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    result = zpyro("reconstruct", array_run, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert 'pip install "zpyro[plots]"' in result.stderr
    assert (tmp_path / "reconstructions.npz").exists()
    assert not (tmp_path / "reconstructions.png").exists()
