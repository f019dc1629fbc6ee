"""What there is to see of a sequence, against terms and distributions computed on their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.distributions import Normal, kl_divergence

import zpyro
from tests.inspection import runs
from zpyro.analysis.report import views
from zpyro.analysis.report.views import view_sequence
from zpyro.distributed.seeding import named_noise
from zpyro.evaluation import evaluate

pytestmark = pytest.mark.fast

CASES = {
    "frames": runs.frames,
    "audio": runs.audio,
    "rows": lambda: runs.images(False),
    "pixels": lambda: runs.images(True),
    "text": runs.text,
}


@pytest.mark.parametrize("name", CASES)
def test_terms_are_those_of_the_evaluation(name: str) -> None:
    checkpoint, sequences = CASES[name]()
    found = view_sequence(checkpoint, sequences, 1, num_samples=5)
    expected = evaluate(checkpoint.model, sequences[[1]], particles=5)
    assert found.steps == len(sequences.values[1])
    assert found.kl.sum() == pytest.approx(expected.kl, rel=1e-4)
    assert found.log_likelihood.sum() == pytest.approx(expected.log_likelihood, rel=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_kl_of_each_latent_is_that_of_two_gaussians(name: str) -> None:
    found = view_sequence(*CASES[name](), 0, num_samples=4)
    arrays = (found.posterior_loc, found.posterior_scale, found.prior_loc, found.prior_scale)
    loc, scale, prior_loc, prior_scale = map(torch.from_numpy, arrays)
    each = kl_divergence(Normal(loc, scale), Normal(prior_loc, prior_scale)).mean(0)
    assert_allclose(found.kl_by_latent, each.numpy(), rtol=1e-3, atol=1e-6)
    assert_allclose(found.kl_by_latent.sum(1), found.kl, rtol=1e-3, atol=1e-6)
    most = found.kl_by_latent.sum(0)[found.order]
    assert list(most) == sorted(most, reverse=True)


def test_draws_are_those_of_the_seed_and_the_name() -> None:
    checkpoint, sequences = runs.frames()
    found = view_sequence(checkpoint, sequences, 2, num_samples=2, seed=7)
    batch = sequences[[2]].batch()
    for draw in range(2):
        noise = named_noise(batch.names, found.steps, 3, 7, draw)
        terms = zpyro.sequence_terms(
            checkpoint.model, batch.x, batch.lengths, batch.start, noise=noise
        )
        assert_allclose(found.z[draw], terms.z[0].detach().numpy(), atol=1e-5)
        assert_allclose(
            found.posterior_loc[draw], terms.posterior_mean[0].detach().numpy(), atol=1e-5
        )


def test_frames_are_on_the_scale_of_the_raw_data() -> None:
    checkpoint, sequences = runs.audio()
    found = view_sequence(checkpoint, sequences, 0)
    assert_allclose(found.frames, sequences.values[0] * 0.2 + 0.1, rtol=1e-6)
    assert found.reconstruction.shape == found.frames.shape
    assert_allclose(found.edges, np.arange(7) * 0.02)
    assert (found.step_name, found.time_label) == ("frame", "time, s")


@pytest.mark.parametrize("name", CASES)
def test_reconstruction_and_what_the_latents_alone_give(name: str) -> None:
    checkpoint, sequences = CASES[name]()
    found = view_sequence(checkpoint, sequences, 1, seed=3)
    batch = sequences[[1]].batch()
    scale = sequences.normalization
    given = zpyro.reconstruct(checkpoint.model, batch, seed=3)
    assert_allclose(
        found.reconstruction, scale.invert(given.mean[0, 0].numpy()), rtol=1e-4, atol=1e-5
    )
    free = zpyro.decode(checkpoint.model, given.z[0], start=batch.start, use_mean=True)
    assert found.from_latents is not None
    assert_allclose(found.from_latents, scale.invert(free.mean[0].numpy()), rtol=1e-4, atol=1e-5)
    assert [title for title, _ in found.outputs] == ["reconstruction", "latents alone"]


def test_words_are_read_from_the_vocabulary() -> None:
    checkpoint, sequences = runs.text()
    found = view_sequence(checkpoint, sequences, 0)
    words = tuple(runs.WORDS.words[token] for token in sequences.values[0])
    assert found.words(found.frames) == words
    assert found.from_latents is not None
    outputs = found.words(found.reconstruction), found.words(found.from_latents)
    assert len(outputs[0]) == len(outputs[1]) == found.steps
    assert found.step_name == "word"
    assert view_sequence(*runs.text(words=None), 0).step_name == "token"


def test_a_long_sequence_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "MAX_STEPS", 10)
    found = view_sequence(*runs.images(True), 0)
    assert (found.steps, found.whole_length, found.image_shape) == (10, 24, None)
    monkeypatch.setattr(views, "MAX_TOKENS", 7)
    assert view_sequence(*runs.text(), 0).steps == 7


def test_a_model_without_latents_shows_what_there_is() -> None:
    checkpoint, sequences = runs.frames("rnn")
    found = view_sequence(checkpoint, sequences, 0)
    assert not found.has_latents
    assert found.z.shape == (1, found.steps, 0)
    assert not found.kl.any()
    assert [title for title, _ in found.outputs] == ["prediction"]
    expected = evaluate(checkpoint.model, sequences[[0]]).elbo
    assert found.log_likelihood.sum() == pytest.approx(expected, rel=1e-5)
