"""Small models and batches of every kind, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zpyro.likelihoods import (
    NADE,
    Bernoulli,
    Categorical,
    Gaussian,
    GaussianMixture,
    Likelihood,
    LogisticMixture,
    StudentT,
)
from zpyro.models import DMM, RNN, SRNN, STORN, VRNN, SequenceModel, ZForcing

TOKENS = Categorical(6, start_token=2)
TIED = Categorical(6, tied=True)
MIXTURE = GaussianMixture(3, components=4, log_variance_bounds=(-4.0, 4.0))
LOGISTICS = LogisticMixture(3, logistics=4, sample_bits=8, sample_scale=0.3)

ZFORCING: dict[str, tuple[Likelihood, dict[str, Any]]] = {
    "gaussian": (Gaussian(3), {}),
    "bounded": (Gaussian(3, log_variance_bounds=(-4.0, 4.0)), {}),
    "bernoulli": (Bernoulli(3), {}),
    "nade": (NADE(3, nade_size=4), {}),
    "mixture": (MIXTURE, {}),
    "logistic_mixture": (LOGISTICS, {}),
    "student_t": (StudentT(3, log_variance_bounds=(-4.0, 4.0)), {}),
    "categorical": (TOKENS, {}),
    "tied": (Categorical(6, start_token=2, tied=True), {"embedding_size": 6}),
    "tied_projected": (TIED, {}),
    "layer_norm": (Gaussian(3), {"conditional_layer_norm": True}),
    "forced": (Gaussian(3), {"forced_auxiliary": True}),
    "squared": (Gaussian(3), {"squared_error_auxiliary": True}),
    "two_layers": (Gaussian(3), {"backward_layers": 2}),
    "latent_emission": (Gaussian(3), {"emission_input": "latent"}),
}

FAMILY: dict[str, tuple[type[SequenceModel], Likelihood, dict[str, Any]]] = {
    "rnn": (RNN, Gaussian(3), {}),
    "rnn_tokens": (RNN, TOKENS, {}),
    "rnn_tied": (RNN, TIED, {}),
    "dmm": (DMM, Gaussian(3), {}),
    "dmm_tokens": (DMM, TOKENS, {"transition_size": 7}),
    "storn": (STORN, Gaussian(3), {}),
    "storn_tokens": (STORN, TOKENS, {}),
    "storn_tied": (STORN, TIED, {}),
    "vrnn": (VRNN, Gaussian(3), {}),
    "vrnn_tied": (VRNN, TIED, {}),
    "vrnn_mixture": (VRNN, MIXTURE, {}),
    "vrnn_tokens": (VRNN, TOKENS, {}),
    "vrnn_layer_norm": (VRNN, Gaussian(3), {"conditional_layer_norm": True}),
    "srnn": (SRNN, Gaussian(3), {}),
    "srnn_tokens": (SRNN, TOKENS, {}),
    "srnn_tied": (SRNN, TIED, {}),
    "srnn_no_residual": (SRNN, Gaussian(3), {"residual_posterior": False}),
    "srnn_forced": (SRNN, Gaussian(3), {"forced_auxiliary": True, "backward_layers": 2}),
}

MODELS: dict[str, tuple[type[SequenceModel], Likelihood, dict[str, Any]]] = {
    **{name: (ZForcing, *settings) for name, settings in ZFORCING.items()},
    **FAMILY,
}
"""Every model that the contract holds for: class, likelihood, settings."""


@dataclass(frozen=True)
class Case:
    module: Any
    x: Tensor
    lengths: Tensor
    start: Tensor
    noise: Tensor

    @property
    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.x, self.lengths, self.start


def frames(likelihood: Likelihood, *shape: int) -> Tensor:
    event = tuple(likelihood.event_shape)
    if isinstance(likelihood, Categorical):
        return torch.randint(likelihood.size, shape)
    if isinstance(likelihood, Bernoulli | NADE):
        return torch.randint(2, (*shape, *event)).double()
    return torch.randn(*shape, *event, dtype=torch.float64)


def make(name: str, *, lengths: tuple[int, ...] = (5, 2, 1), seed: int = 0, **more: Any) -> Case:
    """A module of sizes H = 6, Z = 2 (or 0) and a ragged batch for it."""
    torch.manual_seed(seed)
    kind, likelihood, settings = MODELS[name]
    sizes = {"hidden_size": 6, "embedding_size": 4}
    if kind is not RNN:
        sizes |= {"latent_size": 2, "mlp_size": 5}
    module = kind(likelihood, **{**sizes, **settings, **more}).double()
    count, steps = len(lengths), max(lengths)
    return Case(
        module,
        frames(likelihood, count, steps),
        torch.tensor(lengths),
        frames(likelihood, count),
        torch.randn(count, steps, module.latent_size, dtype=torch.float64),
    )


def gradients(module: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
