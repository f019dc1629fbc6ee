"""What the command line and programs must know of a data set to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zpyro.datasets.prepared.corpus import Corpus
from zpyro.datasets.sequences import Dataset, Sequences


@dataclass(frozen=True)
class DatasetEntry:
    """How a data set is found and read.

    Attributes:
        name: as in ``--dataset NAME``.
        summary: one line that says what a sequence is.
        settings: its frozen dataclass of settings, usable without arguments.
        load: from (folder or None, settings) to a :class:`Dataset`.
        load_all: from (folder, settings, normalization of training) to one split of all data, for
            evaluating a trained model on other data; None where there is no other data.
        missing: the advice where no folder is given, or None where none is needed.
        has_words: whether it is text; then both also take the ``vocabulary`` of a trained model.
        corpus: how its files are prepared, or None where they are read each time.
        has_workers: whether both also take ``workers``, the number of processes that prepare.

    Example::

        zpyro.datasets.register(DatasetEntry("sines", "sine waves", Settings, load))
    """

    name: str
    summary: str
    settings: type[Any]
    load: Callable[..., Dataset]
    load_all: Callable[..., Sequences] | None = None
    missing: str | None = None
    has_words: bool = False
    corpus: Corpus | None = None
    has_workers: bool = False

    @property
    def needs_data(self) -> bool:
        """Whether ``--data`` must be given."""
        return self.missing is not None
