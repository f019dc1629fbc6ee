"""``text``: the user's own text, a line a sequence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats import text_files
from zpyro.datasets.prepared import SourceFile
from zpyro.datasets.text_loading import loaders
from zpyro.datasets.tokenized import SEVERAL, SPLITS, TextCorpus, TokenSettings
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError

WORDS = {
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}
"""Splits by the words that say them in names of files."""


@dataclass(frozen=True)
class TextSettings(TokenSettings):
    """How lines become sequences; the settings are those of every text."""


class Text(TextCorpus):
    """A text file or a folder of them (``*.txt``), a line a sequence; blank lines are skipped.

    Files of a folder that have a split in their names (train.txt, ptb.valid.txt, dev-2.txt,
    test.txt) are that split; other files are train, or are left out if there is one with that name.
    Where no file is the test, or none is validation, the lines of train are dealt out to it by a
    hash of (seed, file name, line number), its share of them on average.
    """

    name = "text"

    def items(self, source: Path, settings: TextSettings) -> list[SourceFile]:
        del settings
        files = _files(source)
        if source.is_file():
            return [SourceFile(source.name, source, SEVERAL.join(SPLITS))]
        said = {file: _said(file) for file in files}
        named = "train" in said.values()
        lacking = [name for name in SPLITS if name == "train" or name not in said.values()]
        groups = {"": "" if named else SEVERAL.join(lacking), "train": SEVERAL.join(lacking)}
        found = [
            SourceFile(file.relative_to(source).as_posix(), file, groups.get(split, split))
            for file, split in said.items()
        ]
        return [item for item in found if item.group]

    def lines(self, item: SourceFile, splitter: Vocabulary) -> Iterator[list[str]]:
        text = text_files.read_text(item.path)
        return (splitter.split(line.strip()) for line in text.removesuffix("\n").split("\n"))


def _files(source: Path) -> list[Path]:
    if source.is_dir():
        files = text_files.find(source, lambda name: name.endswith(".txt"))
        if not files:
            raise UserError(f"{source} holds no text (*.txt); point --data at a file or a folder")
        return files
    if not source.exists():
        raise UserError(f"{source} does not exist; point --data at a text file or a folder of them")
    return [source]


def _said(file: Path) -> str:
    """The split that a file's name says, or nothing."""
    parts = re.split(r"[\W_\d]+", file.stem.lower())
    return next((WORDS[part] for part in parts if part in WORDS), "")


ENTRY = DatasetEntry(
    "text",
    "your own text, a line a sequence; words or characters",
    TextSettings,
    *loaders(Text()),
    "give a text file or a folder of *.txt with --data PATH",
    has_words=True,
    corpus=Text(),
)
