"""The baselines that a run keeps: fitted once to the training data, scored on any other.

Continuous frames have those of :mod:`zpyro.datasets.baselines`, binary ones those of
:mod:`zpyro.datasets.binary_baselines`, tokens none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from zpyro import files, tensor_files
from zpyro.datasets import binary_baselines
from zpyro.datasets.baselines import FrameDensity, Matrix, diagonal_gaussian, linear_predictor
from zpyro.datasets.binary_baselines import BitTable
from zpyro.datasets.sequences import Sequences

BASELINE_FRAMES = 2_000_000
"""Continuous frames are fitted on as many sequences as hold so many."""

DENSITIES = {"gaussian": diagonal_gaussian, "linear": linear_predictor}
NAMES = (*DENSITIES, *binary_baselines.FITS)


class Baseline(Protocol):
    """What every baseline offers."""

    @property
    def parts(self) -> dict[str, Matrix]:
        """The arrays that make it, by name."""
        ...

    def score(self, sequences: Sequences) -> Matrix:
        """log-density of each sequence, nats, (N,)."""
        ...


def fit(train: Sequences) -> Mapping[str, Baseline]:
    """The baselines for such data by name; none for tokens."""
    if train.kind == "binary":
        return binary_baselines.fit(train)
    if train.kind not in ("audio", "frames"):
        return {}
    enough = int(np.searchsorted(np.cumsum(train.lengths), BASELINE_FRAMES)) + 1
    return {name: density(train[:enough]) for name, density in DENSITIES.items()}


def write(path: Path, fitted: Mapping[str, Baseline]) -> None:
    """Write baselines to a file.

    Raises:
        UserError: if it cannot be written.
    """
    tensors = {
        f"{name}.{key}": torch.from_numpy(np.ascontiguousarray(part))
        for name, baseline in fitted.items()
        for key, part in baseline.parts.items()
    }
    files.replace_file(path, lambda place: tensor_files.write(place, tensors))


def read(path: Path, like: Sequences) -> Mapping[str, Baseline]:
    """The baselines in a file.

    Args:
        path: the file.
        like: data of the same kind and frame size.

    Raises:
        UserError: if the file is missing, corrupt, or of other data.
    """
    shapes = _shapes(like)
    wanted = {
        f"{name}.{key}": torch.empty(shape, dtype=torch.float64, device="meta")
        for name, parts in shapes.items()
        for key, shape in parts.items()
    }
    found = tensor_files.read(path, wanted)
    kind = BitTable if like.kind == "binary" else FrameDensity
    return {
        name: kind(*(found[f"{name}.{key}"].numpy() for key in parts))
        for name, parts in shapes.items()
    }


def _shapes(like: Sequences) -> dict[str, dict[str, tuple[int, ...]]]:
    if like.kind == "binary":
        shapes = binary_baselines.shapes(like)
        return {name: {"probability": shape} for name, shape in shapes.items()}
    size = like.frame_size
    density = {"weight": (size, size), "offset": (size,), "variance": (size,)}
    return dict.fromkeys(DENSITIES, density)
