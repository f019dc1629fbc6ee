"""Training: it learns, it guards, it goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.run.small import dataset, model, settings
from zpyro import evaluation
from zpyro.datasets.sequences import Dataset
from zpyro.errors import UserError
from zpyro.io import files, manifest, torch_files
from zpyro.models import SequenceModel
from zpyro.objectives import ObjectiveTerms
from zpyro.objectives.terms import RESERVED_NAMES
from zpyro.training import callbacks as reporting
from zpyro.training import checkpoint, runs
from zpyro.training import fitting as training
from zpyro.training.config import Config
from zpyro.training.interruption import SIGNALS
from zpyro.training.runs import Run
from zpyro.training.sequence_task import VALIDATION_SEED
from zpyro.training.task import TrainState


class At(reporting.NullLogger):
    """Does something when a step is reached."""

    def __init__(self, step: int, action: Any) -> None:
        self.wanted, self.action = step, action

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        if state.step == self.wanted:
            self.action()


def untimed(run: Run) -> list[dict[str, Any]]:
    """The records without what the clock says."""
    timed = ("seconds", "frames_per_second")
    return [{k: v for k, v in record.items() if k not in timed} for record in run.records()]


def train(folder: Path, config: Config, **more: Any) -> tuple[SequenceModel, Run]:
    run = runs.create(folder, config)
    module = model(config.train.seed)
    training.fit(module, dataset(), config, run=run, **more)
    return module, run


def test_training_raises_the_held_out_bound(tmp_path: Path) -> None:
    config = settings(max_steps=150, validate_every=20, learning_rate=3e-3)
    _, run = train(tmp_path / "run", config)
    before = evaluation.evaluate(model(), dataset().valid)
    after = evaluation.evaluate(run.load("best").model, dataset().valid)
    assert after.elbo > before.elbo + 5 * after.elbo_stderr


def test_the_run_directory_holds_everything(tmp_path: Path) -> None:
    config = settings(validate_every=10, checkpoint_every=10, average=0.9, log_every=5)
    module, run = train(tmp_path / "run", config)
    assert sorted(path.name for path in run.folder.iterdir()) == [
        ".lock",
        "best",
        "config.toml",
        "last",
        "last.previous",
        "metrics.jsonl",
    ]
    records = run.records()
    trained = [record for record in records if record["kind"] == "train"]
    assert [record["step"] for record in trained] == [5, 10, 15, 20, 25, 30]
    for record in trained:
        bound = record["log_likelihood"] - record["kl"]
        assert record["bound"] == pytest.approx(bound)
        expected = -(
            record["log_likelihood"] + record["auxiliary_weight"] * record["log_auxiliary"]
        )
        # The KL weight moves within the interval, by 0.01 a step.
        assert record["loss"] == pytest.approx(
            expected + record["kl_weight"] * record["kl"], abs=0.05 * record["kl"]
        )
    assert [record["kl_weight"] for record in trained][:2] == pytest.approx([0.54, 0.59])
    valid = [record for record in records if record["kind"] == "valid"]
    assert [record["step"] for record in valid] == [10, 20, 30]
    best, last = run.load("best"), run.load("last")
    chosen = max(valid, key=lambda record: record["elbo"])
    assert (best.step, best.averaged, last.step, last.averaged) == (chosen["step"], True, 30, False)
    assert best.metrics is not None
    assert best.metrics["elbo"] == chosen["elbo"]
    scored = evaluation.evaluate(best.model, dataset().valid, seed=VALIDATION_SEED)
    assert scored.elbo == pytest.approx(chosen["elbo"], rel=1e-6)
    assert best.data.mean == 0.5
    assert best.start is not None
    starts = {tuple(start) for start in dataset().train.start.tolist()}  # pyright: ignore
    assert {tuple(start) for start in best.start.tolist()} <= starts
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, best.model.state_dict()[name])


def test_every_other_column_is_reserved(tmp_path: Path) -> None:
    """A user's term cannot have the name of a column that is not a term."""
    _, run = train(tmp_path / "run", settings(max_steps=5, log_every=5))
    columns = set(run.records()[0])
    terms = ("log_likelihood", "kl", "log_auxiliary", "log_reverse")
    columns -= {f"{term}{part}" for term in terms for part in ("", "_per_frame")}
    columns -= {f"{name}_weight" for name in ("kl", "auxiliary", "reverse")}
    columns -= {"bound_per_frame", "loss_per_frame"}
    fields = {field.name for field in dataclasses.fields(ObjectiveTerms)}
    assert columns | fields <= RESERVED_NAMES
    assert {"step", "bound", "learning_rate", "skipped"} <= columns


def fit_past_the_best(run: Run | None = None, **more: Any) -> tuple[SequenceModel, list[float]]:
    """A training whose learning rate is far too large after its first validations."""
    config = settings(max_steps=24, validate_every=4, learning_rate=5e-3, **more)
    module, bounds = model(), list[float]()

    class Spoil(reporting.Callback):
        def on_validation(self, record: Any) -> None:
            bounds.append(record["elbo"])
            if len(bounds) == 3:
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.add_(0.5 * torch.randn_like(parameter))

    training.fit(module, dataset(), config, run=run, callbacks=[Spoil()])
    assert max(bounds) > bounds[-1] + 1
    return module, bounds


@pytest.mark.parametrize("with_run", [False, True])
@pytest.mark.parametrize("average", [None, 0.5])
def test_fit_returns_the_best_weights(
    tmp_path: Path, with_run: bool, average: float | None
) -> None:
    run = runs.create(tmp_path / "run", settings()) if with_run else None
    module, bounds = fit_past_the_best(run, average=average)
    scored = evaluation.evaluate(module, dataset().valid, seed=VALIDATION_SEED)
    assert scored.elbo == pytest.approx(max(bounds), rel=1e-6)
    if run is not None:
        last = run.load("last").model.state_dict()
        assert any(not torch.equal(t, last[n]) for n, t in module.state_dict().items())


def test_a_resumed_fit_returns_the_best_weights_of_both_parts(tmp_path: Path) -> None:
    run = runs.create(tmp_path / "run", settings())
    module, bounds = fit_past_the_best(run)
    longer = settings(max_steps=26, validate_every=4, learning_rate=5e-3)
    again = run.load("last").model
    outcome = training.fit(again, dataset(), longer, run=run, resume=True)
    assert outcome.step == 26
    assert outcome.best == max(bounds)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_the_best_weights_of_an_interrupted_fit(tmp_path: Path) -> None:
    module = model()
    stop = At(10, lambda: signal.raise_signal(signal.SIGINT))
    config = settings(max_steps=30, validate_every=6)
    run = runs.create(tmp_path / "run", config)
    assert training.fit(module, dataset(), config, run=run, callbacks=[stop]).interrupted
    best, last = run.load("best"), run.load("last")
    assert (best.step, last.step) == (6, 10)
    for name, tensor in best.model.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])


def test_without_a_validation_the_last_weights_stay() -> None:
    module = model()
    stop = At(2, lambda: signal.raise_signal(signal.SIGINT))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert training.fit(module, dataset(), settings(), callbacks=[stop]).best is None
    assert any(not torch.equal(t, before[n]) for n, t in module.state_dict().items())


@pytest.mark.parametrize("killed", [7, 19, 30])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, killed: int) -> None:
    config = settings(
        checkpoint_every=6,
        validate_every=9,
        log_every=4,
        average=0.9,
        learning_rate_schedule="plateau",
        plateau_patience=1,
    )
    whole, run = train(tmp_path / "whole", config)

    def kill() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        train(tmp_path / "killed", config, callbacks=[At(killed, kill)])
    torch.manual_seed(1234)
    resumed = runs.open_run(tmp_path / "killed")
    module = resumed.load("last").model
    training.fit(module, dataset(), config, run=resumed, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    assert untimed(resumed) == untimed(run)
    for which in ("best", "last"):
        expected = run.load(which).model.state_dict()
        for name, tensor in resumed.load(which).model.state_dict().items():
            assert torch.equal(tensor, expected[name])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    config = settings()
    run = runs.create(tmp_path / "run", config)
    before = signal.getsignal(number)
    logger = At(13, lambda: os.kill(os.getpid(), number))
    outcome = training.fit(model(), dataset(), config, run=run, callbacks=[logger])
    assert outcome.interrupted == number
    assert (outcome.step, run.load("last").step) == (13, 13)
    assert signal.getsignal(number) is before


class Validating(At):
    """Does something when the first batch of a step's validation is scored."""

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        self.here = state.step == self.wanted

    def on_validation_progress(self, done: int, total: int) -> None:
        if self.here:
            self.action()


@pytest.mark.parametrize("step", [18, 30])
def test_a_signal_within_a_validation_puts_it_off(tmp_path: Path, step: int) -> None:
    config = settings(
        checkpoint_every=12, validate_every=9, learning_rate_schedule="plateau", plateau_patience=1
    )
    whole, run = train(tmp_path / "whole", config)
    stopped = runs.create(tmp_path / "stopped", config)
    logger = Validating(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    outcome = training.fit(model(), dataset(), config, run=stopped, callbacks=[logger])
    assert (outcome.interrupted, outcome.step) == (signal.SIGTERM, step)
    valid = [record["step"] for record in stopped.records() if record["kind"] == "valid"]
    assert valid == list(range(9, step, 9))
    module = stopped.load("last").model
    training.fit(module, dataset(), config, run=stopped, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    assert untimed(stopped) == untimed(run)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path: Path) -> None:
    data = with_a_loud_sequence(dataset())
    config = settings(max_steps=18, log_every=6, batch_size=8)
    run = runs.create(tmp_path / "run", config)
    module = model()
    outcome = training.fit(module, data, config, run=run)
    assert outcome.skipped == 3
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert [r["skipped"] for r in run.records() if r["kind"] == "train"] == [1, 2, 3]


def test_many_bad_steps_in_a_row_stop_the_run_by_name() -> None:
    data = with_a_loud_sequence(dataset())
    data = replace(data, train=data.train[[3]])
    config = settings(skip_limit=5, log_every=5)
    with pytest.raises(UserError, match=r"5 steps in a row .* the last one on walk3; look at"):
        training.fit(model(), data, config)


def with_a_loud_sequence(data: Dataset) -> Dataset:
    values = list(data.train.values)
    values[3] = np.full_like(values[3], 1e30)
    return replace(data, train=replace(data.train, values=tuple(values)))


def test_patience_ends_a_training_that_gets_no_better() -> None:
    config = settings(max_steps=500, validate_every=2, patience=3, learning_rate=1.0)
    assert training.fit(model(), dataset(), config).step < 500


def test_a_plateau_lowers_the_learning_rate(tmp_path: Path) -> None:
    config = settings(
        max_steps=20, validate_every=5, learning_rate_schedule="plateau", plateau_patience=2,
        # Steps too small to change a weight: no validation is better than the first.
        learning_rate=1e-30, log_every=1,
    )  # fmt: skip
    _, run = train(tmp_path / "run", config)
    rates = {r["step"]: r["learning_rate"] for r in run.records() if r["kind"] == "train"}
    assert rates[15] == rates[1]
    assert rates[20] == pytest.approx(0.5 * rates[1])


def test_a_state_with_the_keys_of_before_is_resumed(tmp_path: Path) -> None:
    config = settings(max_steps=8, checkpoint_every=4, average=0.9, log_every=3)
    whole, run = train(tmp_path / "whole", config)
    half = replace(config, train=replace(config.train, max_steps=4))
    module, old = train(tmp_path / "old", half)
    state = checkpoint.load_state(old.last)
    optimizer, position = state.pop("optimizer"), state.pop("train_state")
    position["without_better"] = position.pop("evals_without_improvement")
    names = {"accumulator": "tally", "task": "carried", "random": "random"}
    converted = {names[name]: part for name, part in state.items()}
    optimizer = {"adam": optimizer.pop("optimizer"), **optimizer}
    rewrite(old, {**converted, "position": position, "optimizer": optimizer})
    training.fit(module, dataset(), config, run=old, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name])
    assert untimed(old)[-1] == untimed(run)[-1]


def test_a_state_of_another_kind_is_told(tmp_path: Path) -> None:
    config = settings(max_steps=4, checkpoint_every=2)
    module, run = train(tmp_path / "run", config)
    state = checkpoint.load_state(run.last)
    for wrong in ({"accumulator": None}, {"optimizer": {}}, {"random": (1, 2)}):
        rewrite(run, {**state, **wrong})
        with pytest.raises(UserError, match="last: its state does not fit this run"):
            training.fit(module, dataset(), config, run=run, resume=True)
    rewrite(run, [state])
    with pytest.raises(UserError, match="holds no state of a training"):
        training.fit(module, dataset(), config, run=run, resume=True)
    rewrite(run, {})
    with pytest.raises(UserError, match="holds a model without a training to resume"):
        training.fit(module, dataset(), config, run=run, resume=True)


def rewrite(run: Run, state: object) -> None:
    """Another state in the last checkpoint, with a checksum that is right."""
    torch_files.write(run.last / checkpoint.STATE, state)
    path = run.last / "meta.json"
    meta = json.loads(path.read_text())
    meta["sha256"][checkpoint.STATE] = files.checksum(run.last / checkpoint.STATE)
    path.write_text(json.dumps(manifest.signed(meta)))


def test_lines_tell_how_far_it_is() -> None:
    text = io.StringIO()
    logger = reporting.LineLogger(Console(file=text, width=200), seconds=0.0)
    training.fit(model(), dataset(), settings(max_steps=4, log_every=2), callbacks=[logger])
    lines = text.getvalue().splitlines()
    assert [line.split("  ")[:2] for line in lines[:2]] == [["step 2", "50%"], ["step 4", "100%"]]
    assert all("bound" in line for line in (*lines[:2], lines[-1]))
    assert lines[-2] == "validating 12/12"


def test_limits() -> None:
    data = dataset()
    assert training.fit(model(), data, settings(max_steps=None, epochs=2)).step == 12
    assert training.fit(model(), data, settings(max_steps=None, max_minutes=1e-9)).step == 1


def test_a_finished_run_stays_finished_and_goes_on_with_more_steps(tmp_path: Path) -> None:
    config = settings(max_steps=10)
    _, run = train(tmp_path / "run", config)
    module = run.load("last").model
    assert training.fit(module, dataset(), config, run=run, resume=True).step == 10
    longer = settings(max_steps=14)
    assert training.fit(module, dataset(), longer, run=run, resume=True).step == 14
    assert [record["step"] for record in run.records() if record["kind"] == "valid"] == [10, 14]


def test_other_data_are_refused_on_resume(tmp_path: Path) -> None:
    config = settings(max_steps=3)
    module, run = train(tmp_path / "run", config)
    other = replace(dataset(), name="other")
    with pytest.raises(UserError, match="the data are not those it was trained on"):
        training.fit(module, other, config, run=run, resume=True)


def test_seeds_decide() -> None:
    def weights(seed: int) -> torch.Tensor:
        module = model(seed)
        training.fit(module, dataset(), settings(max_steps=4, seed=seed))
        return module.get_parameter("output.weight").detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_there_must_be_something_to_validate_on() -> None:
    data = replace(dataset(), valid=dataset().valid[:0])
    with pytest.raises(UserError, match="training and validation both need sequences"):
        training.fit(model(), data, settings())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("dataset", [1.0], "dataset is a list, not a Dataset; make one with zpyro.datasets"),
        ("dataset", dataset().train, "dataset is a Sequences, not a Dataset"),
        ("config", settings().train, "config is a TrainConfig, not a Config"),
        ("run", "runs/mine", "run is a str, not a Run; open one with"),
        ("callbacks", reporting.NullLogger(), "callbacks is a NullLogger; pass a list"),
        ("callbacks", [reporting.NullLogger], "the callback <class"),
        ("callbacks", [print], "the callback <built-in function print> is no instance"),
    ],
)
def test_arguments_of_another_type(name: str, value: Any, expected: str) -> None:
    given: dict[str, Any] = {"dataset": dataset(), "config": settings(), name: value}
    with pytest.raises(TypeError, match=expected):
        training.fit(model(), **given)


@pytest.mark.parametrize("change", [{"hidden_size": 16}, {"latent_size": 5}, {"mlp_size": 9}])
def test_settings_of_another_model_are_refused_for_a_run(
    tmp_path: Path, change: dict[str, int]
) -> None:
    config = settings(max_steps=1)
    other = replace(config, model=replace(config.model, **change))  # pyright: ignore
    run = runs.create(tmp_path / "run", other)
    with pytest.raises(UserError, match=r"config.model: describes another model: parameter .* has"):
        training.fit(model(), dataset(), other, run=run)
    assert not run.has("last")
    assert training.fit(model(), dataset(), other).step == 1  # nothing is written
