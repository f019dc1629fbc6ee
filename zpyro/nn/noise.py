"""Random numbers for models, for a whole batch or for the rows that one process computes.

Example:
    >>> source = ShardNoise(torch.tensor([0, 2]), total=4)
    >>> source.normal(torch.Size((2, 3)), like=torch.zeros(())).shape
    torch.Size([2, 3])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sampler = Callable[[torch.Size], Tensor]


class NoiseSource:
    """Random numbers from torch's global generator."""

    def normal(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        """Standard normal numbers with the dtype and the device of a tensor.

        Args:
            shape: of the result; dimension ``dim`` holds the B rows of the batch, or K B rows for
                K particles, particles outermost.
            like: gives dtype and device.
            dim: counts from the front, or from the back where negative.
        """
        sample = partial(torch.randn, dtype=like.dtype, device=like.device)
        return self._sample(sample, shape, dim)

    def uniform(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        """Numbers in [0, 1), in torch's default dtype; arguments as in :meth:`normal`."""
        return self._sample(partial(torch.rand, device=like.device), shape, dim)

    def dropout(self, inputs: Tensor, p: float) -> Tensor:
        """Dropout with probability p; dimension 0 of the inputs holds the rows."""
        return F.dropout(inputs, p)

    def _sample(self, sample: Sampler, shape: torch.Size, dim: int) -> Tensor:
        del dim
        return sample(shape)


class ShardNoise(NoiseSource):
    """Samples numbers for the whole batch and keeps the rows of this process.

    The results do not depend on the number of processes, and the generators of all processes stay
    equal.

    Args:
        rows: indices of the rows of this process in the batch, (B,).
        total: number of rows of the whole batch.
    """

    def __init__(self, rows: Tensor, total: int) -> None:
        self._rows = rows
        self._total = total

    def dropout(self, inputs: Tensor, p: float) -> Tensor:
        return inputs * self._sample(lambda s: F.dropout(inputs.new_ones(s), p), inputs.shape, 0)

    def _sample(self, sample: Sampler, shape: torch.Size, dim: int) -> Tensor:
        dim = dim % len(shape)
        particles = shape[dim] // len(self._rows)
        whole = torch.Size((*shape[:dim], particles * self._total, *shape[dim + 1 :]))
        samples = sample(whole).unflatten(dim, (particles, self._total))
        rows = self._rows.to(samples.device)
        return samples.index_select(dim + 1, rows).flatten(dim, dim + 1)


class Dropout(nn.Dropout):
    """Dropout that takes its random numbers from a :class:`NoiseSource`.

    Attributes:
        noise_source: replaced by :meth:`zpyro.models.SequenceModel.set_noise_source`.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p)
        self.noise_source = NoiseSource()

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p):
            return input
        return self.noise_source.dropout(input, self.p)
