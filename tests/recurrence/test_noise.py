"""Shards of random numbers are rows of those of the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from zpyro.nn import Dropout, NoiseSource, ShardNoise

pytestmark = pytest.mark.fast

LIKE = torch.zeros((), dtype=torch.float64)
ROWS = torch.tensor([1, 3, 4])
TOTAL = 6


def sample(source: NoiseSource, kind: str, rows: int, particles: int) -> Tensor:
    torch.manual_seed(0)
    shape = torch.Size((2, particles * rows, 5))
    return getattr(source, kind)(shape, LIKE, dim=-2)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_shards_are_rows_of_the_whole(kind: str, particles: int) -> None:
    whole = sample(NoiseSource(), kind, TOTAL, particles)
    shard = sample(ShardNoise(ROWS, TOTAL), kind, len(ROWS), particles)
    expected = whole.unflatten(1, (particles, TOTAL))[:, :, ROWS].flatten(1, 2)
    assert torch.equal(shard, expected)


def test_dropout_of_a_shard_is_that_of_its_rows() -> None:
    dropout = Dropout(0.5)
    inputs = torch.randn(TOTAL, 7)
    torch.manual_seed(0)
    whole = dropout(inputs)
    dropout.noise_source = ShardNoise(ROWS, TOTAL)
    torch.manual_seed(0)
    assert torch.equal(dropout(inputs[ROWS]), whole[ROWS])
    assert torch.equal(dropout.eval()(inputs), inputs)
