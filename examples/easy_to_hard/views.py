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
        probabilities: of the answers, (B, classes, side, side): of the first view where two views
            agree, else the mean over all views.
        first: the answers of the first view, the problem as it is.
        differs: problems whose first two views had other answers, (B,).
    """

    probabilities: Tensor
    first: StableAnswers
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
    """Stable answers of a problem and of its quarter turn, and of further views if they differ.

    Args:
        network: see :func:`.local_updates.stable_answers`.
        inputs: problems, (B, channels, side, side); of any shape for a single view.
        iterations: how many, at most, for each view.
        views: how many views are taken where the first two differ, 1 to 8.
        scored: the cells whose answers count, (B, side, side); all by default.
        on_iteration: receives the number of problems with stable answers after each iteration of
            the last of the first two views.

    Example::

        found = viewed_answers(network, inputs, iterations=10_000)
        answers = found.probabilities.argmax(1)
    """

    def answers(
        rows: Tensor | slice, view: int, report: Callable[[int], None] | None
    ) -> StableAnswers:
        return stable_answers(
            network,
            turned(inputs[rows], view),
            iterations,
            scored=None if scored is None else turned(scored[rows], view),
            on_iteration=report,
        )

    everything = slice(None)
    first = answers(everything, 0, on_iteration if views == 1 else None)
    total = first.probabilities.clone()
    differs = torch.zeros_like(first.stable)
    if views > 1:
        second = turned_back(answers(everything, 1, on_iteration).probabilities, 1)
        changed = second.argmax(1) != first.probabilities.argmax(1)
        if scored is not None:
            changed &= scored > 0
        differs = changed.flatten(1).any(1)
        rows = differs.nonzero().squeeze(1)
        if len(rows):
            total[rows] += second[rows]
            for view in range(2, views):
                total[rows] += turned_back(answers(rows, view, None).probabilities, view)
            total[rows] /= views
    return ViewedAnswers(total, first, differs)
