"""The tables of binary data against plain loops and frequencies."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import binary_baselines as logistic
from zpyro.analysis.scores import LABELS, baseline_scores, labels_for
from zpyro.datasets.sequences import Sequences
from zpyro.evaluation.baselines import files
from zpyro.evaluation.baselines.binary import FITS, markov_bits, neighboring_bits, single_bits

pytestmark = pytest.mark.fast


def images(count: int, *, size: int, seed: int = 0) -> Sequences:
    """Pictures of 4 x 6 in frames of this size: pixels like their upper neighbor, some noise."""
    random = np.random.default_rng(seed)
    rows = [(random.random((count, 6)) < np.linspace(0.1, 0.9, 6)).astype(np.uint8)]
    for _ in range(3):
        rows.append(np.where(random.random((count, 6)) < 0.2, 1 - rows[-1], rows[-1]))
    values = np.stack(rows, axis=1).reshape(count, -1, size)
    names = tuple(map(str, range(count)))
    return Sequences(tuple(values), names, data_type="binary", image_shape=(4, 6))


def walks(lengths: list[int], seed: int = 0) -> Sequences:
    """Binary sequences of unequal length, three bits a frame."""
    random = np.random.default_rng(seed)
    values = tuple((random.random((n, 3)) < 0.3).astype("f4") for n in lengths)
    return Sequences(values, tuple(map(str, range(len(values)))), data_type="binary")


def by_loops(train: Sequences, test: Sequences, *, neighbors: bool) -> list[float]:
    """log p of every sequence by counting one pixel after the other."""
    shared = train.image_shape is None
    counts: dict[tuple[int, ...], list[float]] = {}

    def cells(sequence: Sequences, index: int) -> list[tuple[tuple[int, ...], int]]:
        value = np.asarray(sequence.values[index], int)
        grid = value if shared else value.reshape(train.image_shape or ())
        found = []
        for r, c in itertools.product(range(len(grid)), range(grid.shape[1])):
            left, above = (grid[r, c - 1] if c else 0), (grid[r - 1, c] if r else 0)
            place = (0 if shared else r, c)
            found.append(((*place, left, above) if neighbors else place, int(grid[r, c])))
        return found

    for index in range(len(train)):
        for cell, bit in cells(train, index):
            counts.setdefault(cell, [0.5, 0.5])[bit] += 1
    scores = []
    for index in range(len(test)):
        pairs = [(counts.get(cell, [0.5, 0.5]), bit) for cell, bit in cells(test, index)]
        scores.append(sum(math.log(pair[bit] / sum(pair)) for pair, bit in pairs))
    return scores


@pytest.mark.parametrize("neighbors", [False, True])
@pytest.mark.parametrize("kind", ["rows", "pixels", "walks"])
def test_tables_are_counted_frequencies(neighbors: bool, kind: str) -> None:
    if kind == "walks":
        train, test = walks([3, 3, 7, 1, 2, 2, 9]), walks([4, 1, 1, 6], seed=1)
    else:
        size = 6 if kind == "rows" else 1
        train, test = images(30, size=size), images(9, size=size, seed=1)
    fitted = (neighboring_bits if neighbors else single_bits)(train)
    expected = by_loops(train, test, neighbors=neighbors)
    np.testing.assert_allclose(fitted.score(test), expected, rtol=1e-12)


def test_a_markov_chain_a_bit_is_counted() -> None:
    train, test = walks([3, 1, 8]), walks([4, 2], seed=1)
    counts = np.full((3, 2, 2), 0.5)  # by place, value before, value
    for value in train.values:
        before = np.zeros(3, int)
        for frame in value.astype(int):
            counts[np.arange(3), before, frame] += 1
            before = frame
    expected = []
    for value in test.values:
        before, score = np.zeros(3, int), 0.0
        for frame in value.astype(int):
            pairs = counts[np.arange(3), before]
            score += np.log(pairs[np.arange(3), frame] / pairs.sum(1)).sum()
            before = frame
        expected.append(score)
    np.testing.assert_allclose(markov_bits(train).score(test), expected, rtol=1e-12)


def test_a_file_without_the_markov_chain_is_read(tmp_path: Path) -> None:
    train = walks([3, 1, 8])
    fitted = dict(files.fit(train, 3))
    files.write(tmp_path / "all.safetensors", fitted)
    assert set(files.read(tmp_path / "all.safetensors", train, 3)) == set(FITS)
    del fitted["markov"]
    files.write(tmp_path / "old.safetensors", fitted)
    assert set(files.read(tmp_path / "old.safetensors", train, 3)) == {"bernoulli", "neighbors"}


@pytest.mark.parametrize("name", FITS)
def test_probabilities_of_all_pictures_sum_to_one(name: str) -> None:
    fitted = FITS[name](walks([5, 5, 8]))
    every = np.array(list(itertools.product((0, 1), repeat=6)), np.uint8).reshape(-1, 2, 3)
    sequences = Sequences(tuple(every), tuple(map(str, range(64))), data_type="binary")
    assert np.exp(fitted.score(sequences)).sum() == pytest.approx(1.0, rel=1e-12)


def test_many_sequences_are_counted_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    train = images(30, size=1)
    whole = neighboring_bits(train)
    monkeypatch.setattr("zpyro.evaluation.baselines.binary.GROUP", 7)
    np.testing.assert_array_equal(neighboring_bits(train).probability, whole.probability)
    np.testing.assert_allclose(
        whole.score(train).mean(), neighboring_bits(train).score(train).mean()
    )


def test_neighbors_tell_more_than_a_pixel_on_its_own() -> None:
    train, test = images(400, size=6), images(100, size=6, seed=1)
    single, both = single_bits(train).score(test), neighboring_bits(train).score(test)
    assert both.mean() > single.mean() + 1.0


def test_the_logistic_baseline_is_at_its_maximum() -> None:
    """At the maximum, fitted and counted frequencies agree, pair by pair of pixels."""
    train = logistic.pixels(images(500, size=6))
    weight, offset = logistic.initial(train)
    ridge = 1e-3
    assert logistic.fit(weight, offset, train, ridge) < 1e-4
    with torch.no_grad():
        lower = weight.tril(-1)
        error = train - torch.sigmoid(train @ lower.T + offset)
        moments = (error.T @ train / len(train)).tril(-1)
        torch.testing.assert_close(moments, ridge * lower, atol=2e-4, rtol=0.0)
        assert error.mean(0).abs().max() < 2e-4
        every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)))
        total = logistic.score(weight[:8, :8], offset[:8], every).exp().sum()
    assert float(total) == pytest.approx(1.0, rel=1e-5)


def test_labels_have_the_words_of_the_data() -> None:
    steps = np.zeros((5, 88), np.uint8)
    music = Sequences((steps,), ("a",), data_type="binary", steps_per_quarter=4)
    words = {
        "pixel": (images(2, size=6), "each pixel given the one above"),
        "note": (music, "each note given the same one a frame before"),
        "dimension": (walks([3]), "each dimension given its value a frame before"),
    }
    for word, (sequences, markov) in words.items():
        labels = labels_for(sequences)
        assert labels.keys() == LABELS.keys()
        assert labels["baseline_markov"] == (f"baseline: {markov}", "nats/sequence")
        shown = " ".join(labels[f"baseline_{name}"][0] for name in FITS)
        assert {other for other in words if other in shown} == {word}


def test_scores_are_given_for_a_sequence_and_for_a_frame() -> None:
    train, test = walks([20, 30]), walks([4, 6], seed=1)
    fitted = {name: fit(train).score(test) for name, fit in FITS.items()}
    scores = baseline_scores(fitted, test)
    for name, nats in fitted.items():
        assert scores[f"baseline_{name}"] == pytest.approx(nats.sum() / 2)
        assert scores[f"baseline_{name}_per_frame"] == pytest.approx(nats.sum() / 10)
    assert scores["baseline_trigram_per_frame"] is None
