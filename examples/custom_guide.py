"""Four guides of one model on vowels, and the bounds that they reach.

    python examples/custom_guide.py            a few minutes
    python examples/custom_guide.py --steps 20 a quick look

Every guide is a plain Pyro guide with the site ``z`` of event shape (T, Z). It is built with the
model and trained together with it. ``zpyro train --guide examples/custom_guide.py:Filtering`` takes
one of them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import transforms
from torch import Tensor, nn

import zpyro
from zpyro.evaluation.custom_guides import path_log_probs
from zpyro.training.custom_guides import attach_guide

HIDDEN = 64


class Filtering(nn.Module):
    """q(z_t | x_1..x_t): a recurrent network that runs forward and does not see later frames."""

    def __init__(self, module: zpyro.SequenceModel) -> None:
        super().__init__()
        self.module = module
        self.recurrent = nn.GRU(module.likelihood.size, HIDDEN, batch_first=True)
        self.output = nn.Linear(HIDDEN, 2 * module.latent_size)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        process = self.module.bind(x, lengths, start)
        # The bound x is zero beyond the lengths.
        mean, log_scale = self.output(self.recurrent(process.x)[0]).chunk(2, dim=-1)
        posterior = dist.Normal(mean, log_scale.clamp(-4.0, 4.0).exp())
        with pyro.plate("sequences", len(x)):
            return pyro.sample("z", valid_only(posterior, process, 1).to_event(2))


class Flow(nn.Module):
    """A smoothing network, and planar flows (arXiv:1505.05770) that transform its Gaussians."""

    def __init__(self, module: zpyro.SequenceModel) -> None:
        super().__init__()
        self.module = module
        size = module.latent_size
        self.recurrent = nn.GRU(
            module.likelihood.size, HIDDEN, batch_first=True, bidirectional=True
        )
        self.output = nn.Linear(2 * HIDDEN, 2 * size)
        self.flows = nn.ModuleList(transforms.Planar(size) for _ in range(2))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        process = self.module.bind(x, lengths, start)
        mean, log_scale = self.output(self._read(process.x, lengths)).chunk(2, dim=-1)
        base = dist.Normal(mean, log_scale.clamp(-4.0, 4.0).exp()).to_event(1)
        # Without a closed-form KL, the objective takes log q - log p at the sampled z.
        posterior = dist.TransformedDistribution(base, list(self.flows))
        with pyro.plate("sequences", len(x)):
            return pyro.sample("z", valid_only(posterior, process, 0).to_event(1))

    def _read(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """States that depend on each sequence and not on its padding."""
        counts = torch.full((len(x),), x.shape[1]) if lengths is None else lengths.cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            x, counts, batch_first=True, enforce_sorted=False
        )
        states = self.recurrent(packed)[0]
        return nn.utils.rnn.pad_packed_sequence(states, True, total_length=x.shape[1])[0]


class StepByStep(nn.Module):
    """The filtering guide again, in the step granularity: a site z_t for every step."""

    granularity = "step"

    def __init__(self, module: zpyro.SequenceModel) -> None:
        super().__init__()
        self.module = module
        self.cell = nn.GRUCell(module.likelihood.size, HIDDEN)
        self.output = nn.Linear(HIDDEN, 2 * module.latent_size)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, start: Tensor | None = None
    ) -> Tensor:
        process = self.module.bind(x, lengths, start)
        valid = process.conditions.mask
        state, latents = x.new_zeros(len(x), HIDDEN), list[Tensor]()
        with pyro.plate("sequences", len(x)):
            for t in range(process.steps):
                state = self.cell(process.x[:, t], state)
                mean, log_scale = self.output(state).chunk(2, dim=-1)
                step = dist.Normal(mean, log_scale.clamp(-4.0, 4.0).exp()).to_event(1)
                mask: Any = True if valid is None else valid[:, t]
                with poutine.mask(mask=mask):
                    latents.append(pyro.sample(f"z_{t + 1}", step))
        return torch.stack(latents, dim=1)


def valid_only(distribution: Any, process: Any, event_dims: int) -> Any:
    """The distribution with the steps beyond the lengths masked out."""
    valid = process.conditions.mask
    if valid is None:
        return distribution
    return distribution.mask(valid.reshape(*valid.shape, *(1,) * event_dims))


GUIDES: dict[str, Callable[[zpyro.SequenceModel], nn.Module] | None] = {
    "built in, smoothing": None,
    "filtering": Filtering,
    "smoothing and flow": Flow,
    "filtering, step by step": StepByStep,
}


def train(
    make: Callable[[zpyro.SequenceModel], nn.Module] | None, data: Any, steps: int
) -> zpyro.SequenceModel:
    """The same model from the same first weights, trained with a guide."""
    torch.manual_seed(0)
    module = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(data.frame_size, log_variance_bounds=(-14.0, 8.0)),
        hidden_size=HIDDEN,
        latent_size=16,
        embedding_size=HIDDEN,
        mlp_size=HIDDEN,
    )
    if make is not None:
        attach_guide(module, make(module))
    objective = zpyro.ZForcingELBO(zpyro.schedules.linear(0.2, 1.0, steps=max(1, steps // 2)))
    loss = objective(module.model, module.active_guide)
    optimizer = torch.optim.Adam(module.parameters(), lr=2e-3)
    torch.manual_seed(1)
    for batch, _ in zip(endless(data.train), range(steps), strict=False):
        optimizer.zero_grad()
        (loss(batch.x, batch.lengths, batch.start) / len(batch)).backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1000.0)
        optimizer.step()
    return module.eval()


def endless(sequences: Any) -> Any:
    epoch = 0
    while True:
        yield from sequences.batches(16, shuffle=True, epoch=epoch)
        epoch += 1


def bounds(module: zpyro.SequenceModel, data: Any, particles: int) -> tuple[float, float]:
    """(ELBO, IWAE) in nats a sequence, from the same paths; nothing but p and q enters.

    IWAE is log (1 / K) sum_k p(x, z_k) / q(z_k | x) (arXiv:1509.00519).
    """
    if module.custom_guide is None:
        attach_guide(module, module.guide)
    elbo = iwae = 0.0
    for batch in data.batches(64):
        paths = [path_log_probs(module, batch, 0, draw)[:3] for draw in range(particles)]
        sums = [likelihood + prior - q for likelihood, prior, q in paths]
        weights = torch.stack(sums).cpu().double()
        elbo += float(weights.mean(0).sum())
        iwae += float((weights.logsumexp(0) - torch.tensor(float(particles)).log()).sum())
    return elbo / len(data), iwae / len(data)


@click.command()
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1))
@click.option("--particles", default=25, show_default=True, type=click.IntRange(1))
def main(steps: int, particles: int) -> None:
    """Train every guide with the same model on vowels, and print their bounds."""
    data = zpyro.datasets.load("vowels")
    click.echo(f"{'guide':26}{'ELBO':>10}{f'IWAE {particles}':>10}   nats/sequence, held out")
    for name, make in GUIDES.items():
        elbo, iwae = bounds(train(make, data, steps), data.valid, particles)
        click.echo(f"{name:26}{elbo:10.1f}{iwae:10.1f}")


if __name__ == "__main__":
    main()
