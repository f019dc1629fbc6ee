"""Data that are generated, split, shuffled or sampled are the same on every machine."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zpyro import datasets
from zpyro.datasets import voice, vowels
from zpyro.datasets.batching import BatchOrder, stream_batches
from zpyro.datasets.mnist_files import binarize
from zpyro.datasets.splitting import split_by_name, stable_fraction
from zpyro.datasets.vocabulary import most_frequent
from zpyro.datasets.vowels import VowelsSettings
from zpyro_examples.easy_to_hard.mazes import draw
from zpyro_examples.easy_to_hard.prefix_sums import PrefixSums

FEW = VowelsSettings(utterances=5)

# Of version 2 of the voice with the default settings: utterance, samples, mean, standard
# deviation, and the samples at 1/8, 1/4, 1/2 and 3/4 of the utterance.
REFERENCE = [
    (0, 8128, 0.000177874, 0.091211261, (-0.0003588, 0.000226, -0.1829672, 0.0467504)),
    (1, 11872, 0.000024031, 0.092654891, (-0.0008998, 0.2426076, -0.0105567, -0.2985172)),
    (149, 14080, -0.000011095, 0.075903888, (0.1358508, 9.81e-05, 0.1104738, -0.0007924)),
    (150, 8352, 0.000052289, 0.072399966, (7.64e-05, 0.1223116, 0.1639849, 0.0002091)),
    (599, 9280, 0.000069605, 0.073712210, (0.0399996, -0.1043772, -0.0208155, -0.1332517)),
]
LENGTHS = "878ef7fbaed3dcffd6f1513ba3041605d561e280eece26e781810f01f36e4d8f"
"""SHA-256 of the numbers of samples of all 600 utterances: whole numbers, exact everywhere."""


def test_vowels_equal_the_committed_reference() -> None:
    assert vowels.VERSION == 2, "a changed voice needs another reference"
    waveforms = vowels.synthesize(VowelsSettings())
    lengths = np.array([len(waveform) for waveform in waveforms])
    assert digest(lengths) == LENGTHS
    for index, samples, mean, deviation, values in REFERENCE:
        waveform = waveforms[index].astype(np.float64)
        places = [samples * eighths // 8 for eighths in (1, 2, 4, 6)]
        np.testing.assert_allclose(waveform.mean(), mean, atol=1e-6)
        np.testing.assert_allclose(waveform.std(), deviation, atol=1e-6)
        np.testing.assert_allclose(waveform[places], values, atol=1e-5)
    everything = np.concatenate(waveforms).astype(np.float64)
    np.testing.assert_allclose(everything.std(), 0.0813698705, atol=1e-7)


@pytest.fixture(scope="module")
def few() -> list[np.ndarray]:
    return vowels.synthesize(FEW)


def test_an_utterance_does_not_depend_on_the_others(few: list[np.ndarray]) -> None:
    for count in (1, 3, 9):
        more = vowels.synthesize(VowelsSettings(utterances=count))
        for one, other in zip(few, more, strict=False):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("function", ["_smooth", "_pitch", "_tilt", "_cascade", "_hiss"])
def test_rounding_changes_a_sound_by_as_little(
    function: str, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other last digits, as another processor computes them."""
    exact: Callable[..., Any] = getattr(voice, function)
    noise = np.random.default_rng(0)

    def rounded(*arguments: Any) -> Any:
        result = exact(*arguments)
        return result * (1.0 + 1e-12 * noise.uniform(-1.0, 1.0, result.shape))

    monkeypatch.setattr(voice, function, rounded)
    for one, other in zip(few, vowels.synthesize(FEW), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.9, 1.01, 1.5, 4.0])
def test_computed_numbers_never_shift_the_draws(
    factor: float, few: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another pitch has other numbers of glottal cycles; the room sounds the same all the same."""
    pitch = voice._pitch
    monkeypatch.setattr(voice, "_pitch", lambda *arguments: factor * pitch(*arguments))
    for one, other in zip(few, vowels.synthesize(FEW), strict=True):
        assert len(one) == len(other)
        # Silence at the beginning: the noise of the room alone, of deviation 3e-4.
        np.testing.assert_allclose(one[:200], other[:200], rtol=0, atol=1e-4)


def test_a_cache_of_another_version_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path))
    quiet = np.sin(np.arange(8000, dtype=np.float32))
    with monkeypatch.context() as before:
        before.setattr(vowels, "VERSION", vowels.VERSION - 1)
        before.setattr(vowels, "synthesize", lambda _: [quiet] * 12)
        old = datasets.load("vowels", utterances=12, frame_size=100, **PLAIN)
        assert set(old.split("all").lengths) == {79}
    data = datasets.load("vowels", utterances=12, frame_size=100, **PLAIN)
    assert set(data.split("all").lengths) != {79}
    assert len(list(tmp_path.iterdir())) == 2


PLAIN: dict[str, Any] = {"segment_length": None}


def digest(*arrays: Any) -> str:
    """SHA-256 of whole numbers, of whatever type."""
    return hashlib.sha256(
        b"".join(np.asarray(array).astype("<i8").tobytes() for array in arrays)
    ).hexdigest()


NAMES = [f"speaker{number % 7}/name_{number}.wav" for number in range(50)]
WORDS = {"tide": 3, "Tide": 3, "ähre": 3, "zebra": 3, "éclair": 2, "ab": 5, "a b": 2, "🙂": 3}


def whole_numbers() -> dict[str, str]:
    """Digests of everything generated or chosen that holds whole numbers only."""
    mazes = draw(5, 20, np.random.default_rng([0, 9, 0]))
    images = np.arange(4 * 49, dtype=np.uint8).reshape(4, 7, 7)
    lengths = 1 + np.arange(90) * 37 % 11
    streams = np.repeat(np.arange(6), (3, 1, 4, 1, 5, 9))
    rows, continues = zip(*stream_batches(streams, 4, seed=3), strict=True)
    order = BatchOrder(90, 4, lengths.__getitem__, shuffle=True, seed=1, epoch=2)
    vocabulary = most_frequent(WORDS, 6, "word", False)
    return {
        "prefix sums, few bits": digest(PrefixSums(14, 40, 1).strings()),
        "prefix sums, many bits": digest(PrefixSums(64, 40, 1).sums()),
        "mazes": digest(mazes.passages, mazes.paths, mazes.starts, mazes.ends),
        "binarized images": digest(binarize(images, 3, "test")),
        "split by name": digest(*split_by_name(NAMES, 0.13, 0.2, seed=2)),
        "share of a name": digest([int(stable_fraction(name, 5) * 2**48) for name in NAMES]),
        "order of a pass": digest(*(indices for indices, _, _ in order.batches())),
        "order of streams": digest(*rows, *continues),
        "vocabulary": hashlib.sha256("\n".join(vocabulary.words).encode()).hexdigest(),
        "utterances": digest([len(sound) for sound in vowels.synthesize(FEW)]),
    }


EXPECTED = {
    "prefix sums, few bits": "45fe61a7184458c892c76454318365cd4cee8c4f85a42595eefe3389c3fe3009",
    "prefix sums, many bits": "5d22fbe057878f066db4b7f18ce36964d2054ae0e06237fa85e0ce460e6c6d1e",
    "mazes": "2ff03c0ac9c46da78540315524e18c6bb083f4e62c286bb479e35d15fff75a38",
    "binarized images": "ba07a8b50d1220f37556734b98eaf9e6c849894d47d7e6de52aa35c7aee26e65",
    "split by name": "a78024a52ed266e8456f2a356b2cec2d393d3b52c113a3af209a698a0461c6d8",
    "share of a name": "810b9ac76b0e75c25a5d0be7d0cb0b4b835babf64f7e1ee81efd369f19d5713f",
    "order of a pass": "268059d98a8929b9814b91fb8ff433e145ea869683ebe1b8f53e3ff5d20b7732",
    "order of streams": "e1be900155ddfef47d66679ab8e08ba3cb23b5c4bf3b0dcd70217b58cb4bcf1b",
    "vocabulary": "8a60c37af14052cc297cd2b718d1db1857f2a20084b864afff2458537b80d4a3",
    "utterances": "ecbd342acc95f125e2723e0b8817c41fac51dfd1c94af613e0c28f869e82f0c6",
}


@pytest.mark.fast
def test_whole_numbers_are_exact() -> None:
    assert whole_numbers() == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
        {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "3", "NPY_DISABLE_CPU_FEATURES": "X86_V3 AVX2 FMA3", "LANG": "tr_TR"},
    ],
    ids=["hash seed", "threads and locale", "older processor"],
)
def test_whole_numbers_do_not_depend_on_the_process(environment: dict[str, str]) -> None:
    program = (
        "import json; from tests.datasets.test_reproducible_data import whole_numbers;"
        "print(json.dumps(whole_numbers()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(found.stdout) == EXPECTED


@pytest.mark.fast
@pytest.mark.parametrize("seed", range(3))
def test_splits_do_not_depend_on_the_order_of_files(tmp_path: Path, seed: int) -> None:
    """Files written in any order give the same splits, in the same order."""
    arrays = {f"walk_{i}": np.random.default_rng(i).normal(size=(5, 2)) for i in range(20)}
    lines = {f"part_{i}.txt": f"line {i}\nmore of {i}\n" for i in range(20)}
    found = []
    for turn in range(2):
        place = tmp_path / str(turn)
        (place / "arrays").mkdir(parents=True)
        (place / "text").mkdir()
        order = list(range(20))
        if turn:
            random.Random(seed).shuffle(order)
        for i in order:
            np.save(place / "arrays" / f"walk_{i}.npy", arrays[f"walk_{i}"])
            (place / "text" / f"part_{i}.txt").write_text(lines[f"part_{i}.txt"])
        numbers = datasets.load("npz", place / "arrays", seed=seed)
        text = datasets.load("text", place / "text", seed=seed, valid_fraction=0.2)
        found.append(
            [
                tuple(data.split(split).names)
                for data in (numbers, text)
                for split in ("train", "valid", "test")
            ]
            + [numbers.train.normalization, text.vocabulary]
        )
    assert found[0] == found[1]
