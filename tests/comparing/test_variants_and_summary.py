"""Variants, equal parameters, and the statistics of a comparison."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests.run import small
from zpyro.analysis.comparison import (
    VARIANTS,
    Resources,
    find_variants,
    markdown_table,
    summarize,
)
from zpyro.analysis.comparison.summary import STUDENT_T, estimate
from zpyro.analysis.comparison.variants import count_parameters, match_parameters, variant_config
from zpyro.errors import UserError
from zpyro.training.config import ObjectiveConfig


@pytest.mark.fast
def test_student_quantiles() -> None:
    expected = stats.t.ppf(0.975, np.arange(1, len(STUDENT_T) + 1))
    np.testing.assert_allclose(STUDENT_T, expected, atol=6e-4)


@pytest.mark.fast
def test_an_estimate_is_the_students_interval() -> None:
    values = [3.0, 5.5, 4.0, 7.25]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = estimate(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.half_width == pytest.approx((high - low) / 2, rel=1e-3)
    assert estimate([2.0]).half_width is None


@pytest.mark.fast
def test_differences_are_paired_by_seed() -> None:
    def result(elbo: float) -> dict[str, float]:
        return {"elbo": elbo, "iwae": elbo, "kl": 1.0, "active_units": 2, "seconds": 3.0}

    bounds = {"a": [10.0, 20.0, 31.0], "b": [12.0, 21.0, 34.0]}
    results = {
        name: {seed: {**result(v), "steps": 5, "parameters": 7} for seed, v in enumerate(values)}
        for name, values in bounds.items()
    }
    del results["b"][1]
    summary = summarize("title", 9, {**results, "c": {}})
    assert summary.rows[0].difference is None
    difference = summary.rows[1].difference
    assert difference is not None
    assert difference.values == (2.0, 3.0)
    assert summary.missing == ("c",)
    table = markdown_table(summary)
    assert "| b | 7 | 2 |" in table
    assert "+2.5 ± 6.4" in table
    assert "IWAE, 9 paths" in table
    assert "perplexity" not in table
    assert "Without a result: c." in table


@pytest.mark.fast
def test_a_table_per_frame() -> None:
    result = {"elbo": -30.0, "elbo_median": -29.0, "iwae": -28.0, "smc": -27.0, "kl": 6.0}
    counts = {"sequences": 4, "frames": 80, "steps": 5, "parameters": 7, "seconds": 1.0}
    results = {"a": {0: {**result, **counts}}, "b": {0: {**result, **counts, "elbo": -25.0}}}
    summary = summarize("title", 9, results, unit="frame")
    estimates = summary.rows[0].estimates
    assert {key: estimates[key].mean for key in ("elbo", "iwae", "smc", "kl", "steps")} == {
        "elbo": -1.5,
        "iwae": pytest.approx(-1.4),
        "smc": pytest.approx(-1.35),
        "kl": pytest.approx(0.3),
        "steps": 5,
    }
    table = markdown_table(summary)
    assert "nats per frame." in table
    assert "particle filter, 9" in table
    assert "median" not in table
    assert "| b | 7 | 1 | -1.250 | -1.400 | -1.350 | 0.300 | 5 | 1 | +0.250 |" in table


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants_have_the_parameters_asked_for(name: str) -> None:
    data = small.dataset()
    base = small.settings()
    model = variant_config(base, VARIANTS[name]).model
    for wanted in (20_000, 150_000):
        found = count_parameters(match_parameters(model, data, wanted), data)
        assert found == pytest.approx(wanted, rel=0.06)


@pytest.mark.fast
def test_variants_differ_in_their_objectives() -> None:
    base = small.settings()
    plain, annealed, both = (
        variant_config(base, VARIANTS[name]).objective
        for name in ("zforcing-plain", "zforcing-annealed", "zforcing")
    )
    assert (plain.kl_weight, plain.auxiliary_weight) == (1.0, 0.0)
    assert (annealed.kl_weight, annealed.auxiliary_weight) == (0.5, 0.0)
    assert (both.kl_weight, both.auxiliary_weight) == (0.5, 0.01)
    assert variant_config(base, VARIANTS["srnn-auxiliary"]).objective.auxiliary_weight == 0.01
    assert variant_config(base, VARIANTS["vrnn"]).objective.auxiliary_weight == 0.0
    assert variant_config(base, VARIANTS["rnn"]).model.name == "rnn"


@pytest.mark.fast
def test_variants_by_name_and_custom_ones() -> None:
    rows = find_variants(["rnn"], ["free=zforcing objective.free_bits=0.5 model.latent_size=3"])
    assert [row.name for row in rows] == ["rnn", "free"]
    assert rows[1].assignments == ("objective.free_bits=0.5", "model.latent_size=3")
    assert rows[1].auxiliary
    for names, own, message in (
        (["lstm"], [], "row lstm is unknown"),
        (["rnn", "rnn"], [], "a name is repeated"),
        (["rnn"], ["free"], "write --row"),
        (["rnn"], ["a/b=rnn"], "write --row"),
        (["rnn"], ["free=zforcing 5"], "write --row"),
    ):
        with pytest.raises(UserError, match=message):
            find_variants(names, own)


@pytest.mark.fast
def test_processes_get_threads_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    resources = Resources(at_once=3, threads=2, devices=("4", "6"))
    found = [resources.environment(place) for place in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["4", "6", "4"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {"2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert resources.environment(0)["OMP_NUM_THREADS"] == "1"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA_VISIBLE_DEVICES" not in Resources(1, 1).environment(0)


@pytest.mark.fast
def test_auxiliary_variants_need_a_weight() -> None:
    from dataclasses import replace

    config = replace(small.settings(), objective=ObjectiveConfig())
    with pytest.raises(UserError, match="row zforcing has auxiliary costs"):
        variant_config(config, VARIANTS["zforcing"])
