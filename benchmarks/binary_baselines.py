"""Simple densities of binary images: ``python -m benchmarks.binary_baselines FOLDER``.

Prints nats per image on the validation and test images of ``mnist`` for independent pixels, for
pixels given the ones to the left and above (the two baselines of ``zpyro evaluate``), and for a
logistic regression of every pixel on all previous pixels, the fully visible sigmoid belief network
(Frey, Hinton and Dayan, 1996). The likelihood of the latter is concave; it is maximized with a
ridge penalty that is selected on the validation images.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from zpyro import datasets
from zpyro.datasets.sequences import Sequences
from zpyro.evaluation.baselines import binary as binary_baselines

RIDGES = (1e-2, 3e-3, 1e-3, 3e-4)
"""Penalty of half the squared weights, nats per image; each fit starts from the previous one."""

ITERATIONS = 200
SCORED = 2000


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--downsample", default=1, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--ridge", "ridges", multiple=True, type=float, default=RIDGES, show_default=True)
def main(folder: Path, downsample: int, threads: int, ridges: tuple[float, ...]) -> None:
    """Print one line per baseline."""
    torch.set_num_threads(threads)
    data = datasets.load("mnist", folder, row_by_row=True, downsample=downsample)
    for name, fit_table in binary_baselines.FITS.items():
        table = fit_table(data.train)
        valid, test = table.score(data.valid), table.score(data.test)
        click.echo(f"{name:10}  valid {valid.mean():8.2f}  test {test.mean():8.2f}")
    train, valid, test = (pixels(data.split(name)) for name in ("train", "valid", "test"))
    best: tuple[float, float, float] | None = None
    weight, offset = initial(train)
    for ridge in ridges:
        slope = fit(weight, offset, train, ridge)
        scores = [score(weight, offset, part).mean().item() for part in (valid, test)]
        best = max(best or (-np.inf, 0.0, 0.0), (scores[0], scores[1], ridge))
        click.echo(
            f"logistic    valid {scores[0]:8.2f}  test {scores[1]:8.2f}"
            f"  (ridge {ridge:g}, largest gradient {slope:.1e})"
        )
    assert best is not None
    click.echo(f"logistic    valid {best[0]:8.2f}  test {best[1]:8.2f}  best on validation")


def pixels(sequences: Sequences) -> Tensor:
    """Images as rows of pixels, (N, P)."""
    return torch.from_numpy(np.stack([v.reshape(-1) for v in sequences.values])).float()


def initial(train: Tensor) -> tuple[Tensor, Tensor]:
    """Zero weights and the offsets of independent pixels, (P, P) and (P,)."""
    size = train.shape[1]
    on = (train.sum(0) + 0.5) / (len(train) + 1.0)
    return torch.zeros(size, size).requires_grad_(), torch.logit(on).requires_grad_()


def fit(weight: Tensor, offset: Tensor, train: Tensor, ridge: float) -> float:
    """Optimize weights and offsets in place; returns the largest absolute gradient."""
    optimizer = torch.optim.LBFGS(
        [weight, offset],
        max_iter=ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        cost = ridge / 2 * weight.tril(-1).square().sum() - score(weight, offset, train).mean()
        cost.backward()
        return cost

    optimizer.step(closure)
    slopes = [part.grad for part in (weight, offset)]
    return max(float(slope.abs().max()) for slope in slopes if slope is not None)


def score(weight: Tensor, offset: Tensor, images: Tensor) -> Tensor:
    """log-probability of each image, nats, (N,); a pixel depends on previous ones only."""
    lower = weight.tril(-1)
    scores: list[Tensor] = []
    for part in images.split(SCORED):
        logits = functional.linear(part, lower, offset)
        costs = functional.binary_cross_entropy_with_logits(logits, part, reduction="none")
        scores.append(-costs.sum(1))
    return torch.cat(scores)


if __name__ == "__main__":
    main()
