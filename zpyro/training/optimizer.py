"""The optimizer: Adam or SGD with clipped gradients, skipped steps where numbers are not finite,
learning rate schedules, and averaged weights."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator
from typing import Any

import torch
from torch import Tensor, nn

from zpyro.training.config import TrainConfig

MOMENTUM = 0.9


class Optimizer:
    """Updates the parameters.

    Args:
        groups: parameters, each group with its share of the learning rate.
        train: optimizer, learning rate and its schedule, clipping and averaging.

    Attributes:
        parameters: of all groups.
        average: the averaged weights, or None.

    Example::

        optimizer = Optimizer([(list(model.parameters()), 1.0)], TrainConfig())
        optimizer.zero_grad()
        loss.backward()
        norm = optimizer.clip_gradients()
        optimizer.step(torch.tensor(optimizer.learning_rate(0.0)), norm.isfinite())
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]], train: TrainConfig) -> None:
        groups = [(parameters, share) for parameters, share in groups if parameters]
        self.parameters = [parameter for parameters, _ in groups for parameter in parameters]
        self._train = train
        self._shares = [share for _, share in groups]
        device = self.parameters[0].device
        on_cuda = device.type == "cuda"
        # The skip of a step that is not finite is in the fused kernels of these two.
        self._fused = device.type in ("cpu", "cuda")
        # A captured CUDA graph reads the learning rates and step counts from fixed memory.
        self._rates = (
            [torch.tensor(train.learning_rate, device=device) for _ in groups] if on_cuda else None
        )
        self._options: dict[str, Any] = {"fused": self._fused, "weight_decay": train.weight_decay}
        each = [{"params": parameters} for parameters, _ in groups]
        if train.optimizer == "adam":
            self._options |= {"capturable": on_cuda, "eps": train.adam_epsilon}
            self._optimizer = torch.optim.Adam(each, lr=train.learning_rate, **self._options)
        else:
            self._options["momentum"] = MOMENTUM
            self._optimizer = torch.optim.SGD(each, lr=train.learning_rate, **self._options)
            for parameter in self.parameters:
                # The fused kernel leaves a buffer that it makes in a skipped first step undefined.
                buffer = torch.zeros_like(parameter)
                self._optimizer.state[parameter]["momentum_buffer"] = buffer
        self._scale = 1.0
        self.average = AveragedWeights(self.parameters, train.average) if train.average else None

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self._optimizer.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def noisy_weights(self) -> Generator[None, None, None]:
        """A context in which ``train.weight_noise`` times normal noise is added to the weights.

        A gradient that is taken in it is one at the noisy weights (Graves, 2011,
        "Practical variational inference for neural networks", with a fixed variance).
        """
        if not self._train.weight_noise:
            yield
            return
        with torch.no_grad():
            own = [parameter.clone() for parameter in self.parameters]
            for parameter in self.parameters:
                parameter.add_(torch.randn_like(parameter), alpha=self._train.weight_noise)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, own, strict=True):
                    parameter.copy_(value)

    def clip_gradients(self) -> Tensor:
        """Clip the gradients to ``train.clip_norm``.

        Returns:
            Their norm before, a 0-dim tensor.
        """
        return nn.utils.clip_grad_norm_(self.parameters, self._train.clip_norm)

    def step(self, rate: Tensor, is_finite: Tensor) -> None:
        """Update the parameters, or leave everything as it is.

        Args:
            rate: the learning rate, see :meth:`learning_rate`; a 0-dim tensor.
            is_finite: whether to update, a 0-dim bool tensor; the host does not wait for it on
                a CPU and on CUDA.
        """
        for number, (group, share) in enumerate(
            zip(self._optimizer.param_groups, self._shares, strict=True)
        ):
            if self._rates is None:
                group["lr"] = float(rate) * share
            else:
                self._rates[number].copy_(rate * share)
                group["lr"] = self._rates[number]
        if self._fused:
            # The attribute by which torch's gradient scaler makes a fused optimizer skip a step.
            self._optimizer.found_inf = (~is_finite).float()  # pyright: ignore[reportAttributeAccessIssue]
        if self._fused or bool(is_finite):
            self._optimizer.step()
        if self.average is not None:
            self.average.update(is_finite)

    def tensors(self) -> list[Tensor]:
        """Everything that :meth:`step` changes in place."""
        states = self._optimizer.state.values()
        state = [part for one in states for part in one.values() if isinstance(part, Tensor)]
        average = [] if self.average is None else self.average.tensors()
        return [*self.parameters, *state, *(self._rates or ()), *average]

    def learning_rate(self, fraction: float, epoch: int = 0) -> float:
        """The learning rate of a step.

        Args:
            fraction: of the training that is done, 0 to 1.
            epoch: passes over the data completed.
        """
        train, floor = self._train, self._train.learning_rate_floor
        if train.learning_rate_schedule == "cosine":
            factor = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))
        elif train.learning_rate_schedule == "milestones":
            factor = 0.1 ** sum(epoch >= milestone for milestone in train.milestones)
        elif train.learning_rate_schedule == "plateau":
            factor = max(self._scale, floor)
        else:
            factor = 1.0
        if train.warmup_epochs:
            factor *= 1 - math.exp(-(epoch + 1) / train.warmup_epochs)
        return train.learning_rate * factor

    def reduce(self) -> None:
        """Halve the learning rate, as the schedule "plateau" does."""
        self._scale *= 0.5

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold; tensors are not copied."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "scale": self._scale,
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._optimizer.load_state_dict(state["optimizer"])
        for group in self._optimizer.param_groups:
            # A checkpoint of another device, or from before a setting was changed, has others.
            group.update(self._options)
        self._scale = state["scale"]
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])


class AveragedWeights:
    """An exponential moving average of parameters (Polyak and Juditsky, 1992).

    The decay grows with the number of updates n as (1 + n) / (10 + n), from 0.1, so that the first
    weights are forgotten soon.

    Args:
        parameters: what to average.
        decay: largest share of the old average in an update.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self._updates = torch.zeros((), device=parameters[0].device)
        self._averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self, is_finite: Tensor) -> None:
        """Add the present weights where ``is_finite``, a 0-dim bool tensor, is True."""
        decay = ((1 + self._updates) / (10 + self._updates)).clamp(max=self._decay)
        share = (1 - decay) * is_finite
        for average, parameter in zip(self._averages, self._parameters, strict=True):
            average.lerp_(parameter, share.to(average.dtype))
        self._updates += is_finite

    @contextlib.contextmanager
    def applied(self) -> Generator[None, None, None]:
        """A context in which the parameters have the averaged values."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        self._copy(self._averages)
        try:
            yield
        finally:
            self._copy(own)

    def tensors(self) -> list[Tensor]:
        """What :meth:`update` changes in place."""
        return [self._updates, *self._averages]

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of updates."""
        return {"updates": int(self._updates), "averages": list(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._updates.fill_(state["updates"])
        for average, saved in zip(self._averages, state["averages"], strict=True):
            average.copy_(saved)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
