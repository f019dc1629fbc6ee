"""Checkpoints: a folder with the weights, what they belong to, and the state of the training::

    model.safetensors   the weights
    start.safetensors   a few start frames of the training data, to sample from; may be missing
    vocabulary.json     the words behind the tokens; only of models of text
    state.pt            optimizer, position and random states; plain, loaded with weights_only=True
    meta.json           versions, model and likelihood settings, data, metrics, sha256 of the others
                        and of itself

Nothing in it is unpickled, and everything is checked against what ``meta.json`` declares before
memory is taken for it.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zpyro import settings
from zpyro.datasets import vocabulary as vocabularies
from zpyro.datasets.sequences import Normalization
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError, pluralize
from zpyro.io import files, manifest, tensor_files, torch_files
from zpyro.io.manifest import META
from zpyro.likelihoods import LIKELIHOODS, Likelihood
from zpyro.models.base import SequenceModel
from zpyro.models.config import ModelConfig, config_class, field_names, is_setting_of_any
from zpyro.models.registry import MODELS
from zpyro.training import custom_guides
from zpyro.training.building import build_model
from zpyro.training.conversion import convert_metadata
from zpyro.training.custom_guides import GuideMaker

if TYPE_CHECKING:
    from zpyro.datasets.sequences import Dataset, Sequences

MODEL, START, STATE = "model.safetensors", "start.safetensors", "state.pt"
VOCABULARY = "vocabulary.json"
START_FRAMES = 64
LARGEST_CHECKED = 1 << 26
"""Numbers of a split that a fingerprint covers, a fraction of a second."""

DATA_TYPES = ("audio", "frames", "binary", "tokens")

_LARGEST_COUNT = 1 << 24
_TYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data it was trained on.

    Attributes:
        name: of the data set.
        data_type: "audio", "frames", "binary" or "tokens".
        sample_rate: samples a second of audio, else None.
        mean: frames are (raw - mean) / scale; a number, or one for each dimension.
        scale: see ``mean``.
        image_shape: rows and columns where a sequence is a picture, else None.
        covariate_mean: as ``mean``, of each covariate; empty leaves covariates as they are.
        covariate_scale: see ``covariate_mean``.
        steps_per_quarter: frames in a quarter note where a frame is the 88 keys of a piano, else
            None.
        lag_weights: see :class:`~zpyro.datasets.sequences.Normalization`.
    """

    name: str
    data_type: str
    sample_rate: int | None
    mean: float | tuple[float, ...]
    scale: float | tuple[float, ...]
    image_shape: tuple[int, int] | None = None
    covariate_mean: tuple[float, ...] = ()
    covariate_scale: tuple[float, ...] = ()
    steps_per_quarter: int | None = None
    lag_weights: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.data_type not in DATA_TYPES:
            raise UserError(
                f"data.data_type is {self.data_type!r}; it must be one of {', '.join(DATA_TYPES)}"
            )
        means = (*_numbers(self.mean), *self.covariate_mean)
        scales = (*_numbers(self.scale), *self.covariate_scale)
        if (
            len(means) != len(scales)
            or not all(map(math.isfinite, (*means, *scales)))
            or min(scales, default=0.0) <= 0
        ):
            raise UserError(
                f"data are (raw - {self.mean}) / {self.scale}, which is not a valid scale"
            )
        if not all(map(math.isfinite, itertools.chain.from_iterable(self.lag_weights))):
            raise UserError("data.lag_weights are not all finite; choose another file")
        counts = (self.sample_rate, self.steps_per_quarter, *(self.image_shape or ()))
        positive = [1 if count is None else count for count in counts]
        if min(positive) < 1 or max(positive) > _LARGEST_COUNT:
            raise UserError(
                "data.sample_rate, data.image_shape or data.steps_per_quarter is not a valid size; "
                "choose another file"
            )

    @property
    def normalization(self) -> Normalization:
        """What turns raw samples into the frames of the model."""
        return Normalization(
            self.mean, self.scale, self.covariate_mean, self.covariate_scale, self.lag_weights
        )


def _numbers(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model and what belongs to it.

    Attributes:
        model: the model.
        config: its settings.
        data: of the training data.
        start: up to 64 start frames of the training data, (N, D) or (N,), or None.
        step: training steps behind these weights.
        epoch: passes over the data completed.
        metrics: the validation that these weights were kept for; empty before the first.
        averaged: whether the weights are a moving average.
        vocabulary: the words behind the tokens, or None where there are none.
        settings: of the run when this was written, by dotted key; those of the model at least.
        fingerprint: of the training and validation data, see :func:`fingerprint`, or None.
    """

    model: SequenceModel
    config: ModelConfig
    data: DataSpec
    start: Tensor | None = None
    step: int = 0
    epoch: int = 0
    metrics: Mapping[str, float | int | None] | None = None
    averaged: bool = False
    vocabulary: Vocabulary | None = None
    settings: Mapping[str, object] = field(default_factory=dict[str, object])
    fingerprint: str | None = None


def data_spec(dataset: Dataset) -> DataSpec:
    """What a checkpoint remembers of a data set."""
    train = dataset.train
    return DataSpec(
        name=dataset.name,
        data_type=train.data_type,
        sample_rate=train.sample_rate,
        mean=train.normalization.mean,
        scale=train.normalization.scale,
        image_shape=train.image_shape,
        covariate_mean=train.normalization.covariate_mean,
        covariate_scale=train.normalization.covariate_scale,
        steps_per_quarter=train.steps_per_quarter,
        lag_weights=train.normalization.lag_weights,
    )


def fingerprint(dataset: Dataset) -> str:
    """A checksum of the sequences that train and validate, on the scale of the model.

    Of more than :data:`LARGEST_CHECKED` numbers it covers all lengths and every n-th sequence.
    """
    digest = hashlib.sha256()
    for part in (dataset.train, dataset.valid):
        for lengths in part.lengths_in_blocks():
            digest.update(lengths.tobytes())
        every = 1 + part.num_frames * part.frame_size // LARGEST_CHECKED
        for index in range(0, len(part), every):
            digest.update(np.ascontiguousarray(part.values[index]).tobytes())
            if part.start is not None:
                digest.update(np.ascontiguousarray(part.start[index]).tobytes())
            for extra in (part.observed, part.covariates):
                if extra is not None:
                    digest.update(np.ascontiguousarray(extra[index]).tobytes())
    return digest.hexdigest()


def some_start_frames(sequences: Sequences, seed: int) -> Tensor | None:
    """Up to 64 start frames, chosen at random; None where sequences have none."""
    if sequences.start is None:
        return None
    count = min(len(sequences), START_FRAMES)
    chosen = np.random.default_rng(seed).choice(len(sequences), size=count, replace=False)
    start = sequences[np.sort(chosen).tolist()].start
    assert start is not None
    return torch.from_numpy(np.stack(list(start)))


def save(
    folder: Path,
    checkpoint: Checkpoint,
    state: Mapping[str, Any] | None = None,
    *,
    keep_previous: bool = False,
) -> None:
    """Write a checkpoint; a kill at any instant leaves this one or the one before it.

    Args:
        folder: where to write it.
        checkpoint: the model and what belongs to it.
        state: of the training; plain numbers, texts, lists, dictionaries and tensors.
        keep_previous: leave the checkpoint that was there beside it, as ``FOLDER.previous``.

    Raises:
        UserError: if the disk is full or the folder cannot be written.
    """

    def fill(place: Path) -> None:
        tensor_files.write(place / MODEL, checkpoint.model.state_dict())
        if checkpoint.start is not None:
            tensor_files.write(place / START, {"start": checkpoint.start[:START_FRAMES]})
        if checkpoint.vocabulary is not None:
            vocabularies.write(place / VOCABULARY, checkpoint.vocabulary)
        torch_files.write(place / STATE, dict(state or {}))
        manifest.write(place, _meta(checkpoint))

    files.replace_folder(folder, fill, keep_previous=keep_previous)


def load(
    folder: Path, device: torch.device | str = "cpu", guide: GuideMaker | None = None
) -> Checkpoint:
    """Read a checkpoint's model, on the given device and in evaluation mode.

    Args:
        folder: the checkpoint.
        device: of the model.
        guide: the custom guide to attach to the model.

    Raises:
        UserError: if it is missing, of another format version, corrupt, or its tensors are not
            those that its settings ask for; the message names the first bad file or tensor.
    """
    folder = files.complete_folder(folder)
    meta = convert_metadata(manifest.read(folder))
    source = str(folder / META)
    config = _model_config(manifest.table(meta, "model", source), source)
    data = settings.build(DataSpec, manifest.table(meta, "data", source), source)
    likelihood = _likelihood(manifest.table(meta, "likelihood", source), source)
    if isinstance(data.mean, tuple) and len(data.mean) != likelihood.size:
        raise UserError(
            f"{source}: data.mean has {len(data.mean)} numbers for {likelihood.size} dimensions;"
            " take another checkpoint"
        )
    kind = meta.get("dtype")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise UserError(f"{source}: dtype is {kind!r}; it must be one of {', '.join(_TYPES)}")
    with torch.device("meta"):
        model = build_model(config, likelihood, guide).to(_TYPES[kind])
    tensors = tensor_files.read(
        folder / MODEL,
        model.state_dict(),
        optional=custom_guides.PREFIX if guide is None else None,
        advice=f"take {'another checkpoint' if guide is None else 'the guide of its training'}",
    )
    start = _read_start(folder / START, likelihood)
    for name in (MODEL, START, VOCABULARY):
        manifest.check(folder / name, meta)
    vocabulary = _read_vocabulary(folder / VOCABULARY, likelihood)
    model.load_state_dict(tensors, assign=True)
    recorded = manifest.table(meta, "settings", source) if "settings" in meta else {}
    return Checkpoint(
        model=model.to(device).eval().requires_grad_(True),
        config=config,
        data=data,
        start=start,
        step=manifest.count(meta, "step", source),
        epoch=manifest.count(meta, "epoch", source),
        metrics=manifest.table(meta, "metrics", source),
        averaged=meta.get("averaged") is True,
        vocabulary=vocabulary,
        settings=recorded | settings.plain(config, "model"),
        fingerprint=None if meta.get("fingerprint") is None else str(meta["fingerprint"]),
    )


def load_weights(folder: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read the weights that a checkpoint holds for a model.

    Raises:
        UserError: if they are missing, corrupt, or those of another model.
    """
    folder = files.complete_folder(folder)
    manifest.check(folder / MODEL, manifest.read(folder))
    return tensor_files.read(folder / MODEL, model.state_dict())


def check_described(model: SequenceModel, config: ModelConfig) -> None:
    """Check that settings describe a model, so that its checkpoints can be read.

    Raises:
        UserError: if a model of these settings has other parameters.
    """
    with torch.device("meta"):
        expected = build_model(config, model.likelihood).state_dict()
    found = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    own = {name for name in shapes if not name.startswith(custom_guides.PREFIX)}
    for name in sorted(own | wanted.keys()):
        if shapes.get(name) != wanted.get(name):
            raise UserError(
                f"config.model: describes another model: parameter {name} has shape "
                f"{shapes.get(name)} in the model and {wanted.get(name)} by the settings; build "
                "the model with zpyro.training.build_model(config.model, likelihood)"
            )


def load_state(folder: Path) -> dict[str, Any]:
    """Read the state of the training that a checkpoint holds.

    Raises:
        UserError: if it is missing or corrupt.
    """
    folder = files.complete_folder(folder)
    path = folder / STATE
    manifest.check(path, manifest.read(folder))
    state = torch_files.read(path)
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds no state of a training; choose another checkpoint")
    return state


# -- writing --------------------------------------------------------------------------------------


def _meta(checkpoint: Checkpoint) -> dict[str, Any]:
    likelihood = checkpoint.model.likelihood
    kind = next(checkpoint.model.parameters()).dtype
    return {
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "averaged": checkpoint.averaged,
        "metrics": dict(checkpoint.metrics or {}),
        "settings": dict(checkpoint.settings),
        "fingerprint": checkpoint.fingerprint,
        "dtype": str(kind).removeprefix("torch."),
        "model": settings.plain(checkpoint.config),
        "likelihood": {"name": likelihood.name, **settings.plain(likelihood)},
        "data": settings.plain(checkpoint.data),
    }


# -- reading --------------------------------------------------------------------------------------


def _model_config(table: dict[str, Any], source: str) -> ModelConfig:
    """The settings of the model; those of other models, which runs once recorded, are ignored."""
    name = table.get("name", "zforcing")
    if not isinstance(name, str) or name not in MODELS:
        raise UserError(
            f"{source}: model.name is {name}, which is unknown; pass the --plugin that registers it"
        )
    cls = config_class(name)
    own = field_names(cls)
    mine = {key: value for key, value in table.items() if key in own or not is_setting_of_any(key)}
    return settings.build(cls, mine, source)


def _likelihood(table: dict[str, Any], source: str) -> Likelihood:
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in LIKELIHOODS:
        raise UserError(f"{source}: likelihood {name!r} is unknown; choose another checkpoint")
    return settings.build(LIKELIHOODS[name], table, source)


def _read_start(path: Path, likelihood: Likelihood) -> Tensor | None:
    if not path.exists():
        return None
    kind = torch.int64 if likelihood.discrete_tokens else torch.float32
    shape = (min(tensor_files.rows(path, "start"), START_FRAMES), *likelihood.event_shape)
    wanted = torch.empty(shape, dtype=kind, device="meta")
    return tensor_files.read(path, {"start": wanted})["start"]


def _read_vocabulary(path: Path, likelihood: Likelihood) -> Vocabulary | None:
    if not path.exists():
        return None
    vocabulary = vocabularies.read(path)
    if not likelihood.discrete_tokens or len(vocabulary) != likelihood.size:
        raise UserError(
            f"{path}: has {pluralize(len(vocabulary), 'word')}, the model {likelihood.size} tokens;"
            " choose another checkpoint"
        )
    return vocabulary
