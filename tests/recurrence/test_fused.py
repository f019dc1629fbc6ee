"""Values and gradients of every recurrence equal those of the plain loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from tests.recurrence.cases import CELLS, Case, assert_close, gradients, leaf, make, outputs
from zpyro.nn.recurrence import RECURRENCES, Path, Recurrence, choose, plain

EXACT = 1e-10
FAST = [name for name in RECURRENCES if name != "plain"]


@pytest.fixture(params=FAST)
def recurrence(request: pytest.FixtureRequest) -> Recurrence:
    return RECURRENCES[request.param]


@pytest.fixture(params=CELLS)
def cell(request: pytest.FixtureRequest) -> str:
    return request.param


def assert_same(case: Case, recurrence: Recurrence, relative: float = EXACT) -> None:
    ours, theirs = case.run(recurrence), case.run(plain)
    assert_close(outputs(ours), outputs(theirs), relative)
    assert_close(gradients(case, ours), gradients(case, theirs), relative)


@pytest.mark.fast
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(("sequences", "steps"), [(1, 1), (1, 5), (4, 1), (3, 7)])
def test_equals_plain(
    recurrence: Recurrence, cell: str, sequences: int, steps: int, particles: int
) -> None:
    case = make(cell, sequences=sequences, steps=steps, particles=particles)
    assert_same(case, recurrence)


@pytest.mark.fast
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (5, 3, 2, 7), (16, 8, 4, 12), (37, 19, 33, 21)])
def test_equals_plain_at_any_size(
    recurrence: Recurrence, cell: str, sizes: tuple[int, int, int, int]
) -> None:
    hidden, latent, embedded, width = sizes
    if cell == "layer_norm" and hidden == 1:
        hidden = 2
    case = make(cell, hidden=hidden, latent=latent, embedded=embedded, width=width)
    assert_same(case, recurrence)


@pytest.mark.fast
@pytest.mark.parametrize("sequences", range(1, 20))
def test_equals_plain_for_any_number_of_sequences(recurrence: Recurrence, sequences: int) -> None:
    assert_same(make("lstm", sequences=sequences, steps=2, hidden=9), recurrence)


@pytest.mark.fast
def test_equals_plain_where_every_clamp_acts(recurrence: Recurrence, cell: str) -> None:
    case = make(cell, scale=12.0, steps=6)
    path = case.run(plain)
    assert (path.mean.abs() == 8.0).any()
    assert (path.log_variance.abs() == 8.0).any()
    assert_same(case, recurrence, 1e-8)


@pytest.mark.fast
def test_gradients_pass_on_the_bounds_as_torch_lets_them(recurrence: Recurrence) -> None:
    """A posterior whose activations are exactly 3 and whose outputs are exactly 8."""
    case = make("lstm", steps=2)
    with torch.no_grad():
        case.posterior.hidden.weight.zero_()
        case.posterior.hidden.bias.fill_(3.0)
        case.posterior.output.weight.zero_()
        case.posterior.output.bias.fill_(8.0)
        case.posterior.output.weight[:, 0] = 1e-300
    assert_same(case, recurrence)
    found = gradients(case, case.run(recurrence))
    assert found["posterior.output.bias"].all()


@pytest.mark.fast
@pytest.mark.parametrize(
    "which", [("z",), ("hidden",), ("mean",), ("log_variance",), ("h_T",), ("c_T",)]
)
def test_gradients_may_arrive_at_any_output(
    recurrence: Recurrence, cell: str, which: tuple[str, ...]
) -> None:
    case = make(cell, particles=2)
    ours = gradients(case, case.run(recurrence), which)
    assert_close(ours, gradients(case, case.run(plain), which), EXACT)


def test_passes_gradcheck(recurrence: Recurrence, cell: str) -> None:
    case = make(cell, sequences=2, steps=3, particles=2, hidden=3, latent=2, embedded=2, width=3)

    def run(backward: Tensor, embedded: Tensor, noise: Tensor, h: Tensor, c: Tensor, *_: Tensor):
        path = recurrence(case.posterior, case.cell, backward, embedded, noise, (h, c))
        return tuple(outputs(path).values())

    assert torch.autograd.gradcheck(run, tuple(case.leaves().values()))


@pytest.mark.fast
def test_parts_that_need_no_gradient_get_none(recurrence: Recurrence, cell: str) -> None:
    case = make(cell)
    detached = case.replaced(
        backward=case.backward.detach(),
        embedded=case.embedded.detach(),
        noise=case.noise.detach(),
        state=(case.state[0].detach(), case.state[1].detach()),
    )
    expected = gradients(case, case.run(plain))
    path = detached.run(recurrence)
    parameters = {
        name: parameter
        for name, parameter in case.leaves().items()
        if parameter.dim() and "." in name
    }
    generator = torch.Generator().manual_seed(5)
    total = sum(
        (value * torch.randn(value.shape, generator=generator, dtype=torch.float64)).sum()
        for value in outputs(path).values()
    )
    assert isinstance(total, Tensor)
    found = torch.autograd.grad(total, list(parameters.values()))
    ours = dict(zip(parameters, found, strict=True))
    assert_close(ours, {name: expected[name] for name in parameters}, EXACT)


@pytest.mark.fast
def test_frozen_networks_still_pass_gradients_to_the_inputs(
    recurrence: Recurrence, cell: str
) -> None:
    case = make(cell)
    expected = gradients(case, case.run(plain))["backward"]
    for parameter in (*case.posterior.parameters(), *case.cell.parameters()):
        parameter.requires_grad_(False)
    path = case.run(recurrence)
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for value in outputs(path).values():
        draws = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        total = total + (value * draws).sum()
    found = torch.autograd.grad(total, case.backward)[0]
    assert_close({"backward": found}, {"backward": expected}, EXACT)


@pytest.mark.fast
def test_without_gradients_the_path_is_the_same(recurrence: Recurrence, cell: str) -> None:
    case = make(cell)
    with torch.no_grad():
        assert_close(outputs(case.run(recurrence)), outputs(case.run(plain)), EXACT)


@pytest.mark.fast
def test_backward_twice_through_a_retained_graph(recurrence: Recurrence, cell: str) -> None:
    case = make(cell)
    path = case.run(recurrence)
    leaves = list(case.leaves().values())
    first = torch.autograd.grad(path.z.sum(), leaves, retain_graph=True, allow_unused=True)
    second = torch.autograd.grad(path.z.sum(), leaves, allow_unused=True)
    for before, after in zip(first, second, strict=True):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert torch.equal(before, after)


@pytest.mark.fast
def test_an_output_changed_in_place_makes_no_wrong_gradient(recurrence: Recurrence) -> None:
    path = make("lstm").run(recurrence)

    def change_and_differentiate() -> None:
        path.hidden.mul_(2.0)
        path.z.sum().backward()

    with pytest.raises(RuntimeError, match=r"in.?place"):
        change_and_differentiate()


@pytest.mark.fast
def test_inputs_are_left_as_they_were(recurrence: Recurrence, cell: str) -> None:
    case = make(cell)
    before = {name: value.detach().clone() for name, value in case.leaves().items()}
    gradients(case, case.run(recurrence))
    for name, value in case.leaves().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.fast
def test_runs_are_repeatable_bit_for_bit(recurrence: Recurrence, cell: str) -> None:
    case = make(cell, sequences=8, steps=6, hidden=33)
    first, second = case.run(recurrence), case.run(recurrence)
    for a, b in itertools.chain(
        zip(outputs(first).values(), outputs(second).values(), strict=True),
        zip(gradients(case, first).values(), gradients(case, second).values(), strict=True),
    ):
        assert torch.equal(a, b)


@pytest.mark.fast
def test_strided_inputs(recurrence: Recurrence, cell: str) -> None:
    """Arguments may be views, such as slices and outputs of an LSTM."""
    case = make(cell, sequences=4, steps=5)
    wide = torch.randn(5, 4, 12, dtype=torch.float64)
    strided = case.replaced(
        backward=leaf(case.backward.detach().transpose(0, 1).contiguous()).transpose(0, 1),
        embedded=wide.transpose(0, 1)[..., ::2][..., :5],
    )
    ours, theirs = strided.run(recurrence), strided.run(plain)
    assert_close(outputs(ours), outputs(theirs), EXACT)


@pytest.mark.fast
def test_float32_is_close(recurrence: Recurrence, cell: str) -> None:
    case = make(cell, sequences=8, hidden=32).to(torch.float32)
    ours, theirs = case.run(recurrence), case.run(plain)
    assert all(value.dtype == torch.float32 for value in outputs(ours).values())
    assert_close(outputs(ours), outputs(theirs), 1e-5)
    assert_close(gradients(case, ours), gradients(case, theirs), 1e-4)


@pytest.mark.fast
def test_autocast_keeps_the_state_in_full_precision(recurrence: Recurrence, cell: str) -> None:
    case = make(cell, sequences=8, hidden=32, scale=0.3).to(torch.float32)
    exact = gradients(case, case.run(plain))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        path, rounded = case.run(recurrence), case.run(plain)
    assert all(value.dtype == torch.float32 for value in outputs(path).values())
    assert_close(outputs(path), outputs(rounded), 0.05)
    assert not torch.equal(path.hidden, case.run(recurrence).hidden)
    ours, theirs = gradients(case, path), gradients(case, rounded)
    for name, expected in exact.items():
        error, allowed = (ours[name] - expected).norm(), (theirs[name] - expected).norm()
        assert ours[name].dtype == torch.float32
        assert error <= 1.5 * allowed + 0.01 * expected.norm(), name


@pytest.mark.fast
def test_choose_knows_its_names() -> None:
    assert choose("plain") is plain
    assert choose("auto") in RECURRENCES.values()
    with pytest.raises(ValueError, match="recurrence is 'fast'"):
        choose("fast")


@pytest.mark.fast
def test_a_path_names_its_parts() -> None:
    path = make("lstm").run(choose("auto"))
    assert isinstance(path, Path)
    assert torch.equal(path.state[0], path.hidden[:, -1])


def second_gradients(case: Case, path: Path) -> dict[str, Tensor]:
    """The gradient of the squared length of the gradient of all leaves."""
    total = sum(value.sin().sum() for value in outputs(path).values())
    assert isinstance(total, Tensor)
    leaves = case.leaves()
    tensors = list(leaves.values())
    first = torch.autograd.grad(total, tensors, create_graph=True, materialize_grads=True)
    length = torch.stack([part.square().sum() for part in first]).sum()
    found = torch.autograd.grad(length, tensors, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


@pytest.mark.fast
@pytest.mark.parametrize("particles", [1, 2])
def test_gradients_can_be_differentiated(recurrence: Recurrence, cell: str, particles: int) -> None:
    case = make(cell, particles=particles, scale=0.5)
    ours, theirs = (second_gradients(case, case.run(each)) for each in (recurrence, plain))
    assert_close(ours, theirs, EXACT)


@pytest.mark.fast
def test_some_outputs_and_fixed_inputs_when_differentiated_twice(recurrence: Recurrence) -> None:
    case = make("lstm")
    case = case.replaced(backward=case.backward.detach(), noise=case.noise.detach())
    weight = case.posterior.output.weight
    found: list[Tensor] = []
    for each in (recurrence, plain):
        z = case.run(each).z
        (first,) = torch.autograd.grad(z.square().sum(), weight, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), weight)[0])
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.fast
def test_gradients_by_torch_func(recurrence: Recurrence, cell: str) -> None:
    case = make(cell)
    weights = dict(case.posterior.named_parameters())

    def loss(weights: dict[str, Tensor]) -> Tensor:
        class Called(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.posterior = case.posterior

            def forward(self) -> Tensor:
                return sum_of(case.run(recurrence))

        prefixed = {f"posterior.{name}": value for name, value in weights.items()}
        return torch.func.functional_call(Called(), prefixed, ())

    found = torch.func.grad(loss)({name: value.detach() for name, value in weights.items()})
    expected = torch.autograd.grad(sum_of(case.run(plain)), list(weights.values()))
    for name, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def sum_of(path: Path) -> Tensor:
    return path.z.sum() + path.hidden.square().sum()
