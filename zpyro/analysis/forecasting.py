"""Forecasts of series, and their missing values filled in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zpyro.analysis.decoding import posterior_latents, reproducible
from zpyro.datasets.batching import Batch
from zpyro.datasets.formats.tables import pandas_module
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.errors import UserError
from zpyro.evaluation.particle_filter import ROWS, check_can_filter, final_states
from zpyro.io.figures import new_figure
from zpyro.models.base import SequenceModel
from zpyro.models.bound_model import BoundModel
from zpyro.models.generation import run_forward, sample_frames
from zpyro.models.guides import model_inputs
from zpyro.nn.blocks import in_blocks
from zpyro.nn.layers import State

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = NDArray[np.floating[Any]]
METHODS = ("posterior", "smc")
"""How a forecast is conditioned on what was observed."""


@dataclass(frozen=True, eq=False)
class _Samples:
    """S samples for each of N series, in the units of the raw data.

    Attributes:
        samples: (S, N, T, D) frames, or (S, N, T) tokens.
        names: of the series, N.
        history: what was observed, one array (T_i, D) a series, NaN where missing.
        dimensions: names of the numbers of a frame, D.
    """

    samples: Numbers
    names: tuple[str, ...]
    history: tuple[Numbers, ...] = field(repr=False)
    dimensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.dimensions and self.samples.ndim == 4:
            names = tuple(str(number) for number in range(self.samples.shape[-1]))
            object.__setattr__(self, "dimensions", names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(samples of shape {self.samples.shape})"

    @property
    def mean(self) -> Numbers:
        """Mean over samples, (N, T, D).

        Raises:
            UserError: for tokens.
        """
        return self._frames().mean(0)

    @property
    def std(self) -> Numbers:
        """Standard deviation over samples, (N, T, D).

        Raises:
            UserError: for tokens.
        """
        return self._frames().std(0)

    def quantile(self, levels: float | Sequence[float]) -> Numbers:
        """Quantiles over samples: (N, T, D) for a number, (len(levels), N, T, D) for several.

        Raises:
            UserError: for tokens, or a level outside 0 to 1.
        """
        if not np.all((np.asarray(levels) >= 0) & (np.asarray(levels) <= 1)):
            raise UserError(f"quantile: levels are {levels}; each must lie from 0 to 1")
        return np.quantile(self._frames(), levels, axis=0)

    def _frames(self) -> Numbers:
        if self.samples.ndim != 4:
            raise UserError("tokens have no mean and no quantiles; read samples")
        return self.samples


@dataclass(frozen=True, eq=False, repr=False)
class Forecast(_Samples):
    """Forecasts of N series over T steps, in the units of the raw data.

    Attributes:
        samples: S paths of each series, (S, N, T, D) frames, or (S, N, T) tokens.
        names: of the series, N.
        history: what was observed before, one array (T_i, D) a series, NaN where missing.
        dimensions: names of the numbers of a frame, D; by default their positions from 0.

    Example::

        forecast = zpyro.forecast(model, data.test, steps=24, num_samples=200)
        low, middle, high = forecast.quantile([0.1, 0.5, 0.9])  # each (N, 24, D)
        forecast.to_dataframe().to_csv("forecast.csv")
        forecast.plot().savefig("forecast.png")
    """

    def to_dataframe(self, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> Any:
        """A long pandas table: series, step (from 1), dimension, mean, and a column a quantile.

        Raises:
            UserError: for tokens, or if pandas is not installed.
        """
        _, count, steps, size = self._frames().shape
        shape = (count, steps, size)
        series, step, dimension = (part.ravel() for part in np.indices(shape))
        columns: dict[str, Any] = {
            "series": np.array(self.names, dtype=object)[series],
            "step": step + 1,
            "dimension": np.array(self.dimensions, dtype=object)[dimension],
            "mean": self.mean.ravel(),
        }
        for level, values in zip(levels, self.quantile(levels), strict=True):
            columns[f"q{level:g}"] = values.ravel()
        return pandas_module().DataFrame(columns)

    def plot(
        self,
        series: int | str = 0,
        *,
        dimensions: Sequence[int] | None = None,
        intervals: Sequence[float] = (0.5, 0.9),
        history: int = 100,
    ) -> Figure:
        """A figure of one series: what was observed, the median, and central intervals.

        Args:
            series: its name or number.
            dimensions: which numbers of a frame, a panel each; the first four by default.
            intervals: shares of the samples within each interval.
            history: observed frames shown, at most.

        Raises:
            UserError: for tokens, an unknown series, or if matplotlib is not installed.
        """
        frames, steps = self._frames(), self.samples.shape[2]
        number = series if isinstance(series, int) else _position(series, self.names)
        chosen = range(min(4, frames.shape[-1])) if dimensions is None else dimensions
        past = self.history[number][-history:]
        before, after = np.arange(1 - len(past), 1), np.arange(1, steps + 1)
        figure = new_figure(8.0, 1.0 + 2.0 * len(chosen))
        panels = figure.subplots(len(chosen), 1, squeeze=False, sharex=True)
        for (panel,), dimension in zip(panels, chosen, strict=True):
            paths = frames[:, number, :, dimension]
            for share in sorted(intervals, reverse=True):
                ends = np.quantile(paths, [(1 - share) / 2, (1 + share) / 2], axis=0)
                panel.fill_between(
                    after, *ends, color="C0", alpha=0.25, linewidth=0, label=f"{share:.0%}"
                )
            panel.plot(after, np.median(paths, axis=0), color="C0", label="median")
            panel.plot(before, past[:, dimension], color="black", linewidth=1, label="observed")
            panel.set_ylabel(self.dimensions[dimension])
        panels[0, 0].legend(loc="upper left", fontsize="small")
        panels[0, 0].set_title(self.names[number])
        panels[-1, 0].set_xlabel("steps after the last observation")
        return figure


@dataclass(frozen=True, eq=False, repr=False)
class Imputation(_Samples):
    """Series whose missing values are filled in, in the units of the raw data.

    Attributes:
        samples: (S, N, T, D) frames, or (S, N, T) tokens; the observed values in every sample,
            samples where they are missing, NaN (for tokens -1) beyond the length of a series.
        names: of the series, N.
        history: what was observed, one array (T_i, D) a series, NaN where missing.
        dimensions: names of the numbers of a frame, D; by default their positions from 0.

    Example::

        filled = zpyro.impute(model, data.test, num_samples=100)
        filled.mean[0]  # (T, D), observed values as they are
        filled.std[0]  # 0 where observed
    """


def forecast(
    model: SequenceModel,
    data: Sequences | Batch,
    steps: int,
    *,
    num_samples: int = 100,
    covariates: Any = None,
    method: str = "posterior",
    num_particles: int | None = None,
    seed: int = 0,
) -> Forecast:
    """Sample what follows the series of a data set.

    The state after the last observation is sampled from the guide, or from a particle filter; then
    latents and frames are drawn step by step from the model. Series may differ in length, and may
    have missing values.

    Args:
        model: the model; it is used in evaluation mode.
        data: N series. For Sequences the result is in the units of their raw data, for a Batch on
            the scale of the model.
        steps: T, new frames of each.
        num_samples: S, paths of each series.
        covariates: u of the new steps, (N, T, C), or (T, C) for all series, for a model with
            covariates; in the units of the raw data where the data set normalizes its covariates.
        method: "posterior" (samples of the guide), or "smc" (particles weighted by the data, which
            needs a model without a custom guide).
        num_particles: of the particle filter; by default the larger of 100 and num_samples.
        seed: of the samples. The global generators are not changed.

    Raises:
        UserError: for an unknown method, no series, or covariates that do not fit.

    Example:
        >>> found = zpyro.forecast(model, data.test, steps=12, num_samples=200)
        >>> found.mean.shape
        (8, 12, 3)
    """
    if method not in METHODS:
        raise UserError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    if steps < 1 or num_samples < 1:
        raise UserError(f"steps is {steps} and num_samples {num_samples}; give 1 or more of each")
    if method == "smc":
        check_can_filter(model)
    particles = max(100, num_samples) if num_particles is None else num_particles
    future = _future_covariates(model, data, covariates, steps)
    parts: list[NDArray[Any]] = []
    with reproducible(model, seed):
        for rows, batch in _batches(data, max(num_samples, particles)):
            bound = model.bind(*model_inputs(model, batch))
            if method == "smc":
                state = final_states(bound, batch, num_samples, num_particles=particles, seed=seed)
            else:
                state = _posterior_states(model, batch, bound, num_samples, seed)
            frames, seen = _last_frames(bound, batch.lengths)
            known = None if future is None else future[rows].repeat(num_samples, 1, 1)
            sampled = sample_frames(
                model,
                frames.repeat(num_samples, *(1,) * (frames.dim() - 1)),
                steps,
                state,
                covariates=known,
                observed=None
                if seen is None
                else seen.repeat(num_samples, *(1,) * (seen.dim() - 1)),
            )
            parts.append(sampled.unflatten(0, (num_samples, len(batch))).cpu().numpy())
    return Forecast(_raw(data, np.concatenate(parts, axis=1)), tuple(data.names), _history(data))


def impute(
    model: SequenceModel, data: Sequences | Batch, *, num_samples: int = 100, seed: int = 0
) -> Imputation:
    """Sample the missing values of series from the posterior of the model.

    Latents are sampled from the guide given all that was observed, before and after a gap; each
    missing number then comes from p(x_t | h_t, observed numbers of x_t). Observed values stay.

    Args:
        model: the model, built with ``missing=True``; it is used in evaluation mode.
        data: N series. For Sequences the result is in the units of their raw data, for a Batch on
            the scale of the model.
        num_samples: S.
        seed: of the samples. The global generators are not changed.

    Raises:
        UserError: if there are no series, or the model was built for data without missing values.

    Example:
        >>> filled = zpyro.impute(model, data.test, num_samples=50)
        >>> filled.mean.shape
        (8, 40, 3)
    """
    if num_samples < 1:
        raise UserError(f"num_samples is {num_samples}; give 1 or more")
    longest = int(max(data.lengths, default=0))
    parts: list[NDArray[Any]] = []
    with reproducible(model, seed):
        for _, batch in _batches(data, num_samples):
            bound = model.bind(*model_inputs(model, batch))
            z = posterior_latents(model, batch, bound, num_samples, seed)
            sampled = _imputed(bound, z).cpu().numpy()
            blank = -1 if sampled.dtype.kind == "i" else np.nan
            filled = np.full((*sampled.shape[:2], longest, *sampled.shape[3:]), blank)
            for i, length in enumerate(batch.lengths.tolist()):
                filled[:, i, :length] = sampled[:, i, :length]
            parts.append(filled.astype(sampled.dtype))
    samples = _raw(data, np.concatenate(parts, axis=1))
    return Imputation(samples, tuple(data.names), _history(data))


def _imputed(bound: BoundModel, z: Tensor) -> Tensor:
    """The frames of the batch with missing numbers sampled along z, (S, B, T) + event shape."""
    model, observed = bound.model, bound.conditions.observed
    event = model.likelihood.event_shape
    if observed is None:
        return bound.x.expand(len(z), *bound.x.shape)

    def fill(features: Tensor, frames: Tensor, known: Tensor) -> Tensor:
        parameters = model.emission(features)
        frames, known = (part.expand(*parameters.shape[:-1], *event) for part in (frames, known))
        return model.likelihood.impute(parameters, frames, known)

    trajectory = bound.trajectory(z)
    given = bound.frames_time_major(bound.x), bound.frames_time_major(observed)
    rows = in_blocks(fill, trajectory.features, *given)
    return rows.permute(1, 2, 0, *range(3, rows.dim()))


def _posterior_states(
    model: SequenceModel, batch: Batch, bound: BoundModel, num_samples: int, seed: int
) -> State:
    """States after the last frame of each series, with latents of the guide, S B rows."""
    z = posterior_latents(model, batch, bound, num_samples, seed).flatten(0, 1)
    given = bound.conditions

    def rows(values: Tensor | None) -> Any:
        if values is None:
            return None
        return values.repeat(num_samples, *(1,) * (values.dim() - 1))

    return run_forward(
        model,
        rows(given.start),
        bound.steps,
        z=z,
        frames=rows(given.x),
        observed=rows(given.observed),
        covariates=rows(given.covariates),
        lengths=rows(batch.lengths.to(z.device)),
    ).state


def _last_frames(bound: BoundModel, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
    """The last frame of each series and its mask, (B,) + event shape each."""
    rows = torch.arange(len(lengths))
    last = lengths.cpu() - 1
    observed = bound.conditions.observed
    return bound.x[rows, last], None if observed is None else observed[rows, last]


def _batches(data: Sequences | Batch, paths: int) -> Iterator[tuple[slice, Batch]]:
    """The series in batches of which so many paths each fit in memory, with their rows.

    Raises:
        UserError: if there are no series.
    """
    if len(data) == 0:
        raise UserError("there are no series; choose another split")
    if isinstance(data, Batch):
        yield slice(None), data
        return
    size = max(1, ROWS // paths)
    for first in range(0, len(data), size):
        rows = slice(first, min(first + size, len(data)))
        yield rows, data[rows].batch()


def _future_covariates(
    model: SequenceModel, data: Sequences | Batch, covariates: Any, steps: int
) -> Tensor | None:
    """u of the new steps on the scale of the model, (N, T, C)."""
    size = model.covariate_size
    if covariates is None and not size:
        return None
    if covariates is None:
        raise UserError(
            f"covariates: the model reads {size} a step; give those of the {steps} new steps"
        )
    values = covariates.cpu().numpy() if isinstance(covariates, Tensor) else np.asarray(covariates)
    values = np.broadcast_to(values, (len(data), *values.shape)) if values.ndim == 2 else values
    if values.shape != (len(data), steps, size):
        raise UserError(
            f"covariates: have shape {values.shape}; they must be {(len(data), steps, size)}"
        )
    if not np.isfinite(values).all():
        raise UserError("covariates: hold NaN or infinity; those of new steps must be known")
    if isinstance(data, Sequences):
        values = data.normalization.apply_to_covariates(values)
    return torch.from_numpy(np.ascontiguousarray(values)).to(next(model.parameters()))


def _normalization(data: Sequences | Batch) -> Normalization | None:
    """What turns raw samples into the frames of the model, or None where they are the same."""
    if isinstance(data, Batch) or data.data_type not in ("audio", "frames"):
        return None
    return data.normalization


def _raw(data: Sequences | Batch, samples: NDArray[Any]) -> NDArray[Any]:
    normalization = _normalization(data)
    return samples if normalization is None else normalization.invert(samples)


def _history(data: Sequences | Batch) -> tuple[Numbers, ...]:
    """What was observed of each series, NaN where missing; tokens as they are."""
    found: list[Numbers] = []
    if isinstance(data, Batch):
        masks = data.observed
        for i, length in enumerate(data.lengths.tolist()):
            values = data.x[i, :length].cpu().numpy()
            found.append(
                _with_gaps(values, None if masks is None else masks[i, :length].cpu().numpy())
            )
        return tuple(found)
    for i, values in enumerate(data.values):
        found.append(
            _with_gaps(_raw(data, values), None if data.observed is None else data.observed[i])
        )
    return tuple(found)


def _with_gaps(values: NDArray[Any], mask: NDArray[Any] | None) -> Numbers:
    return values if mask is None else np.where(mask, values, np.nan)


def _position(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UserError(f"series {name!r} is unknown; choose from {', '.join(names[:20])}")
    return list(names).index(name)
