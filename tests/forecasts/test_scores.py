"""Scores of forecasts against closed forms and plain loops; backtests against hand-made origins."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import properscoring
import pytest

from zpyro.errors import UserError
from zpyro.evaluation import (
    History,
    LinearAutoregression,
    SeasonalNaive,
    backtest,
    crps,
    energy_score,
    interval_coverage,
    interval_width,
    mase,
    naive_error,
    score_forecasts,
)
from zpyro.evaluation.baselines.forecasters import fill_gaps

pytestmark = pytest.mark.fast
RANDOM = np.random.default_rng(0)


def gaussian_crps(mean: float, scale: float, value: float) -> float:
    """The closed form of Gneiting and Raftery (2007), equation 5."""
    z, normal = (value - mean) / scale, NormalDist()
    return scale * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - np.pi**-0.5)


def test_crps_is_the_plain_double_sum() -> None:
    samples, observed = RANDOM.normal(size=(9, 4, 3)), RANDOM.normal(size=(4, 3))
    near = np.abs(samples - observed).mean(0)
    spread = np.abs(samples[:, None] - samples[None]).sum((0, 1))
    np.testing.assert_allclose(crps(samples, observed, fair=False), near - spread / (2 * 81))
    np.testing.assert_allclose(crps(samples, observed), near - spread / (2 * 72))


def test_crps_agrees_with_properscoring() -> None:
    samples, observed = RANDOM.normal(size=(50, 4, 3)), RANDOM.normal(size=(4, 3))
    expected = properscoring.crps_ensemble(observed, np.moveaxis(samples, 0, -1))
    np.testing.assert_allclose(crps(samples, observed, fair=False), expected)


def test_fair_crps_has_the_mean_of_the_closed_form_with_few_samples() -> None:
    samples = 0.5 + 2.0 * np.random.default_rng(1).normal(size=(4, 200_000))
    expected = gaussian_crps(0.5, 2.0, 1.7)
    scores = crps(samples, np.full(200_000, 1.7))
    error = scores.std() / 200_000**0.5
    assert abs(scores.mean() - expected) < 4 * error
    assert abs(crps(samples, np.full(200_000, 1.7), fair=False).mean() - expected) > 20 * error


def test_crps_of_many_samples_is_the_closed_form() -> None:
    samples = -1.0 + 0.3 * np.random.default_rng(2).normal(size=100_000)
    for value in (-2.0, -1.0, 0.4):
        assert crps(samples, value) == pytest.approx(gaussian_crps(-1.0, 0.3, value), abs=4e-3)


def test_energy_score_is_the_plain_double_sum_and_the_crps_in_one_dimension() -> None:
    samples, observed = RANDOM.normal(size=(7, 5, 3)), RANDOM.normal(size=(5, 3))
    pairs = np.linalg.norm(samples[:, None] - samples[None], axis=-1).sum((0, 1))
    near = np.linalg.norm(samples - observed, axis=-1).mean(0)
    np.testing.assert_allclose(energy_score(samples, observed, fair=False), near - pairs / 98)
    np.testing.assert_allclose(
        energy_score(samples[..., :1], observed[..., :1]), crps(samples, observed)[..., 0]
    )


def test_missing_values_are_left_out() -> None:
    samples, observed = RANDOM.normal(size=(8, 2, 6, 3)), RANDOM.normal(size=(2, 6, 3))
    observed[0, 2, 1] = np.nan
    observed[1, 5] = np.nan
    assert np.isnan(crps(samples, observed)).sum() == 4
    np.testing.assert_allclose(
        energy_score(samples, observed)[0, 2],
        energy_score(samples[..., [0, 2]], observed[..., [0, 2]])[0, 2],
    )
    assert np.isnan(energy_score(samples, observed)[1, 5])
    scores = score_forecasts(samples, observed, np.ones((2, 3)))
    assert scores.num_values == 32
    poisoned = samples.copy()
    poisoned[:, 1, 5] = 1e9
    again = score_forecasts(poisoned, observed, np.ones((2, 3)))
    assert (again.crps, again.mase, again.energy_score) == (
        scores.crps,
        scores.mase,
        scores.energy_score,
    )


def test_interval_coverage_and_width_of_uniform_samples() -> None:
    samples = np.linspace(0.0, 1.0, 101)[:, None] * np.ones(4)
    assert interval_coverage(samples, [0.04, 0.3, 0.7, 0.97], 0.9) == 0.5
    assert interval_coverage(samples, [0.05, 0.3, np.nan, 0.95], 0.9) == 1.0
    assert interval_width(samples, 0.5) == pytest.approx(0.5)


def test_mase_of_the_seasonal_naive_forecast_is_one_on_a_like_series() -> None:
    history = np.array([1.0, 5.0, 2.0, 7.0, 3.0, 9.0])
    assert naive_error(history, 2) == pytest.approx(6.0 / 4)
    assert mase([4.0, 10.0], [5.5, 11.5], history, 2) == pytest.approx(1.0)
    history[1] = np.nan
    assert naive_error(history, 2) == pytest.approx(4.0 / 3)


def test_normalized_scores_do_not_depend_on_the_scale() -> None:
    samples, observed = RANDOM.normal(size=(30, 2, 4, 3)) + 5, RANDOM.normal(size=(2, 4, 3)) + 5
    one = score_forecasts(samples, observed, np.ones((2, 3)))
    ten = score_forecasts(10 * samples, 10 * observed, 10 * np.ones((2, 3)))
    for name in ("crps", "crps_sum", "coverage_50", "coverage_90", "mase"):
        assert getattr(ten, name) == pytest.approx(getattr(one, name))
    assert ten.width_90 == pytest.approx(10 * one.width_90)
    by_hand = crps(samples, observed).sum() / np.abs(observed).sum()
    assert one.crps == pytest.approx(by_hand)
    sums = crps(samples.sum(-1), observed.sum(-1)).sum() / np.abs(observed.sum(-1)).sum()
    assert one.crps_sum == pytest.approx(sums)


def test_wrong_arguments_are_refused_in_one_line() -> None:
    for call in (
        lambda: crps(np.zeros((3, 2)), np.zeros(3)),
        lambda: crps(np.zeros((1, 2)), np.zeros(2)),
        lambda: interval_width(np.zeros((3, 2)), 1.0),
        lambda: naive_error(np.zeros(3), 0),
        lambda: score_forecasts(
            np.zeros((3, 1, 1, 1)), np.full((1, 1, 1), np.nan), np.ones((1, 1))
        ),
        lambda: backtest(SeasonalNaive(), [np.zeros((9, 1))], steps=5, first=5),
        lambda: backtest(SeasonalNaive(), [np.zeros((9, 1))], steps=0, first=5),
        lambda: SeasonalNaive(0),
        lambda: LinearAutoregression(lags=0),
    ):
        with pytest.raises(UserError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_backtest_shows_nothing_of_what_it_asks_for() -> None:
    seen: list[tuple[int, int | None]] = []

    def forecaster(
        histories: Sequence[History], steps: int, num_samples: int, seed: int
    ) -> np.ndarray:
        for history in histories:
            covariates = history.covariates
            seen.append((len(history.values), None if covariates is None else len(covariates)))
        lasts = np.stack([history.values[-1] for history in histories])
        return np.broadcast_to(
            lasts[None, :, None], (num_samples, len(histories), steps, lasts.shape[-1])
        )

    series = [np.arange(20.0)[:, None], np.arange(11.0)[:, None]]
    known = [np.zeros((20, 2)), np.zeros((11, 2))]
    found = backtest(
        forecaster, series, steps=4, first=(8, 7), stride=3, covariates=known, batch_size=2
    )
    assert found.origins == ((0, 8), (0, 11), (0, 14), (1, 7))
    assert seen == [(8, 12), (11, 15), (14, 18), (7, 11)]
    np.testing.assert_array_equal(found.observed[1, :, 0], [11.0, 12.0, 13.0, 14.0])
    assert found.scores.mae == 2.5
    flat = backtest(forecaster, [np.arange(20.0)], steps=4, first=8)
    assert flat.observed.shape == (3, 4, 1)
    assert found.scores.mase == 2.5


def sine(length: int, noise: float, seed: int) -> np.ndarray:
    moments = np.arange(length)
    clean = np.stack([np.sin(2 * np.pi * moments / 12), np.cos(2 * np.pi * moments / 12)], 1)
    return clean + noise * np.random.default_rng(seed).normal(size=clean.shape)


def test_seasonal_naive_repeats_a_season_without_errors() -> None:
    history = History(sine(60, 0.0, 0))
    samples = SeasonalNaive(12)([history], 30, 3, 0)
    assert samples.shape == (3, 1, 30, 2)
    np.testing.assert_allclose(
        samples, np.broadcast_to(sine(90, 0.0, 0)[60:], (3, 1, 30, 2)), atol=1e-12
    )


def test_linear_autoregression_has_the_forecast_of_a_known_process() -> None:
    random, values = np.random.default_rng(0), np.zeros((4000, 1))
    for step in range(1, 4000):
        values[step] = 0.8 * values[step - 1] + random.normal()
    samples = LinearAutoregression(lags=1)([History(values)], 5, 20_000, 0)[:, 0, :, 0]
    powers = 0.8 ** np.arange(1, 6)
    np.testing.assert_allclose(samples.mean(0), powers * values[-1, 0], atol=0.1)
    expected = np.sqrt(np.cumsum(0.8 ** (2 * np.arange(5))))
    np.testing.assert_allclose(samples.std(0), expected, rtol=0.06)


@pytest.mark.parametrize("forecaster", [SeasonalNaive(12), LinearAutoregression(12, 12)])
def test_baselines_are_calibrated_on_noisy_seasons(
    forecaster: SeasonalNaive | LinearAutoregression,
) -> None:
    series = sine(1200, 0.3, 1)
    series[np.random.default_rng(2).random(series.shape) < 0.02] = np.nan
    scores = backtest(forecaster, [series], steps=12, first=600, season=12).scores
    assert abs(scores.coverage_50 - 0.5) < 0.06
    assert abs(scores.coverage_90 - 0.9) < 0.05
    assert scores.num_forecasts == 50


@pytest.mark.parametrize("length", [1, 2, 5, 13, 30])
@pytest.mark.parametrize("forecaster", [SeasonalNaive(12), LinearAutoregression(24, 12)])
def test_baselines_forecast_from_short_and_empty_histories(
    forecaster: SeasonalNaive | LinearAutoregression, length: int
) -> None:
    values = RANDOM.normal(size=(length, 2))
    values[:, 1] = np.nan
    samples = forecaster([History(values)], 20, 6, 0)
    assert samples.shape == (6, 1, 20, 2)
    assert np.isfinite(samples).all()


def test_gaps_are_filled_on_a_line() -> None:
    values = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [8.0, 4.0]])
    np.testing.assert_allclose(fill_gaps(values), [[2, 1], [2, 2], [5, 3], [8, 4]])


def test_statsforecast_models_have_samples_of_their_intervals() -> None:
    pytest.importorskip("statsforecast", reason="in the extra forecast")
    from zpyro.evaluation import StatsForecast

    series = sine(240, 0.3, 3)
    samples = StatsForecast("AutoETS", 12)([History(series)], 12, 400, 0)
    scores = score_forecasts(samples, sine(252, 0.3, 3)[None, 240:], naive_error(series, 12)[None])
    assert samples.shape == (400, 1, 12, 2)
    assert scores.mase < 1.3
    with pytest.raises(UserError, match="has no AutoThing"):
        StatsForecast("AutoThing", 12)([History(series)], 12, 4, 0)
