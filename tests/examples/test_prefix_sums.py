"""Prefix sums: different strings, right sums, plain errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard.prefix_sums import PrefixSums, build, show
from zpyro_examples.easy_to_hard.tasks import Request, SolutionTrace


@pytest.mark.fast
@pytest.mark.parametrize("bits", [14, 15, 16, 20, 21, 31, 32, 33, 63, 64, 65, 72, 128, 512])
def test_no_string_comes_twice(bits: int) -> None:
    strings = PrefixSums(bits).strings()
    assert strings.shape == (10_000, bits)
    assert set(np.unique(strings)) == {0, 1}
    assert len({row.tobytes() for row in strings}) == 10_000


@pytest.mark.fast
def test_every_string_of_a_length_can_be_had() -> None:
    whole = PrefixSums(10, 1024).strings()
    assert sorted(int("".join(map(str, row)), 2) for row in whole.tolist()) == list(range(1024))


def test_repeats_are_dropped_where_most_of_a_length_is_drawn() -> None:
    # 21 bits is the first length that is drawn from a stream with repeats.
    strings = PrefixSums(21, 2**20).packed
    assert len({row.tobytes() for row in strings}) == 2**20


@pytest.mark.fast
@pytest.mark.parametrize("bits", [1, 7, 14, 33, 200])
def test_sums_are_those_of_a_loop(bits: int) -> None:
    data = PrefixSums(bits, 2, seed=3)
    for string, sums in zip(data.strings().tolist(), data.sums().tolist(), strict=True):
        assert sums == [sum(string[: i + 1]) % 2 for i in range(bits)]


@pytest.mark.fast
def test_tensors_hold_the_same() -> None:
    data = PrefixSums(17, 5)
    inputs, targets = data.tensors()
    assert inputs.shape == (5, 1, 17)
    np.testing.assert_array_equal(inputs[:, 0].numpy(), data.strings())
    np.testing.assert_array_equal(targets.numpy(), data.sums())


@pytest.mark.fast
@pytest.mark.parametrize("bits", [16, 40, 300])
def test_the_draw_is_fixed_by_its_seed_and_a_larger_one_goes_on(bits: int) -> None:
    few, many = PrefixSums(bits, 50, seed=1), PrefixSums(bits, 20_000, seed=1)
    np.testing.assert_array_equal(few.packed, many.packed[:50])
    assert (PrefixSums(bits, 50, seed=2).packed != few.packed).any()


@pytest.mark.fast
@pytest.mark.parametrize("bits", [16, 32, 129])
def test_bits_are_fair_coins(bits: int) -> None:
    strings = PrefixSums(bits).strings()
    # Six standard errors of a mean of 10,000 fair bits.
    assert np.abs(strings.mean(0) - 0.5).max() < 6 * 0.5 / 100


@pytest.mark.fast
@pytest.mark.parametrize("bits", [1, 8, 13])
def test_too_few_strings_of_a_length(bits: int) -> None:
    with pytest.raises(UserError, match=rf"only {2**bits:,} strings of {bits} bits.*14 bits"):
        PrefixSums(bits)
    assert len(PrefixSums(bits, 2**bits)) == 2**bits


@pytest.mark.fast
@pytest.mark.parametrize("wrong", [{"bits": 0}, {"bits": 20, "size": 0}, {"bits": 20, "seed": -1}])
def test_numbers_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"is -?\d; choose [01] or more"):
        PrefixSums(**wrong)


@pytest.mark.fast
@pytest.mark.parametrize("bits", [14, 16, 32, 512])
def test_splits_share_no_string(bits: int) -> None:
    rows = []
    for split in ("train", "valid", "test"):
        inputs = build(Request(split, bits, 2_000, seed=0)).inputs
        assert inputs.shape == (2_000, 1, bits)
        rows += [row.tobytes() for row in inputs.numpy()]
    assert len(set(rows)) == 6_000


def test_sums_are_drawn_in_rows_with_wrong_bits_in_red(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    inputs, targets = PrefixSums(40, 1).tensors()
    wrong = targets.clone()
    wrong[0, 35] = 1 - wrong[0, 35]
    first, last = (
        torch.nn.functional.one_hot(each.long(), 2).movedim(-1, 1) * 9.0
        for each in (wrong, targets)
    )
    path = tmp_path / "sums.gif"
    lines = show(SolutionTrace(inputs, targets, [first, last, last], path))
    assert lines[-1].endswith("sums.gif: 3 frames")
    with image.open(path) as picture:
        frames = []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB"), int))
    # Two rows of 32 squares of 13 pixels below the caption.
    assert frames[0].shape == (18 + 2 * 13, 416, 3)
    differs = np.abs(frames[0] - frames[1])[18:].max(-1) > 60
    assert differs[13:, 39:52].all()
    assert differs.sum() == 13**2
    red, _, blue = frames[0][18 + 19, 45]
    assert red > blue
    assert np.abs(frames[1] - frames[2])[18:].max() < 60
