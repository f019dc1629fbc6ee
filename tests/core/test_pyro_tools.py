"""Pyro's parameter store holds live models only, and Pyro's other tools take the models."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, SVI, JitTrace_ELBO, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch import Tensor

import zpyro
from zpyro.training import attach_guide

GRANULARITIES = ("sequence", "step")
STATM = Path("/proc/self/statm")
X = torch.linspace(-1.0, 1.0, 16).reshape(2, 4, 2)


@pytest.fixture(autouse=True)
def _empty_store() -> None:
    gc.collect()
    pyro.clear_param_store()


def model_of(granularity: str = "sequence", hidden_size: int = 4) -> zpyro.ZForcing:
    torch.manual_seed(0)
    return zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(2), hidden_size, 2, 4, 4, granularity=granularity
    )


class Guide(PyroModule):
    """A guide with a constrained parameter, that holds the model as well."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layer = torch.nn.Linear(2, 2)
        self.scale = PyroParam(torch.ones(2), constraint=dist.constraints.positive)

    def forward(self, x: Tensor, lengths: Any = None, start: Any = None) -> Tensor:
        with pyro.plate("sequences", len(x)):
            scale: Any = self.scale
            return pyro.sample("z", dist.Normal(self.layer(x), scale).to_event(2))


def step(model: Any) -> None:
    adam = pyro.optim.Adam({"lr": 1e-3})  # pyright: ignore[reportAttributeAccessIssue]
    SVI(model.model, model.active_guide, adam, loss=zpyro.ZForcingELBO()).step(X)


@pytest.mark.fast
def test_names_do_not_depend_on_earlier_models() -> None:
    first = model_of()
    taken = first.store_name
    twin = copy.deepcopy(first)
    assert len({taken, twin.store_name, model_of().store_name}) == 3
    del first
    assert model_of().store_name == taken


@pytest.mark.fast
@pytest.mark.parametrize("custom", [False, True])
def test_a_deleted_model_leaves_nothing_in_the_store(custom: bool) -> None:
    kept, model = model_of(), model_of()
    step(kept)
    entries = set(pyro.get_param_store().keys())
    if custom:
        attach_guide(model, Guide(model))
    step(model)
    twin = copy.deepcopy(model)
    step(twin)
    prefixes = {name.split(".")[0] for name in pyro.get_param_store()}
    assert prefixes == {kept.store_name, model.store_name, twin.store_name}
    scale = f"{model.store_name}.custom_guide.scale"
    assert (scale in pyro.get_param_store()) is custom
    del model, twin
    gc.collect()
    assert set(pyro.get_param_store().keys()) == entries
    assert all(map(torch.isfinite, map(torch.sum, pyro.get_param_store().values())))
    step(kept)


@pytest.mark.fast
def test_what_others_put_into_the_store_stays() -> None:
    model = model_of()
    step(model)
    shared = f"{model.store_name}.output.bias"
    loaded = {"params": {shared: torch.zeros(2)}, "constraints": {shared: dist.constraints.real}}
    pyro.param("other", torch.ones(2))
    pyro.get_param_store().set_state(loaded)
    del model
    gc.collect()
    assert set(pyro.get_param_store().keys()) == {"other", shared}


@pytest.mark.skipif(not STATM.exists(), reason="the system does not tell the memory in use")
def test_memory_of_200_models() -> None:
    """Made, trained a step and deleted; some have a guide, a copy, or end with an exception."""
    used: list[float] = []
    for number in range(200):
        # A megabyte each with the gradients.
        model = model_of(hidden_size=128)
        if number % 3 == 1:
            attach_guide(model, Guide(model))
        step(model)
        if number % 10 == 2:
            twin = copy.deepcopy(model)
            step(twin)
            del twin
        if number % 10 == 5:
            with pytest.raises(ValueError, match="x has"):
                model.model(torch.zeros(2, 4, 7))
        del model
        if number % 10 == 9:
            gc.collect()
        used.append(int(STATM.read_text().split()[1]) * 4096 / 2**20)
    assert len(pyro.get_param_store()) == 0
    assert max(used[10:]) - used[9] <= 20.0


@pytest.mark.fast
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_pictures(granularity: str) -> None:
    pytest.importorskip("graphviz")
    names = ["z"] if granularity == "sequence" else ["z_1", "z_2", "z_3", "z_4"]
    model = model_of(granularity)
    source = pyro.render_model(model.model, (X,), render_distributions=True).source
    for name in names:
        observed = name.replace("z", "x")
        assert f"{name} -> {observed}" in source
        assert f"{name} [label={name} fillcolor=white" in source
        assert f"{observed} [label={observed} fillcolor=gray" in source
    guide = pyro.render_model(model.guide, (X,)).source
    assert all(f"{name} [label={name}" in guide for name in names)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("cls", [AutoNormal, AutoDiagonalNormal])
def test_automatic_guides(cls: Any, granularity: str) -> None:
    """The bound of a fixed batch grows; the model's parameters stay as they are."""
    model = model_of(granularity)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fixed = pyro.poutine.block(model.model, hide_types=["param"])
    guide = cls(fixed)
    adam = pyro.optim.Adam({"lr": 0.05})  # pyright: ignore[reportAttributeAccessIssue]
    elbo = Trace_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    svi = SVI(fixed, guide, adam, loss=elbo)
    losses = [svi.step(X) for _ in range(60)]
    assert sum(losses[-5:]) / 5 < losses[0] - 1.0
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_hamiltonian_monte_carlo(granularity: str) -> None:
    """Its samples have a mean near that of importance sampling from the guide."""
    model = model_of(granularity)
    x = X[:1, :2]
    kernel = NUTS(model.model, max_tree_depth=4)
    mcmc = MCMC(kernel, num_samples=100, warmup_steps=40, disable_progbar=True)
    mcmc.run(x)
    found = mcmc.get_samples()
    parts = [found[name] for name in sorted(found)]
    z = parts[0] if granularity == "sequence" else torch.stack(parts, -2)
    assert z.shape == (100, 1, 2, 2)
    with torch.no_grad(), pyro.plate("paths", 4_000, dim=-2):
        guide = pyro.poutine.trace(model.program("sequence")[1]).get_trace(x)
        replayed = pyro.poutine.replay(model.program("sequence")[0], guide)
        trace = pyro.poutine.trace(replayed).get_trace(x)
        trace.compute_log_prob()
        guide.compute_log_prob()
        weights = trace.nodes["z"]["log_prob"] + trace.nodes["x"]["log_prob"]
        weights = (weights - guide.nodes["z"]["log_prob"]).softmax(0)
        expected = (weights[..., None, None] * guide.nodes["z"]["value"]).sum(0)
    torch.testing.assert_close(z.mean(0), expected, atol=0.4, rtol=0.0)


@pytest.mark.fast
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_recorded_program_is_refused(granularity: str) -> None:
    model = model_of(granularity)
    elbo = JitTrace_ELBO(ignore_jit_warnings=True)
    with pytest.raises(zpyro.UserError, match="use Trace_ELBO for JitTrace_ELBO"):
        elbo.differentiable_loss(model.model, model.guide, X)
    kernel = NUTS(model.model, jit_compile=True, ignore_jit_warnings=True)
    mcmc = MCMC(kernel, num_samples=1, warmup_steps=1, disable_progbar=True)
    with pytest.raises(zpyro.UserError, match="NUTS without jit_compile"):
        mcmc.run(X)


@pytest.mark.fast
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_predictive_in_parallel(granularity: str) -> None:
    """Sample by sample and all at once have the same distribution."""
    model = model_of(granularity)
    z, x = ("z", "x") if granularity == "sequence" else ("z_4", "x_4")
    for arguments, guide in (((X,), model.guide), ((None, 4, X[:, 0]), None)):
        torch.manual_seed(1)
        found = [
            Predictive(model.model, guide=guide, num_samples=count, parallel=parallel)(*arguments)
            for count, parallel in ((200, False), (2_000, True))
        ]
        for name in (z, x):
            one, many = (each[name] for each in found)
            assert one.shape[1:] == many.shape[1:]
            assert many.shape[0] == 2_000
            torch.testing.assert_close(one.mean(0), many.mean(0), atol=0.5, rtol=0.0)
            torch.testing.assert_close(one.std(0), many.std(0), atol=0.35, rtol=0.0)
