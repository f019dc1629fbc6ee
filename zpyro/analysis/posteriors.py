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
from zpyro.models import SequenceModel

if TYPE_CHECKING:
    from arviz import InferenceData

    from zpyro.datasets.batching import Batch

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

INSTALL = 'this needs ArviZ; pip install "zpyro[posterior]"'


@dataclass(frozen=True, eq=False)
class Posterior:
    """Draws from the posterior of N sequences; what lies beyond a sequence's length is NaN.

    Attributes:
        z: latents drawn from the guide, (N, draws, T, Z).
        prior_loc: mean of p(z_t | z_<t, x_<t) along each path, (N, draws, T, Z).
        prior_scale: its standard deviation.
        posterior_loc: mean of q(z_t | z_<t, x) along each path, (N, draws, T, Z).
        posterior_scale: its standard deviation.
        log_likelihood: log p(x_t | z_<=t, x_<t), nats, (N, draws, T).
        kl: KL(q(z_t | ...) || p(z_t | ...)), closed form along each path, nats, (N, draws, T).
        lengths: (N,).
        names: of the sequences, (N,).
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

    def to_arviz(self) -> InferenceData:
        """As ArviZ's InferenceData, one chain.

        ``z``, ``posterior_loc``, ``posterior_scale``, ``prior_loc``, ``prior_scale`` and ``kl``
        stand in the group ``posterior`` with dims (chain, draw, sequence, time, latent), the
        log-likelihood in the group ``log_likelihood`` as ``x``, lengths in ``constant_data``.
        Sequences are named by the coordinate ``sequence``; a time is the number of its frame,
        from 0.

        Raises:
            UserError: if ArviZ is not installed.
        """
        try:
            import arviz
        except ImportError as error:
            raise UserError(INSTALL) from error
        drawn = [name for name, dims in DIMS.items() if "draw" in dims]
        inner = {name: [dim for dim in DIMS[name] if dim != "draw"] for name in drawn}
        chains = {name: np.swapaxes(self.arrays[name], 0, 1)[None] for name in drawn}
        likelihood = chains.pop("log_likelihood")
        return arviz.from_dict(
            posterior=chains,
            log_likelihood={"x": likelihood},
            constant_data={"lengths": self.lengths},
            dims={**inner, "x": inner["log_likelihood"], "lengths": ["sequence"]},
            coords={"sequence": self.names, "time": np.arange(self.z.shape[2])},
        )

    def save(self, path: str | Path) -> Path:
        """Write the arrays to ``.nc`` (NetCDF, through ArviZ) or ``.npz`` (numpy alone).

        Raises:
            UserError: for another ending, if ArviZ is not installed, or if it cannot be written.
        """
        path = Path(path)
        kind = _kind(path)
        data = self.to_arviz() if kind == ".nc" else None
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
            UserError: if the file is none of these or cannot be read.
        """
        path = Path(path)
        read = _from_netcdf if _kind(path) == ".nc" else _from_npz
        try:
            return cls(**read(path))
        except (OSError, ValueError, KeyError, AttributeError, BadZipFile) as error:
            raise UserError(
                f"{path}: cannot be read as a posterior ({error}); give a file that "
                "Posterior.save wrote"
            ) from error


def posterior(
    module: SequenceModel, batch: Batch, num_samples: int = 100, *, seed: int = 0
) -> Posterior:
    """Draw from the posterior of a batch, with prior, posterior and terms along every path.

    Paths are drawn one after the other in evaluation mode; beyond them the arrays are all that
    is held in memory. Their noise depends on ``seed`` and each sequence's name alone.

    Args:
        module: a model with latents.
        batch: of a data set's :class:`~zpyro.datasets.sequences.Sequences`.
        num_samples: paths a sequence.
        seed: of the noise.

    Raises:
        UserError: if the model has no latents, or a guide of the user's own (read that in Pyro:
            ``poutine.trace(module.active_guide)``).
    """
    if not module.latent_size:
        raise UserError(f"{type(module).__name__} has no latents, so no posterior to look at")
    if module.custom_guide is not None:
        raise UserError(
            "the run has a guide of its own, whose posterior has no known form; read it in Pyro: "
            "poutine.trace(module.active_guide).get_trace(x, lengths, start)"
        )
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            draws = [_draw(module, batch, seed, draw) for draw in range(num_samples)]
    finally:
        module.train(was_training)
    return Posterior(
        **{name: np.stack([draw[name] for draw in draws], axis=1) for name in draws[0]},
        lengths=np.asarray(batch.lengths.cpu()),
        names=np.array(batch.names),
    )


def _draw(module: SequenceModel, batch: Batch, seed: int, draw: int) -> dict[str, np.ndarray]:
    """The arrays of one path a sequence, the dimension of draws left out."""
    terms = named_terms(module, batch, seed, draw)
    padded = torch.arange(batch.x.shape[1]) >= batch.lengths.cpu().unsqueeze(-1)

    def array(values: Tensor) -> np.ndarray:
        values = values.detach().cpu()
        beyond = padded.view(*padded.shape, *(1,) * (values.dim() - 2))
        return values.masked_fill(beyond, torch.nan).numpy()

    return {
        "z": array(terms.z),
        "prior_loc": array(terms.prior_mean),
        "prior_scale": array((0.5 * terms.prior_log_variance).exp()),
        "posterior_loc": array(terms.posterior_mean),
        "posterior_scale": array((0.5 * terms.posterior_log_variance).exp()),
        "log_likelihood": array(terms.log_likelihood),
        "kl": array(terms.kl),
    }


def _kind(path: Path) -> str:
    if path.suffix not in (".nc", ".npz"):
        raise UserError(f"{path}: posteriors are written as .nc (NetCDF) or .npz; choose one")
    return path.suffix


def _from_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in DIMS}


def _from_netcdf(path: Path) -> dict[str, np.ndarray]:
    try:
        import arviz
    except ImportError as error:
        raise UserError(INSTALL) from error
    data: Any = arviz.from_netcdf(str(path))
    likelihood = data.log_likelihood["x"].values[0]
    arrays = {
        name: np.swapaxes(
            likelihood if name == "log_likelihood" else data.posterior[name].values[0], 0, 1
        )
        for name, dims in DIMS.items()
        if "draw" in dims
    }
    names = data.posterior["sequence"].values.astype(str)
    return {**arrays, "lengths": data.constant_data["lengths"].values, "names": names}
