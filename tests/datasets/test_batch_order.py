"""The order of a pass: every sequence once, in parts, whatever the number of processes."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zpyro.datasets import batching
from zpyro.datasets.batching import BatchOrder, Indices, similar_batches, stream_batches
from zpyro.distributed import ProcessGroup
from zpyro.errors import UserError

pytestmark = pytest.mark.fast


def length(indices: Indices) -> Indices:
    return 1 + indices * 37 % 11


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes that small data exceed."""
    for name, size in (("BLOCK_ROWS", 64), ("PIECE_ROWS", 4), ("LANE_ROWS", 3)):
        monkeypatch.setattr(batching, name, size)
    monkeypatch.setattr(batching, "BUCKET_BATCHES", 2)


def collected(order: BatchOrder, first: int = 0, world_size: int = 1) -> list[list[int]]:
    """The batches, each put together from the parts of all processes."""
    groups = [ProcessGroup(rank, world_size) for rank in range(world_size)]
    found: list[list[int]] = []
    for parts in zip(*(order.batches(first, group.part) for group in groups), strict=True):
        assert len({total for _, _, total in parts}) == 1
        places = [place for _, places, _ in parts for place in places]
        assert places == list(range(parts[0][2]))
        assert all(len(rows) == len(places) for rows, places, _ in parts)
        found.append([row for rows, _, _ in parts for row in rows.tolist()])
    return found


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("count", "batch_size", "bucketed", "drop_last"),
    [
        (1, 1, True, False),
        (64, 8, True, False),
        (1000, 3, True, False),
        (1000, 7, True, True),
        (1001, 8, False, False),
        (999, 20, True, False),
        (50, 200, True, False),
        (2, 9, False, False),
    ],
)
def test_a_pass_has_every_sequence_once(
    count: int, batch_size: int, bucketed: bool, drop_last: bool
) -> None:
    def make(epoch: int) -> BatchOrder:
        return BatchOrder(count, batch_size, length, True, 3, epoch, bucketed, drop_last)

    order = make(1)
    batches = collected(order)
    assert len(batches) == len(order)
    sizes = sorted(len(batch) for batch in batches)
    assert sizes[1 if count % batch_size and not drop_last else 0 :] == [batch_size] * (
        count // batch_size
    )
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == len(rows) == (sum(sizes) if drop_last else count)
    if count > 2:
        assert rows != sorted(rows)
        assert batches != collected(make(2))
    # Any number of processes, and any batch to begin with.
    for world_size in (2, 5, 30):
        assert collected(order, world_size=world_size) == batches
    for first in {0, 1, len(order) // 2, len(order) - 1} & set(range(len(order))):
        assert collected(order, first, world_size=2) == batches[first:]


@settings(max_examples=30)
@given(count=st.integers(1, 300), batch_size=st.integers(1, 40), seed=st.integers(0, 5))
def test_a_small_pass_is_that_of_a_plain_loop(count: int, batch_size: int, seed: int) -> None:
    """What a pass was before there were blocks, so that runs continue with the same batches."""
    random = np.random.default_rng(np.random.SeedSequence((seed, 4)))
    mixed = random.permutation(np.arange(count))
    window = 16 * batch_size
    windows = [mixed[i : i + window] for i in range(0, count, window)]
    ordered = np.concatenate([w[np.argsort(length(w), kind="stable")] for w in windows])
    pieces = [ordered[i : i + batch_size].tolist() for i in range(0, count, batch_size)]
    expected = [pieces[i] for i in random.permutation(len(pieces))]
    assert collected(BatchOrder(count, batch_size, length, True, seed, 4)) == expected


@pytest.mark.usefixtures("small_blocks")
def test_batches_hold_similar_lengths_from_everywhere() -> None:
    """Within a window of two batches the short sequences are in one and the long in the other."""
    batches = [np.array(b) for b in collected(BatchOrder(4096, 16, length, True))]
    spread = np.mean([np.ptp(length(batch)) for batch in batches])
    mixed = [np.array(b) for b in collected(BatchOrder(4096, 16, length, True, bucketed=False))]
    assert spread < np.mean([np.ptp(length(batch)) for batch in mixed])
    # A batch takes its rows from all lanes, and those of a lane from several pieces.
    assert np.mean([np.ptp(batch) for batch in batches]) > 2048
    assert len({row // 4 for row in batches[0].tolist()}) > 6


def test_memory_and_work_do_not_grow_with_the_data_or_the_processes() -> None:
    """Lengths that are asked for count the work; 2**28 sequences need some megabytes."""

    def cost(count: int, world_size: int) -> tuple[float, int]:
        asked = 0

        def counted(indices: Indices) -> Indices:
            nonlocal asked
            asked += len(indices)
            return length(indices)

        order = BatchOrder(count, 32 * world_size, counted, True)
        tracemalloc.start()
        steps = 0
        for number, _ in enumerate(order.batches(0, ProcessGroup(0, world_size).part)):
            steps = number + 1
            if steps == 20:
                break
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return asked / batching.BLOCK_ROWS, peak

    alone, peak = cost(1 << 22, 1)
    assert alone <= 1
    assert peak < 32 << 20
    for count, world_size in ((1 << 28, 1), (1 << 28, 4), (1 << 28, 512)):
        asked, needed = cost(count, world_size)
        assert asked <= 1
        assert needed < 2 * peak


def test_streams_begin_at_any_batch() -> None:
    streams = np.repeat(np.arange(6), (3, 1, 4, 1, 5, 9))
    whole = list(stream_batches(streams, 4, seed=3, epoch=1))
    for first in range(len(whole) + 1):
        rest = list(stream_batches(streams, 4, seed=3, epoch=1, first=first))
        for (rows, continues), (expected, flags) in zip(rest, whole[first:], strict=True):
            assert rows.tolist() == expected.tolist()
            assert continues.tolist() == flags.tolist()


@given(
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=300).map(sorted),
    batch_size=st.integers(1, 128),
)
def test_batches_of_similar_length(lengths: list[int], batch_size: int) -> None:
    batches = similar_batches(np.array(lengths), batch_size)
    parts = [lengths[batch] for batch in batches]
    assert [length for part in parts for length in part] == lengths
    fewest = max(4, batch_size // 16)
    for part, following in zip(parts, [*parts[1:], [0]], strict=True):
        assert len(part) <= batch_size
        if len(part) > fewest:
            assert part[-1] * len(part) <= batching.PADDED * sum(part)
        # No batch ends before it must.
        longer = [*part, following[0]]
        full = len(part) == batch_size
        assert full or following == [0] or longer[-1] * len(longer) > batching.PADDED * sum(longer)


def test_batches_of_similar_length_have_a_size() -> None:
    with pytest.raises(UserError, match="batch size is 0"):
        similar_batches(np.array([3, 4]), 0)
