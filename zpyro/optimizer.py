"""Adam with clipped gradients, a guard against steps that are not finite, a moving step size, and
averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zpyro.config import TrainConfig


class Optimizer:
    """Takes the steps.

    Args:
        module: whose parameters.
        train: step size, clipping and averaging.

    Attributes:
        scale: factor on the step size, halved by :meth:`reduce`.
        average: the averaged weights, or None.
    """

    def __init__(self, module: nn.Module, train: TrainConfig) -> None:
        self._train = train
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._adam = torch.optim.Adam(
            self._parameters, lr=train.learning_rate, eps=train.adam_epsilon, fused=True
        )
        self.scale = 1.0
        self.average = AveragedWeights(self._parameters, train.average) if train.average else None

    def gradients(self, loss: Tensor) -> Tensor:
        """Fill the gradients of a loss, clip them, and give their norm from before that."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        return nn.utils.clip_grad_norm_(self._parameters, self._train.clip_norm)

    def step(self, fraction: float) -> None:
        """Move the parameters along their gradients.

        Args:
            fraction: how much of the training is done, 0 to 1.
        """
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate(fraction)
        self._adam.step()
        if self.average is not None:
            self.average.update()

    def learning_rate(self, fraction: float) -> float:
        """The step size after this fraction of the training."""
        rate, floor = self._train.learning_rate, self._train.learning_rate_floor
        if self._train.learning_rate_schedule == "cosine":
            return rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction)))
        return rate * max(self.scale, floor)

    def reduce(self) -> None:
        """Halve the step size, where it follows a plateau."""
        self.scale *= 0.5

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; tensors are not copied."""
        average = None if self.average is None else self.average.state()
        return {"adam": self._adam.state_dict(), "scale": self.scale, "average": average}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        self._adam.load_state_dict(state["adam"])
        self.scale = state["scale"]
        if self.average is not None and state["average"] is not None:
            self.average.restore(state["average"])


class AveragedWeights:
    """An exponential moving average of parameters (Polyak and Juditsky, 1992).

    The decay grows from 0.1 as (1 + n) / (10 + n) over the first n updates, so that the weights of
    the start are forgotten soon.

    Args:
        parameters: what to average.
        decay: share that the old average keeps in an update.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self._updates = 0
        self._averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter, 1 - decay)
        self._updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the parameters have the averaged values."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"updates": self._updates, "averages": list(self._averages)}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        self._updates = state["updates"]
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
