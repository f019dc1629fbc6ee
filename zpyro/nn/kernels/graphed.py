"""The loops of the fused LSTM recurrence as CUDA graphs; elsewhere, as torch operations."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors, can_capture
from zpyro.nn.kernels.fused_blocks import Gradient, PathGradients
from zpyro.nn.kernels.lstm_loops import LoopGradients, Tape, TorchLoops, Weights


class GraphedLoops(TorchLoops):
    """Each loop is one CUDA graph for each shape of its arguments."""

    def __init__(self) -> None:
        self._loops: dict[tuple[object, ...], GraphedCallable] = {}

    def forward(self, tape: Tape, weights: Weights, product_type: torch.dtype) -> None:
        tensors = (*tape, *weights)
        if not can_capture(tensors):
            super().forward(tape, weights, product_type)
            return
        function = partial(self._forward, product_type)
        loop = self._loop(("forward", product_type), function, own=False)
        for part, filled in zip(tape, loop(*tensors), strict=True):
            part.copy_(filled)

    def backward(
        self,
        tape: Tape,
        weights: Weights,
        arriving: PathGradients,
        product_type: torch.dtype,
    ) -> LoopGradients:
        present = tuple(part is not None for part in arriving)
        tensors = (*tape, *weights, *(part for part in arriving if part is not None))
        if not can_capture(tensors):
            return super().backward(tape, weights, arriving, product_type)
        function = partial(self._backward, product_type, present)
        loop = self._loop(("backward", product_type, present), function)
        return LoopGradients(*loop(*tensors))

    def _loop(
        self, key: tuple[object, ...], function: partial[Tensors], *, own: bool = True
    ) -> GraphedCallable:
        if key not in self._loops:
            self._loops[key] = GraphedCallable(function, own=own)
        return self._loops[key]

    def _forward(self, product_type: torch.dtype, *tensors: Tensor) -> Tensors:
        count = len(Tape._fields)
        tape = Tape(*tensors[:count])
        super().forward(tape, Weights(*tensors[count:]), product_type)
        return tuple(tape)

    def _backward(
        self, product_type: torch.dtype, present: tuple[bool, ...], *tensors: Tensor
    ) -> Tensors:
        first, second = len(Tape._fields), len(Tape._fields) + len(Weights._fields)
        tape, weights = Tape(*tensors[:first]), Weights(*tensors[first:second])
        gradients = iter(tensors[second:])
        arriving: list[Gradient] = [next(gradients) if there else None for there in present]
        return tuple(super().backward(tape, weights, PathGradients(*arriving), product_type))
