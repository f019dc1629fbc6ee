"""The largest of several bounds on the same sequences, as papers on particle filters report it."""

from __future__ import annotations

from typing import NamedTuple

from zpyro.errors import UserError
from zpyro.evaluation.elbo import Evaluation
from zpyro.evaluation.importance_sampling import ImportanceEvaluation
from zpyro.evaluation.particle_filter import FilterEvaluation


class FrameBound(NamedTuple):
    """A bound on the log-probability of a frame; nats.

    Attributes:
        bound: "elbo", "iwae" or "smc".
        nats: sum over all frames / number of frames.
        stderr: its standard error over sequences; NaN for one sequence.
    """

    bound: str
    nats: float
    stderr: float


def largest_per_frame(
    *results: Evaluation | ImportanceEvaluation | FilterEvaluation,
) -> FrameBound:
    """The largest of several bounds per frame, chosen on all sequences together.

    Each is a lower bound in expectation, so the largest is one up to the noise of sampling. FIVO
    (arXiv:1705.09279, section 5) reports the largest of ELBO, IWAE and SMC with 128 particles.

    Args:
        *results: at least one, of the same sequences in the same order.

    Raises:
        UserError: if the results are of different sequences.

    Example::

        largest_per_frame(
            zpyro.evaluate(model, data.test),
            zpyro.iwae(model, data.test, particles=128),
            zpyro.smc(model, data.test, particles=128),
        )
    """
    if any(result.names != results[0].names for result in results):
        raise UserError("the bounds are of different sequences; compute all on one split")
    return max(map(_frame_bound, results), key=lambda found: found.nats)


def _frame_bound(result: Evaluation | ImportanceEvaluation | FilterEvaluation) -> FrameBound:
    if isinstance(result, Evaluation):
        return FrameBound("elbo", result.elbo_per_frame, result.elbo_per_frame_stderr)
    if isinstance(result, ImportanceEvaluation):
        return FrameBound("iwae", result.iwae_per_frame, result.iwae_per_frame_stderr)
    return FrameBound("smc", result.smc_per_frame, result.smc_per_frame_stderr)
