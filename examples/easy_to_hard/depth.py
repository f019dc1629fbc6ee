"""The number of iterations (depth) as a latent variable, marginalized exactly.

With states h_1..h_m of an iterated network on inputs x, the generative process is::

    before iteration t   time is up with probability 1 - patience
    after iteration t    stop with probability s_t = sigmoid(min over cells of f)
    depth                p(t | x) = patience^t s_t prod_{j<t} (1 - s_j)
    answers              p(y | x, t) = prod over cells of Categorical(y | head(h_t))
                         where time ran out before a stop, every answer is equally likely

The prior over depth is geometric where s is constant. f is a learned function, of a cell's state
(:class:`StopByState`) or of how much the iteration changed it (:class:`StopAtRest`). The second
holds for problems of any size, as an answer that is still forming changes states.
A finite patience makes the shorter of two equally good depths the likelier one. The depth has m + 1
values, so the evidence and the posterior are sums of m + 1 terms::

    log p(y | x)   = logsumexp_t [ log p(t | x) + log p(y | x, t) ]
    p(t | x, y)    = p(t | x) p(y | x, t) / p(y | x)

The network's own stopping rule is to stop at the first t with s_t >= 1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.nn import pyro_method
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.nn import functional

from .networks import IteratedNetwork
from .programs import (
    RecurrentSolver,
    Scored,
    answer_distribution,
    at_least_float32,
    flattened,
    sample_progress,
    scaled,
)
from .solvers import Answer, FixedDepthSolver

PATIENCE = 0.98
NO_EVIDENCE_SHARE = 0.5
"""The share of a training without the evidence. With the evidence from the first step on, a network
learns to stop before its states are useful, and learns neither."""


@dataclass(frozen=True, eq=False)
class Depths:
    """Prior and answers for every depth 1..m and, last, for the case that time ran out.

    Attributes:
        log_prior: log p(t | x), (B, m + 1), nats.
        logits: of the answers, (B, m + 1, classes, cells); zeros for the guess at the end.
        last: of the answers after m iterations, (B, classes, *cells).
    """

    log_prior: Tensor
    logits: Tensor
    last: Tensor


class StopByState(nn.Module):
    """Whether cells are ready for a stop, as a linear function of their states.

    Args:
        width: channels of a state.
        iterations: the greatest depth in training.
    """

    def __init__(self, width: int, iterations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width))
        # A geometric prior with half of the greatest depth as its mean.
        self.bias = nn.Parameter(torch.full((1,), -math.log(max(1.0, iterations / 2 - 1))))

    def forward(self, state: Tensor, before: Tensor) -> Tensor:
        """The log-odds of a stop for each cell, (B, *cells), from states (B, width, *cells)."""
        del before
        return functional.linear(state.movedim(1, -1), self.weight, self.bias).squeeze(-1)


class StopAtRest(nn.Module):
    """Whether cells are ready for a stop, as a falling function of the change of their states.

    The log-odds are b - softplus(w) c, where c is the largest change of a channel and b and w are
    learned. They begin at 2 for a state at rest and at 0 for a change of 1/2.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(4.0))
        self.bias = nn.Parameter(torch.tensor(2.0))

    def forward(self, state: Tensor, before: Tensor) -> Tensor:
        """The log-odds of a stop for each cell, (B, *cells), from states (B, width, *cells)."""
        change = (state - before).abs().amax(1)
        return self.bias - functional.softplus(self.weight) * change


class LatentDepthSolver(RecurrentSolver):
    """A recurrent solver whose number of iterations is the latent site ``depth``.

    ``model(inputs, targets)`` has the sites ``depth`` (enumerated in parallel) and ``answers``;
    ``training_model`` has the evidence and the progressive term, see there. Both are used with the
    empty guide and ``TraceEnum_ELBO``.

    Args: as in :class:`RecurrentSolver` (``iterations`` is the greatest depth, and
        ``progressive_weight`` is used while there is no evidence term), and
        patience: the probability of having time for another iteration.
        evidence_weight: w, of the evidence term; the progressive term has 1 - w.
        stop_on_change: whether :class:`StopAtRest` decides to stop, not :class:`StopByState`.
    """

    def __init__(
        self,
        network: IteratedNetwork,
        iterations: int,
        progressive_weight: float,
        scored: Scored | None = None,
        extra_iterations: int = 0,
        patience: float = PATIENCE,
        evidence_weight: float = 0.5,
        stop_on_change: bool = False,
    ) -> None:
        super().__init__(network, iterations, progressive_weight, scored, extra_iterations)
        self.patience = patience
        self.evidence_weight = evidence_weight
        self.done = StopAtRest() if stop_on_change else StopByState(network.width, iterations)

    def stop_logits(self, state: Tensor, before: Tensor, inputs: Tensor) -> Tensor:
        """The log-odds of stopping, (B,): the smallest over the cells.

        Args:
            state: after an iteration, (B, width, *cells).
            before: before it.
            inputs: problems, (B, channels, *cells).
        """
        ready = self.done(at_least_float32(state), at_least_float32(before)).flatten(1)
        if self.scored is not None:
            ready = ready.where(self.scored(inputs).flatten(1), ready.new_tensor(torch.inf))
        return ready.amin(1)

    def depths(self, inputs: Tensor, iterations: int, before: int = 0) -> Depths:
        """The prior over depths and the answers at each.

        Args:
            inputs: problems, (B, channels, *cells).
            iterations: the greatest depth, counted from here.
            before: how many iterations were done, without gradient, and did not end in a stop.
        """
        state = self.network.initial_state(inputs)
        if before:
            with torch.no_grad():
                state = self.network.iterate_from(state, inputs, before)
        stops, logits = [], []
        for iteration in range(before, before + iterations):
            last, state = state, self.network.iterate_from(state, inputs, 1, iteration)
            stops.append(self.stop_logits(state, last, inputs))
            logits.append(at_least_float32(self.network.answer(state)))
        prior = depth_prior(torch.stack(stops, 1), self.patience)
        flat = [each.flatten(2) for each in logits]
        return Depths(prior, torch.stack([*flat, torch.zeros_like(flat[0])], 1), logits[-1])

    @pyro_method
    def model(
        self, inputs: Tensor, targets: Tensor | None = None, iterations: int | None = None
    ) -> Tensor:
        """The answers after a random number of iterations; returns them, (..., B, cells).

        Arguments are as in :meth:`RecurrentSolver.model`; ``iterations`` is the greatest depth.
        """
        depths = self.depths(inputs, self.iterations if iterations is None else iterations)
        return self.observe(depths, inputs, targets)

    @pyro_method
    def depth_model(self, inputs: Tensor, targets: Tensor) -> None:
        """The progressive loss without the evidence."""
        super().training_model(inputs, targets)

    @pyro_method
    def training_model(self, inputs: Tensor, targets: Tensor) -> None:
        """w times the evidence, and 1 - w times the progressive term along the same iterations.

        As in the progressive loss, n iterations are done without gradient and k with. The evidence
        is that of depths n + 1..n + k given that there was no stop before. The prior depends on the
        state only, so it is the same prior from there.
        """
        before, count = sample_progress(self.iterations, self.extra_iterations)
        depths = self.depths(inputs, count, before)
        with scaled(self.evidence_weight):
            self.observe(depths, inputs, targets)
        # A program may enter a plate only once, so these have other names.
        with (
            pyro.plate("progressive_examples", len(inputs), dim=-2),
            self.cells_of_each(inputs, "progressive_cells"),
            scaled(1 - self.evidence_weight),
        ):
            distribution = answer_distribution(depths.last)
            pyro.sample("progressive_answers", distribution, obs=flattened(targets))

    def observe(self, depths: Depths, inputs: Tensor, targets: Tensor | None) -> Tensor:
        """The sites ``depth`` and ``answers``."""
        rows = torch.arange(len(inputs), device=inputs.device).unsqueeze(-1)
        columns = torch.arange(depths.logits.shape[-1], device=inputs.device)
        enumerate_it: Any = {"enumerate": "parallel"}
        with self.every_example(inputs, targets):
            prior = dist.Categorical(logits=depths.log_prior.unsqueeze(1), validate_args=False)
            depth = pyro.sample("depth", prior, infer=enumerate_it)
            by_cell = depths.logits.transpose(2, 3)
            chosen = Vindex(by_cell)[rows, depth, columns]
            with self.cells_of_each(inputs):
                answers = dist.Categorical(logits=chosen, validate_args=False)
                return pyro.sample("answers", answers, obs=flattened(targets))

    def posterior(
        self, inputs: Tensor, targets: Tensor, iterations: int | None = None, before: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The evidence log p(y | x), (B,), nats, and log p(t | x, y), (B, m + 1), exactly.

        Args:
            inputs: problems, (B, channels, *cells).
            targets: answers, (B, *cells).
            iterations: the greatest depth, counted from ``before``; by default as in training.
            before: see :meth:`depths`.
        """
        count = self.iterations if iterations is None else iterations
        depths = self.depths(inputs, count, before)
        scores = depths.logits.log_softmax(2)
        answers = targets.flatten(1).long()[:, None, None].expand(-1, scores.shape[1], 1, -1)
        log_likelihood = scores.gather(2, answers).squeeze(2)
        if self.scored is not None:
            log_likelihood = log_likelihood * self.scored(inputs).flatten(1).unsqueeze(1)
        joint = depths.log_prior + log_likelihood.sum(-1)
        evidence = joint.logsumexp(1)
        return evidence, joint - evidence.unsqueeze(1)


def depth_prior(stop_logits: Tensor, patience: float) -> Tensor:
    """log p(t | x), (B, m + 1), from the log-odds of stopping after each iteration, (B, m).

    The last entry is the probability that time ran out before a stop.
    """
    stop, go_on = functional.logsigmoid(stop_logits), functional.logsigmoid(-stop_logits)
    count = stop_logits.shape[1]
    steps = torch.arange(count, device=stop_logits.device)
    log_patience = torch.tensor(patience, dtype=stop_logits.dtype).log().item()
    # Not stopped after iterations 1..t-1, for t = 1..m + 1.
    reached = functional.pad(go_on.cumsum(1), (1, 0))
    stopped = (steps + 1) * log_patience + reached[:, :-1] + stop
    never = reached[:, -1:] + count * log_patience
    if patience == 1:
        return torch.cat([stopped, never], 1)
    time_up = torch.tensor(1 - patience, dtype=stop_logits.dtype).log().item()
    out_of_time = steps * log_patience + reached[:, :-1] + time_up
    return torch.cat([stopped, torch.cat([out_of_time, never], 1).logsumexp(1, keepdim=True)], 1)


class LatentDepthTrainer(FixedDepthSolver):
    """Trains a :class:`LatentDepthSolver` through stock ``TraceEnum_ELBO``.

    The first half of the training (:data:`NO_EVIDENCE_SHARE`) is without the evidence.

    Args:
        recurrent: the Pyro programs.
    """

    def __init__(self, recurrent: LatentDepthSolver) -> None:
        super().__init__(recurrent)
        self.latent_depth = recurrent
        self.enumeration = TraceEnum_ELBO(max_plate_nesting=2)
        self.with_evidence = True

    def at(self, fraction: float, *, grown: bool) -> None:
        super().at(fraction, grown=grown)
        self.with_evidence = fraction >= NO_EVIDENCE_SHARE

    def objective(self) -> tuple[Trace_ELBO | TraceEnum_ELBO, Callable[..., None]]:
        if self.with_evidence:
            return self.enumeration, self.latent_depth.training_model
        return self.elbo, self.latent_depth.depth_model

    @property
    def repeated_network(self) -> None:
        # It stops by itself, which only the answers of every iteration show.
        return None

    def answers(self, inputs: Tensor, iterations: int) -> Iterator[Answer]:
        network = self.latent_depth.network
        last = network.initial_state(inputs)
        for state in network.states(inputs, iterations):
            stop = self.latent_depth.stop_logits(state, last, inputs).sigmoid()
            yield Answer(network.answer(state), stop)
            last = state
