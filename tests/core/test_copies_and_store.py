"""Objectives and models can be copied and pickled, and saved in Pyro's parameter store."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.nn import PyroModule, PyroParam
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

import zpyro
from tests.core.cases import make
from zpyro.objectives import TERMS, MultiSampleELBO, TracePair, register, schedules
from zpyro.training import attach_guide, resolve
from zpyro.training.callbacks import LineLogger, ProgressLogger
from zpyro.training.task import TrainState

pytestmark = pytest.mark.fast


def _saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


COPIES = (_saved, _pickled, copy.deepcopy)
SCHEDULES = (
    schedules.constant(0.5),
    schedules.linear(0.2, 1.0, steps=5),
    schedules.at_rate(1.0, 0.2, rate=0.1),
    schedules.sigmoid(0.2, 1.0, steps=5),
    schedules.cyclical(0.2, 1.0, period=4),
)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda each: type(each).__name__)
def test_schedules_and_objectives(copied: Callable[[Any], Any], schedule: Any) -> None:
    assert copied(schedule) == schedule
    for objective in (zpyro.ZForcingELBO(schedule), MultiSampleELBO(3, 1.0, schedule)):
        objective.step = 3
        assert copied(objective).weights() == objective.weights()


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("granularity", ["sequence", "step"])
def test_a_model_and_its_objective_after_a_step(
    copied: Callable[[Any], Any], granularity: str
) -> None:
    case = make("gaussian", granularity=granularity)
    module = zpyro.ZForcingELBO(1.0, 0.1, 0.1)(case.module.model, case.module.guide)
    module(*case.batch).backward()
    twin = copied(module)
    twin.zero_grad()
    twin(*case.batch).backward()
    assert all(parameter.grad is not None for parameter in twin.parameters())
    assert twin.owners[0].store_name != case.module.store_name


class Guide(PyroModule):
    """A guide with a constrained parameter, a layer, and a parameter of the store alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.layer = torch.nn.Linear(3, 2).double()
        self.scale = PyroParam(torch.ones(2).double(), constraint=dist.constraints.positive)

    def forward(self, x: Tensor, lengths: Any = None, start: Any = None) -> Tensor:
        shift = pyro.param("shift", torch.zeros(2).double())
        with pyro.plate("sequences", len(x)):
            scale: Any = self.scale
            normal = dist.Normal(self.layer(x) + shift, scale)
            return pyro.sample("z", normal.to_event(2))


def _model(seed: int, custom: bool) -> Any:
    case = make("gaussian", seed=seed)
    if custom:
        attach_guide(case.module, Guide(case.module))
    case.module.store_name = f"model_{seed}"
    return case.module


def _loss(model: Any, x: Tensor) -> float:
    torch.manual_seed(5)
    return zpyro.ZForcingELBO().loss(model.model, model.active_guide, x)


@pytest.mark.parametrize("custom", [False, True])
@pytest.mark.parametrize("first", ["loss", "generate", "terms", "step"])
def test_values_loaded_into_the_store_are_used(tmp_path: Path, custom: bool, first: str) -> None:
    if custom and first == "terms":
        pytest.skip("the terms are those of the model's own guide")
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    pyro.clear_param_store()
    trained = _model(1, custom)
    adam = pyro.optim.Adam({"lr": 0.1})  # pyright: ignore[reportAttributeAccessIssue]
    svi = SVI(trained.model, trained.active_guide, adam, loss=zpyro.ZForcingELBO())
    for _ in range(3):
        svi.step(x)
    expected = _loss(trained, x)
    file = str(tmp_path / "store")
    pyro.get_param_store().save(file)
    del svi, trained
    pyro.clear_param_store()
    fresh = _model(2, custom)
    fresh.store_name = "model_1"
    assert _loss(fresh, x) != pytest.approx(expected)
    pyro.clear_param_store()
    pyro.get_param_store().load(file)
    if first == "generate":
        fresh.generate(2)
    elif first == "terms":
        zpyro.sequence_terms(fresh, x)
    elif first == "step":
        still = pyro.optim.Adam({"lr": 0.0})  # pyright: ignore[reportAttributeAccessIssue]
        SVI(fresh.model, fresh.active_guide, still, loss=zpyro.ZForcingELBO()).step(x)
    assert _loss(fresh, x) == pytest.approx(expected)


@pytest.mark.parametrize("access", ["active_guide", "custom_guide", "guide"])
@pytest.mark.parametrize("store_is_filled", [False, True])
def test_a_guide_in_use_before_the_store_is_loaded(
    tmp_path: Path, access: str, store_is_filled: bool
) -> None:
    """The first call of the guide has the loaded values."""
    custom = access != "guide"
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    pyro.clear_param_store()
    trained = _model(1, custom)
    getattr(trained, access)(x)
    trained.model(x)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.3)
    torch.manual_seed(4)
    expected = getattr(trained, access)(x)
    file = str(tmp_path / "store")
    pyro.get_param_store().save(file)
    del trained
    pyro.clear_param_store()
    fresh = _model(2, custom)
    fresh.store_name = "model_1"
    guide = getattr(fresh, access)
    adam = pyro.optim.Adam({"lr": 0.0})  # pyright: ignore[reportAttributeAccessIssue]
    svi = SVI(fresh.model, guide, adam, loss=zpyro.ZForcingELBO())
    if store_is_filled:
        svi.step(x)
    pyro.get_param_store().load(file)
    torch.manual_seed(4)
    torch.testing.assert_close(guide(x), expected)
    pyro.clear_param_store()


def test_a_loaded_value_of_another_shape() -> None:
    pyro.clear_param_store()
    case = make("gaussian")
    pyro.get_param_store()[f"{case.module.store_name}.output.bias"] = torch.zeros(99)
    with pytest.raises(zpyro.UserError, match=r"output.bias has shape \(99,\)"):
        case.module.model(*case.batch)
    pyro.clear_param_store()


def test_assigned_weights_are_not_undone_by_the_store() -> None:
    pyro.clear_param_store()
    case = make("gaussian")
    case.module.guide(*case.batch)
    state = {name: value + 1.0 for name, value in case.module.state_dict().items()}
    case.module.load_state_dict(state, assign=True)
    case.module.guide(*case.batch)
    for name, value in case.module.state_dict().items():
        torch.testing.assert_close(value, state[name])


def test_a_copy_has_a_guide_with_parameters_of_its_own() -> None:
    pyro.clear_param_store()
    model = _model(1, True)
    x = torch.randn(3, 4, 3, dtype=torch.float64)
    _loss(model, x)
    twin = copy.deepcopy(model)
    adam = pyro.optim.Adam({"lr": 0.1})  # pyright: ignore[reportAttributeAccessIssue]
    SVI(twin.model, twin.active_guide, adam, loss=zpyro.ZForcingELBO()).step(x)
    torch.testing.assert_close(model.custom_guide.scale, torch.ones(2).double())
    assert not torch.allclose(twin.custom_guide.scale, torch.ones(2).double())


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("added", [False, True])
def test_terms_of_a_batch(copied: Callable[[Any], Any], added: bool) -> None:
    case = make("gaussian")
    with torch.no_grad():
        terms = zpyro.sequence_terms(case.module, *case.batch, terms=[Roughness()] if added else [])
    twin = copied(terms)
    assert type(twin) is type(terms)
    for name, value in vars(terms).items():
        torch.testing.assert_close(getattr(twin, name), value)
    assert hasattr(twin, "roughness") is added


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("stderr", [False, True])
@pytest.mark.parametrize("cls", [LineLogger, ProgressLogger])
def test_loggers(
    copied: Callable[[Any], Any], stderr: bool, cls: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """A copy writes to the same stream, also one made during a training."""
    task: Any = Described()
    logger = cls(Console(stderr=stderr))
    logger.on_fit_start(task, TrainState(steps_per_epoch=2))
    twin = copied(logger)
    logger.on_fit_end()
    capfd.readouterr()
    twin.on_fit_start(task, TrainState(steps_per_epoch=2))
    twin.on_validation({"best": True})
    twin.on_fit_end()
    assert "validated" in capfd.readouterr()[int(stderr)]


class Described:
    """A task that describes its records, with a lock that cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def describe_validation(self, record: Any) -> str:
        return f"validated {record['best']}"


def test_data_sets_in_a_spawned_worker() -> None:
    dataset = zpyro.datasets.from_arrays([np.ones((4, 2)) * i for i in range(10)])
    loader = DataLoader(
        cast(Any, dataset.train),
        batch_size=4,
        collate_fn=zpyro.datasets.collate,
        num_workers=1,
        multiprocessing_context="spawn",
    )
    found = [batch.x for batch in loader]
    here = DataLoader(cast(Any, dataset.train), batch_size=4, collate_fn=zpyro.datasets.collate)
    for one, other in zip(found, here, strict=True):
        torch.testing.assert_close(one, other.x)
    assert pickle.loads(pickle.dumps(dataset)).train.names == dataset.train.names


class Roughness(zpyro.objectives.Term):
    """A term for its settings."""

    name, label = "roughness", "roughness"

    def step_values(self, path: TracePair) -> Tensor:
        return path.z.square().sum(-1)


@pytest.mark.parametrize("copied", COPIES)
def test_settings_with_those_of_a_term(copied: Callable[[Any], Any]) -> None:
    register(Roughness)
    try:
        settings = zpyro.datasets.entry("vowels").settings
        config = resolve("vowels", settings, assignments=["objective.roughness_weight=0.5"])
        assert copied(config) == config
        assert copied(config.objective).roughness_weight == 0.5
        assert copied(zpyro.datasets.entry("vowels")).name == "vowels"
    finally:
        TERMS.unregister("roughness")


READS = {
    "state_dict": lambda module, _: module.state_dict()["output.weight"],
    "of_an_objective": lambda module, _: next(
        value
        for name, value in zpyro.ZForcingELBO()(module.model, module.guide).state_dict().items()
        if name.endswith("output.weight") and "network" not in name and "reverse" not in name
    ),
    "save": lambda module, folder: _saved_to(module, folder).output.weight,
    "deepcopy": lambda module, _: copy.deepcopy(module).output.weight,
    "pickle": lambda module, _: _pickled(module).output.weight,
    "torch.save": lambda module, _: _saved(module).output.weight,
}


def _saved_to(module: Any, folder: Path) -> Any:
    module.save(folder / "model")
    return zpyro.load(folder / "model")


@pytest.mark.parametrize("read", READS)
def test_what_was_loaded_into_the_store_is_saved_and_copied(tmp_path: Path, read: str) -> None:
    """Also before the model is used for the first time."""
    module = make("gaussian").module
    module.store_name = "kept"
    poutine.trace(module.guide).get_trace(make("gaussian").x)
    expected = module.output.weight.detach().clone()
    pyro.get_param_store().save(str(tmp_path / "store"))
    with torch.no_grad():
        module.output.weight.zero_()
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))
    assert torch.equal(READS[read](module, tmp_path), expected)
