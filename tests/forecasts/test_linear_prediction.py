"""Errors of a linear prediction: fit, gaps, inverse, and data sets of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from zpyro import datasets
from zpyro.datasets.linear_prediction import LinearPrediction
from zpyro.datasets.table import TableSettings
from zpyro.errors import UserError

Numbers = np.ndarray


def process(length: int, seed: int = 0) -> Numbers:
    """x_t = 3 + 1.2 x_{t-1} - 0.5 x_{t-2} + N(0, 1), and a random walk with large steps."""
    noise = np.random.default_rng(seed).normal(size=(length, 2))
    values = np.zeros((length, 2))
    for t in range(2, length):
        values[t, 0] = 3 + 1.2 * values[t - 1, 0] - 0.5 * values[t - 2, 0] + noise[t, 0]
        values[t, 1] = values[t - 1, 1] + 100 * noise[t, 1]
    return values


def plain(prediction: LinearPrediction, values: Numbers) -> Numbers:
    """The errors in a loop over single numbers."""
    lags = prediction.lags
    errors, past = np.full(values.shape, np.nan), values.copy()
    for d, (*weights, intercept) in enumerate(prediction.weights):
        for t in range(lags, len(values)):
            mean = intercept + sum(weights[k] * past[t - 1 - k, d] for k in range(lags))
            errors[t, d] = values[t, d] - mean
            if np.isnan(values[t, d]):
                past[t, d] = mean
    return errors


def fitted(*series: Numbers, lags: int = 2) -> LinearPrediction:
    found = LinearPrediction.fit(series, lags)
    assert found is not None
    return found


@pytest.mark.fast
def test_a_fit_finds_the_process() -> None:
    series = [process(4000, seed) for seed in (1, 2)]
    with_gaps = series[0].copy()
    with_gaps[100:110, 0] = np.nan
    weights = np.array(fitted(with_gaps, series[1]).weights)
    np.testing.assert_allclose(weights[0], [1.2, -0.5, 3.0], atol=0.05)
    np.testing.assert_allclose(weights[1, :2].sum(), 1.0, atol=0.01)
    # Against numpy's least squares, up to the ridge.
    x = series[1][:, 0]
    design = np.stack([x[1:-1], x[:-2], np.ones(len(x) - 2)], 1)
    expected = np.linalg.lstsq(design, x[2:], rcond=None)[0]
    found = fitted(series[1][:, :1]).weights[0]
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.fast
@pytest.mark.parametrize("change", [1, 3])
def test_changes_are_predicted_from_changes(change: int) -> None:
    values = process(600, 5)
    prediction = LinearPrediction.fit([values], 2, change)
    assert prediction is not None
    assert prediction.lags == 2 + change
    changes = np.full_like(values, np.nan)
    changes[change:] = values[change:] - values[:-change]
    for column, x in enumerate(changes[change:].T):
        design = np.stack([x[1:-1], x[:-2]], 1)
        weights = np.linalg.lstsq(design, x[2:], rcond=None)[0]
        errors = prediction.errors(values)[2 + change :, column]
        np.testing.assert_allclose(errors, x[2:] - design @ weights, atol=1e-2 * errors.std())
        # A constant series stays where it is.
        assert sum(prediction.weights[column]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.fast
def test_errors_are_those_of_a_plain_loop_and_see_nothing_later() -> None:
    values = process(60)
    values[[5, 20, 21, 40], [0, 1, 1, 0]] = np.nan
    prediction = fitted(process(500), lags=3)
    errors = prediction.errors(values)
    np.testing.assert_allclose(errors, plain(prediction, values), atol=1e-9)
    assert np.isfinite(errors).sum() == 2 * 57 - 4
    later = values.copy()
    later[30:] = 7.0
    np.testing.assert_array_equal(prediction.errors(later)[:30], errors[:30])


@pytest.mark.fast
def test_a_column_that_begins_later_has_errors_from_its_own_past() -> None:
    """Values before the first known one are not taken for zeros."""
    values = process(300) + 1e4
    late = values.copy()
    late[:30, 1] = np.nan
    late[32, 1] = np.nan
    prediction = fitted(values, lags=3)
    errors = prediction.errors(late)
    np.testing.assert_array_equal(np.isfinite(errors[:, 1]), np.arange(300) >= 33)
    alone = prediction.errors(late[30:])[:, 1]
    np.testing.assert_array_equal(errors[30:, 1], alone)
    np.testing.assert_array_equal(errors[:, 0], prediction.errors(values)[:, 0])
    # A forecast three steps after the first value, with that value for those before it.
    held = values[:32].copy()
    held[:30, 1] = values[30, 1]
    ahead = np.zeros((1, 5, 2))
    expected = prediction.forecast(held, ahead)
    np.testing.assert_allclose(prediction.forecast(late[:32], ahead), expected, rtol=1e-12)


@pytest.mark.fast
def test_a_forecast_is_the_inverse_and_volumes_are_kept() -> None:
    values, prediction = process(50, 3), fitted(process(500), lags=4)
    values[10, 1] = np.nan
    errors = prediction.errors(values)
    again = prediction.forecast(values[:30], np.stack([errors[30:], errors[30:] + 1.0]))
    np.testing.assert_allclose(again[0], values[30:], atol=1e-8)
    assert (again[1] != again[0]).all()
    # d e / d x for 5 steps after 4 known values: log-likelihoods of both are in the same unit.
    known, step = process(9, 4), 1e-3
    rows: list[Numbers] = []
    for number in range(10):
        moved = known.copy()
        moved[4 + number // 2, number % 2] += step
        rows.append((prediction.errors(moved) - prediction.errors(known))[4:].ravel() / step)
    assert abs(np.linalg.det(np.array(rows))) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.fast
def test_a_growing_process_is_predicted_without_growth() -> None:
    growing = np.exp(0.05 * np.arange(200))[:, None] * [[1.0, -2.0]]
    prediction = fitted(growing, lags=3)
    for *weights, _ in prediction.weights:
        companion = np.eye(3, k=-1)
        companion[0] = weights
        assert abs(np.linalg.eigvals(companion)).max() < 1 + 1e-6
    gap = growing.copy()
    gap[50:150] = np.nan
    assert np.isfinite(prediction.errors(gap)[150:]).all()


def written(folder: Path, values: Numbers) -> Path:
    frame = pandas.DataFrame({"t": np.arange(len(values)), "a": values[:, 0], "b": values[:, 1]})
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.mark.fast
def test_a_data_set_of_errors(tmp_path: Path) -> None:
    values = process(200)
    values[150, 0] = np.nan
    path = written(tmp_path, values)
    settings = TableSettings(time="t", lags=5, segment_length=40)
    data = datasets.load("table", path, settings)
    prediction = fitted(values[:160], lags=5)
    assert data.train.normalization.lag_weights == prediction.weights
    expected = prediction.errors(values)
    parts = [data.train, data.valid, data.test]
    masks = np.concatenate([mask for part in parts for mask in part.masks()])
    np.testing.assert_array_equal(masks, np.isfinite(expected))
    frames = np.concatenate([frame for part in parts for frame in part.values])
    raw = data.train.normalization.invert(frames)
    np.testing.assert_allclose(raw[masks], expected[masks], rtol=1e-5, atol=1e-4)
    with pytest.raises(UserError, match=r"data\.lags is 5, but the run has other weights"):
        datasets.load_all("table", path, data.settings, datasets.Normalization())
    whole = datasets.load_all("table", path, data.settings, data.train.normalization)
    np.testing.assert_array_equal(np.concatenate(whole.values), frames)


@pytest.mark.fast
def test_a_short_group_is_left_out_with_a_note(tmp_path: Path) -> None:
    parts = [
        pandas.DataFrame({"place": name, "t": np.arange(length), "x": process(length)[:, 0]})
        for name, length in (("a", 200), ("b", 20))
    ]
    path = tmp_path / "places.csv"
    pandas.concat(parts).to_csv(path, index=False)
    settings = TableSettings(time="t", group="place", lags=25, segment_length=50)
    data = datasets.load("table", path, settings)
    assert {name.partition("#")[0] for name in data.train.names} == {"a"}
    assert data.notes == (
        f"{path}: group b has 20 rows, no more than the 25 that a prediction is from; left out",
    )


@pytest.mark.fast
@pytest.mark.parametrize("row", [0, 1])
def test_weights_of_another_processor_are_those_of_the_same_data(row: int) -> None:
    prediction = fitted(process(500) + 1e3)
    scale = prediction.errors(process(500) + 1e3)[2:].std(0)
    for column, relative, same in ((0, 1e-9, True), (0, 1e-3, False), (2, 1e-3, False)):
        weights = np.array(prediction.weights)
        weights[row, column] += relative * (1.0 if column == 0 else 10 * scale[row])
        other = LinearPrediction(tuple(map(tuple, weights.tolist())))
        assert prediction.is_close(other, scale) is same
    assert not prediction.is_close(fitted(process(500), lags=3), scale)


@pytest.mark.fast
def test_a_constant_column_is_named(tmp_path: Path) -> None:
    values = process(200)
    values[:, 1] = 5.0
    with pytest.raises(UserError, match=r"column b is constant or missing throughout"):
        datasets.load("table", written(tmp_path, values), TableSettings(time="t", lags=3))


@pytest.mark.fast
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difference": 180}, "column a has no changes in the training part"),
        ({"lags": -1}, "data.lags is -1"),
        ({"lags": 2000}, "data.lags is 2000"),
        ({"lags": 100}, "table.csv: data.lags is 100, but the training part has too few"),
    ],
)
def test_bad_lags_are_refused_in_one_line(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, process(200))
    with pytest.raises(UserError) as caught:
        datasets.load("table", path, TableSettings(time="t", **settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
