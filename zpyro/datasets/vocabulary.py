"""Words and their numbers.

Tokens 0, 1 and 2 are always ``<start>`` (which stands before every sequence and is never scored),
``<end>`` (which is scored) and ``<unknown>`` (every word that is not in the vocabulary).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets import sentences
from zpyro.errors import UserError

START, END, UNKNOWN = 0, 1, 2
SPECIAL = ("<start>", "<end>", "<unknown>")
UNITS = ("word", "character")

LARGEST_FILE = 1 << 28

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, in the order of their tokens.

    Attributes:
        words: by token, the special ones first; all different.
        unit: what a token is, "word" or "character".
        lower_case: whether text is put in small letters before its words are looked up.
    """

    words: tuple[str, ...]
    unit: str = "word"
    lower_case: bool = True

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Tokens by word; the special ones stand for no word and are left out."""
        return {word: token for token, word in enumerate(self.words) if token > UNKNOWN}

    def split(self, line: str) -> list[str]:
        """A line as words, or as characters."""
        if self.unit == "character":
            return list(line.lower() if self.lower_case else line)
        return sentences.words(line, lower_case=self.lower_case)

    def encode(self, words: Iterable[str]) -> Tokens:
        """The tokens of words; those that are not known become ``<unknown>``."""
        known = self.tokens
        return np.array([known.get(word, UNKNOWN) for word in words], dtype=np.int32)

    def text(self, tokens: Iterable[int]) -> str:
        """Tokens up to the first ``<end>`` as a line to read; one without an end shows as open."""
        shown: list[str] = []
        ended = False
        for token in tokens:
            ended = token == END
            if ended:
                break
            shown.append(self.words[token])
        text = "".join(shown) if self.unit == "character" else sentences.joined(shown)
        return text if ended else f"{text} [...]"


def most_frequent(counts: Mapping[str, int], size: int, unit: str, lower_case: bool) -> Vocabulary:
    """The ``size`` most frequent words, ties in alphabetical order, after the special tokens.

    Raises:
        UserError: if there is no word at all.
    """
    order = sorted((-count, word) for word, count in counts.items() if word not in SPECIAL)
    if not order:
        raise UserError("the training text holds no words, so the vocabulary is empty; give text")
    return Vocabulary((*SPECIAL, *(word for _, word in order[:size])), unit, lower_case)


def to_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """A vocabulary as :func:`from_json` takes it back."""
    return {
        "unit": vocabulary.unit,
        "lower_case": vocabulary.lower_case,
        "words": list(vocabulary.words),
    }


def write(path: Path, vocabulary: Vocabulary) -> None:
    """Write a vocabulary as JSON."""
    content = json.dumps(to_json(vocabulary), ensure_ascii=False, indent=0)
    path.write_text(content + "\n", encoding="utf-8")


def read(path: Path) -> Vocabulary:
    """Read a vocabulary.

    Raises:
        UserError: if the file is missing, too large, or holds no vocabulary.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{path}: is larger than a vocabulary can be; choose another file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: is missing; choose another checkpoint") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is corrupt ({error}); choose another checkpoint") from error
    return from_json(content, str(path))


def from_json(content: Any, source: str) -> Vocabulary:
    """A vocabulary from what JSON holds of it.

    Args:
        content: an object with unit, lower_case and words.
        source: what to call it in an error.

    Raises:
        UserError: if it is not a vocabulary.
    """
    words = content.get("words") if isinstance(content, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{source}: holds no list of words; choose another file")
    if content.get("unit") not in UNITS or not isinstance(content.get("lower_case"), bool):
        raise UserError(f"{source}: unit or lower_case is wrong; choose another file")
    return checked(words, content["unit"], content["lower_case"], source)


def checked(words: Sequence[str], unit: str, lower_case: bool, source: str) -> Vocabulary:
    """A vocabulary whose words begin with the special ones and are all different.

    Raises:
        UserError: if they do not or are not.
    """
    if tuple(words[:3]) != SPECIAL or len(set(words)) != len(words) or len(words) < 4:
        raise UserError(
            f"{source}: is not a vocabulary: it must begin with {', '.join(SPECIAL)} and name every"
            " word once; choose another file"
        )
    return Vocabulary(tuple(words), unit, lower_case)
