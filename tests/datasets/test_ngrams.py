"""The trigram model: a distribution, and the published recursion done by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from zpyro.datasets.sequences import Sequences
from zpyro.evaluation.baselines.ngrams import Trigram, trigram

pytestmark = pytest.mark.fast

SIZE = 6


def tokens(count: int, seed: int, high: int = SIZE) -> Sequences:
    """Ragged sequences, some of one token, of a skewed distribution."""
    random = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, high + 1) ** 1.5
    values = [
        random.choice(high, size=n, p=weights / weights.sum()).astype(np.int32)
        for n in random.integers(1, 9, size=count)
    ]
    names = tuple(str(i) for i in range(count))
    return Sequences(tuple(values), names, data_type="tokens")


def by_hand(train: Sequences, size: int, u: int, v: int, w: int) -> float:
    """Interpolated modified Kneser-Ney of Chen and Goodman, word by word, with dictionaries."""
    rows = [[size, size, *value.tolist()] for value in train.values]
    threes = Counter(tuple(row[i - 2 : i + 1]) for row in rows for i in range(2, len(row)))
    twos: Counter[tuple[int, ...]] = Counter()
    for (_a, b, c), count in threes.items():
        twos[b, c] += count if b == size else 1
    ones = Counter(c for _, c in twos)

    def smooth(counts: dict[tuple[int, ...], int], word: int, lower: float, whole: list[int]):
        total = sum(counts.values())
        if not total:
            return lower
        spread = [sum(count == k for count in whole) for k in (1, 2, 3, 4)]
        y = spread[0] / (spread[0] + 2 * spread[1]) if spread[0] else 0.0
        discounts = [0.75, 0.75, 0.75]
        if all(spread[:3]):
            formula = [k + 1 - (k + 2) * y * spread[k + 1] / spread[k] for k in range(3)]
            discounts = [found if 0 < found < k + 1 else 0.75 for k, found in enumerate(formula)]
        taken = sum(discounts[min(count, 3) - 1] for count in counts.values())
        mine = counts.get((word,), 0)
        kept = mine - discounts[min(mine, 3) - 1] if mine else 0.0
        return kept / total + taken / total * lower

    p = smooth({(c,): n for c, n in ones.items()}, w, 1 / size, list(ones.values()))
    p = smooth({(c,): n for (b, c), n in twos.items() if b == v}, w, p, list(twos.values()))
    after = {(c,): n for (a, b, c), n in threes.items() if (a, b) == (u, v)}
    return smooth(after, w, p, list(threes.values()))


@pytest.mark.parametrize("count", [3, 40, 400])
def test_every_history_sums_to_one(count: int) -> None:
    model = trigram(tokens(count, 0), SIZE)
    grid = np.stack(np.meshgrid(*[np.arange(SIZE + 1)] * 2, np.arange(SIZE), indexing="ij"))
    first, second, word = grid.reshape(3, -1)
    total = np.exp(model.log_prob(first, second, word)).reshape(SIZE + 1, SIZE + 1, SIZE).sum(-1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


@pytest.mark.parametrize("count", [3, 40, 400])
def test_probabilities_are_those_done_by_hand(count: int) -> None:
    train = tokens(count, 0, high=SIZE - 1)
    model = trigram(train, SIZE)
    histories = [(SIZE, SIZE), (SIZE, 0), (0, 0), (0, 1), (2, 0), (4, 4), (5, 1), (1, 5)]
    for u, v in histories:
        for w in range(SIZE):
            found = model.log_prob(np.array([u]), np.array([v]), np.array([w]))[0]
            assert found == pytest.approx(math.log(by_hand(train, SIZE, u, v, w)), rel=1e-10)


def test_a_sequences_score_is_the_sum_over_its_tokens() -> None:
    model, test = trigram(tokens(40, 0), SIZE), tokens(15, 1)
    expected: list[float] = []
    for value in test.values:
        padded = [SIZE, SIZE, *value.tolist()]
        windows = np.array([padded[i - 2 : i + 1] for i in range(2, len(padded))])
        expected.append(float(model.log_prob(*windows.T).sum()))
    np.testing.assert_allclose(model.score(test), expected, rtol=1e-12)


def test_it_learns_what_two_words_foretell() -> None:
    random = np.random.default_rng(0)
    rows: list[np.ndarray] = []
    for _ in range(300):
        row = random.integers(0, 4, size=12)
        row[2::3] = (row[0::3] + row[1::3]) % 4
        rows.append(row.astype(np.int32))
    names = tuple(map(str, range(300)))
    data = Sequences(tuple(rows), names, data_type="tokens")
    model = trigram(data[:250], 4)
    per_token = -model.score(data[250:]).sum() / data[250:].num_frames
    # Two of three tokens are free (log 4), the third is known once its place is; a unigram gets
    # log 4 = 1.386 everywhere.
    assert per_token < 1.30


def test_counts_alone_make_the_model() -> None:
    model, test = trigram(tokens(40, 0), SIZE), tokens(15, 1)
    again = Trigram(model.size, model.keys.copy(), model.counts.copy())
    np.testing.assert_array_equal(again.score(test), model.score(test))
