"""A user's mistake gets one line that names what is wrong, exit code 2, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import RATE, Zpyro, write_tones
from zpyro.io import manifest

pytestmark = pytest.mark.fast

WAV = ("train", "--dataset=wav", "--data")
NPZ = ("train", "--dataset=npz", "--data")


@pytest.fixture
def mistake(zpyro: Zpyro, tmp_path: Path) -> Callable[..., str]:
    """Runs a command that must fail as a user's mistake; gives its error line."""

    def run(*arguments: object) -> str:
        out = tmp_path / "out"
        if arguments[0] == "train" and "--resume" not in arguments:
            arguments = (*arguments, *(() if "--out" in arguments else ("--out", out)))
        result = zpyro(*arguments)
        assert result.exit_code == 2, result.output
        assert "Traceback" not in result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert errors == result.stderr.splitlines()[-1:]
        assert not out.exists()
        return errors[0]

    return run


Mistake = Callable[..., str]


# -- data -----------------------------------------------------------------------------------------


def test_unknown_data_set(mistake: Mistake) -> None:
    assert mistake("train", "--dataset=vowel") == (
        "error: data set 'vowel' is unknown; did you mean vowels?"
    )
    assert "--dataset is missing; choose one of vowels" in mistake("train")
    assert "'vovels' is unknown" in mistake("data", "info", "vovels")


def test_folders(mistake: Mistake, tmp_path: Path) -> None:
    assert "nowhere does not exist" in mistake(*WAV, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "empty holds no recordings" in mistake(*WAV, tmp_path / "empty")
    assert "give a folder of recordings with --data" in mistake("train", "--dataset=wav")
    assert "built in and reads no --data" in mistake(
        "train", "--dataset=vowels", "--data", tmp_path
    )


@pytest.mark.parametrize(
    ("data_set", "wanted"),
    [
        ("wav", "a folder of recordings"),
        ("blizzard", "a folder of recordings"),
        ("timit", "the folder that holds TRAIN and TEST"),
        ("mnist", "the folder that holds the files of MNIST"),
        ("imdb", "an archive of reviews, or the folder where it is unpacked"),
    ],
)
def test_a_file_in_place_of_a_folder(
    mistake: Mistake, tmp_path: Path, data_set: str, wanted: str
) -> None:
    path = tmp_path / "JSB_Chorales.mat"
    path.write_bytes(b"MATLAB 5.0")
    line = mistake("train", "--dataset", data_set, "--data", path)
    assert line.strip() == f"error: {path} is not a folder; give {wanted}"


def test_preparing_what_needs_none_and_verifying_what_is_none(
    mistake: Mistake, tmp_path: Path
) -> None:
    prepare = ("data", "prepare", "npz", tmp_path, "--out", tmp_path / "prepared")
    assert "data set npz needs no preparation; give its files to --data" in mistake(*prepare)
    nowhere = ("data", "prepare", "blizzard", tmp_path / "no", "--out", tmp_path / "prepared")
    assert "no does not exist; " in mistake(*nowhere)
    assert f"{tmp_path}: holds no prepared data set" in mistake("data", "verify", tmp_path)


def test_a_mistake_of_the_program_is_not_told_as_the_users(
    zpyro: Zpyro, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ValueError("no mistake of the user")

    monkeypatch.setattr("zpyro.datasets.names", fail)
    with pytest.raises(ValueError, match="no mistake of the user"):
        zpyro("data", "list")


def test_nothing_asked_for_is_help(zpyro: Zpyro) -> None:
    assert "zpyro train --dataset vowels --out runs/vowels" in zpyro().output
    assert "zpyro data info wav" in zpyro("data").output


def test_blizzard_without_its_corpus_says_where_it_is_and_what_to_do_now(mistake: Mistake) -> None:
    line = mistake("train", "--dataset", "blizzard")
    for part in ("licensed", "Blizzard Challenge", "--data", "zpyro train --dataset vowels"):
        assert part in line


RECORDINGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("no sound\n" * 99), "cannot be read as audio"),
    "zero bytes": (lambda path: path.write_bytes(b""), "is an empty file"),
    "no samples": (lambda path: soundfile.write(path, np.zeros(0), RATE), "holds no samples"),
    "cut short": (
        lambda path: path.write_bytes(_wav_bytes(path)[:700]),
        "is cut short",
    ),
    "not a number": (
        lambda path: soundfile.write(path, np.full(900, np.nan), RATE, subtype="FLOAT"),
        "holds NaN",
    ),
    "shorter than a frame": (
        lambda path: soundfile.write(path, np.zeros(30), RATE),
        "has 30 samples",
    ),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings(mistake: Mistake, tmp_path: Path, name: str) -> None:
    write, message = RECORDINGS[name]
    folder = write_tones(tmp_path / "tones", 12)
    write(folder / "tone_7.wav")
    line = mistake(*WAV, folder, "--set=data.frame_size=40")
    assert str(folder / "tone_7.wav") in line
    assert message in line


def _wav_bytes(path: Path) -> bytes:
    soundfile.write(path, np.ones(900), RATE)
    return path.read_bytes()


ARRAYS: dict[str, tuple[Callable[[], dict[str, np.ndarray]], str]] = {
    "not a number": (lambda: {"x": _with_infinity()}, "x, sequence 3 holds infinity"),
    "wrong rank": (lambda: {"x": np.zeros((9, 4))}, "x has shape (9, 4)"),
    "empty": (lambda: {"x": np.zeros((0, 4, 2))}, "x has shape (0, 4, 2)"),
    "ragged objects": (
        lambda: {"x": np.array([np.zeros((2, 2)), np.zeros((3, 2))], dtype=object)},
        "cannot be read as plain arrays",
    ),
    "lengths that do not add up": (
        lambda: {"values": np.zeros((9, 2)), "lengths": np.array([4, 4])},
        "lengths add up to 8",
    ),
    "other names": (lambda: {"y": np.zeros((9, 4, 2))}, "has arrays y"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(mistake: Mistake, tmp_path: Path, name: str) -> None:
    make, message = ARRAYS[name]
    path = tmp_path / "arrays.npz"
    np.savez(path, allow_pickle=True, **make())
    line = mistake(*NPZ, path)
    assert str(path) in line
    assert message in line


def test_a_text_is_no_npz(mistake: Mistake, tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    path.write_text("hello")
    assert f"{path}: cannot be read as plain arrays" in mistake(*NPZ, path)


def _with_infinity() -> np.ndarray:
    x = np.zeros((9, 4, 2))
    x[3, 1, 1] = np.inf
    return x


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("model.hiden_size=3", "unknown setting model.hiden_size; did you mean model.hidden_size?"),
        ("model.hidden_size=big", 'model.hidden_size must be a whole number, but is "big"'),
        ("train.batch_size=0", "train.batch_size must be at least 1"),
        ("train.learning_rate_schedule=warm", "must be one of constant, cosine, plateau"),
        ("data.normalize=maybe", "data.normalize must be true or false"),
        ("data.valid_fraction=2", "data.valid_fraction is 2"),
        ("model.name=vae", "model.name is vae; choose one of rnn, "),
        ("model.likelihood=cauchy", "model.likelihood is cauchy; choose one of gaussian"),
        ("model.likelihood=categorical", "categorical does not fit this data set"),
        ("model.recurrence=quick", "model.recurrence must be one of auto"),
        ("model.log_variance_bounds=[2, 1]", "log_variance_bounds"),
        ("hidden", "has no =; write --set section.name=value"),
    ],
)
def test_set(mistake: Mistake, arrays: Path, assignment: str, message: str) -> None:
    assert message in mistake(*NPZ, arrays, "--set", assignment)


def test_presets_and_options(mistake: Mistake, arrays: Path) -> None:
    assert "preset huge is unknown; choose one of" in mistake(*NPZ, arrays, "--preset=huge")
    assert "preset fsdd is for the data set wav" in mistake(*NPZ, arrays, "--preset=fsdd")
    assert "--max-steps: train.max_steps must be at least 1" in mistake(
        *NPZ, arrays, "--max-steps=0"
    )
    assert "--seed: train.seed must be at least 0" in mistake(*NPZ, arrays, "--seed=-1")
    assert "No such option" in mistake("train", "--presett=x")
    assert "No such command" in mistake("trian")
    assert "Missing argument" in mistake("evaluate")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_where_there_is_none(mistake: Mistake, arrays: Path, array_run: Path) -> None:
    assert "torch finds no CUDA device" in mistake(*NPZ, arrays, "--device=cuda")
    assert "torch finds no CUDA device" in mistake("evaluate", array_run, "--device=cuda")


# -- places to write ------------------------------------------------------------------------------


def test_out(mistake: Mistake, arrays: Path, array_run: Path, tmp_path: Path) -> None:
    assert "is not empty; choose another --out" in mistake(*NPZ, arrays, "--out", array_run)
    file = tmp_path / "file"
    file.write_text("here")
    assert f"{file}: is not a directory" in mistake(*NPZ, arrays, "--out", file)
    assert f"{file} is not a directory" in mistake(*NPZ, arrays, "--out", file / "below")
    assert "cannot be written" in mistake("sample", array_run, "--out", file / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(mistake: Mistake, arrays: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert "cannot be written to" in mistake(*NPZ, arrays, "--out", closed / "run")


# -- runs -----------------------------------------------------------------------------------------


def test_what_is_no_run(mistake: Mistake, tmp_path: Path, array_run: Path) -> None:
    for command in ("evaluate", "sample"):
        assert f"{tmp_path}: is not a run directory" in mistake(command, tmp_path)
    assert "is not a run directory" in mistake("train", "--resume", tmp_path / "nowhere")
    shutil.copytree(array_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    assert "has no best checkpoint yet; train on with" in mistake("evaluate", tmp_path / "run")


def test_resume_takes_no_new_settings(mistake: Mistake, array_run: Path) -> None:
    line = mistake("train", "--resume", array_run, "--set=model.hidden_size=3")
    assert "--resume takes the run's own settings" in line


@pytest.fixture
def damaged(array_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be damaged."""
    return Path(shutil.copytree(array_run, tmp_path / "damaged"))


def test_checkpoints(mistake: Mistake, damaged: Path) -> None:
    weights = damaged / "best" / "model.safetensors"
    tensors = load_file(weights)
    bias = tensors.pop("output.bias")
    save_file(tensors, weights)
    assert f"{weights}: tensor output.bias is missing" in mistake("evaluate", damaged)
    save_file({**tensors, "output.bias": bias[:-1].contiguous()}, weights)
    assert "tensor output.bias has shape (9,), its settings ask for (10,)" in mistake(
        "sample", damaged
    )
    save_file({**tensors, "output.bias": bias + 1}, weights)
    assert f"{weights}: does not match its checksum" in mistake("evaluate", damaged)
    meta = damaged / "last" / "meta.json"
    meta.write_text(json.dumps(manifest.signed({**json.loads(meta.read_text()), "format": 99})))
    assert f"{meta}: has format version 99" in mistake("train", "--resume", damaged)


def test_a_config_of_another_kind(mistake: Mistake, damaged: Path) -> None:
    path = damaged / "config.toml"
    path.write_text(path.read_text().replace("hidden_size = 12", 'hidden_size = "a"'))
    assert f"{path}: model.hidden_size must be a whole number" in mistake("evaluate", damaged)
    path.write_text("dataset = 3")
    assert f"{path}: dataset" in mistake("evaluate", damaged)


def test_data_that_do_not_fit_the_run(
    mistake: Mistake, array_run: Path, tone_run: Path, token_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wide.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(30, 4, 7)))
    assert "frames of 7 numbers a frame, the run was trained on frames of 5" in mistake(
        "evaluate", array_run, "--data", path
    )
    np.savez(path, x=np.full((30, 4), 99))
    assert "token 99, the model has 11 tokens" in mistake("evaluate", token_run, "--data", path)
    assert "the data are tokens" in mistake("evaluate", array_run, "--data", path)
    slow = tmp_path / "slow"
    slow.mkdir()
    soundfile.write(slow / "one.wav", np.random.default_rng(0).normal(size=900), RATE // 2)
    assert "sample rate of 2000 Hz, the run was trained on 4000 Hz" in mistake(
        "evaluate", tone_run, "--data", slow
    )


def test_samples(mistake: Mistake, array_run: Path, tone_run: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "samples")
    assert "--seconds is for sound" in mistake("sample", array_run, "--seconds=1", *out)
    assert "give one" in mistake("sample", tone_run, "--seconds=1", "--frames=2", *out)
    assert "Invalid value for '-n'" in mistake("sample", tone_run, "-n", 0, *out)
    prefix = tmp_path / "prefix.npy"
    assert "prefix.npy: is missing; choose another file" in mistake(
        "sample", array_run, "--prefix", prefix, *out
    )
    prefix.write_text("hello")
    assert "prefix.npy: is not a .npy array" in mistake(
        "sample", array_run, "--prefix", prefix, *out
    )
    np.save(prefix, np.zeros((3, 4)))
    assert "has shape (3, 4)" in mistake("sample", array_run, "--prefix", prefix, *out)
    assert "prefix.npy: has shape (3, 4)" in mistake("sample", tone_run, "--prefix", prefix, *out)
    for values, message in (
        (np.array(["a"]), "is not a .npy array of numbers"),
        (np.zeros((0, 5)), "has shape (0, 5), it is empty"),
        (np.full((3, 5), np.nan), "has values that are not finite"),
    ):
        np.save(prefix, values)
        line = mistake("sample", array_run, "--prefix", prefix, *out)
        assert f"{prefix}: {message}" in line


def test_prefixes(
    mistake: Mistake, array_run: Path, token_run: Path, tone_run: Path, tmp_path: Path
) -> None:
    def told(run: Path, name: str, values: np.ndarray | None = None) -> str:
        prefix = tmp_path / name
        if values is not None:
            np.save(prefix, values)
        return mistake("sample", run, "--prefix", prefix, "--out", tmp_path / "samples")

    soundfile.write(tmp_path / "short.wav", np.ones(39), RATE)
    assert "short.wav: is shorter than a frame, 40 samples at 4000 Hz" in told(
        tone_run, "short.wav"
    )
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt: is not a .npy array, and the run is trained on frames" in told(
        array_run, "notes.txt"
    )
    assert "is not a file; choose another file" in told(array_run, ".")
    for values in ([5, 11], [5, -1], [5.5, 6.0]):
        line = told(token_run, "tokens.npy", np.array(values))
        assert "tokens.npy: has values that are not tokens of the model; use 0 to 10" in line
    assert "has values that are not finite" in told(array_run, "x.npy", np.full((2, 5), np.nan))
    # Nothing is made for what was not drawn.
    assert not (tmp_path / "samples").exists()


def test_published_checkpoints(mistake: Mistake, tmp_path: Path) -> None:
    old = tmp_path / "old.pt"
    assert "old.pt: cannot be read" in mistake("import-reference", old, tmp_path / "run")
    old.write_text("hello")
    assert "is not a file of plain tensors" in mistake("import-reference", old, tmp_path / "run")
    torch.save([1, 2], old)
    assert "does not hold a dictionary" in mistake("import-reference", old, tmp_path / "run")
    torch.save({"inp_dim": 3}, old)
    assert "entry 'emb_dim' is missing" in mistake("import-reference", old, tmp_path / "run")
    assert not (tmp_path / "run").exists()
