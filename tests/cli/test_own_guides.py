"""zpyro train --guide: trained, saved, restored, never run unasked; what is said to mistakes."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result
from pyro import poutine
from pyro.infer import Trace_ELBO

import zpyro as library
from tests.cli.conftest import SMALL, Zpyro
from zpyro.analysis import write_report
from zpyro.errors import UserError
from zpyro.training import custom_guides as custom_guides
from zpyro.training import runs

HEAD = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn

"""

FILTERING = (
    HEAD
    + """
class Mine(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.rnn = nn.GRU(module.likelihood.size, 7, batch_first=True)
        self.output = nn.Linear(7, 2 * module.latent_size)

    def forward(self, x, lengths=None, start=None):
        process = self.module.bind(x, lengths, start)
        mean, scale = self.output(self.rnn(process.x)[0]).chunk(2, dim=-1)
        posterior = dist.Normal(mean, scale.exp())
        if process.conditions.mask is not None:
            posterior = posterior.mask(process.conditions.mask.unsqueeze(-1))
        with pyro.plate("sequences", len(x)):
            return pyro.sample("z", posterior.to_event(2))
"""
)

EXPOSING = (
    HEAD
    + """
def make(module):
    def guide(x, lengths=None, start=None):
        process = module.bind(x, lengths, start)
        b = process.backward_states
        mean = b[..., : module.latent_size]
        with pyro.plate("sequences", len(x)):
            fn = dist.Normal(mean, 0.5).to_event(2)
            return pyro.sample("z", fn, infer={"backward_states": b})

    return guide
"""
)

STEPS = (
    HEAD
    + """
class Mine(nn.Module):
    granularity = "step"

    def __init__(self, module):
        super().__init__()
        self.size = module.latent_size
        self.weight = nn.Parameter(torch.zeros(module.likelihood.size, self.size))

    def forward(self, x, lengths=None, start=None):
        with pyro.plate("sequences", len(x)):
            for t in range(x.shape[1]):
                pyro.sample(f"z_{t + 1}", dist.Normal(x[:, t] @ self.weight, 1.0).to_event(1))
"""
)

PLATE = '    with pyro.plate("sequences", len(x)):\n'
GUIDE = HEAD + "def make(module):\n  def guide(x, lengths=None, start=None):\n" + PLATE

CONSTANT = "--set=train.learning_rate_schedule=constant"
NO_COSTS = ("--set=objective.auxiliary_weight=0",)


def begin(zpyro: Zpyro, arrays: Path, out: Path, guide: object, *more: object) -> Result:
    basis = ("--dataset", "npz", "--data", arrays, *SMALL, "--max-steps", 6, *NO_COSTS, CONSTANT)
    return zpyro("train", *basis, "--out", out, "--guide", guide, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides")
    for name, text in (("filtering", FILTERING), ("exposing", EXPOSING), ("steps", STEPS)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(zpyro: Zpyro, arrays: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "own"
    result = begin(zpyro, arrays, out, f"{folder / 'filtering.py'}:Mine")
    assert result.exit_code == 0, result.output
    return out


def last_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_its_parameters_are_trained_and_saved(run: Path, folder: Path) -> None:
    source = custom_guides.load(f"{folder / 'filtering.py'}:Mine")
    module = runs.open_run(run).load("last", guide=source).model
    names = {name for name, _ in module.named_parameters() if name.startswith("custom_guide.")}
    assert "custom_guide.output.bias" in names
    assert not any("custom_guide.module" in name for name in module.state_dict())
    # Adam's first steps move every number that has a gradient by about the step size.
    assert not torch.equal(module.state_dict()["custom_guide.output.bias"], torch.zeros(6))


def test_the_run_keeps_the_code_and_its_checksum(run: Path, folder: Path) -> None:
    record = json.loads((run / "guide" / "guide.json").read_text())
    assert (record["file"], record["name"]) == ("filtering.py", "Mine")
    assert (run / "guide" / "filtering.py").read_text() == FILTERING
    assert record["sha256"] == hashlib.sha256(FILTERING.encode()).hexdigest()


def test_evaluation_is_by_the_guide(zpyro: Zpyro, run: Path, folder: Path) -> None:
    guide = f"{folder / 'filtering.py'}:Mine"
    result = zpyro("evaluate", run, "--json", "--guide", guide)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    again = zpyro("evaluate", run, "--json", "--run-guide")
    assert json.loads(again.stdout) == values
    module = runs.open_run(run).load(guide=custom_guides.load(guide)).model
    config = runs.open_run(run).config()
    data = library.datasets.load("npz", config.data_folder, config.data).test
    batch = data.batch()
    # Pyro's own estimate over many paths, within its Monte-Carlo error.
    loss = Trace_ELBO()
    bounds = [
        -loss.loss(module.model, module.active_guide, batch.x, batch.lengths, batch.start)
        for _ in range(300)
    ]
    one = values["elbo"] * len(batch)
    assert abs(one - np.mean(bounds)) < 5 * np.std(bounds)


def test_resuming_goes_on_with_it(zpyro: Zpyro, arrays: Path, folder: Path, tmp_path: Path) -> None:
    guide = f"{folder / 'filtering.py'}:Mine"
    assert begin(zpyro, arrays, tmp_path / "whole", guide, "--max-steps", 12).exit_code == 0
    assert begin(zpyro, arrays, tmp_path / "parts", guide).exit_code == 0
    on = zpyro("train", "--resume", tmp_path / "parts", "--max-steps", 12, "--run-guide")
    assert on.exit_code == 0, on.output
    source = custom_guides.load(guide)
    whole, parts = (
        runs.open_run(tmp_path / name).load("last", guide=source).model.state_dict()
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name


def test_no_code_is_run_unasked(zpyro: Zpyro, run: Path, tmp_path: Path) -> None:
    for command in (("evaluate", run), ("train", "--resume", run), ("reconstruct", run)):
        line = last_line(zpyro(*command))
        assert "code in a run directory is not executed by default" in line
        assert "--guide filtering.py:Mine" in line
    assert zpyro("sample", run, "-n", 2, "--frames", 3, "--out", tmp_path).exit_code == 0
    np.save(tmp_path / "start.npy", np.zeros((2, 5)))
    prefix = ("--prefix", tmp_path / "start.npy", "--frames", 3, "--out", tmp_path)
    assert "--run-guide" in last_line(zpyro("sample", run, *prefix))
    assert zpyro("sample", run, *prefix, "--run-guide").exit_code == 0
    for command in (("reconstruct", run), ("interpolate", run, 0, 1)):
        result = zpyro(*command, "--run-guide", "--out", tmp_path)
        assert result.exit_code == 0, result.output


def test_its_posterior_is_what_is_looked_at(
    zpyro: Zpyro, run: Path, folder: Path, tmp_path: Path
) -> None:
    guide = f"{folder / 'filtering.py'}:Mine"
    assert "code in a run directory is not executed by default" in last_line(zpyro("inspect", run))
    with pytest.raises(UserError, match=r"guide=custom_guides.load\("):
        write_report(run, out=tmp_path / "unasked")
    result = zpyro("inspect", run, "--guide", guide, "--out", tmp_path / "looks")
    assert result.exit_code == 0, result.output
    assert "that of the run's custom guide" in html.unescape(
        (tmp_path / "looks" / "report.html").read_text(encoding="utf-8")
    )
    source = custom_guides.load(guide)
    report = write_report(run, out=tmp_path / "again", scored=0, num_samples=4, guide=source)
    module = runs.open_run(run).load(guide=source).model
    config = runs.open_run(run).config()
    batch = library.datasets.load("npz", config.data_folder, config.data).test[[0]].batch()
    trace = poutine.trace(module.active_guide).get_trace(batch.x, batch.lengths, batch.start)
    posterior = trace.nodes["z"]["fn"].base_dist
    view = report.views[0]
    for draw in range(4):
        mean, scale = (each[0].detach().numpy() for each in (posterior.mean, posterior.stddev))
        np.testing.assert_allclose(view.posterior_loc[draw], mean, atol=1e-6)
        np.testing.assert_allclose(view.posterior_scale[draw], scale, atol=1e-6)
    told, prior = (
        torch.distributions.Normal(
            torch.tensor(getattr(view, f"{which}_loc")),
            torch.tensor(getattr(view, f"{which}_scale")),
        )
        for which in ("posterior", "prior")
    )
    divergence = torch.distributions.kl_divergence(told, prior).mean(0)
    np.testing.assert_allclose(view.kl_by_latent, divergence, atol=1e-9)
    np.testing.assert_allclose(view.kl, divergence.sum(-1), atol=1e-9)


FLOW = HEAD + (
    "from pyro.distributions.transforms import Planar\n\n"
    "class Mine(nn.Module):\n"
    "    def __init__(self, module):\n"
    "        super().__init__()\n"
    "        self.size, self.flow = module.latent_size, Planar(module.latent_size)\n\n"
    "    def forward(self, x, lengths=None, start=None):\n"
    "        base = dist.Normal(x.new_zeros(*x.shape[:2], self.size), 0.5).to_event(1)\n"
    "        with pyro.plate('sequences', len(x)):\n"
    "            fn = dist.TransformedDistribution(base, [self.flow]).to_event(1)\n"
    "            return pyro.sample('z', fn)\n"
)


def test_a_guide_without_means_is_seen_by_its_draws(
    zpyro: Zpyro, arrays: Path, tmp_path: Path
) -> None:
    file, run = tmp_path / "flow.py", tmp_path / "run"
    file.write_text(FLOW, encoding="utf-8")
    assert begin(zpyro, arrays, run, f"{file}:Mine").exit_code == 0
    result = zpyro("inspect", run, "--run-guide", "--out", tmp_path / "looks")
    assert result.exit_code == 0, result.output
    source = custom_guides.load(f"{file}:Mine")
    again = write_report(run, out=tmp_path / "again", scored=0, num_samples=5, guide=source)
    view = again.views[0]
    np.testing.assert_allclose(view.posterior_loc[3], view.z.mean(0))
    np.testing.assert_allclose(view.posterior_scale[3], view.z.std(0, ddof=1))
    assert "those of the samples" in view.note
    line = last_line(zpyro("inspect", run, "--run-guide", "--draws", 1, "--out", tmp_path))
    assert "have no known means; give more --draws" in line
    line = last_line(zpyro("reconstruct", run, "--run-guide", "--out", tmp_path))
    assert "z has no closed-form mean (TransformedDistribution)" in line
    assert zpyro("reconstruct", run, "--run-guide", "--draw", "--out", tmp_path).exit_code == 0


def test_another_guide_than_the_runs_is_told(
    zpyro: Zpyro, arrays: Path, run: Path, folder: Path, tmp_path: Path
) -> None:
    line = last_line(zpyro("evaluate", run, "--guide", f"{folder / 'steps.py'}:Mine"))
    assert line.endswith("take the guide of its training")
    file = tmp_path / "mine.py"
    body = "      pyro.sample('z', dist.Normal(x.new_zeros(len(x), 6, SIZE), 1).to_event(2))\n"
    file.write_text(GUIDE + body.replace("SIZE", "3") + "  return guide\n", encoding="utf-8")
    other = tmp_path / "run"
    assert begin(zpyro, arrays, other, f"{file}:make").exit_code == 0
    file.write_text(GUIDE + body.replace("SIZE", "4") + "  return guide\n", encoding="utf-8")
    for command in ("evaluate", "reconstruct", "inspect"):
        line = last_line(zpyro(command, other, "--guide", f"{file}:make"))
        assert re.search(r"latents have shape \(\d, 6, 4\) .* must be \(\d, 6, 3\)$", line)


def test_the_particle_filter_is_refused_before_anything_is_scored(zpyro: Zpyro, run: Path) -> None:
    result = zpyro("evaluate", run, "--run-guide", "--bound", "smc")
    assert "take --bound iwae" in last_line(result)
    assert "evaluating" not in result.stderr


def test_a_changed_copy_is_not_run(zpyro: Zpyro, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    copy = tmp_path / "run" / "guide" / "filtering.py"
    copy.write_text(copy.read_text() + "\nraise SystemExit\n")
    assert "differs from what the run recorded" in last_line(
        zpyro("evaluate", tmp_path / "run", "--run-guide")
    )


def test_backward_states_bring_auxiliary_costs(
    zpyro: Zpyro, arrays: Path, folder: Path, tmp_path: Path
) -> None:
    weight = "--set=objective.auxiliary_weight=0.01"
    # The walks are of one length, so this guide needs no mask.
    exposing = f"{folder / 'exposing.py'}:make"
    result = begin(zpyro, arrays, tmp_path / "run", exposing, weight, "--set=train.log_every=2")
    assert result.exit_code == 0, result.output
    records = runs.open_run(tmp_path / "run").records()
    costs = [record["log_auxiliary"] for record in records if record["kind"] == "train"]
    assert costs
    assert all(cost != 0 for cost in costs)
    filtering = f"{folder / 'filtering.py'}:Mine"
    line = last_line(begin(zpyro, arrays, tmp_path / "other", filtering, weight))
    assert "exposes no backward states" in line
    assert not (tmp_path / "other").exists()


def test_a_guide_may_go_step_by_step(
    zpyro: Zpyro, arrays: Path, folder: Path, tmp_path: Path
) -> None:
    result = begin(zpyro, arrays, tmp_path / "run", f"{folder / 'steps.py'}:Mine")
    assert result.exit_code == 0, result.output
    again = zpyro("evaluate", tmp_path / "run", "--json", "--run-guide")
    assert np.isfinite(json.loads(again.stdout)["elbo"])


def test_missing_files_and_bad_names_are_told(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "nothing.py: is missing" in last_line(begin(zpyro, arrays, out, "nothing.py:Mine"))
    assert "give FILE.py:NAME" in last_line(begin(zpyro, arrays, out, "nothing.py"))
    (tmp_path / "guide.py").write_bytes(b"\xff\xfe")
    line = last_line(begin(zpyro, arrays, out, f"{tmp_path / 'guide.py'}:Mine"))
    assert "guide.py: cannot be read as Python" in line
    (tmp_path / "guide.txt").write_text("x = 1\n")
    line = last_line(begin(zpyro, arrays, out, f"{tmp_path / 'guide.txt'}:Mine"))
    assert "guide.txt: is not a Python file; give one that ends in .py" in line
    (tmp_path / "guide.py").write_text("def make(module):\n    return lambda *_: None\n")
    spec = f"{tmp_path / 'guide.py'}:make"
    assert "RNN has no latents" in last_line(
        begin(zpyro, arrays, out, spec, "--set=model.name=rnn")
    )


RECORDS = {
    "no JSON": ("{", "is corrupt ("),
    "no texts": ('{"file": "a.py", "name": 3, "sha256": ""}', "is corrupt; choose another run"),
    "no table": ("[]", "is corrupt; choose another run"),
    "elsewhere": (
        '{"file": "../a.py", "name": "Mine", "sha256": ""}',
        "names the file ../a.py, which is not beside it",
    ),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_is_none_is_told(zpyro: Zpyro, run: Path, tmp_path: Path, name: str) -> None:
    text, message = RECORDS[name]
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "guide" / "guide.json").write_text(text)
    line = last_line(zpyro("evaluate", copy, "--run-guide"))
    assert f"guide.json: {message}" in line


def test_guides_that_were_not_asked_for_are_told(
    zpyro: Zpyro, run: Path, array_run: Path, folder: Path, tmp_path: Path
) -> None:
    guide = f"{folder / 'filtering.py'}:Mine"
    both = last_line(zpyro("evaluate", run, "--guide", guide, "--run-guide"))
    assert "--guide and --run-guide are both given; give one" in both
    line = last_line(zpyro("evaluate", array_run, "--guide", guide))
    assert "was trained with the model's own guide; leave out --guide" in line
    changed = tmp_path / "filtering.py"
    changed.write_text(FILTERING + "\n# A line more.\n")
    result = zpyro("evaluate", run, "--guide", f"{changed}:Mine", "--json")
    assert result.exit_code == 0, result.output
    assert f"note: {changed} differs from the filtering.py of the last training" in result.stderr
    same = zpyro("evaluate", run, "--guide", guide, "--json")
    assert "note: " not in same.stderr
    assert same.stdout == result.stdout


def test_latents_beyond_the_lengths_must_not_count(
    zpyro: Zpyro, tones: Path, folder: Path, tmp_path: Path
) -> None:
    basis = ("--dataset", "wav", "--data", tones, "--set=data.frame_size=40", *SMALL, *NO_COSTS)
    spec = f"{folder / 'exposing.py'}:make"
    result = zpyro("train", *basis, "--max-steps", 2, "--out", tmp_path / "run", "--guide", spec)
    assert "scores latents beyond the lengths" in last_line(result)
    spec = f"{folder / 'filtering.py'}:Mine"
    result = zpyro("train", *basis, "--max-steps", 2, "--out", tmp_path / "run", "--guide", spec)
    assert result.exit_code == 0, result.output
