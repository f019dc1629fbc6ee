"""Whether a network solves mazes of its training's size for good, also far from a border.

Held-out mazes are solved in mosaics, whose middle is as far from a border as the middle of a
larger maze, for many times the iterations of training. A maze fails if one of its squares is wrong
at any of the last looks. This needs no larger maze, so it can choose between recipes,
and decide how long to train.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .mazes import border, mosaics, passages
from .networks import IteratedNetwork
from .programs import LARGEST_RANDOM
from .tasks import Examples, OnBatch

ACROSS = 4
"""Mazes in a row of a mosaic."""
COUNT = 100 * ACROSS**2
"""Mazes; at 9 x 9 they have as many cells as four mazes of 201 x 201."""
ITERATIONS = 10
"""Times those of training."""
LOOKS = 6
"""At the answers, the last one at the end."""
LOOK_EVERY = 7
"""Iterations between two looks; an odd number, as states may alternate."""
STARTS = ("first", "random")
"""States to begin from: the network's own first state, or a random one."""
PIXELS_AT_ONCE = 60_000


def failing(
    network: IteratedNetwork,
    examples: Examples,
    iterations: int,
    *,
    across: int = ACROSS,
    geometry: str = "compact",
    start: str = "first",
    on_batch: OnBatch | None = None,
) -> Tensor:
    """Whether each maze fails, True or False, (N,).

    Args:
        network: one that repeats the same iteration.
        examples: mazes of one size; those that do not fill a mosaic are left out, so that N is a
            multiple of ``across`` squared.
        iterations: those of training.
        across: see :data:`ACROSS`; 1 for single mazes.
        geometry: that of the pictures.
        start: one of :data:`STARTS`.
        on_batch: receives (mazes done, mazes).

    Raises:
        ValueError: for another start, or fewer mazes than a mosaic has.

    Example:
        >>> from zpyro_examples.easy_to_hard import networks, tasks
        >>> request = tasks.Request("valid", 9, 4, 0, options={"geometry": "compact"})
        >>> examples = tasks.load("mazes").build(request)
        >>> failing(networks.build("recall", 2, 3, 8, 2, 4), examples, 4, across=2)
        tensor([True, True, True, True])
    """
    if start not in STARTS:
        raise ValueError(f"start {start!r} is unknown; choose one of {', '.join(STARTS)}")
    if len(examples.inputs) < across**2:
        raise ValueError(f"{len(examples.inputs)} mazes do not fill a mosaic of {across**2}")
    joined = Examples(*(mosaics(part, across, geometry) for part in examples))
    failed: list[Tensor] = []
    for wrong in wrong_squares(network, joined, iterations, start):
        failed.append(wrong_mazes(wrong, across, border(geometry)).flatten())
        if on_batch is not None:
            on_batch(sum(map(len, failed)), across**2 * len(joined.inputs))
    return torch.cat(failed)


@torch.no_grad()
def wrong_squares(
    network: IteratedNetwork, examples: Examples, iterations: int, start: str
) -> Iterator[Tensor]:
    """Passages that are wrong at any look, batch by batch, True or False (B, side, side)."""
    like = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    last = ITERATIONS * iterations
    looks = {last - look * LOOK_EVERY for look in range(LOOKS)}
    batch = max(1, PIXELS_AT_ONCE // examples.targets[0].numel())
    for images, paths in zip(*(part.split(batch) for part in examples), strict=True):
        inputs, targets = images.to(like), paths.to(like.device)
        state = network.initial_state(inputs)
        if start == "random":
            # Like those of the training, see RecurrentSolver.sample_start.
            sizes = LARGEST_RANDOM * torch.rand(len(state), 1, 1, 1, generator=generator)
            noise = torch.randn(state.shape, generator=generator).relu()
            state = (sizes * noise).to(state) * state.mean()
        wrong = torch.zeros_like(targets, dtype=torch.bool)
        for iteration in range(1, last + 1):
            state = network.iterate_from(state, inputs, 1)
            if iteration in looks:
                differs = network.answer(state).argmax(1) != targets
                wrong |= differs & passages(inputs)
        yield wrong


def wrong_mazes(wrong: Tensor, across: int, shared: int) -> Tensor:
    """Whether each maze of mosaics (B, side, side) has a wrong square, (B, across^2).

    Args:
        wrong: squares, True or False.
        across: mazes in a row.
        shared: pixels of the border between two mazes.
    """
    step = (wrong.shape[-1] - shared) // across
    windows = wrong.unfold(1, step + shared, step).unfold(2, step + shared, step)
    return windows.flatten(3).any(-1).flatten(1)
