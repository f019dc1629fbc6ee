"""Sums that stay on the device."""

from __future__ import annotations

import json

import pytest
import torch

from zpyro.training.accumulator import MetricAccumulator
from zpyro.training.sequence_task import summarize

pytestmark = pytest.mark.fast


TERMS = ("log_likelihood", "kl", "log_auxiliary", "log_reverse")


def accumulator() -> MetricAccumulator:
    return MetricAccumulator(torch.device("cpu"), TERMS)


def add(
    tally: MetricAccumulator, loss: float, log_likelihood: float = -30.0, norm: float = 1.0
) -> bool:
    numbers = map(torch.tensor, (loss, log_likelihood, 10.0, 0.0, 0.0))
    values: dict[str, torch.Tensor] = dict(zip(("loss", *TERMS), numbers, strict=True))
    return bool(tally.add(values, torch.tensor(norm), torch.tensor(2), torch.tensor(10)))


def test_means_are_per_sequence_per_frame_and_per_step() -> None:
    tally = accumulator()
    add(tally, 40.0)
    add(tally, 80.0, norm=3.0)
    found = summarize(tally.read(), 2.0)
    assert found["loss"] == 30.0
    assert found["bound"] == -20.0
    assert found["kl_per_frame"] == 1.0
    assert found["gradient_norm"] == 2.0
    assert found["frames_per_second"] == 10.0
    tally.clear()
    assert summarize(tally.read(), 0.0)["loss"] is None


@pytest.mark.parametrize("bad", [{"loss": float("nan")}, {"loss": 1.0, "norm": float("inf")}])
def test_a_step_that_is_not_finite_counts_as_skipped_alone(bad: dict[str, float]) -> None:
    tally = accumulator()
    assert add(tally, 40.0)
    before = tally.read()
    assert not add(tally, **bad)
    assert not add(tally, **bad)
    assert tally.read() == before
    assert tally.skipped() == (2, 2)
    assert add(tally, 40.0)
    assert tally.skipped() == (2, 0)


def test_the_state_comes_back_through_json() -> None:
    tally, other = accumulator(), accumulator()
    add(tally, 40.1)
    add(tally, float("inf"))
    other.load_state_dict(json.loads(json.dumps(tally.state_dict())))
    assert (other.read(), other.skipped()) == (tally.read(), tally.skipped())
