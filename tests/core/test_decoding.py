"""From latents to frames: teacher-forced and free, against the step program and against Pyro."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import zpyro
from tests.core.cases import MODELS, Case, make
from zpyro.analysis import decoding
from zpyro.datasets.batching import Batch
from zpyro.errors import UserError
from zpyro.likelihoods import NADE, Bernoulli

pytestmark = pytest.mark.fast

LATENT = [name for name, (kind, _, _) in MODELS.items() if kind.__name__ != "RNN"]


def batch_of(case: Case) -> Batch:
    return Batch(case.x, case.lengths, case.start, ("a", "b", "c"))


def step_means(case: Case, z: Tensor) -> Tensor:
    """The likelihood's mean at every site of the per-step program, its latents held."""
    model, _ = case.module.program("step")
    data = {f"z_{t + 1}": z[:, t] for t in range(z.shape[1])}
    trace = poutine.trace(poutine.condition(model, data=data)).get_trace(*case.batch)
    means: list[Tensor] = []
    for t in range(z.shape[1]):
        fn = trace.nodes[f"x_{t + 1}"]["fn"]
        tokens = isinstance(fn, dist.Categorical)
        means.append(fn.logits.argmax(-1) if tokens else fn.mean)
    return torch.stack(means, dim=1)


def valid(case: Case, steps: int) -> Tensor:
    return torch.arange(steps) < case.lengths.unsqueeze(-1)


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("use_mean", [False, True])
def test_reconstruction_is_that_of_the_step_program(name: str, use_mean: bool) -> None:
    case = make(name)
    result = zpyro.reconstruct(case.module, batch_of(case), seed=3, use_mean=use_mean)
    mask = valid(case, 5)
    expected = step_means(case, result.z[0])
    torch.testing.assert_close(result.mean[0][mask], expected[mask])
    assert not result.mean[0][~mask].any()
    assert not result.frames[0][~mask].any()
    assert not result.z[0][~mask].any()
    assert result.frames.shape == result.mean.shape == (1, *case.x.shape)


@pytest.mark.parametrize("name", LATENT)
def test_means_are_the_posteriors_along_their_own_path(name: str) -> None:
    case = make(name)
    result = zpyro.reconstruct(case.module, batch_of(case), use_mean=True)
    noise = torch.zeros_like(case.noise)
    terms = zpyro.sequence_terms(case.module, *case.batch, noise=noise, granularity="step")
    torch.testing.assert_close(result.z[0], terms.posterior_mean)


def test_draws_are_by_name_and_leave_the_generator_alone() -> None:
    case = make("gaussian", lengths=(4, 4, 4))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = zpyro.reconstruct(case.module, batch_of(case), seed=1, num_samples=3)
    assert torch.equal(torch.rand(3), expected)
    again = zpyro.reconstruct(case.module, batch_of(case), seed=1, num_samples=3)
    other = zpyro.reconstruct(case.module, batch_of(case), seed=2, num_samples=3)
    assert first.z.shape == (3, 3, 4, 2)
    assert torch.equal(first.z, again.z)
    assert torch.equal(first.frames, again.frames)
    assert not torch.equal(first.z, other.z)
    assert not torch.equal(first.z[0], first.z[1])
    turned = Batch(case.x.flip(0), case.lengths.flip(0), case.start.flip(0), ("c", "b", "a"))
    backwards = zpyro.reconstruct(case.module, turned, seed=1, num_samples=3)
    torch.testing.assert_close(backwards.z.flip(1), first.z)


def test_the_mode_of_the_module_stays() -> None:
    case = make("gaussian")
    case.module.word_dropout = 0.9
    case.module.train()
    first = zpyro.reconstruct(case.module, batch_of(case), use_mean=True)
    assert case.module.training
    again = zpyro.reconstruct(case.module.eval(), batch_of(case), use_mean=True)
    assert torch.equal(first.mean, again.mean)
    assert not case.module.training


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize("use_mean", [False, True])
def test_free_running_means_are_those_given_the_frames_fed_back(name: str, use_mean: bool) -> None:
    case = make(name)
    z = torch.randn(3, 5, 2, dtype=torch.float64)
    result = zpyro.decode(
        case.module, z, lengths=case.lengths, start=case.start, use_mean=use_mean, seed=4
    )
    process = case.module.bind(result.frames, case.lengths, case.start)
    mean, _ = decoding.teacher_forced(process, z)
    torch.testing.assert_close(result.mean, mean)
    assert not result.frames[~valid(case, 5)].any()
    if use_mean:
        bits = isinstance(case.module.likelihood, Bernoulli | NADE)
        expected = (result.mean > 0.5).double() if bits else result.mean
        assert torch.equal(result.frames, expected)


def test_decoding_with_no_temperature_to_speak_of_is_decoding_the_mean() -> None:
    case = make("gaussian")
    z = torch.randn(3, 5, 2)
    cold = zpyro.decode(case.module, z, temperature=1e-9)
    mean = zpyro.decode(case.module, z, use_mean=True)
    torch.testing.assert_close(cold.frames, mean.frames)
    assert torch.equal(
        zpyro.decode(case.module, z, seed=2).frames, zpyro.decode(case.module, z, seed=2).frames
    )


def test_a_guide_of_ones_own_gives_the_latents() -> None:
    case = make("gaussian")

    def joint(x: Tensor, lengths: Any = None, start: Any = None) -> Tensor:
        with pyro.plate("sequences", len(x)):
            mean = x.new_full((len(x), x.shape[1], 2), 0.3)
            return pyro.sample("z", dist.Normal(mean, 0.1).to_event(2))

    def stepwise(x: Tensor, lengths: Any = None, start: Any = None) -> None:
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                mean = x.new_full((len(x), 2), float(t))
                pyro.sample(f"z_{t + 1}", dist.Normal(mean, 0.1).to_event(1))

    mask = valid(case, 5)
    held = zpyro.reconstruct(case.module, batch_of(case), use_mean=True, guide=joint)
    assert (held.z[0][mask] == 0.3).all()
    drawn = zpyro.reconstruct(case.module, batch_of(case), num_samples=2, guide=joint)
    assert not torch.equal(drawn.z[0], drawn.z[1])
    steps = zpyro.reconstruct(case.module, batch_of(case), use_mean=True, guide=stepwise)
    assert steps.z[0, 0, :, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    expected = step_means(case, steps.z[0])
    torch.testing.assert_close(steps.mean[0][mask], expected[mask])
    with pytest.raises(UserError, match=r"no site z .*latent sites are y"):
        zpyro.reconstruct(
            case.module, batch_of(case), guide=lambda *_: pyro.sample("y", dist.Beta(1.0, 1.0))
        )


def test_what_cannot_be_decoded_is_said() -> None:
    case = make("rnn")
    with pytest.raises(UserError, match="RNN has no latents"):
        zpyro.reconstruct(case.module, batch_of(case))
    with pytest.raises(UserError, match="no latents"):
        zpyro.decode(case.module, torch.zeros(1, 3, 0))
    case = make("gaussian")
    with pytest.raises(ValueError, match=r"needs \(B, T, 2\)"):
        zpyro.decode(case.module, torch.zeros(1, 3, 4))
    with pytest.raises(ValueError, match="lengths reach 9"):
        zpyro.decode(case.module, torch.zeros(1, 3, 2), lengths=torch.tensor([9]))
    with pytest.raises(UserError, match="num_samples is 0"):
        zpyro.reconstruct(case.module, batch_of(case), num_samples=0)


@pytest.mark.parametrize("name", ["gaussian", "logistic_mixture", "student_t", "mixture"])
@pytest.mark.parametrize("prefixed", [False, True])
def test_output_noise_is_a_share_of_the_deviation_from_the_mean(name: str, prefixed: bool) -> None:
    case = make(name)
    given = {"start": case.start, "prefix": case.x if prefixed else None}

    def generated(output_noise: float) -> torch.Tensor:
        torch.manual_seed(0)
        return case.module.generate(6, temperature=0.9, output_noise=output_noise, **given)

    whole, half, mean = (generated(noise) for noise in (1.0, 0.5, 0.0))
    torch.testing.assert_close(half, 0.5 * (whole + mean))
    assert (whole - mean).abs().mean() > 0.05
    if not prefixed:
        # The states are those of the whole samples: means given these are the ones returned.
        hidden, means = [], []
        state, previous = case.module.initial_state(3), case.start
        torch.manual_seed(0)
        for _ in range(6):
            inputs = case.module.embed_frames(previous, None, None)
            prepared = case.module.prepare(inputs, state)
            loc, log_variance = case.module.prior(case.module.context(prepared))
            z = loc + 0.9 * (0.5 * log_variance).exp() * torch.randn_like(loc)
            state = case.module.transition(z, inputs, prepared)
            parameters = case.module.emission(case.module.features(state))
            means.append(case.module.likelihood.mean(parameters))
            hidden.append(case.module.likelihood.sample(parameters, 0.9))
            previous = hidden[-1]
        torch.testing.assert_close(torch.stack(hidden, 1), whole)
        torch.testing.assert_close(torch.stack(means, 1), mean)


def test_bits_and_tokens_have_no_output_noise() -> None:
    for name in ("bernoulli", "nade", "categorical"):
        with pytest.raises(UserError, match="output_noise is for numbers"):
            make(name).module.generate(2, output_noise=0.5)


def test_the_temperature_of_a_reconstruction_narrows_frames_around_their_means() -> None:
    case = make("gaussian")
    whole, half = (
        zpyro.reconstruct(case.module, batch_of(case), temperature=temperature)
        for temperature in (1.0, 0.5)
    )
    torch.testing.assert_close(half.mean, whole.mean)
    torch.testing.assert_close(half.frames, 0.5 * (whole.frames + whole.mean))
