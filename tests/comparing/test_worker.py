"""The scores of one run of a comparison."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from zpyro.analysis.comparison import Scoring, worker
from zpyro.analysis.comparison.summary import markdown_table, summarize

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("nats", "perplexity"),
    [
        (-10.0, math.exp(10.0)),
        (-0.0, 1.0),
        (-700.0, math.exp(700.0)),
        (-1e4, math.inf),
        (-1e300, math.inf),
        (-math.inf, math.inf),
    ],
)
def test_low_bounds_of_text_have_large_perplexities(
    monkeypatch: pytest.MonkeyPatch, nats: float, perplexity: float
) -> None:
    counts: dict[str, Any] = {"sequences": 3, "frames": 3, "elbo": nats, "elbo_per_frame": nats}
    other: dict[str, Any] = dict.fromkeys(worker.ELBO_KEYS, 0)
    elbo = worker.evaluation.Evaluation(
        **{**other, **counts}, names=(), elbo_by_sequence=torch.zeros(0).numpy()
    )
    iwae = SimpleNamespace(iwae=nats, monte_carlo_stderr=0.0)
    monkeypatch.setattr(worker.evaluation, "evaluate", lambda *_, **__: elbo)
    monkeypatch.setattr(worker.evaluation, "iwae", lambda *_, **__: iwae)
    settings = SimpleNamespace(
        train=SimpleNamespace(device="cpu"), model=SimpleNamespace(hidden_size=1)
    )
    checkpoint = SimpleNamespace(model=torch.nn.Linear(1, 1), step=1)
    run: Any = SimpleNamespace(config=lambda: settings, load=lambda *_: checkpoint)
    dataset: Any = SimpleNamespace(split=lambda _: SimpleNamespace(data_type="tokens"))
    scores = worker.score(run, dataset, Scoring(particles=2))
    assert scores["perplexity"] == pytest.approx(perplexity)
    assert scores["perplexity_iwae"] == pytest.approx(perplexity)
    results = {"zforcing": {seed: {**scores, "seconds": 1.0, "steps": 1} for seed in (0, 1)}}
    assert "zforcing" in markdown_table(summarize("title", 2, results))
