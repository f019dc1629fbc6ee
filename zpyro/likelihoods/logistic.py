"""Samples of sound on a grid: a discretized mixture of logistics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from zpyro.errors import UserError
from zpyro.likelihoods.base import (
    TemperedLikelihood,
    in_full_precision,
    sample_index,
    sum_of_observed,
)
from zpyro.likelihoods.gaussian import Bounds, bounded, check_bounds
from zpyro.settings import setting

SCALE_OF_UNIT_VARIANCE = math.sqrt(3.0) / math.pi
"""A logistic of scale s has the variance s^2 pi^2 / 3."""
QUANTILES = 64
"""Of each logistic, whose average is the mean of mu-law samples."""


@dataclass(frozen=True)
class LogisticMixture(TemperedLikelihood):
    """A mixture of K logistics for each sample of sound, as probabilities of the sample's bins.

    A frame holds D samples, independent given the parameters. Sample values v_j lie on a grid of
    2^b values, one apart when measured in bins, and F is the logistic function::

        P(x_d = v_j) = sum_k w_dk [F((j + 1/2 - m_dk) / s_dk) - F((j - 1/2 - m_dk) / s_dk)]

    The lowest bin reaches down to minus infinity and the highest up to infinity, so the
    probabilities of all values sum to 1. :meth:`log_prob` is a log-probability, at most 0.

    The grid. Frames are normalized, x = (raw - sample_mean) / sample_scale with raw samples in
    [-1, 1]. Linear samples are raw = j / 2^(b-1) for j = -2^(b-1) .. 2^(b-1) - 1: with b = 16, the
    numbers that 16-bit recordings hold. With ``mu_law`` the grid is even in
    u = sign(raw) log(1 + mu abs(raw)) / log(1 + mu), mu = 2^b - 1 (ITU-T G.711): u = 2 j / mu with
    j = -mu/2 .. mu/2. A value between two grid points counts as the nearer one, a value beyond the
    grid as the outermost one.

    The output layer gives, in this order, the D K logits of the weights, the D K means and the D K
    log variances. Means and variances are in units of x for linear samples, of u for mu-law
    samples.

    Attributes:
        logistics: K.
        sample_bits: b.
        mu_law: whether the grid is even in u.
        sample_mean: mean of the data's normalization; ``zpyro train`` sets it from the data.
        sample_scale: its scale, likewise.
        log_variance_bounds: smooth lower and upper bound of every log variance, or None.

    Source: van den Oord et al., Parallel WaveNet (arXiv:1711.10433); Salimans et al., PixelCNN++
    (arXiv:1701.05517, section 2.1); for latent variable models of speech, Havtorn et al.
    (arXiv:2202.12707).

    Example:
        >>> likelihood = LogisticMixture(200, sample_scale=0.06)
        >>> parameters = torch.zeros(4, likelihood.parameter_size)
        >>> likelihood.log_prob(parameters, likelihood.sample(parameters)).shape
        torch.Size([4])
    """

    logistics: int = setting(
        10, "logistics of a sample, of the likelihood logistic-mixture", at_least=1, at_most=1 << 10
    )
    sample_bits: int = setting(16, "bits of a sample, likewise", at_least=2, at_most=16)
    mu_law: bool = setting(False, "whether samples are mu-law coded, likewise")
    sample_mean: float = setting(0.0, "mean of the data's normalization, set from the data")
    sample_scale: float = setting(1.0, "its scale, likewise", above=0)
    log_variance_bounds: Bounds = None

    name: ClassVar[str] = "logistic-mixture"
    discretized: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.logistics < 1:
            raise UserError(f"logistics are {self.logistics}; give a positive number")
        if not 2 <= self.sample_bits <= 16:
            raise UserError(f"sample_bits is {self.sample_bits}; give a number from 2 to 16")
        if not self.sample_scale > 0.0:
            raise UserError(f"sample_scale is {self.sample_scale}; give a positive number")
        check_bounds(self.log_variance_bounds)

    @property
    def parameter_size(self) -> int:
        return 3 * self.size * self.logistics

    def parts(self, parameters: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights, locations and log scales in bins, each (..., D, K)."""
        parameters = in_full_precision(parameters).unflatten(-1, (3, self.size, self.logistics))
        logits, means, log_variances = parameters.unbind(-3)
        # A mean in bins is one number for all bins, so rounding it cannot make them overlap.
        if self.mu_law:
            per_unit, offset = 0.5 * self._mu, 0.0
        else:
            per_unit, offset = self.sample_scale * self._half, self.sample_mean * self._half
        log_scales = 0.5 * bounded(log_variances, self.log_variance_bounds)
        shift = math.log(temperature * SCALE_OF_UNIT_VARIANCE * per_unit)
        return logits / temperature, means * per_unit + offset, log_scales + shift

    def codes(self, value: Tensor) -> Tensor:
        """The grid points j nearest to values of x, as floating-point numbers."""
        raw = value * self.sample_scale + self.sample_mean
        if not self.mu_law:
            return self._nearest(raw * self._half)
        compressed = (self._mu * raw.abs()).log1p() / math.log1p(self._mu)
        return self._nearest(0.5 * self._mu * raw.sign() * compressed)

    def values(self, codes: Tensor) -> Tensor:
        """The values of x at grid points j; numbers between them are allowed."""
        return (self._raw(codes) - self.sample_mean) / self.sample_scale

    def log_masses(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        """log P of every sample, nats, (..., D).

        F(a) - F(b) = F(a) F(-b) (1 - e^(b - a)), whose logarithm is exact also where both values
        of F are 0 or 1 in floating point; a - b = 1 / s does not depend on the sample.

        Args:
            parameters: (..., parameter_size).
            value: (..., D); leading dimensions are broadcast.
            temperature: factor on the scales; logits are divided by it.
        """
        logits, locations, log_scales = self.parts(parameters, temperature)
        codes = self.codes(value).unsqueeze(-1)
        lowest, highest = codes <= self._lowest, codes >= self._highest
        inverse = (-log_scales).exp()
        distances = codes - locations
        zero = distances.new_zeros(())
        below = logsigmoid((distances + 0.5) * inverse).where(~highest, zero)
        above = logsigmoid((0.5 - distances) * inverse).where(~lowest, zero)
        within = (-(-inverse).expm1()).log().where(~(lowest | highest), zero)
        return (logits.log_softmax(-1) + below + above + within).logsumexp(-1)

    def log_prob(self, parameters: Tensor, value: Tensor, temperature: float = 1.0) -> Tensor:
        return self.log_masses(parameters, value, temperature).sum(-1)

    def observed_log_prob(self, parameters: Tensor, value: Tensor, observed: Tensor) -> Tensor:
        return sum_of_observed(self.log_masses(parameters, value), observed)

    def sample(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        logits, locations, log_scales = self.parts(parameters, temperature)
        index = sample_index(logits).unsqueeze(-1)
        location, log_scale = (
            part.gather(-1, index).squeeze(-1) for part in (locations, log_scales)
        )
        uniform = torch.rand_like(location)
        return self.values(self._nearest(location + log_scale.exp() * uniform.logit()))

    def mean(self, parameters: Tensor, temperature: float = 1.0) -> Tensor:
        """Expected samples, (..., D).

        Of linear samples, the mean of the logistics limited to the grid: it differs from the mean
        of the bins by less than half a bin. Of mu-law samples, an average over 64 quantiles of
        each logistic.
        """
        logits, locations, log_scales = self.parts(parameters, temperature)
        scales, low, high = log_scales.exp(), self._lowest, self._highest
        if not self.mu_law:
            # E[min(max(y, low), high)] = low + the integral of P(y > t) from low to high.
            rise = softplus((locations - low) / scales) - softplus((locations - high) / scales)
            raw = (low + scales * rise) / self._half
        else:
            raw = torch.zeros_like(locations)
            for number in range(QUANTILES):
                share = (number + 0.5) / QUANTILES
                points = locations + scales * math.log(share / (1.0 - share))
                raw = raw + self._raw(points.clamp(low, high)) / QUANTILES
        expected = (logits.softmax(-1) * raw).sum(-1)
        return (expected - self.sample_mean) / self.sample_scale

    def log_bin_widths(self, value: Tensor) -> Tensor:
        codes = self.codes(value)
        return (self.values(codes + 0.5) - self.values(codes - 0.5)).log()

    @property
    def _half(self) -> float:
        return 2.0 ** (self.sample_bits - 1)

    @property
    def _mu(self) -> float:
        return 2.0**self.sample_bits - 1.0

    @property
    def _lowest(self) -> float:
        return -0.5 * self._mu if self.mu_law else -self._half

    @property
    def _highest(self) -> float:
        return self._lowest + self._mu

    def _nearest(self, positions: Tensor) -> Tensor:
        return (positions - self._lowest).round().clamp(0.0, self._mu) + self._lowest

    def _raw(self, codes: Tensor) -> Tensor:
        if not self.mu_law:
            return codes / self._half
        compressed = 2.0 / self._mu * codes
        return compressed.sign() * (compressed.abs() * math.log1p(self._mu)).expm1() / self._mu
