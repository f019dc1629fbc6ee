"""The Pyro contract: stock tools are right on model and guide, padding is inert, time flows on."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import fields

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor

import zpyro
from tests.core.cases import MODELS, ZFORCING, Case, frames, gradients, make
from zpyro.objectives.sequence_terms import FixedNoise, SequenceTerms

GRANULARITIES = ("sequence", "step")
EXACT = {"rtol": 1e-10, "atol": 1e-10}
QUICK = ("gaussian", "layer_norm", "dmm", "storn_tokens", "vrnn_mixture", "srnn_forced", "rnn")
"""Every class of models, with three likelihoods: what ``-m fast`` looks at."""
CASES = [pytest.param(name, marks=pytest.mark.fast if name in QUICK else ()) for name in MODELS]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.fast if name in QUICK[::3] else ()) for name in MODELS
    ]
)
def bound_case(request: pytest.FixtureRequest) -> Case:
    """For a test of many settings: ``-m fast`` looks at three models."""
    return make(request.param)


@pytest.fixture(params=MODELS)
def any_case(request: pytest.FixtureRequest) -> Case:
    """For what takes too long for ``-m fast``."""
    return make(request.param)


def weights_for(case: Case, auxiliary: float, reverse: float) -> dict[str, float]:
    """Weights of the auxiliary costs where the model has them."""
    if not case.module.has_backward_network:
        return {}
    return {"auxiliary_weight": auxiliary, "reverse_weight": reverse}


def terms_of(case: Case, granularity: str = "sequence", **changes: Tensor) -> SequenceTerms:
    batch = {"x": case.x, "lengths": case.lengths, "start": case.start, "noise": case.noise}
    return zpyro.sequence_terms(case.module, **{**batch, **changes}, granularity=granularity)


def total(terms: SequenceTerms) -> Tensor:
    """A sum in which every term and its gradient counts."""
    names = ("log_likelihood", "kl", "log_prior", "log_posterior", "log_auxiliary", "log_reverse")
    return sum((i + 1.0) * getattr(terms, name).sum() for i, name in enumerate(names))  # pyright: ignore


def assert_same(first: SequenceTerms, second: SequenceTerms) -> None:
    for field in fields(SequenceTerms):
        torch.testing.assert_close(
            getattr(first, field.name), getattr(second, field.name), **EXACT, msg=field.name
        )


def assert_same_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    for name in first:
        torch.testing.assert_close(first[name], second[name], **EXACT, msg=name)


def test_step_equals_sequence(case: Case) -> None:
    sequence, step = terms_of(case), terms_of(case, "step")
    assert_same(sequence, step)
    assert_same_gradients(
        gradients(case.module, total(sequence)), gradients(case.module, total(step))
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_padding_is_inert(case: Case, granularity: str) -> None:
    clean = terms_of(case, granularity)
    expected = gradients(case.module, total(clean))
    valid = torch.arange(case.x.shape[1]) < case.lengths[:, None]
    garbage = torch.nan if case.x.is_floating_point() else 5
    x = case.x.clone()
    x[~valid] = garbage
    noise = case.noise.clone()
    if granularity == "sequence":
        noise[~valid] = torch.nan

    dirty = terms_of(case, granularity, x=x, noise=noise)

    assert_same(clean, dirty)
    assert_same_gradients(expected, gradients(case.module, total(dirty)))
    for name in ("log_likelihood", "kl", "log_prior", "log_auxiliary", "log_reverse"):
        assert not getattr(dirty, name)[~valid].any(), name


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_batch_equals_loop_over_sequences(case: Case, granularity: str) -> None:
    batch = terms_of(case, granularity)
    for i, length in enumerate(case.lengths.tolist()):
        alone = zpyro.sequence_terms(
            case.module,
            case.x[i : i + 1, :length],
            start=case.start[i : i + 1],
            noise=case.noise[i : i + 1, :length],
            granularity=granularity,
        )
        for field in fields(SequenceTerms):
            together = getattr(batch, field.name)[i : i + 1]
            torch.testing.assert_close(together[:, :length], getattr(alone, field.name), **EXACT)
            assert not together[:, length:].any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_prior_and_likelihood_do_not_see_the_future(case: Case, granularity: str) -> None:
    model = case.module.program(granularity)[0]
    lengths, steps, changed = torch.full((3,), 5), 5, 3
    later = case.x.clone()
    later[:, changed:] = frames(case.module.likelihood, 3, steps - changed)
    latents = {"z": case.noise} | {f"z_{t + 1}": case.noise[:, t] for t in range(steps)}

    def densities(x: Tensor) -> list[Tensor]:
        conditioned = poutine.condition(model, data=latents)
        trace = poutine.trace(conditioned).get_trace(x, lengths, case.start)
        if granularity == "sequence":
            seen = {"z": changed + 1, "x": changed}
            sites = [(trace.nodes[name], end) for name, end in seen.items() if name in trace.nodes]
            return [site["fn"].step_log_prob(site["value"])[:, :end] for site, end in sites]
        trace.compute_log_prob()
        has_latents = case.module.latent_size > 0
        prior_names = [f"z_{t + 1}" for t in range(changed + 1) if has_latents]
        names = [f"x_{t + 1}" for t in range(changed)]
        return [trace.nodes[name]["log_prob"] for name in prior_names + names]

    for before, after in zip(densities(case.x), densities(later), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.fast
def test_posterior_sees_the_future_within_the_sequence_only() -> None:
    case = make("gaussian")
    x = case.x.clone()
    x[0, 4] += 1.0
    before, after = terms_of(case), terms_of(case, x=x)
    assert not torch.allclose(before.posterior_mean[0, 0], after.posterior_mean[0, 0])
    torch.testing.assert_close(before.posterior_mean[1:], after.posterior_mean[1:], rtol=0, atol=0)


@pytest.mark.fast
@pytest.mark.parametrize("name", [*ZFORCING, "dmm", "srnn", "srnn_tokens", "srnn_forced"])
def test_auxiliary_target_gets_no_gradient(name: str) -> None:
    case = make(name)
    process = case.module.bind(*case.batch)
    backward = process.backward_states.detach().requires_grad_()
    z = case.noise.clone().requires_grad_()
    trajectory = process.trajectory(z)
    process.auxiliary(backward, trajectory).sum().backward()
    assert backward.grad is None
    assert z.grad is not None
    assert z.grad.any()


@pytest.mark.fast
def test_auxiliary_gradient_reaches_the_backward_network_through_z() -> None:
    case = make("gaussian")
    found = gradients(case.module, terms_of(case).log_auxiliary.sum())
    assert found["backward_lstm.weight_ih_l0"].any()
    assert found["posterior_network.hidden.weight"].any()


@pytest.mark.fast
def test_forced_auxiliary_does_not_see_the_hidden_state() -> None:
    case = make("forced")
    network = case.module.auxiliary_network
    found = gradients(case.module, terms_of(case).log_auxiliary.sum())
    weight = found["auxiliary_network.hidden.weight"]
    hidden = case.module.hidden_size
    assert weight.shape == network.hidden.weight.shape
    assert not weight[:, :hidden].any()
    assert weight[:, hidden:].any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("analytic", [False, True])
def test_zero_weights_are_the_stock_bound(
    bound_case: Case, granularity: str, particles: int, vectorized: bool, analytic: bool
) -> None:
    case = bound_case
    settings = {
        "num_particles": particles,
        "vectorize_particles": vectorized,
        "max_plate_nesting": 1,
    }
    stock = TraceMeanField_ELBO(**settings) if analytic else Trace_ELBO(**settings)
    ours = zpyro.ZForcingELBO(analytic_kl=analytic, **settings)
    model, guide = case.module.program(granularity)
    losses, found = [], []
    for elbo in (stock, ours):
        pyro.set_rng_seed(1)
        losses.append(elbo.differentiable_loss(model, guide, *case.batch))
        found.append(gradients(case.module, losses[-1]))
    torch.testing.assert_close(losses[0], losses[1], **EXACT)
    assert_same_gradients(*found)


def test_stock_elbos_agree_across_granularities(case: Case) -> None:
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(), RenyiELBO(alpha=0, num_particles=1)):
        losses = []
        for granularity in GRANULARITIES:
            model, guide = case.module.program(granularity)
            with FixedNoise(case.noise):
                losses.append(elbo.loss(model, guide, *case.batch))
        assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_iwae_is_the_log_mean_weight(case: Case) -> None:
    particles = 7
    terms = case.module
    pyro.set_rng_seed(3)
    iwae = RenyiELBO(
        alpha=0, num_particles=particles, vectorize_particles=True, max_plate_nesting=1
    ).loss(terms.model, terms.guide, *case.batch)
    pyro.set_rng_seed(3)
    noise = torch.randn(particles, *case.noise.shape, dtype=torch.float64)
    weights = []
    for draws in noise:
        part = terms_of(case, noise=draws)
        weights.append((part.log_likelihood + part.log_prior - part.log_posterior).sum(-1))
    expected = (torch.stack(weights).logsumexp(0) - math.log(particles)).sum()
    assert -iwae == pytest.approx(expected.item(), rel=1e-10)


def test_importance_weights_are_joint_over_posterior(case: Case) -> None:
    case.module.granularity = "sequence"
    importance = Importance(case.module.model, case.module.guide, num_samples=4)
    pyro.set_rng_seed(5)
    importance.run(*case.batch)
    pyro.set_rng_seed(5)
    for weight in importance.log_weights:
        draws = torch.randn_like(case.noise)
        part = terms_of(case, noise=draws)
        expected = (part.log_likelihood + part.log_prior - part.log_posterior).sum()
        torch.testing.assert_close(torch.as_tensor(weight), expected, **EXACT)


@pytest.mark.fast
def test_importance_without_a_guide_proposes_from_the_prior() -> None:
    case = make("gaussian")
    importance = Importance(case.module.model, None, num_samples=3).run(*case.batch)
    assert torch.isfinite(torch.stack(importance.log_weights)).all()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_predictive_gives_posterior_and_prior_samples(case: Case, granularity: str) -> None:
    model, guide = case.module.program(granularity)
    posterior = Predictive(model, guide=guide, num_samples=4)(*case.batch)
    names = ["z"] if granularity == "sequence" else [f"z_{t}" for t in range(1, 6)]
    for name in names if case.module.latent_size else ():
        expected = (4, 3, 5, 2) if granularity == "sequence" else (4, 3, 2)
        assert tuple(posterior[name].shape) == expected
        assert posterior[name].std(0).gt(0).any()
    prior = Predictive(model, num_samples=4, parallel=granularity == "sequence")(None, case.lengths)
    site = "x" if granularity == "sequence" else "x_5"
    event = tuple(case.module.likelihood.event_shape)
    expected = (4, 3, 5, *event) if granularity == "sequence" else (4, 3, *event)
    assert tuple(prior[site].shape) == expected


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_generation_is_scored_as_what_it_is(case: Case, granularity: str) -> None:
    """The log joint of a generated trace is that of the same frames given as data."""
    model = case.module.program(granularity)[0]
    generated = poutine.trace(model).get_trace(None, case.lengths, case.start)
    latents = {name: site["value"] for name, site in generated.nodes.items() if name[0] == "z"}
    if granularity == "sequence":
        x = generated.nodes["x"]["value"]
    else:
        x = torch.stack([generated.nodes[f"x_{t + 1}"]["value"] for t in range(5)], dim=1)
    conditioned = poutine.condition(model, data=latents)
    scored = poutine.trace(conditioned).get_trace(x, case.lengths, case.start)
    torch.testing.assert_close(generated.log_prob_sum(), scored.log_prob_sum(), **EXACT)


def test_condition_on_frames_without_giving_x_is_the_same_joint(case: Case) -> None:
    """Conditioning a free model on frames scores the exact joint, as giving them does."""
    model = case.module.model
    data = {"z": case.noise, "x": case.x}
    free = poutine.trace(poutine.condition(model, data=data)).get_trace(
        None, case.lengths, case.start
    )
    given = poutine.trace(poutine.condition(model, data={"z": case.noise})).get_trace(*case.batch)
    torch.testing.assert_close(free.log_prob_sum(), given.log_prob_sum(), **EXACT)
    unnamed = poutine.trace(poutine.condition(model, data={"x": case.x})).get_trace(
        None, case.lengths, case.start
    )
    drawn = {"z": unnamed.nodes["z"]["value"]} if case.module.latent_size else {}
    rescored = poutine.trace(poutine.condition(model, data=drawn)).get_trace(*case.batch)
    torch.testing.assert_close(unnamed.log_prob_sum(), rescored.log_prob_sum(), **EXACT)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_replay_and_block(case: Case, granularity: str) -> None:
    model, guide = case.module.program(granularity)
    guide_trace = poutine.trace(guide).get_trace(*case.batch)
    replayed = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*case.batch)
    for name, site in guide_trace.nodes.items():
        if name[0] == "z" and site["type"] == "sample":
            assert replayed.nodes[name]["value"] is site["value"]
    hidden = poutine.block(model, hide_fn=lambda site: site["name"].startswith("z"))
    blocked = poutine.trace(hidden).get_trace(*case.batch)
    sites = [name for name, site in blocked.nodes.items() if site["type"] == "sample"]
    assert not [name for name in sites if name.startswith("z")]
    assert [name for name in sites if name.startswith("x")]


@pytest.mark.fast
def test_interventions_on_a_step_change_only_what_follows() -> None:
    case = make("gaussian", lengths=(5, 5, 5))
    model = case.module.program("step")[0]
    data = {f"z_{t + 1}": case.noise[:, t] for t in range(5)}
    fixed = poutine.condition(model, data=data)
    torch.manual_seed(0)
    plain = poutine.trace(fixed).get_trace(None, case.lengths, case.start)
    torch.manual_seed(0)
    changed = poutine.trace(pyro.do(fixed, data={"x_2": torch.full((3, 3), 9.0).double()}))
    moved = changed.get_trace(None, case.lengths, case.start)
    torch.testing.assert_close(plain.nodes["x_1"]["value"], moved.nodes["x_1"]["value"])
    means = [trace.nodes["x_3"]["fn"].base_dist.loc for trace in (plain, moved)]
    assert not torch.allclose(*means)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_vectorized_particles_equal_separate_ones(case: Case, granularity: str) -> None:
    model, guide = case.module.program(granularity)
    with pyro.plate("particles", 3, dim=-2):
        trace = poutine.trace(guide).get_trace(*case.batch)
        replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(*case.batch)
    for joint in (trace, replayed):
        joint.compute_log_prob()
    for particle in range(3):
        data = {
            name: site["value"][particle]
            for name, site in trace.nodes.items()
            if site["type"] == "sample" and name[0] == "z"
        }
        alone = poutine.trace(poutine.condition(model, data=data)).get_trace(*case.batch)
        alone.compute_log_prob()
        for name, site in alone.nodes.items():
            if site["type"] == "sample" and name != "sequences":
                together = replayed.nodes[name]["log_prob"][particle]
                torch.testing.assert_close(together, site["log_prob"], **EXACT)


def test_svi_trains_every_network(any_case: Case) -> None:
    case = any_case
    pyro.clear_param_store()
    objective = zpyro.ZForcingELBO(**weights_for(case, 0.1, 0.1))
    svi = SVI(case.module.model, case.module.guide, pyro.optim.Adam({"lr": 3e-2}), loss=objective)
    before = {name: value.clone() for name, value in case.module.named_parameters()}
    first = svi.step(*case.batch)
    for name, value in case.module.named_parameters():
        assert not torch.equal(value, before[name]), name
    losses = [svi.step(*case.batch) for _ in range(24)]
    assert sum(losses[-8:]) / 8 < first
    assert objective.step == 25


def test_svi_equals_the_module_under_torch(case: Case) -> None:
    """One step through SVI and one through the objective module give the same parameters."""
    pyro.clear_param_store()
    twin = copy.deepcopy(case.module)
    weights = {"kl_weight": 0.3, **weights_for(case, 0.01, 0.02)}
    svi = SVI(
        case.module.model,
        case.module.guide,
        pyro.optim.SGD({"lr": 1e-2}),
        loss=zpyro.ZForcingELBO(**weights),
    )
    pyro.set_rng_seed(2)
    svi_loss = svi.step(*case.batch)
    objective = zpyro.ZForcingELBO(**weights)(twin.model, twin.guide)
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e-2)
    pyro.set_rng_seed(2)
    loss = objective(*case.batch)
    loss.backward()
    optimizer.step()
    assert svi_loss == pytest.approx(loss.item(), rel=1e-12)
    for (name, ours), theirs in zip(case.module.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT, msg=name)


@pytest.mark.fast
def test_two_models_of_different_sizes_live_in_one_process() -> None:
    pyro.clear_param_store()
    small = make("gaussian")
    torch.manual_seed(1)
    large = zpyro.ZForcing(small.module.likelihood, 9, 4, 7, 8).double()
    alone = copy.deepcopy(large)

    def train(modules: list[zpyro.ZForcing]) -> None:
        svis = [
            SVI(m.model, m.guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO()) for m in modules
        ]
        for step in range(3):
            for svi in svis:
                pyro.set_rng_seed(step)
                svi.step(*small.batch)

    train([small.module, large])
    pyro.clear_param_store()
    train([alone])
    for one, other in zip(large.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.fast
def test_custom_guide_without_backward_states() -> None:
    case = make("gaussian")
    loc = torch.zeros(3, 5, 2, dtype=torch.float64, requires_grad=True)

    def guide(x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None) -> None:
        with pyro.plate("sequences", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(2))

    zpyro.ZForcingELBO()(case.module.model, guide)(*case.batch).backward()
    assert loc.grad is not None
    assert loc.grad.any()
    with pytest.raises(zpyro.UserError, match="exposes no backward states"):
        zpyro.ZForcingELBO(auxiliary_weight=0.1)(case.module.model, guide)(*case.batch)


@pytest.mark.fast
def test_custom_guide_with_backward_states_trains_the_auxiliary_network() -> None:
    case = make("gaussian")

    def guide(x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None) -> None:
        states = case.module.bind(x, lengths, start).backward_states
        with pyro.plate("sequences", len(x)):
            base = pyro.distributions.Normal(states[..., :2], 1.0).to_event(2)
            pyro.sample("z", base, infer={"backward_states": states})

    objective = zpyro.ZForcingELBO(auxiliary_weight=0.5)(case.module.model, guide)
    found = gradients(case.module, objective(*case.batch))
    assert found["auxiliary_network.output.weight"].any()


@pytest.mark.fast
def test_trajectories_are_reused_only_while_they_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make("gaussian")
    replays = []
    states = zpyro.ZForcing.states_given_latents
    monkeypatch.setattr(
        zpyro.ZForcing,
        "states_given_latents",
        lambda self, *args: replays.append(1) or states(self, *args),
    )
    model, guide = case.module.model, case.module.guide
    zpyro.ZForcingELBO(1.0, 0.1, 0.1).terms(model, guide, *case.batch)
    assert not replays, "an objective must not compute the guide's own path again"
    trace = poutine.trace(guide).get_trace(*case.batch)
    rerun = poutine.trace(poutine.replay(model, trace=trace))
    first = rerun.get_trace(*case.batch).log_prob_sum()
    assert len(replays) == 1, "a replay of the user's own may come after any change"
    with torch.no_grad():
        case.module.cell.projection.weight.mul_(3.0)
    second = rerun.get_trace(*case.batch).log_prob_sum()
    assert not torch.allclose(first, second)
    other = rerun.get_trace(case.x + 1.0, case.lengths, case.start)
    other.compute_log_prob()
    assert len(replays) == 3, "another batch must be noticed"


@pytest.mark.fast
def test_copies_and_pickles_are_independent() -> None:
    case = make("gaussian")
    poutine.trace(case.module.guide).get_trace(*case.batch)
    for twin in (copy.deepcopy(case.module), pickle.loads(pickle.dumps(case.module))):
        assert_same(terms_of(case), zpyro.sequence_terms(twin, *case.batch, case.noise))


def test_generate_and_continue(case: Case) -> None:
    event = tuple(case.module.likelihood.event_shape)
    assert tuple(case.module.generate(4, num_sequences=2).shape) == (2, 4, *event)
    assert tuple(case.module.generate(4, start=case.start).shape) == (3, 4, *event)
    assert tuple(case.module.generate(4, prefix=case.x).shape) == (3, 4, *event)
    torch.manual_seed(0)
    first = case.module.generate(4, prefix=case.x, start=case.start)
    torch.manual_seed(0)
    second = case.module.generate(4, prefix=case.x, start=case.start)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("x", "lengths", "start", "message"),
    [
        (torch.zeros(2, 4), None, None, r"this likelihood needs \(B, T, 3\)"),
        (torch.zeros(2, 4, 5), None, None, r"x has shape \(2, 4, 5\)"),
        (torch.zeros(2, 4, 3), torch.tensor([4]), None, r"it must be \(2,\)"),
        (torch.zeros(2, 4, 3), torch.tensor([4, 5]), None, "within 0..4"),
        (torch.zeros(2, 4, 3), None, torch.zeros(2, 4), r"it must be \(2, 3\)"),
        (None, None, None, "give x, or lengths"),
    ],
)
def test_wrong_shapes_are_told(
    x: Tensor | None, lengths: Tensor | None, start: Tensor | None, message: str
) -> None:
    module = make("gaussian").module.float()
    with pytest.raises(ValueError, match=message):
        module.model(x, lengths, start)


@pytest.mark.fast
def test_unknown_settings_are_told() -> None:
    with pytest.raises(ValueError, match="granularity is 'word'"):
        make("gaussian", granularity="word")
    with pytest.raises(ValueError, match="recurrence is 'slow'"):
        make("gaussian", recurrence="slow")
    with pytest.raises(ValueError, match="needs frames"):
        make("gaussian").module.guide(None, 4)
