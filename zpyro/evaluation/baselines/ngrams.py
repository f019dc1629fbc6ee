"""The baseline for models of tokens: a trigram model with modified Kneser-Ney smoothing.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", Computer
Speech and Language 13 (1999), section 3, in its interpolated form::

    p(w | u v) = (c(u v w) - D(c(u v w))) / c(u v) + gamma(u v) p(w | v)
    p(w | v)   = (n(v w) - D(n(v w))) / n(v) + gamma(v) p(w)
    p(w)       = (n(w) - D(n(w))) / n + gamma / V

c counts occurrences, n(v w) the different words before v w, and n(w) those before w. D is one of
three discounts, for counts of 1, 2, and 3 or more, estimated from counts of counts; gamma is what
makes each line sum to one over all V tokens. Two start symbols, which are not tokens, precede
every sequence; nothing precedes n-grams that begin with one, so there n is c.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zpyro.datasets.sequences import Array, Sequences

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]

USUAL_DISCOUNT = 0.75
"""For counts that are too few to estimate the discounts from."""


@dataclass(frozen=True, eq=False)
class Trigram:
    """A trigram model, kept as the counts that it is made of.

    Attributes:
        size: V.
        keys: the trigrams that occur, sorted; (u (V + 1) + v) (V + 1) + w with V for a start.
        counts: how often each occurs.
    """

    size: int
    keys: Numbers
    counts: Numbers

    def log_prob(self, first: Array, second: Array, word: Array) -> Floats:
        """log p(word | first second), nats, all of shape (N,); V is a start symbol."""
        first, second, word = (part.astype(np.int64) for part in (first, second, word))
        base = self.size + 1
        unigram = self._unigrams.probability(np.zeros_like(word), word, 1.0 / self.size)
        bigram = self._bigrams.probability(second, second * base + word, unigram)
        history = first * base + second
        trigram = self._trigrams.probability(history, history * base + word, bigram)
        return np.log(trigram)

    def score(self, sequences: Sequences) -> Floats:
        """log-probability of each sequence's tokens, nats, (N,)."""
        first, second, word = _windows(sequences, self.size)
        terms = np.concatenate([[0.0], np.cumsum(self.log_prob(first, second, word))])
        ends = np.concatenate([[0], np.cumsum(sequences.lengths)])
        return terms[ends[1:]] - terms[ends[:-1]]

    @cached_property
    def _trigrams(self) -> _Level:
        return _Level(self.keys, self.counts, self.size + 1)

    @cached_property
    def _bigrams(self) -> _Level:
        base = self.size + 1
        # Nothing but a start precedes a start: there occurrences are counted instead.
        fresh = self.keys // base % base == self.size
        weights = np.where(fresh, self.counts, 1)
        return _Level(*_summed(self.keys % base**2, weights), base)

    @cached_property
    def _unigrams(self) -> _Level:
        base = self.size + 1
        pairs = np.unique(self.keys % base**2)
        words, counts = np.unique(pairs % base, return_counts=True)
        return _Level(words.astype(np.int64), counts.astype(np.int64), base)


def trigram(train: Sequences, size: int) -> Trigram:
    """The trigram model of the training tokens.

    Args:
        train: the sequences.
        size: V; every token is below it.
    """
    base = size + 1
    first, second, word = _windows(train, size)
    keys, counts = np.unique((first * base + second) * base + word, return_counts=True)
    return Trigram(size, keys.astype(np.int64), counts.astype(np.int64))


class _Level:
    """One line of the recursion.

    Args:
        keys: n-grams, sorted, each ``history * base + word``.
        counts: of each, 1 or more.
        base: V + 1.
    """

    def __init__(self, keys: Numbers, counts: Numbers, base: int) -> None:
        self.keys = keys
        self.discounted = counts - _discounts(counts)[np.minimum(counts, 3)]
        self.histories, first = np.unique(keys // base, return_index=True)
        self.totals = np.add.reduceat(counts, first).astype(np.float64)
        # The probability that the discounts free goes to the shorter history.
        self.gamma = 1.0 - np.add.reduceat(self.discounted, first) / self.totals

    def probability(self, history: Numbers, keys: Numbers, lower: Floats | float) -> Floats:
        """p(w | history), (N,), from that of the shorter history; a new history leaves it as is."""
        row, known = _look_up(self.histories, history)
        column, seen = _look_up(self.keys, keys)
        here = np.where(seen, self.discounted[column], 0.0) / self.totals[row]
        return np.where(known, here + self.gamma[row] * lower, lower)


def _discounts(counts: Numbers) -> Floats:
    """D by count 0, 1, 2, and 3 or more."""
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return np.array([0.0, *(USUAL_DISCOUNT,) * 3])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    # Odd counts of counts, as of small data, may lead outside; nothing must become negative.
    usable = (found[1:] > 0.0) & (found[1:] < np.array([1.0, 2.0, 3.0]))
    found[1:] = np.where(usable, found[1:], USUAL_DISCOUNT)
    return found


def _look_up(known: Numbers, wanted: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Positions in a sorted array, and whether each is found; 0 where it is not."""
    position = np.searchsorted(known, wanted)
    position[position == len(known)] = 0
    return position, known[position] == wanted


def _summed(keys: Numbers, weights: Numbers) -> tuple[Numbers, Numbers]:
    """Different keys, sorted, and the sum of the weights of each."""
    order = np.argsort(keys, kind="stable")
    found, first = np.unique(keys[order], return_index=True)
    return found, np.add.reduceat(weights[order], first)


def _windows(sequences: Sequences, start: int) -> tuple[Numbers, Numbers, Numbers]:
    """Every token and the two before it, each (N,), two starts before every sequence."""
    tokens: Numbers = np.concatenate(sequences.values).astype(np.int64)
    ends = np.cumsum(sequences.lengths)
    begins = ends - sequences.lengths
    second = np.concatenate([[start], tokens[:-1]])
    second[begins] = start
    first = np.concatenate([[start, start], tokens[:-2]])[: len(tokens)]
    first[begins] = start
    longer = begins[sequences.lengths > 1]
    first[longer + 1] = start
    return first, second, tokens
