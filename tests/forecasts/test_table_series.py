"""Series in tables: what is read, what is repaired, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from zpyro.datasets.formats.tables import read_frame, write_frame
from zpyro.datasets.table_series import (
    Columns,
    calendar_features,
    future_of,
    read_table,
    season_of,
    table_of,
)
from zpyro.errors import UserError

pytestmark = pytest.mark.fast


def write(folder: Path, text: str, name: str = "a.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_groups_columns_and_gaps(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "place,when,level,rain,wind\n"
        "north,2024-01-01 02:00,3,0.5,\n"
        "north,2024-01-01 00:00,1,0.1,7\n"
        "south,2024-01-01 00:00,,0.0,8\n"
        "south,2024-01-01 04:00,9,0.3,9\n"
        "south,2024-01-01 01:00,6,,9\n",
    )
    table = read_table(path, Columns("when", ("place",), ("level", "wind"), ("rain",), step="1h"))
    north, south = table.series
    assert (north.name, north.key, south.name) == ("north", ("north",), "south")
    assert north.times[2] == pandas.Timestamp("2024-01-01 02:00")
    np.testing.assert_array_equal(north.values, [[1, 7], [np.nan, np.nan], [3, np.nan]])
    np.testing.assert_array_equal(south.values[:, 0], [np.nan, 6, np.nan, np.nan, 9])
    # Covariates are known for every step: a missing one is the one before.
    np.testing.assert_array_equal(north.covariates[:, 0], [0.1, 0.1, 0.5])
    np.testing.assert_array_equal(south.covariates[:, 0], [0.0, 0.0, 0.0, 0.0, 0.3])
    assert len(table.notes) == 4
    assert north[1:].values.shape == (2, 2)


def test_rows_after_the_last_value_are_the_future(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x,u\n1,5,1\n2,,2\n3,6,3\n4,,4\n5,,5\n")
    series = read_table(path, Columns("t", values=("x",), covariates=("u",))).series[0]
    assert (len(series), series.num_observed) == (5, 3)
    times, covariates = future_of("a.csv", series, Columns("t", covariates=("u",)), 2)
    assert list(times) == [4, 5]
    np.testing.assert_array_equal(covariates, [[4], [5]])
    with pytest.raises(UserError, match=r"has 2 rows after the last value, .* for 3"):
        future_of("a.csv", series, Columns("t", covariates=("u",)), 3)


def test_calendar_features_go_on_after_the_table(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n2024-01-01 21:00,1\n2024-01-01 22:00,2\n2024-01-01 23:00,\n")
    table = read_table(path, Columns("t", calendar=("hour",)))
    times, features = future_of("a", table.series[0], table.columns, 3)
    assert [time.hour for time in times] == [23, 0, 1]
    np.testing.assert_allclose(features[1], [0, 1], atol=1e-12)


@pytest.mark.parametrize(
    ("step", "season"),
    [
        ("h", 24),
        ("15min", 96),
        ("10s", 360),
        ("D", 7),
        ("24h", 7),
        ("MS", 12),
        ("QS-JAN", 4),
        ("48h", 1),
        ("7h", 24),
        ("W-SUN", 1),
        ("", 1),
        ("5", 1),
    ],
)
def test_the_season_of_a_step(step: str, season: int) -> None:
    assert season_of(step) == season


def test_the_order_of_columns_and_the_kind_of_file_do_not_matter(tmp_path: Path) -> None:
    times = pandas.date_range("2024-03-01", periods=6, freq="D")
    frame = pandas.DataFrame({"day": times, "a": np.arange(6.0), "b": [1.5, None, 2, 3, 4, 5]})
    write_frame(tmp_path / "a.parquet", frame)
    write_frame(tmp_path / "b.csv", frame[["b", "day", "a"]])
    write_frame(tmp_path / "c.tsv", frame)
    columns = Columns("day", values=("a", "b"))
    first, *others = (
        read_table(tmp_path / name, columns) for name in ("a.parquet", "b.csv", "c.tsv")
    )
    for other in others:
        np.testing.assert_array_equal(first.series[0].values, other.series[0].values)
        assert list(first.series[0].times) == list(other.series[0].times)
        assert first.columns == other.columns


def test_a_wide_table_has_a_series_for_each_column(tmp_path: Path) -> None:
    path = write(tmp_path, "1,2\n3,4\n5,6\n")
    table = read_table(path, Columns(wide=True, header=False))
    assert [series.name for series in table.series] == ["0", "1"]
    np.testing.assert_array_equal(table.series[1].values, [[2], [4], [6]])
    assert table.dimensions == ("value",)


def test_months_are_a_regular_step(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n2024-01-01,1\n2024-02-01,2\n2024-04-01,4\n2024-03-01,3\n")
    table = read_table(path, Columns("t"))
    assert table.columns.step == "MS"
    np.testing.assert_array_equal(table.series[0].values[:, 0], [1, 2, 3, 4])
    after, _ = future_of("a", table.series[0], table.columns, 2)
    assert list(after) == [pandas.Timestamp("2024-05-01"), pandas.Timestamp("2024-06-01")]


def test_times_with_an_offset_keep_it(tmp_path: Path) -> None:
    path = write(tmp_path, "t,x\n2024-01-01T00:00+01:00,1\n2024-01-01T01:00+01:00,2\n")
    times = read_table(path, Columns("t")).series[0].times
    assert times[1].isoformat() == "2024-01-01T01:00:00+01:00"


def test_whole_numbers_are_times(tmp_path: Path) -> None:
    table = read_table(write(tmp_path, "t,x\n10,1\n20,2\n40,4\n"), Columns("t"))
    np.testing.assert_array_equal(table.series[0].times, [10, 20, 30, 40])
    assert list(future_of("a", table.series[0], table.columns, 2)[0]) == [50, 60]
    np.testing.assert_array_equal(table.series[0].rows, [0, 1, -1, 2])


def test_calendar_features_are_places_in_cycles() -> None:
    times = pandas.date_range("2024-01-01 00:00", periods=24 * 14, freq="h")
    features = calendar_features(times, ("hour", "weekday"))
    np.testing.assert_allclose(features[:, :2] ** 2 @ np.ones(2), 1.0)
    np.testing.assert_allclose(features[6, :2], [1, 0], atol=1e-12)
    # The first of January 2024 is a Monday.
    np.testing.assert_allclose(features[84, 2:], [0, -1], atol=1e-12)
    np.testing.assert_allclose(features[168:], features[:168], atol=1e-12)


HOURS = "t,x\n2024-01-01 00:00,1\n2024-01-01 01:00,2\n2024-01-01 02:00,3\n"

BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "duplicate": (HOURS + "2024-01-01 01:00,7\n", {"time": "t"}, "2024-01-01 01:00:00 twice"),
    "irregular": (HOURS + "2024-01-01 02:30,7\n", {"time": "t"}, "not a whole number of steps"),
    "far apart": (HOURS + "2026-01-01 00:00,7\n", {"time": "t"}, "too few for a step of h"),
    "zones": (
        "t,x\n2024-01-01T00:00+01:00,1\n2024-07-01T00:00+02:00,2\n",
        {"time": "t"},
        "mixes time zones",
    ),
    "one zone": (
        "t,x\n2024-01-01T00:00+01:00,1\n2024-07-01T00:00,2\n",
        {"time": "t"},
        "mixes time zones",
    ),
    "no date": ("t,x\n2024-01-01,1\nsoon,2\n", {"time": "t"}, "'soon' in row 2"),
    "empty time": ("t,x\n2024-01-01,1\n,2\n", {"time": "t"}, "column t is empty in row 2"),
    "fractions": ("t,x\n0.5,1\n1.5,2\n", {"time": "t"}, "give dates or whole numbers"),
    "text": ("x,y\n1,2\n2,fine\n", {}, "column y holds 'fine' in row 2"),
    "all missing": ("x,y\n1,\n2,\n", {}, "column y holds no values"),
    "infinite": ("x,y\n1,2\n2,-inf\n", {}, "column y holds -inf in row 2"),
    "huge": ("x\n1\n1e31\n", {}, "column x holds 1e[+]31 in row 2"),
    "empty group": ("g,x\na,1\n,2\n", {"group": ("g",)}, "column g is empty in row 2"),
    "no column": ("a,b\n1,2\n", {"time": "t"}, "has no column t; it has a, b"),
    "two roles": (
        "a,b\n1,2\n",
        {"covariates": ("a",), "values": ("a", "b")},
        "column a has two roles",
    ),
    "no values": ("t\n1\n2\n", {"time": "t"}, "has no columns of values"),
    "no covariate": ("x,u\n1,\n2,\n", {"covariates": ("u",)}, "covariate u holds no values"),
    "step": (HOURS, {"time": "t", "step": "soon"}, "data.step is 'soon'"),
    "step backward": (HOURS, {"time": "t", "step": "-1h"}, "data.step is '-1h'"),
    "two columns": ("a,a\n1,2\n", {}, "two columns 'a'"),
    "no name": (",a\n0,2\n", {}, "column 1 has no name"),
    "cells": ("a,b\n1,2\n3,4,5\n", {}, "cannot be read as CSV"),
    "no rows": ("a,b\n", {}, "has no rows of data"),
    "binary": ("a\0b\n", {}, "NUL bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    text, columns, message = BAD[name]
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_table(path, Columns(**columns))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith((str(path), "data."))


def test_damaged_parquet_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_frame(path, pandas.DataFrame({"x": [1.0, 2.0]}))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_frame(path)


def test_a_directory_and_nothing_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises(UserError, match="give a CSV or Parquet file"):
            read_frame(path)


def test_a_data_frame_in_memory_is_a_table() -> None:
    frame = pandas.DataFrame(
        {"x": pandas.array([1, None, 3], dtype="Int64"), "y": [True, False, True]}
    )
    table = table_of("frame", frame, Columns())
    np.testing.assert_array_equal(table.series[0].values, [[1, 1], [np.nan, 0], [3, 1]])
