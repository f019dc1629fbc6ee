"""CUDA graphs: a function of tensors, recorded once for each shape and replayed from then on.

A loop of small kernels is bound by their launches; a graph launches them all at once. On a CPU, and
while a larger graph is being recorded, a captured function is just called.
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
    """A function of tensors that runs as a CUDA graph where it can.

    The first calls of each shape run as they are: they warm up the libraries, and shapes that come
    up but once or twice are never recorded. The function must not wait for the device (no
    ``.item()``), must find every changing number in its arguments, and may change its arguments or
    other tensors in place (parameters, optimizer state): a replay does the same again.

    Args:
        function: takes and returns a tuple of tensors.
        warm_up: calls of a shape before it is recorded.
        most: graphs that are kept, with the memory they use; the one unused for longest goes.
        own: give results that no later call changes; otherwise they hold until the next call.
        enabled: whether to record at all.

    If recording fails, that is logged once and the function runs as it is from then on.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        *,
        warm_up: int = 2,
        most: int = 8,
        own: bool = True,
        enabled: bool = True,
    ) -> None:
        self._function = function
        self._warm_up = warm_up
        self._most = most
        self._own = own
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recordings: OrderedDict[tuple[Any, ...], _Recording] = OrderedDict()
        self._works = enabled

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The function's tensors."""
        if not (self._works and can_capture(inputs)):
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
            if len(self._recordings) > self._most:
                forgotten, _ = self._recordings.popitem(last=False)
                del self._seen[forgotten]
        self._recordings.move_to_end(key)
        for kept, given in zip(recording.inputs, inputs, strict=True):
            kept.copy_(given)
        recording.graph.replay()
        outputs = recording.outputs
        return tuple(part.clone() for part in outputs) if self._own else outputs

    def _record(self, inputs: Tensors) -> _Recording | None:
        kept = tuple(part.detach().clone() for part in inputs)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads (data loaders) may use the device meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                outputs = self._function(*kept)
        except RuntimeError as error:
            self._works = False
            logger.warning("no CUDA graph, every kernel is launched on its own: %s", error)
            return None
        return _Recording(graph, kept, outputs)


def can_capture(inputs: Tensors) -> bool:
    """Whether a function of these tensors can be recorded now."""
    return all(part.is_cuda for part in inputs) and not torch.cuda.is_current_stream_capturing()
