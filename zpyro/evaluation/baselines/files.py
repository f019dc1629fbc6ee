"""The baselines that a run keeps: fitted once to the training data, scored on any data.

Continuous frames have those of :mod:`zpyro.evaluation.baselines.continuous`, binary ones those of
:mod:`zpyro.evaluation.baselines.binary`, tokens that of :mod:`zpyro.evaluation.baselines.ngrams`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from zpyro.datasets.sequences import Array, Sequences
from zpyro.errors import UserError
from zpyro.evaluation.baselines import binary as binary_baselines
from zpyro.evaluation.baselines.binary import BitTable
from zpyro.evaluation.baselines.continuous import FrameDensity, diagonal_gaussian, linear_predictor
from zpyro.evaluation.baselines.ngrams import Trigram, trigram
from zpyro.io import files, tensor_files

BASELINE_FRAMES = 2_000_000
"""Densities are fitted to the first sequences with this many frames."""
BASELINE_TOKENS = 50_000_000
"""Trigrams are counted in the first sequences with this many tokens."""

DENSITIES = {"gaussian": diagonal_gaussian, "linear": linear_predictor}
TRIGRAM = "trigram"
NAMES = (*DENSITIES, *binary_baselines.FITS, TRIGRAM)


class Baseline(Protocol):
    """A baseline; a dataclass whose arrays are written to a file."""

    def score(self, sequences: Sequences) -> Array:
        """log-density or log-probability of each sequence, nats, (N,)."""
        ...


def fit(train: Sequences, size: int) -> Mapping[str, Baseline]:
    """The baselines for such data by name.

    Args:
        train: the training sequences.
        size: D, or V for tokens.
    """
    if train.data_type == "binary":
        return {name: bits(train) for name, bits in binary_baselines.FITS.items()}
    if train.data_type == "tokens":
        return {TRIGRAM: trigram(_first(train, BASELINE_TOKENS), size)}
    few = _first(train, BASELINE_FRAMES)
    return {name: density(few) for name, density in DENSITIES.items()}


def write(path: Path, fitted: Mapping[str, Baseline]) -> None:
    """Write baselines to a file.

    Raises:
        UserError: if it cannot be written.
    """
    tensors = {
        f"{name}.{key}": torch.from_numpy(np.ascontiguousarray(part))
        for name, baseline in fitted.items()
        for key, part in vars(baseline).items()
        if isinstance(part, np.ndarray)
    }
    files.replace_file(path, lambda place: tensor_files.write(place, tensors))


def read(path: Path, like: Sequences, size: int) -> Mapping[str, Baseline]:
    """The baselines in a file.

    Args:
        path: the file.
        like: data of the same kind and frame size.
        size: D, or V for tokens.

    Raises:
        UserError: if the file is missing, corrupt, or of other data.
    """
    if like.data_type == "tokens":
        return {TRIGRAM: _read_trigram(path, size)}
    shapes, stored = _shapes(like), tensor_files.names(path)
    # Runs of version 0.1.0 and before have no Markov chain.
    if "markov.probability" not in stored:
        shapes.pop("markov", None)
    wanted = {
        f"{name}.{key}": torch.empty(shape, dtype=torch.float64, device="meta")
        for name, parts in shapes.items()
        for key, shape in parts.items()
    }
    found = tensor_files.read(path, wanted)
    kind = BitTable if like.data_type == "binary" else FrameDensity
    return {
        name: kind(*(found[f"{name}.{key}"].numpy() for key in parts))
        for name, parts in shapes.items()
    }


def _shapes(like: Sequences) -> dict[str, dict[str, tuple[int, ...]]]:
    if like.data_type == "binary":
        shapes = binary_baselines.shapes(like)
        return {name: {"probability": shape} for name, shape in shapes.items()}
    size = like.frame_size
    density = {"weight": (size, size), "offset": (size,), "variance": (size,)}
    return dict.fromkeys(DENSITIES, density)


def _read_trigram(path: Path, size: int) -> Trigram:
    shape = (tensor_files.rows(path, f"{TRIGRAM}.keys"),)
    wanted = {
        f"{TRIGRAM}.{key}": torch.empty(shape, dtype=torch.int64, device="meta")
        for key in ("keys", "counts")
    }
    keys, counts = (part.numpy() for part in tensor_files.read(path, wanted).values())
    sound = len(keys) and keys[0] >= 0 and keys[-1] < (size + 1) ** 3 and (counts > 0).all()
    if not sound or (np.diff(keys) <= 0).any():
        raise UserError(f"{path}: is corrupt (its trigrams are none); choose another run")
    return Trigram(size, keys, counts)


def _first(train: Sequences, frames: int) -> Sequences:
    """The first sequences that hold this many frames or tokens."""
    enough = int(np.searchsorted(np.cumsum(train.lengths), frames)) + 1
    return train[:enough]
