"""CUDA graphs: the bookkeeping with a fake graph, and real graphs where there is a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.recurrence.cases import CELLS, assert_close, gradients, make, outputs
from zpyro.nn.kernels import cuda_graph, lstm_loops
from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors
from zpyro.nn.kernels.lstm_loops import GraphedLoops
from zpyro.nn.recurrence import RECURRENCES, Path, fused, plain

pytestmark = pytest.mark.fast

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class FakeGraph:
    """Repeats the same work from the same inputs into the same outputs, as a CUDA graph does."""

    def __init__(self, function: Callable[..., Tensors], inputs: Tensors) -> None:
        self._work = function, inputs
        self.outputs = function(*inputs)
        self.replays = 0

    def replay(self) -> None:
        function, inputs = self._work
        self.replays += 1
        for kept, new in zip(self.outputs, function(*inputs), strict=True):
            kept.copy_(new)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Record fake graphs on a CPU; the list of recorded graphs."""
    recorded: list[FakeGraph] = []

    def record(self: GraphedCallable, inputs: Tensors) -> cuda_graph._Recording:
        kept = tuple(part.detach().clone() for part in inputs)
        recorded.append(FakeGraph(self._function, kept))
        return cuda_graph._Recording(recorded[-1], kept, recorded[-1].outputs)

    monkeypatch.setattr(GraphedCallable, "_record", record)
    monkeypatch.setattr(cuda_graph, "can_capture", lambda _: True)
    monkeypatch.setattr(lstm_loops, "can_capture", lambda _: True)
    return recorded


def double(x: Tensor) -> Tensors:
    return (2.0 * x,)


def test_the_function_is_called_directly_on_a_cpu() -> None:
    graphed = GraphedCallable(double, warm_up=0)
    x = torch.ones(2)
    assert torch.equal(graphed(x)[0], 2.0 * x)
    assert not graphed._recordings


def test_a_shape_is_recorded_after_its_warm_up_and_replayed(graphs: list[FakeGraph]) -> None:
    graphed = GraphedCallable(double, warm_up=2)
    results = [graphed(torch.full((2,), float(n)))[0] for n in range(5)]
    assert [graph.replays for graph in graphs] == [3]
    for n, result in enumerate(results):
        assert torch.equal(result, torch.full((2,), 2.0 * n))


def test_every_shape_and_dtype_has_a_graph_and_the_oldest_are_dropped(
    graphs: list[FakeGraph],
) -> None:
    graphed = GraphedCallable(double, warm_up=0, max_graphs=2)
    for size in (1, 2, 1, 3):
        graphed(torch.ones(size))
    graphed(torch.ones(3, dtype=torch.float64))
    assert len(graphs) == 4
    assert len(graphed._recordings) == 2
    graphed(torch.ones(3))
    assert len(graphs) == 4
    graphed(torch.ones(1))
    assert len(graphs) == 5


def test_changes_in_place_happen_at_every_replay(graphs: list[FakeGraph]) -> None:
    total = torch.zeros(())

    def add(x: Tensor) -> Tensors:
        return (total.add_(x.sum()),)

    graphed = GraphedCallable(add, warm_up=1)
    graphed(torch.ones(2))
    assert total == 2.0
    graphed(torch.ones(2))
    # The fake graph runs once while it records, a real one does not.
    assert total == 6.0
    graphed(torch.ones(2))
    assert total == 8.0


def test_failing_to_record_is_logged_once_and_the_function_still_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

    class LoadedRun:
        def __init__(self, *args: object, **settings: object) -> None:
            self._graph = Broken()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", LoadedRun)
    monkeypatch.setattr(cuda_graph, "can_capture", lambda _: True)
    graphed = GraphedCallable(double, warm_up=0)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(graphed(torch.ones(2))[0], torch.full((2,), 2.0))
    assert [record.message.count("not permitted") for record in caplog.records] == [1]


def run_graphed(loops: GraphedLoops) -> Callable[..., Path]:
    return partial(fused, loops=loops)


def test_graphed_loops_copy_everything_in_and_out(graphs: list[FakeGraph]) -> None:
    recurrence = run_graphed(GraphedLoops())
    for seed in range(5):
        case = make("lstm", seed=seed, particles=2)
        ours, theirs = case.run(recurrence), case.run(plain)
        later = make("lstm", seed=seed + 50, particles=2).run(recurrence)
        assert_close(outputs(ours), outputs(theirs), 1e-10)
        assert_close(gradients(case, ours), gradients(case, theirs), 1e-10)
        only_z = gradients(case, case.run(recurrence), ("z",))
        assert_close(only_z, gradients(case, case.run(plain), ("z",)), 1e-10)
        assert later.z.isfinite().all()
    # One forward, and a backward for each set of outputs that gradients arrive at.
    assert len(graphs) == 3


@needs_cuda
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", RECURRENCES)
def test_equals_plain_on_cuda(name: str, cell: str) -> None:
    for seed in range(5):
        case = make(cell, seed=seed, particles=2).to("cuda")
        ours, theirs = case.run(RECURRENCES[name]), case.run(plain)
        assert_close(outputs(ours), outputs(theirs), 1e-10)
        assert_close(gradients(case, ours), gradients(case, theirs), 1e-10)


@needs_cuda
@pytest.mark.parametrize("name", RECURRENCES)
def test_autocast_on_cuda_keeps_the_state_in_full_precision(name: str) -> None:
    case = make("lstm", sequences=8, hidden=64, scale=0.3).to("cuda").to(torch.float32)
    exact = case.run(plain)
    for _ in range(4):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            path = case.run(RECURRENCES[name])
        assert path.hidden.dtype == torch.float32
        assert_close(outputs(path), outputs(exact), 0.05)


@needs_cuda
def test_a_captured_training_step_is_the_step() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(8, 8, device="cuda", requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        weights[1].copy_(weights[0])
    optimizers = [torch.optim.Adam([weight], lr=1e-2, capturable=True) for weight in weights]

    def step(number: int, x: Tensor) -> Tensors:
        optimizers[number].zero_grad(set_to_none=False)
        loss = (x @ weights[number]).square().mean()
        loss.backward()
        optimizers[number].step()
        return (loss.detach(),)

    graphed = GraphedCallable(lambda x: step(1, x))
    for _ in range(6):
        x = torch.randn(4, 8, device="cuda")
        expected, found = step(0, x)[0], graphed(x)[0]
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights[0], weights[1])
    assert len(graphed._recordings) == 1
