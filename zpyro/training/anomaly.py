"""Anomaly detection: the first output, gradient and step that are not finite, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zpyro.errors import UserError
from zpyro.training.accumulator import MetricAccumulator


class AnomalyDetection:
    """Stops at the first NaN or infinity, in the forward or the backward computation.

    Slow: it checks the output of every network and every gradient, and torch keeps the trace of
    every operation (``torch.autograd.set_detect_anomaly``) to print the one whose gradient is NaN.

    Args:
        module: the model to check; its hooks are not removed.
        accumulator: of the terms of the objective.
    """

    def __init__(self, module: nn.Module, accumulator: MetricAccumulator) -> None:
        self._watching = False
        self._accumulator = accumulator
        for name, part in module.named_modules():
            if name:
                part.register_forward_hook(partial(self._check_output, name))
        for name, parameter in module.named_parameters():
            parameter.register_hook(partial(self._check_gradient, name))

    @contextlib.contextmanager
    def watching(self, step: int, names: Sequence[str]) -> Generator[None, None, None]:
        """A context that checks one training step.

        Args:
            step: its number, from 1.
            names: of the sequences that it trains on.

        Raises:
            UserError: naming the step, and the network, gradient or operation that is not finite.
        """
        self._watching = True
        try:
            with torch.autograd.set_detect_anomaly(True):
                yield
                bad = self._accumulator.first_nonfinite()
                if bad is not None:
                    raise _NotFiniteError(f"{bad[1]} is not finite")
        except _NotFiniteError as error:
            raise UserError(_line(step, names, str(error))) from error
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            raise UserError(_line(step, names, str(error).rstrip("."))) from error
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


def _line(step: int, names: Sequence[str], found: str) -> str:
    return (
        f"step {step}: {found}, on {shown_names(names)}; look at these or lower train.learning_rate"
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
