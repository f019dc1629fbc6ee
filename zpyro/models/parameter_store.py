"""The parameters of a model in Pyro's parameter store, under names that belong to it alone.

A parameter of a model has the name ``STORE_NAME.PARAMETER`` there. An entry that was put there by
a model stands for the parameter of that model. Any other entry of such a name was loaded or set by
the user (``pyro.get_param_store().load``): its value is copied into the parameter.

The store refers to every parameter in it. What a model put there is removed when the model is
deleted, and its name is free again.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from typing import NamedTuple

import pyro
import torch
from pyro.nn import PyroModule
from pyro.ops.provenance import detach_provenance
from torch import Tensor, nn
from torch.distributions import constraints

from zpyro.errors import UserError


class _Owned(NamedTuple):
    """The names that a model has had, and its parameters by identity."""

    names: set[str]
    parameters: weakref.WeakValueDictionary[int, Tensor]


_models: weakref.WeakValueDictionary[str, PyroModule] = weakref.WeakValueDictionary()
_registered: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
"""Parameters that a model of this process has put into a store, by identity."""
_owned: weakref.WeakKeyDictionary[PyroModule, _Owned] = weakref.WeakKeyDictionary()


def claim_name(model: PyroModule, name: str | None = None, *, shared: bool = False) -> str:
    """A name that no other model has: ``name`` if that is free, else CLASS_NUMBER, from 1.

    Args:
        model: who will use it.
        name: the name that a copy brings along, or that the user chose.
        shared: take ``name`` although another model may have it.
    """
    if model not in _owned:
        owned = _owned[model] = _Owned(set(), weakref.WeakValueDictionary())
        weakref.finalize(model, _remove, owned).atexit = False
    if name is None or not (shared or _models.get(name, model) is model):
        names = (f"{type(model).__name__.lower()}_{number}" for number in itertools.count(1))
        name = next(each for each in names if each not in _models)
    _models[name] = model
    _owned[model].names.add(name)
    return name


def _remove(owned: _Owned) -> None:
    """Remove the entries of a deleted model from the store."""
    store = pyro.get_param_store()
    for site, entry in list(store.named_parameters()):
        its_name = site.partition(".")[0] in owned.names
        if its_name and owned.parameters.get(id(entry)) is entry:
            # The store knows one name for each parameter, but two may stand for it.
            store.set_state({"params": {site: entry}, "constraints": {site: constraints.real}})
            del store[site]


def register(model: PyroModule, store_name: str) -> None:
    """Make all parameters sites of the running program, so that SVI trains every one of them.

    Raises:
        UserError: if a loaded value has another shape than its parameter, or a handler gives a
            parameter another value, with which nothing would be computed.
    """
    load(model, store_name)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and _is_parameter(parameter):
            _registered[id(parameter)] = parameter
            _owned[model].parameters[id(parameter)] = parameter
            site = f"{store_name}.{name}"
            # pyro.render_model marks values by where they come from.
            if detach_provenance(pyro.param(site, parameter)) is not parameter:
                raise UserError(
                    f"parameter {site}: a handler such as poutine.lift or substitute gives it "
                    "another value, which a model does not use; assign values with "
                    "load_state_dict or torch.func.functional_call"
                )


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
