"""The networks against plain loops over their published layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.examples.small import ITERATIONS, network, strings
from zpyro_examples.easy_to_hard import networks
from zpyro_examples.easy_to_hard.networks import IteratedNetwork

pytestmark = pytest.mark.fast


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    if x.dim() == 3:
        return functional.conv1d(x, weight.squeeze(2), padding=1)
    return functional.conv2d(x, weight, padding=1)


def plain(built: IteratedNetwork, name: str, x: Tensor, iterations: int, blocks: int = 2) -> Tensor:
    """The published forward pass, layer by layer."""
    weights = dict(built.named_parameters())
    state = convolve(x, weights["projection.weight"]).relu()
    for iteration in range(iterations):
        block = f"blocks.{iteration}" if name == "feed-forward" else "block"
        if name == "recall":
            state = convolve(torch.cat([state, x], 1), weights["recall.weight"])
            state = state.relu() if x.dim() == 3 else state
        for number in range(blocks):
            inner = convolve(state, weights[f"{block}.{number}.first.weight"]).relu()
            inner = convolve(inner, weights[f"{block}.{number}.second.weight"])
            state = (inner + state).relu()
    for layer in (0, 2):
        state = convolve(state, weights[f"head.{layer}.weight"]).relu()
    return convolve(state, weights["head.4.weight"])


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_it_is_the_plain_loop(name: str, dimensions: int, blocks: int) -> None:
    built = network(name, dimensions, blocks=blocks)
    shape = (2, 1, 9) if dimensions == 1 else (2, 3, 6, 7)
    x = torch.rand(*shape, dtype=torch.float64)
    logits = built(x, ITERATIONS)
    assert logits.shape == (2, 2, *shape[2:])
    expected = plain(built, name, x, ITERATIONS, blocks)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("name", ["recall", "recurrent"])
def test_an_iteration_reaches_as_far_as_its_radius(name: str, blocks: int) -> None:
    built = network(name, blocks=blocks)
    middle = 20
    x = torch.rand(1, 1, 2 * middle + 1, dtype=torch.float64)
    state = built.initial_state(x).detach().requires_grad_()
    built.iterate_from(state, x, 1)[0, :, middle].sum().backward()
    assert state.grad is not None
    reached = state.grad[0].abs().sum(0).nonzero().flatten()
    assert reached.min() == middle - built.radius
    assert reached.max() == middle + built.radius


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_thinking_in_parts_is_thinking_at_once(name: str) -> None:
    built, (x, _) = network(name), strings()
    states = list(built.states(x, ITERATIONS))
    part = built.iterate_from(built.initial_state(x), x, 2)
    torch.testing.assert_close(part, states[1], rtol=1e-12, atol=0)
    whole = built.iterate_from(part, x, ITERATIONS - 2, first=2)
    torch.testing.assert_close(whole, states[-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(built.answer(whole), built(x, ITERATIONS), rtol=1e-12, atol=0)


def test_only_recall_reads_the_problem_again() -> None:
    x, _ = strings()
    other = 1 - x
    for name, reads in (("recall", True), ("recurrent", False), ("feed-forward", False)):
        built = network(name)
        state = built.initial_state(x)
        same = torch.equal(built.iterate_from(state, x, 2), built.iterate_from(state, other, 2))
        assert same != reads


def test_only_the_feed_forward_network_has_an_end() -> None:
    assert network("recall").longest is None
    assert network("recurrent").longest is None
    assert network("feed-forward").longest == ITERATIONS
    x, _ = strings()
    network("recall")(x, 3 * ITERATIONS)
    with pytest.raises(IndexError):
        network("feed-forward")(x, ITERATIONS + 1)


def test_published_sizes() -> None:
    """Weights of the published networks, counted from their layers."""
    sums = networks.build("recall", 1, 1, 400, 2, 30)
    head = 400 * 400 * 3 + 400 * 200 * 3 + 200 * 2 * 3
    assert count(sums) == 400 * 3 + 401 * 400 * 3 + 4 * 400 * 400 * 3 + head
    mazes = networks.build("recall", 2, 3, 128, 2, 30)
    head = 128 * 32 * 9 + 32 * 8 * 9 + 8 * 2 * 9
    assert count(mazes) == 3 * 128 * 9 + 131 * 128 * 9 + 4 * 128 * 128 * 9 + head
    deep = networks.build("feed-forward", 2, 3, 128, 2, 30)
    assert count(deep) == 3 * 128 * 9 + 30 * 4 * 128 * 128 * 9 + head


def count(built: IteratedNetwork) -> int:
    return sum(weight.numel() for weight in built.parameters())


def test_unknown_names_and_dimensions() -> None:
    with pytest.raises(ValueError, match="choose one of recall, recurrent, feed-forward"):
        networks.build("transformer", 1, 1, 6, 2, 3)
    with pytest.raises(ValueError, match="choose 1"):
        networks.build("recall", 3, 1, 6, 2, 3)
