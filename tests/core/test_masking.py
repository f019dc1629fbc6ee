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
from zpyro.models import bound_model, model_config
from zpyro.models.masking import interpolate, sample_hidden
from zpyro.nn.noise import CounterNoise, NoiseSource
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


def test_hidden_numbers_are_those_of_the_row() -> None:
    """Neither other rows of the batch, of another process, nor padding change them."""
    found: list[Tensor] = []
    for rows, steps in (([0, 1, 2, 3], 20), ([1, 3], 20), ([1, 3], 30)):
        source = CounterNoise(3)
        source.start_step(torch.tensor(9), torch.tensor(rows))
        found.append(sample_hidden(source, torch.zeros(len(rows), steps, 2), 0.3, 5))
    assert found[0].any()
    assert (found[0][[1, 3]] == found[1]).all()
    assert (found[2][:, :20] == found[1]).all()


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
