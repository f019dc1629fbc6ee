"""The maze task: presets, splits, exact match on the passages, answers as text and pictures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import exactness, pictures
from .mazes import Mazes, archived, compacted, mosaics, passages, size_error
from .networks import IteratedNetwork, RecurrentNetwork
from .tasks import Examples, Failures, OnBatch, Option, Preset, Request, SolutionTrace, Task

_PATH = np.array([40, 90, 220])

PRESETS = {
    "quick": Preset(
        width=24,
        blocks=1,
        iterations=16,
        progressive_weight=0.5,
        extra_iterations=48,
        path_independence=0.6,
        state_noise=0.3,
        state_bound=1.0,
        label_smoothing=0.1,
        symmetries=True,
        initialization="keep-sizes",
        train_size=9,
        train_count=80_000,
        epochs=1,
        most_epochs=2,
        batch_size=4,
        learning_rate=2e-3,
        average=0.999,
        max_minutes=19.0,
        valid_sizes=(9,),
        test_sizes=(9, 13, 33, 59),
        options={"geometry": "compact", "mosaic": 2},
    ),
    "published": Preset(
        width=128,
        iterations=30,
        progressive_weight=0.01,
        train_size=9,
        train_count=50_000,
        epochs=50,
        batch_size=50,
        throttle=True,
        weight_decay=2e-4,
        clip_norm=None,
        schedule="steps",
        warmup=10.0,
        valid_sizes=(9,),
        test_sizes=(9, 11, 13, 15, 17, 33, 59),
        options={"geometry": "published"},
    ),
}


def held_out(size: int) -> int:
    """Mazes of a seed in each of "test" and "valid"."""
    # The search can make only 24 mazes of size 3 and 864 of size 5.
    few = {3: 4, 5: 150}
    return few.get(size, 10_000 if size <= 17 else 1_000)


def build(request: Request) -> Examples:
    """Mazes of one size; no maze is in two splits of the same seed.

    With ``request.source``, training and test mazes come from the published archives there;
    validation mazes are still generated. With option "mosaic" those for training are joined, if
    they fill a mosaic, see :func:`.mazes.mosaics`.
    """
    geometry = geometry_of(request.options)
    across = int(request.options.get("mosaic") or 1)
    examples = _alone(request, geometry)
    if request.split != "train" or across == 1 or len(examples.inputs) < across**2:
        return examples
    return Examples(*(mosaics(pictures, across, geometry) for pictures in examples))


def geometry_of(options: Mapping[str, Option]) -> str:
    """The geometry that the options of a preset name."""
    return str(options.get("geometry", "published"))


def _alone(request: Request, geometry: str) -> Examples:
    size = request.size
    if request.source is not None and request.split != "valid":
        inputs, targets = archived(request.source, request.split, size, request.count)
        if geometry == "compact":
            inputs, targets = compacted(inputs), compacted(targets)
        return Examples(inputs, targets)
    request.check_cells(size**2)
    first, end = request.part(held_out(size))
    mazes = Mazes(size, end, request.seed)
    return Examples(mazes.images(geometry)[first:], mazes.masks(geometry)[first:])


def correct(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Whether every square of the passages is right, (B,)."""
    right = (logits.argmax(1) == targets) | ~passages(inputs)
    return right.flatten(1).all(1)


def find_failures(
    network: IteratedNetwork, examples: Examples, preset: Preset, on_batch: OnBatch
) -> int:
    """How many mazes fail from the network's first state or from a random one.

    See :mod:`.exactness`.
    """
    geometry = geometry_of(preset.options)
    failed: list[Tensor] = []
    for number, start in enumerate(exactness.STARTS):

        def on_part(done: int, count: int, number: int = number) -> None:
            on_batch(number * count + done, len(exactness.STARTS) * count)

        failed.append(
            exactness.failing(
                *(network, examples, preset.iterations),
                geometry=geometry,
                start=start,
                on_batch=on_part,
            )
        )
    return int(torch.stack(failed).any(0).sum())


def show(forming: SolutionTrace) -> list[str]:
    """A line for every iteration until the answer stays as it is, and that answer.

    With ``out`` a picture of each and one of the path.
    """
    image = forming.inputs[0]
    walkable, path = passages(forming.inputs)[0], forming.targets[0].bool()
    answers = [logits[0].argmax(0).bool() & walkable for logits in forming.logits]
    count = pictures.settled(answers)
    lines: list[str] = []
    for iteration, answer in enumerate(answers[:count], start=1):
        wrong = int((answer != path)[walkable].sum())
        verdict = f"{wrong} of {int(walkable.sum())} squares wrong" if wrong else "all right"
        lines.append(f"{iteration:>6}  {verdict}")
    if count < len(answers):
        lines.append(f"{len(answers):>6}  the same")
    lines.append("S: start, E: end, •: the path in the last answer")
    lines += _characters(image, answers[-1])
    if forming.out is not None:
        drawn = forming.logits[:count]
        frames = [_picture(image, logits[0].softmax(0)[1]) for logits in drawn]
        solution = _picture(image, path.float())
        lines.append(pictures.save(frames, solution, "the path", forming.out))
        lines.append("  passages are the bluer the more probable they are on the path")
    return lines


def _characters(image: Tensor, path: Tensor) -> list[str]:
    """A maze in two characters a square: walls filled, the path dotted."""
    codes = (image.long() * torch.tensor([4, 2, 1]).view(3, 1, 1)).sum(0)
    names = {0: "██", 7: "  ", 2: "[green]S[/green] ", 4: "[red]E[/red] "}
    return [
        "".join("• " if dot and code == 7 else names[code] for code, dot in zip(*row, strict=True))
        for row in zip(codes.tolist(), path.tolist(), strict=True)
    ]


def _picture(image: Tensor, probability: Tensor) -> pictures.Picture:
    """A maze, its passages bluer where they more probably belong to the path."""
    colors = image.permute(1, 2, 0).float().numpy() * 255
    plain = image.amin(0).bool().numpy()
    share = probability.numpy()[plain][:, None]
    colors[plain] = (1 - share) * 255 + share * _PATH
    return pictures.enlarged(colors.astype(np.uint8), pictures.scale_of(len(colors)))


TASK = Task(
    name="mazes",
    dimensions=2,
    channels=3,
    classes=2,
    presets=PRESETS,
    build=build,
    correct=correct,
    show=show,
    sources=(Mazes, RecurrentNetwork),
    # The longest paths grow with the number of cells.
    difficulty=lambda size: ((size + 1) // 2) ** 2,
    scored=passages,
    expected=0.99,
    failures=Failures("long runs in mosaics", exactness.COUNT, find_failures),
    unit="maze size",
    size_error=lambda request: size_error(request.size),
    summary="the one path from start to end",
)
