"""Forecasts, imputation and filtering of a linear-Gaussian model against its Kalman filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import zpyro
from tests.core.cases import make
from tests.core.linear_series import FilteringSeries, Kalman, LinearSeries, Series, series
from zpyro.datasets import Batch, Normalization, Sequences

STEPS = 5


def batch_of(given: Series) -> Batch:
    return Batch(
        given.x.where(given.observed, 0.0),
        given.lengths,
        None,
        ("a", "b", "c"),
        observed=given.observed,
        covariates=given.covariates,
    )


@pytest.mark.parametrize("covariates", [0, 2])
@pytest.mark.parametrize("method", ["posterior", "smc"])
def test_forecasts_have_the_kalman_mean_and_covariance(method: str, covariates: int) -> None:
    model = LinearSeries(covariates) if method == "posterior" else FilteringSeries(covariates)
    given, count = series(covariates), 8000
    found = zpyro.forecast(
        model,
        batch_of(given),
        STEPS,
        num_samples=count,
        covariates=given.future,
        method=method,
        seed=1,
    )
    assert found.samples.shape == (count, 3, STEPS, 2)
    kalman = Kalman(model)
    for i in range(3):
        x, observed, u = given.rows(i)
        later = np.zeros((STEPS, 0)) if given.future is None else given.future[i].numpy()
        if given.covariates is None:
            known = np.concatenate([u, later])
        else:
            known = np.concatenate([given.covariates[i, : len(x)].numpy(), later])
        mean, covariance = kalman.forecast(x, observed, known)
        error = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2) / count)
        assert (abs(found.mean[i] - mean) < 5 * error).all()
        paths = found.samples[:, i] - found.mean[i]
        spread = np.einsum("ntd,nte->tde", paths, paths) / (count - 1)
        scale = np.sqrt(np.einsum("tdd,tee->tde", covariance, covariance) * 2 / count)
        assert (abs(spread - covariance) < 5 * scale).all()


@pytest.mark.parametrize("cls", [LinearSeries, FilteringSeries])
def test_the_filter_agrees_with_kalman_at_every_step(cls: type[LinearSeries]) -> None:
    """Particles from the prior, and from the optimal proposal."""
    model = cls(2)
    given, kalman = series(2, lengths=(12, 12, 12)), Kalman(model)
    exact = [kalman.filter(*given.rows(i)) for i in range(3)]
    stream = zpyro.Filter(model, num_sequences=3, num_particles=20_000, seed=2)
    assert given.covariates is not None
    fewest = torch.full((3,), 20_000.0, dtype=torch.float64)
    for t in range(12):
        expected = stream.predict(given.covariates[:, t])
        found = stream.step(given.x[:, t], given.covariates[:, t])
        fewest = torch.minimum(fewest, found.effective_paths)
        for i, each in enumerate(exact):
            error, std = 6.0 / float(fewest[i]) ** 0.5, each.variance[t] ** 0.5
            mean = each.mean[t] - each.shifts[t]
            assert float(found.mean[i, 0]) == pytest.approx(mean, abs=error * std)
            assert float(found.std[i, 0]) == pytest.approx(std, rel=error)
            assert float(found.log_likelihood[i]) == pytest.approx(
                each.log_likelihood[t], abs=error
            )
            variances = np.diagonal(each.spread[t])
            for predictive in (expected, found.predictive):
                difference = abs(predictive.mean[i].numpy() - each.predicted[t])
                assert (difference < error * variances**0.5).all()
                np.testing.assert_allclose(predictive.variance[i], variances, rtol=error)
    # Else the tolerances would mean little.
    assert (fewest > (100 if cls is LinearSeries else 800)).all()
    assert stream.steps == 12


@pytest.mark.fast
@pytest.mark.parametrize(
    "name", ["gaussian", "rnn", "dmm_tokens", "storn", "vrnn_mixture", "srnn", "categorical"]
)
def test_the_filter_is_that_of_the_bound(name: str) -> None:
    """Of every model: finite, and for a model without latents the exact likelihood."""
    case = make(name, lengths=(4, 4))
    stream = zpyro.Filter(case.module, num_sequences=2, num_particles=30, start=case.start)
    total = torch.zeros(2, dtype=torch.float64)
    for t in range(4):
        before = stream.predict()
        found = stream.step(case.x[:, t])
        assert torch.isfinite(before.log_prob(case.x[:, t])).all()
        total += found.log_likelihood
        assert found.weights.sum(0).tolist() == pytest.approx([1.0, 1.0])
    if name == "rnn":
        terms = zpyro.sequence_terms(case.module, *case.batch, noise=case.noise)
        torch.testing.assert_close(total, terms.log_likelihood.sum(1).detach())
    assert torch.isfinite(total).all()


@pytest.mark.fast
def test_a_filter_refuses_what_does_not_fit() -> None:
    case = make("vrnn", lengths=(4,))
    stream = zpyro.Filter(case.module)
    with pytest.raises(zpyro.UserError, match=r"x: has shape \(1, 2\); it must be \(1, 3\)"):
        stream.step(np.zeros(2))
    with pytest.raises(zpyro.UserError, match="x: has missing values"):
        stream.step(np.array([1.0, np.nan, 0.0]))
    with pytest.raises(zpyro.UserError, match="built for 0 a step, but some were given"):
        stream.step(np.zeros(3), covariates=np.zeros(2))
    with pytest.raises(zpyro.UserError, match="num_particles 0"):
        zpyro.Filter(case.module, num_particles=0)
    assert stream.steps == 0


def test_imputed_values_have_the_smoothed_moments() -> None:
    """Of a state without feedback, against conditioning the dense Gaussian."""
    model = LinearSeries(feedback=0.0)
    given, count = series(lengths=(8,)), 6000
    found = zpyro.impute(model, batch_of(given), num_samples=count, seed=3)
    x, observed, _ = given.rows(0)
    known, steps = observed.ravel(), np.arange(len(x))
    start = np.array([model.q * sum(model.a ** (2 * k) for k in range(t + 1)) for t in steps])
    states = start[np.minimum.outer(steps, steps)] * model.a ** abs(np.subtract.outer(steps, steps))
    c = model.c.detach().numpy()
    covariance = np.kron(states, np.outer(c, c)) + np.kron(np.eye(len(x)), np.diag(model.r))
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
    mean = (gain @ x.ravel()[known]).reshape(x.shape)
    variance = np.diagonal(covariance - gain @ covariance[known]).reshape(x.shape)
    assert (found.samples[:, 0][:, observed] == x[observed]).all()
    assert (found.std[0][observed] < 1e-9).all()
    mean, variance = mean[~observed], variance[~observed]
    assert (abs(found.mean[0][~observed] - mean) < 5 * np.sqrt(variance / count)).all()
    ratio = found.std[0][~observed] ** 2 / variance
    assert (abs(ratio - 1) < 5 * np.sqrt(2 / count)).all()


@pytest.mark.fast
@pytest.mark.parametrize(
    "name", ["gaussian", "bernoulli", "categorical", "rnn", "dmm", "storn", "srnn", "vrnn_mixture"]
)
def test_every_model_forecasts_and_imputes(name: str) -> None:
    case = make(name, missing=True, covariate_size=2)
    observed = torch.rand(case.x.shape) < 0.7
    batch = Batch(
        case.x.where(observed, torch.zeros((), dtype=case.x.dtype)),
        case.lengths,
        case.start,
        ("a", "b", "c"),
        observed=observed,
        covariates=torch.randn(3, 5, 2),
    )
    known = np.zeros((4, 2))
    for method in ("posterior", "smc"):
        torch.manual_seed(0)
        found = zpyro.forecast(
            case.module, batch, 4, num_samples=3, covariates=known, method=method, seed=5
        )
        assert found.samples.shape == (3, 3, 4, *case.x.shape[2:])
        assert np.isfinite(found.samples).all()
        again = zpyro.forecast(
            case.module, batch, 4, num_samples=3, covariates=known, method=method, seed=5
        )
        np.testing.assert_array_equal(found.samples, again.samples)
    filled = zpyro.impute(case.module, batch, num_samples=3)
    assert filled.samples.shape == (3, *case.x.shape)
    for i, length in enumerate(case.lengths.tolist()):
        mask = observed[i, :length].numpy()
        inside, beyond = filled.samples[:, i, :length], filled.samples[:, i, length:]
        assert np.isfinite(inside).all()
        assert (inside[:, mask] == case.x[i, :length].numpy()[mask]).all()
        assert (np.isnan(beyond) | (beyond == -1)).all()


@pytest.mark.fast
def test_forecasts_do_not_depend_on_the_batch() -> None:
    """Series of other lengths beside one change none of its states."""
    given = series(2)
    model = LinearSeries(2)
    batch = batch_of(given)
    assert given.covariates is not None
    together = zpyro.forecast(model, batch, 1, num_samples=4000, covariates=given.future[:, :1])
    for i, length in enumerate(given.lengths.tolist()):
        rows = slice(i, i + 1)
        alone = Batch(
            batch.x[rows, :length],
            batch.lengths[rows],
            None,
            batch.names[rows],
            observed=given.observed[rows, :length],
            covariates=given.covariates[rows, :length],
        )
        one = zpyro.forecast(model, alone, 1, num_samples=4000, covariates=given.future[rows, :1])
        error = together.std[i] / 4000**0.5
        assert (abs(one.mean[0] - together.mean[i]) < 6 * error).all()


@pytest.fixture
def waves() -> Sequences:
    """Three series in raw units of 10 +- 4 with a gap."""
    values = [np.sin(np.arange(n))[:, None].astype("f4").repeat(2, 1) for n in (9, 7, 8)]
    masks = [np.ones(value.shape, dtype=bool) for value in values]
    masks[1][3:5, 0] = False
    return Sequences(
        values=tuple(np.where(m, v, np.float32(0)) for v, m in zip(values, masks, strict=True)),
        names=("a", "b", "c"),
        normalization=Normalization(10.0, 4.0),
        observed=tuple(masks),
    )


def test_a_forecast_in_raw_units_as_a_table_and_a_picture(waves: Sequences) -> None:
    torch.manual_seed(0)
    model = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(2), hidden_size=4, latent_size=2, missing=True
    )
    found = zpyro.forecast(model, waves, 3, num_samples=40)
    scaled = zpyro.forecast(model, waves.batch(), 3, num_samples=40)
    np.testing.assert_allclose(found.samples, 10.0 + 4.0 * scaled.samples, rtol=1e-5)
    low, high = found.quantile([0.25, 0.75])
    assert (low <= high).all()
    np.testing.assert_allclose(found.quantile(0.5), np.median(found.samples, axis=0), rtol=1e-6)
    table = found.to_dataframe(levels=(0.1, 0.9))
    assert list(table) == ["series", "step", "dimension", "mean", "q0.1", "q0.9"]
    assert len(table) == 3 * 3 * 2
    row = table[(table.series == "b") & (table.step == 2) & (table.dimension == "1")]
    assert row["mean"].item() == pytest.approx(found.mean[1, 1, 1])
    assert np.isnan(found.history[1][3:5, 0]).all()
    assert found.history[0].mean() == pytest.approx(10.0, abs=2.0)
    figure = found.plot("b")
    assert [panel.get_ylabel() for panel in figure.axes] == ["0", "1"]
    assert "Forecast(samples of shape (40, 3, 3, 2))" in repr(found)
    renamed = replace(found, dimensions=("u", "v"))
    assert set(renamed.to_dataframe().dimension) == {"u", "v"}
    filled = zpyro.impute(model, waves, num_samples=5)
    seen = ~np.isnan(filled.history[1])
    np.testing.assert_allclose(filled.mean[1, :7][seen], filled.history[1][seen], rtol=1e-5)
    assert np.isfinite(filled.mean[1, :7]).all()
    assert np.isnan(filled.mean[1, 7:]).all()


@pytest.mark.fast
def test_forecasts_refuse_what_does_not_fit(waves: Sequences) -> None:
    model = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(2), hidden_size=4, latent_size=2, missing=True, covariate_size=1
    )
    known = tuple(np.zeros((len(value), 1), dtype="f4") for value in waves.values)
    data = replace(waves, covariates=known)
    for arguments, message in (
        ({"method": "kalman"}, "method is 'kalman'; choose one of posterior, smc"),
        ({"steps": 0}, "steps is 0"),
        ({}, "covariates: the model reads 1 a step; give those of the 2 new steps"),
        ({"covariates": np.zeros((3, 3, 1))}, r"have shape \(3, 3, 1\); they must be \(3, 2, 1\)"),
        ({"covariates": np.full((2, 1), np.nan)}, "covariates: hold NaN"),
    ):
        with pytest.raises(zpyro.UserError, match=message):
            zpyro.forecast(model, data, **{"steps": 2, "num_samples": 2, **arguments})
    found = zpyro.forecast(model, data, 2, num_samples=2, covariates=np.zeros((2, 1)))
    with pytest.raises(zpyro.UserError, match="series 'd' is unknown; choose from a, b, c"):
        found.plot("d")
    with pytest.raises(zpyro.UserError, match=r"levels are 1\.5"):
        found.quantile(1.5)
    tokens = make("categorical")
    words = zpyro.forecast(tokens.module, Batch(tokens.x, tokens.lengths, None, ("a", "b", "c")), 2)
    with pytest.raises(zpyro.UserError, match="tokens have no mean"):
        _ = words.mean
