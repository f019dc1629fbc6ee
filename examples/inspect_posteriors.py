"""Posterior samples, conditioning and interventions in plain Pyro, on vowels.

    python examples/inspect_posteriors.py            a minute or two
    python examples/inspect_posteriors.py --steps 20 a quick look

Model and guide are Pyro programs, so everything but the training is plain Pyro.
"""

from __future__ import annotations

from typing import Any

import click
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Importance, Predictive
from torch import Tensor

import zpyro

STEPS = 8
"""Steps of the sequences for the step granularity, which has two sites per step."""


def train(data: Any, steps: int) -> zpyro.ZForcing:
    """A small model trained with stock SVI."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    module = zpyro.ZForcing(
        zpyro.likelihoods.Gaussian(data.frame_size, log_variance_bounds=(-14.0, 8.0)),
        hidden_size=64,
        latent_size=16,
        embedding_size=64,
        mlp_size=64,
    )
    objective = zpyro.ZForcingELBO(kl_weight=0.5, auxiliary_weight=0.005)
    optimizer = pyro.optim.ClippedAdam({"lr": 2e-3, "clip_norm": 1000.0})  # pyright: ignore[reportAttributeAccessIssue]
    svi = SVI(module.model, module.guide, optimizer, loss=objective)
    done = 0
    while done < steps:
        for batch in data.train.batches(16, shuffle=True, epoch=done):
            svi.step(batch.x, batch.lengths, batch.start)
            done += 1
            if done == steps:
                break
    return module.eval()  # pyright: ignore[reportReturnType]


def read(module: zpyro.ZForcing, arguments: tuple[Tensor, ...], draws: int) -> dict[str, Tensor]:
    """Posterior samples in two ways: one from a trace of the guide, many with Predictive."""
    trace = poutine.trace(module.guide).get_trace(*arguments)
    site: Any = trace.nodes["z"]
    many = Predictive(module.guide, num_samples=draws, return_sites=("z",))(*arguments)
    return {
        "one": site["value"],
        "many": many["z"],
        "log_q": site["fn"].log_prob(site["value"]),
    }


def weighed(
    module: zpyro.ZForcing, arguments: tuple[Tensor, ...], draws: int
) -> tuple[float, float]:
    """(log evidence, effective sample size) of stock importance sampling from the guide."""
    importance = Importance(module.model, module.guide, num_samples=draws)
    posterior = importance.run(*arguments)
    evidence, size = posterior.get_log_normalizer(), importance.get_ESS()
    return float(torch.as_tensor(evidence)), float(torch.as_tensor(size))


def condition(model: Any, frames: Tensor, start: Tensor) -> Tensor:
    """Frames that continue given ones, with all latents sampled from the prior: (B, T, D).

    Conditioning does not weight the samples; importance sampling would weight the latents by how
    well they explain the given frames.
    """
    held = {f"x_{t + 1}": frames[:, t] for t in range(STEPS // 2)}
    trace = poutine.trace(poutine.condition(model, data=held)).get_trace(None, STEPS, start)
    return frames_in(trace)


def frames_in(trace: Any) -> Tensor:
    """x_1..x_T of a trace, (B, T, D)."""
    return torch.stack([trace.nodes[f"x_{t + 1}"]["value"] for t in range(STEPS)], dim=1)


def intervene(model: Any, start: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Frames with z_3 sampled, and with z_3 set to 3; the other random numbers are equal."""
    value = torch.full((len(start), size), 3.0)
    runs: list[Tensor] = []
    for program in (model, pyro.do(model, data={"z_3": value})):
        torch.manual_seed(2)
        trace = poutine.trace(program).get_trace(None, STEPS, start)
        runs.append(frames_in(trace))
    return runs[0], runs[1]


@click.command()
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1))
@click.option("--draws", default=20, show_default=True, type=click.IntRange(2))
def main(steps: int, draws: int) -> None:
    """Train a small model on vowels, then read its posterior, condition it and intervene."""
    data = zpyro.datasets.load("vowels")
    module = train(data, steps)
    batch = data.test[:1].batch()
    assert batch.start is not None
    arguments = (batch.x, batch.lengths, batch.start)
    with torch.no_grad():
        found = read(module, arguments, draws)
        spread = found["many"].std(0).mean()
        click.echo(
            f"posterior: z {tuple(found['one'].shape)}, log q {float(found['log_q']):.1f} "
            f"nats, spread over {draws} draws {float(spread):.3f}"
        )
        evidence, effective = weighed(module, arguments, draws)
        click.echo(
            f"importance: log evidence {evidence:.1f} nats, "
            f"{effective:.1f} of {draws} draws effective"
        )
        model, _ = module.program("step")
        frames = condition(model, batch.x, batch.start)
        same = torch.equal(frames[:, : STEPS // 2], batch.x[:, : STEPS // 2])
        click.echo(
            f"conditioned: frames 1 to {STEPS // 2} as given: {same}; the rest drawn, "
            f"root mean square {float(frames[:, STEPS // 2 :].square().mean().sqrt()):.3f}"
        )
        alone, done = intervene(model, batch.start, module.latent_size)
        changed = (alone - done).square().mean((0, 2)).sqrt()
        shown = " ".join(f"{float(each):.3f}" for each in changed)
        click.echo(f"do(z_3 = 3): change of each frame, root mean square: {shown}")


if __name__ == "__main__":
    main()
