"""The run directory: everything that training leaves and that the other commands need.

config.toml      every resolved setting
metrics.jsonl    one record a line: {"kind": "train", ...} and {"kind": "valid", ...}
best/  last/     checkpoints, see zpyro.checkpoint
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zpyro import checkpoint, config, datasets, files, settings, tensor_files
from zpyro.checkpoint import Checkpoint
from zpyro.config import Config
from zpyro.datasets.baselines import FrameDensity, diagonal_gaussian, linear_predictor
from zpyro.datasets.ngrams import Trigram, trigram
from zpyro.datasets.sequences import Array, Sequences
from zpyro.errors import UserError

CONFIG, METRICS, BASELINE_FILE = "config.toml", "metrics.jsonl", "baselines.safetensors"
BASELINES = {"gaussian": diagonal_gaussian, "linear": linear_predictor}
TOKEN_BASELINES = ("trigram",)
BASELINE_FRAMES = 2_000_000
BASELINE_TOKENS = 50_000_000
LARGEST_VOCABULARY = (1 << 20) - 1
"""Beyond it a trigram does not fit one number."""

_DENSITY = ("weight", "offset", "variance")
_COUNTS = ("keys", "counts")


class Baseline(Protocol):
    """What a model is compared with."""

    def score(self, sequences: Sequences) -> Array:
        """log-density or log-probability of each sequence, nats, (N,)."""
        ...


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: where it is.
    """

    folder: Path

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation bound."""
        return self.folder / "best"

    @property
    def last(self) -> Path:
        """The newest checkpoint, the one that training goes on from."""
        return self.folder / "last"

    def config(self) -> Config:
        """The settings.

        Raises:
            UserError: if config.toml is missing or wrong.
        """
        path = self.folder / CONFIG
        table = settings.read_toml(path)
        folder = table.get("data_folder", settings.NONE)
        preset = config.preset_of(table, str(path))
        if preset.dataset is None or not isinstance(folder, str):
            raise UserError(f"{path}: dataset and data_folder must be text; take another run")
        return config.resolve(
            preset.dataset,
            datasets.entry(preset.dataset).settings,
            preset=preset,
            data_folder=None if folder == settings.NONE else folder,
        )

    def load(self, which: str = "best", device: Any = "cpu") -> Checkpoint:
        """One of its checkpoints, "best" or "last".

        Raises:
            UserError: if there is none yet, or it is corrupt.
        """
        if not self.has(which):
            raise UserError(
                f"{self.folder}: has no {which} checkpoint yet; "
                f"train on with zpyro train --resume {self.folder}"
            )
        return checkpoint.load(self.best if which == "best" else self.last, device)

    def has(self, which: str) -> bool:
        """Whether there is a checkpoint of that name, "best" or "last"."""
        return files.complete_folder(self.folder / which).exists()

    def records(self) -> list[dict[str, Any]]:
        """What metrics.jsonl holds; a line cut short by a kill is left out."""
        path = self.folder / METRICS
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [record for record in map(_record, lines) if record is not None]

    def write_baselines(self, train: Sequences, vocabulary_size: int | None = None) -> None:
        """Fit the baselines to the training frames or tokens.

        Those of :mod:`zpyro.datasets.baselines` to frames, that of :mod:`zpyro.datasets.ngrams` to
        tokens. Very large data sets are fitted on as many sequences as hold two million frames or
        fifty million tokens. Bits have no baselines.

        Args:
            train: the training sequences.
            vocabulary_size: V for tokens, by default one more than the largest of them.

        Raises:
            UserError: if the run directory cannot be written.
        """
        if train.kind == "tokens":
            size = vocabulary_size or 1 + max(int(value.max()) for value in train.values)
            if size > LARGEST_VOCABULARY:
                return
            counted = trigram(_first(train, BASELINE_TOKENS), size)
            fitted = {f"trigram.{key}": getattr(counted, key) for key in _COUNTS}
        elif train.kind in ("audio", "frames"):
            few = _first(train, BASELINE_FRAMES)
            fitted = {
                f"{name}.{key}": getattr(density, key)
                for name, density in ((name, fit(few)) for name, fit in BASELINES.items())
                for key in _DENSITY
            }
        else:
            return
        tensors = {
            name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in fitted.items()
        }
        path = self.folder / BASELINE_FILE
        files.replace_file(path, lambda place: tensor_files.write(place, tensors))

    def baselines(self, size: int, kind: str = "frames") -> Mapping[str, Baseline]:
        """The fitted baselines by name; none where the run has none.

        Args:
            size: D, or V for tokens.
            kind: of the data, see :class:`zpyro.datasets.sequences.Sequences`.

        Raises:
            UserError: if their file is corrupt.
        """
        path = self.folder / BASELINE_FILE
        if not path.exists():
            return {}
        if kind == "tokens":
            return {"trigram": _read_trigram(path, size)}
        shapes = dict(zip(_DENSITY, ((size, size), (size,), (size,)), strict=True))
        wanted = {
            f"{name}.{key}": torch.empty(shape, dtype=torch.float64, device="meta")
            for name in BASELINES
            for key, shape in shapes.items()
        }
        found = tensor_files.read(path, wanted)
        return {
            name: FrameDensity(*(found[f"{name}.{key}"].numpy() for key in _DENSITY))
            for name in BASELINES
        }


def check_free(folder: Path) -> None:
    """Make sure that a new run can be written here, before any work is done for it.

    Raises:
        UserError: if something is there already, or no folder can be made there.
    """
    try:
        if folder.is_dir():
            if any(folder.iterdir()):
                raise UserError(
                    f"{folder}: is not empty; take another --out, or go on with "
                    f"zpyro train --resume {folder}"
                )
        elif folder.exists() or folder.is_symlink():
            raise UserError(f"{folder}: is no folder; take another --out")
        parent = folder.absolute()
        while not parent.exists():
            parent = parent.parent
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be read ({error.strerror}); take another --out"
        ) from error
    if not parent.is_dir():
        raise UserError(f"{folder}: {parent} is no folder; take another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: {parent} cannot be written to; take another --out")


def create(folder: Path, settled: Config) -> Run:
    """Make a run directory.

    Raises:
        UserError: if something is there already, or it cannot be written.
    """
    check_free(folder)
    with files.saying(folder):
        folder.mkdir(parents=True, exist_ok=True)
    run = Run(folder)
    files.replace_file(folder / CONFIG, config.write_config(settled))
    return run


def open_run(folder: Path) -> Run:
    """A run directory that is there.

    Raises:
        UserError: if it is none.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: is no run directory ({CONFIG} is missing); name another")
    return Run(folder)


class MetricsLog:
    """Appends to metrics.jsonl.

    Args:
        run: whose metrics.
        step: where training goes on from; later records, of a session that was killed, are
            dropped.
    """

    def __init__(self, run: Run, step: int) -> None:
        self._path = run.folder / METRICS
        kept = [record for record in run.records() if record["step"] <= step]
        files.replace_file(self._path, "".join(map(_line, kept)))
        with files.saying(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record; numbers that are not finite become null."""
        with files.saying(self._path):
            self._file.write(_line(record))
            self._file.flush()

    def flush(self) -> None:
        """Wait until every record is on the disk."""
        with files.saying(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _first(train: Sequences, frames: int) -> Sequences:
    """As many of the first sequences as hold so many frames."""
    enough = int(np.searchsorted(np.cumsum(train.lengths), frames)) + 1
    return train[:enough]


def _read_trigram(path: Path, size: int) -> Trigram:
    shape = (tensor_files.rows(path, "trigram.keys"),)
    wanted = {
        f"trigram.{key}": torch.empty(shape, dtype=torch.int64, device="meta") for key in _COUNTS
    }
    found = tensor_files.read(path, wanted)
    keys, counts = (found[f"trigram.{key}"].numpy() for key in _COUNTS)
    sound = len(keys) and keys[0] >= 0 and keys[-1] < (size + 1) ** 3 and (counts > 0).all()
    if not sound or (np.diff(keys) <= 0).any():
        raise UserError(f"{path}: is corrupt (its trigrams are none); take another run")
    return Trigram(size, keys, counts)


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({key: _finite(value) for key, value in record.items()}) + "\n"


def _finite(value: Any) -> Any:
    bad = isinstance(value, float) and value - value != 0.0
    return None if bad else value


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return record
