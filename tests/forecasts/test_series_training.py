"""Training and evaluation on series with missing values and covariates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import zpyro
from tests.run import small
from zpyro.datasets import Dataset
from zpyro.training import build_model, checkpoint, fit_to_data, runs
from zpyro.training.building import build_likelihood


def series(missing: bool = True, covariates: bool = True, count: int = 24) -> Dataset:
    """Waves in two dimensions that follow their covariate, a fifth of the numbers missing."""
    random = np.random.default_rng(0)
    frames, known = [], []
    for _ in range(count):
        length = int(random.integers(6, 11))
        phase = random.uniform(0, 6) + np.arange(length)
        known.append(np.stack([np.sin(phase), np.cos(phase)], 1))
        wave = np.stack([np.sin(phase), 2 * np.cos(phase)], 1)
        wave += 0.1 * random.normal(size=wave.shape)
        if missing:
            wave[random.random(wave.shape) < 0.2] = np.nan
        frames.append(wave)
    return zpyro.datasets.from_arrays(
        frames, covariates=known if covariates else None, valid_fraction=0.2, test_fraction=0.2
    )


@pytest.mark.parametrize("name", ["zforcing", "srnn"])
def test_a_run_on_series_with_gaps(tmp_path: Path, name: str) -> None:
    data = series()
    settings = small.settings(max_steps=12)
    model = zpyro.models.model_config(name, hidden_size=8, latent_size=2, mlp_size=6)
    config = replace(settings, model=fit_to_data(model, data), dataset=data.name)
    assert config.model.missing
    assert config.model.covariate_size == 2
    likelihood = build_likelihood(config.model, data.likelihood, data.frame_size)
    torch.manual_seed(0)
    module = build_model(config.model, likelihood)
    run = runs.create(tmp_path / "run", config)
    zpyro.fit(module, data, config, run=run)
    again = checkpoint.load(run.best).model
    for scores in (zpyro.evaluate, zpyro.iwae, zpyro.smc):
        first, second = scores(module, data.test), scores(again, data.test)
        values = [
            vars(each)[scores.__name__.replace("evaluate", "elbo")] for each in (first, second)
        ]
        assert np.isfinite(values).all()
        assert values[0] == pytest.approx(values[1], rel=1e-6)
    batch = data.test.batch()
    assert np.isfinite(zpyro.posterior(module, batch).z[:, :, 0]).all()
    filled = zpyro.reconstruct(module, batch)
    assert filled.frames.isfinite().all()
    assert filled.mean.shape == (1, *batch.x.shape)
    decoded = zpyro.decode(module, filled.z[0], covariates=batch.covariates)
    assert decoded.frames.isfinite().all()


def trained_for_a_step(data: Dataset, folder: Path) -> checkpoint.Checkpoint:
    config = replace(
        small.settings(max_steps=1), model=fit_to_data(small.MODEL, data), dataset=data.name
    )
    likelihood = build_likelihood(config.model, data.likelihood, data.frame_size)
    run = runs.create(folder, config)
    zpyro.fit(build_model(config.model, likelihood), data, config, run=run)
    return checkpoint.load(run.best)


@pytest.mark.fast
def test_a_sampled_continuation_of_a_prefix_with_gaps(tmp_path: Path) -> None:
    data = series(covariates=False)
    held = trained_for_a_step(data, tmp_path / "run")
    prefix = np.array([[0.5, np.nan], [np.nan, np.nan], [0.1, 0.2]])
    assert np.isfinite(zpyro.analysis.sample(held, 2, 3, prefix=prefix)).all()


@pytest.mark.fast
def test_samples_follow_covariates(tmp_path: Path) -> None:
    data = series(missing=False)
    held = trained_for_a_step(data, tmp_path / "run")
    known = np.random.default_rng(0).normal(size=(5, 2))
    prefix = np.array([[0.5, 0.1], [0.1, 0.2]])
    found = zpyro.analysis.sample(held, 3, 3, prefix=prefix, covariates=known, seed=4)
    scale = held.data.normalization
    zpyro.distributed.seed_everything(4)
    expected = held.model.generate(
        3,
        num_sequences=3,
        prefix=torch.from_numpy(scale.apply(prefix)).repeat(3, 1, 1),
        covariates=torch.from_numpy(scale.apply_to_covariates(known)).repeat(3, 1, 1),
    )
    np.testing.assert_allclose(found, scale.invert(expected.numpy()), rtol=1e-6)
    other = zpyro.analysis.sample(held, 3, 3, prefix=prefix, covariates=known + 1, seed=4)
    assert (other != found).any()
    for wrong in (None, known[:4]):
        with pytest.raises(zpyro.UserError, match=r"reads 2 covariates a frame, but has"):
            zpyro.analysis.sample(held, 3, 3, prefix=prefix, covariates=wrong)


@pytest.mark.fast
def test_models_are_set_up_for_their_data() -> None:
    plain = series(missing=False, covariates=False)
    config = fit_to_data(small.MODEL, plain)
    assert not config.missing
    assert config.covariate_size == 0
    assert config.likelihood == "gaussian"
    wrong = replace(small.MODEL, covariate_size=3)
    with pytest.raises(zpyro.UserError, match=r"model\.covariate_size is 3, but the data have 2"):
        fit_to_data(wrong, series())
