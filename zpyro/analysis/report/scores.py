"""The table of bounds that a report shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zpyro import evaluation
from zpyro.datasets.sequences import Sequences
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.runs import Run

IN_USE = "latents in use"
BASELINES = {
    "gaussian": "baseline: diagonal Gaussian",
    "linear": "baseline: linear predictor",
    "trigram": "baseline: Kneser-Ney trigram",
    "bernoulli": "baseline: every pixel on its own",
    "neighbors": "baseline: given the pixels left and above",
}


@dataclass(frozen=True)
class Score:
    """One row of the table.

    Attributes:
        label: what it is.
        value: its number.
        unit: of the number; empty for a count.
        error: its standard error over sequences, or None.
    """

    label: str
    value: float
    unit: str
    error: float | None = None


def scores(
    run: Run,
    checkpoint: Checkpoint,
    sequences: Sequences,
    *,
    particles: int,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Score]:
    """Bounds of the model on some sequences, and what simple models give them.

    Args:
        run: whose baselines to compare with.
        checkpoint: the model.
        sequences: what to score, on the scale of the training.
        particles: K of the importance-weighted and the particle-filter bound; 1 leaves them out,
            a guide of the user's own the latter.
        batch_size: sequences scored together.
        seed: of the draws.

    Raises:
        UserError: if a bound is not finite.
    """
    module = checkpoint.module
    result = evaluation.evaluate(module, sequences, batch_size=batch_size, seed=seed)
    evaluation.check_finite(result)
    nats = "nats/sequence"
    exact = module.latent_size == 0
    first = "log-likelihood, exact" if exact else "evidence lower bound (ELBO)"
    table = [Score(first, result.elbo, nats, result.elbo_stderr)]
    if not exact:
        if particles > 1:
            tighter = evaluation.iwae(
                module, sequences, particles=particles, batch_size=batch_size, seed=seed
            )
            label = f"importance-weighted bound, {particles} particles"
            table.append(Score(label, tighter.iwae, nats, tighter.stderr))
        # A particle filter moves with the model's own guide.
        if particles > 1 and module.custom_guide is None:
            filtered = evaluation.smc(
                module, sequences, particles=particles, runs=1, batch_size=batch_size, seed=seed
            )
            label = f"particle-filter bound, {particles} particles"
            table.append(Score(label, filtered.smc, nats, filtered.stderr))
        table += [
            Score("log-likelihood given latents", result.log_likelihood, nats),
            Score("KL of posterior from prior", result.kl, nats),
            Score(IN_USE, result.active_units, f"of {module.latent_size}"),
        ]
    per_step = "nats/token" if sequences.data_type == "tokens" else "nats/frame"
    table.append(
        Score(f"{'log-likelihood' if exact else 'ELBO'}, by step", result.elbo_per_frame, per_step)
    )
    if sequences.data_type == "tokens":
        table.append(Score("perplexity, ends counted", result.perplexity, "a token"))
    return table + _baselines(run, checkpoint, sequences)


def _baselines(run: Run, checkpoint: Checkpoint, sequences: Sequences) -> list[Score]:
    fitted = run.baselines(sequences, checkpoint.module.likelihood.size)
    found: list[Score] = []
    for name, baseline in fitted.items():
        values = np.asarray(baseline.score(sequences))
        error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
        label = BASELINES.get(name, f"baseline: {name}")
        found.append(Score(label, float(values.mean()), "nats/sequence", error))
    return found
