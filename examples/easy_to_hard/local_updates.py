"""Answers of a recurrent network that no longer change, computed only where its states still do.

States of a network need not come to rest: in some cells of a large problem they alternate, and a
few answers with them. Two things repair that. An iteration moves a state only a part of the way
(:data:`STEP`), which keeps every resting state as it is and ends most alternation. And the answer
is the mean over a window of iterations, the last third of all that were done. The windows grow
until the probabilities of one are near those of the window before.

An iteration is local: the state of a cell depends on the states within
:attr:`.networks.IteratedNetwork.radius` cells. In a large problem most states are soon at rest, so
an iteration is computed only in tiles around the cells that changed in the last one, and answers
only where states changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .networks import IteratedNetwork

TILE = 16
"""Cells of a window's middle in each dimension, which are kept; the radius is around them."""

STEP = 0.7
"""The share of the way from a state to the next one that an iteration goes."""

TOLERANCE = 0.1
"""Smaller changes of a state do not count. States are of size 1, and trained with larger noise."""

LOOK_EVERY = 7
"""Iterations between two looks at the answers; an odd number, as states may alternate."""

FIRST_WINDOW = 64
"""Iterations before the first window, which is half as long."""

GROWTH = 1.5
"""The end of a window is this many times its beginning."""

SAME = 0.25
"""Mean probabilities of two windows that differ by no more than this are the same. In a window in
which a front passes a cell, the mean of that cell changes by up to 1."""

WINDOWS = 48
"""Tiles, or as many cells of whole images, that are computed at once, for the caches."""


@dataclass(frozen=True)
class StableAnswers:
    """Answers that no longer changed.

    Attributes:
        probabilities: of the answers, those at rest or the mean over the last window, (B, classes,
            *cells).
        state: the last one, (B, width, *cells).
        iterations: how many each problem took, (B,).
        stable: False for problems whose answers still changed, (B,).
    """

    probabilities: Tensor
    state: Tensor
    iterations: Tensor
    stable: Tensor


@torch.no_grad()
def stable_answers(
    network: IteratedNetwork,
    inputs: Tensor,
    iterations: int,
    *,
    scored: Tensor | None = None,
    step: float = STEP,
    tolerance: float = TOLERANCE,
    on_iteration: Callable[[int], None] | None = None,
) -> StableAnswers:
    """Iterate until the mean probabilities of a window are near those of the window before.

    A state changes only by more than the tolerance, and by all that has added up, so it is within
    the tolerance of what an iteration would make of it. A problem whose states are at rest ends.

    Args:
        network: one that applies the same block in every iteration.
        inputs: problems, (B, channels, *cells).
        iterations: how many, at most.
        scored: the cells whose answers count, (B, *cells); all by default.
        step: see :data:`STEP`; 1 gives the network's own iterations.
        tolerance: see :data:`TOLERANCE`; 0 gives the states of whole iterations.
        on_iteration: receives about how many problems are done after each iteration.

    Raises:
        ValueError: if the network has a limited number of iterations.

    Example::

        found = stable_answers(network, inputs, iterations=10_000)
        answers = found.probabilities.argmax(1)
    """
    if network.longest is not None:
        raise ValueError("only a network that applies one block in every iteration can go on")
    state = network.initial_state(inputs)
    flat = network.dimensions == 1
    counts = inputs.new_ones(inputs[:, 0].shape) if scored is None else scored
    # Channels last, so that a cell's values are read and written together.
    state, images, counts = (
        (each.unsqueeze(-2) if flat else each).movedim(1, -1).contiguous()
        for each in (state, inputs, counts.unsqueeze(1))
    )
    block = _Grid(tuple(counts.shape[:3]), network.radius, state.device)
    head = _Grid(tuple(counts.shape[:3]), network.head_radius, state.device)
    counts = counts.squeeze(-1) > 0
    shown = state.new_zeros(*counts.shape, network.classes)
    total, final = torch.zeros_like(shown), torch.zeros_like(shown)
    before = torch.full_like(shown, -1)
    took = torch.zeros(len(inputs), dtype=torch.long, device=state.device)
    stable = torch.zeros_like(took, dtype=torch.bool)
    # Tiles around which a state changed: to iterate, and to answer.
    changed, stale = ~block.no_tiles(), ~head.no_tiles()
    window_end = FIRST_WINDOW

    def iterate(parts: Sequence[Tensor]) -> Tensor:
        return parts[0].lerp(network.iterate(parts[0], parts[1], 0), step)

    def answer(parts: Sequence[Tensor]) -> Tensor:
        return network.head(parts[0]).softmax(1)

    for iteration in range(1, iterations + 1):
        cells, values = block.changes(iterate, (state, images), state, changed.nonzero(), tolerance)
        state[cells.unbind(1)] = values
        changed = block.near(cells)
        stale |= head.near(cells)
        resting = ~changed.flatten(1).any(1) & ~stable
        window_ends = iteration in (window_end, iterations)
        if iteration % LOOK_EVERY == 0 or window_ends or bool(resting.any()):
            cells, values = head.changes(answer, (state,), shown, stale.nonzero(), 0)
            shown[cells.unbind(1)] = values
            stale = head.no_tiles()
            total += shown
        # All later answers of a problem at rest are those now.
        final[resting], took[resting] = shown[resting], iteration
        stable |= resting
        if window_ends:
            changing = ~stable
            means = total / total.sum(-1, keepdim=True)
            final[changing], took[changing] = means[changing], iteration
            differs = ((means - before).abs().amax(-1) > SAME) & counts
            stable |= ~differs.flatten(1).any(1)
            before, window_end = means, int(GROWTH * window_end)
            total.zero_()
        changed &= ~stable[:, None, None]
        if on_iteration is not None:
            on_iteration(int(stable.sum()))
        if bool(stable.all()):
            break
    probabilities, state = (
        (each.squeeze(1) if flat else each).movedim(-1, 1) for each in (final, state)
    )
    return StableAnswers(probabilities, state, took, stable)


def _parts(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Rows in parts of at most a size; none of no rows."""
    return rows.split(size) if len(rows) else ()


class _Grid:
    """Tiles over a batch of images, and the window around each.

    A window is as large as a tile with the radius on every side but lies within the image, so that
    the zeros that convolutions add around it are those around the image, or do not reach its tile.

    Args:
        shape: examples, rows and columns.
        radius: how many cells away the layers look.
        device: of the indices.
    """

    def __init__(self, shape: tuple[int, ...], radius: int, device: torch.device) -> None:
        self.shape, self.device = shape, device
        # A change must reach at most two tiles in a dimension.
        self.tile = max(TILE, 2 * radius + 1)
        self.radius = radius
        self.sides = [min(self.tile + 2 * radius, cells) for cells in shape[1:]]
        self.counts = [-(-cells // self.tile) for cells in shape[1:]]

    def no_tiles(self) -> Tensor:
        """Marks of tiles, (B, rows of the grid, columns of the grid), all False."""
        sizes = (self.shape[0], *self.counts)
        return torch.zeros(sizes, dtype=torch.bool, device=self.device)

    def near(self, cells: Tensor) -> Tensor:
        """Marks of the tiles with a cell within the radius of given cells, (n, 3)."""
        marks = self.no_tiles()
        rows, columns = (
            [
                (cells[:, axis + 1] + shift).clamp(0, self.shape[axis + 1] - 1) // self.tile
                for shift in (-self.radius, self.radius)
            ]
            for axis in range(2)
        )
        for row in rows:
            for column in columns:
                marks[cells[:, 0], row, column] = True
        return marks

    def changes(
        self,
        layers: Callable[[Sequence[Tensor]], Tensor],
        images: Sequence[Tensor],
        before: Tensor,
        tiles: Tensor,
        tolerance: float,
    ) -> tuple[Tensor, Tensor]:
        """The cells of tiles that layers change, (n, 3), and their new values, (n, values).

        Args:
            layers: from windows of the images, (tiles, channels, rows, columns), to new values,
                (tiles, values, rows, columns).
            images: each (B, rows, columns, channels).
            before: the values now, (B, rows, columns, values).
            tiles: which ones, (tiles, 3).
            tolerance: the largest change that does not count.
        """
        window = self.sides[0] * self.sides[1]
        work = window * tiles[:, 0].bincount(minlength=self.shape[0])
        whole = work >= self.shape[1] * self.shape[2]
        cells, values = [tiles.new_empty(0, 3)], [before.new_empty(0, before.shape[-1])]

        def add(where: tuple[Tensor, ...], own: Tensor | None) -> None:
            after = layers([image[where].movedim(-1, 1) for image in images]).movedim(1, -1)
            differs = (after - before[where]).abs().amax(-1) > tolerance
            differs = differs if own is None else differs & own
            # Examples, rows and columns of all cells of the windows, of which some differ.
            places = torch.broadcast_tensors(*where)
            cells.append(torch.stack([place[differs] for place in places], 1))
            values.append(after[differs])

        # Overlapping windows of many tiles are more work than a whole image.
        lines = [torch.arange(size, device=self.device) for size in self.shape[1:]]
        images_at_once = max(1, WINDOWS * window // (self.shape[1] * self.shape[2]))
        for part in _parts(whole.nonzero().squeeze(1), images_at_once):
            add((part[:, None, None], lines[0][:, None], lines[1]), None)
        for part in _parts(tiles[~whole[tiles[:, 0]]], WINDOWS):
            (rows, own_rows), (columns, own_columns) = (
                self._lines(axis, part[:, axis + 1]) for axis in range(2)
            )
            own = own_rows[:, :, None] & own_columns[:, None, :]
            add((part[:, 0, None, None], rows[:, :, None], columns[:, None, :]), own)
        return torch.cat(cells), torch.cat(values)

    def _lines(self, axis: int, places: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (or columns) of the windows at places of the grid, and which are the tile's."""
        cells, side = self.shape[axis + 1], self.sides[axis]
        begins = places[:, None] * self.tile
        lines = (begins - self.radius).clamp(0, cells - side)
        lines = lines + torch.arange(side, device=self.device)
        return lines, (lines >= begins) & (lines < begins + self.tile)
