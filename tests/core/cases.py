"""Small models and batches of every kind, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import zpyro
from zpyro.likelihoods import Bernoulli, Categorical, Gaussian, GaussianMixture, Likelihood

MODELS: dict[str, tuple[Likelihood, dict[str, Any]]] = {
    "gaussian": (Gaussian(3), {}),
    "bounded": (Gaussian(3, log_variance_bounds=(-4.0, 4.0)), {}),
    "bernoulli": (Bernoulli(3), {}),
    "mixture": (GaussianMixture(3, components=4, log_variance_bounds=(-4.0, 4.0)), {}),
    "categorical": (Categorical(6, start_token=2), {}),
    "tied": (Categorical(6, start_token=2, tied=True), {"embedding_size": 6}),
    "tied_projected": (Categorical(6, tied=True), {}),
    "layer_norm": (Gaussian(3), {"conditional_layer_norm": True}),
    "forced": (Gaussian(3), {"forced_auxiliary": True}),
    "squared": (Gaussian(3), {"squared_error_auxiliary": True}),
    "two_layers": (Gaussian(3), {"backward_layers": 2}),
}


@dataclass(frozen=True)
class Case:
    module: zpyro.ZForcing
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
    if isinstance(likelihood, Bernoulli):
        return torch.randint(2, (*shape, *event)).double()
    return torch.randn(*shape, *event, dtype=torch.float64)


def make(name: str, *, lengths: tuple[int, ...] = (5, 2, 1), seed: int = 0, **more: Any) -> Case:
    """A module of sizes H = 6, Z = 2 and a ragged batch for it."""
    torch.manual_seed(seed)
    likelihood, settings = MODELS[name]
    chosen = {"embedding_size": 4, "mlp_size": 5, **settings, **more}
    module = zpyro.ZForcing(likelihood, 6, 2, **chosen).double()
    count, steps = len(lengths), max(lengths)
    return Case(
        module,
        frames(likelihood, count, steps),
        torch.tensor(lengths),
        frames(likelihood, count),
        torch.randn(count, steps, 2, dtype=torch.float64),
    )


def gradients(module: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in module.named_parameters()
    }
