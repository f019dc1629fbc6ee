"""Sequences that users name or bring, and what does not fit the model that they are for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.run.test_checkpoint import make
from zpyro import likelihoods
from zpyro.analysis import loading, selection
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.datasets.vocabulary import END, SPECIAL, Vocabulary
from zpyro.errors import UserError
from zpyro.training.checkpoint import Checkpoint

pytestmark = pytest.mark.fast

NOT_TOKENS = "x: has values that are not tokens of the model; use 0 to 5"
WORDS = Vocabulary((*SPECIAL, "a", "good", "film"), "word", True)


def of_type(data_type: str, **more: object) -> Checkpoint:
    """A model of tokens, bits or frames without start frames."""
    likelihood = {
        "tokens": likelihoods.Categorical(6),
        "binary": likelihoods.Bernoulli(3),
        "frames": likelihoods.Gaussian(3),
    }[data_type]
    found = make(likelihood)
    data = replace(found.data, data_type=data_type, sample_rate=None)
    return replace(found, data=data, start=None, **more)


def test_frames_are_put_on_the_scale_of_the_training() -> None:
    values = np.random.default_rng(0).normal(size=(4, 3))
    found = selection.sequence_from_array(of_type("frames"), values, "walk.npy")
    np.testing.assert_allclose(found.values[0], (values - 0.25) / 2.0, rtol=1e-6)
    assert found.names == ("walk.npy",)
    started = replace(of_type("frames"), start=make().start)
    found = selection.sequence_from_array(started, values, "walk.npy")
    assert found.start is not None
    np.testing.assert_allclose(found.start[0], (values[0] - 0.25) / 2.0, rtol=1e-6)
    assert len(found.values[0]) == 3


@pytest.mark.parametrize(
    ("data_type", "values", "message"),
    [
        ("frames", np.zeros((4, 2)), r"x: has shape \(4, 2\); it must be \(P, 3\)"),
        ("frames", np.zeros((0, 3)), "with P at least 1"),
        ("tokens", np.zeros((4, 1), int), r"it must be \(P,\)"),
        (
            "tokens",
            np.array([0, 5, 6]),
            NOT_TOKENS,
        ),
        ("tokens", np.array([-1, 0]), NOT_TOKENS),
        ("binary", np.full((4, 3), 0.5), "x: has values other than 0 and 1"),
    ],
)
def test_frames_that_do_not_fit_are_told(data_type: str, values: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        selection.sequence_from_array(of_type(data_type), values, "x")


def test_data_of_another_kind_are_told() -> None:
    frames = Sequences((np.zeros((4, 3), "f4"),), ("a",))
    tokens = Sequences((np.array([0, 6]),), ("a",), data_type="tokens")
    with pytest.raises(UserError, match=r"the data are frames of 3 .* trained on tokens;"):
        loading.renormalize_like(of_type("tokens"), frames)
    with pytest.raises(UserError, match="the data hold token 6, the model has 6 tokens"):
        loading.renormalize_like(of_type("tokens"), tokens)
    scaled = Sequences((np.ones((4, 3), "f4"),), ("a",), normalization=Normalization(1.0, 4.0))
    found = loading.renormalize_like(of_type("frames"), scaled)
    # Raw, these are 5: what the training scale makes of it.
    np.testing.assert_allclose(found.values[0], (5.0 - 0.25) / 2.0, rtol=1e-6)


def test_sentences() -> None:
    text = of_type("tokens", vocabulary=WORDS)
    found = selection.sequence_from_sentence(text, "  A good film ")
    assert found.values[0].tolist() == [*WORDS.encode(["a", "good", "film"]), END]
    with pytest.raises(UserError, match="the sentence is empty; give words"):
        selection.sequence_from_sentence(text, "   ")
    with pytest.raises(UserError, match="'a film' is a sentence, but the run is not"):
        selection.sequence_from_sentence(of_type("tokens"), "a film")


def test_what_is_meant_as_a_file() -> None:
    assert selection.is_file_name("walk.npy")
    assert selection.is_file_name(__file__)
    assert not selection.is_file_name("a good film")
    assert not selection.is_file_name("word " * 2000)
