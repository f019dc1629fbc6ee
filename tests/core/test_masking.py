"""Known values hidden in training, and lines in place of missing values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zpyro
from tests.core.cases import make
from tests.core.test_contract import EXACT, assert_same
from tests.core.test_missing_and_covariates import BUILT, given, terms_of
from zpyro.datasets.linear_prediction import fill_gaps
from zpyro.errors import UserError
from zpyro.likelihoods import Gaussian
from zpyro.models import DMM, bound_model, model_config
from zpyro.models.masking import interpolate, sample_hidden
from zpyro.nn.noise import NoiseSource
from zpyro.training import build_model

NAMES = ("gaussian", "categorical", "dmm", "storn", "vrnn_mixture", "srnn", "srnn_tokens", "rnn")
pytestmark = pytest.mark.fast


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[[Tensor], None]:
    """Fixes which numbers a training step hides."""

    def fix(hidden: Tensor) -> None:
        monkeypatch.setattr(bound_model, "sample_hidden", lambda *_: hidden)

    return fix


def test_a_line_is_that_of_numpy() -> None:
    random = np.random.default_rng(0)
    x, observed = random.normal(size=(20, 9, 3)), random.random((20, 9, 3)) < 0.4
    observed[0] = False
    found = interpolate(torch.from_numpy(np.where(observed, x, 7.0)), torch.from_numpy(observed))
    expected = np.stack([fill_gaps(each) for each in np.where(observed, x, np.nan)])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert not found[0].any()


def test_hidden_numbers_are_the_share_that_was_asked_for() -> None:
    torch.manual_seed(0)
    frames = torch.zeros(4000, 60, 2)
    for longest in (1, 12):
        hidden = sample_hidden(NoiseSource(), frames, 0.2, longest)
        # Runs that would begin before the first step are lacking.
        assert hidden[:, longest - 1 :].double().mean() == pytest.approx(0.2, abs=0.01)
        shares = hidden[:, longest - 1 :].double().mean((1, 2))
        assert 0.05 < shares.std() < 0.25
        both = (hidden[:, 30, 0] & hidden[:, 30, 1]).double().mean()
        after = (hidden[:, 30, 0] & hidden[:, 31, 0]).double().mean()
        assert (after > 1.5 * both) == (longest > 1)
    tokens = sample_hidden(NoiseSource(), torch.zeros(50, 10, dtype=torch.long), 0.3, 4)
    assert tokens.shape == (50, 10)


@pytest.mark.parametrize("name", NAMES)
def test_networks_read_what_is_visible_and_the_likelihood_all(
    name: str, hide: Callable[[Tensor], None]
) -> None:
    case = make(name, **BUILT)
    observed = given(case)["observed"]
    hidden = torch.rand(case.x.shape, generator=torch.Generator().manual_seed(5)) < 0.5
    expected = terms_of(case, observed=observed & ~hidden)
    case.module.mask_rate = 0.5
    hide(hidden)
    found, step = terms_of(case), terms_of(case, "step")
    assert_same(found, step)
    for term in ("z", "kl", "posterior_mean", "prior_mean", "log_auxiliary"):
        torch.testing.assert_close(getattr(found, term), getattr(expected, term), **EXACT)
    # The same states score all the numbers that are known.
    case.module.eval()
    bound = case.module.bind(*case.batch, observed & ~hidden, given(case)["covariates"])
    features = bound.trajectory(found.z).features
    scored = bound.frames_time_major(case.x.where(observed, case.x.new_zeros(())))
    density = case.module.likelihood.observed_log_prob(
        case.module.emission(features), scored, bound.frames_time_major(observed)
    )
    torch.testing.assert_close(found.log_likelihood, bound.per_step(density, torch.Size()), **EXACT)
    # Evaluation hides nothing.
    assert_same(terms_of(case), terms_of(make(name, **BUILT)))


@pytest.mark.parametrize("name", ["gaussian", "dmm", "storn", "srnn", "vrnn"])
def test_a_line_is_read_by_posteriors_that_read_the_future_alone(name: str) -> None:
    case = make(name, **BUILT)
    zeros = terms_of(case)
    case.module.fill = "interpolate"
    found = terms_of(case)
    assert_same(found, terms_of(case, "step"))
    if name in ("storn", "vrnn") and not case.module.reads_future:
        assert_same(found, zeros)
        return
    observed, covariates = given(case).values()
    within = observed & (torch.arange(case.x.shape[1]) < case.lengths[:, None])[..., None]
    filled = [
        fill_gaps(each[:length].numpy())
        for each, length in zip(case.x.where(within, torch.nan), case.lengths, strict=True)
    ]
    lines = torch.zeros_like(case.x)
    for row, each in zip(lines, filled, strict=True):
        row[: len(each)] = torch.from_numpy(each)
    bound = case.module.bind(*case.batch, observed, covariates)
    beyond = bound.conditions.mask
    assert beyond is not None
    embedded = case.module.embed_frames(lines, observed, bound.conditions.covariates)
    states = case.module.encode_future(embedded, bound.input_features, beyond)
    torch.testing.assert_close(bound.backward_states[beyond], states[beyond], **EXACT)
    assert (found.posterior_mean != zeros.posterior_mean).any()
    dirty = case.x.clone()
    dirty[~within] = torch.nan
    assert_same(found, terms_of(case, x=dirty))


def test_what_does_not_fit_is_refused() -> None:
    case = make("dmm")
    case.module.mask_rate = 0.1
    with pytest.raises(UserError, match=r"mask_rate is 0\.1, but this DMM was built"):
        case.module.bind(*case.batch).inputs  # noqa: B018
    with pytest.raises(UserError, match="for the model vrnn with the likelihood gaussian"):
        build_model(model_config("vrnn", fill="interpolate"), Gaussian(2))


def test_settings_are_kept(tmp_path: Any) -> None:
    config = model_config(
        "dmm", hidden_size=4, latent_size=2, mask_rate=0.3, mask_length=7, fill="interpolate"
    )
    model = build_model(config, Gaussian(2))
    model.save(tmp_path / "model")
    again = zpyro.load(tmp_path / "model")
    assert (again.mask_rate, again.mask_length, again.fill) == (0.3, 7, "interpolate")


def linear_gaussian(count: int, steps: int, seed: int) -> np.ndarray:
    """s_t = 0.9 s_{t-1} + N(0, 0.19), read by two numbers with noise of deviation 0.3."""
    random = np.random.default_rng(seed)
    state = random.normal(size=count)
    frames = np.empty((count, steps, 2))
    for t in range(steps):
        state = 0.9 * state + np.sqrt(0.19) * random.normal(size=count)
        frames[:, t] = state[:, None] * [1.0, -1.0] + 0.3 * random.normal(size=(count, 2))
    return frames


def smoothed(frames: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """The mean given the observed numbers, by conditioning the dense Gaussian."""
    steps = np.arange(frames.shape[1])
    states = 0.9 ** abs(np.subtract.outer(steps, steps))
    covariance = np.kron(states, np.outer([1, -1], [1, -1])) + 0.09 * np.eye(2 * len(steps))
    means: list[np.ndarray] = []
    for x, mask in zip(frames, observed, strict=True):
        known = mask.ravel()
        gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
        means.append((gain @ x.ravel()[known]).reshape(x.shape))
    return np.stack(means)


def test_a_trained_model_approaches_the_smoother() -> None:
    """Its imputations are nearly as good as the best there are, those of the Kalman smoother."""
    frames = linear_gaussian(40, 24, 2)
    observed = np.random.default_rng(3).random(frames.shape) < 0.75
    gaps = np.where(observed, frames, np.nan)
    data = zpyro.datasets.from_arrays(
        linear_gaussian(300, 24, 0), valid=linear_gaussian(20, 24, 1), test=gaps, normalize=False
    )
    torch.manual_seed(0)
    model = DMM(Gaussian(2), 12, 2, 12, 12, missing=True)
    model.mask_rate, model.mask_length, model.fill = 0.25, 6, "interpolate"
    zpyro.fit(model, data, steps=300, learning_rate=1e-2, kl_weight=1.0, seed=0)
    imputed = zpyro.impute(model, data.test, num_samples=100).mean
    exact = smoothed(frames, observed)
    lines = np.stack([fill_gaps(each) for each in gaps])
    missing = ~observed
    error, best, line = (abs(each - frames)[missing].mean() for each in (imputed, exact, lines))
    assert error < 1.1 * best < 0.9 * line
    assert abs(imputed - exact)[missing].mean() < 0.12
