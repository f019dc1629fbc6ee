"""One torch optimizer for all parameters of a Pyro program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch import Tensor, nn

import zpyro
from tests.core.cases import Case, make
from zpyro.training import JointOptim

pytestmark = pytest.mark.fast

ADAM: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}
STEPS = 3


def named(case: Case) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in case.module.named_parameters()}


def train(case: Case, optimizer: PyroOptim, steps: int = STEPS) -> dict[str, Tensor]:
    """The parameters after some steps of SVI."""
    svi = SVI(
        case.module.model, case.module.guide, optimizer, loss=zpyro.ZForcingELBO(0.5, 0.1, 0.1)
    )
    pyro.set_rng_seed(1)
    for _ in range(steps):
        svi.step(*case.batch)
    return named(case)


def case_of(name: str = "model") -> Case:
    """The same model at every call."""
    pyro.clear_param_store()
    case = make("gaussian")
    case.module.store_name = name
    return case


def by_name(name: str) -> dict[str, Any]:
    """Another learning rate for biases."""
    return {"lr": 1e-1} if "bias" in name else {"lr": 1e-3, "eps": 1e-4}


@pytest.mark.parametrize("optim_args", [ADAM, by_name])
def test_without_clipping_it_updates_as_pyro_does(optim_args: Any) -> None:
    expected = train(case_of(), PyroOptim(torch.optim.Adam, optim_args))
    found = train(case_of(), JointOptim(torch.optim.Adam, optim_args))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12)


def test_it_clips_the_norm_of_the_whole_gradient() -> None:
    joint = train(case_of(), JointOptim(torch.optim.SGD, {"lr": 0.1}, {"clip_norm": 0.3}))
    case = case_of()
    loss = zpyro.ZForcingELBO(0.5, 0.1, 0.1)(case.module.model, case.module.guide)
    parameters = list(case.module.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1)
    pyro.set_rng_seed(1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(*case.batch).backward()
        assert nn.utils.clip_grad_norm_(parameters, 0.3) > 0.3
        optimizer.step()
    for name, value in named(case).items():
        torch.testing.assert_close(joint[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("first", [JointOptim, PyroOptim])
@pytest.mark.parametrize("second", [JointOptim, PyroOptim])
def test_a_saved_state_continues_in_either(
    first: type[PyroOptim], second: type[PyroOptim], tmp_path: Path
) -> None:
    whole = train(case_of(), PyroOptim(torch.optim.Adam, by_name), 2 * STEPS)
    pyro.clear_param_store()
    case = case_of()
    optimizer = first(torch.optim.Adam, by_name)
    train(case, optimizer)
    optimizer.save(str(tmp_path / "state"))
    other = second(torch.optim.Adam, by_name)
    other.load(str(tmp_path / "state"))
    svi = SVI(case.module.model, case.module.guide, other, loss=zpyro.ZForcingELBO(0.5, 0.1, 0.1))
    for _ in range(STEPS):
        svi.step(*case.batch)
    for name, value in named(case).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-12)


def test_parameters_outside_of_a_step_keep_values_and_gradients() -> None:
    pyro.clear_param_store()
    parts = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    for number, part in enumerate(parts):
        pyro.param(f"p{number}", part)
        part.grad = torch.ones(2)
    optimizer = JointOptim(torch.optim.SGD, {"lr": 0.5})
    assert optimizer.get_state() == {}
    optimizer(parts[:2])
    optimizer(parts[1:])
    assert [part.tolist() for part in parts] == [[0.5, 0.5], [0.0, 0.0], [0.5, 0.5]]
    assert all(part.grad is not None and part.grad.eq(1).all() for part in parts)


def test_a_schedule_of_torch_sets_its_learning_rate() -> None:
    case, optimizer = case_of(), JointOptim(torch.optim.Adam, ADAM)
    train(case, optimizer, steps=1)
    assert optimizer.optimizer is not None
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer.optimizer, 0.5)
    train(case, optimizer, steps=1)
    schedule.step()
    (group,) = optimizer.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.5 * ADAM["lr"])


def test_it_needs_a_torch_optimizer() -> None:
    optimizer = JointOptim(lambda params, lr: None, {"lr": 0.1})  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="pass a torch optimizer"):
        train(case_of(), optimizer)
