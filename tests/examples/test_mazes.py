"""Mazes: spanning trees with one path, drawn as published, never twice."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from zpyro.errors import UserError
from zpyro_examples.easy_to_hard import mazes_task, tasks
from zpyro_examples.easy_to_hard.mazes import BORDERS, Mazes, archived, compacted, mosaics
from zpyro_examples.easy_to_hard.tasks import Request

pytestmark = pytest.mark.fast

Square = tuple[int, int]


def around(passages: np.ndarray, square: Square) -> list[Square]:
    row, column = square
    candidates = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    size = len(passages)
    return [(r, c) for r, c in candidates if 0 <= r < size and 0 <= c < size and passages[r, c]]


def breadth_first(passages: np.ndarray, start: Square) -> dict[Square, Square]:
    """Predecessors on shortest ways from the start, found square by square."""
    before = {start: start}
    queue = deque([start])
    while queue:
        square = queue.popleft()
        for following in around(passages, square):
            if following not in before:
                before[following] = square
                queue.append(following)
    return before


@pytest.mark.parametrize(("size", "count"), [(3, 20), (5, 60), (9, 60), (21, 10), (59, 2)])
def test_path_is_the_one_that_breadth_first_search_finds(size: int, count: int) -> None:
    drawing = Mazes(size, count, seed=3).drawing
    for index in range(count):
        start, end = tuple(drawing.starts[index]), tuple(drawing.ends[index])
        before = breadth_first(drawing.passages[index], start)
        way = {end}
        while end != start:
            end = before[end]
            way.add(end)
        assert {tuple(square) for square in np.argwhere(drawing.paths[index])} == way


@pytest.mark.parametrize("size", [3, 9, 33])
def test_passages_are_a_spanning_tree_of_the_cells(size: int) -> None:
    drawing = Mazes(size, 12, seed=1).drawing
    cells = (size + 1) // 2
    for passages, start in zip(drawing.passages, drawing.starts, strict=True):
        assert passages[::2, ::2].all()
        assert not passages[1::2, 1::2].any()
        # n cells joined by n - 1 openings, and all reached: a tree.
        assert passages.sum() == 2 * cells**2 - 1
        assert len(breadth_first(passages, tuple(start))) == passages.sum()


def test_start_and_end_are_distinct_cells_of_every_kind() -> None:
    drawing = Mazes(5, 400, seed=0).drawing
    pairs = list(zip(map(tuple, drawing.starts), map(tuple, drawing.ends), strict=True))
    assert all(start != end for start, end in pairs)
    assert not (drawing.starts % 2).any()
    assert not (drawing.ends % 2).any()
    assert len(set(pairs)) == 9 * 8


def depth_first_by_hand(cells: int, random: np.random.Generator) -> np.ndarray:
    """One maze by the textbook's loop, as an oracle for the distribution."""
    passages = np.zeros((2 * cells - 1, 2 * cells - 1), dtype=bool)
    here = (int(random.integers(cells)), int(random.integers(cells)))
    stack, seen = [here], {here}
    passages[2 * here[0], 2 * here[1]] = True
    while stack:
        row, column = stack[-1]
        ways = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
        free = [w for w in ways if min(w) >= 0 and max(w) < cells and w not in seen]
        if not free:
            stack.pop()
            continue
        following = free[int(random.integers(len(free)))]
        passages[row + following[0], column + following[1]] = True
        passages[2 * following[0], 2 * following[1]] = True
        seen.add(following)
        stack.append(following)
    return passages


def dead_ends(passages: np.ndarray) -> int:
    squares = [tuple(square) for square in np.argwhere(passages)]
    return sum(len(around(passages, square)) == 1 for square in squares)


def test_corridors_are_as_long_as_those_of_the_plain_algorithm() -> None:
    count = 300
    ours = np.array([dead_ends(p) for p in Mazes(13, count, seed=0).drawing.passages])
    random = np.random.default_rng(0)
    plain = np.array([dead_ends(depth_first_by_hand(7, random)) for _ in range(count)])
    error = np.sqrt((ours.var() + plain.var()) / count)
    assert abs(ours.mean() - plain.mean()) < 5 * error
    # A tree drawn uniformly has 29 % of its cells as dead ends (Manna, Dhar and Majumdar 1992).
    assert ours.mean() < 0.2 * 49


def test_every_maze_of_four_cells_is_equally_likely() -> None:
    from zpyro_examples.easy_to_hard.mazes import draw

    count = 24_000
    drawing = draw(2, count, np.random.default_rng(5))
    kinds = Counter(
        (p.tobytes(), tuple(s), tuple(e))
        for p, s, e in zip(drawing.passages, drawing.starts, drawing.ends, strict=True)
    )
    # 4 starts, 2 ways round, 3 ends.
    assert len(kinds) == 24
    assert max(abs(n - 1000) for n in kinds.values()) < 6 * 1000**0.5


def test_seed_decides_and_longer_draws_begin_with_shorter_ones() -> None:
    first, again, other = Mazes(9, 300, 7), Mazes(9, 5_000, 7), Mazes(9, 300, 8)
    assert torch.equal(first.images(), again.images()[:300])
    assert torch.equal(first.masks(), again.masks()[:300])
    assert not torch.equal(first.images(), other.images())


def keys(inputs: torch.Tensor) -> list[bytes]:
    return [each.numpy().tobytes() for each in inputs]


def test_repeats_are_dropped_and_counted() -> None:
    mazes = Mazes(5, 800, seed=0)
    assert len(set(keys(mazes.images("compact")))) == len(mazes) == 800
    assert mazes.repeats > 0
    assert Mazes(33, 50, seed=0).repeats == 0


@pytest.mark.parametrize("size", [3, 5, 7, 9])
def test_splits_share_no_maze(size: int) -> None:
    found: list[bytes] = []
    for split in ("train", "valid", "test"):
        count = 16 if size == 3 else 300
        request = Request(split, size, count, 0, options={"geometry": "compact"})
        found += keys(mazes_task.build(request).inputs)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("size", [3, 9, 13])
def test_published_geometry(size: int) -> None:
    cells = (size + 1) // 2
    mazes = Mazes(size, 12, seed=2)
    images, masks = mazes.images(), mazes.masks()
    assert images.shape == (12, 3, 4 * cells + 4, 4 * cells + 4)
    assert masks.shape == (12, 4 * cells + 4, 4 * cells + 4)
    assert images.dtype == masks.dtype == torch.uint8
    # A border of three, and every square of the grid as four pixels.
    assert int(images[:, :, :3].sum() + images[:, :, -3:].sum()) == 0
    assert int(images[..., :3].sum() + images[..., -3:].sum()) == 0
    inner = images[:, :, 3:-3, 3:-3]
    for row, column in ((0, 1), (1, 0), (1, 1)):
        assert torch.equal(inner[:, :, ::2, ::2], inner[:, :, row::2, column::2])
    red, green, blue = images.bool().unbind(1)
    start, end = green & ~red & ~blue, red & ~green & ~blue
    white, black = red & green & blue, ~(red | green | blue)
    assert bool((start | end | white | black).all())
    assert start.sum((1, 2)).tolist() == end.sum((1, 2)).tolist() == [4] * 12
    assert bool(masks.bool()[start | end].all())
    assert not bool((masks.bool() & black).any())
    walkable = inner[:, :, ::2, ::2].amax(1).bool()
    assert torch.equal(walkable, torch.from_numpy(mazes.drawing.passages))


def test_compact_geometry_is_the_published_one_with_a_pixel_a_square() -> None:
    mazes = Mazes(13, 5, seed=0)
    assert mazes.images("compact").shape == (5, 3, 15, 15)
    assert torch.equal(compacted(mazes.images()), mazes.images("compact"))
    assert torch.equal(compacted(mazes.masks()), mazes.masks("compact"))
    with pytest.raises(UserError, match="geometry 'round' is unknown"):
        mazes.images("round")


@pytest.mark.parametrize(
    ("size", "count", "message"),
    [
        (8, 10, "size 8 is even; choose an odd size such as 9"),
        (1, 10, "size 1 is too small"),
        (-3, 10, "size -3 is too small"),
        (9, 0, "0 mazes"),
        (3, 25, "only 24 different ones"),
    ],
)
def test_impossible_mazes_are_refused(size: int, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mazes(size, count)


@pytest.mark.parametrize("geometry", ["published", "compact"])
def test_mazes_of_a_mosaic_share_their_borders(geometry: str) -> None:
    mazes, border = Mazes(9, 15, seed=4), BORDERS[geometry]
    images, masks = mazes.images(geometry), mazes.masks(geometry)
    length = images.shape[-1]
    joined, paths = mosaics(images, 2, geometry), mosaics(masks, 2, geometry)
    side = 2 * length - border
    # The last three mazes do not fill a mosaic.
    assert joined.shape == (3, 3, side, side)
    assert paths.shape == (3, side, side)
    for number in range(12):
        mosaic, (row, column) = number // 4, divmod(number % 4, 2)
        top, left = row * (length - border), column * (length - border)
        here = (slice(top, top + length), slice(left, left + length))
        assert torch.equal(joined[(mosaic, slice(None), *here)], images[number])
        assert torch.equal(paths[(mosaic, *here)], masks[number])
    assert int(joined.sum()) == int(images[:12].sum())


def test_a_mosaic_of_one_row_is_the_picture() -> None:
    images = Mazes(5, 4, seed=0).images("compact")
    assert torch.equal(mosaics(images, 1, "compact"), images)


# -- the task ------------------------------------------------------------------------------------


def test_only_passages_count_and_all_of_them() -> None:
    task = tasks.load("mazes")
    examples = task.build(Request("test", 9, 6, 0, options={"geometry": "compact"}))
    inputs, targets = examples.inputs.float(), examples.targets.long()
    assert task.scored is not None
    scored = task.scored(inputs)
    right = torch.nn.functional.one_hot(targets, 2).movedim(-1, 1).float()
    assert task.correct(inputs, right, targets).all()
    anywhere = torch.where(scored.unsqueeze(1), right, 1 - right)
    assert task.correct(inputs, anywhere, targets).all()
    for index in range(len(inputs)):
        row, column = scored[index].nonzero()[index]
        right[index, :, row, column] = 1 - right[index, :, row, column]
    assert not task.correct(inputs, right, targets).any()


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_maze_forming_is_printed_and_drawn(tmp_path: Path, suffix: str) -> None:
    image = pytest.importorskip("PIL.Image")
    task = tasks.load("mazes")
    examples = task.build(Request("test", 9, 1, 0, options={"geometry": "compact"}))
    right = torch.nn.functional.one_hot(examples.targets.long(), 2).movedim(-1, 1).float() * 9
    path = tmp_path / f"maze{suffix}"
    lines = task.show(
        tasks.SolutionTrace(
            examples.inputs, examples.targets, [torch.zeros_like(right), *[right] * 5], path
        )
    )
    assert "wrong" in lines[0]
    assert "all right" in lines[1]
    assert sum("[green]S" in line for line in lines) == 1
    legend = lines.index("S: start, E: end, •: the path in the last answer")
    dots = sum(line.count("•") for line in lines[legend + 1 :])
    assert dots == int(examples.targets.sum()) - 2
    with image.open(path) as picture:
        assert picture.width >= 400
        if suffix == ".gif":
            # Two iterations until it stays the same, and the path.
            assert picture.n_frames == 3


def test_only_mazes_for_training_are_joined() -> None:
    options = {"geometry": "compact", "mosaic": 2}
    for split, alone in (("train", False), ("valid", True), ("test", True)):
        request = Request(split, 9, 10, 0, options=options)
        plain = mazes_task.build(Request(split, 9, 10, 0, options={"geometry": "compact"}))
        inputs, targets = mazes_task.build(request)
        expected = plain.inputs if alone else mosaics(plain.inputs, 2, "compact")
        assert torch.equal(inputs, expected)
        assert targets.shape == (len(inputs), *inputs.shape[2:])
    # Too few for a mosaic.
    few = mazes_task.build(Request("train", 9, 3, 0, options=options))
    assert few.inputs.shape == (3, 3, 11, 11)


# -- published archives --------------------------------------------------------------------------


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    for split, size in (("train", 9), ("test", 13)):
        mazes = Mazes(size, 40, seed=0)
        folder = tmp_path / f"maze_data_{split}_{size}"
        folder.mkdir()
        np.save(folder / "inputs.npy", mazes.images().numpy().astype(np.float64))
        np.save(folder / "solutions.npy", mazes.masks().numpy().astype(np.float64))
    return tmp_path


def test_archives_are_read_in_either_geometry(archives: Path) -> None:
    for split, size in (("train", 9), ("test", 13)):
        mazes = Mazes(size, 30, seed=0)
        for geometry in ("published", "compact"):
            request = Request(split, size, 30, 5, archives, {"geometry": geometry})
            inputs, targets = mazes_task.build(request)
            assert torch.equal(inputs, mazes.images(geometry))
            assert torch.equal(targets, mazes.masks(geometry))


def test_mazes_of_an_archive_are_joined_too(archives: Path) -> None:
    request = Request("train", 9, 30, 5, archives, {"geometry": "compact", "mosaic": 2})
    inputs, targets = mazes_task.build(request)
    mazes = Mazes(9, 30, seed=0)
    assert torch.equal(inputs, mosaics(mazes.images("compact"), 2, "compact"))
    assert torch.equal(targets, mosaics(mazes.masks("compact"), 2, "compact"))


def test_bad_archives_are_named(archives: Path) -> None:
    with pytest.raises(UserError, match="has no folder maze_data_test_9"):
        archived(archives, "test", 9, 10)
    folder = archives / "maze_data_train_9"
    np.save(folder / "solutions.npy", np.zeros((40, 23, 24)))
    with pytest.raises(UserError, match="shapes"):
        archived(archives, "train", 9, 10)
    np.save(folder / "solutions.npy", np.full((40, 24, 24), 0.5))
    with pytest.raises(UserError, match="other numbers than 0 and 1"):
        archived(archives, "train", 9, 10)
    whole = (folder / "inputs.npy").read_bytes()
    (folder / "inputs.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"inputs\.npy: cannot be read"):
        archived(archives, "train", 9, 10)
    # An array of Python objects would have to be unpickled.
    np.save(folder / "inputs.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"inputs\.npy: cannot be read"):
        archived(archives, "train", 9, 10)
