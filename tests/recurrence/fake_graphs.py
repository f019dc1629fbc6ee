"""CUDA graphs on a CPU: a fake that repeats the same work from the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from zpyro.nn.kernels import cuda_graph, lstm_loops
from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors


class FakeGraph:
    """Repeats the same work from the same inputs into the same outputs, as a CUDA graph does."""

    def __init__(
        self, function: Callable[..., Tensors], inputs: Tensors, state: Iterable[Tensor] = ()
    ) -> None:
        self._work = function, inputs
        # A real graph computes nothing while it is recorded.
        before = cuda_graph._Snapshot((*inputs, *state), inputs[0].device)
        random = torch.get_rng_state()
        self.outputs = function(*inputs)
        before.restore()
        torch.set_rng_state(random)
        self.replays = 0

    def replay(self) -> None:
        function, inputs = self._work
        self.replays += 1
        for kept, new in zip(self.outputs, function(*inputs), strict=True):
            kept.copy_(new)


def use_fake_graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Have fake graphs recorded on a CPU; the list of recorded graphs."""
    recorded: list[FakeGraph] = []

    def record(self: GraphedCallable, inputs: Tensors) -> cuda_graph._Recording:
        kept = tuple(part.detach().clone() for part in inputs)
        recorded.append(FakeGraph(self._function, kept, self._state()))
        return cuda_graph._Recording(recorded[-1], kept, recorded[-1].outputs)

    def set_state(device: torch.device, state: Tensor) -> None:
        del device
        torch.set_rng_state(state)

    monkeypatch.setattr(cuda_graph, "_generator_state", lambda _: torch.get_rng_state())
    monkeypatch.setattr(cuda_graph, "_set_generator_state", set_state)
    monkeypatch.setattr(GraphedCallable, "_record", record)
    monkeypatch.setattr(cuda_graph, "can_capture", lambda _: True)
    monkeypatch.setattr(lstm_loops, "can_capture", lambda _: True)
    return recorded
