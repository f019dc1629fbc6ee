"""The states along a path of latents, and the cache that hands them from guide to model."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch import Tensor

GaussianParameters = tuple[Tensor, Tensor]
"""Mean and log variance, each (T, L, B, Z)."""


@dataclass(frozen=True, eq=False)
class PathKey:
    """What a path was computed from besides z: the batch (by identity), the parameters, modes."""

    source: tuple[Any, ...]
    versions: tuple[int, ...]

    def matches(self, other: PathKey) -> bool:
        """Whether both keys belong to the same computation."""
        same = all(a is b for a, b in zip(self.source, other.source, strict=True))
        return same and self.versions == other.versions


@dataclass(eq=False)
class Trajectory:
    """Contexts and features along one path of latents, and the Gaussians once they are computed.

    Attributes:
        z: (T, L, B, Z).
        context: what prior, posterior and auxiliary network see, (T, L, B, C).
        features: what the emission sees, (T, L, B, F).
        key: what the path was computed from.
        posterior: parameters of q along the path, or None if not yet computed.
        prior: parameters of p along the path, or None if not yet computed.
    """

    z: Tensor
    context: Tensor
    features: Tensor
    key: PathKey
    posterior: GaussianParameters | None = None
    prior: GaussianParameters | None = None


class PathCache:
    """Holds the newest path, so that the model need not recompute what the guide computed.

    The references are weak: the trace that holds the path decides how long it exists.
    """

    def __init__(self) -> None:
        self._newest: tuple[weakref.ref[Tensor], weakref.ref[Trajectory]] | None = None

    def put(self, z: Tensor, trajectory: Trajectory) -> None:
        """Replace the held path."""
        self._newest = weakref.ref(z), weakref.ref(trajectory)

    def get(self, z: Tensor, key: PathKey) -> Trajectory | None:
        """The path of this tensor object z if it was computed from the same things, else None."""
        if self._newest is None or self._newest[0]() is not z:
            return None
        trajectory = self._newest[1]()
        return trajectory if trajectory is not None and trajectory.key.matches(key) else None

    def __reduce__(self) -> tuple[type[PathCache], tuple[()]]:
        return PathCache, ()
