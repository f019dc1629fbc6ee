"""The posterior of a batch as named arrays, for ArviZ, xarray and plain numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError
from zpyro.evaluation import named_terms
from zpyro.io import files
from zpyro.io.paths import user_path
from zpyro.models import SequenceModel
from zpyro.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences

STEP = ("sequence", "draw", "time")
LATENT = (*STEP, "latent")
DIMS: Mapping[str, tuple[str, ...]] = {
    "z": LATENT,
    "prior_loc": LATENT,
    "prior_scale": LATENT,
    "posterior_loc": LATENT,
    "posterior_scale": LATENT,
    "log_likelihood": STEP,
    "kl": STEP,
    "lengths": ("sequence",),
    "names": ("sequence",),
}
"""The dimensions of every array."""

INSTALL = 'posteriors as .nc and to_arviz() need ArviZ; pip install "zpyro[posterior]"'


@dataclass(frozen=True, eq=False)
class Posterior:
    """S samples from the posterior of each of N sequences; values beyond the lengths are NaN.

    Attributes:
        z: latents sampled from the guide, (N, S, T, Z).
        prior_loc: mean of p(z_t | z_<t, x_<t) along each path, (N, S, T, Z).
        prior_scale: its standard deviation.
        posterior_loc: mean of q(z_t | z_<t, x) along each path, (N, S, T, Z).
        posterior_scale: its standard deviation.
        log_likelihood: log p(x_t | z_<=t, x_<t), nats, (N, S, T).
        kl: KL(q(z_t | ...) || p(z_t | ...)), closed form along each path, nats, (N, S, T).
        lengths: (N,).
        names: of the sequences, (N,).

    Example:
        >>> found = zpyro.posterior(model, data.test[:8].batch(), num_samples=100)
        >>> found.z.mean(1)  # (8, T, Z)
        >>> found.to_arviz()
    """

    z: np.ndarray
    prior_loc: np.ndarray
    prior_scale: np.ndarray
    posterior_loc: np.ndarray
    posterior_scale: np.ndarray
    log_likelihood: np.ndarray
    kl: np.ndarray
    lengths: np.ndarray
    names: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name; :data:`DIMS` names their dimensions."""
        return {name: getattr(self, name) for name in DIMS}

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The dimensions of every array."""
        return DIMS

    def to_arviz(self) -> Any:
        """Convert to what ArviZ reads, with one chain: an xarray DataTree with ArviZ 1, an
        InferenceData with older versions.

        The group ``posterior`` holds ``z``, ``posterior_loc``, ``posterior_scale``, ``prior_loc``,
        ``prior_scale`` and ``kl`` with dims (chain, draw, sequence, time, latent); the group
        ``log_likelihood`` holds ``x``; ``constant_data`` holds ``lengths``. The coordinate
        ``sequence`` holds names, ``time`` counts frames from 0.

        Raises:
            UserError: if ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise UserError(INSTALL) from error
        sampled = [name for name, dims in DIMS.items() if "draw" in dims]
        inner = {name: [dim for dim in DIMS[name] if dim != "draw"] for name in sampled}
        chains = {name: np.swapaxes(self.arrays[name], 0, 1)[None] for name in sampled}
        likelihood = chains.pop("log_likelihood")
        groups: dict[str, Any] = {
            "posterior": chains,
            "log_likelihood": {"x": likelihood},
            "constant_data": {"lengths": self.lengths},
        }
        names: dict[str, Any] = {
            "dims": {**inner, "x": inner["log_likelihood"], "lengths": ["sequence"]},
            "coords": {"sequence": self.names, "time": np.arange(self.z.shape[2])},
        }
        from_dict: Any = arviz.from_dict
        # Before version 1 the groups were arguments.
        has_groups = hasattr(arviz, "InferenceData")
        return from_dict(**groups, **names) if has_groups else from_dict(groups, **names)

    def save(self, path: str | Path) -> Path:
        """Write the arrays to ``.nc`` (NetCDF, through ArviZ) or ``.npz`` (numpy only).

        Raises:
            UserError: for another suffix, if ArviZ is not installed, or if the file cannot be
                written.
        """
        path = user_path(path)
        data = self.to_arviz() if _suffix(path) == ".nc" else None
        with files.translate_os_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if data is not None:
                data.to_netcdf(str(path))
            else:
                np.savez(path, **cast(dict[str, Any], self.arrays))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Posterior:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: if the file cannot be read as a posterior.
        """
        path = user_path(path)
        try:
            if _suffix(path) == ".nc":
                return cls(**_from_netcdf(path))
            with np.load(path, allow_pickle=False) as archive:
                return cls(**{name: archive[name] for name in DIMS})
        except (OSError, ValueError, KeyError, AttributeError, BadZipFile) as error:
            raise UserError(
                f"{path}: cannot be read as a posterior ({error}); give a file that "
                "Posterior.save wrote"
            ) from error


def posterior(
    model: SequenceModel, batch: Batch | Sequences, num_samples: int = 100, *, seed: int = 0
) -> Posterior:
    """Sample from the posterior of a batch, with prior, posterior and terms along each path.

    Paths are sampled one after the other in evaluation mode, so memory holds one path and the
    resulting arrays. The noise depends only on ``seed`` and the name of each sequence.

    Args:
        model: a model with latents.
        batch: :class:`~zpyro.datasets.Sequences`, or a batch of them.
        num_samples: S, paths per sequence.
        seed: of the noise.

    Raises:
        UserError: if the model has no latents, or has a custom guide (read that in Pyro:
            ``poutine.trace(model.active_guide)``).
    """
    if not model.latent_size:
        raise UserError(f"{type(model).__name__} has no latents, so it has no posterior")
    if model.custom_guide is not None:
        raise UserError(
            "the run has a custom guide, whose posterior has no known form; read it in Pyro: "
            "poutine.trace(model.active_guide).get_trace(x, lengths, start)"
        )
    if isinstance(batch, Sequences):
        batch = batch.batch()
    padded = torch.arange(batch.x.shape[1]) >= batch.lengths.cpu().unsqueeze(-1)

    def array(values: Tensor) -> np.ndarray:
        beyond = padded.view(*padded.shape, *(1,) * (values.dim() - 2))
        return values.cpu().masked_fill(beyond, torch.nan).numpy()

    def sample(number: int) -> dict[str, np.ndarray]:
        terms = named_terms(model, batch, seed, number)
        return {
            "z": array(terms.z),
            "prior_loc": array(terms.prior_mean),
            "prior_scale": array((0.5 * terms.prior_log_variance).exp()),
            "posterior_loc": array(terms.posterior_mean),
            "posterior_scale": array((0.5 * terms.posterior_log_variance).exp()),
            "log_likelihood": array(terms.log_likelihood),
            "kl": array(terms.kl),
        }

    with evaluation_mode(model):
        samples = [sample(number) for number in range(num_samples)]
    return Posterior(
        **{name: np.stack([each[name] for each in samples], axis=1) for name in samples[0]},
        lengths=np.asarray(batch.lengths.cpu()),
        names=np.array(batch.names),
    )


def _suffix(path: Path) -> str:
    if path.suffix not in (".nc", ".npz"):
        raise UserError(f"{path}: posteriors are written as .nc (NetCDF) or .npz; choose one")
    return path.suffix


def _from_netcdf(path: Path) -> dict[str, np.ndarray]:
    try:
        import xarray
    except ImportError as error:
        raise UserError(INSTALL) from error
    tree: Any
    with xarray.open_datatree(path) as tree:
        found, likelihood = tree["posterior"], tree["log_likelihood"]["x"]
        arrays = {
            name: np.swapaxes(
                (likelihood if name == "log_likelihood" else found[name]).values[0], 0, 1
            )
            for name, dims in DIMS.items()
            if "draw" in dims
        }
        lengths = tree["constant_data"]["lengths"].values
        return {**arrays, "lengths": lengths, "names": found["sequence"].values.astype(str)}
