"""Prefix sums: bit strings, and for every bit the parity of the bits up to it.

The data set of arXiv:2108.06011, with one difference: there the strings of a length come from
integers sampled with replacement once they do not fit 64 bits; here no string occurs twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError

from . import pictures
from .networks import RecurrentNetwork
from .tasks import Examples, Preset, Request, SolutionTrace, Task


@dataclass(frozen=True)
class PrefixSums:
    """Strings of ``bits`` bits sampled uniformly without replacement, and prefix sums modulo 2.

    Attributes:
        bits: n, the length of the strings.
        size: how many strings.
        seed: of the strings; those of a smaller size are the first ones of a larger.

    Raises:
        UserError: if there are fewer strings of that length (10,000 need 14 bits), or a
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
        for name, least in (("bits", 1), ("size", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"prefix sums: {name} is {value}; choose {least} or more")
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

    Dropping repeats from a uniform stream is sampling without replacement.
    """
    width = -(-bits // 8)
    last = 0xFF & (0xFF << (8 * width - bits))
    found = np.empty((0, width), np.uint8)
    while len(found) < size:
        # Whole blocks, so that a larger size continues the same stream.
        rows = -(-size // _BLOCK) * _BLOCK
        more = random.integers(0, 256, (rows, width), dtype=np.uint8)
        more[:, -1] &= last
        found = np.concatenate([found, more])
        _, places = np.unique(found.view(f"V{width}").ravel(), return_index=True)
        found = found[np.sort(places)]
    return found[:size]


_COLUMNS = 32
_COLORS = np.array([[[225, 230, 240], [40, 90, 220]], [[250, 190, 185], [215, 45, 40]]])

HELD_OUT = 10_000
"""Strings of a seed and length in each of "valid" and "test"; of few bits, an eighth of all."""
_BLOCK = 16_384

SHORTEST = 3
"""Bits of the shortest strings of which some are held out."""

PRESETS = {
    "quick": Preset(
        width=32,
        iterations=30,
        progressive_weight=1.0,
        train_size=32,
        train_count=100_000,
        epochs=4,
        batch_size=100,
        learning_rate=2e-3,
        growing=0.5,
        shortest=8,
        extra_iterations=90,
        stop_on_change=True,
        average=0.99,
        valid_sizes=(32, 64),
        test_sizes=(32, 64, 128, 256, 512),
        max_minutes=10.0,
    ),
    "published": Preset(
        width=400,
        iterations=30,
        progressive_weight=1.0,
        train_size=32,
        train_count=10_000,
        epochs=150,
        batch_size=100,
        weight_decay=2e-4,
        schedule="steps",
        milestones=(60, 100),
        warmup=5.0,
        valid_sizes=(32, 64),
        valid_count=1_000,
        test_sizes=(32, 64, 128, 256, 512),
    ),
}


def size_error(request: Request) -> str | None:
    """What is wrong with the length of strings, if anything."""
    if request.size < SHORTEST:
        return f"strings of that length are too short; choose {SHORTEST} bits or more"
    return None


def build(request: Request) -> Examples:
    """Strings of ``request.size`` bits; no string is in two splits of the same seed.

    Raises:
        UserError: if a file was named, or the strings do not fit in memory.
    """
    if request.source is not None:
        raise UserError("--data: prefix-sums makes its own strings; leave the option out")
    request.check_cells(request.size)
    first, end = request.part(min(HELD_OUT, 2**request.size // 8))
    inputs, targets = PrefixSums(request.size, end, request.seed).tensors()
    return Examples(inputs[first:], targets[first:])


def correct(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every bit is right, (B,)."""
    del inputs
    return (logits.argmax(1) == targets).all(1)


def show(forming: SolutionTrace) -> list[str]:
    """A line for every iteration, wrong bits in red; the problem above, the answer below.

    With ``out`` a picture of each, see :func:`_picture`.
    """
    bits, sums = forming.inputs[0, 0].int().tolist(), forming.targets[0].int().tolist()
    lines = [f"{'bits':>6}  {''.join(map(str, bits))}"]
    for iteration, logits in enumerate(forming.logits, start=1):
        answer = logits[0].argmax(0).tolist()
        wrong = sum(a != b for a, b in zip(answer, sums, strict=True))
        digits = "".join(
            str(a) if a == b else f"[bold red]{a}[/bold red]"
            for a, b in zip(answer, sums, strict=True)
        )
        lines.append(f"{iteration:>6}  {digits}  {f'{wrong} wrong' if wrong else 'all right'}")
    lines.append(f"{'sums':>6}  {''.join(map(str, sums))}")
    if forming.out is not None:
        answers = [logits[0].argmax(0) for logits in forming.logits]
        target = forming.targets[0]
        frames = [_picture(answer, target) for answer in answers[: pictures.settled(answers)]]
        lines.append(pictures.save(frames, _picture(target, target), "the sums", forming.out))
    return lines


def _picture(answer: Tensor, target: Tensor) -> pictures.Picture:
    """The sums as squares in rows, blue for 1 and light for 0, wrong ones red (1) and rose (0)."""
    columns = min(len(target), _COLUMNS)
    colors = np.full((-(-len(target) // columns) * columns, 3), 255)
    colors[: len(target)] = _COLORS[(answer != target).long(), answer]
    scale = pictures.scale_of(columns)
    return pictures.enlarged(colors.astype(np.uint8).reshape(-1, columns, 3), scale)


TASK = Task(
    name="prefix-sums",
    dimensions=1,
    channels=1,
    classes=2,
    presets=PRESETS,
    build=build,
    correct=correct,
    show=show,
    sources=(PrefixSums, RecurrentNetwork),
    expected=0.99,
    unit="bits",
    size_error=size_error,
    summary="the parity of the first i bits, for every i",
)
