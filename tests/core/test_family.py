"""Each model against oracles from outside: stock Pyro sites, exact densities, the plain loop."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO
from torch import Tensor

import zpyro
from tests.core.cases import FAMILY, Case, gradients, make
from tests.core.kalman import LinearCell, LinearGaussian, LinearOutput, StateSpace, matrix
from tests.core.stock import STOCK
from zpyro.models import MODELS
from zpyro.nn.recurrence import RECURRENCES

pytestmark = pytest.mark.fast

EXACT = {"rtol": 1e-10, "atol": 1e-10}
STOCK_CASES = [
    *(name for name in FAMILY if name not in ("vrnn_layer_norm", "srnn_forced")),
    "gaussian",
    "categorical",
]


LOOPED = [name for name in FAMILY if name.startswith(("vrnn", "srnn", "dmm"))]


def test_the_registry_holds_the_family() -> None:
    assert list(MODELS) == ["rnn", "dmm", "storn", "vrnn", "srnn", "zforcing"]
    assert all(name == kind.__name__.lower() for name, kind in MODELS.items())


@pytest.mark.parametrize("name", STOCK_CASES)
def test_sequence_program_is_the_sum_of_stock_sites(name: str) -> None:
    """log p(x, z) and log q(z | x), and their gradients, from the equations of the papers."""
    case = make(name, lengths=(5, 5, 5))
    stock_model, stock_guide = STOCK[type(case.module)]
    trace = poutine.trace(case.module.guide).get_trace(case.x, None, case.start)
    joint = poutine.trace(poutine.replay(case.module.model, trace=trace)).get_trace(
        case.x, None, case.start
    )
    steps: dict[str, Tensor] = {}
    if case.module.latent_size:
        z = trace.nodes["z"]["value"].detach()
        steps = {f"z_{t + 1}": z[:, t] for t in range(5)}
        fixed = {"z": z}
        trace = poutine.trace(poutine.condition(case.module.guide, data=fixed)).get_trace(
            case.x, None, case.start
        )
        joint = poutine.trace(poutine.condition(case.module.model, data=fixed)).get_trace(
            case.x, None, case.start
        )

    def stock(program: Any) -> Tensor:
        with_plate = pyro.plate("sequences", 3)(program)
        conditioned = poutine.condition(with_plate, data=steps)
        total = poutine.trace(conditioned).get_trace(case.module, case.x, case.start)
        return torch.as_tensor(total.log_prob_sum())

    for ours, theirs in ((joint, stock(stock_model)), (trace, stock(stock_guide))):
        value = torch.as_tensor(ours.log_prob_sum())
        torch.testing.assert_close(value, theirs.to(value), **EXACT)
        if value.requires_grad:
            expected = gradients(case.module, theirs)
            found = gradients(case.module, value)
            for parameter in expected:
                torch.testing.assert_close(
                    found[parameter], expected[parameter], **EXACT, msg=parameter
                )


@pytest.mark.parametrize("recurrence", [name for name in RECURRENCES if name != "plain"])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize(
    "name", [name for name in FAMILY if name.startswith(("vrnn", "srnn", "dmm"))]
)
def test_fast_equals_plain(name: str, particles: int, recurrence: str) -> None:
    """Every output of a path, and every gradient, of inputs and parameters alike."""
    fast = make(name, recurrence=recurrence)
    slow = make(name, recurrence="plain")
    weights: list[Tensor] = []
    results = []
    for case in (fast, slow):
        torch.manual_seed(4)
        process = case.module.bind(case.x, case.lengths, case.start)
        inputs = [process.backward_states.detach(), process.input_features.detach()]
        inputs.append(torch.randn(3 * particles, 5, 2, dtype=torch.float64))
        state = case.module.initial_state(3 * particles)
        first = tuple(torch.randn_like(part) for part in state)
        leaves = [part.clone().requires_grad_() for part in (*inputs, *first)]
        path = case.module.sample_posterior_path(*leaves[:3], tuple(leaves[3:]))
        outputs = [path.z, path.context, path.features, path.mean, path.log_variance]
        if not weights:
            weights = [torch.randn_like(part) for part in outputs]
        total = sum(((w * part).sum() for w, part in zip(weights, outputs, strict=True)), 0.0)
        assert isinstance(total, Tensor)
        found = gradients(case.module, total)
        results.append((outputs, [leaf.grad for leaf in leaves], found))
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, **EXACT)
    for parameter, expected in results[1][2].items():
        torch.testing.assert_close(results[0][2][parameter], expected, **EXACT, msg=parameter)


def test_clamped_numbers_have_no_gradient_in_the_fused_chain() -> None:
    """Outputs and activations beyond their bounds: the fused loop clamps where the plain does."""
    results = []
    for recurrence in ("fused", "compiled", "plain"):
        case = make("srnn", recurrence=recurrence)
        with torch.no_grad():
            for network in (case.module.prior_network, case.module.posterior_network):
                network.hidden.weight.mul_(12.0)
                network.output.weight.mul_(12.0)
        terms = zpyro.sequence_terms(case.module, *case.batch, case.noise)
        assert (terms.posterior_log_variance.abs() == 8.0).any()
        found = gradients(case.module, (terms.z.square() + terms.posterior_mean).sum())
        results.append((terms.z, found))
    *fast, (expected_z, expected_gradients) = results
    for z, found in fast:
        torch.testing.assert_close(z, expected_z, rtol=1e-9, atol=1e-9)
        for name, expected in expected_gradients.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-8, msg=name)


@pytest.mark.parametrize("name", ["rnn", "rnn_tokens"])
def test_every_bound_of_a_model_without_latents_is_exact(name: str) -> None:
    case = make(name)
    exact = zpyro.sequence_terms(case.module, *case.batch).log_likelihood.sum().item()
    many = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 1}
    for elbo in (Trace_ELBO(), RenyiELBO(alpha=0, **many), zpyro.ZForcingELBO(0.3, **many)):
        for granularity in ("sequence", "step"):
            bound = -elbo.loss(*case.module.program(granularity), *case.batch)
            assert bound == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", ["rnn", "storn", "vrnn"])
def test_auxiliary_weights_need_a_backward_network(name: str) -> None:
    case = make(name)
    with pytest.raises(zpyro.UserError, match="exposes no backward states"):
        zpyro.ZForcingELBO(auxiliary_weight=0.1)(case.module.model, case.module.guide)(*case.batch)


def test_particles_generate_apart() -> None:
    case = make("rnn")
    for granularity, site in (("sequence", "x"), ("step", "x_1")):
        model = case.module.program(granularity)[0]
        with pyro.plate("particles", 4, dim=-2):
            trace = poutine.trace(model).get_trace(None, case.lengths, case.start)
        drawn = trace.nodes[site]["value"]
        assert drawn.shape[:2] == (4, 3)
        assert drawn.std(0).flatten(1)[0].gt(0).all()


# -- linear-Gaussian special cases: the exact density by a Kalman filter ---------------------------


def linear(name: str) -> Case:
    """A member of the family whose log joint is a quadratic of the latents."""
    case = make(name, lengths=(5, 5, 5))
    m = case.module
    hidden, latent = m.hidden_size, m.latent_size
    if name in ("vrnn", "storn", "gaussian"):
        m.cell = LinearCell(hidden, latent, 4)
    if name == "vrnn":
        m.prior_network = LinearGaussian(hidden, latent)
        m.output = LinearOutput(latent + hidden, 3)
    if name == "dmm":
        m.prior_network = LinearGaussian(latent, latent)
        m.output = LinearOutput(latent, 3)
    if name == "srnn":
        m.prior_network = LinearGaussian(latent + hidden, latent)
        m.output = LinearOutput(latent + hidden, 3)
    if name in ("storn", "gaussian"):
        m.output = LinearOutput(hidden, 3)
    if name == "gaussian":
        m.prior_network = LinearGaussian(hidden, latent)
    return case


def state_space(name: str, case: Case, row: int) -> StateSpace:
    """The same member, for one sequence, in the words of a Kalman filter."""
    m = case.module
    process = m.bind(case.x, None, case.start)
    inputs, input_features = matrix(process.inputs)[row], matrix(process.input_features)[row]
    output = m.output.gaussian
    reading, shift = matrix(output.linear.weight), matrix(output.linear.bias)
    error = np.diag(np.exp(matrix(output.log_variance)))
    size, steps = m.latent_size, len(inputs)
    if name == "srnn":
        # s = z; d_t is known.
        prior = m.prior_network
        of_z, of_d = np.split(matrix(prior.linear.weight), [size], axis=1)
        return StateSpace(
            of_z,
            input_features @ of_d.T + matrix(prior.linear.bias),
            np.diag(np.exp(matrix(prior.log_variance))),
            reading[:, :size],
            input_features @ reading[:, size:].T + shift,
            error,
        )
    if name == "dmm":
        prior = m.prior_network
        return StateSpace(
            matrix(prior.linear.weight),
            np.tile(matrix(prior.linear.bias), (steps, 1)),
            np.diag(np.exp(matrix(prior.log_variance))),
            reading,
            np.tile(shift, (steps, 1)),
            error,
        )
    recurrent, into, embedded = (
        matrix(part) for part in (m.cell.recurrent, m.cell.latent, m.cell.embedded)
    )
    entered = inputs @ embedded.T
    shifts = np.tile(shift, (steps, 1))
    if name == "storn":
        # s = h, moved by z of unit variance.
        return StateSpace(recurrent, entered, into @ into.T, reading, shifts, error)
    weight, bias = matrix(m.prior_network.linear.weight), matrix(m.prior_network.linear.bias)
    noise = np.diag(np.exp(matrix(m.prior_network.log_variance)))
    if name == "gaussian":
        # s = h; z_t = P h_{t-1} + p + noise enters through G.
        moved = recurrent + into @ weight
        return StateSpace(
            moved, entered + into @ bias, into @ noise @ into.T, reading, shifts, error
        )
    # VRNN: s = [z, d]; d_t is known from s_{t-1}, and z_t = P d_t + p + noise.
    move_d = np.concatenate([into, recurrent], axis=1)
    transition = np.concatenate([weight @ move_d, move_d])
    offsets = np.concatenate([entered @ weight.T + bias, entered], axis=1)
    full = np.zeros((len(transition), len(transition)))
    full[:size, :size] = noise
    return StateSpace(transition, offsets, full, reading, shifts, error)


@pytest.mark.parametrize("name", ["dmm", "storn", "vrnn", "srnn", "gaussian"])
def test_linear_gaussian_member_has_the_exact_density(name: str) -> None:
    """The integral over z of the program's joint, a quadratic there, against a Kalman filter."""
    case = linear(name)
    count, steps, size = case.noise.shape

    def log_joint(flat: Tensor, row: int) -> Tensor:
        z = flat.reshape(1, steps, size)
        fixed = poutine.condition(case.module.model, data={"z": z})
        one = slice(row, row + 1)
        return torch.as_tensor(
            poutine.trace(fixed).get_trace(case.x[one], None, case.start[one]).log_prob_sum()
        )

    for row in range(count):
        z = torch.zeros(steps * size, dtype=torch.float64, requires_grad=True)
        value = log_joint(z, row)
        (slope,) = torch.autograd.grad(value, z)
        hessian = torch.autograd.functional.hessian(lambda flat, r=row: log_joint(flat, r), z)
        assert isinstance(hessian, Tensor)
        precision = -hessian.detach()
        integral = value.detach() + 0.5 * slope @ torch.linalg.solve(precision, slope)
        integral = integral - 0.5 * torch.logdet(precision / (2.0 * math.pi))
        exact = state_space(name, case, row).log_density(case.x[row].numpy())
        assert integral.item() == pytest.approx(exact, rel=1e-9)


def test_a_recurrent_network_has_the_density_of_its_predictions() -> None:
    """RNN: scipy's normal density of each frame given an LSTM cell's own states."""
    from scipy import stats

    case = make("rnn", lengths=(5, 5, 5))
    found = zpyro.sequence_terms(case.module, case.x, start=case.start).log_likelihood
    m = case.module
    with torch.no_grad():
        inputs = torch.cat([case.start[:, None], case.x[:, :-1]], dim=1)
        states, _ = m.lstm(m.embedding(inputs))
        mean, log_variance = m.output(states).chunk(2, -1)
    expected = stats.norm.logpdf(case.x, mean, np.exp(0.5 * log_variance.numpy())).sum(-1)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-10)
