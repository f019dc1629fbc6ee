"""Iterated networks as Pyro programs: a categorical site for every cell of an answer.

The programs have no latents of their own, so stock ``Trace_ELBO`` with the empty guide is maximum
likelihood; :func:`random_weights` turns the weights into latents, and then priors, ``AutoGuide``s
and ``Predictive`` work as for any Pyro model. :mod:`.depth` adds a latent number of iterations.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, PyroSample, pyro_method
from pyro.nn.module import to_pyro_module_
from torch import Tensor

from .networks import IteratedNetwork

Scored = Callable[[Tensor], Tensor]
"""From inputs (B, channels, *cells) to the cells that count, (B, *cells), True or False."""

LARGEST_RANDOM = 5.0
"""Of the factors of rectified normal numbers in random states, relative to the mean state."""

_serial_numbers = itertools.count(1)


class RecurrentSolver(PyroModule):
    """Answers p(y | x) after a given number of iterations, and the progressive loss.

    - ``model(inputs, targets)`` is the likelihood after ``iterations`` iterations,
    - ``training_model(inputs, targets)`` holds the two terms of the progressive loss as sites
      weighted with ``poutine.scale``,
    - ``guide`` is empty and goes with both.

    Inputs are (B, channels, *cells), targets (B, *cells) whole numbers; cells are flattened to
    one dimension within the plates ``examples`` (dim -2) and ``cells`` (dim -1).

    Args:
        network: the iterated network.
        iterations: m, the number of iterations in training.
        progressive_weight: a, the weight of the progressive term.
        scored: which cells count; all by default.
        extra_iterations: in half of the batches n grows by up to this many iterations, so that an
            answer is kept once it is found; 0 as published.
        path_independence: the share of batches in which the progressive term starts from the state
            of another problem, or from a random one (a third of the share). With a share above 0
            the term always takes all m iterations with gradient, from a state after up to
            ``extra_iterations`` without, so that all starts must lead to one answer
            (arXiv:2211.09961).
        state_noise: see :meth:`.networks.IteratedNetwork.iterate_from`; in training only.
        label_smoothing: the share of the target that is spread evenly over all classes.

    Source: equation 1 and algorithm 1 of arXiv:2202.05826.
    """

    def __init__(
        self,
        network: IteratedNetwork,
        iterations: int,
        progressive_weight: float,
        scored: Scored | None = None,
        extra_iterations: int = 0,
        path_independence: float = 0.0,
        state_noise: float = 0.0,
        label_smoothing: float = 0.0,
    ) -> None:
        # A unique name, because Pyro's parameter store is shared by all of them.
        super().__init__(f"recurrent_solver_{next(_serial_numbers)}")
        self.network = network
        self.iterations = iterations
        self.progressive_weight = progressive_weight
        self.scored = scored
        self.extra_iterations = extra_iterations
        self.path_independence = path_independence
        self.state_noise = state_noise
        self.label_smoothing = label_smoothing
        self.data_size: int | None = None

    @pyro_method
    def model(
        self, inputs: Tensor, targets: Tensor | None = None, iterations: int | None = None
    ) -> Tensor:
        """The answers after ``iterations`` iterations; returns them, (B, cells).

        Args:
            inputs: problems, (B, channels, *cells).
            targets: answers, (B, *cells); None samples them.
            iterations: by default as many as in training.
        """
        count = self.iterations if iterations is None else iterations
        logits = self.network(inputs, count)
        with self.every_example(inputs, targets), self.cells_of_each(inputs):
            return pyro.sample("answers", answer_distribution(logits), obs=flattened(targets))

    @pyro_method
    def training_model(self, inputs: Tensor, targets: Tensor) -> None:
        """The progressive loss (1 - a) L_max + a L_prog as weighted log-likelihoods.

        L_max is the loss after all m iterations. L_prog is the loss after n iterations without
        gradient and k with, n ~ U{0..m-1} and k ~ U{1..m-n}, which trains the block to improve
        any state, also after m iterations. A term of weight 0 is not computed.
        """
        if self.path_independence:
            answers = self.independent_answers(inputs)
        else:
            before, count = sample_progress(self.iterations, self.extra_iterations)
            answers = self.progressive_answers(inputs, before, count)
        # Computed outside the plates: the weights may be latents.
        terms = list(answers)
        cells, smoothing = flattened(targets), self.label_smoothing
        assert cells is not None
        with self.every_example(inputs, targets), self.cells_of_each(inputs):
            for name, weight, logits in terms:
                distribution = answer_distribution(logits)
                with scaled(weight * (1 - smoothing)):
                    pyro.sample(name, distribution, obs=cells)
                for each in range(logits.shape[1]) if smoothing else ():
                    with scaled(weight * smoothing / logits.shape[1]):
                        obs = torch.full_like(cells, each)
                        pyro.sample(f"{name}_class_{each}", distribution, obs=obs)

    def progressive_answers(
        self, inputs: Tensor, before: int, count: int
    ) -> Iterator[tuple[str, float, Tensor]]:
        """The sites of the progressive loss: (name, weight, logits (B, classes, *cells)).

        Args:
            inputs: problems, (B, channels, *cells).
            before: n, how many iterations the progressive term does without gradient.
            count: k, how many it does with.
        """
        weight, network = self.progressive_weight, self.network
        first = network.initial_state(inputs)
        with torch.set_grad_enabled(weight < 1 and torch.is_grad_enabled()):
            early = network.iterate_from(first, inputs, before)
        if weight < 1:
            # After extra iterations more than m are done, so m are done from the start.
            start, done = (early, before) if before < self.iterations else (first, 0)
            late = network.iterate_from(start, inputs, self.iterations - done, done)
            yield "answers", 1 - weight, network.answer(late)
        if weight > 0:
            # At n = 0 the projection is part of the progressive term, as published.
            state = early.detach() if before else first
            logits = network.answer(network.iterate_from(state, inputs, count, before))
            yield "progressive_answers", weight, logits

    def independent_answers(self, inputs: Tensor) -> Iterator[tuple[str, float, Tensor]]:
        """The sites of the loss with path independence, as :meth:`progressive_answers` has them."""
        weight, network = self.progressive_weight, self.network
        first = network.initial_state(inputs)
        # Both terms take m iterations, so they are computed as one batch.
        states = torch.cat([first, self.sample_start(inputs, first.detach())])
        twice = torch.cat([inputs, inputs])
        late = network.iterate_from(states, twice, self.iterations, noise=self.state_noise)
        answers, progressive_answers = network.answer(late).chunk(2)
        yield "answers", 1 - weight, answers
        yield "progressive_answers", weight, progressive_answers

    @torch.no_grad()
    def sample_start(self, inputs: Tensor, first: Tensor) -> Tensor:
        """A state to start from: after some iterations, of another problem, or random.

        Args:
            inputs: problems, (B, channels, *cells).
            first: their initial states, (B, width, *cells).
        """
        most = max(self.iterations, self.extra_iterations)
        before = int(torch.randint(0, most + 1, ()))
        state = self.network.iterate_from(first, inputs, before, noise=self.state_noise)
        lot = float(torch.rand(())) / self.path_independence
        if lot < 2 / 3:
            return state[torch.randperm(len(state), device=state.device)]
        if lot < 1:
            # Zero in half of the places, with up to twice the mean of the states.
            size = LARGEST_RANDOM * float(torch.rand(()))
            return torch.randn_like(state).relu() * state.mean() * size
        return state

    def guide(self, *arguments: Any, **settings: Any) -> None:
        """The empty guide: there are no latents."""

    @contextlib.contextmanager
    def every_example(
        self, inputs: Tensor, targets: Tensor | None = None
    ) -> Generator[None, None, None]:
        """The plate of examples; where weights are latents, a batch represents all the data."""
        examples = inputs.shape[0]
        size = examples if targets is None or self.data_size is None else self.data_size
        with pyro.plate("examples", examples, dim=-2), scaled(size / examples):
            yield

    @contextlib.contextmanager
    def cells_of_each(self, inputs: Tensor, plate: str = "cells") -> Generator[None, None, None]:
        """The plate of cells, with those that do not count masked out."""
        mask = True if self.scored is None else self.scored(inputs).flatten(1)
        masked: Any = poutine.mask(mask=mask)  # pyright: ignore[reportCallIssue, reportArgumentType]
        with pyro.plate(plate, inputs[0, 0].numel(), dim=-1), masked:
            yield

    def num_scored(self, inputs: Tensor) -> int:
        """How many cells of a batch count: the denominator of the mean loss."""
        if self.scored is None:
            return inputs.shape[0] * inputs[0, 0].numel()
        return int(self.scored(inputs).sum())


def sample_progress(iterations: int, extra_iterations: int = 0) -> tuple[int, int]:
    """n ~ U{0..m-1} iterations to do without gradient, then k ~ U{1..m-n} with.

    In half of the calls, U{0..extra_iterations} iterations without gradient are added.
    """
    before = int(torch.randint(0, iterations, ()))
    count = int(torch.randint(1, iterations - before + 1, ()))
    if extra_iterations and bool(torch.rand(()) < 0.5):
        before += int(torch.randint(0, extra_iterations + 1, ()))
    return before, count


def random_weights(
    recurrent: RecurrentSolver, data_size: int, scale: float = 1.0
) -> RecurrentSolver:
    """Turn every weight of a recurrent solver's network into a latent, in place.

    Weights get independent normal priors of mean zero and the standard deviation ``scale`` /
    sqrt(fan in), at which activations keep their size. Train with ``recurrent.training_model`` and
    an ``AutoGuide`` of ``recurrent.model``; ``AutoDelta`` is weight decay.

    Args:
        recurrent: its network's weights become Pyro samples.
        data_size: how many examples there are, which sets how much a batch weighs.
        scale: of the prior, relative to 1 / sqrt(fan in).
    """
    recurrent.data_size = data_size
    to_pyro_module_(recurrent.network)
    for module in recurrent.network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            deviation = scale / weight[0].numel() ** 0.5
            prior = dist.Normal(torch.zeros_like(weight), deviation).to_event(weight.dim())
            delattr(module, name)
            setattr(module, name, PyroSample(prior))
    return recurrent


def answer_distribution(logits: Tensor) -> dist.Categorical:
    """The distribution of every cell's answer, from logits (B, classes, *cells)."""
    logits = at_least_float32(logits).flatten(2).transpose(1, 2)
    return dist.Categorical(logits=logits, validate_args=False)


def at_least_float32(values: Tensor) -> Tensor:
    """Values in a type in which probabilities can be summed."""
    return values.float() if values.element_size() < 4 else values


def flattened(targets: Tensor | None) -> Tensor | None:
    """Answers (B, *cells) as the sites hold them, (B, cells)."""
    return None if targets is None else targets.flatten(1).long()


def scaled(weight: float) -> Any:
    """Weight the log-probabilities of all sites within."""
    return poutine.scale(scale=weight)  # pyright: ignore[reportCallIssue]
