"""The data sets by name. A new one is one file here and one line in :data:`ENTRIES`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zpyro.datasets import blizzard, imdb, mnist, npz, text, text_loading, timit, vowels, wav
from zpyro.datasets.batching import Batch
from zpyro.datasets.corpora import loaders
from zpyro.datasets.prepared import Corpus
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError

__all__ = [
    "ENTRIES",
    "Batch",
    "Dataset",
    "Entry",
    "Normalization",
    "Sequences",
    "Vocabulary",
    "describe",
    "entry",
    "load",
    "load_all",
    "names",
]


@dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
        name: as in ``--dataset NAME``.
        summary: one line on what a sequence is.
        settings: its frozen dataclass of settings, usable without arguments.
        load: from (folder or None, settings) to a :class:`Dataset`.
        load_all: from (folder, settings, normalization of training) to one split of everything,
            for judging a trained model on other data; None where there is no other data.
        missing: what to tell who gives no folder, or None where none is needed.
        has_words: whether it is text; then both also take the ``vocabulary`` of a trained model.
        corpus: how its files are prepared, or None where they are read anew every time.
    """

    name: str
    summary: str
    settings: type[Any]
    load: Callable[..., Dataset]
    load_all: Callable[..., Sequences] | None
    missing: str | None
    has_words: bool = False
    corpus: Corpus | None = None

    @property
    def needs_data(self) -> bool:
        """Whether ``--data`` must be given."""
        return self.missing is not None


def _load_vowels(_folder: Path | None, settings: vowels.VowelsSettings) -> Dataset:
    return vowels.load(settings)


ENTRIES = {
    found.name: found
    for found in (
        Entry(
            "vowels",
            "built in: a synthetic voice, 16 kHz, frames of 200 samples",
            vowels.VowelsSettings,
            _load_vowels,
            None,
            None,
        ),
        Entry(
            "wav",
            "a folder of your own recordings (wav, flac, mp3, SPHERE), split by file",
            wav.WavSettings,
            wav.load,
            wav.load_all,
            "give a folder of recordings with --data DIR",
        ),
        Entry(
            "npz",
            "your own arrays: frames (N, T, D), tokens (N, T), or unequal lengths",
            npz.NpzSettings,
            npz.load,
            npz.load_all,
            "give a .npz file or a folder of .npy files with --data PATH",
        ),
        Entry(
            "blizzard",
            "Blizzard Challenge 2013 audiobooks (licensed): rows of 40 frames at 16 kHz",
            blizzard.BlizzardSettings,
            *loaders(blizzard.Blizzard()),
            blizzard.MISSING,
            corpus=blizzard.Blizzard(),
        ),
        Entry(
            "imdb",
            "sentences of movie reviews: aclImdb, or Polarity v2.0; words or characters",
            imdb.ImdbSettings,
            imdb.load,
            imdb.load_all,
            imdb.MISSING,
            has_words=True,
            corpus=imdb.Imdb(),
        ),
        Entry(
            "text",
            "your own text, a line a sequence; words or characters",
            text.TextSettings,
            *text_loading.loaders(text.Text()),
            "give a text file or a folder of *.txt with --data PATH",
            has_words=True,
            corpus=text.Text(),
        ),
        Entry(
            "timit",
            "TIMIT (licensed): rows of 40 frames at 16 kHz, test utterances whole",
            timit.TimitSettings,
            loaders(timit.Timit())[0],
            timit.load_all,
            timit.MISSING,
            corpus=timit.Timit(),
        ),
        Entry(
            "mnist",
            "binarized handwritten digits: 784 steps of a pixel, or 28 of a row",
            mnist.MnistSettings,
            *loaders(mnist.Mnist()),
            mnist.MISSING,
            corpus=mnist.Mnist(),
        ),
    )
}


def names() -> tuple[str, ...]:
    """The names of all data sets."""
    return tuple(ENTRIES)


def entry(name: str) -> Entry:
    """The data set of that name.

    Raises:
        UserError: naming the nearest one if there is none.
    """
    if name in ENTRIES:
        return ENTRIES[name]
    nearest = difflib.get_close_matches(name, ENTRIES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"choose one of {', '.join(ENTRIES)}"
    raise UserError(f"data set {name!r} is unknown; {hint}")


def load(
    name: str,
    data: str | Path | None = None,
    settings: Any = None,
    *,
    vocabulary: Vocabulary | None = None,
    **changes: Any,
) -> Dataset:
    """Read a data set.

    Args:
        name: one of :func:`names`.
        data: its folder or file, where it needs one.
        settings: an instance of its settings, by default the published or usual ones.
        vocabulary: of text: the words of a trained model, by default those of train.
        **changes: single settings to change, e.g. ``frame_size=100``.

    Raises:
        UserError: if the data set is unknown, or its files cannot be used.
    """
    found = entry(name)
    chosen = replace(found.settings() if settings is None else settings, **changes)
    return found.load(_folder(found, data), chosen, **_words(found, vocabulary))


def load_all(
    name: str,
    data: str | Path,
    settings: Any,
    normalization: Normalization,
    vocabulary: Vocabulary | None = None,
) -> Sequences:
    """Other data of the same kind as one split, normalized and numbered as in training.

    Raises:
        UserError: if the data set has no other data, or its files cannot be used.
    """
    found = entry(name)
    if found.load_all is None:
        raise UserError(f"data set {name} is built in and reads no --data; leave it out")
    return found.load_all(
        _folder(found, data), settings, normalization, **_words(found, vocabulary)
    )


def describe(dataset: Dataset) -> list[tuple[str, str]]:
    """What to show of a data set, as (property, value) rows."""
    first = dataset.train
    rows = [
        ("data set", dataset.name),
        ("likelihood", dataset.likelihood),
        ("frame size" if first.data_type != "tokens" else "vocabulary", str(dataset.frame_size)),
    ]
    if first.sample_rate is not None:
        rows.append(("sample rate", f"{first.sample_rate} Hz"))
    if first.normalization != Normalization():
        scale = first.normalization
        centered = f"(raw {'-' if scale.mean >= 0 else '+'} {abs(scale.mean):.6g})"
        rows.append(("normalization", f"{centered} / {scale.scale:.6g}, from train"))
    start = "the first recorded frame, not scored"
    if first.start is None:
        start = "a start token" if first.data_type == "tokens" else "zeros"
    if first.image_shape is not None:
        rows.append(("image", "{} x {} pixels, row after row".format(*first.image_shape)))
    rows.append(("start frame", start))
    for name in ("train", "valid", "test"):
        rows.append((name, _describe_split(dataset.split(name))))
    return rows + [("note", note) for note in dataset.notes]


def _describe_split(split: Sequences) -> str:
    lengths = sorted(split.lengths.tolist())
    what = "tokens" if split.data_type == "tokens" else "frames"
    spread = f"{lengths[0]} to {lengths[-1]} {what}, median {lengths[len(lengths) // 2]}"
    seconds = "" if split.seconds is None else f", {_duration(split.seconds)}"
    return f"{len(split)} sequences, {split.num_frames} {what}{seconds} ({spread})"


def _duration(seconds: float) -> str:
    if seconds < 60.0:
        return f"{seconds:.1f} s"
    return f"{seconds / 60.0:.1f} min" if seconds < 7200.0 else f"{seconds / 3600.0:.1f} h"


def _words(found: Entry, vocabulary: Vocabulary | None) -> dict[str, Vocabulary]:
    return {"vocabulary": vocabulary} if found.has_words and vocabulary is not None else {}


def _folder(found: Entry, data: str | Path | None) -> Path | None:
    if data is None and found.missing is not None:
        raise UserError(f"data set {found.name}: {found.missing}")
    if data is not None and found.missing is None:
        raise UserError(f"data set {found.name} is built in and reads no --data; leave it out")
    return None if data is None else Path(data).expanduser()
