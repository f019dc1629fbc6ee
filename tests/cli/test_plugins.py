"""--plugin FILE.py: a model, a likelihood, a data set and a term, each from one file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Zpyro
from zpyro.datasets import DATASETS
from zpyro.likelihoods import LIKELIHOODS
from zpyro.models import MODELS, model_config
from zpyro.objectives import TERMS
from zpyro.training import plugins as plugin_files
from zpyro.training import user_files

MODEL = """
import zpyro
from torch import nn
from zpyro.nn.layers import GaussianMLP


class Tiny(zpyro.models.SequenceModel):
    '''h_t = tanh(W [z_t, e(x_{t-1})]).

    Args:
        likelihood: density of one frame.
        hidden_size: H.
        latent_size: Z.
        gain: factor on the state.
    '''

    def __init__(self, likelihood, hidden_size=4, latent_size=2, *, gain: float = 1.0):
        super().__init__(likelihood, hidden_size, latent_size)
        self.gain = gain
        self.embedding = likelihood.embedding(3)
        self.layer = nn.Linear(latent_size + 3, hidden_size)
        self.prior_network = GaussianMLP(hidden_size, 4, latent_size)
        self.posterior_network = GaussianMLP(hidden_size + 3, 4, latent_size)
        self.output = likelihood.output(hidden_size, self.embedding)

    def initial_state(self, rows):
        return super().initial_state(rows)[:1]

    def transition(self, z, inputs, state):
        return (self.gain * self.layer(zpyro.models.steps.join(z, inputs)).tanh(),)


zpyro.models.register("tiny", Tiny)
"""

TERM = """
import zpyro


@zpyro.objectives.register
class Sparsity(zpyro.objectives.Term):
    name, label, sign = "sparsity", "sparsity", -1.0

    def step_values(self, path):
        return path.z.abs().sum(-1)
"""

RETURN = "return path.z.abs().sum(-1)"

LIKELIHOOD = """
from dataclasses import dataclass
from typing import ClassVar

import zpyro
from zpyro.likelihoods import Gaussian
from zpyro.settings import setting


@zpyro.likelihoods.register
@dataclass(frozen=True)
class Tempered(Gaussian):
    tempering: float = setting(1.0, "factor on log-densities", above=0)
    name: ClassVar[str] = "tempered"

    def log_prob(self, parameters, value):
        return self.tempering * super().log_prob(parameters, value)
"""

DATA = """
from dataclasses import dataclass

import numpy as np

import zpyro
from zpyro.datasets import Dataset, DatasetEntry, Sequences
from zpyro.settings import setting


@dataclass(frozen=True)
class SinesSettings:
    count: int = setting(12, "sequences in all", at_least=3)


def load(_data, settings):
    steps = np.arange(10)
    waves = [np.sin(steps[:, None] * (1 + i / 7)).astype(np.float32) for i in range(settings.count)]
    parts = waves[:-4], waves[-4:-2], waves[-2:]
    splits = [
        Sequences(tuple(part), tuple(f"{number}-{i}" for i in range(len(part))))
        for number, part in enumerate(parts)
    ]
    return Dataset("sines", *splits, likelihood="gaussian", frame_size=1)


zpyro.datasets.register(
    DatasetEntry("sines", "sine waves", SinesSettings, load)
)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> list[Path]:
    files = {"model": MODEL, "term": TERM, "likelihood": LIKELIHOOD, "data": DATA}
    for name, text in files.items():
        (tmp_path / f"my_{name}.py").write_text(text, encoding="utf-8")
    yield [tmp_path / f"my_{name}.py" for name in files]
    for registry, name in (
        (MODELS, "tiny"),
        (TERMS, "sparsity"),
        (LIKELIHOODS, "tempered"),
        (DATASETS, "sines"),
    ):
        if name in registry:
            registry.unregister(name)


def test_all_four_train_evaluate_and_plot(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path
) -> None:
    given = [text for path in plugins for text in ("--plugin", path)]
    run = tmp_path / "run"
    settings = (
        *("--set", "model.name=tiny", "--set", "model.gain=0.5"),
        *("--set", "model.likelihood=tempered", "--set", "model.tempering=0.9"),
        *("--set", "objective.sparsity_weight=0.1", "--set", "data.count=10"),
        *("--set", "train.log_every=1", "--set", "train.batch_size=2"),
    )
    result = zpyro("train", "--dataset", "sines", *given, *settings, "--max-steps", 6, "--out", run)
    assert result.exit_code == 0, result.output
    config = (run / "config.toml").read_text(encoding="utf-8")
    assert "gain = 0.5" in config
    assert "sparsity_weight = 0.1" in config
    assert "tempering = 0.9" in config
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [record for record in records if record["kind"] == "train"]
    assert all(record["sparsity"] > 0 for record in trained)
    assert {record["sparsity_weight"] for record in trained} == {0.1}
    # Code in a run directory is not executed unless asked for.
    refused = zpyro("evaluate", run)
    assert refused.exit_code == 2
    assert "--plugin my_model.py" in refused.stderr
    evaluated = zpyro("evaluate", run, "--run-plugins", "--json")
    assert evaluated.exit_code == 0, evaluated.output
    again = zpyro("evaluate", run, *given, "--json")
    assert json.loads(again.stdout) == json.loads(evaluated.stdout)
    plotted = zpyro("plot", run, "--out", tmp_path / "curves.png")
    assert plotted.exit_code == 0, plotted.output
    resumed = zpyro("train", "--resume", run, "--run-plugins", "--max-steps", 8)
    assert resumed.exit_code == 0, resumed.output
    sampled = zpyro("sample", run, "--run-plugins", "-n", 2, "--frames", 5, "--out", tmp_path)
    assert sampled.exit_code == 0, sampled.output
    info = zpyro("data", "info", "sines", "--plugin", plugins[3])
    assert "sines" in info.stdout


@pytest.mark.slow
def test_compare_hands_plugins_to_its_processes(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path
) -> None:
    given = [text for path in plugins for text in ("--plugin", path)]
    result = zpyro(
        *("compare", "--dataset", "sines", *given, "--models", "tiny,rnn", "--seeds", 1),
        *("--budget-steps", 4, "--set", "train.batch_size=2", "--match", "none"),
        *("--out", tmp_path / "table"),
    )
    assert result.exit_code == 0, result.output
    table = json.loads((tmp_path / "table" / "comparison.json").read_text(encoding="utf-8"))
    assert "tiny" in json.dumps(table)


def test_a_plugin_that_fails_is_named_with_its_line(zpyro: Zpyro, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import zpyro\nraise KeyError('no')\n", encoding="utf-8")
    result = zpyro("train", "--dataset", "vowels", "--plugin", broken, "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "broken.py, line 2: KeyError" in result.stderr
    missing = zpyro("train", "--dataset", "vowels", "--plugin", tmp_path / "absent.py")
    assert "is missing; give another file for --plugin" in missing.stderr


def test_two_plugins_of_one_name_are_refused(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / plugins[1].name
    other.write_text(TERM, encoding="utf-8")
    arguments = ("train", "--dataset", "vowels", "--out", tmp_path / "run")
    result = zpyro(*arguments, "--plugin", plugins[1], "--plugin", other)
    assert result.exit_code == 2
    assert "2 files are named my_term.py; rename one" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_link_to_a_plugin_is_the_plugin(plugins: list[Path], tmp_path: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(plugins[1])
    (loaded,) = plugin_files.load([plugins[1], link])
    assert loaded.text == TERM
    assert "sparsity" in TERMS


def test_a_final_weight_without_a_rate_is_refused(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path
) -> None:
    arguments = ("train", "--dataset", "vowels", "--out", tmp_path / "run", "--plugin", plugins[1])
    result = zpyro(*arguments, "--set", "objective.sparsity_weight_final=0.1")
    assert result.exit_code == 2
    assert "set objective.sparsity_weight_rate above 0" in result.stderr


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return path.z.abs().sum()", "returned ()"),
        ("return path.z.abs().sum((-1, -2))", "returned (8,)"),
        ("return path.z", "returned (8, 240, 64)"),
        ("return 1.0", "returned float"),
        ("return None", "returned NoneType"),
        ("return [path.z.sum(-1)]", "returned list"),
    ],
)
def test_a_term_of_the_wrong_shape_leaves_no_run(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path, body: str, expected: str
) -> None:
    plugins[1].write_text(TERM.replace(RETURN, body), encoding="utf-8")
    arguments = ("--plugin", plugins[1], "--plugin", plugins[3], "--out", tmp_path / "run")
    result = zpyro(
        "train", "--dataset", "sines", *arguments, "--set", "objective.sparsity_weight=0.1"
    )
    assert result.exit_code == 2, result.output
    *_, line = result.stderr.splitlines()
    expected = expected.replace("240, 64", "10, 64")
    assert line == (
        f"error: objective term sparsity: step_values {expected}; it must return one value per "
        "sequence and step, a tensor of shape (..., 8, 10)"
    )
    assert not (tmp_path / "run").exists()


def test_a_term_that_fails_leaves_no_run(zpyro: Zpyro, plugins: list[Path], tmp_path: Path) -> None:
    plugins[1].write_text(TERM.replace(RETURN, "return path.nothing"), encoding="utf-8")
    arguments = ("--plugin", plugins[1], "--plugin", plugins[3], "--out", tmp_path / "run")
    result = zpyro(
        "train", "--dataset", "sines", *arguments, "--set", "objective.sparsity_weight=0.1"
    )
    assert result.exit_code == 2, result.output
    assert "my_term.py, line" in result.stderr
    assert "AttributeError" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TERM.replace("step_values", "step_value"), "Sparsity: lacks step_values; define it"),
        (
            TERM + "\n    def __init__(self):\n        super().__init__(1.0)\n",
            "sparsity: cannot be made of its weight (",
        ),
        (
            TERM + "\n    def __init__(self, weight, other):\n        super().__init__(weight)\n",
            "sparsity: cannot be made of its weight (",
        ),
    ],
)
def test_a_term_that_cannot_be_made_leaves_no_run(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path, text: str, expected: str
) -> None:
    plugins[1].write_text(text, encoding="utf-8")
    arguments = ("--plugin", plugins[1], "--plugin", plugins[3], "--out", tmp_path / "run")
    result = zpyro(
        "train", "--dataset", "sines", *arguments, "--set", "objective.sparsity_weight=0.1"
    )
    assert result.exit_code == 2, result.output
    *_, line = result.stderr.splitlines()
    assert line.startswith(f"error: objective term {expected}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("size", "the argument size of Tiny has no default"),
        ("size=[1, 2]", "argument size has the type list; annotate it as int"),
        ("size=(1, 2)", "argument size has the type tuple; annotate it as int"),
        ("size: dict = None", "argument size has the type dict; annotate it as int"),
        ("size=object()", "argument size has the type object; annotate it as int"),
        ("size=nn.ReLU", "argument size has the type type; annotate it as int"),
    ],
)
def test_a_model_whose_argument_cannot_be_a_setting(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path, argument: str, expected: str
) -> None:
    text = MODEL.replace("*, gain: float = 1.0", f"*, {argument}, gain: float = 1.0")
    plugins[0].write_text(text, encoding="utf-8")
    result = zpyro("train", "--dataset", "vowels", "--plugin", plugins[0], "--out", tmp_path / "r")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: model tiny: {expected}")
    assert len(result.stderr.splitlines()) == 1
    # The other models do not notice.
    assert "tiny" not in MODELS
    assert model_config("vrnn").hidden_size == 256


def test_notes_on_plugins_that_differ_or_are_not_the_runs(
    zpyro: Zpyro, plugins: list[Path], tmp_path: Path
) -> None:
    data, run = plugins[3], tmp_path / "run"
    made = zpyro("train", "--dataset", "sines", "--plugin", data, "--out", run, "--max-steps", 1)
    assert made.exit_code == 0, made.output
    same = zpyro("evaluate", run, "--plugin", data)
    assert same.exit_code == 0
    assert "note: " not in same.stderr
    data.write_text(DATA + "# changed\n", encoding="utf-8")
    DATASETS.unregister("sines")
    other = zpyro("evaluate", run, "--plugin", data, "--plugin", plugins[1])
    assert other.exit_code == 0, other.output
    assert f"note: {data} differs from the my_data.py of the last training" in other.stderr
    assert f"note: {plugins[1]} is not one of the plugins of {run}" in other.stderr


def test_the_present_text_of_a_plugin_runs(tmp_path: Path) -> None:
    file = tmp_path / "value.py"
    for text in ("value = 1\n", "value = 2\n"):
        file.write_text(text, encoding="utf-8")
        os.utime(file, (1, 1))  # bytecode kept by the first import would look valid
        assert user_files.read(file, "--plugin").run().value == int(text[-2])
