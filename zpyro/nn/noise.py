"""Random draws of a batch of which this process has some rows.

Every process draws for the whole batch and keeps its rows, so that several draw what one would, and
their generators stay in step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zpyro.distributed.processes import BatchShard

_SHARE: ContextVar[BatchShard | None] = ContextVar("share", default=None)


@contextlib.contextmanager
def shared(share: BatchShard) -> Generator[None, None, None]:
    """Within it, draws are those of the whole batch."""
    token = _SHARE.set(share if share.rows is not None else None)
    try:
        yield
    finally:
        _SHARE.reset(token)


def draw(function: Callable[[torch.Size], Tensor], shape: torch.Size, dim: int = 0) -> Tensor:
    """``function(shape)``, or the rows of this process of such a draw for the whole batch.

    Args:
        function: draws numbers of a shape.
        shape: of the rows here; ``dim`` holds them, K times over for K particles, these outermost.
        dim: from the front, or from the back where negative.
    """
    share = _SHARE.get()
    if share is None or share.rows is None:
        return function(shape)
    dim = dim % len(shape)
    particles = shape[dim] // len(share.rows)
    whole = torch.Size((*shape[:dim], particles * share.total, *shape[dim + 1 :]))
    drawn = function(whole).unflatten(dim, (particles, share.total))
    return drawn.index_select(dim + 1, share.rows.to(drawn.device)).flatten(dim, dim + 1)


class Dropout(nn.Dropout):
    """Dropout of the rows (dimension 0) of a batch that may be shared between processes."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.p or _SHARE.get() is None:
            return super().forward(input)
        kept = draw(lambda shape: F.dropout(input.new_ones(shape), self.p), input.shape)
        return input * kept
