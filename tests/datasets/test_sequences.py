"""The one batching rule, splits, and the closed-form baselines."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zpyro import UserError
from zpyro.datasets.sequences import Dataset, Normalization, Sequences, concatenate
from zpyro.datasets.splitting import split_by_name
from zpyro.evaluation.baselines import continuous as baselines

pytestmark = pytest.mark.fast


def make(lengths: list[int], seed: int = 0, start: bool = True) -> Sequences:
    random = np.random.default_rng(seed)
    values = tuple(random.standard_normal((n, 3)).astype(np.float32) for n in lengths)
    first = random.standard_normal((len(lengths), 3)).astype(np.float32) if start else None
    return Sequences(values, tuple(f"s{i}" for i in range(len(lengths))), first)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    batch_size=st.integers(1, 7),
    shuffle=st.booleans(),
    bucketed=st.booleans(),
)
def test_a_pass_holds_every_sequence_once(
    lengths: list[int], batch_size: int, shuffle: bool, bucketed: bool
) -> None:
    sequences = make(lengths)
    batches = list(sequences.batches(batch_size, shuffle=shuffle, bucketed=bucketed))
    assert len(batches) == sequences.num_batches(batch_size)
    seen = {}
    for batch in batches:
        assert len(batch) <= batch_size
        assert batch.x.shape[1] == int(batch.lengths.max())
        assert batch.start is not None
        for i, name in enumerate(batch.names):
            length = int(batch.lengths[i])
            assert not batch.x[i, length:].any()
            seen[name] = (batch.x[i, :length].numpy(), batch.start[i].numpy())
    assert len(seen) == len(sequences) == sum(len(batch) for batch in batches)
    for i, name in enumerate(sequences.names):
        assert (seen[name][0] == sequences.values[i]).all()
        assert sequences.start is not None
        assert (seen[name][1] == sequences.start[i]).all()


def order(sequences: Sequences, **settings: int) -> list[tuple[str, ...]]:
    return [batch.names for batch in sequences.batches(4, shuffle=True, **settings)]


def test_seed_and_epoch_fix_the_order() -> None:
    sequences = make([1 + i % 7 for i in range(50)])
    assert order(sequences, seed=1, epoch=2) == order(sequences, seed=1, epoch=2)
    assert order(sequences, seed=1, epoch=2) != order(sequences, seed=1, epoch=3)
    assert order(sequences, seed=1, epoch=2) != order(sequences, seed=2, epoch=2)


def test_buckets_pad_less() -> None:
    random = np.random.default_rng(0)
    sequences = make(random.integers(1, 60, 400).tolist())

    def padded(bucketed: bool) -> int:
        batches = sequences.batches(16, shuffle=True, bucketed=bucketed)
        return sum(batch.x.shape[0] * batch.x.shape[1] for batch in batches)

    assert padded(True) < 1.15 * sequences.num_frames
    assert padded(False) > 1.5 * sequences.num_frames


def test_without_shuffle_the_order_is_kept_and_a_short_batch_can_go() -> None:
    sequences = make([3, 1, 2, 5, 4])
    names = [batch.names for batch in sequences.batches(2)]
    assert names == [("s0", "s1"), ("s2", "s3"), ("s4",)]
    assert len(list(sequences.batches(2, drop_last=True))) == 2
    assert sequences.num_batches(2, drop_last=True) == 2
    with pytest.raises(UserError, match="batch size is 0"):
        next(sequences.batches(0))


def test_slices_and_facts() -> None:
    sequences = make([3, 1, 2])
    part = sequences[1:]
    assert part.names == ("s1", "s2")
    assert part.lengths.tolist() == [1, 2]
    assert sequences[[2, 0]].names == ("s2", "s0")
    assert (sequences.num_frames, sequences.frame_size, sequences.seconds) == (6, 3, None)
    whole = concatenate((part, sequences[:1]))
    assert whole.names == ("s1", "s2", "s0")
    data = Dataset("x", sequences, part, part, "gaussian", 3)
    assert len(data.split("all")) == 7
    with pytest.raises(UserError, match="split 'exam' is unknown"):
        data.split("exam")


def test_batches_move_between_devices_and_types() -> None:
    batch = make([3, 1]).batch().to("cpu")
    assert batch.x.dtype == torch.float32
    assert batch.num_frames == 4
    tokens = Sequences((np.array([1, 2]), np.array([3])), ("a", "b"), data_type="tokens").batch()
    assert tokens.x.tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.zeros((0, 3)), np.zeros((2, 3))), "sequence a is empty"),
        ((np.zeros((2, 3)), np.zeros((2, 4))), "sequence b has frames of shape"),
        ((np.zeros((2, 3)), np.full((2, 3), np.nan)), "sequence b holds NaN"),
    ],
)
def test_unusable_values_are_told(values: tuple[np.ndarray, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sequences(values, ("a", "b"))


def test_normalization_inverts() -> None:
    raw = np.array([1.0, 5.0, -3.0])
    scale = Normalization(2.0, 4.0)
    np.testing.assert_allclose(scale.invert(scale.apply(raw)), raw, rtol=1e-6)


def test_splits_are_stable_and_disjoint() -> None:
    names = [f"folder/{i}.wav" for i in range(100)]
    train, valid, test = split_by_name(names, 0.1, 0.2)
    assert (len(train), len(valid), len(test)) == (70, 10, 20)
    assert sorted(train + valid + test) == list(range(100))
    assert split_by_name(names, 0.1, 0.2, seed=1) != (train, valid, test)
    more = split_by_name([*names, "folder/new.wav"], 0.1, 0.2)
    assert len(set(more[2]) ^ set(test)) <= 2
    picked = split_by_name(names, 0.1, 0.1, test_files="?.wav", valid_files="1?.wav")
    assert picked[2] == list(range(10))
    assert picked[1] == list(range(10, 20))
    by_folder = split_by_name([*names, "other/1.wav"], 0.1, 0.1, test_files="other/*")
    assert by_folder[2] == [100]
    with pytest.raises(UserError, match=r"data\.test_files '\*\.mp3' matches none .*folder/0\.wav"):
        split_by_name(names, 0.1, 0.1, test_files="*.mp3")
    with pytest.raises(UserError, match="the valid split would be empty"):
        split_by_name(names, 0.0, 0.1)


def test_the_diagonal_gaussian_is_the_maximum_likelihood_one() -> None:
    train, test = make([50, 80, 30]), make([7, 9], seed=1)
    frames = np.concatenate(train.values).astype(np.float64)
    mean, variance = frames.mean(0), frames.var(0)
    expected = [
        (-0.5 * ((v - mean) ** 2 / variance + np.log(2 * np.pi * variance))).sum()
        for v in test.values
    ]
    np.testing.assert_allclose(baselines.diagonal_gaussian(train).score(test), expected, rtol=1e-5)


def test_the_linear_predictor_finds_a_linear_process() -> None:
    random = np.random.default_rng(0)
    weight = np.array([[0.6, 0.2, 0.0], [0.0, 0.5, -0.3], [0.1, 0.0, 0.7]])
    frames = [random.standard_normal(3)]
    for _ in range(20_000):
        frames.append(weight @ frames[-1] + 0.5 + 0.1 * random.standard_normal(3))
    value = np.array(frames[1:], dtype=np.float32)
    train = Sequences((value,), ("a",), np.array(frames[:1], dtype=np.float32))
    fitted = baselines.linear_predictor(train)
    np.testing.assert_allclose(fitted.weight, weight, atol=0.03)
    np.testing.assert_allclose(fitted.variance, 0.01, rtol=0.05)
    assert fitted.score(train) > baselines.diagonal_gaussian(train).score(train)
