"""Data sets of arrays in memory: checks, splits and normalization of sequences of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from zpyro.datasets.sequences import Array, Dataset, Normalization, Sequences
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS, split_by_name
from zpyro.errors import UserError, pluralize
from zpyro.likelihoods import LIKELIHOODS
from zpyro.likelihoods.base import LARGEST_SIZE

LARGEST_NUMBER = 1e30
"""Beyond it, squares and differences leave the range of float32."""

Named = list[tuple[str, Array]]
"""Names and arrays of the sequences of one split."""


@dataclass(frozen=True)
class ArraySettings:
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


def from_arrays(
    arrays: Any,
    *,
    valid: Any = None,
    test: Any = None,
    names: Sequence[str] | None = None,
    covariates: Any = None,
    **settings: Any,
) -> Dataset:
    """A data set of arrays in memory.

    NaN marks a missing value: the sequences then have a mask, see
    :class:`~zpyro.datasets.Sequences`. Sequences are copied. Of numpy arrays, torch tensors and
    nested lists, every float type is taken, on every device. Frames are normalized by the mean and
    standard deviation of train.

    Args:
        arrays: all sequences, or those to train on. Frames (T_i, D), numbers (T_i,), or tokens
            (T_i,) of whole numbers, each; one array (N, T, D), or (N, T) of tokens; a nested
            tensor, or an array of arrays; a mapping from names to sequences; or a mapping from
            "train", "valid" and "test" to any of these.
        valid: the sequences to validate on; a share of ``arrays`` without.
        test: the sequences to test on; a share of ``arrays`` without.
        names: of the sequences in ``arrays``, by default their keys or their numbers from 0. The
            held-out ones depend on the names and ``seed``, not on the order.
        covariates: numbers u_t known for every step, (T_i, C) for each sequence, in the form of
            ``arrays``: in the same order, or a mapping with the same keys. They are used as they
            are, so scale them to about one. With splits of their own, a mapping from "train",
            "valid" and "test".
        **settings: attributes of :class:`~zpyro.datasets.arrays.ArraySettings`: ``likelihood``,
            ``normalize``, ``condition_on_first``, ``valid_fraction``, ``test_fraction``, ``seed``.

    Raises:
        UserError: naming the sequence or argument that cannot be used.

    Example::

        walks = [torch.randn(length, 3).cumsum(0) for length in range(20, 60)]
        data = zpyro.datasets.from_arrays(walks, seed=1)
    """
    groups = _groups(arrays, {"valid": valid, "test": test}, names)
    checked_settings = array_settings("from_arrays", settings)
    known = None if covariates is None else _covariates(covariates, groups)
    return assemble("arrays", "from_arrays", groups, checked_settings, covariates=known)


def array_settings(function: str, values: Mapping[str, Any]) -> ArraySettings:
    """Settings from the keyword arguments of a function.

    Raises:
        UserError: if there is no such setting, or its value is not allowed.
    """
    known = [field.name for field in fields(ArraySettings)]
    for name in values:
        if name not in known:
            raise UserError(f"{function}: {name} is unknown; choose from {', '.join(known)}")
    return ArraySettings(**values)


def assemble(
    name: str,
    label: str,
    groups: Mapping[str, Named],
    settings: ArraySettings,
    *,
    split_names: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
    covariates: Mapping[str, Mapping[str, Array]] | None = None,
) -> Dataset:
    """A data set of checked arrays (see :func:`checked`).

    Args:
        name: of the data set.
        label: what errors begin with, a file or function.
        groups: sequences by split; or all under "all".
        settings: the likelihood, the scale, and the shares of splits that are not given.
        split_names: names that decide splits by a whole name; none do without.
        notes: what a user should know of how they were read.
        covariates: u_t of each sequence, (T_i, C), by group and name; None without.

    Raises:
        UserError: naming the sequence that cannot be used, or the split that would be empty.
    """
    named = [pair for group in groups.values() for pair in group]
    kind = likelihood_of(label, named, settings)
    if split_names is None and "all" in groups:
        splits = split_by_name(
            [each for each, _ in named],
            settings.valid_fraction,
            settings.test_fraction,
            seed=settings.seed,
            use_names=False,
        )
    else:
        splits = split_by_name(
            split_names or [f"{group}/{each}" for group in groups for each, _ in groups[group]],
            settings.valid_fraction,
            settings.test_fraction,
            seed=settings.seed,
        )
    parts = [[named[i] for i in split] for split in splits]
    normalization = _normalization(label, parts[0], kind, settings)
    known = [None, None, None]
    if covariates is not None:
        every = [covariates[group][each] for group in groups for each, _ in groups[group]]
        known = [{named[i][0]: every[i] for i in split} for split in splits]
    train, valid, test = (
        to_sequences(part, kind, settings, normalization, given)
        for part, given in zip(parts, known, strict=True)
    )
    size = named[0][1].shape[-1] if kind != "categorical" else _vocabulary_size(named)
    return Dataset(name, train, valid, test, kind, size, notes)


def checked(label: str, value: Any) -> Array:
    """One sequence as numpy frames (T, D), or tokens (T,); NaN marks missing values.

    Numbers (T,) that are not whole become frames (T, 1); half precision becomes float32.

    Raises:
        UserError: if it is none, is empty, has no observed value, or holds infinity or huge
            numbers.
    """
    array = to_numpy(label, value)
    if array.ndim == 1 and array.dtype.kind in "bf":
        array = array[:, None]
    tokens = array.dtype.kind in "iu" and array.ndim == 1
    if array.ndim != (1 if tokens else 2) or 0 in array.shape:
        raise UserError(f"{label} has shape {array.shape}; it must be (T, D), or (T,) of tokens")
    if array.dtype.kind == "f" and np.isnan(array).all():
        raise UserError(f"{label} has no observed value; leave it out")
    if array.dtype.kind == "f" and np.isinf(array).any():
        raise UserError(f"{label} holds infinity; repair or remove it, NaN marks missing values")
    if array.dtype.kind == "f" and np.nanmax(np.abs(array)) > LARGEST_NUMBER:
        raise UserError(f"{label} holds numbers beyond {LARGEST_NUMBER:.0e}; scale them down")
    return array


def to_numpy(label: str, value: Any) -> Array:
    """Numbers of a tensor, an array or nested lists as a numpy array; masked ones become NaN.

    Raises:
        UserError: if they are no numbers, or lists of unequal lengths.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().to_dense().cpu().resolve_conj().resolve_neg()
        # numpy has no bfloat16, nor the 8-bit types.
        value = (
            value.float() if value.is_floating_point() and value.itemsize < 4 else value
        ).numpy()
    elif isinstance(value, np.ma.MaskedArray):
        masked = np.ma.getmaskarray(value)
        value = np.where(masked, np.nan, value.data) if masked.any() else value.data
    try:
        array: Array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{label} is no array ({error}); give arrays of equal frames") from error
    if array.dtype.kind not in "biuf":
        raise UserError(f"{label} has type {array.dtype}; it must hold numbers")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array.astype(np.float64) if array.dtype == np.longdouble else array


def rows(label: str, array: Array) -> Named:
    """The sequences of an array (N, T, D), or (N, T) of tokens, with their numbers as names.

    Raises:
        UserError: if it has another shape, or a sequence cannot be used.
    """
    wanted = 2 if array.dtype.kind in "iu" and array.ndim == 2 else 3
    if array.ndim != wanted or 0 in array.shape:
        raise UserError(
            f"{label} has shape {array.shape}; it must be (N, T, D), or (N, T) of whole numbers"
            f" (tokens), and has type {array.dtype}"
        )
    return [(str(i), checked(f"{label}, sequence {i}", row)) for i, row in enumerate(array)]


def likelihood_of(label: str, named: Named, settings: ArraySettings) -> str:
    """The likelihood that fits all sequences.

    Raises:
        UserError: if there is none, or sequences differ in frame size.
    """
    values = [value for _, value in named]
    tokens = all(value.ndim == 1 for value in values)
    kind = settings.likelihood or ("categorical" if tokens else "gaussian")
    if (kind == "categorical") != tokens:
        raise UserError(
            f"{label}: data.likelihood {kind} does not fit; whole numbers of shape (N, T) are"
            " categorical, frames (N, T, D) are gaussian or bernoulli"
        )
    for name, value in named:
        if value.shape[1:] != values[0].shape[1:]:
            raise UserError(
                f"{label}: sequence {name} has frames of shape {value.shape[1:]}, others of"
                f" {values[0].shape[1:]}; all must agree"
            )
    if kind == "bernoulli" and not all(
        np.isin(value[~np.isnan(value)], (0, 1)).all() for value in values
    ):
        raise UserError(f"{label}: data.likelihood bernoulli needs zeros and ones only")
    if tokens and min(int(value.min()) for value in values) < 0:
        raise UserError(f"{label}: tokens must not be negative; number them from 0")
    if tokens and (largest := _vocabulary_size(named) - 1) >= LARGEST_SIZE:
        raise UserError(
            f"{label}: token {largest} would make a vocabulary of {largest + 1:,}, more than"
            f" {LARGEST_SIZE:,}; number the tokens from 0, for instance with"
            " numpy.unique(x, return_inverse=True)"
        )
    return kind


def to_sequences(
    named: Named,
    kind: str,
    settings: ArraySettings,
    normalization: Normalization,
    covariates: Mapping[str, Array] | None = None,
) -> Sequences:
    """Checked arrays as one split, NaN as missing values.

    Args:
        named: names and arrays.
        kind: the likelihood.
        settings: whether the first frame is the start.
        normalization: of the frames.
        covariates: u_t of each sequence by its name, (T_i, C), or None.

    Raises:
        UserError: if a sequence has one frame only, and that would be the start, or that has
            missing values.
    """
    values = [
        value.astype(np.int64) if kind == "categorical" else normalization.apply(value)
        for _, value in named
    ]
    known = None if covariates is None else [covariates[name] for name, _ in named]
    start = None
    if settings.condition_on_first:
        for name, value in named:
            if len(value) < 2:
                raise UserError(f"sequence {name} has one frame; data.condition_on_first needs two")
            if np.isnan(value[0]).any():
                raise UserError(
                    f"sequence {name}: its first frame has missing values; set "
                    "data.condition_on_first to false"
                )
        start = np.stack([value[0] for value in values])
        values = [value[1:] for value in values]
        known = None if known is None else [each[1:] for each in known]
    masks = [~np.isnan(value) for value in values]
    has_missing = not all(mask.all() for mask in masks)
    if has_missing:
        values = [np.nan_to_num(value, nan=0.0) for value in values]
    return Sequences(
        values=tuple(values),
        names=tuple(name for name, _ in named),
        start=start,
        normalization=normalization,
        data_type=LIKELIHOODS[kind](1).data_type,
        observed=tuple(masks) if has_missing else None,
        covariates=None if known is None else tuple(each.astype(np.float32) for each in known),
    )


def _groups(
    arrays: Any, held_out: Mapping[str, Any], names: Sequence[str] | None
) -> dict[str, Named]:
    """Sequences by split, or all under "all", from the arguments of :func:`from_arrays`."""
    given = {split: value for split, value in held_out.items() if value is not None}
    if isinstance(arrays, Mapping):
        keys = [str(key) for key in cast("Mapping[Any, Any]", arrays)]
        by_split = {
            split: value
            for key, value in zip(keys, arrays.values(), strict=True)
            if (split := SPLIT_NAMES.get(key.lower()))
        }
        if "train" in by_split and len(by_split) == len(keys) > 1:
            if given or names is not None:
                raise UserError(
                    "from_arrays: the mapping has splits already; leave out valid, test and names"
                )
            arrays, given = by_split.pop("train"), by_split
    if not given:
        return {"all": _named("arrays", arrays, names)}
    groups = {"train": _named("train", arrays, names)}
    groups |= {split: _named(split, value, None) for split, value in given.items()}
    return {split: groups[split] for split in SPLITS if split in groups}


def _covariates(covariates: Any, groups: Mapping[str, Named]) -> dict[str, dict[str, Array]]:
    """Covariates by group and name of the sequence.

    Raises:
        UserError: if they do not fit the sequences.
    """
    if "all" in groups:
        covariates = {"all": covariates}
    elif not isinstance(covariates, Mapping):
        raise UserError(
            "covariates: with splits of their own, give a mapping from train, valid and test"
        )
    by_split = {
        SPLIT_NAMES.get(str(key).lower(), str(key)): value
        for key, value in cast("Mapping[Any, Any]", covariates).items()
    }
    found: dict[str, dict[str, Array]] = {}
    for group, named in groups.items():
        if group not in by_split:
            raise UserError(f"covariates: {group} is missing; give those of every split")
        given = by_split[group]
        values = given
        if isinstance(given, Mapping):
            keyed = {str(k): value for k, value in cast("Mapping[Any, Any]", given).items()}
            missing = [name for name, _ in named if name not in keyed]
            if missing:
                raise UserError(f"covariates: {missing[0]} is missing; give those of each sequence")
            values = [keyed[name] for name, _ in named]
        if len(values) != len(named):
            raise UserError(
                f"covariates: there are {len(values)} for {pluralize(len(named), 'sequence')}; "
                "give one each"
            )
        found[group] = {}
        for (name, frames), value in zip(named, values, strict=True):
            array = to_numpy(f"covariates: sequence {name}", value)
            array = array[:, None] if array.ndim == 1 else array
            if array.ndim != 2 or len(array) != len(frames):
                raise UserError(
                    f"covariates: sequence {name} has shape {array.shape} for {len(frames)} "
                    f"frames; it must be ({len(frames)}, C)"
                )
            found[group][name] = array
    return found


def _named(label: str, arrays: Any, names: Sequence[str] | None) -> Named:
    """Checked sequences of a split with their names."""
    # Two containers of sequences of unequal lengths.
    if isinstance(arrays, np.ndarray) and arrays.dtype == object and arrays.ndim == 1:
        arrays = list(cast("Iterable[Any]", arrays))
    elif isinstance(arrays, torch.Tensor) and arrays.is_nested:
        arrays = arrays.unbind()
    if isinstance(arrays, Mapping):
        if names is not None:
            raise UserError(f"{label}: a mapping has names; leave out names")
        items = cast("Mapping[Any, Any]", arrays)
        named = [(str(key), checked(f"{label}: {key}", value)) for key, value in items.items()]
    elif isinstance(arrays, np.ndarray | torch.Tensor):
        array = to_numpy(label, arrays)
        if array.ndim == 2 and array.dtype.kind in "bf":
            raise UserError(
                f"{label}: one array of shape {array.shape} is ambiguous; give [array] for one"
                " sequence of frames, or list(array) for sequences of numbers"
            )
        named = rows(label, array)
    elif isinstance(arrays, Iterable) and not isinstance(arrays, str | bytes):
        values = cast("Iterable[Any]", arrays)
        named = [(str(i), checked(f"{label}: sequence {i}", v)) for i, v in enumerate(values)]
    else:
        raise UserError(f"{label}: {type(arrays).__name__} is no list of arrays; give a list")
    if not named:
        raise UserError(f"{label}: holds no sequences; give at least one")
    if names is None:
        return named
    if len(names) != len(named) or len(set(names)) != len(names):
        raise UserError(
            f"names: has {pluralize(len(set(names)), 'different name')} for "
            f"{pluralize(len(named), 'sequence')};"
            " give one each"
        )
    return [(str(name), pair[1]) for name, pair in zip(names, named, strict=True)]


def _normalization(label: str, train: Named, kind: str, settings: ArraySettings) -> Normalization:
    if kind != "gaussian" or not settings.normalize:
        return Normalization()
    samples: NDArray[np.float64] = np.concatenate([v.reshape(-1) for _, v in train]).astype(
        np.float64
    )
    samples = samples[~np.isnan(samples)]
    scale = float(samples.std())
    mean = float(samples.mean())
    # Of a smaller share the differences would be lost in float32.
    if scale <= max(1e-6 * abs(mean), 1 / LARGEST_NUMBER):
        raise UserError(
            f"{label}: the training arrays are constant throughout; nothing can be learned"
        )
    return Normalization(mean, scale)


def _vocabulary_size(named: Named) -> int:
    return 1 + max(int(value.max()) for _, value in named)
