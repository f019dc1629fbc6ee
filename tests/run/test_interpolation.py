"""Walks between two sequences: the ends, the middle, unequal lengths, and names for sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zpyro
from tests.run import small
from zpyro.analysis import selection
from zpyro.analysis.decoding import interpolate, resample
from zpyro.datasets.batching import Batch
from zpyro.errors import UserError

pytestmark = pytest.mark.fast


def ends() -> tuple[Batch, Batch]:
    sequences = small.sequences(12, 1)
    order = np.argsort(sequences.lengths)
    return sequences[[int(order[0])]].batch(), sequences[[int(order[-1])]].batch()


def test_the_ends_are_the_decoded_means_themselves() -> None:
    module, (first, second) = small.model(), ends()
    walk = interpolate(module, first, second, 4)
    assert walk.positions.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    short, long = int(first.lengths), int(second.lengths)
    assert short < long
    assert walk.lengths.tolist() == [
        short,
        round((2 * short + long) / 3),
        round((short + 2 * long) / 3),
        long,
    ]
    for place, end in ((0, first), (-1, second)):
        z = zpyro.reconstruct(module, end, use_mean=True).z[0]
        expected = zpyro.decode(module, z, start=end.start, use_mean=True)
        count = int(end.lengths)
        torch.testing.assert_close(walk.decoded.z[place, :count], z[0])
        torch.testing.assert_close(walk.decoded.frames[place, :count], expected.frames[0])
    assert not walk.decoded.frames[0, short:].any()


def test_halfway_between_paths_of_one_length_is_their_mean() -> None:
    module, (first, _) = small.model(), ends()
    assert first.start is not None
    other = Batch(first.x + 1, first.lengths, first.start - 1, ("other",))
    walk = interpolate(module, first, other, 3)
    z = walk.decoded.z
    torch.testing.assert_close(z[1], (z[0] + z[2]) / 2)
    expected = zpyro.decode(module, z[1:2], start=first.start - 0.5, use_mean=True)
    torch.testing.assert_close(walk.decoded.frames[1], expected.frames[0])


def test_drawn_frames_follow_the_seed() -> None:
    module, (first, second) = small.model(), ends()
    walks = [interpolate(module, first, second, 3, use_mean=False, seed=s) for s in (1, 1, 2)]
    assert torch.equal(walks[0].decoded.frames, walks[1].decoded.frames)
    assert not torch.equal(walks[0].decoded.frames, walks[2].decoded.frames)
    with pytest.raises(UserError, match="steps is 1"):
        interpolate(module, first, second, 1)


@pytest.mark.parametrize(("length", "steps"), [(2, 7), (5, 3), (4, 4), (1, 3), (6, 1), (3, 2)])
def test_stretching_is_numpys_linear_interpolation(length: int, steps: int) -> None:
    path = torch.randn(length, 3, dtype=torch.float64)
    places = np.linspace(0, length - 1, steps)
    expected = [np.interp(places, np.arange(length), path[:, k].numpy()) for k in range(3)]
    torch.testing.assert_close(resample(path, steps), torch.tensor(np.stack(expected, 1)))


def test_sequences_go_by_name_or_number() -> None:
    sequences = small.sequences(12, 1)
    assert selection.find_sequence(sequences, "walk3", "test") == 3
    assert selection.find_sequence(sequences, "11", "test") == 11
    with pytest.raises(UserError, match=r"12 is out of range: the test split has 12; .* 0 to 11, "):
        selection.find_sequence(sequences, "12", "test")
    with pytest.raises(UserError, match="-1 is out of range"):
        selection.find_sequence(sequences, "-1", "test")
    with pytest.raises(UserError, match=r"'wolk3' is not in the test split; .* walk3"):
        selection.find_sequence(sequences, "wolk3", "test")
