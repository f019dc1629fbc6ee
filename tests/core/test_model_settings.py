"""Settings of models beside the published ones: dropout before the output, and what it reads."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import Tensor

import zpyro
from tests.core.cases import make
from zpyro import UserError
from zpyro.likelihoods import Gaussian
from zpyro.models import DMM
from zpyro.nn.noise import CounterNoise, Dropout
from zpyro.objectives import FIVO

pytestmark = pytest.mark.fast

MODELS = ("gaussian", "latent_emission", "vrnn", "srnn", "dmm", "storn", "rnn")


def densities(model: zpyro.SequenceModel, x: Tensor, noise: Tensor) -> zpyro.SequenceTerms:
    return zpyro.sequence_terms(model, x, noise=noise)


@pytest.mark.parametrize("name", MODELS)
def test_dropout_before_the_output_changes_the_likelihood_alone(name: str) -> None:
    plain, dropped = make(name), make(name, output_dropout=0.5)
    assert list(plain.module.state_dict()) == list(dropped.module.state_dict())
    layers = [each for each in dropped.module.modules() if isinstance(each, Dropout) and each.p]
    assert [each.dim for each in layers] == [-2]
    expected = densities(plain.module, plain.x, plain.noise)
    found = densities(dropped.module.eval(), plain.x, plain.noise)
    torch.testing.assert_close(found.log_likelihood, expected.log_likelihood)
    found = densities(dropped.module.train(), plain.x, plain.noise)
    assert not torch.allclose(found.log_likelihood, expected.log_likelihood)
    torch.testing.assert_close(found.kl, expected.kl)


def test_its_masks_do_not_depend_on_the_other_rows() -> None:
    """Nor on padding: rows of a batch computed apart drop the same units."""
    model = make("vrnn", output_dropout=0.5).module.train()
    x = torch.randn(4, 6, 3, dtype=torch.float64)
    z = torch.zeros(4, 6, 2, dtype=torch.float64)
    source = CounterNoise(seed=0)
    model.set_noise_source(source)
    step = torch.tensor(3)
    source.start_step(step, torch.arange(4))
    whole = densities(model, x, z).log_likelihood
    for rows in ([0, 2], [1], [3]):
        source.start_step(step, torch.tensor(rows))
        part = densities(model, x[rows], z[rows]).log_likelihood
        torch.testing.assert_close(part, whole[rows])
    source.start_step(step, torch.arange(4))
    short = densities(model, x[:, :4], z[:, :4]).log_likelihood
    torch.testing.assert_close(short, whole[:, :4])


def test_a_particle_filter_scores_each_step_once_under_dropout() -> None:
    """Ancestors and weights belong to the same masks: with and without a graph it is one number."""
    case = make("vrnn", output_dropout=0.5)
    case.module.train()
    losses = []
    for grad in (True, False):
        pyro.set_rng_seed(1)
        with torch.set_grad_enabled(grad):
            objective = FIVO(4, threshold=0.99)
            terms = objective.terms(case.module.model, case.module.guide, *case.batch)
        losses.append(terms.loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_every_recurrence_gives_the_emission_its_latents() -> None:
    found = []
    for recurrence in ("plain", "fused", "compiled"):
        torch.manual_seed(0)
        model = zpyro.ZForcing(
            Gaussian(3), 6, 2, 4, 5, emission_input="latent", recurrence=recurrence
        ).double()
        torch.manual_seed(1)
        x = torch.randn(3, 4, 3, dtype=torch.float64)
        terms = densities(model, x, torch.randn(3, 4, 2, dtype=torch.float64))
        loss = (terms.log_likelihood - terms.kl + terms.log_auxiliary).sum()
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=1e-9, atol=1e-9)


def test_the_published_emission_reads_the_state_alone() -> None:
    """z_T reaches x_T through h_T only, or directly: the weights of the path through z count."""
    published, changed = make("gaussian"), make("latent_emission")
    explicit = make("gaussian", emission_input="hidden")
    expected, found = published.module.state_dict(), explicit.module.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    assert published.module.output.weight.shape[1] == 6
    assert changed.module.output.hidden.weight.shape[1] == 2 + 6
    changed.module.output.hidden.weight.data[:, 2:] = 0.0
    noise = changed.noise
    before = densities(changed.module, changed.x, noise).log_likelihood
    moved = densities(changed.module, changed.x, noise + 1.0).log_likelihood
    assert not torch.allclose(before, moved)
    with pytest.raises(UserError, match="emission_input is 'both'; choose hidden or latent"):
        zpyro.ZForcing(Gaussian(3), 6, 2, emission_input="both")


def test_a_stream_carries_the_latent_that_the_emission_reads() -> None:
    case = make("latent_emission", lengths=(5, 5))
    state = case.module.initial_state(2)
    with case.module.with_initial_state(state) as carried:
        densities(case.module, case.x, case.noise)
    assert carried.final is not None
    assert [part.shape for part in carried.final] == [part.shape for part in state]


def test_the_transition_of_a_deep_markov_model_has_its_own_width() -> None:
    model = DMM(Gaussian(3), 6, 2, 4, 5, transition_size=7)
    assert model.prior_network.gate.hidden.out_features == 7
    assert model.prior_network.proposal.hidden.out_features == 7
    assert model.posterior_network.hidden.out_features == 5
    assert DMM(Gaussian(3), 6, 2, 4, 5).prior_network.gate.hidden.out_features == 5
