"""Hunting for what is not finite: the first network, gradient and step that are not, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.training.accumulator import MetricAccumulator

if TYPE_CHECKING:
    from zpyro.datasets.batching import Batch


class AnomalyDetection:
    """Stops at the first NaN or infinity, in the forward or the backward computation.

    Slow: every network's output and every gradient is looked at, and torch keeps the trace of every
    operation (``torch.autograd.set_detect_anomaly``) to print the one whose gradient is NaN.

    Args:
        module: the model to watch; its hooks stay for good.
        tally: takes in the terms of the objective.
    """

    def __init__(self, module: nn.Module, tally: MetricAccumulator) -> None:
        self._watching = False
        self._tally = tally
        for name, part in module.named_modules():
            if name:
                part.register_forward_hook(partial(self._check_output, name))
        for name, parameter in module.named_parameters():
            parameter.register_hook(partial(self._check_gradient, name))

    @contextlib.contextmanager
    def watching(self, step: int, batch: Batch) -> Generator[None, None, None]:
        """Within it, one training step is watched.

        Args:
            step: its number, from 1.
            batch: what it trains on.

        Raises:
            UserError: naming the step, and the network, gradient or operation that is not finite.
        """
        self._watching = True
        try:
            with torch.autograd.set_detect_anomaly(True):
                yield
                bad = self._tally.first_nonfinite()
                if bad is not None:
                    raise _NotFiniteError(f"{bad[1]} is not finite")
        except _NotFiniteError as error:
            raise UserError(_line(step, batch, str(error))) from error
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            raise UserError(_line(step, batch, str(error).rstrip("."))) from error
        finally:
            self._watching = False

    def _check_output(self, name: str, _part: nn.Module, _inputs: Any, output: Any) -> None:
        if self._watching and not all(map(_is_finite, _tensors(output))):
            raise _NotFiniteError(f"the output of {name} is not finite")

    def _check_gradient(self, name: str, gradient: Tensor) -> None:
        if self._watching and not _is_finite(gradient):
            raise _NotFiniteError(f"the gradient of {name} is not finite")


class _NotFiniteError(ArithmeticError):
    """Something is not finite; the message says what."""


def shown_names(names: Sequence[str]) -> str:
    """Names of the sequences of a batch for an error, the first few of them."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _line(step: int, batch: Batch, found: str) -> str:
    return (
        f"step {step}: {found}, on {shown_names(batch.names)}; "
        "look at these or lower train.learning_rate"
    )


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating tensors in what a network gave, however deep in tuples."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
