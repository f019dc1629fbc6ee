"""A small data set and model that train in a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zpyro import likelihoods
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.distributed.seeding import seed_everything
from zpyro.models import SequenceModel, model_config
from zpyro.training.building import build_model
from zpyro.training.config import Config, ObjectiveConfig, TrainConfig

SIZE = 5
MODEL = model_config(
    likelihood="gaussian", hidden_size=12, latent_size=3, embedding_size=6, mlp_size=8
)


@dataclass(frozen=True)
class NoSettings:
    """The data set is made here."""


def sequences(count: int, seed: int, prefix: str = "walk") -> Sequences:
    """Random walks of 3 to 9 steps, with their first frame as the start."""
    random = np.random.default_rng(seed)
    lengths = random.integers(4, 11, size=count)
    walks = [np.cumsum(0.3 * random.normal(size=(n, SIZE)), 0).astype("f4") for n in lengths]
    return Sequences(
        values=tuple(walk[1:] for walk in walks),
        names=tuple(f"{prefix}{number}" for number in range(count)),
        start=np.stack([walk[0] for walk in walks]),
        normalization=Normalization(0.5, 2.0),
    )


def dataset() -> Dataset:
    """44 walks to train on, 12 held out, 12 to test."""
    return Dataset("walks", sequences(44, 0), sequences(12, 1), sequences(12, 2), "gaussian", SIZE)


def settings(**train: object) -> Config:
    """Settings for :func:`dataset`, with other ones for the training."""
    defaults: dict[str, object] = {"epochs": None, "max_steps": 30, "batch_size": 8}
    return Config(
        "npz",
        None,
        NoSettings(),
        model=MODEL,
        objective=ObjectiveConfig(kl_weight=0.5, kl_weight_rate=0.01, auxiliary_weight=0.01),
        train=TrainConfig(**{**defaults, **train}),  # pyright: ignore[reportArgumentType]
    )


def model(seed: int = 0) -> SequenceModel:
    """A fresh model, the same for the same seed."""
    seed_everything(seed)
    return build_model(MODEL, likelihoods.Gaussian(SIZE, log_variance_bounds=(-8.0, 8.0)))
