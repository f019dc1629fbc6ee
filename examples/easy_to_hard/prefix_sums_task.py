"""The prefix-sum task: presets, splits, exact match, and a sum forming on the screen."""

from __future__ import annotations

from torch import Tensor

from .prefix_sums import PrefixSums
from .tasks import Examples, Preset, Request, SolutionTrace, Task

HELD_OUT = 10_000
"""How many strings of a seed and length are kept for each of "valid" and "test"; of few bits, an
eighth of all."""

_ORDER = {"test": 0, "valid": 1, "train": 2}

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


def build(request: Request) -> Examples:
    """Strings of ``request.size`` bits; no string stands in two splits of the same seed."""
    kept = min(HELD_OUT, 2**request.size // 8)
    first = _ORDER[request.split] * kept
    count = request.count if request.split == "train" else min(request.count, kept)
    inputs, targets = PrefixSums(request.size, first + count, request.seed).tensors()
    return Examples(inputs[first:], targets[first:])


def correct(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every bit is right, (B,)."""
    del inputs
    return (logits.argmax(1) == targets).all(1)


def show(forming: SolutionTrace) -> list[str]:
    """A line for every iteration, wrong bits in red; the problem above, the answer below."""
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
    return lines


TASK = Task(
    name="prefix-sums",
    dimensions=1,
    channels=1,
    classes=2,
    presets=PRESETS,
    build=build,
    correct=correct,
    show=show,
    unit="bits",
    summary="the parity of the first i bits, for every i",
)
