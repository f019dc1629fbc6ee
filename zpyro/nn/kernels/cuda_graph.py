"""CUDA graphs: a function of tensors that is recorded once for each shape and then replayed.

The time of a loop of small kernels is the time of their launches; a graph launches them all at
once. On a CPU, and while a larger graph is recorded, the function is called directly.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]


class _Recording(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: Any
    inputs: Tensors
    outputs: Tensors


class GraphedCallable:
    """A function of tensors that runs as a CUDA graph where possible.

    The first calls of each shape are not recorded: they warm up the libraries, and rare shapes are
    never recorded. The function must not synchronize with the device (no ``.item()``) and must take
    every changing number as an argument. It may change its arguments or other tensors in place
    (parameters, optimizer state); a replay repeats that. If recording fails, a warning is logged
    once and the function is called directly from then on.

    Args:
        function: takes tensors and returns a tuple of tensors.
        warm_up: number of calls of a shape before it is recorded.
        max_graphs: number of graphs to keep, with their memory; the least recently used is dropped.
        clone_outputs: return copies; otherwise the next call overwrites the results.
        enabled: whether to record at all.

    Example:
        >>> double = GraphedCallable(lambda x: (2 * x,))
        >>> double(torch.ones(2))
        (tensor([2., 2.]),)
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        *,
        warm_up: int = 2,
        max_graphs: int = 8,
        clone_outputs: bool = True,
        enabled: bool = True,
    ) -> None:
        self._function = function
        self._warm_up = warm_up
        self._max_graphs = max_graphs
        self._clone_outputs = clone_outputs
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recordings: OrderedDict[tuple[Any, ...], _Recording] = OrderedDict()
        self._enabled = enabled

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The tensors that the function returns."""
        if not (self._enabled and can_capture(inputs)):
            return self._function(*inputs)
        key = tuple((part.shape, part.dtype, part.device) for part in inputs)
        recording = self._recordings.get(key)
        if recording is None:
            self._seen[key] += 1
            if self._seen[key] <= self._warm_up:
                return self._function(*inputs)
            recording = self._record(inputs)
            if recording is None:
                return self._function(*inputs)
            self._recordings[key] = recording
            if len(self._recordings) > self._max_graphs:
                dropped, _ = self._recordings.popitem(last=False)
                del self._seen[dropped]
        self._recordings.move_to_end(key)
        for buffer, part in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(part)
        recording.graph.replay()
        outputs = recording.outputs
        return tuple(part.clone() for part in outputs) if self._clone_outputs else outputs

    def _record(self, inputs: Tensors) -> _Recording | None:
        buffers = tuple(part.detach().clone() for part in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (data loaders) may use the device at the same time.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*buffers)
        except RuntimeError as error:
            self._enabled = False
            logger.warning("cannot record a CUDA graph, kernels are launched one by one: %s", error)
            return None
        return _Recording(graph, buffers, outputs)


def can_capture(inputs: Tensors) -> bool:
    """Whether a function of these tensors can be recorded now."""
    return all(part.is_cuda for part in inputs) and not torch.cuda.is_current_stream_capturing()
