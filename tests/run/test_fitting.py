"""``zpyro.fit`` with plain arguments."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import zpyro
from zpyro.datasets import Dataset, from_arrays
from zpyro.errors import UserError
from zpyro.objectives import schedules
from zpyro.training import Callback, TrainState, fit
from zpyro.training.callbacks import NotebookLogger

from .small import dataset, model, settings


def walks(count: int = 20, size: int = 5) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(int(n), size)).cumsum(0) for n in random.integers(4, 9, count)]


def bits_model() -> zpyro.models.VRNN:
    return zpyro.models.VRNN(zpyro.likelihoods.Bernoulli(5), hidden_size=8, latent_size=2)


def bits_data() -> Dataset:
    return from_arrays([(walk > 0).astype(float) for walk in walks()], likelihood="bernoulli")


def test_plain_arguments_train_as_the_configuration_that_they_stand_for() -> None:
    """One training path: the same steps, bit for bit."""
    weights: list[dict[str, torch.Tensor]] = []
    config = settings(max_steps=12, batch_size=8, learning_rate=0.01, seed=3)
    config = replace(
        config, objective=replace(config.objective, kl_weight=0.5, kl_weight_rate=0.01)
    )
    for plain in (False, True):
        module = model()
        if plain:
            result = fit(
                module,
                dataset(),
                steps=12,
                batch_size=8,
                learning_rate=0.01,
                seed=3,
                kl_weight=schedules.at_rate(0.5, 1.0, rate=0.01),
                auxiliary_weight=0.01,
            )
        else:
            result = fit(module, dataset(), config)
        assert result.step == 12
        weights.append(module.state_dict())
    for name, expected in weights[0].items():
        assert torch.equal(weights[1][name], expected), name


def test_the_history_is_what_a_run_records(tmp_path: Path) -> None:
    result = fit(
        model(), dataset(), steps=20, log_every=5, validate_every=10, out=tmp_path / "run", seed=0
    )
    assert result.run is not None
    assert [dict(record) for record in result.history] == result.run.records()
    kinds = [(record["kind"], record["step"]) for record in result.history]
    assert kinds == [
        *(("train", 5), ("train", 10), ("valid", 10)),
        *(("train", 15), ("train", 20), ("valid", 20)),
    ]
    with pytest.raises(UserError, match=r"run: was trained on data in memory, .*zpyro.load"):
        result.run.config()
    best = [record["elbo"] for record in result.history if record["kind"] == "valid"]
    assert result.best == max(best)
    assert result.minutes == result.seconds / 60
    assert repr(result).startswith("FitResult(20 steps, 10 epochs, ")


def test_the_history_as_a_table_and_a_picture(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    result = fit(model(), dataset(), steps=10, log_every=5)
    table = result.to_dataframe()
    assert list(table["kind"]) == ["train", "train", "valid"]
    assert table["elbo"].dropna().tolist() == [result.best]
    assert isinstance(table, pandas.DataFrame)
    figure = result.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1_000
    assert len(figure.axes) >= 3


def test_a_run_can_be_continued(tmp_path: Path) -> None:
    whole, parts = model(), model()
    options: dict[str, Any] = {"log_every": 5, "validate_every": 10, "batch_size": 8}
    expected = fit(whole, dataset(), steps=20, seed=1, **options)
    fit(parts, dataset(), steps=10, seed=1, out=tmp_path / "run", **options)
    result = fit(parts, dataset(), steps=20, out=tmp_path / "run", resume=True, **options)
    with pytest.raises(UserError, match=r"fit: seed is 2, but .*run was trained with 1"):
        fit(parts, dataset(), steps=20, seed=2, out=tmp_path / "run", resume=True)
    strip = [
        [{k: v for k, v in r.items() if "second" not in k} for r in each.history]
        for each in (expected, result)
    ]
    assert strip[0] == strip[1]
    assert all(map(torch.equal, whole.state_dict().values(), parts.state_dict().values()))


def test_the_model_holds_the_best_weights_and_training_ends_early() -> None:
    class Spoil(Callback):
        """Ruins the weights once a first validation has found them good."""

        spoiled = False

        def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
            if state.step > 5 and not self.spoiled:
                self.spoiled = True
                with torch.no_grad():
                    for parameter in module.parameters():
                        parameter.add_(3.0)

    module, data = model(), dataset()
    result = fit(
        module,
        data,
        steps=500,
        learning_rate=1e-6,
        validate_every=5,
        patience=2,
        callbacks=[Spoil()],
    )
    assert result.step == 15
    found = zpyro.evaluate(module, data.valid, batch_size=32, seed=1).elbo
    assert found == pytest.approx(result.best, rel=1e-6)


class Fail(Callback):
    """Ruins the weights at a step, then raises."""

    def __init__(self, module: torch.nn.Module, step: int, error: BaseException) -> None:
        self.module, self.step, self.error = module, step, error

    def on_step(self, state: TrainState, fraction: float, seconds_left: float | None) -> None:
        if state.step == self.step:
            with torch.no_grad():
                for parameter in self.module.parameters():
                    parameter.fill_(torch.nan)
            raise self.error


def held_out(module: zpyro.SequenceModel, data: Dataset) -> float:
    return zpyro.evaluate(module, data.valid, batch_size=32, seed=1).elbo


@pytest.mark.parametrize(
    ("error", "average", "folder"),
    [
        (ValueError(), 0.0, False),
        (KeyboardInterrupt(), 0.9, False),
        (SystemExit(), 0.0, True),
        (UserError("a mistake"), 0.9, True),
    ],
    ids=repr,
)
def test_the_best_weights_survive_an_exception(
    tmp_path: Path, error: BaseException, average: float, folder: bool
) -> None:
    module, data = model(), dataset()
    options: dict[str, Any] = {"out": tmp_path / "run"} if folder else {}
    with pytest.raises(type(error)):
        fit(
            module,
            data,
            steps=20,
            validate_every=5,
            average=average,
            callbacks=[Fail(module, 13, error)],
            **options,
        )
    training = module.metadata["training"]
    assert training["best_step"] in (5, 10)
    assert held_out(module, data) == pytest.approx(training["best_elbo"], rel=1e-6)


def test_the_best_weights_survive_steps_that_are_not_finite() -> None:
    class Poison(Fail):
        def on_step(self, *arguments: Any) -> None:
            with contextlib.suppress(ValueError):
                super().on_step(*arguments)

    module, data = model(), dataset()
    options: dict[str, Any] = {"log_every": 1, "skip_limit": 3, "validate_every": 5}
    with pytest.raises(UserError, match="3 steps in a row"):
        fit(module, data, steps=20, callbacks=[Poison(module, 6, ValueError())], **options)
    assert held_out(module, data) == pytest.approx(module.metadata["training"]["best_elbo"])


def test_an_exception_before_the_first_validation_keeps_the_last_weights() -> None:
    class Stop(Callback):
        def on_step(self, *arguments: Any) -> None:
            raise KeyboardInterrupt

    module = model()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with pytest.raises(KeyboardInterrupt):
        fit(module, dataset(), steps=3, callbacks=[Stop()])
    assert not all(map(torch.equal, module.parameters(), before))
    assert module.metadata["training"]["best_elbo"] is None


def test_the_result_names_the_step_of_the_best_bound() -> None:
    module = model()
    result = fit(module, dataset(), steps=20, validate_every=5, learning_rate=0.5)
    found = {r["step"]: r["elbo"] for r in result.history if r["kind"] == "valid"}
    assert result.best_step is not None
    assert found[result.best_step] == result.best == max(found.values())
    assert repr(result).endswith(f" nats/sequence at step {result.best_step})")
    assert module.metadata["training"]["best_step"] == result.best_step
    assert repr(fit(model(), dataset(), steps=1)).startswith("FitResult(1 step, ")


def test_a_run_that_lost_its_best_checkpoint_can_be_continued(tmp_path: Path) -> None:
    module, data, folder = model(), dataset(), tmp_path / "run"
    fit(module, data, steps=10, validate_every=5, out=folder)
    shutil.rmtree(folder / "best")
    result = fit(module, data, steps=20, validate_every=5, out=folder, resume=True)
    assert result.best_step in (15, 20)
    assert held_out(zpyro.load(folder), data) == pytest.approx(result.best, rel=1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_where_gradients_are_off(mode: Any) -> None:
    expected, module = model(), model()
    fit(expected, dataset(), steps=3)
    with mode():
        fit(module, dataset(), steps=3)
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, expected.state_dict().values(), module.state_dict().values()))


class Misspelled(Callback):
    def on_validaton(self, record: Any) -> None:
        """Never called."""


class Terms(Callback):
    """Keeps what a logger shows of the newest record."""

    shown: dict[str, str]

    def on_fit_start(self, task: Any, state: Any) -> None:
        del state
        self._task = task

    def on_train_record(self, record: Any) -> None:
        self.shown = self._task.describe_record(record)


@pytest.mark.parametrize(("name", "lacks"), [("ZForcing", set()), ("VRNN", {"auxiliary"})])
def test_only_the_terms_that_a_model_has_are_shown(name: str, lacks: set[str]) -> None:
    module = getattr(zpyro.models, name)(
        zpyro.likelihoods.Gaussian(5), hidden_size=8, latent_size=2
    )
    terms = Terms()
    fit(module, dataset(), steps=2, log_every=1, callbacks=[terms])
    assert {"bound", "log-likelihood", "KL", "auxiliary"} - set(terms.shown) == lacks
    assert "skipped" not in terms.shown


class OfLightning(Callback):
    def on_train_epoch_end(self) -> None:
        """Never called."""


def with_attribute() -> Callback:
    callback = NotebookLogger(seconds=0.0)
    callback.__dict__["on_epoch"] = print
    return callback


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (Misspelled, "on_validaton"),
        (OfLightning, "on_train_epoch_end"),
        (with_attribute, "on_epoch"),
        (lambda: type("Upper", (Callback,), {"on_Step": print})(), "on_Step"),
        (lambda: type("Longer", (Callback,), {"on_fit_ends": print})(), "on_fit_ends"),
    ],
)
def test_a_callback_with_an_unknown_method_is_refused(make: Any, name: str) -> None:
    with pytest.raises(UserError, match=f": {name} is never called; .* on_step, .*on_fit_end$"):
        fit(model(), dataset(), steps=1, callbacks=[make()])


def test_patience_zero_trains_to_the_end() -> None:
    options: dict[str, Any] = {"steps": 30, "learning_rate": 1e-12, "validate_every": 1}
    assert fit(model(), dataset(), patience=0, **options).step == 30
    assert fit(model(), dataset(), patience=3, seed=0, **options).step < 30


def test_the_seed_fixes_noise_order_and_splits() -> None:
    weights: list[torch.Tensor] = []
    for seed in (7, 7, 8):
        module = model()
        fit(module, walks(), steps=6, seed=seed)
        weights.append(next(module.parameters()))
    assert torch.equal(*weights[:2])
    assert not torch.equal(*weights[1:])


@pytest.mark.parametrize("form", ["list", "mapping", "sequences", "torch", "loader"])
def test_data_in_any_form(form: str) -> None:
    arrays = [array[:4] for array in walks()]
    stacked = TensorDataset(torch.from_numpy(np.stack(arrays)).float())
    data: Any = {
        "list": arrays,
        "mapping": {"train": arrays[:10], "valid": arrays[10:15], "test": arrays[15:]},
        "sequences": from_arrays(arrays).train,
        "torch": stacked,
        "loader": DataLoader(stacked, batch_size=2),
    }[form]
    result = fit(model(), data, steps=2)
    assert isinstance(result.data, Dataset)
    sizes = [len(result.data.split(split)) for split in ("train", "valid", "test")]
    expected = {"mapping": [10, 5, 5], "sequences": [14, 2, 0]}
    assert sizes == expected.get(form, [16, 2, 2])
    assert result.best is not None


def test_tokens() -> None:
    random = np.random.default_rng(0)
    likelihood = zpyro.likelihoods.Categorical(6)
    module = zpyro.models.VRNN(likelihood, hidden_size=8, latent_size=2)
    result = fit(module, [random.integers(0, 6, size=5) for _ in range(20)], steps=2)
    assert result.best is not None


def test_arrays_of_zeros_and_ones_become_what_the_likelihood_scores() -> None:
    bits = [(walk > 0).astype(float) for walk in walks()]
    bounds = []
    for data in (bits, from_arrays(bits, likelihood="bernoulli", seed=0)):
        torch.manual_seed(0)
        bounds.append(fit(bits_model(), data, steps=2, seed=0).best)
    assert bounds[0] is not None
    assert bounds[0] == bounds[1]


@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({"minutes": -1}, UserError, "fit: minutes must be above 0, but is -1"),
        ({"steps": 2.5}, UserError, "fit: steps must be a whole number"),
        ({"learning_rte": 0.1}, UserError, "unknown setting learning_rte; did you mean learning_"),
        ({"max_steps": 3}, UserError, "unknown setting max_steps; did you mean steps"),
        ({"config": settings(), "steps": 3}, TypeError, "give config or steps, not both"),
        ({"config": settings(), "kl_weight": 0.0}, TypeError, "give config or kl_weight, not both"),
        (
            {"objective": zpyro.ZForcingELBO(), "kl_weight": 1.0},
            TypeError,
            "give objective or kl_weight, not both",
        ),
        ({"dataset": 3.5}, TypeError, "dataset is a float, not a Dataset"),
        ({"dataset": walks(size=4)}, UserError, "have 4 numbers in a frame, the likelihood of the"),
        ({"dataset": [*walks(), np.diag([np.nan] + [0.0] * 4)]}, UserError, "with missing=True"),
        (
            {"module": bits_model()},
            UserError,
            "the data are frames, which the likelihood bernoulli cannot score",
        ),
        (
            {"module": bits_model(), "dataset": walks()},
            UserError,
            "bernoulli needs zeros and ones only",
        ),
        (
            {"dataset": bits_data()},
            UserError,
            "the data are binary, which the likelihood gaussian cannot score; make the model with "
            "the likelihood bernoulli",
        ),
        (
            {"dataset": [np.arange(5)] * 9},
            UserError,
            "data are tokens, which the likelihood gaussian cannot score",
        ),
    ],
)
def test_mistakes_are_one_line(
    given: dict[str, Any], error: type[Exception], expected: str
) -> None:
    arguments: dict[str, Any] = {"module": model(), "dataset": dataset(), **given}
    with pytest.raises(error, match=expected) as caught:
        fit(**arguments)
    assert "\n" not in str(caught.value)


def test_a_table_is_refused_by_name() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"fit: dataset is a table; .*from_dataframe"):
        fit(model(), pandas.DataFrame({"a": [1.0, 2.0]}))


def test_an_existing_directory_is_not_written_over(tmp_path: Path) -> None:
    fit(model(), dataset(), steps=1, out=tmp_path / "run")
    with pytest.raises(UserError, match="is not empty"):
        fit(model(), dataset(), steps=1, out=tmp_path / "run")


def test_progress_is_silent_in_a_pipe_and_shown_on_demand(
    capfd: pytest.CaptureFixture[str],
) -> None:
    fit(model(), dataset(), steps=2)
    assert capfd.readouterr() == ("", "")
    fit(model(), dataset(), steps=2, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "held-out bound" in err


def test_a_notebook_has_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    class Handle:
        def update(self, line: dict[str, str], raw: bool) -> None:
            assert raw
            lines.append(line["text/plain"])

    display = pytest.importorskip("IPython.display")
    monkeypatch.setattr(display, "display", lambda *_, **__: Handle())
    fit(model(), dataset(), steps=4, log_every=2, callbacks=[NotebookLogger(seconds=0.0)])
    assert lines[0].startswith("step 1, 25%")
    assert "held-out bound" in lines[-1]
    assert lines[-1].endswith("best so far")
