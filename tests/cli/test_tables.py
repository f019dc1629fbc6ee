"""From a table to forecasts and a table without gaps, by the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from tests.cli.conftest import SMALL, Zpyro
from zpyro.analysis import load_run
from zpyro.analysis.table_forecasts import TableRun
from zpyro.errors import UserError
from zpyro.evaluation import History

SETTINGS = (
    "--set=data.time=hour",
    "--set=data.group=station",
    "--set=data.covariates=open",
    "--set=data.calendar=hour",
    "--set=data.segment_length=24",
    "--set=model.name=vrnn",
)
STATIONS = ("north", "south")


def table() -> pandas.DataFrame:
    """Two stations of 200 hours of two columns, some cells empty."""
    random = np.random.default_rng(0)
    hours = pandas.date_range("2024-01-01", periods=200, freq="h")
    day = np.sin(2 * np.pi * np.arange(200) / 24)
    parts: list[pandas.DataFrame] = []
    for number, station in enumerate(STATIONS):
        load = 10 + number + 3 * day + 0.3 * random.normal(size=200)
        heat = 300 - 40 * day + random.normal(size=200)
        load[random.random(200) < 0.1] = np.nan
        part = {"station": station, "hour": hours, "load": load, "heat": heat, "open": day > 0}
        parts.append(pandas.DataFrame(part).astype({"open": int}))
    return pandas.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    table().to_csv(folder / "load.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path, request: pytest.FixtureRequest) -> Path:
    call: Zpyro = request.getfixturevalue("zpyro")
    arguments = ("train", "--dataset", "table", "--data", folder / "load.csv", *SETTINGS, *SMALL)
    result = call(*arguments, "--out", folder / "run", "--max-steps", 30)
    assert result.exit_code == 0, result.output
    return folder / "run"


def with_future(steps: int = 6) -> pandas.DataFrame:
    """The table with rows after its end that know the covariate only, in another order."""
    known = table()
    after = pandas.date_range("2024-01-09 08:00", periods=steps, freq="h")
    ahead = [
        pandas.DataFrame({"station": station, "hour": after, "open": 1}) for station in STATIONS
    ]
    frame = pandas.concat([*ahead, known], ignore_index=True)
    return frame[["open", "heat", "hour", "load", "station"]]


def test_forecasts_follow_the_last_value_of_each_series(
    zpyro: Zpyro,
    run: Path,
    tmp_path: Path,
) -> None:
    with_future().to_csv(tmp_path / "more.csv", index=False)
    arguments = ("forecast", run, "--data", tmp_path / "more.csv", "--steps", 6, "--samples", 20)
    result = zpyro(*arguments, "--out", tmp_path / "forecast.csv")
    assert result.exit_code == 0, result.output
    found = pandas.read_csv(tmp_path / "forecast.csv", parse_dates=["hour"])
    assert list(found.columns[:4]) == ["station", "hour", "load_mean", "load_q0.05"]
    assert found["station"].tolist() == ["north"] * 6 + ["south"] * 6
    assert found["hour"][0] == pandas.Timestamp("2024-01-09 08:00")
    assert np.isfinite(found.iloc[:, 2:].to_numpy()).all()
    quantiles = found[[f"heat_q{q}" for q in ("0.05", "0.25", "0.5", "0.75", "0.95")]]
    assert (np.diff(quantiles.to_numpy(), axis=1) >= 0).all()
    # On the scale of the table, not of the model.
    assert 200 < found["heat_mean"].min() < found["heat_mean"].max() < 400
    assert (tmp_path / "forecast.png").stat().st_size > 1000

    again = zpyro(*arguments, "--out", tmp_path / "again.parquet")
    assert again.exit_code == 0, again.output
    pandas.testing.assert_frame_equal(
        pandas.read_parquet(tmp_path / "again.parquet"), found, check_dtype=False
    )


def test_held_out_rows_are_scored_beside_baselines(
    zpyro: Zpyro,
    run: Path,
) -> None:
    result = zpyro("forecast", run, "--steps", 5, "--samples", 20, "--json", "--windows", 3)
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout.splitlines()[0])
    assert {"seasonal_naive", "linear"} <= scores["baselines"].keys()
    for each in (scores, *scores["baselines"].values()):
        assert all(np.isfinite(each[name]) for name in ("crps", "mase", "energy_score"))
        assert 0 <= each["coverage_50"] <= each["coverage_90"] <= 1
        assert each["num_forecasts"] == 6
    # Differences of the two strong columns are small beside their size.
    assert scores["baselines"]["seasonal_naive"]["crps"] < 0.05


def test_gaps_are_filled_and_known_values_stay(
    zpyro: Zpyro,
    run: Path,
    folder: Path,
    tmp_path: Path,
) -> None:
    gaps = table().drop(index=[7, 8]).sample(frac=1, random_state=0).assign(remark="kept")
    gaps.to_csv(tmp_path / "gaps.csv", index=False)
    arguments = ("impute", run, "--data", tmp_path / "gaps.csv", "--samples", 8)
    result = zpyro(*arguments, "--out", tmp_path / "filled.csv", "--std")
    assert result.exit_code == 0, result.output
    filled = pandas.read_csv(tmp_path / "filled.csv")
    names = ["station", "hour", "load", "heat", "open", "remark", "load_std", "heat_std"]
    assert list(filled.columns) == names
    assert len(filled) == 400
    known = table()
    known.loc[[7, 8], ["load", "heat"]] = np.nan
    for name in ("load", "heat"):
        missing = known[name].isna()
        np.testing.assert_allclose(filled[name][~missing], known[name][~missing])
        assert np.isfinite(filled[name]).all()
        assert (filled[f"{name}_std"][missing] > 0).all()
        assert (filled[f"{name}_std"][~missing] == 0).all()
    assert filled["remark"].isna().sum() == 2
    # The value that the rest of the frame suggests, not the mean of all.
    missing = known["load"].isna()
    rest = filled["load"][missing] - known["load"].mean()
    assert np.abs(rest).max() < 20


def test_samples_of_a_run_with_covariates(zpyro: Zpyro, run: Path, tmp_path: Path) -> None:
    known = np.stack([np.ones(6), np.sin(np.arange(6)), np.cos(np.arange(6))], 1)
    np.save(tmp_path / "known.npy", known)
    arguments = ("sample", run, "-n", 2, "--out", tmp_path / "samples")
    result = zpyro(*arguments, "--covariates", tmp_path / "known.npy")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "samples" / "samples.npz") as written:
        (frames,) = written.values()
    assert frames.shape == (2, 6, 2)
    assert np.isfinite(frames).all()
    np.save(tmp_path / "wide.npy", known[:, :2])
    np.save(tmp_path / "large.npy", known * 1e300)
    for more, message in (
        ((), "the model reads 3 covariates a frame, but has none"),
        (("--covariates", tmp_path / "wide.npy"), "wide.npy: has shape (6, 2); it must be"),
        (("--covariates", tmp_path / "large.npy"), "large.npy: has numbers beyond 1e+30"),
        (("--covariates", tmp_path / "none.npy"), "none.npy: is missing"),
    ):
        refused = zpyro(*arguments, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("forecast", "RUN", "--steps", "6"), "add rows with empty values"),
        (("forecast", "RUN", "--steps", "50", "--json"), "has 20 test rows, fewer than the 50"),
        (("forecast", "RUN", "--windows", "2"), "--windows is for scores"),
        (("forecast", "RUN", "--data", "other.csv"), "other.csv: has no column"),
        (("impute", "RUN", "--data", "none.csv", "--out", "a.csv"), "none.csv: does not exist"),
        (("forecast", "WALKS"), "was trained on npz"),
    ],
)
def test_mistakes_are_one_line(
    zpyro: Zpyro,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    if "WALKS" in arguments:
        np.savez("walks.npz", x=np.random.default_rng(0).normal(size=(12, 6, 2)))
        trained = ("train", "--dataset", "npz", "--data", "walks.npz", "--max-steps", 1, *SMALL)
        assert zpyro(*trained, "--out", "walks").exit_code == 0
    names = {"RUN": str(run), "WALKS": "walks"}
    result = zpyro(*(names.get(word, word) for word in arguments))
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]


def write_waves(path: Path, values: np.ndarray) -> None:
    frame = {"t": np.arange(len(values)), "a": values[:, 0], "b": values[:, 1]}
    pandas.DataFrame(frame).to_csv(path, index=False)


def test_a_run_on_errors_forecasts_values(zpyro: Zpyro, tmp_path: Path) -> None:
    """Of waves that the prediction knows: a model of two steps forecasts them."""
    steps = np.arange(400)[:, None]
    waves = np.sin(2 * np.pi * steps / np.array([24, 10])) * [5.0, 100.0] + [20.0, -300.0]
    values = waves + np.random.default_rng(0).normal(size=waves.shape) * [0.05, 1.0]
    values[[100, 200], [0, 1]] = np.nan
    path = tmp_path / "waves.csv"
    write_waves(path, values)
    settings = ("--set=data.time=t", "--set=data.lags=48", "--set=data.segment_length=32")
    arguments = ("train", "--dataset", "table", "--data", path, *settings, *SMALL)
    result = zpyro(*arguments, "--set=model.name=vrnn", "--max-steps", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    scored = zpyro("forecast", tmp_path / "run", "--steps", 12, "--samples", 50, "--json")
    assert scored.exit_code == 0, scored.output
    assert json.loads(scored.stdout)["mase"] < 2.0
    assert not (tmp_path / "run" / "forecast.csv").exists()
    out = tmp_path / "ahead.csv"
    scores = ("forecast", tmp_path / "run", "--steps", 12, "--samples", 50, "--json", "--out", out)
    both = zpyro(*scores)
    assert both.exit_code == 0, both.output
    assert both.stdout == scored.stdout
    assert f"forecast of 12 steps in {out}" in both.stderr
    assert len(out.read_text().splitlines()) == 13
    evaluated = zpyro("evaluate", tmp_path / "run")
    assert evaluated.exit_code == 0, evaluated.output
    # The fit of another processor is not equal to the last digit.
    loaded = load_run(tmp_path / "run")
    data = loaded.checkpoint.data
    rounded = tuple(tuple(weight * (1 + 1e-10) for weight in row) for row in data.lag_weights)
    moved = replace(loaded.checkpoint, data=replace(data, lag_weights=rounded))
    split = replace(loaded, checkpoint=moved).split("test")
    np.testing.assert_array_equal(split.values[0], loaded.split("test").values[0])
    doubled = tuple(tuple(2 * weight for weight in row) for row in data.lag_weights)
    moved = replace(loaded.checkpoint, data=replace(data, lag_weights=doubled))
    with pytest.raises(UserError, match=r"not those that the run fitted data\.lags to"):
        replace(loaded, checkpoint=moved).split("test")

    filled = zpyro("impute", tmp_path / "run", "--data", path, "--out", tmp_path / "filled.csv")
    assert filled.exit_code == 2
    assert "the run models the errors of a linear prediction" in filled.stderr
    run = TableRun(load_run(tmp_path / "run"))
    label, _, table = run.read(None)
    short = replace(table, series=(table.series[0][:48],))
    with pytest.raises(UserError, match=r"has 48 rows before the forecast, but data\.lags needs"):
        run.forecast(label, short, 3, 5)
    found = run.forecast(label, replace(table, series=(table.series[0][:380],)), 20, 50)
    errors = abs(np.median(found.samples[0], axis=0) - waves[380:]) / [5.0, 100.0]
    assert errors.max() < 0.2
    # Of the validation part, rows 320 to 360, the last ones are forecast.
    lengths: list[int] = []

    def watched(histories: list[History], steps: int, count: int, seed: int) -> np.ndarray:
        lengths.extend(len(history.values) for history in histories)
        return run.forecaster(histories, steps, count, seed)

    run.backtest(label, table, 10, 5, {"model": watched}, windows=2, part="valid")
    assert lengths == [340, 350]
    with pytest.raises(UserError, match="has 40 valid rows, fewer than the 50"):
        run.backtest(label, table, 10, 5, {"model": watched}, windows=5, part="valid")
    # Another table has another fit, on whose errors the model was not trained.
    values[:50] += 3.0
    write_waves(path, values)
    again = zpyro("evaluate", tmp_path / "run")
    assert again.exit_code == 2
    assert "the data are not those that the run fitted data.lags to" in again.stderr
