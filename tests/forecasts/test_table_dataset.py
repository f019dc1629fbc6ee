"""The data set ``table``: splits, segments, scales and missing values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from zpyro import datasets
from zpyro.datasets.table import TableSettings
from zpyro.datasets.table_series import read_table
from zpyro.errors import UserError

pytestmark = pytest.mark.fast

VALUES = np.random.default_rng(0).normal(size=(100, 2)) * [1.0, 50.0] + [5.0, -300.0]
TIMES = pandas.date_range("2024-01-01", periods=100, freq="h")


@pytest.fixture(scope="module")
def hours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 hours of two dimensions of unlike scales, two cells empty, and a covariate."""
    values = VALUES.copy()
    values[10, 0] = values[42, 1] = np.nan
    path = tmp_path_factory.mktemp("table") / "hours.csv"
    frame = pandas.DataFrame({"when": TIMES, "load": values[:, 0], "heat": values[:, 1]})
    frame.assign(open=np.arange(100) % 3).to_csv(path, index=False)
    return path


def load(path: Path, **settings: Any) -> datasets.Dataset:
    return datasets.load("table", path, TableSettings(**settings))


def test_splits_are_parts_in_time_and_known_values_come_back(hours: Path) -> None:
    data = load(hours, time="when", covariates="open", segment_length=25)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [4, 1, 1]
    assert [part.num_frames for part in (data.train, data.valid, data.test)] == [80, 10, 10]
    frames = np.concatenate([*data.train.values, *data.valid.values, *data.test.values])
    raw = data.train.normalization.invert(frames)
    masks = [part.masks() for part in (data.train, data.valid, data.test)]
    seen = np.concatenate([mask for part in masks for mask in part])
    assert (~seen).sum() == 2
    assert not seen[10, 0]
    assert not seen[42, 1]
    np.testing.assert_allclose(raw[seen], VALUES[seen], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(frames[~seen], 0)


def test_each_dimension_and_covariate_has_its_own_scale(hours: Path) -> None:
    data = load(hours, time="when", covariates="open", calendar="hour")
    train = np.concatenate(data.train.values)[np.concatenate(data.train.masks()).all(1)]
    np.testing.assert_allclose(train.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(train.std(0), 1, atol=0.05)
    assert data.train.covariates is not None
    known = np.concatenate(data.train.covariates)
    assert known.shape == (80, 3)
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(known.std(0), 1, atol=1e-5)


def test_columns_are_remembered_in_the_settings(hours: Path) -> None:
    data = load(hours, time="when", covariates="open")
    assert data.settings.values == "load,heat"
    assert data.settings.step == "h"
    again = datasets.load("table", hours, data.settings)
    np.testing.assert_array_equal(again.train.values[0], data.train.values[0])
    found = datasets.load_all("table", hours, data.settings, data.train.normalization)
    assert found.num_frames == 100
    np.testing.assert_array_equal(found.values[0][:80], np.concatenate(data.train.values)[:80])


@pytest.mark.parametrize(
    "settings",
    [
        {"valid_from": "60", "test_from": "75", "end": "90"},
        {"valid_from": "2024-01-03 12:00", "test_from": "2024-01-04 03:00", "end": "2024-01-04 18"},
    ],
)
def test_splits_at_rows_or_dates(hours: Path, settings: dict[str, Any]) -> None:
    data = load(hours, time="when", **settings)
    assert [part.num_frames for part in (data.train, data.valid, data.test)] == [60, 15, 15]


def test_the_months_of_the_transformer_data_are_expressible(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {"date": pandas.date_range("2016-07-01", periods=17420, freq="h"), "OT": np.arange(17420)}
    )
    path = tmp_path / "ett.parquet"
    frame.to_parquet(path, index=False)
    dates = {"valid_from": "2017-06-26", "test_from": "2017-10-24", "end": "2018-02-21"}
    rows = {"valid_from": "8640", "test_from": "11520", "end": "14400"}
    sizes = [
        [part.num_frames for part in (data.train, data.valid, data.test)]
        for data in (load(path, time="date", **each) for each in (dates, rows))
    ]
    assert sizes == [[8640, 2880, 2880]] * 2


def test_training_segments_overlap_with_a_stride(hours: Path) -> None:
    data = load(hours, time="when", values="load", segment_length=20, stride=10)
    assert data.train.lengths.tolist() == [20] * 7
    np.testing.assert_array_equal(data.train.values[0][10:], data.train.values[1][:10])
    assert data.test.lengths.tolist() == [10]


def test_differences_are_modeled_on_request(hours: Path) -> None:
    data = load(hours, time="when", values="load", difference=3, segment_length=40)
    assert data.train.observed is not None
    seen = data.train.observed[0][:, 0]
    assert np.flatnonzero(~seen).tolist() == [0, 1, 2, 10, 13]
    raw = data.train.normalization.invert(data.train.values[0])[seen, 0]
    np.testing.assert_allclose(raw, (VALUES[3:, 0] - VALUES[:-3, 0])[:37][seen[3:]], atol=1e-5)


def grouped(folder: Path, lengths: dict[str, int]) -> Path:
    random = np.random.default_rng(1)
    parts = [
        pandas.DataFrame({"place": name, "t": np.arange(length), "x": random.normal(size=length)})
        for name, length in lengths.items()
    ]
    path = folder / "places.csv"
    pandas.concat(parts).sample(frac=1, random_state=0).to_csv(path, index=False)
    return path


def test_whole_groups_are_held_out_on_request(tmp_path: Path) -> None:
    path = grouped(tmp_path, dict.fromkeys("abcdefghij", 30))
    data = load(path, time="t", group="place", split="group", test_groups="[cd]", values="x")
    assert sorted(data.test.names) == ["c#0", "d#0"]
    assert len(data.valid) == 1
    assert len(data.train) == 7
    assert any("sorted" in note for note in data.notes)


def test_a_short_group_is_refused(tmp_path: Path) -> None:
    path = grouped(tmp_path, {"a": 30, "b": 2})
    with pytest.raises(UserError, match=r"places.csv: group b has 2 rows"):
        load(path, time="t", group="place")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": "load", "time": "when", "calendar": "minutes"}, "data.calendar has 'minutes'"),
        ({"calendar": "hour"}, "data.calendar needs the times"),
        ({"time": "when", "valid_from": "soon"}, "data.valid_from is 'soon'; give a date"),
        ({"time": "when", "valid_from": "95"}, "which make 95 to train"),
        ({"split": "rows"}, "data.split is 'rows'"),
        ({"segment_length": 1}, "data.segment_length is 1"),
        ({"stride": 0}, "data.stride is 0"),
        ({"difference": -1}, "data.difference is -1"),
        ({"test_fraction": 1.0}, "data.test_fraction is 1.0"),
        ({"time": "when", "values": "load,other"}, "has no column other"),
    ],
)
def test_bad_settings_are_refused_in_one_line(
    hours: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        load(hours, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dates_need_dates(tmp_path: Path) -> None:
    path = grouped(tmp_path, {"a": 30})
    with pytest.raises(UserError, match="the table has no dates"):
        load(path, time="t", values="x", valid_from="2024-01-01")
    with pytest.raises(UserError, match=r"but data.calendar needs dates"):
        load(path, time="t", values="x", calendar="hour")


def test_a_constant_column_is_refused(hours: Path, tmp_path: Path) -> None:
    frame = pandas.read_csv(hours)
    frame.loc[:79, "heat"] = 7.0
    path = tmp_path / "flat.csv"
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match="column heat is constant or missing"):
        load(path, time="when")


def test_names_with_commas_are_quoted(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    frame = pandas.DataFrame({"a, b": VALUES[:, 0], "c": VALUES[:, 1]})
    frame.to_csv(path, index=False)
    data = load(path)
    assert data.settings.values == '"a, b",c'
    assert data.settings.columns.values == ("a, b", "c")
    assert read_table(path, data.settings.columns).columns.values == ("a, b", "c")
    assert replace(data.settings, values='"a, b"').columns.values == ("a, b",)


def test_a_directory_with_tables_names_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a directory; give a CSV or Parquet file$"):
        datasets.load("table", tmp_path)
    for name in ("b.csv", "a.parquet", "notes.md"):
        (tmp_path / name).write_text("x\n1\n")
    with pytest.raises(UserError, match=r"; give one of its tables: a\.parquet, b\.csv$"):
        datasets.load("table", tmp_path)
