"""Every contender of the benchmarks takes a step, and those of the same equations agree."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zpyro
from benchmarks.contenders import MAKERS, make
from benchmarks.plain_srnn import PlainSRNN
from benchmarks.sizes import TINY
from zpyro.models import SRNN

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", MAKERS)
def test_a_contender_takes_steps(name: str) -> None:
    step = make(name, TINY)
    losses = [step() for _ in range(2)]
    assert all(loss is None or torch.as_tensor(loss).isfinite().all() for loss in losses)


def test_contenders_of_the_same_equations_have_the_same_loss() -> None:
    losses: dict[str, Tensor] = {}
    for name in ("plain", "fused", "fast", "svi"):
        step = make(name, TINY)
        torch.manual_seed(1)  # the same noise
        losses[name] = torch.as_tensor(step()).sum()
    for name, loss in losses.items():
        torch.testing.assert_close(loss, losses["plain"], msg=name)


def test_the_plain_srnn_has_the_bound_and_the_gradient_of_the_model() -> None:
    torch.manual_seed(0)
    sizes = TINY.hidden, TINY.latent, TINY.embedding, TINY.mlp
    model = SRNN(zpyro.likelihoods.Gaussian(TINY.frame), *sizes).double()
    plain = PlainSRNN(TINY.frame, *sizes).double()
    blocks = {
        "prior_network.hidden": "prior.0",
        "prior_network.output": "prior.2",
        "posterior_network.hidden": "posterior.0",
        "posterior_network.output": "posterior.2",
        "output.hidden": "output.0",
        "output.output": "output.2",
    }
    weights = {}
    for name, value in model.named_parameters():
        block = name.rpartition(".")[0]
        weights[name.replace(block, blocks.get(block, block))] = value
    weights = {name: weights[name] for name in plain.state_dict()}
    plain.load_state_dict(weights)
    shape = TINY.sequences, TINY.steps
    x, start = torch.randn(*shape, TINY.frame).double(), torch.randn(shape[0], TINY.frame).double()
    noise = torch.randn(*shape, TINY.latent).double()
    expected = zpyro.sequence_terms(model, x, None, start, noise)
    inputs = torch.cat([start.unsqueeze(1), x[:, :-1]], dim=1)
    found = plain(*(part.transpose(0, 1) for part in (inputs, x, noise)))
    torch.testing.assert_close(found.kl, expected.kl.sum(1))
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood.sum(1))
    (found.kl - found.log_likelihood).sum().backward()
    (expected.kl - expected.log_likelihood).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, weights[name].grad, msg=name)
