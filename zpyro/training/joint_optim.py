"""One torch optimizer for all parameters of a Pyro program, for ``pyro.infer.SVI``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyro
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer


class JointOptim(PyroOptim):
    """A Pyro optimizer that updates all parameters in one call and clips their joint gradient.

    ``pyro.optim.Adam`` has one torch optimizer for each parameter and clips each gradient by
    itself. This has one for all: with ``clip_norm`` the norm of the whole gradient is clipped, as
    ``zpyro train`` and the published experiments do, and a step costs one call of torch's
    optimizer. Without clipping both compute the same updates, and each reads the states that the
    other saved.

    Args:
        optim_constructor: a ``torch.optim.Optimizer``, for example ``torch.optim.Adam``.
        optim_args: its arguments, or a function from the name of a parameter to them.
        clip_args: ``clip_norm``, the largest norm of the whole gradient, and ``clip_value``, the
            largest absolute value of its elements; both optional.

    Attributes:
        optimizer: the torch optimizer, for example for a learning rate schedule of torch; None
            before the first step.

    Raises:
        TypeError: in the first step, if the constructor returns anything but a torch optimizer.

    Example::

        optimizer = zpyro.training.JointOptim(torch.optim.Adam, {"lr": 1e-3}, {"clip_norm": 100.0})
        svi = SVI(model.model, model.guide, optimizer, loss=zpyro.ZForcingELBO())
        svi.step(x)
    """

    def __init__(
        self,
        optim_constructor: type[Optimizer],
        optim_args: Any,
        clip_args: dict[str, float] | None = None,
    ) -> None:
        super().__init__(optim_constructor, optim_args, clip_args)
        self.optimizer: Optimizer | None = None
        self._joint_clip_args = clip_args or {}
        self._names: dict[Tensor, str] = {}

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Update parameters from their gradients.

        Args:
            params: of one step; others that were seen before keep their values and gradients.
            *args: of the torch optimizer's ``step``.
            **kwargs: likewise.
        """
        chosen = set(params)
        store = pyro.get_param_store()
        unseen = {str(store.param_name(param)): param for param in chosen - self._names.keys()}
        # A set has no fixed order, and the norm of the gradient depends on the order of its sum.
        for name in sorted(unseen):
            self._add(name, unseen[name])
        self._clip_grad(
            [param for param in self._names if param in chosen], **self._joint_clip_args
        )
        others = [(param, param.grad) for param in self._names if param not in chosen]
        for param, _ in others:
            param.grad = None
        if self.optimizer is not None:
            self.optimizer.step(*args, **kwargs)
        for param, gradient in others:
            param.grad = gradient

    def _add(self, name: str, param: Tensor) -> None:
        single = self._get_optim(param)
        if not isinstance(single, Optimizer):
            cls = type(single).__name__
            raise TypeError(f"JointOptim: optim_constructor made a {cls}; pass a torch optimizer")
        saved = self._state_waiting_to_be_consumed.pop(name, None)
        if saved is not None:
            single.load_state_dict(saved)
        if self.optimizer is None:
            self.optimizer = single
        else:
            options = _options(single.param_groups[0])
            alike = [group for group in self.optimizer.param_groups if _options(group) == options]
            if alike:
                alike[0]["params"].append(param)
            else:
                self.optimizer.add_param_group({"params": [param], **options})
            self.optimizer.state.update(single.state)
        self._names[param] = name

    def get_state(self) -> dict[str, Any]:
        """The state of every parameter by name, in the format of ``PyroOptim.get_state``."""
        if self.optimizer is None:
            return {}
        state = self.optimizer.state
        return {
            self._names[param]: {
                "state": {0: state[param]} if param in state else {},
                "param_groups": [{**_options(group), "params": [0]}],
            }
            for group in self.optimizer.param_groups
            for param in group["params"]
        }


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The settings of a group of parameters."""
    return {name: value for name, value in group.items() if name != "params"}
