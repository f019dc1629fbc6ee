"""Every model with every likelihood, at sizes and lengths that nobody chose: what always holds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pyro
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

import zpyro
from tests.core import cases
from tests.core.cases import frames, gradients
from zpyro.likelihoods import Bernoulli, Categorical, Gaussian, GaussianMixture, Likelihood
from zpyro.models import MODELS, SequenceModel
from zpyro.nn.recurrence import RECURRENCES
from zpyro.objectives.sequence_terms import SequenceTerms

LATENT_FIELDS = (
    *("z", "posterior_mean", "posterior_log_variance"),
    *("prior_mean", "prior_log_variance"),
)

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
GRANULARITIES = ("sequence", "step")
TERMS = ("log_likelihood", "kl", "log_prior", "log_posterior", "log_auxiliary", "log_reverse")

OPTIONS: dict[str, list[dict[str, Any]]] = {
    name: [
        {key: value for key, value in more.items() if key != "embedding_size"}
        for found, _, more in cases.MODELS.values()
        if found is kind
    ]
    for name, kind in MODELS.items()
}
"""The settings of each model that the contract's tests cover, here with every likelihood."""

# The same examples every time: a failure is the same for everyone.
always = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclass(frozen=True)
class Example:
    """A model and a ragged batch for it; ``name`` is what hypothesis prints."""

    name: str
    module: SequenceModel
    x: Tensor
    lengths: Tensor
    start: Tensor
    noise: Tensor

    def __repr__(self) -> str:
        return self.name

    @property
    def valid(self) -> Tensor:
        return torch.arange(self.x.shape[1]) < self.lengths[:, None]

    def terms(self, granularity: str, **changed: Tensor) -> SequenceTerms:
        given_ = {"x": self.x, "start": self.start, "noise": self.noise, **changed}
        return zpyro.sequence_terms(
            self.module, lengths=self.lengths, granularity=granularity, **given_
        )


def likelihoods() -> st.SearchStrategy[Likelihood]:
    """Of every kind, with bounds or without."""
    sizes = st.integers(1, 4)
    bounds = st.sampled_from([None, (-4.0, 4.0), (-14.0, 8.0)])
    tokens = st.integers(2, 6)
    return st.one_of(
        st.builds(Gaussian, sizes, bounds),
        st.builds(GaussianMixture, sizes, st.integers(1, 3), bounds),
        st.builds(Bernoulli, sizes),
        tokens.flatmap(
            lambda size: st.builds(
                Categorical,
                st.just(size),
                start_token=st.integers(0, size - 1),
                tied=st.booleans(),
            )
        ),
    )


def lengths() -> st.SearchStrategy[list[int]]:
    """Of one to five sequences: any, all equal, all 1."""
    counts = st.integers(1, 5)
    return st.one_of(
        st.lists(st.integers(1, 6), min_size=1, max_size=5),
        st.builds(lambda count, length: [length] * count, counts, st.integers(1, 6)),
        counts.map(lambda count: [1] * count),
    )


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """A model of any kind and size, its likelihood of any kind, and a batch for it."""
    name = draw(st.sampled_from(sorted(MODELS)))
    likelihood = draw(likelihoods())
    options = draw(st.sampled_from(OPTIONS[name]))
    small = st.integers(1, 7)
    sizes = {"hidden_size": draw(small), "embedding_size": draw(small)}
    if name != "rnn":
        sizes |= {"latent_size": draw(st.integers(1, 4)), "mlp_size": draw(small)}
    each, padding = draw(lengths()), draw(st.integers(0, 2))
    loudness = draw(st.sampled_from([1e-3, 1.0, 30.0]))
    torch.manual_seed(draw(st.integers(0, 999)))
    module = MODELS[name](likelihood, **sizes, **options).double()
    module.recurrence = draw(st.sampled_from(["auto", *RECURRENCES]))
    count, steps = len(each), max(each) + padding
    x, start = frames(likelihood, count, steps), frames(likelihood, count)
    if isinstance(likelihood, Gaussian | GaussianMixture):
        x, start = x * loudness, start * loudness
    noise = torch.randn(count, steps, module.latent_size, dtype=torch.float64)
    shown = f"{name}({likelihood}, {sizes}, {options}, {module.recurrence}), lengths {each}"
    return Example(f"{shown} + {padding}", module, x, torch.tensor(each), start, noise)


def total(terms: SequenceTerms) -> Tensor:
    """Every term counts."""
    return sum((getattr(terms, name).sum() for name in TERMS), torch.zeros(()))


def assert_close(first: SequenceTerms, second: SequenceTerms) -> None:
    for field in fields(SequenceTerms):
        one, other = getattr(first, field.name), getattr(second, field.name)
        torch.testing.assert_close(one, other, **CLOSE, msg=lambda m, n=field.name: f"{n}: {m}")


def assert_close_gradients(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    scale = max(1.0, *(float(gradient.abs().max()) for gradient in first.values()))
    for name, gradient in first.items():
        torch.testing.assert_close(gradient / scale, second[name] / scale, **CLOSE, msg=name)


@always
@given(examples(), st.sampled_from(GRANULARITIES))
def test_terms_are_finite_and_zero_in_padding(example: Example, granularity: str) -> None:
    terms = example.terms(granularity)
    count, steps = example.x.shape[:2]
    for field in fields(SequenceTerms):
        value = getattr(terms, field.name)
        latent = (example.module.latent_size,) if field.name in LATENT_FIELDS else ()
        assert value.shape == (count, steps, *latent), field.name
        assert value.isfinite().all(), field.name
        assert not value[~example.valid].any(), field.name
    assert (terms.kl >= -1e-9).all()
    for name, gradient in gradients(example.module, total(terms)).items():
        assert gradient.isfinite().all(), name


@always
@given(examples(), st.sampled_from(GRANULARITIES))
def test_what_stands_in_the_padding_does_not_matter(example: Example, granularity: str) -> None:
    clean = example.terms(granularity)
    expected = gradients(example.module, total(clean))
    x, noise = example.x.clone(), example.noise.clone()
    x[~example.valid] = torch.nan if x.is_floating_point() else 1
    noise[~example.valid] = 1e3
    dirty = example.terms(granularity, x=x, noise=noise)
    assert_close(clean, dirty)
    assert_close_gradients(expected, gradients(example.module, total(dirty)))


@always
@given(examples(), st.sampled_from(GRANULARITIES))
def test_a_batch_is_its_sequences_one_by_one(example: Example, granularity: str) -> None:
    batch = example.terms(granularity)
    for row, length in enumerate(example.lengths.tolist()):
        alone = zpyro.sequence_terms(
            example.module,
            example.x[row : row + 1, :length],
            start=example.start[row : row + 1],
            noise=example.noise[row : row + 1, :length],
            granularity=granularity,
        )
        for field in fields(SequenceTerms):
            together = getattr(batch, field.name)[row : row + 1, :length]
            torch.testing.assert_close(together, getattr(alone, field.name), **CLOSE)


@always
@given(examples())
def test_steps_are_the_sequence(example: Example) -> None:
    sequence, step = example.terms("sequence"), example.terms("step")
    assert_close(sequence, step)
    assert_close_gradients(
        gradients(example.module, total(sequence)), gradients(example.module, total(step))
    )


@always
@given(examples())
def test_every_recurrence_is_the_plain_one(example: Example) -> None:
    found = example.terms("sequence")
    gradient = gradients(example.module, total(found))
    example.module.recurrence = "plain"
    plain = example.terms("sequence")
    assert_close(plain, found)
    assert_close_gradients(gradients(example.module, total(plain)), gradient)


@pytest.mark.fast
@always
@given(examples(), st.integers(0, 5))
def test_no_step_sees_a_later_frame(example: Example, changed: int) -> None:
    steps = example.x.shape[1]
    changed = changed % steps
    later = example.x.clone()
    later[:, changed:] = frames(example.module.likelihood, len(later), steps - changed)
    full = torch.full_like(example.lengths, steps)

    def densities(x: Tensor) -> list[Tensor]:
        # The latents are given: those of a guide would have seen the whole sequence.
        model = poutine.condition(example.module.model, data={"z": example.noise})
        nodes = poutine.trace(model).get_trace(x, full, example.start).nodes
        ends = {"z": changed + 1, "x": changed}
        sites = [(nodes[name], end) for name, end in ends.items() if name in nodes]
        return [site["fn"].step_log_prob(site["value"])[:, :end] for site, end in sites]

    for before, after in zip(densities(example.x), densities(later), strict=True):
        torch.testing.assert_close(before, after, rtol=0, atol=0)


@pytest.mark.fast
@always
@given(examples(), st.sampled_from(GRANULARITIES), st.floats(0.0, 2.0))
def test_the_objective_is_made_of_the_terms(
    example: Example, granularity: str, weight: float
) -> None:
    module = example.module
    model, guide = module.program(granularity)
    auxiliary = weight if module.has_backward_network else 0.0
    elbo = zpyro.ZForcingELBO(weight, auxiliary, auxiliary)
    pyro.set_rng_seed(0)
    parts = elbo.terms(model, guide, example.x, example.lengths, example.start)
    loss = (
        weight * parts.kl
        - parts.log_likelihood
        - auxiliary * (parts.log_auxiliary + parts.log_reverse)
    )
    torch.testing.assert_close(parts.loss, loss, **CLOSE)
    torch.testing.assert_close(parts.bound, parts.log_likelihood - parts.kl, **CLOSE)


@pytest.mark.fast
@always
@given(examples(), st.sampled_from(GRANULARITIES))
def test_what_is_generated_is_of_the_right_kind(example: Example, granularity: str) -> None:
    model, _ = example.module.program(granularity)
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(None, example.lengths, example.start)
    likelihood, steps = example.module.likelihood, int(example.lengths.max())
    if granularity == "sequence":
        drawn = trace.nodes["x"]["value"]
        assert drawn.shape == (len(example.x), steps, *likelihood.event_shape)
    else:
        drawn = torch.stack([trace.nodes[f"x_{t + 1}"]["value"] for t in range(steps)], 1)
    drawn = drawn[torch.arange(steps) < example.lengths[:, None]]
    assert drawn.isfinite().all()
    if isinstance(likelihood, Categorical):
        assert ((drawn >= 0) & (drawn < likelihood.size)).all()
    if isinstance(likelihood, Bernoulli):
        assert ((drawn == 0) | (drawn == 1)).all()
