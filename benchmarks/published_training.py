"""Train the published algorithm of ``benchmarks.published`` as the preset ``fsdd`` trains.

    python -m benchmarks.published_training RECORDINGS --minutes 8 --auxiliary-weight 0.005

It prints the bound on the validation recordings after every second epoch, and at the end that on
the test recordings for the best weights, which the table in the README compares with zpyro's.
"""

from __future__ import annotations

import copy
import itertools
import time
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.published import PublishedZForcing, Terms
from zpyro import datasets
from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences

HIDDEN, LATENT, EMBEDDING, WIDTH, FRAME = 256, 64, 128, 128, 200
BATCH = 32
KL_START, KL_RATE = 0.2, 5e-4


@click.command()
@click.argument("recordings", type=click.Path(path_type=Path))
@click.option("--minutes", default=8.0, show_default=True)
@click.option("--auxiliary-weight", default=0.0, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(
    recordings: Path, minutes: float, auxiliary_weight: float, threads: int, seed: int
) -> None:
    """Train for a number of minutes, validation included."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    data = datasets.load(
        "wav", recordings, valid_files="*_[5-7].wav", test_files="*_[0-4].wav", frame_size=FRAME
    )
    model = PublishedZForcing(FRAME, HIDDEN, LATENT, EMBEDDING, WIDTH)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    started, step, best = time.monotonic(), 0, float("-inf")
    weights = copy.deepcopy(model.state_dict())
    for epoch in itertools.count():
        for batch in data.train.batches(BATCH, shuffle=True, seed=seed, epoch=epoch):
            terms = run(model, batch)
            kl_weight = min(1.0, KL_START + KL_RATE * step)
            objective = terms.log_likelihood - kl_weight * terms.kl
            loss = -(objective + auxiliary_weight * terms.log_auxiliary).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            optimizer.step()
            step += 1
        elapsed = time.monotonic() - started
        if epoch % 2 == 1 or elapsed > 60 * minutes:
            bound = score(model, data.valid)
            click.echo(f"step {step}  epoch {epoch + 1}  {elapsed:.0f} s  held out {bound:.1f}")
            if bound > best:
                best, weights = bound, copy.deepcopy(model.state_dict())
        if elapsed > 60 * minutes:
            break
    model.load_state_dict(weights)
    click.echo(f"best held out {best:.1f}, test {score(model, data.test):.1f} nats/recording")


def run(model: PublishedZForcing, batch: Batch) -> Terms:
    """The terms of a padded batch, time-major."""
    assert batch.start is not None
    x = batch.x.transpose(0, 1)
    inputs = torch.cat([batch.start.unsqueeze(0), x[:-1]])
    mask = (torch.arange(len(x)).unsqueeze(1) < batch.lengths).to(x.dtype)
    return model(inputs, x, torch.randn(*x.shape[:2], LATENT), mask)


@torch.no_grad()
def score(model: PublishedZForcing, sequences: Sequences) -> float:
    """The bound, nats per recording, with one sample of the latents."""
    bounds: list[Tensor] = []
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for batch in sequences.batches(BATCH):
            terms = run(model, batch)
            bounds.append(terms.log_likelihood - terms.kl)
    return float(torch.cat(bounds).mean())


if __name__ == "__main__":
    main()
