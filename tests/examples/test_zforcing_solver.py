"""Z-Forcing on prefix sums: reads the bits alone, never ahead, and stays an honest Pyro model."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from tests.examples.small import strings
from zpyro.models.generation import run_forward
from zpyro_examples.easy_to_hard.zforcing_solver import ZForcingSolver, frames_of


@pytest.fixture
def solver() -> ZForcingSolver:
    pyro.clear_param_store()
    torch.manual_seed(0)
    return ZForcingSolver(7).double()


@pytest.mark.fast
def test_frames() -> None:
    inputs = torch.tensor([[[1, 0, 1]]])
    frames, start = frames_of(inputs, torch.tensor([[1, 1, 0]]))
    assert frames.tolist() == [[[1, 0], [1, 1], [0, 0]]]
    assert start.tolist() == [[0, 1]]


@pytest.mark.fast
def test_the_recurrence_does_not_read_the_sums(solver: ZForcingSolver) -> None:
    x, y = strings()
    module = solver.module
    hidden = []
    z = torch.randn(4, 9, 8, dtype=torch.float64)
    for sums in (y, 1 - y):
        frames, start = frames_of(x, sums)
        process = module.bind(frames, None, start)
        hidden.append(process.trajectory(z).features)
    assert torch.equal(*hidden)


@pytest.mark.fast
def test_an_answer_does_not_look_ahead(solver: ZForcingSolver) -> None:
    x, _ = strings()
    later = x.clone()
    later[:, :, 5:] = 1 - later[:, :, 5:]
    one, other = (next(solver.answers(each, 1)).logits for each in (x, later))
    assert torch.equal(one[:, :, :5], other[:, :, :5])
    assert not torch.equal(one[:, :, 5:], other[:, :, 5:])


@pytest.mark.fast
def test_answers_are_the_emissions_along_the_priors_mean(solver: ZForcingSolver) -> None:
    x, y = strings()
    module = solver.module
    frames, start = frames_of(x, y)
    process = module.bind(frames, None, start)
    zero = torch.zeros(4, 9, 8, dtype=torch.float64)
    first = run_forward(module, start, 9, noise=zero, frames=frames)
    emissions = module.emission(process.trajectory(first.z).features)[..., 0]
    logits = next(solver.answers(x, 1)).logits
    expected = emissions.reshape(9, 4).T
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.fast
def test_without_the_auxiliary_term_the_loss_is_stock_pyros(solver: ZForcingSolver) -> None:
    x, y = strings()
    frames, start = frames_of(x, y)
    honest = ZForcingSolver(7, auxiliary_weight=0.0).double()
    honest.load_state_dict(solver.state_dict())
    torch.manual_seed(1)
    loss = honest.loss(x, y)
    torch.manual_seed(1)
    module = honest.module
    stock = TraceMeanField_ELBO().loss(module.model, module.guide, frames, None, start)
    assert loss.item() * y.numel() == pytest.approx(stock, rel=1e-5)


def test_it_learns_to_say_the_bits_again() -> None:
    torch.manual_seed(0)
    solver = ZForcingSolver(12)
    x, _ = strings(count=64)
    x, y = x.float(), x[:, 0].long()
    optimizer = torch.optim.Adam(solver.parameters(), lr=2e-2)
    for _ in range(60):
        optimizer.zero_grad()
        solver.loss(x, y).backward()
        optimizer.step()
    with torch.no_grad():
        answer = next(solver.answers(x, 1)).logits.argmax(1)
    assert (answer == y).float().mean() > 0.95
