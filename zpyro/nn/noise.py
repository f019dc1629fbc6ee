"""Random numbers for models: from torch's global generator, or from counters.

Numbers from counters depend on the seed, the step and the row of the batch alone, so that a process
samples those of its own rows only, in any number of processes (Salmon, Moraes, Dror and Shaw,
*Parallel random numbers: as easy as 1, 2, 3*, 2011).

Example:
    >>> source = CounterNoise(seed=0)
    >>> source.start_step(torch.tensor(1), rows=torch.tensor([0, 2]))
    >>> source.normal(torch.Size((2, 3)), like=torch.zeros(())).shape
    torch.Size([2, 3])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORD = 0xFFFFFFFF
"""The largest number of 32 bits."""
ALL_ROWS = WORD
"""Stands for the row of numbers that all rows share."""
ROUNDS = 10
MULTIPLIERS, KEY_STEPS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
"""Constants of Philox4x32."""


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
        del dim
        return torch.randn(shape, dtype=like.dtype, device=like.device)

    def uniform(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        """Numbers in [0, 1), in torch's default dtype; arguments as in :meth:`normal`."""
        del dim
        return torch.rand(shape, device=like.device)

    def dropout(self, inputs: Tensor, p: float, dim: int = 0) -> Tensor:
        """Dropout with probability p; dimension ``dim`` of the inputs holds the rows."""
        del dim
        return F.dropout(inputs, p)


class CounterNoise(NoiseSource):
    """Random numbers from counters: the step, the row, and which number of that row it is.

    They do not depend on the other rows of the batch nor on the length that the batch is padded to.
    On a CPU they come from numpy's Philox4x64, elsewhere from Philox4x32 in tensor operations,
    which a CUDA graph can capture; the numbers of a CPU and of a GPU differ.

    Args:
        seed: of the numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._step = torch.zeros((), dtype=torch.int64)
        self._rows = torch.zeros(1, dtype=torch.int64)
        self._calls = 0
        self._bits = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._bits)

    def start_step(self, step: Tensor, rows: Tensor) -> None:
        """Begin with the first numbers of a step.

        Args:
            step: its number, a 0-dim int64 tensor, on the device where numbers are needed.
            rows: indices of the rows of this process in the whole batch, (B,) int64, there too.
        """
        self._step, self._rows, self._calls = step, rows, 0

    def normal(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        return self._sample(shape, like.dtype, like.device, dim, is_normal=True)

    def uniform(self, shape: torch.Size, like: Tensor, dim: int = 0) -> Tensor:
        return self._sample(shape, torch.get_default_dtype(), like.device, dim, is_normal=False)

    def dropout(self, inputs: Tensor, p: float, dim: int = 0) -> Tensor:
        kept = self.uniform(inputs.shape, inputs, dim) >= p
        # With p = 1 nothing is kept, and there is nothing to scale.
        return inputs * kept.to(inputs.dtype).div_(max(1.0 - p, torch.finfo(inputs.dtype).eps))

    def _sample(
        self, shape: torch.Size, dtype: torch.dtype, device: torch.device, dim: int, is_normal: bool
    ) -> Tensor:
        """Numbers of a shape; each particle of each row has a sequence of its own."""
        dim = dim % len(shape)
        rows = self._rows
        if shape[dim] % len(rows):
            # No rows of the batch, for example weights: the same numbers in all processes.
            shape, dim, whole = torch.Size((1, *shape)), 0, shape
            rows = torch.full_like(rows[:1], ALL_ROWS)
        else:
            whole = shape
        particles = math.prod(shape[:dim]) * (shape[dim] // len(rows))
        size = particles, len(rows), math.prod(shape[dim + 1 :])
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        if device.type == "cpu":
            samples = self._sample_on_cpu(size, rows, wide, is_normal)
        else:
            samples = self._sample_on_device(size, rows, wide, is_normal)
        self._calls += 1
        return samples.to(dtype).reshape(whole)

    def _sample_on_cpu(
        self, size: tuple[int, int, int], rows: Tensor, dtype: torch.dtype, is_normal: bool
    ) -> Tensor:
        samples = np.empty(size, dtype=np.float64 if dtype == torch.float64 else np.float32)
        fill: Any = self._generator.standard_normal if is_normal else self._generator.random
        state: Any = self._bits.state
        state |= {"buffer_pos": 4, "has_uint32": 0}
        counter = state["state"]["counter"]
        step = int(self._step)
        for number, row in enumerate(rows.tolist()):
            for particle in range(size[0]):
                counter[:] = 0, row, self._calls << 32 | particle, step
                self._bits.state = state
                fill(out=samples[particle, number], dtype=samples.dtype)
        return torch.from_numpy(samples)

    def _sample_on_device(
        self, size: tuple[int, int, int], rows: Tensor, dtype: torch.dtype, is_normal: bool
    ) -> Tensor:
        particles, count, numbers = size
        blocks = -(-numbers // 4)
        first = torch.arange(blocks, device=rows.device)
        third = torch.arange(particles, device=rows.device) * (1 << 16) + self._calls
        words = philox(
            (first, rows[:, None], third[:, None, None], self._step & WORD),
            (self._seed & WORD, self._seed >> 32),
        )
        if is_normal:
            # Box and Muller: two normal numbers from two uniform ones.
            samples = torch.empty(particles, count, blocks, 4, dtype=dtype, device=rows.device)
            for place in (0, 2):
                uniform = words[place].to(dtype).add_(0.5).mul_(2.0**-32)
                angle = words[place + 1].to(dtype).mul_(math.pi * 2.0**-31)
                radius = uniform.log_().mul_(-2).sqrt_()
                torch.mul(radius, angle.cos(), out=samples[..., place])
                torch.mul(radius, angle.sin(), out=samples[..., place + 1])
        else:
            # 24 bits, so that float32 does not round up to 1.
            samples = torch.stack(words, -1).bitwise_right_shift_(8).to(dtype).mul_(2.0**-24)
        return samples.flatten(2)[..., :numbers]


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 with ten rounds: four random words for each counter.

    Args:
        counter: four words of 32 bits each as int64; their shapes are broadcast.
        key: two words.

    Returns:
        Four words in [0, 2**32), int64, of the broadcast shape.
    """
    c0, c1, c2, c3 = (part.clone() for part in torch.broadcast_tensors(*counter))
    k0, k1 = key
    for _ in range(ROUNDS):
        # The product wraps around at 64 bits, which leaves its halves right.
        first, second = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c1 ^= torch.bitwise_right_shift(second, 32, out=c2).bitwise_and_(WORD)
        c3 ^= torch.bitwise_right_shift(first, 32, out=c0).bitwise_and_(WORD)
        c0, c1 = c1.bitwise_xor_(k0), second.bitwise_and_(WORD)
        c2, c3 = c3.bitwise_xor_(k1), first.bitwise_and_(WORD)
        k0, k1 = k0 + KEY_STEPS[0] & WORD, k1 + KEY_STEPS[1] & WORD
    return c0, c1, c2, c3


class Dropout(nn.Dropout):
    """Dropout that takes its random numbers from a :class:`NoiseSource`.

    Args:
        p: probability.
        dim: the dimension of the inputs that holds the rows of the batch.

    Attributes:
        noise_source: replaced by :meth:`zpyro.models.SequenceModel.set_noise_source`.
    """

    def __init__(self, p: float = 0.5, dim: int = 0) -> None:
        super().__init__(p)
        self.dim = dim
        self.noise_source = NoiseSource()

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and self.p):
            return input
        return self.noise_source.dropout(input, self.p, self.dim)
