"""Random numbers of a process are those of its rows, in any batch and on any device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zpyro.nn import CounterNoise, Dropout, NoiseSource
from zpyro.nn import noise as noise_module
from zpyro.nn.noise import philox

pytestmark = pytest.mark.fast

LIKE = torch.zeros((), dtype=torch.float64)
ROWS = torch.tensor([1, 3, 4])
TOTAL = 6


def counters(rows: Tensor | range, step: int = 5, seed: int = 7) -> CounterNoise:
    source = CounterNoise(seed)
    source.start_step(torch.tensor(step), torch.as_tensor(list(rows)))
    return source


def sample(source: NoiseSource, kind: str, rows: int, particles: int) -> Tensor:
    shape = torch.Size((2, particles * rows, 5))
    return getattr(source, kind)(shape, LIKE, dim=-2)


@pytest.fixture(params=["numpy", "tensors"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How numbers are made on a CPU, or as they are on other devices."""
    if request.param == "tensors":
        on_device = CounterNoise._sample_on_device
        monkeypatch.setattr(CounterNoise, "_sample_on_cpu", on_device)
    return request.param


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_shards_are_rows_of_the_whole(kind: str, particles: int) -> None:
    whole = sample(counters(range(TOTAL)), kind, TOTAL, particles)
    shard = sample(counters(ROWS), kind, len(ROWS), particles)
    expected = whole.unflatten(1, (particles, TOTAL))[:, :, ROWS].flatten(1, 2)
    assert torch.equal(shard, expected)
    assert len(whole.unique()) == whole.numel()


def test_dropout_of_a_shard_is_that_of_its_rows() -> None:
    dropout = Dropout(0.5)
    inputs = torch.randn(TOTAL, 7)
    dropout.noise_source = counters(range(TOTAL))
    whole = dropout(inputs)
    dropout.noise_source = counters(ROWS)
    assert torch.equal(dropout(inputs[ROWS]), whole[ROWS])
    assert torch.equal(dropout.eval()(inputs), inputs)


@pytest.mark.usefixtures("path")
def test_numbers_do_not_depend_on_the_padding() -> None:
    short, long = (counters(ROWS).normal(torch.Size((3, steps, 4)), LIKE) for steps in (5, 9))
    assert torch.equal(short, long[:, :5])


@pytest.mark.usefixtures("path")
def test_every_call_step_seed_and_row_has_numbers_of_its_own() -> None:
    sources = [counters(ROWS), counters(ROWS, step=6), counters(ROWS, seed=8), counters(ROWS + 9)]
    shape = torch.Size((3, 40))
    found = torch.cat([source.normal(shape, LIKE) for source in sources for _ in range(2)])
    assert len(found.unique()) == found.numel()
    again = counters(ROWS)
    assert torch.equal(torch.cat([again.normal(shape, LIKE) for _ in range(2)]), found[:6])


@pytest.mark.usefixtures("path")
def test_the_distributions_are_right() -> None:
    count, shape = 400_000, torch.Size((20, 20_000))
    normal = counters(range(20)).normal(shape, LIKE)
    uniform = counters(range(20), step=1).uniform(shape, LIKE)
    # Moments, each within five of its standard errors.
    for moment, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        found = float(normal.pow(moment).mean())
        assert abs(found - expected) < 5 * math.sqrt(spread / count)
    below = float((normal < 1).double().mean())
    assert abs(below - 0.8413447) < 5 * math.sqrt(0.1334 / count)
    assert abs(float(uniform.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / count)
    assert 0 <= uniform.min() < uniform.max() < 1
    correlations = normal.corrcoef() - torch.eye(20)
    assert correlations.abs().max() < 5 / math.sqrt(shape[1])


def test_dropout_keeps_the_mean() -> None:
    dropped = counters(range(100)).dropout(torch.ones(100, 1000), 0.3)
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1 / 0.7))}
    assert abs(float(dropped.mean()) - 1) < 5 * math.sqrt(0.3 / 0.7 / dropped.numel())
    assert not counters(range(3)).dropout(torch.ones(3, 9), 1.0).any()


@pytest.mark.usefixtures("path")
def test_what_has_no_rows_is_the_same_everywhere() -> None:
    shape = torch.Size((4, 2))
    here, there = (counters(range(n, n + 3)).normal(shape, LIKE) for n in (0, 3))
    assert torch.equal(here, there)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_have_the_dtype_asked_for(dtype: torch.dtype) -> None:
    assert counters(ROWS).normal(torch.Size((3, 2)), torch.zeros(1, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_has_its_published_numbers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The known answers of the Random123 library."""
    words = philox(tuple(torch.tensor([word]) for word in counter), key)  # pyright: ignore
    assert tuple(int(word) for word in words) == expected


def test_counters_work_where_values_cannot_be_read() -> None:
    source = CounterNoise(0)
    source.start_step(*(torch.zeros(shape, dtype=torch.int64, device="meta") for shape in ((), 3)))
    like = torch.zeros((), device="meta")
    assert source.normal(torch.Size((3, 5)), like).shape == (3, 5)
    assert noise_module.ROUNDS == 10
