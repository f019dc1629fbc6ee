"""Sequences that users name or bring, and what does not fit the model that they are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.run.test_checkpoint import make
from zpyro import likelihoods
from zpyro.analysis import selection as choosing
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.datasets.vocabulary import END, SPECIAL, Vocabulary
from zpyro.errors import UserError
from zpyro.training.checkpoint import Checkpoint

pytestmark = pytest.mark.fast

WORDS = Vocabulary((*SPECIAL, "a", "good", "film"), "word", True)


def of_kind(kind: str, **more: object) -> Checkpoint:
    """A model of tokens, bits or frames without start frames."""
    likelihood = {
        "tokens": likelihoods.Categorical(6),
        "binary": likelihoods.Bernoulli(3),
        "frames": likelihoods.Gaussian(3),
    }[kind]
    found = make(likelihood)
    facts = replace(found.data, data_type=kind, sample_rate=None)
    return replace(found, data=facts, start=None, **more)


def test_frames_are_put_on_the_scale_of_the_training() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    found = choosing.sequence_from_array(of_kind("frames"), values, "walk.npy")
    np.testing.assert_allclose(found.values[0], (values - 0.25) / 2.0, rtol=1e-6)
    assert found.names == ("walk.npy",)
    started = replace(of_kind("frames"), start=make().start)
    found = choosing.sequence_from_array(started, values, "walk.npy")
    assert found.start is not None
    np.testing.assert_allclose(found.start[0], (values[0] - 0.25) / 2.0, rtol=1e-6)
    assert len(found.values[0]) == 3


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("frames", np.zeros((4, 2)), r"x: has shape \(4, 2\); it must be \(P, 3\)"),
        ("frames", np.zeros((0, 3)), "with P at least 1"),
        ("tokens", np.zeros((4, 1), int), r"it must be \(P,\)"),
        ("tokens", np.array([0, 5, 6]), "x: has other numbers than the tokens 0 to 5; mend them"),
        ("tokens", np.array([-1, 0]), "x: has other numbers than the tokens 0 to 5; mend them"),
        ("binary", np.full((4, 3), 0.5), "x: has values other than 0 and 1"),
    ],
)
def test_frames_that_do_not_fit_are_told(kind: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choosing.sequence_from_array(of_kind(kind), values, "x")


def test_data_of_another_kind_are_told() -> None:
    frames = Sequences((np.zeros((4, 3), "f4"),), ("a",))
    tokens = Sequences((np.array([0, 6]),), ("a",), data_type="tokens")
    with pytest.raises(UserError, match=r"the data are frames of 3 .* trained on tokens;"):
        choosing.renormalize_like(of_kind("tokens"), frames)
    with pytest.raises(UserError, match="the data hold token 6, this run knows 6"):
        choosing.renormalize_like(of_kind("tokens"), tokens)
    scaled = Sequences((np.ones((4, 3), "f4"),), ("a",), normalization=Normalization(1.0, 4.0))
    found = choosing.renormalize_like(of_kind("frames"), scaled)
    # Raw, these are 5: what the training scale makes of it.
    np.testing.assert_allclose(found.values[0], (5.0 - 0.25) / 2.0, rtol=1e-6)


def test_sentences() -> None:
    text = of_kind("tokens", vocabulary=WORDS)
    found = choosing.of_sentence(text, "  A good film ")
    assert found.values[0].tolist() == [*WORDS.encode(["a", "good", "film"]), END]
    with pytest.raises(UserError, match="the sentence is empty; give words"):
        choosing.of_sentence(text, "   ")
    with pytest.raises(UserError, match="'a film' is a sentence, and this run is none of text"):
        choosing.of_sentence(of_kind("tokens"), "a film")


def test_what_is_meant_as_a_file() -> None:
    assert choosing.looks_like_file("walk.npy")
    assert choosing.looks_like_file(__file__)
    assert not choosing.looks_like_file("a good film")
    assert not choosing.looks_like_file("word " * 2000)
