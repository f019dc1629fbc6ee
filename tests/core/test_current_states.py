"""States are computed from the present parameters and frames, however those were changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pyro import poutine
from torch import Tensor

import zpyro
from tests.core.cases import Case, make
from zpyro import evaluation

pytestmark = pytest.mark.fast


def _fused_adam(case: Case) -> None:
    parameters = list(case.module.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(parameters, 0.1, fused=True).step()


def _foreach_sgd(case: Case) -> None:
    parameters = list(case.module.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(parameters, 0.1, foreach=True).step()


def _data_write(case: Case) -> None:
    for parameter in case.module.parameters():
        parameter.data.mul_(1.5)


def _data_replaced(case: Case) -> None:
    for parameter in case.module.parameters():
        parameter.data = parameter.data * 1.5


def _vector(case: Case) -> None:
    vector = torch.nn.utils.parameters_to_vector(case.module.parameters()).detach()
    torch.nn.utils.vector_to_parameters(1.5 * vector, case.module.parameters())


def _assigned(case: Case) -> None:
    state = {name: 1.5 * value for name, value in case.module.state_dict().items()}
    case.module.load_state_dict(state, assign=True)


def _start_in_place(case: Case) -> None:
    case.start.add_(3.0)


def _frames_through_numpy(case: Case) -> None:
    case.x.numpy()[:] += 2.0


def _frames_through_a_view(case: Case) -> None:
    case.x.detach()[:, 0].mul_(3.0)


CHANGES = (
    _fused_adam,
    _foreach_sgd,
    _data_write,
    _data_replaced,
    _vector,
    _assigned,
    _start_in_place,
    _frames_through_numpy,
    _frames_through_a_view,
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_replay_after_a_change(change: Callable[[Case], None]) -> None:
    case = make("gaussian", lengths=(5, 5, 5))
    model, guide = case.module.model, case.module.guide
    # No lengths: the frames of the batch are those of the caller, not a copy.
    arguments = case.x, None, case.start
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(*arguments)
        change(case)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*arguments)
        latents = {"z": trace.nodes["z"]["value"].clone()}
        anew = poutine.trace(poutine.condition(model, data=latents)).get_trace(*arguments)
        torch.testing.assert_close(replayed.log_prob_sum(), anew.log_prob_sum())


def test_a_guide_without_gradients_leaves_the_model_its_own() -> None:
    case = make("gaussian")

    def guide(*arguments: Any) -> Tensor:
        with torch.no_grad():
            return case.module.guide(*arguments)

    zpyro.ZForcingELBO().differentiable_loss(case.module.model, guide, *case.batch).backward()
    assert case.module.cell.projection.weight.grad.any()


@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_inference_mode(granularity: str) -> None:
    case = make("gaussian", granularity=granularity)
    data = zpyro.datasets.load("vowels", utterances=20)
    small = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(200), 8, 2, embedding_size=6, mlp_size=6, granularity=granularity
    )
    with torch.no_grad():
        expected = evaluation.evaluate(small, data.test).elbo
    with torch.inference_mode():
        assert evaluation.evaluate(small, data.test).elbo == pytest.approx(expected)
        assert poutine.trace(case.module.guide).get_trace(case.x * 1, *case.batch[1:]).nodes
        assert zpyro.reconstruct(small, data.test[:1].batch()).mean.shape[0] == 1
        assert case.module.generate(3, prefix=case.x * 1).shape == (3, 3, 3)
        loss = zpyro.ZForcingELBO(1.0, 0.1, 0.1).loss(case.module.model, case.module.guide, case.x)
        assert loss == loss


def test_functional_call() -> None:
    case = make("gaussian")
    module = zpyro.ZForcingELBO(1.0, 0.1, 0.1)(case.module.model, case.module.guide)
    scaled = {n: (1.2 * p).detach().requires_grad_() for n, p in module.named_parameters()}
    torch.manual_seed(1)
    found = torch.func.functional_call(module, scaled, case.batch)
    found.backward()
    assert all(value.grad is not None for value in scaled.values())
    with torch.no_grad():
        for parameter in case.module.parameters():
            parameter.mul_(1.2)
    torch.manual_seed(1)
    torch.testing.assert_close(module(*case.batch), found)
