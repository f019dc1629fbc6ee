"""Small data in files, and runs trained on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from zpyro_cli.main import main

Zpyro = Callable[..., Result]

SMALL = (
    "--set=model.hidden_size=12",
    "--set=model.latent_size=3",
    "--set=model.embedding_size=6",
    "--set=model.mlp_size=8",
    "--set=train.batch_size=8",
)
RATE = 4000


@pytest.fixture(scope="session")
def zpyro() -> Zpyro:
    """Runs the command line within this process; only a user's mistakes may end it early."""

    def run(*arguments: object) -> Result:
        return CliRunner(catch_exceptions=False).invoke(main, [str(each) for each in arguments])

    return run


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 random walks of 6 steps in 5 dimensions."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("arrays") / "walks.npz"
    np.savez(path, x=3 + np.cumsum(random.normal(size=(40, 6, 5)), axis=1))
    return path


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 sentences of 7 tokens out of 11."""
    path = tmp_path_factory.mktemp("tokens") / "words.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 11, size=(40, 7)))
    return path


def write_tones(folder: Path, count: int, seed: int = 0) -> Path:
    """Short tones with noise at 4 kHz, one wav file each."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        time = np.arange(random.integers(400, 900)) / RATE
        tone = 0.5 * np.sin(2 * np.pi * random.uniform(100, 400) * time)
        noisy = tone + 0.02 * random.normal(size=len(time))
        soundfile.write(folder / f"tone_{number}.wav", noisy, RATE)
    return folder


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 recordings."""
    return write_tones(tmp_path_factory.mktemp("tones"), 20)


def train(zpyro: Zpyro, dataset: str, data: Path, out: Path, *more: object) -> Path:
    """A run of a few steps."""
    steps = () if "--max-steps" in more else ("--max-steps", 12)
    result = zpyro(
        "train", "--dataset", dataset, "--data", data, "--out", out, *SMALL, *steps, *more
    )
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def array_run(zpyro: Zpyro, arrays: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on :func:`arrays`."""
    return train(zpyro, "npz", arrays, tmp_path_factory.mktemp("runs") / "arrays")


@pytest.fixture(scope="session")
def token_run(zpyro: Zpyro, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on :func:`tokens`."""
    return train(zpyro, "npz", tokens, tmp_path_factory.mktemp("runs") / "tokens")


@pytest.fixture(scope="session")
def tone_run(zpyro: Zpyro, tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on :func:`tones`."""
    out = tmp_path_factory.mktemp("runs") / "tones"
    return train(zpyro, "wav", tones, out, "--set=data.frame_size=40")
