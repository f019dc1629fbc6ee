"""CUDA graphs: the bookkeeping with a fake graph, and real graphs where there is a device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.recurrence.cases import CELLS, assert_close, gradients, make, outputs
from tests.recurrence.fake_graphs import FakeGraph, use_fake_graphs
from zpyro.nn.kernels import cuda_graph
from zpyro.nn.kernels.cuda_graph import GraphedCallable, Tensors
from zpyro.nn.kernels.lstm_loops import GraphedLoops
from zpyro.nn.precision import products
from zpyro.nn.recurrence import RECURRENCES, Path, fused, plain

pytestmark = pytest.mark.fast

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    return use_fake_graphs(monkeypatch)


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

    graphed = GraphedCallable(add, warm_up=1, state=lambda: [total])
    for number in range(1, 5):
        assert graphed(torch.ones(2))[0] == 2.0 * number
        assert total == 2.0 * number
    assert [graph.replays for graph in graphs] == [3]


def test_random_numbers_go_on_as_without_a_graph(graphs: list[FakeGraph]) -> None:
    def sample(x: Tensor) -> Tensors:
        return (torch.randn_like(x),)

    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        graphed = GraphedCallable(sample, warm_up=1, enabled=enabled)
        results.append(torch.cat([graphed(torch.ones(2))[0] for _ in range(4)]))
    assert torch.equal(*results)
    assert len(graphs) == 1


class Wrong(FakeGraph):
    """A graph whose replay makes a mistake, which a test gives."""

    def __init__(self, mistake: Callable[[FakeGraph], None], *arguments: Any) -> None:
        super().__init__(*arguments)
        self._mistake = mistake

    def replay(self) -> None:
        super().replay()
        self._mistake(self)


def use_wrong_graphs(monkeypatch: pytest.MonkeyPatch, mistake: Callable[[FakeGraph], None]) -> None:
    """Have graphs recorded whose replays make a mistake."""

    def record(self: GraphedCallable, inputs: Tensors) -> cuda_graph._Recording:
        graph = Wrong(mistake, self._function, inputs, self._state())
        return cuda_graph._Recording(graph, inputs, graph.outputs)

    monkeypatch.setattr(GraphedCallable, "_record", record)


def wrong_output(graph: FakeGraph) -> None:
    graph.outputs[0].mul_(1.002)


def not_a_number(graph: FakeGraph) -> None:
    graph.outputs[0].fill_(float("nan"))


def failure(graph: FakeGraph) -> None:
    raise RuntimeError("an illegal memory access was encountered")


@pytest.mark.parametrize("mistake", [wrong_output, not_a_number, failure])
def test_a_wrong_graph_is_dropped_with_one_warning(
    mistake: Callable[[FakeGraph], None],
    graphs: list[FakeGraph],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del graphs
    total = torch.zeros(2)

    def step(x: Tensor) -> Tensors:
        total.add_(torch.rand(2) * x)
        return (total.sum().reshape(1),)

    use_wrong_graphs(monkeypatch, mistake)
    graphed = GraphedCallable(step, warm_up=1, state=lambda: [total])
    torch.manual_seed(0)
    with caplog.at_level(logging.WARNING):
        found = [graphed(torch.ones(2))[0] for _ in range(4)]
    torch.manual_seed(0)
    expected = torch.rand(4, 2).cumsum(0)
    torch.testing.assert_close(torch.cat(found), expected.sum(1))
    torch.testing.assert_close(total, expected[-1])
    assert [record.message.count("CUDA graphs are not used") for record in caplog.records] == [1]


def test_later_replays_are_compared_too(
    graphs: list[FakeGraph], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A graph that goes wrong at its third replay."""
    del graphs
    total = torch.zeros(2)

    def late(graph: FakeGraph) -> None:
        if graph.replays == 3:
            total.fill_(float("nan"))

    def step(x: Tensor) -> Tensors:
        total.add_(x)
        return (x.sum().reshape(1),)

    use_wrong_graphs(monkeypatch, late)
    graphed = GraphedCallable(step, warm_up=0, state=lambda: [total])
    with caplog.at_level(logging.WARNING):
        for number in range(1, 7):
            graphed(torch.ones(2))
            assert total.tolist() == [number] * 2
            assert len(caplog.records) == (number > 2)


def test_which_replays_are_compared() -> None:
    compared = [replay for replay in range(1, 100) if cuda_graph.is_compared(replay)]
    assert compared == [1, 2, 3, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("times", [0, 2])
def test_a_graph_that_changes_too_little_or_too_much_is_dropped(
    times: int,
    graphs: list[FakeGraph],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del graphs
    weight = torch.zeros(2)

    def change(_: FakeGraph) -> None:
        weight.add_(times - 1.0)

    def step(x: Tensor) -> Tensors:
        weight.add_(x)
        return (x.sum().reshape(1),)

    use_wrong_graphs(monkeypatch, change)
    graphed = GraphedCallable(step, warm_up=1, state=lambda: [weight])
    with caplog.at_level(logging.WARNING):
        for number in range(1, 5):
            graphed(torch.ones(2))
            assert weight.tolist() == [number] * 2
    assert "what a graph changes differs" in caplog.text


def test_numbers_that_are_not_finite_are_not_compared(
    graphs: list[FakeGraph], caplog: pytest.LogCaptureFixture
) -> None:
    graphed = GraphedCallable(double, warm_up=1)
    with caplog.at_level(logging.WARNING):
        for value in (1.0, float("nan"), float("inf"), 3.0, 4.0):
            assert torch.equal(
                graphed(torch.full((1,), value))[0].nan_to_num(),
                torch.tensor([2 * value]).nan_to_num(),
            )
    assert not caplog.records
    assert len(graphs) == 1


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

    def changed() -> list[Tensor]:
        return [weights[1].detach(), *optimizers[1].state[weights[1]].values()]

    graphed = GraphedCallable(lambda x: step(1, x), state=changed)
    for _ in range(6):
        x = torch.randn(4, 8, device="cuda")
        expected, found = step(0, x)[0], graphed(x)[0]
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights[0], weights[1])
    assert len(graphed._recordings) == 1


@needs_cuda
def test_a_function_that_reads_the_device_runs_directly_on_cuda(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def step(x: Tensor) -> Tensors:
        scale = 1.0 if x.sum().item() > 0.0 else 2.0
        return (scale * x + torch.randn_like(x),)

    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        graphed = GraphedCallable(step, enabled=enabled)
        with caplog.at_level(logging.WARNING):
            results.append(
                torch.stack([graphed(torch.ones(4, device="cuda"))[0] for _ in range(6)])
            )
        results.append(torch.randn(3, device="cuda"))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert [record.message.count("recording failed") for record in caplog.records] == [1]


@needs_cuda
def test_a_function_that_depends_on_more_than_tensors_runs_directly_on_cuda(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    def step(x: Tensor) -> Tensors:
        nonlocal calls
        calls += 1
        return (calls * x,)

    graphed = GraphedCallable(step)
    with caplog.at_level(logging.WARNING):
        results = [float(graphed(torch.ones((), device="cuda"))[0]) for _ in range(6)]
    assert results == sorted(results)
    assert "differs" in caplog.text


@needs_cuda
def test_precision_has_graphs_of_its_own() -> None:
    left, right = torch.randn(2, 256, 256, device="cuda", dtype=torch.float64).unbind()
    graphed = GraphedCallable(lambda a, b: (a @ b,))
    errors = {}
    for chosen in ("float32", "tf32"):
        with products(chosen):
            for _ in range(4):
                (found,) = graphed(left.float(), right.float())
        errors[chosen] = float((found - left @ right).norm() / (left @ right).norm())
    assert errors["float32"] < 1e-6
    assert errors["tf32"] > 1e-5
