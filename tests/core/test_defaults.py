"""The fast whole-sequence methods of every model equal the defaults made of its single steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.core.cases import MODELS, gradients, make
from zpyro.models import StepwiseModel

pytestmark = pytest.mark.fast

EXACT = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_sampled_paths_equal_the_default(name: str, particles: int) -> None:
    case = make(name)
    results: list[tuple[list[Tensor], dict[str, Tensor]]] = []
    torch.manual_seed(1)
    noise = torch.randn(3 * particles, 5, case.module.latent_size, dtype=torch.float64)
    for owner in (type(case.module), StepwiseModel):
        bound = case.module.bind(case.x, case.lengths, case.start)
        path = owner.sample_posterior_path(
            case.module,
            bound.backward_states,
            owner.input_features(case.module, bound.inputs),
            noise,
            case.module.first_state(3 * particles),
        )
        outputs = [path.z, path.context, path.features, path.mean, path.log_variance]
        loss = sum(((part**2).sum() for part in outputs), torch.zeros(()))
        results.append((outputs, gradients(case.module, loss)))
    (fast, fast_gradients), (default, default_gradients) = results
    for ours, theirs in zip(fast, default, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    for parameter, expected in default_gradients.items():
        torch.testing.assert_close(fast_gradients[parameter], expected, **EXACT, msg=parameter)


@pytest.mark.parametrize("name", MODELS)
def test_states_given_latents_equal_the_default(name: str) -> None:
    case = make(name)
    bound = case.module.bind(case.x, case.lengths, case.start)
    state = case.module.first_state(3)
    found = [
        owner.states_given_latents(
            case.module, case.noise, owner.input_features(case.module, bound.inputs), state
        )
        for owner in (type(case.module), StepwiseModel)
    ]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
