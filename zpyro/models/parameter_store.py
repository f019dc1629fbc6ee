"""The parameters of a model in Pyro's parameter store, under names that belong to it alone.

A parameter of a model has the name ``STORE_NAME.PARAMETER`` there. An entry that was put there by
a model stands for the parameter of that model. Any other entry of such a name was loaded or set by
the user (``pyro.get_param_store().load``): its value is copied into the parameter.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from zpyro.errors import UserError

_serial_numbers = itertools.count(1)
_models: weakref.WeakValueDictionary[str, PyroModule] = weakref.WeakValueDictionary()
_registered: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
"""Parameters that a model of this process has put into a store, by identity."""


def claim_name(model: PyroModule, name: str | None = None, *, shared: bool = False) -> str:
    """A name that no other model of this process has: ``name`` if that is free, else CLASS_NUMBER.

    Args:
        model: who will use it.
        name: the name that a copy brings along, or that the user chose.
        shared: take ``name`` although another model may have it.
    """
    while name is None or not (shared or _models.get(name, model) is model):
        name = f"{type(model).__name__.lower()}_{next(_serial_numbers)}"
    _models[name] = model
    return name


def register(model: PyroModule, store_name: str) -> None:
    """Make all parameters sites of the running program, so that SVI trains every one of them.

    Raises:
        UserError: if a loaded value has another shape than its parameter.
    """
    load(model, store_name)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and _is_parameter(parameter):
            _registered[id(parameter)] = parameter
            pyro.param(f"{store_name}.{name}", parameter)


def load(model: PyroModule, store_name: str) -> None:
    """Copy values that were loaded into the store into the parameters of the same names.

    Raises:
        UserError: if a value has another shape than its parameter.
    """
    store = pyro.get_param_store()
    held = dict(store.named_parameters())
    if not held:
        return
    for site, parameter in _sites(model, store_name):
        entry = held.get(site)
        if entry is None or entry is parameter:
            continue
        if _registered.get(id(entry)) is not entry:
            if entry.shape != parameter.shape:
                raise UserError(
                    f"parameter store: {site} has shape {tuple(entry.shape)}, the model's has "
                    f"{tuple(parameter.shape)}; load the store of the same model, or call "
                    "pyro.clear_param_store()"
                )
            with torch.no_grad():
                parameter.copy_(entry)
        # Assigning by name would store a copy of the parameter.
        store.set_state({"params": {site: parameter}, "constraints": {}})


def _sites(model: PyroModule, store_name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The names in the store, also those that Pyro gives to the constrained parameters."""
    for name, parameter in model.named_parameters():
        if _is_parameter(parameter):
            yield f"{store_name}.{name}", parameter
            if name.endswith(_UNCONSTRAINED):
                yield f"{store_name}.{name.removesuffix(_UNCONSTRAINED)}", parameter


def _is_parameter(value: object) -> bool:
    """Whether it is the module's own; torch.func.functional_call puts plain tensors there."""
    return isinstance(value, nn.Parameter)


_UNCONSTRAINED = "_unconstrained"
"""What Pyro appends to the attribute that holds the parameter of a ``PyroParam``."""
