"""Sizes that data, settings and options imply are checked before memory is taken for them."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from zpyro import datasets
from zpyro.datasets.formats.image_files import read_amat, read_idx
from zpyro.datasets.sequences import Normalization
from zpyro.errors import UserError
from zpyro.likelihoods import Categorical, Gaussian
from zpyro.likelihoods.base import LARGEST_SIZE
from zpyro.models import MODELS, model_config
from zpyro.training import build_model
from zpyro_examples.easy_to_hard import (  # pyright: ignore[reportMissingImports]
    mazes_task,
    prefix_sums,
)
from zpyro_examples.easy_to_hard.tasks import Request  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.fast

MEMORY = 32 << 20


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Fail a test that takes much memory in Python and numpy."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("size", [LARGEST_SIZE + 1, 2**31, 1_700_000_009, 2**63, 10**30])
@pytest.mark.parametrize("likelihood", [Gaussian, Categorical])
def test_frames_and_vocabularies_beyond_measure(likelihood: type[Any], size: int) -> None:
    with pytest.raises(UserError, match=f"likelihood size is {size:,}; a .* has at most 1,048,575"):
        likelihood(size)
    assert likelihood(LARGEST_SIZE).size == LARGEST_SIZE


@pytest.mark.parametrize("token", [2**20, 2**31, 1_700_000_000, 2**62])
@pytest.mark.parametrize("dtype", [np.int64, np.uint64])
def test_other_data_of_a_run_are_checked_too(tmp_path: Path, token: int, dtype: type) -> None:
    tokens = np.arange(24).reshape(6, 4).astype(dtype)
    tokens[3, 2] = token
    np.savez(tmp_path / "x.npz", x=tokens)
    settings = datasets.entry("npz").settings()
    with pytest.raises(UserError, match=rf"x\.npz.*{token}"):
        datasets.load_all("npz", tmp_path / "x.npz", settings, Normalization())


@pytest.mark.parametrize("name", ["wav", "blizzard"])
@pytest.mark.parametrize("rate", [0, 999, 1_000_000, 10**12])
def test_sample_rates_beyond_measure(name: str, rate: int) -> None:
    from zpyro.training.config import resolve

    with pytest.raises(UserError, match=r"data\.sample_rate"):
        resolve(name, datasets.entry(name).settings, assignments=[f"data.sample_rate={rate}"])


@pytest.mark.parametrize("count", [0, 2**20, 2**31, 2**32 - 1])
@pytest.mark.parametrize("packed", [False, True])
def test_images_that_are_not_there(tmp_path: Path, count: int, packed: bool) -> None:
    content = struct.pack(">4I", 0x803, count, 28, 28) + bytes(784)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match="announces"):
        read_idx(path)


def test_small_files_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.amat"
    path.write_text((" ".join("01" * 392) + "\n") * 3)
    # A read takes as much memory as it is asked for, here 1 GiB at most.
    assert read_amat(path).shape == (3, 784)
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert read_amat(path).shape == (3, 784)


@pytest.mark.parametrize("size", [2_147_485, 10**9, 10**15])
def test_strings_of_bits_beyond_measure(size: int) -> None:
    with pytest.raises(UserError, match=f"size {size}: 10 problems of {size:,} cells do not fit"):
        prefix_sums.build(Request("test", size, 10, 0))


@pytest.mark.parametrize("size", [1467, 10**6 + 1, 10**12 + 1])
def test_mazes_beyond_measure(size: int) -> None:
    with pytest.raises(UserError, match=f"size {size}: .* do not fit in memory"):
        mazes_task.build(Request("test", size, 10, 0))


class _Large(nn.Module):
    def __init__(self, likelihood: Gaussian, **sizes: Any) -> None:
        del likelihood, sizes
        raise RuntimeError(self.message)

    message = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes."


def test_models_that_do_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    config = model_config("rnn")
    monkeypatch.setattr(type(MODELS), "find", lambda *_: _Large)
    monkeypatch.setattr("zpyro.training.building.arguments", lambda _: {})
    with pytest.raises(UserError, match="model rnn: its weights do not fit in memory; set model"):
        build_model(config, Gaussian(2))
    monkeypatch.setattr(_Large, "message", "another error")
    with pytest.raises(RuntimeError, match="another error"):
        build_model(config, Gaussian(2))
