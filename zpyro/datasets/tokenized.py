"""From files of text to sequences of tokens: what ``imdb`` and ``text`` have in common.

Words are first numbered in the order in which they turn up, shard by shard. Once all of train was
counted the vocabulary is known, and the provisional numbers are replaced by the final tokens.
"""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.prepared import (
    Corpus,
    FileSpan,
    Layout,
    ParsedFile,
    Reader,
    SourceFile,
    Split,
    Store,
)
from zpyro.datasets.sequences import Dataset
from zpyro.datasets.splitting import SPLITS, stable_fraction
from zpyro.datasets.vocabulary import (
    END,
    SPECIAL,
    UNITS,
    UNKNOWN,
    Tokens,
    Vocabulary,
    from_json,
    most_frequent,
    to_json,
)
from zpyro.errors import UserError, pluralize

SEVERAL = "/"
"""Between the splits of an item whose lines are dealt out to several."""

Numbers = NDArray[np.int64]


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
                raise UserError(f"data.{name} is {getattr(self, name)}; it must be in [0, 1)")

    def splitter(self) -> Vocabulary:
        """Splits lines as the vocabulary of such data will."""
        return Vocabulary(SPECIAL, self.unit, self.lower_case)


class TextCorpus(Corpus):
    """Files of text whose lines, or sentences, are sequences of tokens.

    The group of an item is its split, or the splits that its lines are dealt out to.
    """

    dtype = "int32"

    @abc.abstractmethod
    def lines(self, item: SourceFile, splitter: Vocabulary) -> Iterator[list[str]]:
        """The words of every line of a file, of blank ones too.

        Raises:
            UserError: if the file cannot be read or is not UTF-8.
        """

    def reader(self, settings: TokenSettings) -> TextReader:
        return TextReader(self, settings)

    def make_splits(
        self, spans: Sequence[FileSpan], shard_metadata: Sequence[Any], settings: TokenSettings
    ) -> tuple[dict[str, Split], Layout]:
        vocabulary = most_frequent(
            _counts(shard_metadata, "train"),
            settings.vocabulary_size,
            settings.unit,
            settings.lower_case,
        )
        layout = Layout(
            data_type="tokens",
            likelihood="categorical",
            frame_size=len(vocabulary),
            vocabulary=to_json(vocabulary),
            notes=tuple(notes(shard_metadata, settings, vocabulary)),
        )
        return splits_of(spans, settings), layout

    def vocabulary(self, layout: Layout) -> Vocabulary:
        """The words behind the tokens of an arranged data set."""
        return from_json(layout.vocabulary, self.name)

    def translate(self, shard_metadata: Any, layout: Layout) -> Tokens:
        return translation(shard_metadata["words"], self.vocabulary(layout))

    def dataset(self, store: Store) -> Dataset:
        vocabulary = from_json(store.index.get("vocabulary"), str(store.folder))
        if len(vocabulary) != store.index["frame_size"]:
            raise UserError(f"{store.folder}: its vocabulary has another size; prepare it again")
        return store.dataset(vocabulary=vocabulary)


class TextReader(Reader):
    """Reads files under provisional tokens; the special ones have their final numbers.

    Args:
        corpus: finds the lines of a file.
        settings: of the data set.
    """

    def __init__(self, corpus: TextCorpus, settings: TokenSettings) -> None:
        self.corpus, self.settings = corpus, settings
        # Under names that no text holds: an <end> that stands in the text is a word as any other.
        self.numbers = {f"\0{word}": number for number, word in enumerate(SPECIAL)}
        self._counts: list[Numbers] = [np.zeros(0, dtype=np.int64) for _ in SPLITS]
        self._dropped = self._cut = 0

    def read(self, item: SourceFile) -> ParsedFile:
        values: list[int] = []
        lengths: list[int] = []
        left_out: list[int] = []
        limit, drop = self.settings.max_length, self.settings.long_lines == "drop"
        for position, words in enumerate(self.corpus.lines(item, self.settings.splitter()), 1):
            long = limit is not None and len(words) > limit
            if not words or (long and drop):
                left_out.append(position)
                self._dropped += long
                continue
            kept = words[:limit] if long else words
            values += [self.numbers.setdefault(word, len(self.numbers)) for word in kept]
            if long:
                self._cut += 1
            else:
                values.append(END)
            lengths.append(len(kept) + (not long))
        tokens = np.array(values, dtype=np.int32)
        self._count(item, tokens, lengths, left_out)
        return ParsedFile(tokens, lengths, metadata={"left_out": left_out})

    def metadata(self) -> dict[str, Any]:
        """Words by provisional token, how often each is in train and in test, lines too long."""
        size = len(self.numbers)
        counts = [np.pad(found, (0, size - len(found))).tolist() for found in self._counts]
        return {
            "words": list(self.numbers),
            **dict(zip(SPLITS, counts, strict=True)),
            "dropped": self._dropped,
            "cut": self._cut,
        }

    def _count(
        self, item: SourceFile, tokens: Tokens, lengths: Sequence[int], left_out: Sequence[int]
    ) -> None:
        positions = _positions(len(lengths), left_out)
        split = np.repeat(_dealt(item.key, item.group, positions, self.settings), lengths)
        for number, known in enumerate(self._counts):
            found = np.bincount(tokens[split == number], minlength=len(self.numbers))
            found[: len(known)] += known
            self._counts[number] = found


def splits_of(spans: Sequence[FileSpan], settings: TokenSettings) -> dict[str, Split]:
    """The sequences of each split, named ``file#line``; lines that were left out are counted."""
    rows: dict[str, list[Numbers]] = {name: [] for name in SPLITS}
    labels: dict[str, list[str]] = {name: [] for name in SPLITS}
    for item in spans:
        positions = _positions(len(item.lengths), item.metadata["left_out"])
        lengths = np.array(item.lengths, dtype=np.int64)
        starts = item.start + np.cumsum(lengths) - lengths
        dealt = _dealt(item.key, item.group, positions, settings)
        for number, name in enumerate(SPLITS):
            mine = dealt == number
            if mine.any():
                label = np.full(int(mine.sum()), len(labels[name]))
                parts = (starts[mine], lengths[mine], label, positions[mine])
                rows[name].append(np.stack(parts, axis=1))
                labels[name].append(item.key)
    nothing = np.zeros((0, 4), dtype=np.int64)
    return {name: Split(np.concatenate([nothing, *rows[name]]), labels[name]) for name in SPLITS}


def translation(words: Iterable[str], vocabulary: Vocabulary) -> Tokens:
    """The final token of every provisional one."""
    known = vocabulary.tokens
    found = np.array([known.get(word, UNKNOWN) for word in words], dtype=np.int32)
    found[: len(SPECIAL)] = np.arange(len(SPECIAL))
    return found


def notes(
    shard_metadata: Sequence[Any], settings: TokenSettings, vocabulary: Vocabulary
) -> Iterator[str]:
    """What a user should know of how text was read."""
    yield f"tokens are {settings.unit}s; every sequence ends in an end token that is scored too"
    test = _counts(shard_metadata, "test")
    ends = sum(metadata["test"][END] for metadata in shard_metadata)
    unknown = sum(count for word, count in test.items() if word not in vocabulary.tokens)
    share = 100.0 * unknown / max(sum(test.values()) + ends, 1)
    yield f"{share:.2f} % of the test tokens are not in the vocabulary and count as one word"
    dropped = sum(metadata["dropped"] for metadata in shard_metadata)
    if dropped:
        lost = f"{pluralize(dropped, 'sequence')} of more than {settings.max_length}"
        yield f"{lost} {_be(dropped)} left out"
    cut = sum(metadata["cut"] for metadata in shard_metadata)
    if cut:
        where = f"cut after {settings.max_length} and without an end"
        yield f"{pluralize(cut, 'sequence')} {_be(cut)} {where}"


def _counts(shard_metadata: Sequence[Mapping[str, Any]], split: str) -> Counter[str]:
    """How often each word stands in a split; the special ones are left out."""
    found: Counter[str] = Counter()
    first = len(SPECIAL)
    for metadata in shard_metadata:
        for word, count in zip(metadata["words"][first:], metadata[split][first:], strict=True):
            if count:
                found[word] += count
    return found


def _positions(count: int, left_out: Sequence[int]) -> Numbers:
    """Positions from 1 of so many sequences among all lines."""
    everything = np.arange(1, count + len(left_out) + 1)
    return np.delete(everything, np.array(left_out, dtype=np.int64) - 1)


def _dealt(key: str, group: str, positions: Numbers, settings: TokenSettings) -> Numbers:
    """The number of the split of each sequence of a file."""
    if SEVERAL not in group:
        return np.full(len(positions), SPLITS.index(group))
    # The test comes first, so that the share of validation does not move it.
    names = [name for name in ("test", "valid") if name in group.split(SEVERAL)]
    shares = {"valid": settings.valid_fraction, "test": settings.test_fraction}
    ends = np.cumsum([shares[name] for name in names])
    chances = np.array(
        [stable_fraction(f"{key}#{position}", settings.seed) for position in positions.tolist()]
    )
    dealt_to = np.array([SPLITS.index(name) for name in (*names, "train")])
    return dealt_to[np.searchsorted(ends, chances, side="right")]


def _be(count: int) -> str:
    return "is" if count == 1 else "are"
