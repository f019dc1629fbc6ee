"""Checkpoints and sequences of every kind, made in a moment."""

from __future__ import annotations

import numpy as np

from tests.run.small import SIZE, sequences
from zpyro import likelihoods
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.datasets.vocabulary import SPECIAL, Vocabulary
from zpyro.distributed.seeding import seed_everything
from zpyro.likelihoods import Likelihood
from zpyro.models import model_config
from zpyro.training.building import build_model
from zpyro.training.checkpoint import Checkpoint, DataSpec

Case = tuple[Checkpoint, Sequences]
RATE = 1_000
WORDS = Vocabulary((*SPECIAL, *(f"word{number}" for number in range(9))))


def case(
    likelihood: Likelihood,
    found: Sequences,
    model: str = "zforcing",
    words: Vocabulary | None = None,
) -> Case:
    """A fresh model that fits the sequences, and these."""
    seed_everything(0)
    config = model_config(
        name=model, hidden_size=12, latent_size=3, embedding_size=6, mlp_size=8,
        likelihood=likelihood.name,
    )  # fmt: skip
    scale = found.normalization
    data = DataSpec(
        "made", found.data_type, found.sample_rate, scale.mean, scale.scale, found.image_shape
    )
    module = build_model(config, likelihood).eval()
    return Checkpoint(module, config, data, vocabulary=words), found


def frames(model: str = "zforcing") -> Case:
    """Random walks of 3 to 10 steps in 5 dimensions, on a scale of their own."""
    return case(likelihoods.Gaussian(SIZE, (-8.0, 8.0)), sequences(4, 0), model)


def audio(model: str = "zforcing") -> Case:
    """Sounds of 6 frames of 20 samples, at 1 kHz."""
    values = np.random.default_rng(0).normal(size=(3, 6, 20)).astype("f4")
    found = Sequences(
        tuple(values), ("one.wav", "two.wav", "three.wav"), values[:, 0], Normalization(0.1, 0.2),
        RATE, "audio",
    )  # fmt: skip
    return case(likelihoods.Gaussian(20, (-8.0, 8.0)), found, model)


def images(pixels: bool, model: str = "zforcing") -> Case:
    """Pictures of 4 by 6 pixels, a row or a pixel at a time."""
    bits = np.random.default_rng(0).integers(0, 2, size=(3, 24)).astype("u1")
    values = tuple(each.reshape((24, 1) if pixels else (4, 6)) for each in bits)
    found = Sequences(values, ("a", "b", "c"), data_type="binary", image_shape=(4, 6))
    return case(likelihoods.Bernoulli(1 if pixels else 6), found, model)


def text(model: str = "zforcing", words: Vocabulary | None = WORDS) -> Case:
    """Sentences of 30 words out of 12."""
    values = np.random.default_rng(0).integers(2, 12, size=(3, 30)).astype("i4")
    found = Sequences(tuple(values), ("x", "y", "z"), data_type="tokens")
    return case(likelihoods.Categorical(12), found, model, words)
