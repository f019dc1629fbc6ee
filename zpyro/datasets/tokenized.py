"""From lines of words to data sets of tokens: what ``imdb`` and ``text`` have in common."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.sequences import Dataset, Sequences
from zpyro.datasets.vocabulary import (
    END,
    SPECIAL,
    UNITS,
    UNKNOWN,
    Tokens,
    Vocabulary,
    most_frequent,
)
from zpyro.errors import UserError

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class TokenSettings:
    """How lines of text become sequences of tokens.

    Attributes:
        unit: what a token is, "word" or "character".
        lower_case: put the text in small letters.
        vocabulary_size: keep so many of the most frequent words (or characters) of train; the start
            token, the end token and the token for all other words come on top.
        max_length: most words of a sequence, its end not counted; None for no limit.
        long_lines: "cut" longer ones after so many words (they then have no end), or "drop" them.
        valid_fraction: share held out for validation.
        test_fraction: share held out for the test, where the files bring none.
        seed: fixes what is held out.
    """

    unit: str = "word"
    lower_case: bool = True
    vocabulary_size: int = 16_000
    max_length: int | None = None
    long_lines: str = "cut"
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError(f"data.unit is {self.unit!r}; choose one of {', '.join(UNITS)}")
        if self.long_lines not in ("cut", "drop"):
            raise UserError(f"data.long_lines is {self.long_lines!r}; choose cut or drop")
        for name in ("vocabulary_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; give a positive number")
        for name in ("valid_fraction", "test_fraction"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(f"data.{name} is {getattr(self, name)}; it lies in [0, 1)")

    def splitter(self) -> Vocabulary:
        """Splits lines as the vocabulary of such data will."""
        return Vocabulary(SPECIAL, self.unit, self.lower_case)


class Tokenizer:
    """Collects sequences under provisional tokens: words numbered in the order they turn up.

    The special tokens have their final numbers. Which words stay is known only once all of train
    was seen; then :func:`translation` gives the final number of every provisional one.

    Attributes:
        numbers: provisional tokens by word.
        names: of the sequences.
        lengths: of the sequences, with their ends.
        dropped: how many sequences were too long and left out.
        cut: how many were too long and cut.
    """

    def __init__(self, settings: TokenSettings) -> None:
        # Under names that no text holds: an <end> that stands in the text is a word as any other.
        self.numbers = {f"\0{word}": number for number, word in enumerate(SPECIAL)}
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.dropped = 0
        self.cut = 0
        self._limit = settings.max_length
        self._drop = settings.long_lines == "drop"
        self._values = array("i")

    def add(self, name: str, words: Sequence[str]) -> None:
        """Add a sequence; one without words is left out."""
        if not words:
            return
        long = self._limit is not None and len(words) > self._limit
        if long and self._drop:
            self.dropped += 1
            return
        numbers = self.numbers
        kept = words[: self._limit] if long else words
        self._values.extend([numbers.setdefault(word, len(numbers)) for word in kept])
        if long:
            self.cut += 1
        else:
            self._values.append(END)
        self.names.append(name)
        self.lengths.append(len(kept) + (not long))

    @property
    def values(self) -> Tokens:
        """The provisional tokens of all sequences, one after another."""
        return np.array(self._values, dtype=np.int32)


def counted(values: Tokens, words: Sequence[str]) -> dict[str, int]:
    """How often each word stands among provisional tokens; the special ones are left out."""
    found: Counts = np.bincount(values, minlength=len(words))
    return {
        word: int(count)
        for word, count in zip(words[UNKNOWN + 1 :], found[UNKNOWN + 1 :], strict=True)
        if count
    }


def translation(words: Iterable[str], vocabulary: Vocabulary) -> Tokens:
    """The final token of every provisional one."""
    known = vocabulary.tokens
    found = np.array([known.get(word, UNKNOWN) for word in words], dtype=np.int32)
    found[: len(SPECIAL)] = np.arange(len(SPECIAL))
    return found


def assemble(
    name: str,
    tokenizer: Tokenizer,
    splits: Sequence[NDArray[np.bool_]],
    settings: TokenSettings,
    vocabulary: Vocabulary | None = None,
) -> Dataset:
    """A data set from collected sequences.

    Args:
        name: of the data set.
        tokenizer: what was collected.
        splits: whether each sequence is in train, in valid, in test.
        settings: of the vocabulary.
        vocabulary: the one to use, such as a trained model's; by default that of train.

    Raises:
        UserError: if a split or the vocabulary would be empty.
    """
    for split, chosen in zip(("train", "valid", "test"), splits, strict=True):
        if not chosen.any():
            raise UserError(
                f"the {split} split would be empty with {len(tokenizer.names)} sequences; give"
                " more text, or set data.valid_fraction, data.test_fraction or data.max_length"
            )
    words, values = list(tokenizer.numbers), tokenizer.values
    if vocabulary is None:
        in_train = values[np.repeat(splits[0], tokenizer.lengths)]
        vocabulary = most_frequent(
            counted(in_train, words), settings.vocabulary_size, settings.unit, settings.lower_case
        )
    rows = _rows(values, tokenizer.lengths, translation(words, vocabulary))
    train, valid, test = (_sequences(rows, tokenizer.names, chosen) for chosen in splits)
    notes = tuple(_notes(tokenizer, settings, test))
    return Dataset(name, train, valid, test, "categorical", len(vocabulary), notes, vocabulary)


def whole(tokenizer: Tokenizer, vocabulary: Vocabulary) -> Sequences:
    """Everything that was collected as one split, in the tokens of a vocabulary.

    Raises:
        UserError: if nothing was collected.
    """
    if not tokenizer.names:
        raise UserError("the text holds no sequence to score; give other text")
    final = translation(tokenizer.numbers, vocabulary)
    rows = _rows(tokenizer.values, tokenizer.lengths, final)
    return _sequences(rows, tokenizer.names, np.ones(len(rows), dtype=np.bool_))


def _rows(values: Tokens, lengths: Sequence[int], final: Tokens) -> list[Tokens]:
    return np.split(final[values], np.cumsum(lengths)[:-1])


def _sequences(
    rows: Sequence[Tokens], names: Sequence[str], chosen: NDArray[np.bool_]
) -> Sequences:
    indices = np.flatnonzero(chosen).tolist()
    return Sequences(
        values=tuple(rows[i] for i in indices),
        names=tuple(names[i] for i in indices),
        kind="tokens",
    )


def _notes(tokenizer: Tokenizer, settings: TokenSettings, test: Sequences) -> Iterable[str]:
    unknown = sum(int((row == UNKNOWN).sum()) for row in test.values)
    share = 100.0 * unknown / test.num_frames
    yield f"tokens are {settings.unit}s; every sequence ends in an end token that is scored too"
    yield f"{share:.2f} % of the test tokens are not in the vocabulary and count as one word"
    if tokenizer.dropped:
        yield f"{tokenizer.dropped} sequences of more than {settings.max_length} are left out"
    if tokenizer.cut:
        yield f"{tokenizer.cut} sequences are cut after {settings.max_length} and have no end"
