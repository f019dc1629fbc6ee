"""A linear-Gaussian model of series with missing values and covariates, and its Kalman filter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zpyro.likelihoods import Gaussian
from zpyro.models import SequenceModel
from zpyro.models.steps import join
from zpyro.nn.layers import MissingEmbedding, State

SIZE = 2


class LinearSeries(SequenceModel):
    """z_t ~ N(a h_{t-1} + b.u_t, q), h_t = z_t + e_t, x_t ~ N(c h_t, diag r), and
    e_t = d w.x_{t-1} + v.(1 - m_{t-1}) with x zero-filled and its mask m.

    The guide is p(z_t | h_{t-1}, observed part of x_t..x_T): b_t is the information filter
    (eta_t, lambda_t) of those frames, with p(x_t..x_T | h_t) proportional to
    exp(eta_t h_t - lambda_t h_t^2 / 2), and e_t.
    """

    def __init__(self, covariates: int = 0, feedback: float = 0.3, **settings: str) -> None:
        super().__init__(Gaussian(SIZE), 1, 1, missing=True, covariate_size=covariates, **settings)
        self.a, self.q, self.d = 0.8, 0.5, feedback
        self.w = nn.Parameter(torch.tensor([0.7, -0.4], dtype=torch.float64))
        self.c = nn.Parameter(torch.tensor([1.3, -0.6], dtype=torch.float64))
        self.r = torch.tensor([0.4, 0.9], dtype=torch.float64)
        self.b = torch.tensor([0.5, -0.8], dtype=torch.float64)[:covariates]
        self.missing_embedding = MissingEmbedding(SIZE, 1).double()
        self.missing_embedding.linear.weight.data = feedback * torch.tensor([[0.6, 1.1]]).double()

    def initial_state(self, rows: int) -> State:
        zeros = torch.zeros(rows, 1, dtype=torch.float64)
        return zeros, zeros

    def embed(self, frames: Tensor) -> Tensor:
        return self.d * (frames * self.w).sum(-1, keepdim=True)

    def prepare(self, inputs: Tensor, state: State) -> State:
        """(h_{t-1}, a h_{t-1} + b.u_t)."""
        return state[0], self.a * state[0] + self.drift(inputs)

    def drift(self, inputs: Tensor) -> Tensor:
        """b.u_t."""
        return (inputs[..., 1:] * self.b).sum(-1, keepdim=True)

    def context(self, state: State) -> Tensor:
        return join(*state)

    def transition(self, z: Tensor, inputs: Tensor, state: State) -> State:
        hidden = z + inputs[..., :1]
        return hidden, hidden

    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        mean = context[..., 1:]
        return mean, torch.full_like(mean, math.log(self.q))

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        eta, lam, shift = future.split(1, dim=-1)
        precision = 1.0 / self.q + lam
        mean = ((context[..., 1:] + shift) / self.q + eta) / precision - shift
        return mean, (1.0 / precision).expand_as(mean).log()

    def emission(self, features: Tensor) -> Tensor:
        mean = features * self.c
        return torch.cat([mean, self.r.log().expand_as(mean)], dim=-1)

    def encode_future(
        self, embedded: Tensor, input_features: Tensor, mask: Tensor | None
    ) -> Tensor:
        raise AssertionError("this model reads its frames, not their embedding")

    def bind(
        self,
        x: Tensor | None,
        lengths: object = None,
        start: object = None,
        observed: object = None,
        covariates: object = None,
    ) -> object:
        bound = super().bind(x, lengths, start, observed, covariates)  # pyright: ignore
        if x is not None:
            bound.__dict__["backward_states"] = self.information(bound)
        return bound

    def information(self, bound: object) -> Tensor:
        """(eta_t, lambda_t, e_t), (B, T, 3)."""
        x, inputs = bound.x, bound.inputs
        known = bound.conditions.observed
        known = torch.ones_like(x) if known is None else known.double()
        if bound.conditions.mask is not None:
            known = known * bound.conditions.mask.unsqueeze(-1)
        eta = lam = later = torch.zeros(len(x), dtype=torch.float64)
        states = []
        for t in reversed(range(x.shape[1])):
            shrink = 1.0 / (1.0 + self.q * lam)
            eta, lam = self.a * (eta - lam * later) * shrink, self.a**2 * lam * shrink
            eta = eta + (known[:, t] * x[:, t] * self.c / self.r).sum(-1)
            lam = lam + (known[:, t] * self.c**2 / self.r).sum(-1)
            shift = inputs[:, t, 0]
            later = shift + self.drift(inputs[:, t])[:, 0]
            states.append(torch.stack([eta, lam, shift], dim=-1))
        return torch.stack(states[::-1], dim=1)


class FilteringSeries(LinearSeries):
    """The same model with the guide p(z_t | h_{t-1}, x_t); e(x_t) is [d w.x_t, x_t, m_t]."""

    def embed(self, frames: Tensor) -> Tensor:
        return join(super().embed(frames), frames)

    def __init__(self, covariates: int = 0, feedback: float = 0.3) -> None:
        super().__init__(covariates, feedback)
        self.missing_embedding = _WithMask(self.missing_embedding)

    encode_future = SequenceModel.encode_future

    def bind(self, *arguments: object, **named: object) -> object:
        return SequenceModel.bind(self, *arguments, **named)  # pyright: ignore

    def embed_frames(
        self, frames: Tensor, observed: Tensor | None = None, covariates: Tensor | None = None
    ) -> Tensor:
        if observed is None:
            observed = torch.ones_like(frames, dtype=torch.bool)
        return super().embed_frames(frames, observed, covariates)

    embed_inputs = embed_frames

    def drift(self, inputs: Tensor) -> Tensor:
        return (inputs[..., 1 + 2 * SIZE :] * self.b).sum(-1, keepdim=True)

    def prepare(self, inputs: Tensor, state: State) -> State:
        return (*super().prepare(inputs, state), inputs[..., :1])

    def posterior(self, context: Tensor, future: Tensor) -> tuple[Tensor, Tensor]:
        x, known = future[..., 1 : 1 + SIZE], future[..., 1 + SIZE : 1 + 2 * SIZE]
        eta = (known * x * self.c / self.r).sum(-1, keepdim=True)
        lam = (known * self.c**2 / self.r).sum(-1, keepdim=True)
        shift = context[..., 2:]
        parts = (part.expand(*context.shape[:-1], 1) for part in (eta, lam, shift))
        return super().posterior(context[..., :2], torch.cat([*parts], dim=-1))

    def prior(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return super().prior(context[..., :2])


class _WithMask(nn.Module):
    def __init__(self, inner: nn.Module | None) -> None:
        super().__init__()
        assert inner is not None
        self.inner = inner

    def forward(self, embedded: Tensor, observed: Tensor) -> Tensor:
        shift = self.inner(embedded[..., :1], observed)
        return torch.cat([shift, embedded[..., 1:], observed.to(embedded)], dim=-1)


@dataclass(frozen=True)
class Filtered:
    """The Kalman filter of one series of T steps.

    Attributes:
        log_likelihood: of the observed numbers, nats, (T,).
        mean: of p(h_t | x_1..x_t), (T,).
        variance: its variance, (T,).
        shifts: e_t, (T,).
        predicted: mean of p(x_t | x_<t), (T, D).
        spread: its covariance, (T, D, D).
    """

    log_likelihood: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    shifts: np.ndarray
    predicted: np.ndarray
    spread: np.ndarray


class Kalman:
    """Exact inference in a :class:`LinearSeries`, one series at a time, after a zero start."""

    def __init__(self, model: LinearSeries) -> None:
        self.a, self.q, self.d = model.a, model.q, model.d
        self.w, self.c, self.r, self.b = (
            np.asarray(part.detach()) for part in (model.w, model.c, model.r, model.b)
        )
        embedding = model.missing_embedding
        inner = embedding.inner if isinstance(embedding, _WithMask) else embedding
        self.v = inner.linear.weight.detach().numpy()[0]

    def shift(self, frame: np.ndarray, known: np.ndarray) -> float:
        """e_{t+1} after a frame whose missing numbers are zero."""
        return float(self.d * frame @ self.w + (1.0 - known) @ self.v)

    def filter(self, x: np.ndarray, observed: np.ndarray, u: np.ndarray) -> Filtered:
        mean, variance, shift = 0.0, 0.0, 0.0
        rows: list[tuple[object, ...]] = []
        for frame, known, given in zip(x, observed, u, strict=True):
            mean = self.a * mean + self.b @ given + shift
            variance = self.a**2 * variance + self.q
            predicted = self.c * mean
            spread = variance * np.outer(self.c, self.c) + np.diag(self.r)
            total = 0.0
            if known.any():
                error = (frame - predicted)[known]
                part = spread[np.ix_(known, known)]
                total = -0.5 * error @ np.linalg.solve(part, error)
                total -= 0.5 * np.linalg.slogdet(2.0 * np.pi * part)[1]
                gain = variance * np.linalg.solve(part, self.c[known])
                mean = mean + gain @ error
                variance = variance * (1.0 - gain @ self.c[known])
            rows.append((total, mean, variance, shift, predicted, spread))
            shift = self.shift(np.where(known, frame, 0.0), known.astype(float))
        return Filtered(*(np.array(part) for part in zip(*rows, strict=True)))

    def forecast(
        self, x: np.ndarray, observed: np.ndarray, u: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean (S, D) and covariance (S, D, D) of x_{T+1}..x_{T+S}, for u of T + S steps."""
        past = self.filter(x, observed, u[: len(x)])
        mean, variance = past.mean[-1], past.variance[-1]
        last = np.where(observed[-1], x[-1], 0.0)
        shift = self.shift(last, observed[-1].astype(float))
        mean = self.a * mean + self.b @ u[len(x)] + shift
        variance = self.a**2 * variance + self.q
        # From then on whole frames feed back: h' = (a + d w.c) h + d w.noise + b.u + noise.
        along = self.a + self.d * self.w @ self.c
        means, spreads = [], []
        for given in [*u[len(x) + 1 :], np.zeros_like(u[0])]:
            means.append(self.c * mean)
            spreads.append(variance * np.outer(self.c, self.c) + np.diag(self.r))
            mean = along * mean + self.b @ given
            variance = along**2 * variance + self.d**2 * (self.w**2) @ self.r + self.q
        return np.array(means), np.array(spreads)


@dataclass(frozen=True)
class Series:
    """A batch with 30 % of its numbers missing, whole frames among them."""

    x: Tensor
    lengths: Tensor
    observed: Tensor
    covariates: Tensor | None
    future: Tensor | None

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        return self.x, self.lengths, None, self.observed, self.covariates

    def rows(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, mask and covariates of one series, (T, ...)."""
        length = int(self.lengths[i])
        given = torch.zeros(length, 0) if self.covariates is None else self.covariates[i, :length]
        return self.x[i, :length].numpy(), self.observed[i, :length].numpy(), given.numpy()


def series(covariates: int = 0, lengths: tuple[int, ...] = (12, 9, 4), steps: int = 5) -> Series:
    generator = torch.Generator().manual_seed(4)
    count, longest = len(lengths), max(lengths)
    x = 1.2 * torch.randn(count, longest, SIZE, generator=generator, dtype=torch.float64)
    observed = torch.rand(x.shape, generator=generator) >= 0.3
    observed[0, 3:5] = False
    observed[1:2, 8:] = False
    known = torch.randn(count, longest + steps, covariates, generator=generator).double()
    return Series(
        x.where(observed, torch.nan),
        torch.tensor(lengths),
        observed,
        known[:, :longest] if covariates else None,
        known[:, longest:] if covariates else None,
    )
