"""Data sets of torch and of Hugging Face as data sets of sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch.utils import data as torch_data

from zpyro.datasets.arrays import array_settings, assemble, checked
from zpyro.datasets.sequences import Dataset
from zpyro.datasets.splitting import SPLIT_NAMES, SPLITS
from zpyro.errors import UserError

Named = list[tuple[str, Any]]


def from_dataset(
    dataset: Any,
    *,
    valid: Any = None,
    test: Any = None,
    field: int | str | None = None,
    **settings: Any,
) -> Dataset:
    """A data set from a map-style torch ``Dataset``, a ``DataLoader`` or a Hugging Face data set.

    Each item is read once, in the order of its index; it is a sequence as :func:`from_arrays`
    takes it, or holds one. Of a ``DataLoader``, the items of its data set are read that its sampler
    chooses; its order, batches and collate function do not matter, so nothing is padded.

    Args:
        dataset: all sequences, or those to train on; or a mapping from splits to data sets, such as
            a Hugging Face ``DatasetDict``.
        valid: the sequences to validate on, in any of these forms; a share without.
        test: the sequences to test on, likewise.
        field: where an item is a tuple or a mapping, the position or key of the sequence in it. By
            default the first of a tuple, ``(sequence, label)``, and the only key of a mapping.
        **settings: as of :func:`from_arrays`.

    Raises:
        UserError: naming the item or argument that cannot be used.

    Example::

        digits = torch.utils.data.TensorDataset(torch.randn(100, 28, 28), torch.arange(100))
        data = zpyro.datasets.from_dataset(digits)
    """
    found = array_settings("from_dataset", settings)
    given = {"valid": valid, "test": test}
    given = {split: value for split, value in given.items() if value is not None}
    if isinstance(dataset, Mapping):
        by_split = _by_split(cast("Mapping[Any, Any]", dataset))
        if given and len(by_split) > 1:
            raise UserError("from_dataset: the mapping has splits already; leave out valid, test")
        dataset, given = by_split.pop("train"), given or by_split
    groups = {"train" if given else "all": dataset, **given}
    named = {
        split: [
            (
                name,
                checked(f"{split}: item {name}", _sequence(f"{split}: item {name}", item, field)),
            )
            for name, item in _items(split, groups[split])
        ]
        for split in ("all", *SPLITS)
        if split in groups
    }
    return assemble("dataset", "from_dataset", named, found)


def _by_split(datasets: Mapping[Any, Any]) -> dict[str, Any]:
    """Data sets by their splits, of which train is one."""
    found = {SPLIT_NAMES.get(str(key).lower(), ""): value for key, value in datasets.items()}
    if len(found) < len(datasets) or "" in found or "train" not in found:
        raise UserError(
            f"from_dataset: the mapping has {', '.join(map(str, datasets)) or 'nothing'}; give each"
            " split once (train; valid, validation, val or dev; test), and train at least"
        )
    return found


def _items(split: str, dataset: Any) -> Named:
    """Numbers and items of a data set."""
    indices: Iterable[int] | None = None
    if isinstance(dataset, torch_data.DataLoader):
        dataset, indices = _under_loader(split, cast("torch_data.DataLoader[Any]", dataset))
    if (
        isinstance(dataset, torch_data.IterableDataset | str | bytes)
        or not hasattr(dataset, "__len__")
        or not hasattr(dataset, "__getitem__")
    ):
        raise UserError(
            f"{split}: {type(dataset).__name__} is no map-style data set (with len and an index);"
            " give list(...) of it"
        )
    if not len(dataset):
        raise UserError(f"{split}: the data set is empty; give at least one sequence")
    chosen = range(len(dataset)) if indices is None else sorted(indices)
    return [(str(index), dataset[index]) for index in chosen]


def _under_loader(
    split: str, loader: torch_data.DataLoader[Any]
) -> tuple[Any, Iterable[int] | None]:
    """The data set of a loader, and which of its items its sampler chooses (None: all)."""
    sampler = loader.sampler
    # Exact types: what a class of the user's own chooses cannot be known.
    if loader.batch_sampler is None or type(loader.batch_sampler) is torch_data.BatchSampler:
        if type(sampler) is torch_data.SubsetRandomSampler:
            return loader.dataset, (int(index) for index in sampler.indices)
        everything = type(sampler) is torch_data.SequentialSampler or (
            type(sampler) is torch_data.RandomSampler
            and not sampler.replacement
            and sampler.num_samples == len(cast(Any, loader.dataset))
        )
        if everything or isinstance(loader.dataset, torch_data.IterableDataset):
            return loader.dataset, None
    raise UserError(
        f"{split}: the loader's {type(sampler).__name__} chooses sequences anew each time; give its"
        " data set, or torch.utils.data.Subset(dataset, indices)"
    )


def _sequence(label: str, item: Any, field: int | str | None) -> Any:
    """The sequence in an item of a data set."""
    if isinstance(item, Mapping):
        entries = cast("Mapping[Any, Any]", item)
        if field is None and len(entries) == 1:
            return next(iter(entries.values()))
        if field in entries:
            return entries[field]
        keys = ", ".join(map(str, entries))
        raise UserError(f"{label} has {keys}; choose one with field=, not {field!r}")
    if isinstance(item, tuple):
        parts = cast("tuple[Any, ...]", item)
        if isinstance(field, str) and hasattr(parts, field):
            return getattr(parts, field)
        position = 0 if field is None else field
        if not isinstance(position, int) or not -len(parts) <= position < len(parts):
            raise UserError(f"{label} is a tuple of {len(parts)}; field={field!r} is none of them")
        return parts[position]
    if field is not None:
        raise UserError(
            f"{label} is {'a tensor' if isinstance(item, torch.Tensor) else type(item).__name__},"
            f" without fields; leave out field={field!r}"
        )
    return item
