"""Prefix sums: bit strings, and for every bit the parity of the bits up to it.

The data set of arXiv:2108.06011, with one difference: there the strings of a length come from
integers drawn with replacement once they do not fit 64 bits; here no string ever comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError


@dataclass(frozen=True)
class PrefixSums:
    """Strings of ``bits`` bits drawn uniformly without replacement, and their prefix sums mod 2.

    Attributes:
        bits: n, the length of the strings.
        size: how many strings.
        seed: of the draw; the strings of a smaller size are the first ones of a larger.

    Raises:
        UserError: if there are not so many strings of that length (10,000 need 14 bits), or a
            number is out of range.

    Source: arXiv:2108.06011, section 2.1::

        @article{schwarzschild2021datasets,
          title={Datasets for Studying Generalization from Easy to Hard Examples},
          author={Schwarzschild, Avi and Borgnia, Eitan and Gupta, Arjun and Bansal, Arpit and
                  Emam, Zeyad and Huang, Furong and Goldblum, Micah and Goldstein, Tom},
          journal={arXiv:2108.06011}, year={2021}
        }
    """

    bits: int
    size: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.bits < 1 or self.size < 1 or self.seed < 0:
            raise UserError(
                f"prefix sums of {self.bits} bits, {self.size} strings, seed {self.seed}: "
                "bits and size must be positive, the seed at least 0"
            )
        if self.bits < 63 and self.size > 2**self.bits:
            raise UserError(
                f"there are only {2**self.bits:,} strings of {self.bits} bits, not {self.size:,} "
                f"different ones; ask for fewer, or for at least "
                f"{(self.size - 1).bit_length()} bits"
            )

    def __len__(self) -> int:
        return self.size

    @cached_property
    def packed(self) -> np.ndarray:
        """The strings, (size, ceil(bits / 8)) bytes, highest bit first; all rows differ."""
        random = np.random.default_rng([self.seed, self.bits])
        if self.bits <= 20:
            numbers = random.permutation(2**self.bits)[: self.size].astype(">u4")
            shifted = (numbers << (32 - self.bits)).astype(">u4")
            return shifted.view(np.uint8).reshape(-1, 4)[:, : -(-self.bits // 8)]
        return _first_different(random, self.size, self.bits)

    def strings(self) -> np.ndarray:
        """The bits, (size, n) of 0 and 1 as uint8."""
        return np.unpackbits(self.packed, axis=1, count=self.bits)

    def sums(self) -> np.ndarray:
        """The parity of bits 1..i for every i, (size, n) of 0 and 1 as uint8."""
        return np.bitwise_xor.accumulate(self.strings(), axis=1)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Inputs (size, 1, n) and targets (size, n), uint8."""
        inputs, targets = self.strings(), self.sums()
        return torch.from_numpy(inputs).unsqueeze(1), torch.from_numpy(targets)


def _first_different(random: np.random.Generator, size: int, bits: int) -> np.ndarray:
    """The first ``size`` different strings of a stream of uniform ones.

    Dropping repeats from a uniform stream is drawing without replacement.
    """
    width = -(-bits // 8)
    last = 0xFF & (0xFF << (8 * width - bits))
    found = np.empty((0, width), np.uint8)
    while len(found) < size:
        # Whole blocks, so that a larger size only goes on with the same stream.
        rows = -(-size // _BLOCK) * _BLOCK
        more = random.integers(0, 256, (rows, width), dtype=np.uint8)
        more[:, -1] &= last
        found = np.concatenate([found, more])
        _, places = np.unique(found.view(f"V{width}").ravel(), return_index=True)
        found = found[np.sort(places)]
    return found[:size]


_BLOCK = 16_384
