"""A Kalman filter, and linear stand-ins for the networks of the family."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from zpyro.nn.layers import State


@dataclass(frozen=True)
class StateSpace:
    """s_t = F s_{t-1} + b_t + N(0, Q),  x_t = C s_t + e_t + N(0, R),  s_0 = 0.

    Attributes:
        transition: F, (S, S).
        offsets: b_1..b_T, (T, S).
        noise: Q, (S, S), singular or not.
        reading: C, (D, S).
        shifts: e_1..e_T, (T, D).
        error: R, (D, D).
    """

    transition: np.ndarray
    offsets: np.ndarray
    noise: np.ndarray
    reading: np.ndarray
    shifts: np.ndarray
    error: np.ndarray

    def log_density(self, x: np.ndarray) -> float:
        """Exact log p(x_1..x_T), nats, by the Kalman filter."""
        mean = np.zeros(len(self.transition))
        covariance = np.zeros_like(self.noise)
        total = 0.0
        for frame, offset, shift in zip(x, self.offsets, self.shifts, strict=True):
            mean = self.transition @ mean + offset
            covariance = self.transition @ covariance @ self.transition.T + self.noise
            spread = self.reading @ covariance @ self.reading.T + self.error
            surprise = frame - self.reading @ mean - shift
            _, determinant = np.linalg.slogdet(2.0 * np.pi * spread)
            total -= 0.5 * (surprise @ np.linalg.solve(spread, surprise) + determinant)
            gain = np.linalg.solve(spread, self.reading @ covariance).T
            mean = mean + gain @ surprise
            covariance = covariance - gain @ self.reading @ covariance
        return float(total)


class LinearGaussian(nn.Module):
    """Mean W v + w and a fixed log variance, in place of a :class:`zpyro.nn.layers.GaussianMLP`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs).double()
        self.log_variance = nn.Parameter(0.3 * torch.randn(outputs, dtype=torch.float64))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.linear(values)
        return mean, self.log_variance.expand_as(mean)


class LinearOutput(nn.Module):
    """A Gaussian likelihood's parameters: mean W v + w, and a fixed log variance."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gaussian = LinearGaussian(inputs, size)

    def forward(self, values: Tensor) -> Tensor:
        return torch.cat(self.gaussian(values), dim=-1)


class LinearCell(nn.Module):
    """h_t = A h_{t-1} + G z_t + E e_t in place of an LSTM; (h, h) is its state."""

    def __init__(self, hidden: int, latent: int, embedding: int) -> None:
        super().__init__()
        self.hidden_size = hidden
        self.recurrent = nn.Parameter(0.3 * torch.randn(hidden, hidden, dtype=torch.float64))
        self.latent = nn.Parameter(torch.randn(hidden, latent, dtype=torch.float64))
        self.embedded = nn.Parameter(torch.randn(hidden, embedding, dtype=torch.float64))

    def step(self, z: Tensor, embedded: Tensor, state: State) -> State:
        hidden = state[0] @ self.recurrent.T + z @ self.latent.T + embedded @ self.embedded.T
        return hidden, hidden

    def forward(self, z: Tensor, embedded: Tensor, state: State) -> tuple[Tensor, State]:
        states = []
        for t in range(z.shape[1]):
            state = self.step(z[:, t], embedded[:, t], state)
            states.append(state[0])
        return torch.stack(states, dim=1), state


def matrix(values: Tensor) -> np.ndarray:
    return values.detach().numpy()
