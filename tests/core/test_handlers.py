"""Pyro's handlers act on every term of the objective alike, in both granularities.

The oracle is a loop over the steps of the equations, with the densities of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import zpyro
from tests.core.cases import Case, gradients, make
from zpyro.errors import UserError
from zpyro.objectives import MultiSampleELBO, Term, TracePair

pytestmark = pytest.mark.fast

GRANULARITIES = ("sequence", "step")
WEIGHTS = (0.7, 0.3, 0.2)
KEEP: Any = torch.tensor([True, False, True])
LENGTHS = (5, 2, 1)


def normal(parameters: tuple[Tensor, Tensor]) -> Normal:
    return Normal(parameters[0], (0.5 * parameters[1]).exp())


def plain_loop(
    m: Any, x: Tensor, lengths: Tensor, start: Tensor, noise: Tensor, scored: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms of each sequence and step, (B, T), by name.

    The posterior reads x; the model reads and scores ``scored``, by default the same.
    """
    mask = torch.arange(x.shape[1]) < lengths.unsqueeze(-1)
    scored = x if scored is None else scored
    x, scored = (part.where(mask.unsqueeze(-1), 0.0) for part in (x, scored))
    bound = m.bind(x, lengths, start)
    future = bound.backward_states
    found: dict[str, list[Tensor]] = {
        name: [] for name in ("log_likelihood", "kl", "log_auxiliary", "log_reverse")
    }
    theirs = ours = m.first_state(len(x))
    previous, shifted = start, start
    for t in range(x.shape[1]):
        inputs, given = m.embed_inputs(previous), m.embed_inputs(shifted)
        theirs, ours = m.prepare(inputs, theirs), m.prepare(given, ours)
        q = normal(m.posterior(m.context(theirs), future[:, t]))
        z = q.loc + q.scale * noise[:, t]
        context = m.context(ours)
        found["kl"].append(kl_divergence(q, normal(m.prior(context))).sum(-1))
        found["log_auxiliary"].append(m.auxiliary(future[:, t], z, context))
        found["log_reverse"].append(m.reverse(future[:, t], shifted))
        theirs, ours = m.transition(z, inputs, theirs), m.transition(z, given, ours)
        emission = m.emission(m.features(ours))
        found["log_likelihood"].append(m.likelihood.log_prob(emission, scored[:, t]))
        previous, shifted = x[:, t], scored[:, t]
    return {name: torch.stack(values, 1) * mask for name, values in found.items()}


def loss_of(terms: dict[str, Tensor]) -> Tensor:
    kl, auxiliary, reverse = WEIGHTS
    bound = terms["log_likelihood"] - kl * terms["kl"]
    return -(bound + auxiliary * terms["log_auxiliary"] + reverse * terms["log_reverse"]).sum()


class Fixed(poutine.messenger.Messenger):
    """Gives the latents of both granularities the same noise."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self.noise = noise

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or msg["name"][:1] != "z":
            return
        if msg["name"] == "z":
            msg["value"] = msg["fn"].from_noise(self.noise)
        else:
            base, t = msg["fn"].base_dist, int(msg["name"][2:]) - 1
            msg["value"] = base.loc + base.scale * self.noise[:, t]
        msg["done"] = True


def with_noise(guide: Any, noise: Tensor) -> Callable[..., Any]:
    return Fixed(noise)(guide)


def assert_same(case: Case, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    ours, theirs = (gradients(case.module, loss) for loss in (found, expected))
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-8, atol=1e-9, msg=name)


def infer_settings(_: Any) -> Any:
    return {"note": 1}


PER_SEQUENCE = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)
HANDLERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    # name: (handler of model and guide, factor of the terms of each sequence and step)
    "scale": (lambda program: poutine.scale(program, scale=2.5), 2.5),
    "scale_of_each": (
        lambda program: poutine.scale(program, scale=PER_SEQUENCE),
        PER_SEQUENCE.unsqueeze(-1),
    ),
    "mask": (lambda program: poutine.mask(program, mask=KEEP), KEEP.unsqueeze(-1)),
    "mask_of_all": (lambda program: poutine.mask(program, mask=False), 0.0),
    "mask_and_scale": (
        lambda program: poutine.scale(poutine.mask(program, mask=KEEP), scale=3.0),
        3.0 * KEEP.unsqueeze(-1),
    ),
    "block": (lambda program: poutine.block(program, hide_types=["param"]), 1.0),
    "infer_config": (lambda program: poutine.infer_config(program, infer_settings), 1.0),
}


@pytest.mark.parametrize("name", ["gaussian", "srnn", "forced"])
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_handlers_of_model_and_guide(granularity: str, handler: str, name: str) -> None:
    case = make(name, granularity=granularity, lengths=LENGTHS)
    handled, factor = HANDLERS[handler]
    guide = with_noise(handled(case.module.guide), case.noise)
    elbo = zpyro.ZForcingELBO(*WEIGHTS)
    found = elbo.differentiable_loss(handled(case.module.model), guide, *case.batch)
    plain = plain_loop(case.module, *case.batch, case.noise)
    assert_same(case, found, loss_of({key: value * factor for key, value in plain.items()}))


@pytest.mark.parametrize("handler", ["scale", "mask", "scale_of_each"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_handlers_of_the_model_alone(granularity: str, handler: str) -> None:
    """As in TraceMeanField_ELBO, the KL has the scale and mask of the guide."""
    case = make("gaussian", granularity=granularity, lengths=LENGTHS)
    handled, factor = HANDLERS[handler]
    guide = with_noise(case.module.guide, case.noise)
    elbo = zpyro.ZForcingELBO(*WEIGHTS)
    found = elbo.differentiable_loss(handled(case.module.model), guide, *case.batch)
    plain = plain_loop(case.module, *case.batch, case.noise)
    expected = {key: v if key == "kl" else v * factor for key, v in plain.items()}
    assert_same(case, found, loss_of(expected))


def test_a_hidden_frame() -> None:
    """Without the site of a frame, its likelihood and costs are left out."""
    case = make("gaussian", granularity="step", lengths=LENGTHS)
    guide = with_noise(case.module.guide, case.noise)
    model = poutine.block(case.module.model, hide=["x_2"])
    elbo = zpyro.ZForcingELBO(*WEIGHTS, terms=[Size(0.4)])
    found = elbo.terms(model, guide, *case.batch)
    others = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    plain = plain_loop(case.module, *case.batch, case.noise)
    expected = {key: v if key == "kl" else v * others for key, v in plain.items()}
    assert_same(case, found.loss - 0.4 * found.size, loss_of(expected))


@pytest.mark.parametrize("given", ["frames", "lengths"])
@pytest.mark.parametrize("name", ["gaussian", "srnn", "forced"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_conditioned_frames(granularity: str, name: str, given: str) -> None:
    """A model conditioned on other frames than it is called with, or called without any."""
    case = make(name, granularity=granularity, lengths=LENGTHS)
    x, lengths, start = case.batch
    others = torch.randn_like(x)
    sites = {"x": others} | {f"x_{t + 1}": others[:, t] for t in range(x.shape[1])}
    conditioned = poutine.condition(case.module.model, data=sites)

    def model(x: Tensor, lengths: Tensor, start: Tensor) -> Any:
        return conditioned(x if given == "frames" else None, lengths, start)

    guide = with_noise(case.module.guide, case.noise)
    found = zpyro.ZForcingELBO(*WEIGHTS).differentiable_loss(model, guide, x, lengths, start)
    plain = plain_loop(case.module, x, lengths, start, case.noise, scored=others)
    assert_same(case, found, loss_of(plain))


class Size(Term):
    """A term of the user's."""

    name, label = "size", "size"
    sign = -1.0

    def step_values(self, path: TracePair) -> Tensor:
        return path.z.square().sum(-1)


@pytest.mark.parametrize("handler", ["scale", "mask", "mask_and_scale", "mask_of_all"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("lengths", [LENGTHS, (5, 5, 5)])
def test_a_term_of_the_user(lengths: tuple[int, ...], granularity: str, handler: str) -> None:
    case = make("gaussian", granularity=granularity, lengths=lengths)
    handled, factor = HANDLERS[handler]
    guide = with_noise(handled(case.module.guide), case.noise)
    elbo = zpyro.ZForcingELBO(terms=[Size(1.0)])
    found = elbo.terms(handled(case.module.model), guide, *case.batch)
    values = zpyro.sequence_terms(case.module, *case.batch, noise=case.noise, terms=[Size()])
    torch.testing.assert_close(found.size, (values.size * factor).sum())  # pyright: ignore


def test_a_label_beside_the_frames() -> None:
    """A model that observes more than the frames has the same terms and the label's density."""
    for granularity in GRANULARITIES:
        case = make("gaussian", granularity=granularity, lengths=LENGTHS)

        def model(*batch: Tensor, module: Any = case.module) -> None:
            with pyro.plate("labels", 3):
                pyro.sample("label", dist.Normal(0.0, 1.0), obs=torch.ones(3))
            module.model(*batch)

        guide = with_noise(case.module.guide, case.noise)
        elbo = zpyro.ZForcingELBO(*WEIGHTS, terms=[Size(1.0)])
        found = elbo.terms(model, guide, *case.batch)
        plain = plain_loop(case.module, *case.batch, case.noise)
        label = 3 * dist.Normal(0.0, 1.0).log_prob(torch.tensor(1.0))
        torch.testing.assert_close(found.loss - found.size, loss_of(plain) - label)


# -- subsampling ----------------------------------------------------------------------------------

ROWS = torch.tensor([4, 0, 2])


def subsampled(program: Any, batch: tuple[Tensor, ...]) -> Callable[[], Any]:
    def wrapped() -> Any:
        with pyro.plate("data", 6, subsample_size=3, subsample=ROWS) as rows:
            return program(*(part[rows] for part in batch))

    return wrapped


@pytest.mark.parametrize("name", ["gaussian", "srnn", "categorical"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_plate_with_subsampling(granularity: str, name: str) -> None:
    case = make(name, granularity=granularity, lengths=(5, 2, 1, 4, 3, 5))
    model, guide = (
        subsampled(program, case.batch) for program in (case.module.model, case.module.guide)
    )
    elbo = zpyro.ZForcingELBO(*WEIGHTS)
    found = elbo.differentiable_loss(model, with_noise(guide, case.noise[ROWS]))
    x, lengths, start = (part[ROWS] for part in case.batch)
    if name == "categorical":
        plain = zpyro.sequence_terms(case.module, x, lengths, start, noise=case.noise[ROWS])
        terms = {key: getattr(plain, key) for key in ("log_likelihood", "kl")}
        terms |= {"log_auxiliary": plain.log_auxiliary, "log_reverse": plain.log_reverse}
    else:
        terms = plain_loop(case.module, x, lengths, start, case.noise[ROWS])
    assert_same(case, found, 2.0 * loss_of(terms))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_random_subsamples_and_stock_objectives(granularity: str) -> None:
    """The same rows in model and guide, and an unbiased loss."""
    case = make("gaussian", granularity=granularity, lengths=(5, 2, 1, 4))

    def wrapped(program: Any) -> Callable[[], Any]:
        def subsample() -> Any:
            with pyro.plate("data", 4, subsample_size=1) as rows:
                return program(*(part[rows] for part in case.batch))

        return subsample

    model, guide = wrapped(case.module.model), wrapped(case.module.guide)
    for stock, ours in (
        (TraceMeanField_ELBO(), zpyro.ZForcingELBO()),
        (Trace_ELBO(), zpyro.ZForcingELBO(analytic_kl=False)),
    ):
        losses = []
        for elbo in (stock, ours):
            pyro.set_rng_seed(3)
            losses.append(elbo.loss(model, guide))
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    pyro.clear_param_store()
    adam = pyro.optim.Adam({"lr": 1e-3})  # pyright: ignore[reportAttributeAccessIssue]
    svi = SVI(model, guide, adam, loss=zpyro.ZForcingELBO(*WEIGHTS))
    assert all(torch.tensor(svi.step()).isfinite() for _ in range(3))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize(
    "elbo",
    [MultiSampleELBO(3), MultiSampleELBO(3, 1.0, 0.3, 0.2), zpyro.ZForcingELBO(num_particles=2)],
)
def test_subsampling_with_particles(granularity: str, elbo: Any) -> None:
    case = make("gaussian", granularity=granularity, lengths=(5, 2, 1, 4, 3, 5))
    programs = case.module.model, case.module.guide
    model, guide = (subsampled(program, case.batch) for program in programs)
    batch = tuple(part[ROWS] for part in case.batch)
    pyro.set_rng_seed(2)
    whole = elbo.differentiable_loss(*programs, *batch)
    pyro.set_rng_seed(2)
    found = elbo.differentiable_loss(model, guide)
    assert_same(case, found, 2.0 * whole)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_plate_of_another_size(granularity: str) -> None:
    case = make("gaussian", granularity=granularity)
    with (
        pytest.raises(zpyro.UserError, match="plate data: has size 4 in the dimension"),
        pyro.plate("data", 4),
    ):
        case.module.model(*case.batch)


def _replay_params(program: Any, name: str, value: Tensor) -> Any:
    # As a value of the store has it.
    value.unconstrained = lambda: value  # pyright: ignore[reportAttributeAccessIssue]
    return poutine.replay(program, params={name: value})


OTHER_VALUES: dict[str, Callable[[Any, str, Tensor], Any]] = {
    "lift": lambda program, name, value: poutine.lift(
        program, prior={name: dist.Normal(value, 1.0).to_event(2)}
    ),
    "lift_to_a_point": lambda program, name, value: poutine.lift(
        program, prior={name: dist.Delta(value).to_event(2)}
    ),
    "lift_of_all": lambda program, _, value: poutine.lift(
        program, prior=lambda *_, **__: dist.Delta(value).to_event(2)
    ),
    "substitute": lambda program, name, value: poutine.substitute(program, data={name: value}),
    "replay": _replay_params,
}


@pytest.mark.parametrize("handler", OTHER_VALUES)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("of", ["model", "guide"])
def test_other_values_of_parameters_are_refused(of: str, granularity: str, handler: str) -> None:
    """Nothing would be computed with them."""
    case = make("gaussian", granularity=granularity)
    name = f"{case.module.store_name}.output.weight"
    value = torch.zeros_like(case.module.output.weight)
    program = OTHER_VALUES[handler](getattr(case.module, of), name, value)
    with pytest.raises(UserError, match=r"^parameter .*: a handler such as poutine.lift"):
        poutine.trace(program).get_trace(*case.batch)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("size", [None, 2])
def test_a_sequential_plate_with_scopes(granularity: str, size: int | None) -> None:
    """The model twice or more in one program, under prefixes; the terms add up, scaled."""
    case = make("gaussian", granularity=granularity, lengths=LENGTHS)
    noise = torch.randn(3, 5, 2, dtype=torch.float64)

    def repeated(program: Callable[..., Any]) -> Callable[..., Any]:
        def whole(*arguments: Any) -> None:
            for number in pyro.plate("pieces", 4, subsample_size=size):
                with scope(prefix=f"piece{number}"):
                    with_noise(program, noise)(*arguments)

        return whole

    objective = zpyro.ZForcingELBO(*WEIGHTS)
    one = objective.terms(
        with_noise(case.module.model, noise), with_noise(case.module.guide, noise), *case.batch
    )
    found = objective.terms(repeated(case.module.model), repeated(case.module.guide), *case.batch)
    for name, value in one.values.items():
        torch.testing.assert_close(found.values[name], 4.0 * value, msg=name)
