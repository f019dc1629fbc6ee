"""The autoregressive density of bits against sums over all frames, a plain loop and samples."""

from __future__ import annotations

import copy
import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

import zpyro
from zpyro import UserError
from zpyro.likelihoods import NADE, Bernoulli, nade
from zpyro.models import saving

pytestmark = pytest.mark.fast

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def bound(size: int, hidden_size: int = 5) -> NADE:
    torch.manual_seed(0)
    likelihood, weights = NADE(size, hidden_size).with_weights()
    weights.double()
    for weight in weights.parameters():
        weight.data.mul_(2.0)
    return likelihood


def parameters(likelihood: NADE, *shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(*shape, likelihood.parameter_size, dtype=torch.float64)


def all_frames(size: int) -> Tensor:
    return torch.tensor(list(product((0.0, 1.0), repeat=size)), dtype=torch.float64)


def bits(*shape: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randint(2, shape).double()


def by_loop(likelihood: NADE, numbers: Tensor, frame: Tensor, temperature: float = 1.0) -> Tensor:
    """log p of one frame (D,), from the equations of the paper."""
    assert likelihood.weights is not None
    size, total = likelihood.size, torch.zeros((), dtype=numbers.dtype)
    into, out = likelihood.weights.into_hidden, likelihood.weights.from_hidden
    hidden = numbers[size:]
    for d in range(size):
        logit = (numbers[d] + out[d] @ hidden.sigmoid()) / temperature
        p = logit.sigmoid()
        total = total + frame[d] * p.log() + (1.0 - frame[d]) * (1.0 - p).log()
        hidden = hidden + into[d] * frame[d]
    return total


def test_it_sums_to_one() -> None:
    likelihood = bound(8)
    masses = likelihood.log_prob(parameters(likelihood, 6, 1), all_frames(8))
    torch.testing.assert_close(masses.exp().sum(-1), torch.ones(6).double(), **EXACT)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_it_is_the_plain_loop(temperature: float) -> None:
    likelihood = bound(7)
    numbers, x = parameters(likelihood, 2, 4), bits(2, 4, 7)
    x[0, 0], x[0, 1] = 0.0, 1.0
    found = likelihood.distribution(numbers, temperature).log_prob(x)
    for i, j in product(range(2), range(4)):
        expected = by_loop(likelihood, numbers[i, j], x[i, j], temperature)
        torch.testing.assert_close(found[i, j], expected, **EXACT)


def test_gradients_are_those_of_differences() -> None:
    likelihood = bound(5, 3)
    assert likelihood.weights is not None
    numbers, x = parameters(likelihood, 3).requires_grad_(), bits(3, 5)
    weights = list(likelihood.weights.parameters())

    def score(numbers: Tensor, *_: Tensor) -> Tensor:
        return likelihood.log_prob(numbers, x)

    assert torch.autograd.gradcheck(score, (numbers, *weights))


def test_particles_share_a_frame() -> None:
    likelihood = bound(6)
    numbers, x = parameters(likelihood, 3, 4), bits(1, 4, 6)
    together = likelihood.log_prob(numbers, x)
    torch.testing.assert_close(together, likelihood.log_prob(numbers, x.expand(3, 4, 6)), **EXACT)


def test_blocks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    likelihood = bound(6)
    assert likelihood.weights is not None
    x, found = bits(1, 5, 6), []
    limits = (nade.ELEMENTS_AT_ONCE, nade.ROWS_AT_ONCE), (1 << 25, 4), (100, 4), (100, 1)
    for elements, rows in limits:
        monkeypatch.setattr(nade, "ELEMENTS_AT_ONCE", elements)
        monkeypatch.setattr(nade, "ROWS_AT_ONCE", rows)
        numbers = parameters(likelihood, 3, 5).requires_grad_()
        density = likelihood.log_prob(numbers, x)
        inputs = [numbers, *likelihood.weights.parameters()]
        found.append([density, *torch.autograd.grad((density * density).sum(), inputs)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], **EXACT)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_have_the_frequencies(temperature: float) -> None:
    likelihood, count = bound(4), 40_000
    numbers = parameters(likelihood)
    density = likelihood.distribution(numbers, temperature)
    torch.manual_seed(3)
    samples = likelihood.sample(numbers.expand(count, -1), temperature)
    index = (samples @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    found = torch.bincount(index, minlength=16) / count
    exact = density.log_prob(all_frames(4)).exp()
    if temperature != 1.0:
        # Every bit at its temperature is a distribution over frames too.
        assert exact.sum().item() == pytest.approx(1.0)
    error = (exact * (1.0 - exact) / count).sqrt()
    assert ((found - exact).abs() < 5.0 * error + 1e-9).all()


def test_without_weights_between_bits_it_is_bernoullis() -> None:
    likelihood = bound(6)
    assert likelihood.weights is not None
    torch.nn.init.zeros_(likelihood.weights.from_hidden)
    numbers, x = parameters(likelihood, 5), bits(5, 6)
    plain, logits = Bernoulli(6), numbers[:, :6]
    torch.testing.assert_close(likelihood.log_prob(numbers, x), plain.log_prob(logits, x), **EXACT)
    torch.testing.assert_close(likelihood.mean(numbers), plain.mean(logits), **EXACT)


def test_the_mean_feeds_back_probabilities() -> None:
    likelihood = bound(5)
    numbers = parameters(likelihood, 3)
    mean = likelihood.mean(numbers)
    ones = torch.ones_like(mean)
    for d in range(5):
        # p(x_d = 1 | the probabilities before d): the mass of a one after them.
        given = torch.cat([mean[:, :d], ones[:, d:]], dim=-1)
        masses = likelihood.log_masses(numbers, given)
        torch.testing.assert_close(masses[:, d].exp(), mean[:, d], **EXACT)


def test_missing_bits_are_summed_over() -> None:
    likelihood = bound(6)
    numbers, x = parameters(likelihood, 2, 5), bits(5, 6)
    observed = torch.tensor(
        [
            [True] * 6,
            [False] * 6,
            [True, False, True, False, True, True],
            [False, True, True, False, False, False],
            [False, False, False, True, False, True],
        ]
    )
    found = likelihood.observed_log_prob(numbers, x.where(observed, 0.0), observed)
    every = all_frames(6)
    masses = likelihood.log_prob(numbers.unsqueeze(-2), every)
    for i, (frame, known) in enumerate(zip(x, observed, strict=True)):
        agrees = (every == frame)[:, known].all(-1)
        exact = masses[:, i, agrees].logsumexp(-1)
        torch.testing.assert_close(found[:, i], exact, rtol=1e-10, atol=1e-10)
    assert not found[:, 1].any()


def test_missing_bits_are_imputed_given_the_observed_ones() -> None:
    likelihood, count = bound(4), 40_000
    numbers = parameters(likelihood)
    x = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
    observed = torch.tensor([False, True, True, False])
    torch.manual_seed(4)
    samples = likelihood.impute(
        numbers.expand(count, -1), x.expand(count, 4), observed.expand(count, 4)
    )
    assert (samples[:, observed] == x[observed]).all()
    every = all_frames(4)
    masses = likelihood.log_prob(numbers, every)
    masses = masses.where((every == x)[:, observed].all(-1), -math.inf).softmax(0)
    index = (samples @ torch.tensor([8.0, 4.0, 2.0, 1.0]).double()).long()
    found = torch.bincount(index, minlength=16) / count
    assert ((found - masses).abs() < 5.0 * (masses / count).sqrt() + 1e-9).all()


def test_too_many_missing_bits() -> None:
    likelihood = bound(13)
    observed = torch.ones(1, 13, dtype=torch.bool)
    observed[:, :11] = False
    with pytest.raises(UserError, match="11 numbers of a frame are missing before its last"):
        likelihood.observed_log_prob(parameters(likelihood, 1), bits(1, 13), observed)
    with pytest.raises(UserError, match="has no weights"):
        NADE(3).log_prob(torch.zeros(1, 67), bits(1, 3))
    with pytest.raises(UserError, match="nade_size is 0"):
        NADE(3, 0)


def test_every_recurrence_computes_the_same() -> None:
    found = []
    for recurrence in ("plain", "fused", "compiled"):
        torch.manual_seed(0)
        model = zpyro.ZForcing(NADE(5, 4), 6, 2, 4, 5, recurrence=recurrence).double()
        terms = zpyro.sequence_terms(
            model, bits(3, 4, 5), noise=torch.ones(3, 4, 2, dtype=torch.float64)
        )
        bound_ = (terms.log_likelihood - terms.kl + terms.log_reverse).sum()
        weights = [p for name, p in model.named_parameters() if name.startswith("likelihood")]
        assert len(weights) == 2
        found.append([bound_, *torch.autograd.grad(bound_, weights)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[0], found[2], rtol=1e-10, atol=1e-10)


def test_weights_belong_to_a_model(tmp_path: Path) -> None:
    likelihood = NADE(5, nade_size=4)
    first, second = (zpyro.models.VRNN(likelihood, 6, 2, 4, 5) for _ in range(2))
    x = bits(2, 3, 5).float()
    name = "likelihood_weights.into_hidden"
    assert name in first.state_dict()
    assert not torch.equal(first.state_dict()[name], second.state_dict()[name])
    noise = torch.zeros(2, 3, 2)
    expected = zpyro.sequence_terms(first, x, noise=noise).log_likelihood
    copied = copy.deepcopy(first)
    dict(first.named_parameters())["likelihood_weights.from_hidden"].data.zero_()
    found = zpyro.sequence_terms(copied, x, noise=noise).log_likelihood
    torch.testing.assert_close(found, expected)
    copied.save(tmp_path / "saved")
    loaded = zpyro.load(tmp_path / "saved")
    assert loaded.likelihood == likelihood
    found = zpyro.sequence_terms(loaded, x, noise=noise).log_likelihood
    torch.testing.assert_close(found, expected)


def test_models_saved_when_likelihoods_were_one_module_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def former(cls: type) -> str:
        assert cls.__module__.startswith(("zpyro.likelihoods.", "zpyro.models."))
        return f"{cls.__module__.replace('.discrete', '')}:{cls.__qualname__}"

    with monkeypatch.context() as patched:
        patched.setattr(saving, "_path", former)
        zpyro.models.VRNN(Bernoulli(5), 6, 2, 4, 5).save(tmp_path / "saved")
    meta = json.loads((tmp_path / "saved" / "meta.json").read_text())
    assert meta["likelihood"]["class"] == "zpyro.likelihoods:Bernoulli"
    assert zpyro.load(tmp_path / "saved").likelihood == Bernoulli(5)
