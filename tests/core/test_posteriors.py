"""Posteriors as named arrays: what they hold, and that they come back from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal, kl_divergence

import zpyro
from tests.core.cases import MODELS, Case, make
from zpyro import UserError
from zpyro.analysis.posteriors import DIMS, Posterior
from zpyro.datasets.batching import Batch
from zpyro.datasets.sequences import Sequences

WITH_LATENTS = [name for name in MODELS if not name.startswith("rnn")]


def batch_of(case: Case) -> Batch:
    values = [x[:n].numpy() for x, n in zip(case.x, case.lengths, strict=True)]
    return Sequences(values, ("a", "b", "c"), start=case.start.numpy()).batch()


@pytest.fixture
def found() -> Posterior:
    case = make("gaussian")
    return zpyro.posterior(case.module, batch_of(case), num_samples=4)


@pytest.mark.parametrize("name", WITH_LATENTS)
def test_arrays_agree_with_the_programs(name: str) -> None:
    """Prior, posterior and terms of a draw are those of model and guide at its latents."""
    case = make(name)
    batch = batch_of(case)
    found = zpyro.posterior(case.module, batch, num_samples=3, seed=5)
    assert {key: array.shape for key, array in found.arrays.items() if key != "names"} == {
        **{key: (3, 3, 5, 2) for key in DIMS if "latent" in DIMS[key]},
        "log_likelihood": (3, 3, 5),
        "kl": (3, 3, 5),
        "lengths": (3,),
    }
    valid = torch.arange(5) < torch.tensor([5, 2, 1]).unsqueeze(1)
    for key, array in found.arrays.items():
        if "time" in DIMS[key]:
            assert (
                np.isfinite(np.swapaxes(array, 1, 2))
                == valid.numpy().reshape(3, 5, *(1,) * (array.ndim - 2))
            ).all()
    case.module.eval()
    z = torch.from_numpy(np.nan_to_num(found.z[:, 1]))
    fixed = poutine.condition(case.module.model, data={"z": z})
    sites = poutine.trace(fixed).get_trace(batch.x, batch.lengths, batch.start).nodes
    prior = torch.from_numpy(found.prior_loc[:, 1]), torch.from_numpy(found.prior_scale[:, 1])
    expected = Normal(*prior, validate_args=False).log_prob(z).sum(-1)
    torch.testing.assert_close(
        sites["z"]["fn"].step_log_prob(z), expected.where(valid, 0.0), rtol=1e-9, atol=1e-9
    )
    likelihood = torch.from_numpy(found.log_likelihood[:, 1]).where(valid, 0.0)
    torch.testing.assert_close(sites["x"]["fn"].step_log_prob(batch.x), likelihood)
    own = torch.from_numpy(found.posterior_loc[:, 1]), torch.from_numpy(found.posterior_scale[:, 1])
    divergence = kl_divergence(
        Normal(*own, validate_args=False), Normal(*prior, validate_args=False)
    ).sum(-1)
    torch.testing.assert_close(torch.from_numpy(found.kl[:, 1]), divergence, equal_nan=True)


@pytest.mark.fast
def test_draws_depend_on_names_alone() -> None:
    case = make("gaussian")
    batch = batch_of(case)
    whole = zpyro.posterior(case.module, batch, num_samples=2)
    values = [case.x[1, :2].numpy()]
    alone = zpyro.posterior(
        case.module, Sequences(values, ("b",), start=case.start[1:2].numpy()).batch(), 3
    )
    np.testing.assert_allclose(alone.z[0, :2], whole.z[1, :, :2], rtol=1e-12)
    other = zpyro.posterior(case.module, batch, num_samples=2, seed=1)
    assert not np.allclose(other.z[0], whole.z[0])


@pytest.mark.fast
def test_the_mode_of_the_model_is_kept() -> None:
    case = make("gaussian")
    case.module.train()
    zpyro.posterior(case.module, batch_of(case), num_samples=1)
    assert case.module.training


def check_tree(data: Any, found: Posterior) -> None:
    """That ArviZ's groups hold the arrays of a posterior."""
    posterior, likelihood = data["posterior"], data["log_likelihood"]["x"]
    assert posterior["z"].dims == ("chain", "draw", "sequence", "time", "latent")
    assert posterior["z"].sizes["draw"] == 4
    for name in ("z", "prior_loc", "prior_scale", "posterior_loc", "posterior_scale", "kl"):
        back = posterior[name].values[0]
        np.testing.assert_array_equal(np.swapaxes(back, 0, 1), getattr(found, name))
    np.testing.assert_array_equal(likelihood.values[0], np.swapaxes(found.log_likelihood, 0, 1))
    np.testing.assert_array_equal(data["constant_data"]["lengths"].values, found.lengths)
    one = posterior["z"].sel(sequence="b", time=1, latent=0).values
    np.testing.assert_array_equal(one[0], found.z[1, :, 1, 0])


def test_arviz_reads_the_same_numbers(found: Posterior, tmp_path: Path) -> None:
    arviz = pytest.importorskip("arviz")
    path = found.save(tmp_path / "posterior.nc")
    data = arviz.from_netcdf(str(path))
    check_tree(data, found)
    summary = arviz.summary(data, var_names=["z"], coords={"sequence": ["a"], "time": [0]})
    assert summary["mean"].iloc[0] == pytest.approx(found.z[0, :, 0, 0].mean(), abs=0.01)


def test_arviz_1(found: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # ArviZ 1 exports from_dict of arviz_base, which also runs on older versions of Python.
    arviz_base = pytest.importorskip("arviz_base")
    xarray = pytest.importorskip("xarray")
    monkeypatch.setitem(sys.modules, "arviz", arviz_base)
    tree = found.to_arviz()
    assert isinstance(tree, xarray.DataTree)
    check_tree(tree, found)
    path = found.save(tmp_path / "posterior.nc")
    with xarray.open_datatree(path) as data:
        check_tree(data, found)
    back = Posterior.load(path)
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(getattr(back, name), array)


@pytest.mark.parametrize("ending", ["nc", "npz"])
def test_files_come_back(found: Posterior, tmp_path: Path, ending: str) -> None:
    if ending == "nc":
        pytest.importorskip("arviz")
    back = Posterior.load(found.save(tmp_path / f"posterior.{ending}"))
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(getattr(back, name), array)


@pytest.mark.fast
def test_mistakes_are_told(
    found: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"posterior.txt: posteriors are written as"):
        found.save(tmp_path / "posterior.txt")
    for ending in ("nc", "npz"):
        bad = tmp_path / f"bad.{ending}"
        bad.write_bytes(b"no posterior")
        with pytest.raises(UserError, match=rf"bad.{ending}: cannot be read"):
            Posterior.load(bad)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(UserError, match=r"other.npz: cannot be read .*lengths|other.npz.*z"):
        Posterior.load(tmp_path / "other.npz")
    case = make("rnn")
    with pytest.raises(UserError, match="RNN has no latents"):
        zpyro.posterior(case.module, batch_of(case))
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(UserError, match=r'pip install "zpyro\[posterior\]"'):
        found.save(tmp_path / "posterior.nc")
