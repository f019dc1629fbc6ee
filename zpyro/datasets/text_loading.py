"""Text as a data set: prepared once, or read in memory in the words of a trained model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from zpyro.datasets import corpora
from zpyro.datasets.formats.folders import first_of
from zpyro.datasets.prepared import FileSpan, is_prepared, prepared_folder
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.tokenized import (
    SPLITS,
    TextCorpus,
    TextReader,
    TokenSettings,
    notes,
    splits_of,
    translation,
)
from zpyro.datasets.vocabulary import Tokens, Vocabulary
from zpyro.errors import UserError


def load(
    corpus: TextCorpus,
    folder: Path,
    settings: TokenSettings,
    vocabulary: Vocabulary | None = None,
    workers: int = 1,
) -> Dataset:
    """The data set of a prepared folder, or of original files, which are prepared on first use.

    Args:
        corpus: how to read them.
        folder: the prepared folder, or the original files.
        settings: of the data set.
        vocabulary: the words of a trained model; where the data have others of their own, the
            original files are read anew, in memory.
        workers: processes that prepare; 1 is the calling process.

    Raises:
        UserError: if the layout or a file cannot be used, or a split is empty.
    """
    if vocabulary is None or _stored(corpus, folder, settings):
        store = corpora.opened(corpus, folder, settings, workers)
        corpora.check_usable(store, folder)
        dataset = corpus.dataset(store)
        if vocabulary is None or dataset.vocabulary == vocabulary:
            return dataset
        if is_prepared(folder):
            raise UserError(
                f"{folder}: was prepared with other words than this run knows; point --data at the"
                " original text"
            )
    return read(corpus, folder, settings, vocabulary)


def load_all(
    corpus: TextCorpus,
    folder: Path,
    settings: TokenSettings,
    _normalization: Normalization,
    vocabulary: Vocabulary,
    workers: int = 1,
) -> Sequences:
    """Every sequence of a folder as one split, in the words of a trained model.

    Nothing is prepared: original files are read in memory, in the calling process.

    Raises:
        UserError: if the layout or a file cannot be used.
    """
    if is_prepared(folder):
        return load(corpus, folder, settings, vocabulary, workers).split("all")
    reader, spans, values = _read(corpus, folder, settings)
    if not len(values):
        raise UserError(f"{folder}: holds no sequence to score; give other text")
    final = translation(reader.numbers, vocabulary)[values]
    parts = _parts(spans, settings, final)
    return Sequences(
        values=tuple(value for part in parts for value in part.values),
        names=tuple(name for part in parts for name in part.names),
        data_type="tokens",
    )


def read(
    corpus: TextCorpus, folder: Path, settings: TokenSettings, vocabulary: Vocabulary | None = None
) -> Dataset:
    """Original files as a data set in memory; nothing is written.

    Raises:
        UserError: if the layout or a file cannot be used, or a split or the vocabulary is empty.
    """
    reader, spans, values = _read(corpus, folder, settings)
    metadata = [reader.metadata()]
    if vocabulary is None:
        _, layout = corpus.make_splits(spans, metadata, settings)
        vocabulary = corpus.vocabulary(layout)
    parts = _parts(spans, settings, translation(reader.numbers, vocabulary)[values])
    train, valid, test = parts
    corpora.check_counts(
        {name: len(part) for name, part in zip(SPLITS, parts, strict=True)}, folder
    )
    told = (*notes(metadata, settings, vocabulary), *corpus.file_notes(folder, settings))
    return Dataset(
        corpus.name, train, valid, test, "categorical", len(vocabulary), told, vocabulary
    )


def loaders(corpus: TextCorpus) -> tuple[Callable[..., Dataset], Callable[..., Sequences]]:
    """:func:`load` and :func:`load_all` of a corpus."""
    return partial(load, corpus), partial(load_all, corpus)


def _stored(corpus: TextCorpus, folder: Path, settings: TokenSettings) -> bool:
    """Whether a folder is prepared, or was already on an earlier use."""
    return is_prepared(folder) or is_prepared(prepared_folder(corpus, folder, settings))


def _read(
    corpus: TextCorpus, folder: Path, settings: TokenSettings
) -> tuple[TextReader, list[FileSpan], Tokens]:
    """Every file in memory, under provisional tokens."""
    reader = corpus.reader(settings)
    spans: list[FileSpan] = []
    values: list[Tokens] = [np.zeros(0, dtype=np.int32)]
    problems: list[UserError] = []
    start = 0
    for item in corpus.items(folder, settings):
        try:
            piece = reader.read(item)
        except UserError as problem:
            problems.append(problem)
            continue
        lengths = tuple(piece.lengths)
        spans.append(FileSpan(item.key, item.group, start, lengths, (), piece.metadata))
        values.append(piece.values)
        start += len(piece.values)
    if problems:
        raise first_of(problems)
    return reader, spans, np.concatenate(values)


def _parts(spans: list[FileSpan], settings: TokenSettings, tokens: Tokens) -> list[Sequences]:
    """The three splits of tokens in memory."""
    parts: list[Sequences] = []
    splits = splits_of(spans, settings)
    for name in SPLITS:
        split = splits[name]
        rows = split.rows.tolist()
        parts.append(
            Sequences(
                values=tuple(tokens[start : start + count] for start, count, _, _ in rows),
                names=tuple(f"{split.labels[label]}#{number}" for _, _, label, number in rows),
                data_type="tokens",
            )
        )
    return parts
