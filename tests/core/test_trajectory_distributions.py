"""The distributions over whole sequences: draws, supports, and values of a wrong shape."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine
from torch import Tensor

from tests.core.cases import Case, make
from zpyro.models.distributions import TrajectoryLikelihood, TrajectoryNormal

pytestmark = pytest.mark.fast


def sites(case: Case, x: Tensor | None) -> tuple[TrajectoryNormal, TrajectoryLikelihood]:
    """The prior and the likelihood of the program over sequences, along the case's latents."""
    model = poutine.condition(case.module.program("sequence")[0], data={"z": case.noise})
    trace = poutine.trace(model).get_trace(x, case.lengths, case.start)
    return trace.nodes["z"]["fn"], trace.nodes["x"]["fn"]


def test_draws_beside_given_frames_are_one_step_ahead() -> None:
    case = make("gaussian", lengths=(5, 5, 5))
    _, likelihood = sites(case, case.x)
    torch.manual_seed(0)
    draws = likelihood.sample((4000,))
    assert draws.shape == (4000, 3, 5, 3)
    steps = poutine.condition(
        case.module.program("step")[0], data={f"z_{t + 1}": case.noise[:, t] for t in range(5)}
    )
    trace = poutine.trace(steps).get_trace(*case.batch)
    for t in range(5):
        normal = trace.nodes[f"x_{t + 1}"]["fn"].base_dist
        error = normal.scale / 4000**0.5
        assert ((draws[:, :, t].mean(0) - normal.loc).abs() < 5 * error).all()
        torch.testing.assert_close(draws[:, :, t].std(0), normal.scale, rtol=0.1, atol=0)


def test_free_draws_have_the_shape_asked_for_and_differ() -> None:
    case = make("bernoulli")
    _, likelihood = sites(case, None)
    torch.manual_seed(0)
    draws = likelihood.sample((50,))
    assert draws.shape == (50, 3, 5, 3)
    assert draws.unique().tolist() == [0.0, 1.0]
    beyond = torch.arange(5) >= case.lengths[:, None]
    assert not draws[:, beyond].any()


@pytest.mark.parametrize(
    ("name", "outside"),
    [("gaussian", torch.nan), ("mixture", torch.nan), ("bernoulli", 2.0), ("categorical", 6)],
)
def test_supports_hold_what_is_possible_and_nothing_else(name: str, outside: float) -> None:
    case = make(name)
    prior, likelihood = sites(case, case.x)
    assert likelihood.support.check(case.x).tolist() == [True] * 3
    wrong = case.x.clone()
    wrong[1, 0] = outside
    assert likelihood.support.check(wrong).tolist() == [True, False, True]
    z = case.noise.clone()
    z[2, 1, 0] = torch.nan
    assert prior.support.check(z).tolist() == [True, True, False]


def test_a_value_of_another_shape_is_told() -> None:
    case = make("gaussian")
    prior, likelihood = sites(case, case.x)
    with pytest.raises(ValueError, match="shape"):
        prior.log_prob(case.noise[:, :4])
    with pytest.raises(ValueError, match="shape"):
        likelihood.log_prob(case.x[..., :2])


def test_a_model_without_latents_has_its_prior_for_a_posterior() -> None:
    module = make("rnn").module
    context = torch.randn(4, 3, 6, dtype=torch.float64)
    for ours, prior in zip(module.posterior(context, context), module.prior(context), strict=True):
        assert torch.equal(ours, prior)
