"""A run whose config.toml, records or data were edited, copied or damaged after the training."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Zpyro, train
from zpyro import datasets, settings
from zpyro.io import manifest
from zpyro.training import config, runs

FIELDS = config.known_fields(datasets.entry("npz").settings)
CHANGED: dict[str, object] = {
    "objective.kl_weight": 0.9,
    "objective.bound": "iwae",
    "objective.particles": 2,
    "objective.auxiliary_weight": 0.001,
    "objective.auxiliary_weight_final": 0.0,
    "train.learning_rate_schedule": "plateau",
    "train.device": "cpu",
    "train.milestones": [1, 2],
    "train.init": "elsewhere",
    "model.sample_bits": 12,
    "model.likelihood": "bernoulli",
    "model.name": "vrnn",
    "model.log_variance_bounds": [-9.0, 9.0],
    "data.likelihood": "bernoulli",
}
"""Other values where none follows from the type and limits of a setting."""


def other_value(key: str, value: Any) -> object:
    """Another valid value of a setting."""
    if key in CHANGED:
        return CHANGED[key]
    limits = FIELDS[key].limits
    if limits.choices:
        return next(choice for choice in limits.choices if choice != value)
    if isinstance(value, bool):
        return not value
    if value == settings.NONE:
        return 3
    assert isinstance(value, int | float)
    if isinstance(value, int):
        return value + 1
    return value / 2 if value else 0.25


def edit(run: Path, key: str, value: object) -> None:
    """Change one line of config.toml."""
    path = run / runs.CONFIG
    section, _, name = key.rpartition(".")
    lines, inside = path.read_text().splitlines(), ""
    for number, line in enumerate(lines):
        if line.startswith("["):
            inside = line.strip("[]")
        elif inside == section and line.partition(" = ")[0] == name:
            lines[number] = f"{name} = {settings.literal(value)}"
            break
    else:
        raise KeyError(key)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def run(array_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(array_run, tmp_path / "run"))


def refused(result: Any) -> str:
    """The one line of a user's mistake."""
    assert result.exit_code == 2, result.output
    (line,) = [each for each in result.stderr.splitlines() if not each.startswith("loading")]
    assert line.startswith("error: ")
    return line


def resume(zpyro: Zpyro, run: Path, *more: object) -> Any:
    return zpyro("train", "--resume", run, "--max-steps", 14, *more)


@pytest.mark.parametrize("key", [key for key in FIELDS if key != "train.carry_state"])
def test_every_setting_is_refused_by_name_or_takes_effect(
    zpyro: Zpyro, run: Path, key: str
) -> None:
    section, _, name = key.partition(".")
    before = tomllib.loads((run / runs.CONFIG).read_text())[section][name]
    after = other_value(key, before)
    edit(run, key, after)
    if key == "objective.auxiliary_weight_final":
        edit(run, "objective.auxiliary_weight_rate", 0.1)
    if key == "objective.resampling_gradient":
        edit(run, "objective.bound", "fivo")
    edited = (run / runs.CONFIG).read_bytes()
    result = resume(zpyro, run)
    assert (result.exit_code == 2) == config.is_fixed(key), result.output
    if result.exit_code:
        line = refused(result)
        assert f"config.toml: {key} is {settings.shown(after)}, but the checkpoint" in line
        assert f"was trained with {settings.shown(before)}; set it back, or start" in line
        assert (run / runs.CONFIG).read_bytes() == edited
        edit(run, key, before)
        assert resume(zpyro, run).exit_code == 0
    else:
        if not name.startswith(("max_", "epochs")):
            kept = runs.open_run(run).load("last").settings[key]
            assert kept == after or np.isclose(kept, after)
        assert zpyro("evaluate", run, "--checkpoint", "last").exit_code == 0
    assert runs.open_run(run).load("last").step == 14


@pytest.mark.parametrize("by_option", [False, True])
def test_a_setting_that_the_data_cannot_have(zpyro: Zpyro, run: Path, by_option: bool) -> None:
    option = ["--set=train.carry_state=true"] if by_option else []
    if not by_option:
        edit(run, "train.carry_state", True)
    before = (run / runs.CONFIG).read_bytes()
    assert "no state to carry" in zpyro("train", "--resume", run, "--max-steps=14", *option).stderr
    assert (run / runs.CONFIG).read_bytes() == before
    edit(run, "train.carry_state", False)
    assert resume(zpyro, run).exit_code == 0


FIXED = [key for key in FIELDS if config.is_fixed(key)]


@pytest.mark.parametrize("key", FIXED)
def test_a_run_with_an_edited_file_is_read_as_it_was_trained(
    zpyro: Zpyro, run: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    scores = json.loads(zpyro("evaluate", run, "--json").stdout)
    section, _, name = key.partition(".")
    before = tomllib.loads((run / runs.CONFIG).read_text())[section][name]
    edit(run, key, other_value(key, before))
    result = zpyro("evaluate", run, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == scores
    assert any(key in message and "which is used" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "assignment",
    ["model.hidden_size=3", "data.seed=7", "train.optimizer=sgd", "model.name=vrnn",
     "data.normalize=false", "train.seed=5"],
)  # fmt: skip
def test_values_given_on_resume_are_refused_likewise(
    zpyro: Zpyro, run: Path, assignment: str
) -> None:
    line = refused(resume(zpyro, run, f"--set={assignment}"))
    assert assignment.partition("=")[0] in line
    assert "the run was trained with" in line
    assert "--resume takes the run's own settings" in line


@pytest.mark.parametrize(
    "assignment",
    ["train.learning_rate=0.5", "train.batch_size=5", "objective.kl_weight=0.7",
     "train.average=0.5", "train.weight_decay=0.1"],
)  # fmt: skip
def test_values_given_on_resume_take_effect(zpyro: Zpyro, run: Path, assignment: str) -> None:
    assert resume(zpyro, run, f"--set={assignment}").exit_code == 0
    key, _, value = assignment.partition("=")
    assert runs.open_run(run).load("last").settings[key] == float(value)
    assert resume(zpyro, run).exit_code == 0


def cut(text: str) -> str:
    return text[: text.index("[train]")]


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is not a run directory (config.toml is missing)"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff\xfe" + path.read_bytes()), "is not TOML"),
    "cut within a line": (lambda path: path.write_text(path.read_text()[:-9]), "is not TOML"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is not a run directory"),
    "an unknown key": (lambda path: edit(path.parent, "train.seed", 0) or path.write_text(
        path.read_text() + "sneed = 1\n"), "unknown setting train.sneed; did you mean train.seed"),
    "an unknown section": (
        lambda path: path.write_text(path.read_text() + "[more]\na = 1\n"), "unknown setting more.a"
    ),
    "a wrong type": (
        lambda path: edit(path.parent, "train.batch_size", "many"),
        'train.batch_size must be a whole number, but is "many"',
    ),
    "a section that is a number": (
        lambda path: path.write_text("train = 3\n" + cut(path.read_text())), "unknown setting train"
    ),
    "out of its limits": (
        lambda path: edit(path.parent, "train.learning_rate", -1.0), "must be above 0, but is -1.0"
    ),
    "a data set that is a number": (
        lambda path: edit(path.parent, "dataset", 3), "dataset must be text"
    ),
    "another data set": (
        lambda path: edit(path.parent, "dataset", "wav"),
        'dataset is "wav", but the checkpoint was trained with "npz"',
    ),
    "an unknown model": (
        lambda path: edit(path.parent, "model.name", "gru"),
        'model.name is "gru", but the checkpoint was trained with "zforcing"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_one_line_and_changes_nothing(
    zpyro: Zpyro, run: Path, array_run: Path, name: str
) -> None:
    damage, words = DAMAGE[name]
    damage(run / runs.CONFIG)
    damaged = (run / runs.CONFIG).read_bytes() if (run / runs.CONFIG).is_file() else None
    assert words in refused(resume(zpyro, run))
    if damaged is not None:
        assert (run / runs.CONFIG).read_bytes() == damaged
    shutil.rmtree(run / runs.CONFIG, ignore_errors=True)
    shutil.copy(array_run / runs.CONFIG, run / runs.CONFIG)
    assert resume(zpyro, run).exit_code == 0


@pytest.mark.parametrize("shorten", [cut, lambda text: "", lambda text: "[model]\n"])
def test_what_the_file_leaves_out_is_as_it_was_trained(
    zpyro: Zpyro, run: Path, arrays: Path, shorten: Callable[[str], str]
) -> None:
    before = runs.open_run(run).config()
    path = run / runs.CONFIG
    path.write_text(shorten(path.read_text()))
    result = resume(zpyro, run, "--data", arrays)
    assert result.exit_code == 0, result.output
    after = runs.open_run(run).config()
    assert (after.model, after.data, after.objective) == (
        before.model,
        before.data,
        before.objective,
    )
    assert after.train.batch_size == before.train.batch_size == 8
    assert zpyro("evaluate", run).exit_code == 0


def test_the_file_of_another_run(
    zpyro: Zpyro, run: Path, arrays: Path, tmp_path: Path, token_run: Path
) -> None:
    other = train(zpyro, "npz", arrays, tmp_path / "other", "--set=model.name=srnn")
    shutil.copy(other / runs.CONFIG, run / runs.CONFIG)
    assert 'model.name is "srnn", but the checkpoint' in refused(resume(zpyro, run))
    assert zpyro("evaluate", run).exit_code == 0
    shutil.copy(token_run / runs.CONFIG, run / runs.CONFIG)
    assert 'model.likelihood is "categorical", but the' in refused(resume(zpyro, run))
    assert zpyro("sample", run).exit_code == 0


def test_a_weight_that_the_model_does_not_have(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    run = train(zpyro, "npz", arrays, tmp_path / "run", "--set=model.name=rnn")
    edit(run, "objective.auxiliary_weight", 0.5)
    line = refused(resume(zpyro, run))
    assert "objective.auxiliary_weight has no effect on the model rnn; set it to 0" in line


@pytest.mark.parametrize("key", ["model.hidden_size", "train.learning_rate", "data.seed"])
def test_a_run_from_before_checkpoints_held_settings(zpyro: Zpyro, run: Path, key: str) -> None:
    for path in run.glob("*/meta.json"):
        meta = json.loads(path.read_text())
        del meta["settings"], meta["fingerprint"]
        path.write_text(json.dumps(manifest.signed(meta)))
    assert resume(zpyro, Path(shutil.copytree(run, run.with_name("same")))).exit_code == 0
    section, _, name = key.partition(".")
    edit(run, key, other_value(key, tomllib.loads((run / runs.CONFIG).read_text())[section][name]))
    result = resume(zpyro, run)
    if key == "train.learning_rate":
        assert result.exit_code == 0, result.output
    else:  # data are compared by their normalization, as they were then
        assert ("are not those" if section == "data" else key) in refused(result)


# -- data -----------------------------------------------------------------------------------------


def walks(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    x = np.cumsum(np.random.default_rng(0).normal(size=(40, 6, 5)), axis=1)
    np.savez(path, x=change(x))
    return path


def one_number(x: np.ndarray) -> np.ndarray:
    x[3, 2, 1] += 1.0
    return x


@pytest.mark.parametrize("by_file", [False, True])
@pytest.mark.parametrize(
    "change",
    [one_number, lambda x: x[:39], lambda x: x[::-1], lambda x: x[:, :5], lambda x: 2 * x,
     lambda x: x[:, :, :4]],
)  # fmt: skip
def test_data_that_changed_are_refused_and_the_run_is_left(
    zpyro: Zpyro, tmp_path: Path, change: Callable[[np.ndarray], np.ndarray], by_file: bool
) -> None:
    data = walks(tmp_path / "walks.npz", lambda x: x)
    # Without normalization no mean tells of a change.
    run = train(zpyro, "npz", data, tmp_path / "run", "--set=data.normalize=false")
    before = (run / runs.CONFIG).read_bytes()
    other = walks(data if by_file else tmp_path / "other.npz", change)
    line = refused(resume(zpyro, run, "--data", other))
    assert f"{run}: the data are not those it was trained on; point --data at those" in line
    assert (run / runs.CONFIG).read_bytes() == before
    same = walks(tmp_path / "same.npz", lambda x: x)
    assert resume(zpyro, run, "--data", same).exit_code == 0


def test_tokens_that_changed_are_refused(zpyro: Zpyro, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 11, size=(40, 7))
    np.savez(tmp_path / "words.npz", x=x)
    run = train(zpyro, "npz", tmp_path / "words.npz", tmp_path / "run")
    np.savez(tmp_path / "words.npz", x=x[:, ::-1])
    assert "the data are not those it was trained on" in refused(resume(zpyro, run))


# -- records --------------------------------------------------------------------------------------

RECORDS = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "texts for numbers": b'{"kind": "train", "step": 1, "bound": "high", "kl": [1]}\n',
    "numbers beyond any": b'{"kind": "valid", "step": 1, "elbo": 1' + 400 * b"0" + b"}\n",
    "a step beyond any": b'{"kind": "valid", "step": 1' + 400 * b"0" + b', "elbo": 1}\n',
    "no kind": b'{"step": 2, "bound": 3.0}\n',
    "a list": b"[1, 2]\n" + 5 * b"[" + b"\n",
    "nested": b'{"kind": {"a": 1}, "step": 3, "bound": {"b": NaN}}\n',
    "not a number": b'{"kind": "train", "step": 3, "bound": NaN, "kl": Infinity}\n',
}


@pytest.mark.parametrize("name", RECORDS)
def test_damaged_records_end_no_command(zpyro: Zpyro, run: Path, tmp_path: Path, name: str) -> None:
    path, content = run / runs.METRICS, RECORDS[name]
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content + whole)
    plotted = zpyro("plot", run, "--out", tmp_path / "curves.png")
    if content is None:
        assert "has no metrics yet" in refused(plotted)
    else:
        assert plotted.exit_code == 0, plotted.output
    assert zpyro("inspect", run, "--scored", 0, "--samples", 1).exit_code == 0
    assert resume(zpyro, run).exit_code == 0
    steps = [record["step"] for record in runs.open_run(run).records()]
    assert steps == sorted(steps)


# -- the position in the data ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 16, 40])
@pytest.mark.parametrize("stopped", [1, 3, 7])
def test_another_batch_size_goes_on_from_the_same_place(
    zpyro: Zpyro, arrays: Path, tmp_path: Path, size: int, stopped: int
) -> None:
    # 32 sequences in 4 batches of 8.
    run = train(zpyro, "npz", arrays, tmp_path / "run", "--max-steps", stopped)
    count = len(datasets.load("npz", arrays).train)
    assert count == 32
    steps_per_epoch = -(-count // size)
    edit(run, "train.batch_size", size)
    result = zpyro("train", "--resume", run, "--epochs", 3)
    assert result.exit_code == 0, result.output
    done = stopped % 4 * steps_per_epoch // 4
    left = steps_per_epoch - done + (2 - stopped // 4) * steps_per_epoch
    last = runs.open_run(run).load("last")
    assert (last.step, last.epoch) == (stopped + left, 3)


def test_the_file_of_a_run_on_another_data_set(zpyro: Zpyro, run: Path, tmp_path: Path) -> None:
    text = tmp_path / "lines.txt"
    text.write_text("".join(f"a b c {'d e f g'[: 2 * (n % 4) + 1]}\n" for n in range(40)))
    other = train(zpyro, "text", text, tmp_path / "other")
    data_folder = runs.open_run(run).config().data_folder
    shutil.copy(other / runs.CONFIG, run / runs.CONFIG)
    config_file = run / runs.CONFIG
    config_file.write_text(config_file.read_text().replace(str(text), str(data_folder)))
    result = zpyro("evaluate", run)
    assert result.exit_code == 0, result.output
    edit(run, "train.batch_size", "eight")
    assert "train.batch_size must be a whole number" in zpyro("evaluate", run).stderr


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_byte_order_mark_is_read(zpyro: Zpyro, run: Path, line_end: str) -> None:
    path = run / runs.CONFIG
    path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace("\n", line_end).encode())
    assert resume(zpyro, run).exit_code == 0
    assert zpyro("evaluate", run).exit_code == 0


def test_best_weights_without_a_last_checkpoint_are_kept(zpyro: Zpyro, run: Path) -> None:
    best = (run / "best" / "meta.json").read_bytes()
    for name in ("last", "last.previous"):
        shutil.rmtree(run / name, ignore_errors=True)
    result = resume(zpyro, run)
    assert result.exit_code == 0, result.output
    assert "last: is missing; training starts again" in result.output
    assert (run / "best.damaged" / "meta.json").read_bytes() == best
    assert (run / "best").is_dir()
