"""Data sets of arrays, tables and torch data sets in memory."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    random_split,
)

import zpyro
from zpyro import UserError, datasets
from zpyro.datasets import (
    Dataset,
    Normalization,
    Sequences,
    from_arrays,
    from_dataframe,
    from_dataset,
)

RANDOM = np.random.default_rng(0)
RAGGED = [3.0 + 2.0 * RANDOM.standard_normal((2 + i % 5, 4)) for i in range(30)]
FRAMES = 3.0 + 2.0 * RANDOM.standard_normal((30, 5, 4))
TOKENS = RANDOM.integers(0, 7, (30, 5))
SPLITS = ("train", "valid", "test")


def same(one: Dataset, other: Dataset) -> None:
    """Two data sets hold the same numbers, names, scale and splits."""
    assert (one.likelihood, one.frame_size) == (other.likelihood, other.frame_size)
    for split in SPLITS:
        mine, theirs = one.split(split), other.split(split)
        assert mine.names == theirs.names
        assert mine.normalization == theirs.normalization
        assert mine.data_type == theirs.data_type
        for a, b in zip(mine.values, theirs.values, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        assert (mine.start is None) == (theirs.start is None)
        if mine.start is not None:
            np.testing.assert_array_equal(mine.start, theirs.start)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"seed": 3},
        {"valid_fraction": 0.3, "test_fraction": 0.2},
        {"normalize": False},
        {"condition_on_first": True},
    ],
)
def test_ragged_arrays_equal_the_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    lengths = [len(value) for value in RAGGED]
    np.savez(tmp_path / "data.npz", values=np.concatenate(RAGGED), lengths=lengths)
    same(from_arrays(RAGGED, **settings), datasets.load("npz", tmp_path / "data.npz", **settings))


@pytest.mark.parametrize(
    ("array", "settings"),
    [
        (FRAMES, {}),
        (FRAMES.astype(np.float32), {"seed": 2}),
        (TOKENS, {}),
        (TOKENS.astype(np.uint8), {"condition_on_first": True}),
        ((FRAMES > 3).astype(np.int16), {"likelihood": "bernoulli"}),
        (FRAMES > 3, {"likelihood": "bernoulli"}),
    ],
)
def test_one_array_equals_the_file(tmp_path: Path, array: Any, settings: dict[str, Any]) -> None:
    np.savez(tmp_path / "data.npz", x=array)
    read = datasets.load("npz", tmp_path / "data.npz", **settings)
    same(from_arrays(array, **settings), read)
    same(from_arrays(list(array), **settings), read)
    same(from_arrays(torch.from_numpy(array), **settings), read)


def test_given_splits_equal_the_file(tmp_path: Path) -> None:
    given = {"train": FRAMES[:20], "val": FRAMES[20:25], "test": FRAMES[25:]}
    np.savez(tmp_path / "data.npz", **given)
    read = datasets.load("npz", tmp_path / "data.npz")
    same(from_arrays(given), read)
    same(from_arrays(FRAMES[:20], valid=FRAMES[20:25], test=list(FRAMES[25:])), read)
    del given["test"]
    np.savez(tmp_path / "data.npz", **given)
    same(from_arrays(given), datasets.load("npz", tmp_path / "data.npz"))


@pytest.mark.parametrize("split", ["test", "valid"])
def test_held_out_arrays_do_not_move_the_scale(split: str) -> None:
    """No statistics of validation or test data leak into normalization."""
    plain = from_arrays(RAGGED)
    held_out = set(plain.split(split).names)
    moved = [1e3 * v + 7 if str(i) in held_out else v for i, v in enumerate(RAGGED)]
    other = from_arrays(moved)
    assert plain.train.normalization == other.train.normalization
    assert plain.split(split).names == other.split(split).names
    for a, b in zip(plain.train.values, other.train.values, strict=True):
        np.testing.assert_array_equal(a, b)
    samples = np.concatenate([RAGGED[int(name)].ravel() for name in plain.train.names])
    assert plain.train.normalization.mean == pytest.approx(samples.mean())
    assert plain.train.normalization.scale == pytest.approx(samples.std())


@pytest.mark.parametrize(
    "convert",
    [
        lambda v: v.astype(np.float16),
        lambda v: v.astype(np.float32),
        lambda v: v.astype(np.longdouble),
        lambda v: v.astype(">f4"),
        lambda v: np.asfortranarray(v)[::-1][::-1],
        lambda v: v.tolist(),
        lambda v: torch.from_numpy(v).half(),
        lambda v: torch.from_numpy(v).bfloat16(),
        lambda v: torch.from_numpy(v).requires_grad_(),
        lambda v: torch.nn.Parameter(torch.from_numpy(v).float()),
        lambda v: torch.from_numpy(v).to_sparse(),
        lambda v: np.ma.masked_array(v, mask=False),
        lambda v: pd.DataFrame(v),
        lambda v: [torch.from_numpy(row) for row in v],
    ],
)
def test_every_float_type_is_taken(convert: Any) -> None:
    """Close to double precision, on a mean that half precision would not carry."""
    arrays = [100.0 + value for value in RAGGED]
    rounded = [np.asarray(torch.as_tensor(v).bfloat16().double()) for v in arrays]
    data, exact = from_arrays([convert(v) for v in rounded]), from_arrays(rounded)
    assert data.train.names == exact.train.names
    for a, b in zip(data.train.values, exact.train.values, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_containers_of_unequal_lengths() -> None:
    objects = np.empty(30, dtype=object)
    objects[:] = RAGGED
    same(from_arrays(objects), from_arrays(RAGGED))
    same(from_arrays(value for value in RAGGED), from_arrays(RAGGED))
    tensors = [torch.from_numpy(value) for value in RAGGED]
    nested = torch.nested.nested_tensor(tensors, layout=torch.jagged)
    same(from_arrays(nested), from_arrays(RAGGED))


def test_numbers_alone_become_frames_of_one() -> None:
    data = from_arrays([np.sin(np.arange(float(5 + i))) for i in range(20)])
    assert (data.frame_size, data.likelihood) == (1, "gaussian")
    assert sorted(data.split("all").lengths) == list(range(5, 25))


def test_names_are_numbers_keys_or_given() -> None:
    """And never decide a split: that is the file names' part."""
    labels = [f"test/{i}" for i in range(30)]
    given = from_arrays(RAGGED, names=labels)
    keys = from_arrays(dict(zip(labels, RAGGED, strict=True)))
    same(given, keys)
    assert len(given.train) == 24
    assert set(given.split("all").names) == set(labels)
    shuffled = RANDOM.permutation(30)
    other = from_arrays([RAGGED[i] for i in shuffled], names=[labels[i] for i in shuffled])
    assert set(other.test.names) == set(given.test.names), "names decide, not the order"
    assert set(from_arrays(RAGGED).split("all").names) == {str(i) for i in range(30)}


def test_the_data_set_is_a_copy() -> None:
    arrays = [value.astype(np.float32) for value in RAGGED]
    data = from_arrays(arrays, normalize=False)
    before = data.train.values[0].copy()
    for array in arrays:
        array[:] = 0.0
    data.train[0].x.zero_()
    np.testing.assert_array_equal(data.train.values[0], before)


HOLE = FRAMES.copy()
HOLE[7, 2, 1] = np.nan
MASKED = np.ma.masked_array(FRAMES[0], mask=np.arange(20).reshape(5, 4) == 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arrays": [*RAGGED, np.full((5, 4), np.nan)]}, "sequence 30 has no observed value"),
        ({"arrays": [*RAGGED, np.array([[np.inf] * 4])]}, "arrays: sequence 30 holds infinity"),
        ({"arrays": FRAMES[0]}, r"one array of shape \(5, 4\) is ambiguous; give \[array\]"),
        ({"arrays": []}, "arrays: holds no sequences"),
        ({"arrays": 3}, "int is no list of arrays"),
        ({"arrays": "walks.npz"}, "str is no list of arrays"),
        ({"arrays": RAGGED[:2]}, "split would be empty with 2 sequences"),
        ({"arrays": [*RAGGED, np.zeros((3, 5))]}, r"sequence 30 has frames of shape \(5,\)"),
        ({"arrays": RAGGED, "test": np.zeros((3, 2, 5))}, r"sequence 0 has frames of shape"),
        ({"arrays": [*RAGGED, np.zeros((0, 4))]}, r"sequence 30 has shape \(0, 4\)"),
        ({"arrays": [*RAGGED, np.array(["a"])]}, "sequence 30 has type <U1; it must hold numbers"),
        ({"arrays": [*RAGGED, [[1.0], [1.0, 2.0]]]}, "sequence 30 is no array"),
        ({"arrays": [*RAGGED, np.zeros((2, 4), complex)]}, "it must hold numbers"),
        ({"arrays": [*RAGGED, 1e300 * RAGGED[0]]}, "holds numbers beyond"),
        ({"arrays": list(TOKENS) + RAGGED}, "sequence|shape|does not fit"),
        ({"arrays": TOKENS - 1}, "tokens must not be negative"),
        ({"arrays": 10**12 * TOKENS}, "would make a vocabulary of"),
        ({"arrays": np.ones((30, 5, 4))}, "constant throughout"),
        ({"arrays": RAGGED, "names": ["a"] * 30}, "1 different name for 30 sequences"),
        ({"arrays": RAGGED, "names": ["a"]}, "1 different name for 30 sequences"),
        ({"arrays": {"a": RAGGED[0]}, "names": ["a"]}, "leave out names"),
        ({"arrays": {"train": FRAMES, "dev": FRAMES}, "test": FRAMES}, "has splits already"),
        ({"arrays": RAGGED, "valid": []}, "valid: holds no sequences"),
        ({"arrays": RAGGED, "fraction": 0.1}, "fraction is unknown; choose from likelihood"),
        ({"arrays": RAGGED, "likelihood": "poisson"}, "likelihood is 'poisson'"),
        ({"arrays": RAGGED, "valid_fraction": 1.5}, r"valid_fraction is 1\.5"),
    ],
)
def test_unusable_arrays_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_arrays(**arguments)
    assert "\n" not in str(caught.value)


def test_arrays_train_and_evaluate() -> None:
    data = from_arrays(RAGGED)
    model = zpyro.ZForcing(zpyro.likelihoods.Gaussian(4), hidden_size=8, latent_size=2)
    assert np.isfinite(zpyro.evaluate(model, data.test).elbo)


# Sequences as a data set in the sense of torch.


def loaded(data: Sequences, workers: int, **settings: Any) -> list[datasets.Batch]:
    return list(DataLoader(data, 4, collate_fn=datasets.collate, num_workers=workers, **settings))


@pytest.mark.parametrize(
    "data",
    [
        from_arrays(RAGGED).train,
        from_arrays(RAGGED, condition_on_first=True, valid_fraction=0.3).train,
        from_arrays(TOKENS).train,
        from_arrays(TOKENS, condition_on_first=True).train,
        from_arrays(FRAMES > 3, likelihood="bernoulli").train,
    ],
    ids=["frames", "start frames", "tokens", "start tokens", "binary"],
)
def test_a_loader_gives_the_batches(data: Sequences) -> None:
    """With two workers as with none, and both as ``batches`` gives them."""
    expected = list(data.batches(4))
    for workers in (0, 2):
        found = loaded(data, workers)
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.names == theirs.names
            assert torch.equal(mine.lengths, theirs.lengths)
            assert mine.x.dtype == theirs.x.dtype
            assert torch.equal(mine.x, theirs.x)
            assert (mine.start is None) == (theirs.start is None)
            if mine.start is not None and theirs.start is not None:
                assert mine.start.dtype == theirs.start.dtype
                assert torch.equal(mine.start, theirs.start)


def test_prepared_sequences_work_in_a_loader(tmp_path: Path) -> None:
    """Sequences on the disk too, in processes that start anew."""
    (tmp_path / "lines.txt").write_text("".join(f"line {i} of these\n" for i in range(60)))
    data = datasets.load("text", tmp_path / "lines.txt").train
    one = loaded(data, 0)
    other = loaded(data, 2, multiprocessing_context="spawn")
    assert [batch.names for batch in one] == [batch.names for batch in other]
    assert all(torch.equal(a.x, b.x) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("hole", [HOLE, [*FRAMES[:29], MASKED]], ids=["nan", "masked"])
def test_missing_values_become_a_mask(hole: Any) -> None:
    data = from_arrays(hole, valid_fraction=0.3)
    sequences = data.split("all")
    assert data.has_missing
    assert sequences.observed is not None
    hidden = [np.argwhere(~mask).tolist() for mask in sequences.observed]
    place = [2, 1] if hole is HOLE else [0, 3]
    assert [each for each in hidden if each] == [[place]]
    values = np.concatenate(
        [v[m] for v, m in zip(data.train.values, data.train.masks(), strict=True)]
    )
    assert abs(values.mean()) < 1e-6
    assert values.std() == pytest.approx(1.0, abs=1e-5)
    index = next(i for i, each in enumerate(hidden) if each)
    sample = sequences[index]
    assert sample.x[*place] == 0.0
    assert not sample.observed[*place]
    assert sample.observed.sum() == sample.observed.numel() - 1
    batch = sequences.batch()
    assert batch.observed.sum() == batch.observed.numel() - 1
    moved = sequences.renormalized(Normalization(3.0, sequences.normalization.scale))
    assert moved[index].x[*place] == 0.0
    first = FRAMES.copy()
    first[:, 0, 0] = np.nan
    with pytest.raises(UserError, match="its first frame has missing values"):
        from_arrays(first, condition_on_first=True)


def test_covariates_follow_their_sequences() -> None:
    known = [np.full((len(frames), 2), i, dtype=np.float32) for i, frames in enumerate(RAGGED)]
    data = from_arrays(RAGGED, covariates=known, seed=3)
    assert data.covariate_size == 2
    for part in (data.train, data.valid, data.test):
        for name, length, covariates in zip(part.names, part.lengths, part.covariates, strict=True):
            assert covariates.tolist() == [[float(name)] * 2] * length
    batch = data.train[:3].batch()
    assert batch.covariates.shape == (3, int(batch.lengths.max()), 2)
    splits = {"train": RAGGED[:20], "valid": RAGGED[20:25], "test": RAGGED[25:]}
    named = {"train": known[:20], "valid": known[20:25], "test": known[25:]}
    assert from_arrays(splits, covariates=named).test.covariates[0][0, 0] == 25
    by_key = {f"s{i}": each for i, each in enumerate(RAGGED)}
    shuffled = {f"s{i}": known[i] for i in reversed(range(len(known)))}
    data = from_arrays(by_key, covariates=shuffled)
    assert data.train.covariates[0][0, 0] == float(data.train.names[0][1:])
    for wrong, message in (
        (known[:-1], f"there are {len(known) - 1} for {len(known)} sequences"),
        ([*known[:-1], known[-1][:-1]], "for .* frames"),
        ([*known[:-1], known[-1] * np.nan], "covariates must be known at every step"),
    ):
        with pytest.raises(UserError, match=message):
            from_arrays(RAGGED, covariates=wrong)


def test_sequences_are_a_map_style_data_set() -> None:
    data = from_arrays(RAGGED, condition_on_first=True, valid_fraction=0.3).train
    assert isinstance(data, torch.utils.data.Dataset)
    assert len(data) == len(list(data))
    x, start, name = data[2]
    assert name == data.names[2]
    np.testing.assert_array_equal(x, data.values[2])
    np.testing.assert_array_equal(start, data.start[2])
    assert data[-1].name == data[np.int64(len(data) - 1)].name == data.names[-1]
    for index in (len(data), -len(data) - 1):
        with pytest.raises(IndexError):
            data[index]
    mask = data.lengths > 2
    assert data[mask].names == tuple(n for n, m in zip(data.names, mask, strict=True) if m)
    assert data[np.array([1, 0])].names == data[[1, 0]].names == (data.names[1], data.names[0])
    first, second = random_split(data, [0.5, 0.5], torch.Generator().manual_seed(0))
    assert len(first) + len(second) == len(data)
    both = DataLoader(ConcatDataset([first, second]), len(data), collate_fn=datasets.collate)
    (batch,) = both
    assert sorted(batch.names) == sorted(data.names)
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again.values[0], data.values[0])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (from_arrays(FRAMES).train, "Sequences(24 sequences of 5 frames of 4, data_type='frames')"),
        (
            from_arrays(RAGGED).train,
            "Sequences(24 sequences of 2 to 6 frames of 4, data_type='frames')",
        ),
        (from_arrays(TOKENS).test, "Sequences(3 sequences of 5 tokens, data_type='tokens')"),
        (from_arrays(TOKENS).test[:1], "Sequences(1 sequence of 5 tokens, data_type='tokens')"),
        (from_arrays(TOKENS).test[:0], "Sequences(0 sequences, data_type='tokens')"),
    ],
)
def test_sequences_are_shown_in_a_line(data: Sequences, text: str) -> None:
    assert repr(data) == text


def test_data_sets_are_shown_in_a_line() -> None:
    assert repr(from_arrays(FRAMES)) == (
        "Dataset('arrays', train: 24 sequences of 5 frames of 4, valid: 3 sequences of 5 frames of"
        " 4, test: 3 sequences of 5 frames of 4, likelihood='gaussian')"
    )


# Tables.

LONG = pd.DataFrame(
    {
        "station": np.repeat([f"s{i}" for i in range(12)], 6),
        "hour": np.tile(np.arange(6), 12),
        "level": RANDOM.standard_normal(72),
        "wind": RANDOM.integers(0, 9, 72),
    }
)
EXPECTED = {
    f"s{i}": LONG[["level", "wind"]].to_numpy(dtype=float)[6 * i : 6 * i + 6] for i in range(12)
}
MIXED = LONG.sample(frac=1.0, random_state=1)


@pytest.mark.parametrize(
    ("frame", "arguments"),
    [
        (LONG, {"group": "station", "time": "hour"}),
        (MIXED, {"group": "station", "time": "hour", "values": ["level", "wind"]}),
        (LONG.drop(columns="hour"), {"group": "station"}),
        (LONG.assign(note="text"), {"group": ["station"], "values": ["level", "wind"], "seed": 0}),
        (MIXED.set_index(["station", "hour"]), {"group": "station", "time": "hour"}),
        (LONG.astype({"station": "category"}), {"group": "station", "time": "hour"}),
        (LONG.convert_dtypes(), {"group": "station", "time": "hour"}),
        (
            MIXED.assign(hour=pd.Timestamp("2026-01-01") + pd.to_timedelta(MIXED["hour"], "h")),
            {"group": "station", "time": "hour"},
        ),
    ],
)
def test_long_tables_equal_arrays(frame: pd.DataFrame, arguments: dict[str, Any]) -> None:
    data, arrays = from_dataframe(frame, **arguments), from_arrays(EXPECTED)
    for split in SPLITS:
        mine, theirs = data.split(split), arrays.split(split)
        assert set(mine.names) == set(theirs.names), "names decide, not the order of rows"
        for name, value in zip(mine.names, mine.values, strict=True):
            np.testing.assert_allclose(value, theirs.values[theirs.names.index(name)], atol=1e-6)


def test_several_columns_tell_groups_apart() -> None:
    frame = LONG.assign(half=LONG["hour"] // 3)
    data = from_dataframe(frame, group=["station", "half"], time="hour", values="level")
    assert data.split("all").lengths.tolist() == [3] * 24
    assert "s3/1" in data.split("all").names
    assert data.frame_size == 1


def test_wide_tables_equal_arrays() -> None:
    """A sequence in each column, from its first to its last value."""
    frame = LONG.pivot(index="hour", columns="station", values="level")
    expected = {name: frame[name].to_numpy() for name in frame.columns}
    same(from_dataframe(frame), from_arrays(expected))
    frame.loc[0, "s3"] = frame.loc[4:, "s5"] = np.nan
    expected |= {"s3": expected["s3"][1:], "s5": expected["s5"][:4]}
    same(from_dataframe(frame), from_arrays(expected))
    same(from_dataframe(frame.reset_index(), time="hour"), from_arrays(expected))


@pytest.mark.parametrize("kind", ["float64", "Float64"])
def test_empty_cells_are_missing_values(kind: str) -> None:
    frame = LONG.assign(level=LONG["level"].where(LONG["hour"] != 2).astype(kind))
    holed = {name: value.copy() for name, value in EXPECTED.items()}
    for value in holed.values():
        value[2, 0] = np.nan
    data = from_dataframe(frame, group="station", time="hour")
    same(data, from_arrays(holed))
    assert data.has_missing
    wide = frame.pivot(index="hour", columns="station", values="level")
    same(from_dataframe(wide), from_arrays({name: holed[name][:, 0] for name in wide.columns}))


def test_wide_tables_with_two_levels_equal_arrays() -> None:
    wide = LONG.pivot(index="hour", columns="station", values=["level", "wind"])
    wide = wide.swaplevel(axis=1)[list(EXPECTED)]
    same(from_dataframe(wide), from_arrays(EXPECTED))
    some = from_dataframe(wide, values=list(EXPECTED)[:10])
    assert len(some.split("all")) == 10


def test_tables_with_given_splits_and_tokens() -> None:
    rows = {
        name: LONG[LONG["station"].isin([f"s{i}" for i in numbers])]
        for name, numbers in {"train": range(8), "valid": (8, 9), "test": (10, 11)}.items()
    }
    data = from_dataframe(
        rows["train"], group="station", valid=rows["valid"], test=rows["test"], time="hour"
    )
    assert data.valid.names == ("s8", "s9")
    assert data.test.names == ("s10", "s11")
    level = rows["train"][["level", "wind"]].to_numpy(dtype=float)
    assert data.train.normalization.mean == pytest.approx(level.mean())
    tokens = from_dataframe(LONG, group="station", values="wind", likelihood="categorical")
    assert tokens.train.data_type == "tokens"
    assert from_dataframe(LONG, group="station", values="wind").train.data_type == "frames"


@pytest.mark.parametrize(
    ("frame", "arguments", "message"),
    [
        (LONG, {"group": "city"}, "has no column city; it has station, hour, level, wind"),
        (LONG, {"group": "station", "time": "day"}, "has no column day"),
        (LONG, {"group": "station", "values": "rain"}, "has no column rain"),
        (LONG, {"time": "hour"}, "column hour holds a value twice; give group="),
        (LONG, {}, "column station has type"),
        (LONG.assign(hour=0), {"group": "station", "time": "hour"}, "s0 has hour 0 twice"),
        (
            LONG.assign(level=np.nan),
            {"group": "station", "values": "level"},
            "s0 has no observed value; leave it out",
        ),
        (
            LONG.assign(wind=LONG["wind"].astype("Int64").where(LONG["hour"] != 2)),
            {"group": "station", "values": "wind", "likelihood": "categorical"},
            "s0: column wind has missing tokens",
        ),
        (LONG.assign(station=None), {"group": "station"}, "column station has missing values"),
        (
            LONG.assign(hour=np.where(LONG["hour"] == 2, np.nan, LONG["hour"])),
            {"group": "station", "time": "hour"},
            "column hour has missing values",
        ),
        (LONG[["station"]], {"group": "station"}, "has no columns of values"),
        (LONG[:0], {"group": "station"}, "holds no sequences"),
        (pd.DataFrame(), {}, "has no columns of values"),
        (pd.DataFrame({"a": [np.nan], "b": [1.0]}), {}, "column a holds no values"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "has two columns a"),
        ([1.0], {}, "frame: is list, not a pandas DataFrame"),
        (LONG, {"group": "station", "valid": 3}, "valid: is int, not a pandas DataFrame"),
        (LONG, {"group": "station", "covariates": ["wind"]}, "covariates is unknown"),
    ],
)
def test_unusable_tables_are_refused(frame: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dataframe(frame, **arguments)
    assert "\n" not in str(caught.value)


def test_without_pandas_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r'pip install "zpyro\[pandas\]"'):
        from_dataframe(LONG, group="station")


# Data sets of torch and of Hugging Face.


class Items(torch.utils.data.Dataset[Any]):
    """Ragged items of one form."""

    def __init__(self, form: str) -> None:
        self.form = form

    def __len__(self) -> int:
        return len(RAGGED)

    def __getitem__(self, index: int) -> Any:
        x = torch.from_numpy(RAGGED[index])
        return {
            "plain": x,
            "pair": (x, index),
            "second": (index, x),
            "mapping": {"x": x, "label": index},
            "single": {"x": x},
            "numpy": RAGGED[index],
            "lists": RAGGED[index].tolist(),
        }[self.form]


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ("plain", None),
        ("pair", None),
        ("pair", 0),
        ("second", 1),
        ("second", -1),
        ("mapping", "x"),
        ("single", None),
        ("numpy", None),
        ("lists", None),
    ],
)
def test_torch_data_sets_equal_arrays(form: str, field: int | str | None) -> None:
    same(from_dataset(Items(form), field=field, seed=2), from_arrays(RAGGED, seed=2))


def test_other_map_style_data_sets_equal_arrays() -> None:
    frames = torch.from_numpy(FRAMES)
    expected = from_arrays(FRAMES)
    same(from_dataset(TensorDataset(frames, torch.arange(30))), expected)
    same(from_dataset(list(frames)), expected)
    same(from_dataset(Subset(TensorDataset(frames), range(30))), expected)
    train, valid, test = (Subset(Items("pair"), part) for part in (range(20), (20, 21), (22,)))
    given = from_arrays(RAGGED[:20], valid=RAGGED[20:22], test=RAGGED[22:23])
    same(from_dataset(train, valid=valid, test=test), given)
    same(from_dataset({"train": train, "validation": valid, "test": test}), given)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 7, "shuffle": True},
        {"batch_size": 7, "shuffle": True, "drop_last": True},
        {"batch_size": None},
        {"batch_size": 2, "collate_fn": lambda items: items},
    ],
)
def test_loaders_give_every_item_once(settings: dict[str, Any]) -> None:
    same(from_dataset(DataLoader(Items("pair"), **settings)), from_arrays(RAGGED))


def test_a_loader_of_a_subset_gives_that_subset() -> None:
    """Train and validation loaders over one data set share no item."""
    train = DataLoader(Items("pair"), sampler=SubsetRandomSampler([5, 1, *range(8, 30)]))
    valid = DataLoader(Items("pair"), sampler=SubsetRandomSampler([2, 0, 3]))
    data = from_dataset(train, valid=valid, test=Subset(Items("plain"), [4, 6, 7]))
    assert data.train.names == ("1", "5", *(str(i) for i in range(8, 30)))
    assert data.valid.names == ("0", "2", "3")
    frames = data.valid.normalization.invert(data.valid.values[1])
    np.testing.assert_allclose(frames, RAGGED[2], atol=1e-5)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(RAGGED)


@pytest.mark.parametrize(
    ("dataset", "arguments", "message"),
    [
        (Stream(), {}, r"Stream is no map-style data set .*give list\(\.\.\.\)"),
        (DataLoader(Stream()), {}, "Stream is no map-style data set"),
        (
            DataLoader(Items("plain"), sampler=WeightedRandomSampler([1.0] * 30, 9)),
            {},
            "WeightedRandomSampler chooses sequences anew",
        ),
        (
            DataLoader(Items("plain"), sampler=RandomSampler(range(30), replacement=True)),
            {},
            "RandomSampler chooses sequences anew",
        ),
        (DataLoader(Items("plain"), batch_sampler=[[0, 1]]), {}, "chooses sequences anew"),
        (Items("mapping"), {}, "item 0 has x, label; choose one with field="),
        (Items("mapping"), {"field": "y"}, "item 0 has x, label; choose one with field="),
        (Items("pair"), {"field": 2}, "item 0 is a tuple of 2; field=2 is none"),
        (Items("pair"), {"field": "x"}, "item 0 is a tuple of 2; field='x' is none"),
        (Items("plain"), {"field": "x"}, "item 0 is a tensor, without fields"),
        (Items("second"), {}, "item 0 has shape"),
        ([], {}, "data set is empty"),
        (3, {}, "int is no map-style data set"),
        ({"a": Items("plain")}, {}, "the mapping has a; give each split once"),
        ({"valid": Items("plain")}, {}, "the mapping has valid; give each split once"),
        ({"dev": [1], "val": [1], "train": [1]}, {}, "give each split once"),
        ({"train": [1], "val": [1]}, {"test": [1]}, "has splits already"),
    ],
)
def test_unusable_data_sets_are_refused(
    dataset: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        from_dataset(dataset, **arguments)
    assert "\n" not in str(caught.value)


def test_hugging_face_data_sets_equal_arrays() -> None:
    hub = pytest.importorskip("datasets", reason="Hugging Face datasets are not installed")
    table = {"x": [value.tolist() for value in RAGGED], "label": list(range(30))}
    dataset = hub.Dataset.from_dict(table)
    expected = from_arrays(RAGGED)
    same(from_dataset(dataset, field="x"), expected)
    torch_format = from_dataset(dataset.with_format("torch", dtype=torch.float64), field="x")
    same(torch_format, expected)
    splits = hub.DatasetDict(
        train=dataset.select(range(20)),
        validation=dataset.select(range(20, 25)),
        test=dataset.select(range(25, 30)),
    )
    given = from_arrays(RAGGED[:20], valid=RAGGED[20:25], test=RAGGED[25:])
    same(from_dataset(splits, field="x"), given)
    tokens = hub.Dataset.from_dict({"tokens": TOKENS.tolist()})
    same(from_dataset(tokens), from_arrays(TOKENS))


# Files with given splits.


def save_splits(path: Path, names: tuple[str, str, str], ragged: bool) -> None:
    parts = (RAGGED[:20], RAGGED[20:24], RAGGED[24:])
    arrays: dict[str, Any] = {}
    for name, part in zip(names, parts, strict=True):
        if ragged:
            arrays[f"{name}_values"] = np.concatenate(part)
            arrays[f"{name}_lengths"] = [len(value) for value in part]
        else:
            (path / name).mkdir(parents=True)
            for number, value in enumerate(part):
                np.save(path / name / f"{number}.npy", value)
    if ragged:
        np.savez(path / "data.npz", **arrays)


NAMES = [
    ("train", "valid", "test"),
    ("train", "validation", "test"),
    ("train", "val", "test"),
    ("train", "dev", "test"),
    ("Train", "Dev", "TEST"),
]


@pytest.mark.parametrize("names", NAMES)
def test_ragged_splits_of_a_file(tmp_path: Path, names: tuple[str, str, str]) -> None:
    save_splits(tmp_path, names, ragged=True)
    given = from_arrays(RAGGED[:20], valid=RAGGED[20:24], test=RAGGED[24:])
    same(datasets.load("npz", tmp_path / "data.npz"), given)


@pytest.mark.parametrize("names", NAMES)
def test_splits_in_folders(tmp_path: Path, names: tuple[str, str, str]) -> None:
    save_splits(tmp_path, names, ragged=False)
    data = datasets.load("npz", tmp_path)
    given = from_arrays(RAGGED[:20], valid=RAGGED[20:24], test=RAGGED[24:])
    assert data.train.normalization.mean == pytest.approx(given.train.normalization.mean)
    for split, name in zip(SPLITS, names, strict=True):
        mine, theirs = data.split(split), given.split(split)
        assert set(mine.names) == {f"{name}/{number}" for number in theirs.names}
        for label, value in zip(mine.names, mine.values, strict=True):
            index = theirs.names.index(label.partition("/")[2])
            np.testing.assert_allclose(value, theirs.values[index], atol=1e-6)
    assert any("decide" in note for note in data.notes)


def test_one_lacking_split_is_a_share_of_train(tmp_path: Path) -> None:
    save_splits(tmp_path, ("train", "valid", "test"), ragged=True)
    arrays = dict(np.load(tmp_path / "data.npz"))
    for name in ("valid_values", "valid_lengths"):
        del arrays[name]
    np.savez(tmp_path / "data.npz", **arrays)
    data = datasets.load("npz", tmp_path / "data.npz")
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 6)
    arrays["valid"] = FRAMES[:3]
    np.savez(tmp_path / "data.npz", **arrays)
    data = datasets.load("npz", tmp_path / "data.npz")
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 3, 6)


def test_folders_that_are_no_splits_are_read_too(tmp_path: Path) -> None:
    for number, value in enumerate(RAGGED):
        folder = tmp_path / f"pretrain_{number % 3}"
        folder.mkdir(exist_ok=True)
        np.save(folder / f"{number}.npy", value)
    data = datasets.load("npz", tmp_path)
    assert len(data.split("all")) == 30
    assert "pretrain_1/4" in data.split("all").names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_lengths": None}, "has array test_values but not test_lengths; save both"),
        ({"train_values": None}, "has array train_lengths but not train_values; save both"),
        ({"valid": FRAMES}, "for one split; keep one"),
        ({"dev_values": FRAMES[0], "dev_lengths": [5]}, "dev_.* and valid for one split"),
        ({"x": FRAMES}, "give x .*or the splits, not both"),
        ({"test_lengths": np.array([1])}, r"test_lengths add up to 1 and test_values has \d+ rows"),
        ({"test_lengths": np.array([0.5])}, "test_lengths must be whole numbers"),
        ({"test_values": np.array(1.0)}, r"test_values has shape \(\)"),
        (
            {"test_values": np.full((26, 4), np.nan)},
            "test_values, sequence 0 has no observed value",
        ),
    ],
)
def test_unusable_splits_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_splits(tmp_path, ("train", "valid", "test"), ragged=True)
    arrays = {**dict(np.load(tmp_path / "data.npz")), **changes}
    path = tmp_path / "data.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=message) as caught:
        datasets.load("npz", path)
    assert "\n" not in str(caught.value)
