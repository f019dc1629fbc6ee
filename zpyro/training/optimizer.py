"""Adam with clipped gradients, a guard against steps that are not finite, a moving step size, and
averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from zpyro.training.config import TrainConfig


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
        device = self._parameters[0].device
        on_cuda = device.type == "cuda"
        # A recorded CUDA graph reads the step size and the step count where they stand.
        self._rate = torch.tensor(train.learning_rate, device=device) if on_cuda else None
        self._options: dict[str, Any] = {"fused": True, "capturable": on_cuda}
        self._adam = torch.optim.Adam(
            self._parameters, lr=train.learning_rate, eps=train.adam_epsilon, **self._options
        )
        self.scale = 1.0
        self.average = AveragedWeights(self._parameters, train.average) if train.average else None

    def gradients(self, loss: Tensor) -> Tensor:
        """Fill the gradients of a loss, clip them, and give their norm from before that."""
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        return nn.utils.clip_grad_norm_(self._parameters, self._train.clip_norm)

    def step(self, rate: Tensor, good: Tensor) -> None:
        """Move the parameters along their gradients, or leave everything as it is.

        Args:
            rate: the step size, see :meth:`learning_rate`; a 0-dim tensor.
            good: whether to move, a 0-dim bool tensor; it is read on the device alone.
        """
        if self._rate is not None:
            self._rate.copy_(rate)
        for group in self._adam.param_groups:
            group["lr"] = float(rate) if self._rate is None else self._rate
        # What torch's gradient scaler tells a fused optimizer of a step to be left out.
        self._adam.found_inf = (~good).float()  # pyright: ignore[reportAttributeAccessIssue]
        self._adam.step()
        if self.average is not None:
            self.average.update(good)

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
        for group in self._adam.param_groups:
            # A checkpoint of another device brings that one's options.
            group.update(self._options)
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
        self._updates = torch.zeros((), device=parameters[0].device)
        self._averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, good: Tensor) -> None:
        """Take in the present weights, unless the step was none: a 0-dim bool tensor."""
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self._decay)
        share = (1 - decay) * good
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter, share.to(average.dtype))
        self._updates += good

    @contextlib.contextmanager
    def applied(self) -> Generator[None, None, None]:
        """Within it, the parameters have the averaged values."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"updates": int(self._updates), "averages": list(self._averages)}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave."""
        self._updates.fill_(state["updates"])
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
