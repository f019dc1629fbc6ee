"""CUDA graphs: a function of tensors that is recorded once for each shape and then replayed.

The time of a loop of small kernels is the time of their launches; a graph launches them all at
once. On a CPU, and while a larger graph is recorded, the function is called directly.

The first replay of a graph, and later ones at growing distances, are compared with a direct call.
Where recording fails or the results differ, a warning is logged once, the results of the direct
call are kept, and the function is called directly from then on.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Tensors = tuple[Tensor, ...]

TOLERANCE = 1e-3
"""Largest relative difference between the outputs of the first replay and of a direct call."""

CHANGE_TOLERANCE = 0.1
"""The same for all changes in place together, in which an optimizer amplifies rounding errors."""


class _Recording(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: Any
    inputs: Tensors
    outputs: Tensors


def is_compared(replay: int) -> bool:
    """Whether a replay, counted from 1, is compared: the first four, then each power of two."""
    return replay <= 4 or replay & (replay - 1) == 0


class _Snapshot:
    """Copies of tensors, and the state of the random number generator of their device."""

    def __init__(self, tensors: Iterable[Tensor], device: torch.device) -> None:
        self.tensors = tuple(tensors)
        self.values = _copies(self.tensors)
        self._device = device
        self._random = _generator_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        for part, value in zip(self.tensors, self.values, strict=True):
            part.copy_(value)
        _set_generator_state(self._device, self._random)


class GraphedCallable:
    """A function of tensors that runs as a CUDA graph where possible.

    The first calls of each shape are not recorded: they warm up the libraries, and rare shapes are
    never recorded. The function must not synchronize with the device (no ``.item()``) and must take
    every changing number as an argument. It may change other tensors in place (parameters,
    optimizer state); a replay repeats that. Changes of its arguments may be lost: a replay makes
    them in copies.

    Args:
        function: takes tensors and returns a tuple of tensors.
        warm_up: number of calls of a shape before it is recorded.
        max_graphs: number of graphs to keep, with their memory; the least recently used is dropped.
        clone_outputs: return copies; otherwise the next call overwrites the results.
        enabled: whether to record at all.
        state: returns the tensors besides the arguments that the function changes in place, so
            that the call that a first replay is compared with can be undone.
        tolerance: largest relative difference of an output in that comparison.

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
        state: Callable[[], Iterable[Tensor]] = tuple,
        tolerance: float = TOLERANCE,
    ) -> None:
        self._function = function
        self._warm_up = warm_up
        self._max_graphs = max_graphs
        self._clone_outputs = clone_outputs
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._recordings: OrderedDict[tuple[Any, ...], _Recording] = OrderedDict()
        self._replays: Counter[tuple[Any, ...]] = Counter()
        self._enabled = enabled
        self._state = state
        self._tolerance = tolerance

    def __call__(self, *inputs: Tensor) -> Tensors:
        """The tensors that the function returns."""
        if not (self._enabled and can_capture(inputs)):
            return self._function(*inputs)
        # Kernels are chosen while recording, also by the precision of products.
        rounding = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        key = (*rounding, *((part.shape, part.dtype, part.device) for part in inputs))
        recording = self._recordings.get(key)
        if recording is None:
            self._seen[key] += 1
            if self._seen[key] <= self._warm_up:
                return self._function(*inputs)
        else:
            self._recordings.move_to_end(key)
        self._replays[key] += 1
        if recording is not None and not is_compared(self._replays[key]):
            outputs = _replay(recording, inputs)
        else:
            outputs = self._compared_replay(key, inputs)
        return tuple(part.clone() for part in outputs) if self._clone_outputs else outputs

    def _compared_replay(self, key: tuple[Any, ...], inputs: Tensors) -> Tensors:
        """Replay a graph, recorded first if necessary, and keep it if a direct call agrees."""
        try:
            before = _Snapshot(self._state(), inputs[0].device)
            copies = _copies(inputs)
        except torch.OutOfMemoryError:
            self._give_up("no memory to check them")
            return self._function(*inputs)
        expected = _copies(self._function(*copies))
        try:
            after = _Snapshot(before.tensors, inputs[0].device)
        except torch.OutOfMemoryError:
            self._give_up("no memory to check them")
            return expected
        if not all(part.isfinite().all() for part in expected):
            # Such numbers cannot be compared: the next call is.
            self._replays[key] -= 1
            return expected
        before.restore()
        try:
            recording = self._recordings.get(key) or self._record(inputs)
            outputs = _replay(recording, inputs)
            problem = _difference(outputs, expected, before, after, self._tolerance)
        except RuntimeError as error:
            problem = f"recording failed ({' '.join(str(error).split())[:200]})"
            _repair_generator(inputs[0].device)
        else:
            if problem is None:
                self._recordings[key] = recording
                if len(self._recordings) > self._max_graphs:
                    dropped, _ = self._recordings.popitem(last=False)
                    del self._seen[dropped], self._replays[dropped]
                return outputs
        after.restore()
        self._give_up(problem)
        return expected

    def _give_up(self, reason: str) -> None:
        self._enabled = False
        self._recordings.clear()
        logger.warning("CUDA graphs are not used, kernels are launched one by one: %s", reason)

    def _record(self, inputs: Tensors) -> _Recording:
        buffers = _copies(inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads (data loaders) may use the device at the same time.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = self._function(*buffers)
        return _Recording(graph, buffers, outputs)


def _replay(recording: _Recording, inputs: Tensors) -> Tensors:
    for buffer, part in zip(recording.inputs, inputs, strict=True):
        buffer.copy_(part)
    recording.graph.replay()
    return recording.outputs


def _copies(tensors: Tensors) -> Tensors:
    return tuple(part.detach().clone() for part in tensors)


def _difference(
    outputs: Tensors, expected: Tensors, before: _Snapshot, after: _Snapshot, tolerance: float
) -> str | None:
    """What differs between a replay and a direct call; None for nothing.

    Args:
        outputs: of the replay.
        expected: outputs of the direct call.
        before: the tensors that both change in place, and their values before.
        after: with their values after the direct call.
        tolerance: largest relative difference of an output.
    """
    for number, (found, wanted) in enumerate(zip(outputs, expected, strict=True)):
        error = _relative_error([found], [wanted])
        if not error <= tolerance:
            return f"output {number} of a graph differs by {error:.2g} from a direct call"
    error = _relative_error(
        _changes(before.tensors, before.values), _changes(after.values, before.values)
    )
    if not error <= CHANGE_TOLERANCE:
        return f"what a graph changes differs by {error:.2g} from a direct call"
    return None


def _changes(values: Tensors, before: Tensors) -> list[Tensor]:
    return [_as_float(a) - _as_float(b) for a, b in zip(values, before, strict=True)]


def _as_float(values: Tensor) -> Tensor:
    return values.detach().to(torch.float32 if values.dtype != torch.float64 else values.dtype)


def _relative_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The length of the difference of lists of tensors over the length of the second list."""
    pairs = [(_as_float(a), _as_float(b)) for a, b in zip(found, wanted, strict=True)]
    difference = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    size = sum(float(b.square().sum()) for _, b in pairs) ** 0.5
    return difference / size if size else difference


def _generator_state(device: torch.device) -> Tensor | None:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_generator_state(device: torch.device, state: Tensor | None) -> None:
    if state is not None:
        torch.cuda.set_rng_state(state, device)


def _repair_generator(device: torch.device) -> None:
    """Make random numbers available again: a failed recording leaves the generator within it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        generator = torch.cuda.default_generators[device.index]
        generator.graphsafe_set_state(generator.clone_state())


def can_capture(inputs: Tensors) -> bool:
    """Whether a function of these tensors can be recorded now."""
    return all(part.is_cuda for part in inputs) and not torch.cuda.is_current_stream_capturing()
