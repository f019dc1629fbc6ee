"""The states along a path of latents."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

GaussianParameters = tuple[Tensor, Tensor]
"""Mean and log variance, each (T, L, B, Z)."""


@dataclass(eq=False)
class Trajectory:
    """Contexts and features along one path of latents, and the Gaussians once they are computed.

    Attributes:
        z: (T, L, B, Z).
        context: what prior, posterior and auxiliary network see, (T, L, B, C).
        features: what the emission sees, (T, L, B, F).
        posterior: parameters of q along the path, or None if not yet computed.
        prior: parameters of p along the path, or None if not yet computed.
    """

    z: Tensor
    context: Tensor
    features: Tensor
    posterior: GaussianParameters | None = None
    prior: GaussianParameters | None = None
