"""``text``: the user's own text, a line a sequence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zpyro.datasets import text_files
from zpyro.datasets.sequences import Dataset, Normalization, Sequences
from zpyro.datasets.splitting import hold_out
from zpyro.datasets.tokenized import Tokenizer, TokenSettings, assemble, whole
from zpyro.datasets.vocabulary import Vocabulary
from zpyro.errors import UserError

GROUPS = {"train": 0, "valid": 1, "validation": 1, "val": 1, "dev": 1, "test": 2}
"""Splits by the words that say them in names of files."""


@dataclass(frozen=True)
class TextSettings(TokenSettings):
    """How lines become sequences; the settings are those of every text."""


def load(path: Path, settings: TextSettings, vocabulary: Vocabulary | None = None) -> Dataset:
    """Read a text file or a folder of them (``*.txt``), a line a sequence; blank lines are skipped.

    Files of a folder that have a split in their names (train.txt, ptb.valid.txt, dev-2.txt,
    test.txt) are that split; other files are train, or are left out if there is one with that name.
    Where no file is the test, or none is validation, the lines of train with the smallest hashes of
    (seed, file name, line number) are held out for it.

    Args:
        path: the file or folder.
        settings: how.
        vocabulary: the one to use, such as a trained model's; by default that of train.

    Raises:
        UserError: if a file cannot be used, or a split would be empty.
    """
    files = _files(path)
    groups = [_group(file) for file in files] if path.is_dir() else [0]
    if 0 in groups:
        files = [file for file, group in zip(files, groups, strict=True) if group is not None]
    groups = [group or 0 for group in groups if group is not None or 0 not in groups]
    tokenizer, owner = _read(path, files, settings)
    split = np.array(groups, dtype=np.int64)[owner]
    total = int((split == 0).sum())
    for number, fraction in ((2, settings.test_fraction), (1, settings.valid_fraction)):
        if number not in groups:
            free = np.flatnonzero(split == 0)
            # A share of all lines of train, also once others of them are held out.
            share = fraction * total / max(len(free), 1)
            chosen = hold_out([tokenizer.names[i] for i in free], share, seed=settings.seed)
            split[free[chosen]] = number
    return assemble(
        "text", tokenizer, [split == number for number in range(3)], settings, vocabulary
    )


def load_all(
    path: Path, settings: TextSettings, _normalization: Normalization, vocabulary: Vocabulary
) -> Sequences:
    """Every line as one split, in the tokens of a trained model.

    Raises:
        UserError: if a file cannot be used.
    """
    return whole(_read(path, _files(path), settings)[0], vocabulary)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = text_files.find(path, lambda name: name.endswith(".txt"))
        if not files:
            raise UserError(f"{path} holds no text (*.txt); point --data at a file or a folder")
        return files
    if not path.exists():
        raise UserError(f"{path} does not exist; point --data at a text file or a folder of them")
    return [path]


def _group(file: Path) -> int | None:
    """The split that a file's name says, None where it says none."""
    parts = re.split(r"[\W_\d]+", file.stem.lower())
    return next((GROUPS[part] for part in parts if part in GROUPS), None)


def _read(path: Path, files: list[Path], settings: TextSettings) -> tuple[Tokenizer, list[int]]:
    """All lines, and the file that each belongs to."""
    tokenizer, splitter = Tokenizer(settings), settings.splitter()
    owner: list[int] = []
    problems: list[UserError] = []
    base = path if path.is_dir() else path.parent
    for number, file in enumerate(files):
        name = file.relative_to(base).as_posix()
        try:
            lines = text_files.read_text(file).split("\n")
        except UserError as problem:
            problems.append(problem)
            continue
        for position, line in enumerate(lines, start=1):
            tokenizer.add(f"{name}:{position}", splitter.split(line.strip()))
        owner += [number] * (len(tokenizer.names) - len(owner))
    if problems:
        raise text_files.first_of(problems)
    return tokenizer, owner
