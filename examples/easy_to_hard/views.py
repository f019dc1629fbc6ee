"""Answers on which several views of a problem agree.

A square image has eight views: it can be turned and reflected, and the answer with it. A network
that was trained on all of them errs on some views of a problem, seldom on all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .local_updates import StableAnswers, stable_answers
from .networks import IteratedNetwork

VIEWS = 8
"""Turns by 0, 90, 180 and 270 degrees, each with and without a reflection."""


def turned(images: Tensor, view: int) -> Tensor:
    """Square images (..., side, side) in one of the 8 views.

    View 0 is the image as it is, of any shape.

    Example::

        turned(torch.arange(4).reshape(2, 2), 1)  # [[1, 3], [0, 2]]
    """
    if view == 0:
        return images
    turn = torch.rot90(images, view % 4, (-2, -1))
    return turn.flip(-1) if view >= 4 else turn


def turned_back(images: Tensor, view: int) -> Tensor:
    """The images of which :func:`turned` makes the view."""
    if view == 0:
        return images
    unreflected = images.flip(-1) if view >= 4 else images
    return torch.rot90(unreflected, -(view % 4), (-2, -1))


@dataclass(frozen=True)
class ViewedAnswers:
    """Answers from several views.

    Attributes:
        probabilities: of the answers, the mean over the views that were taken, (B, classes, side,
            side).
        first: the answers of the first view, the problem as it is.
        views: how many were taken of each problem, (B,).
        differs: whether its first two views had other answers, (B,).
    """

    probabilities: Tensor
    first: StableAnswers
    views: Tensor
    differs: Tensor


@torch.no_grad()
def viewed_answers(
    network: IteratedNetwork,
    inputs: Tensor,
    iterations: int,
    *,
    views: int = VIEWS,
    scored: Tensor | None = None,
    on_iteration: Callable[[int], None] | None = None,
) -> ViewedAnswers:
    """The mean of stable answers over views of each problem, which are added until they agree.

    A problem is done when its first two views have the same answers, or when two further views in
    a row left the answers of the mean as they are.

    Args:
        network: see :func:`.local_updates.stable_answers`.
        inputs: problems, (B, channels, side, side); of any shape for a single view.
        iterations: how many, at most, for each view.
        views: how many, at most, 1 to 8.
        scored: the cells whose answers count, (B, side, side); all by default.
        on_iteration: receives about how many problems are done after each iteration.

    Example::

        found = viewed_answers(network, inputs, iterations=10_000)
        answers = found.probabilities.argmax(1)
    """

    def answers(rows: Tensor, view: int) -> StableAnswers:
        images, count = turned(inputs[rows], view), len(inputs)
        # The later views are of few problems.
        begin, end = 1 - 0.5**view, 1.0 if view + 1 == views else 1 - 0.5 ** (view + 1)

        def report(stable: int) -> None:
            if on_iteration is not None:
                on_iteration(int(count * (begin + (end - begin) * stable / len(images))))

        of_cells = None if scored is None else turned(scored[rows], view)
        return stable_answers(network, images, iterations, scored=of_cells, on_iteration=report)

    def chosen(probabilities: Tensor, rows: Tensor) -> Tensor:
        classes = probabilities.argmax(1)
        return classes if scored is None else classes * (scored[rows] > 0)

    rows = torch.arange(len(inputs), device=inputs.device)
    first = answers(rows, 0)
    total, before = first.probabilities.clone(), chosen(first.probabilities, rows)
    count, kept = torch.ones_like(rows), torch.zeros_like(rows)
    differs = torch.zeros_like(first.stable)
    for view in range(1, views):
        found = turned_back(answers(rows, view).probabilities, view)
        total[rows] += found
        count[rows] += 1
        # Of the first two views each one's own answers are compared, then those of the mean.
        now = chosen(found if view == 1 else total[rows], rows)
        same = (now == before[rows]).flatten(1).all(1)
        kept[rows] = torch.where(same, kept[rows] + 1, 0)
        before[rows] = chosen(total[rows], rows)
        if view == 1:
            differs = ~same
            rows = rows[differs]
        else:
            rows = rows[kept[rows] < 2]
        if not len(rows):
            break
    if on_iteration is not None:
        on_iteration(len(inputs))
    mean = total / count.view(-1, *(1 for _ in total.shape[1:]))
    return ViewedAnswers(mean, first, count, differs)
