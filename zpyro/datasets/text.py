"""``text``: the user's own text, a line a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats import text_files
from zpyro.datasets.formats.folders import relative_name
from zpyro.datasets.prepared import SourceFile
from zpyro.datasets.splitting import SPLITS, describe_split, list_files, named_splits
from zpyro.datasets.text_loading import loaders
from zpyro.datasets.tokenized import SEVERAL, TextCorpus, TokenSettings
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError


@dataclass(frozen=True)
class TextSettings(TokenSettings):
    """How lines become sequences; the settings are those of every text."""


class Text(TextCorpus):
    """A text file or a folder of them (``*.txt``), a line a sequence; blank lines are skipped.

    Files and folders named after a split (train.txt, ptb.valid.txt, dev-2.txt, test/) are that
    split, see :mod:`zpyro.datasets.splitting`. Where no file is the test, or none is validation,
    it gets its share of the lines of train, chosen by a hash of (seed, file name, line number).
    """

    name = "text"

    def items(self, source: Path, settings: TextSettings) -> list[SourceFile]:
        del settings
        files = _files(source)
        if source.is_file():
            return [SourceFile(source.name, source, SEVERAL.join(SPLITS))]
        names = [relative_name(file, source) for file in files]
        named = named_splits(names)
        several = SEVERAL.join(name for name in SPLITS if name not in named)
        return [
            SourceFile(name, file, split or several)
            for name, file, split in zip(names, files, named, strict=True)
            if split is not None
        ]

    def file_notes(self, source: Path, settings: Any) -> tuple[str, ...]:
        del settings
        if source.is_file():
            return ()
        names = [relative_name(file, source) for file in _files(source)]
        others = text_files.find(source, lambda name: not text_files.is_text(name))
        told = describe_split(names, "a share of the lines of train")
        if others:
            listed = list_files(relative_name(file, source) for file in others)
            told += (f"left out, because they are no *.txt: {listed}",)
        return told

    def lines(self, item: SourceFile, splitter: Vocabulary) -> Iterator[list[str]]:
        text = text_files.read_text(item.path)
        return (splitter.split(line.strip()) for line in text.removesuffix("\n").split("\n"))


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files = text_files.find(source)
        if not files:
            raise UserError(f"{source} holds no text (*.txt); point --data at a file or a folder")
        return files
    if not source.exists():
        raise UserError(f"{source} does not exist; point --data at a text file or a folder of them")
    return [source]


ENTRY = DatasetEntry(
    "text",
    "your own text, a line a sequence; words or characters",
    TextSettings,
    *loaders(Text()),
    "give a text file or a folder of *.txt with --data PATH",
    has_words=True,
    corpus=Text(),
    has_workers=True,
)
