"""Data sets that are prepared: loaded from a prepared folder, or prepared on first use."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from zpyro.datasets.prepared import Corpus, Store, is_prepared, prepare, prepared_folder
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.errors import UserError


def load(corpus: Corpus, folder: Path, settings: Any, workers: int = 1) -> Dataset:
    """The data set of a prepared folder, or of a folder of original files.

    Original files are prepared on first use, into the cache folder.

    Args:
        corpus: how to read them.
        folder: the prepared folder, or the original files.
        settings: of the data set.
        workers: processes that prepare; 1 is the calling process.

    Raises:
        UserError: if the folder or a file cannot be used, a split would be empty, or the folder
            was prepared with other settings.
    """
    store = opened(corpus, folder, settings, workers)
    check_usable(store, folder)
    return corpus.dataset(store)


def load_all(
    corpus: Corpus, folder: Path, settings: Any, normalization: Normalization, workers: int = 1
) -> Sequences:
    """Every sequence of a folder as one split, normalized as a trained model needs it.

    Raises:
        UserError: if the folder or a file cannot be used.
    """
    store = opened(corpus, folder, settings, workers)
    return store.dataset().split("all").renormalized(normalization)


def opened(corpus: Corpus, folder: Path, settings: Any, workers: int = 1) -> Store:
    """The prepared data set behind a folder, made now if it must be.

    Raises:
        UserError: as :func:`load` does.
    """
    if not is_prepared(folder):
        place = prepared_folder(corpus, folder, settings)
        return prepare(corpus, folder, place, settings, workers=workers, wait=True)
    store = Store(folder)
    store.check(corpus.name, dataclasses.asdict(settings))
    return store


def check_usable(store: Store, source: Path) -> None:
    """Make sure that a prepared data set can be trained on.

    Raises:
        UserError: if a split is empty, or the training recordings are silent throughout.
    """
    counts = {name: split["sequences"] for name, split in store.index["splits"].items()}
    check_counts(counts, source)
    if not store.normalization.scale:
        raise UserError(f"{source}: its training part is silent throughout; give other recordings")


def check_counts(counts: Mapping[str, int], source: Path) -> None:
    """Make sure that no split is without sequences.

    Raises:
        UserError: if one is.
    """
    if not all(counts.values()):
        found = ", ".join(f"{count} in {name}" for name, count in counts.items())
        raise UserError(
            f"{source}: has too few sequences for three splits ({found}); give more of the data"
        )


def loaders(corpus: Corpus) -> tuple[Callable[..., Dataset], Callable[..., Sequences]]:
    """:func:`load` and :func:`load_all` of a corpus."""
    return partial(load, corpus), partial(load_all, corpus)
