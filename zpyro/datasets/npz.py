"""``npz``: the user's own arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.declared import DAMAGED, check_declared
from zpyro.datasets.sequences import Array, Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS, describe_split, split_by_name
from zpyro.errors import UserError
from zpyro.likelihoods import LARGEST_SIZE

LARGEST_NUMBER = 1e30
"""Beyond it, squares and differences leave the range of float32."""


@dataclass(frozen=True)
class NpzSettings:
    """How arrays become sequences.

    Attributes:
        likelihood: "gaussian", "bernoulli" or "categorical"; "" takes categorical for whole
            numbers of shape (N, T) and gaussian for everything else.
        normalize: subtract the training mean and divide by the standard deviation (gaussian only).
        condition_on_first: condition on the first frame instead of scoring it after a zero frame.
        valid_fraction: share of the sequences held out for validation.
        test_fraction: share of the sequences held out for the test.
        seed: fixes which sequences are held out.
    """

    likelihood: str = ""
    normalize: bool = True
    condition_on_first: bool = False
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.likelihood not in ("", "gaussian", "bernoulli", "categorical"):
            raise UserError(
                f"data.likelihood is {self.likelihood!r}; choose gaussian, bernoulli, categorical"
            )
        for name in ("valid_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be in [0, 1)")


def load(path: Path, settings: NpzSettings) -> Dataset:
    """Read arrays (N, T, D), tokens (N, T), or sequences of unequal length.

    The file is a ``.npz`` with

    - ``x``: (N, T, D) or (N, T) of whole numbers, or
    - ``values`` (sum of T_i, D) or (sum of T_i,) and ``lengths`` (N,), or
    - ``train``, and ``valid`` (or ``validation``, ``val``, ``dev``) and ``test`` or one of them: as
      ``x``, splits given; one that is lacking is a share of train,

    or it is a folder of ``.npy`` files, one sequence (T_i, D) or (T_i,) each.

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    groups = read(path)
    kind = _kind(path, [value for group in groups.values() for _, value in group], settings)
    named = [pair for group in groups.values() for pair in group]
    names = [
        name if group == "all" else f"{group}/{name}"
        for group, pairs in groups.items()
        for name, _ in pairs
    ]
    splits = split_by_name(
        names, settings.valid_fraction, settings.test_fraction, seed=settings.seed
    )
    parts = [[named[i] for i in split] for split in splits]
    normalization = _normalization(path, [v for _, v in parts[0]], kind, settings)
    train, valid, test = (_sequences(part, kind, settings, normalization) for part in parts)
    size = _size(parts, kind)
    return Dataset("npz", train, valid, test, kind, size, describe_split(names))


def load_all(path: Path, settings: NpzSettings, normalization: Normalization) -> Sequences:
    """Every sequence as one split, normalized as a trained model needs it.

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    named = [pair for group in read(path).values() for pair in group]
    kind = _kind(path, [value for _, value in named], settings)
    return _sequences(named, kind, settings, normalization)


def read(path: Path) -> dict[str, list[tuple[str, Array]]]:
    """Named sequences by split, or all under "all".

    Raises:
        UserError: naming the array and the sequence that cannot be used.
    """
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise UserError(f"{path} holds no .npy files; point --data at arrays")
        return {"all": [(file.stem, _checked(str(file), _load_one(file))) for file in files]}
    if not path.exists():
        raise UserError(f"{path} does not exist; point --data at a .npz file or a folder of .npy")
    arrays = _load(path)
    if isinstance(arrays, np.ndarray):
        return {"all": _rows(f"{path}", arrays)}
    given = {name: SPLIT_NAMES[name.lower()] for name in arrays if name.lower() in SPLIT_NAMES}
    twice = sorted(name for name in given if list(given.values()).count(given[name]) > 1)
    if twice:
        raise UserError(f"{path} has arrays {' and '.join(twice)} for one split; keep one")
    if given and {"x", "values"} & arrays.keys():
        raise UserError(
            f"{path} has arrays {', '.join(sorted(arrays))}; give x (or values and lengths), or the"
            " splits, not both"
        )
    if "x" in arrays:
        return {"all": _rows(f"{path}: x", arrays["x"])}
    if "values" in arrays and "lengths" in arrays:
        return {"all": _ragged(path, arrays["values"], arrays["lengths"])}
    if "train" in given.values() and len(given) > 1:
        found = sorted(given.items(), key=lambda pair: SPLITS.index(pair[1]))
        return {split: _rows(f"{path}: {name}", arrays[name]) for name, split in found}
    raise UserError(
        f"{path} has arrays {', '.join(sorted(arrays)) or 'none'}; it needs x, or values and"
        " lengths, or train, valid and test"
    )


def load_plain(path: Path) -> Any:
    """The array of a ``.npy`` file, or those of a ``.npz`` by name, of plain numbers.

    Raises:
        UserError: if the file declares more than it holds.
        Exception: one of :data:`DAMAGED`, if it is damaged.
    """
    # Opened here, so that a file which is not an archive is closed all the same.
    with path.open("rb") as stream:
        check_declared(path, stream)
        found = np.load(stream, allow_pickle=False)
        return found if isinstance(found, np.ndarray) else dict(found.items())


def _load(path: Path) -> Any:
    try:
        return load_plain(path)
    except DAMAGED as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: cannot be read as plain arrays; save a .npz with numpy.savez, without Python"
            " objects (for unequal lengths: values and lengths)"
        ) from error


def _load_one(path: Path) -> Array:
    found = _load(path)
    if isinstance(found, dict):
        raise UserError(f"{path} holds several arrays; save one sequence a file with numpy.save")
    return found


def _rows(label: str, array: Array) -> list[tuple[str, Array]]:
    wanted = 2 if array.dtype.kind in "iu" and array.ndim == 2 else 3
    if array.ndim != wanted or 0 in array.shape:
        raise UserError(
            f"{label} has shape {array.shape}; it must be (N, T, D), or (N, T) of whole numbers"
            f" (tokens), and has type {array.dtype}"
        )
    return [(str(i), _checked(f"{label}, sequence {i}", row)) for i, row in enumerate(array)]


def _ragged(path: Path, values: Array, lengths: Array) -> list[tuple[str, Array]]:
    if values.ndim < 1:
        raise UserError(f"{path}: values has shape (); it must be (sum of lengths, D)")
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or (lengths < 1).any():
        raise UserError(f"{path}: lengths must be whole numbers of at least 1, shape (N,)")
    # As Python's whole numbers: a sum of 64-bit ones may wrap round.
    total = sum(lengths.tolist())
    if total != len(values):
        raise UserError(
            f"{path}: lengths add up to {total} and values has {len(values)} rows; they must agree"
        )
    pieces = np.split(values, np.cumsum(lengths)[:-1])
    return [(str(i), _checked(f"{path}: sequence {i}", v)) for i, v in enumerate(pieces)]


def _checked(label: str, value: Array) -> Array:
    if value.dtype.kind not in "biuf":
        raise UserError(f"{label} has type {value.dtype}; it must hold numbers")
    tokens = value.dtype.kind in "iu" and value.ndim == 1
    if value.ndim != (1 if tokens else 2) or 0 in value.shape:
        raise UserError(f"{label} has shape {value.shape}; it must be (T, D), or (T,) of tokens")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise UserError(f"{label} holds NaN or infinity; repair or remove it")
    if value.dtype.kind == "f" and np.abs(value).max() > LARGEST_NUMBER:
        raise UserError(f"{label} holds numbers beyond {LARGEST_NUMBER:.0e}; scale them down")
    return value


def _kind(path: Path, values: list[Array], settings: NpzSettings) -> str:
    tokens = all(value.ndim == 1 for value in values)
    kind = settings.likelihood or ("categorical" if tokens else "gaussian")
    if (kind == "categorical") != tokens:
        raise UserError(
            f"{path}: data.likelihood {kind} does not fit; whole numbers of shape (N, T) are"
            " categorical, frames (N, T, D) are gaussian or bernoulli"
        )
    if kind == "bernoulli" and not all(np.isin(value, (0, 1)).all() for value in values):
        raise UserError(f"{path}: data.likelihood bernoulli needs zeros and ones only")
    if tokens and min(int(value.min()) for value in values) < 0:
        raise UserError(f"{path}: tokens must not be negative; number them from 0")
    if tokens and (largest := max(int(value.max()) for value in values)) >= LARGEST_SIZE:
        raise UserError(
            f"{path}: token {largest} would make a vocabulary of {largest + 1:,}, more than"
            f" {LARGEST_SIZE:,}; number the tokens from 0, for instance with"
            " numpy.unique(x, return_inverse=True)"
        )
    return kind


def _normalization(
    path: Path, train: list[Array], kind: str, settings: NpzSettings
) -> Normalization:
    if kind != "gaussian" or not settings.normalize:
        return Normalization()
    samples: NDArray[np.float64] = np.concatenate([v.reshape(-1) for v in train]).astype(np.float64)
    scale = float(samples.std())
    mean = float(samples.mean())
    # Of a smaller share the differences would be lost in float32.
    if scale <= max(1e-6 * abs(mean), 1 / LARGEST_NUMBER):
        raise UserError(
            f"{path}: the training arrays are constant throughout; nothing can be learned"
        )
    return Normalization(mean, scale)


def _sequences(
    named: list[tuple[str, Array]], kind: str, settings: NpzSettings, normalization: Normalization
) -> Sequences:
    values = [
        value.astype(np.int64) if kind == "categorical" else normalization.apply(value)
        for _, value in named
    ]
    start = None
    if settings.condition_on_first:
        short = [name for name, value in named if len(value) < 2]
        if short:
            raise UserError(f"sequence {short[0]} has one frame; data.condition_on_first needs two")
        start = np.stack([value[0] for value in values])
        values = [value[1:] for value in values]
    return Sequences(
        values=tuple(values),
        names=tuple(name for name, _ in named),
        start=start,
        normalization=normalization,
        data_type={"categorical": "tokens", "bernoulli": "binary"}.get(kind, "frames"),
    )


def _size(parts: list[list[tuple[str, Array]]], kind: str) -> int:
    values = [value for part in parts for _, value in part]
    if kind == "categorical":
        return 1 + max(int(value.max()) for value in values)
    return values[0].shape[1]


ENTRY = DatasetEntry(
    "npz",
    "your own arrays: frames (N, T, D), tokens (N, T), or unequal lengths",
    NpzSettings,
    load,
    load_all,
    "give a .npz file or a folder of .npy files with --data PATH",
)
