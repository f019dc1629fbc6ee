"""Piano rolls: the published files, and files that nobody should write."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

import zpyro
from zpyro import UserError
from zpyro.analysis.scores import describe_baselines
from zpyro.datasets.music import PRESETS, MusicSettings, Transposition
from zpyro.datasets.sequences import Normalization, Sequences
from zpyro.training import config

COUNTS = {
    "JSB_Chorales": (229, 76, 77, 4_725),
    "Nottingham": (694, 173, 170, 44_463),
    "Piano_midi": (87, 12, 25, 19_036),
    "MuseData": (524, 135, 124, 64_339),
}
"""Sequences of train, valid and test, and test frames (DESIGN of the data)."""
BASELINES = {
    "JSB_Chorales": (11.06, 10.48),
    "Nottingham": (10.25, 5.17),
    "Piano_midi": (11.05, 8.26),
    "MuseData": (11.51, 8.56),
}
"""Nats per test frame, negated: independent notes, and a Markov chain for each note."""


def rolls(count: int, seed: int, *, length: int = 9) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [(random.random((length + i, 88)) < 0.04).astype(np.uint8) for i in range(count)]


def write_cells(path: Path, splits: dict[str, list[np.ndarray]], *, compress: bool = False) -> Path:
    cells = {}
    for name, pieces in splits.items():
        cell = np.empty((1, len(pieces)), object)
        for i, piece in enumerate(pieces):
            cell[0, i] = piece
        cells[name] = cell
    scipy.io.savemat(path, cells, do_compression=compress)
    return path


def splits() -> dict[str, list[np.ndarray]]:
    names = ("traindata", "validdata", "testdata")
    return {name: rolls(3 - seed, seed) for seed, name in enumerate(names)}


@pytest.mark.fast
@pytest.mark.parametrize("compress", [False, True])
def test_cells_come_back(tmp_path: Path, compress: bool) -> None:
    given = splits()
    data = zpyro.datasets.load("music", write_cells(tmp_path / "a.mat", given, compress=compress))
    for split, cell in zip((data.train, data.valid, data.test), given.values(), strict=True):
        assert len(split) == len(cell)
        for roll, expected in zip(split.values, cell, strict=True):
            np.testing.assert_array_equal(roll, expected)
        assert split.start is None
    assert (data.likelihood, data.frame_size) == ("bernoulli", 88)
    assert data.train.batch().x.dtype.is_floating_point


@pytest.mark.fast
def test_notes_of_json_are_keys(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    pieces = {"train": [[[21, 108], []]], "valid": [[[60]]], "test": [[[60, 64, 67]] * 3]}
    path.write_text(json.dumps(pieces))
    data = zpyro.datasets.load("music", path, grid=1)
    assert np.argwhere(data.train.values[0]).tolist() == [[0, 0], [0, 87]]
    assert data.test.values[0].sum(1).tolist() == [3, 3, 3]
    assert data.test.steps_per_quarter == 1
    everything = zpyro.datasets.load_all("music", path, MusicSettings(), Normalization())
    assert everything.names == ("train#0", "valid#0", "test#0")


@pytest.fixture
def published(data_folder: Path) -> Path:
    """The folder of the published rolls."""
    folder = data_folder / "polyphonic_music"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.fast
def test_the_tempo_of_another_preset_is_noted(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "JSB_Chorales.mat", splits())
    assert zpyro.datasets.load("music", path, grid=1).notes == ()
    data = zpyro.datasets.load("music", path, grid=2)
    assert data.notes == (
        "data.grid is 2, which sets only the tempo of samples; for JSB_Chorales.mat set"
        " data.grid=1, as the preset music-jsb does",
    )
    tempo = dict(zpyro.datasets.describe(data))["tempo of samples"]
    assert tempo == "2 frames in a quarter note (data.grid), 120 quarter notes a minute"
    other = write_cells(tmp_path / "other.mat", splits())
    assert zpyro.datasets.load("music", other).notes == (
        "frames are as in the file; data.grid sets only the tempo of samples",
    )


@pytest.mark.fast
@pytest.mark.parametrize("name", PRESETS)
def test_presets_play_their_files_at_the_noted_tempo(name: str) -> None:
    preset, grid = PRESETS[name]
    settled = config.resolve("music", MusicSettings, preset=config.read_preset(preset))
    assert settled.data.grid == grid


@pytest.mark.parametrize("name", COUNTS)
def test_published_rolls_have_published_counts_and_baselines(name: str, published: Path) -> None:
    data = zpyro.datasets.load("music", published / f"{name}.mat")
    found = (len(data.train), len(data.valid), len(data.test), data.test.num_frames)
    assert found == COUNTS[name]
    for (label, shown), expected in zip(describe_baselines(data), BASELINES[name], strict=True):
        assert label.startswith("baseline")
        assert float(shown.split("test ")[1].split()[0]) == pytest.approx(-expected, abs=0.0101)


def test_the_json_of_the_chorales_equals_the_cells_frame_by_frame(published: Path) -> None:
    cells = zpyro.datasets.load("music", published / "JSB_Chorales.mat")
    notes = zpyro.datasets.load("music", published / "jsb-chorales-quarter.json")
    for split in ("train", "valid", "test"):
        left, right = cells.split(split), notes.split(split)
        assert left.names == right.names
        for a, b in zip(left.values, right.values, strict=True):
            np.testing.assert_array_equal(a, b)


# -- transposition --------------------------------------------------------------------------------


@pytest.mark.fast
def test_pieces_are_shifted_evenly_and_keep_their_notes() -> None:
    roll = np.zeros((4, 88), np.uint8)
    roll[0, 3] = roll[1, 80] = roll[2, 40] = 1
    shift = Transposition(5)
    found = [shift(roll, np.random.default_rng(seed)) for seed in range(400)]
    moves = []
    for moved in found:
        places = np.argwhere(moved)
        moves.append(int(places[0, 1]) - 3)
        assert (places - np.argwhere(roll) == [0, moves[-1]]).all()
    counts = np.bincount(np.array(moves) + 3)
    assert len(counts) == 9  # 3 down to the lowest key, 5 up
    assert counts.min() > 20
    np.testing.assert_array_equal(shift(np.zeros_like(roll), np.random.default_rng(0)), 0)


@pytest.mark.fast
def test_only_training_batches_are_transposed(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "a.mat", splits())
    data = zpyro.datasets.load("music", path, transpose=6)
    assert data.valid.augmentation is None
    assert data.test.augmentation is None
    plain, train = zpyro.datasets.load("music", path).train, data.train
    assert (train.batch().x == plain.batch().x).all()
    assert (plain.training_batch(seed=1, epoch=2).x == plain.batch().x).all()
    first = train.training_batch(seed=1, epoch=2).x
    assert (first.sum((1, 2)) == plain.batch().x.sum((1, 2))).all()
    assert (first != plain.batch().x).any()
    # The same numbers in any batch, others in another pass.
    again = pickle.loads(pickle.dumps(train))[[1, 2]].training_batch(seed=1, epoch=2).x
    assert (again == first[1:]).all()
    others = [train.training_batch(seed=1, epoch=epoch).x for epoch in range(4)]
    assert any((other != first).any() for other in others)


@pytest.mark.fast
def test_only_training_pieces_are_cut_into_excerpts(tmp_path: Path) -> None:
    path = write_cells(tmp_path / "a.mat", splits())
    whole = zpyro.datasets.load("music", path)
    for longest in (1, 2, 3, 5):
        cut = zpyro.datasets.load("music", path, excerpt=longest)
        assert cut.train.lengths.max() <= longest
        assert cut.train.lengths.max() - cut.train.lengths.min() <= longest // 2 + 1
        np.testing.assert_array_equal(
            np.concatenate(list(cut.train.values)), np.concatenate(list(whole.train.values))
        )
        assert len(set(cut.train.names)) == len(cut.train)
        assert dict(zpyro.datasets.describe(cut))["train files"] == "train"
        for split in ("valid", "test"):
            np.testing.assert_array_equal(cut.split(split).lengths, whole.split(split).lengths)
    long = int(whole.train.lengths.max())
    assert len(zpyro.datasets.load("music", path, excerpt=long).train) == len(whole.train)
    with pytest.raises(UserError, match="data set music: excerpt must be at least 0, but is -1"):
        zpyro.datasets.load("music", path, excerpt=-1)


# -- files that nobody should write ---------------------------------------------------------------


def _bad_files() -> dict[str, tuple[Any, str]]:
    good = splits()
    wide = {**good, "testdata": [np.zeros((4, 90), np.uint8)]}
    loud = {**good, "validdata": [np.full((4, 88), 3, np.uint8)]}
    return {
        "other names": ({"train": good["traindata"]}, "has no cell array traindata, but train"),
        "width": (wide, "testdata, piece 1: has shape (4, 90)"),
        "values": (loud, "validdata, piece 1: frame 1 holds 3"),
        "text in a cell": ({**good, "testdata": ["words"]}, "cell 1 of testdata is not a numeric"),
        "no pieces": ({**good, "testdata": []}, "too few sequences"),
    }


@pytest.mark.fast
@pytest.mark.parametrize("what", _bad_files())
def test_cells_of_another_layout_are_named(tmp_path: Path, what: str) -> None:
    cells, message = _bad_files()[what]
    path = write_cells(tmp_path / "a.mat", cells)
    with pytest.raises(UserError) as caught:
        zpyro.datasets.load("music", path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_matrices_in_place_of_cells_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"traindata": np.eye(88), "validdata": np.eye(88)})
    with pytest.raises(UserError, match="has no cell array traindata, but none"):
        zpyro.datasets.load("music", path)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "has no list train"),
        ('{"train": [], "valid": []}', "has no list test"),
        ('{"train": [[[60]]], "valid": [[[60]]], "test": [[[]], 3]}', "test, piece 2: is not a"),
        ('{"train": [[60]], "valid": [], "test": []}', "train, piece 1, frame 1: is not a list"),
        ('{"train": [[[60], [109]]], "valid": [], "test": []}', "frame 2: note 109 is none of 21"),
        ('{"train": [[[60.5]]], "valid": [], "test": []}', "note 60.5 is none of"),
        ('{"train": [[[true]]], "valid": [], "test": []}', "note True is none of"),
        ('{"train": [[[60]]], "valid": [], "test": []}', "too few sequences"),
        ("[" * 100_000, "is not JSON"),
        ("words", "is neither a MATLAB v5 file nor JSON"),
    ],
)
def test_json_of_another_layout_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        zpyro.datasets.load("music", path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.fast
def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        zpyro.datasets.load("music", tmp_path / "none.mat")


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.fast
def test_every_frame_is_scored_the_first_from_a_zero_start() -> None:
    values = tuple(rolls(3, 0))
    names = ("a", "b", "c")
    plain = Sequences(values, names, data_type="binary")
    zeros = Sequences(values, names, np.zeros((3, 88), np.float32), data_type="binary")
    ones = Sequences(values, names, np.ones((3, 88), np.float32), data_type="binary")
    model = zpyro.models.VRNN(zpyro.likelihoods.Bernoulli(88), 8, 3, 6, 6)
    found = [zpyro.evaluate(model, split) for split in (plain, zeros, ones)]
    assert found[0].frames == 9 + 10 + 11
    np.testing.assert_array_equal(found[0].elbo_by_sequence, found[1].elbo_by_sequence)
    assert (found[0].elbo_by_sequence != found[2].elbo_by_sequence).all()
