"""A device "simulated" that computes on the CPU, has no float64, and mixes with no other device.

As a program it trains and evaluates on it, and prints the numbers beside those of the CPU:
``python -m tests.core.simulated_device``. Registering the device changes the whole process.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules import rnn
from torch.utils import _pytree, backend_registration

import zpyro
from zpyro.models.config import model_config
from zpyro.nn.noise import CounterNoise
from zpyro.training import (
    Config,
    SequenceTask,
    TrainConfig,
    Trainer,
    build_model,
    choose_device,
)
from zpyro.training.runs import Run

DEVICE = "simulated"
SIZES = model_config(hidden_size=4, latent_size=2, embedding_size=4, mlp_size=4)
_ON_CPU = {name: getattr(torch, name) for name in ("tensor", "arange")}
_REAL_FUNCTIONS = torch._VF


class Module(backend_registration._DummyBackendModule):
    """What torch asks of the module of a device; its random numbers are those of the CPU."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        assert state.device.type == "cpu"


class SimulatedTensor(torch.Tensor):
    """A tensor on the device, with its numbers in a tensor of the CPU."""

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: Tensor) -> SimulatedTensor:
        if raw.dtype == torch.float64:
            raise TypeError("the simulated device has no float64")
        made: Any = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(DEVICE, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.raw.detach().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.raw.tolist()


class Functions:
    """torch's functions, with an LSTM made of products, which every device has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_REAL_FUNCTIONS, name)

    def lstm(self, x: Tensor, state: Any, weights: Any, *settings: Any) -> tuple[Tensor, ...]:
        if x.device.type != DEVICE:
            return _REAL_FUNCTIONS.lstm(x, state, weights, *settings)
        steps = 1 if settings[-1] else 0
        (h,), (c,) = state
        inputs, recurrent, first, second = weights
        found: list[Tensor] = []
        for row in x.unbind(steps):
            gates = row @ inputs.T + first + h @ recurrent.T + second
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h)
        return torch.stack(found, steps), h[None], c[None]


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    given = _pytree.tree_leaves((args, kwargs))
    # As on other devices, numbers of the host may take part, and copies and indices may be mixed.
    here = {isinstance(each, SimulatedTensor) for each in given if _counts(each)}
    if len(here) > 1 and name not in ("aten::copy_", "aten::_copy_from", "aten::index"):
        raise RuntimeError(f"{name}: tensors on {DEVICE} and on the CPU")
    to_host = torch.device(kwargs.get("device") or DEVICE).type == "cpu"
    raw_args, raw_kwargs = _pytree.tree_map(
        lambda each: each.raw if isinstance(each, SimulatedTensor) else each, (args, kwargs)
    )
    if "device" in raw_kwargs:
        raw_kwargs["device"] = torch.device("cpu")
    raw_kwargs.pop("pin_memory", None)
    out = func(*raw_args, **raw_kwargs)
    raw = _pytree.tree_leaves((raw_args, raw_kwargs))
    known = {id(inner): outer for inner, outer in zip(raw, given, strict=False)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or to_host:
            return value
        found = known.get(id(value))
        if found is not None and found.shape != value.shape:
            raise RuntimeError(f"{name}: resizes a tensor")
        return SimulatedTensor(value) if found is None else found

    return _pytree.tree_map(wrapped, out)


def _counts(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dim() > 0 or isinstance(value, SimulatedTensor))


def _maker(name: str) -> Any:
    def make(*data: Any, device: Any = None, **settings: Any) -> Tensor:
        made = _ON_CPU[name](*data, **settings)
        return made if device is None else made.to(device)

    return make


def register() -> torch.library.Library:
    """Register the device; it lasts as long as the library that is returned."""
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    # The fallback cannot make a tensor of a list, nor one that is resized afterwards.
    for name in _ON_CPU:
        setattr(torch, name, _maker(name))
    rnn._VF = Functions()
    return library


def numbers(name: str, folder: Path) -> dict[str, Any]:
    """Train, resume, evaluate and sample on a device."""
    device = choose_device(name)
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((int(n), 2)) for n in random.integers(3, 6, 20)]
    data = zpyro.datasets.from_arrays(arrays, seed=0)
    torch.manual_seed(0)
    model = build_model(SIZES, zpyro.likelihoods.Gaussian(2)).to(device)
    folder.mkdir()
    found: dict[str, Any] = {"device": next(model.parameters()).device.type}
    for steps in (2, 4):
        train = TrainConfig(
            max_steps=steps, epochs=None, max_minutes=None, batch_size=4, log_every=1, average=0.5
        )
        settings = zpyro.datasets.entry("vowels").settings
        config = Config("vowels", data=settings, model=SIZES, train=train)
        task = SequenceTask(model, data, config)
        trainer = Trainer(task, train, run=Run(folder))
        if steps > 2:
            trainer.resume()
        found[f"best after {steps}"] = trainer.fit().best
    bounds = zpyro.evaluate(model, data.test)
    found |= {"elbo": bounds.elbo, "kl": bounds.kl}
    found["iwae"] = zpyro.iwae(model, data.test, particles=2).iwae
    found["smc"] = zpyro.smc(model, data.test, particles=2).smc
    found["posterior"] = float(
        np.nansum(zpyro.posterior(model, data.test.batch(), num_samples=2).z)
    )
    found["reconstructed"] = float(zpyro.reconstruct(model, data.test.batch()).mean.sum())
    z = torch.from_numpy(random.standard_normal((2, 3, 2)).astype(np.float32))
    for label, lengths in (("decoded", None), ("decoded to lengths", torch.tensor([3, 2]))):
        found[label] = float(zpyro.decode(model, z, lengths=lengths, use_mean=True).mean.sum())
    pair = (zpyro.datasets.collate([data.test[number]]) for number in (0, 1))
    found["interpolated"] = float(zpyro.interpolate(model, *pair, 3).decoded.mean.sum())
    found["forecast"] = float(zpyro.forecast(model, data.test, 2, num_samples=2).samples.sum())
    torch.manual_seed(1)
    found["generated"] = float(model.generate(3).sum())
    return found


if __name__ == "__main__":
    kept = register()
    # A CPU and other devices sample other numbers; here both sample those of other devices.
    CounterNoise._sample_on_cpu = CounterNoise._sample_on_device
    with tempfile.TemporaryDirectory() as place:
        both = [numbers(name, Path(place, name)) for name in ("cpu", "auto")]
    try:
        torch.zeros(1, dtype=torch.float64, device=DEVICE)
    except TypeError as error:
        both.append({"refused": str(error)})
    print(json.dumps(both))
