"""The user's arrays, the built-in voice, and the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zpyro import UserError, datasets
from zpyro.datasets import voice, vowels
from zpyro.datasets.arrays import ArraySettings
from zpyro.datasets.sequences import Normalization
from zpyro.datasets.vowels import VowelsSettings

RANDOM = np.random.default_rng(0)
FRAMES = 3.0 + 2.0 * RANDOM.standard_normal((30, 5, 4))
TOKENS = RANDOM.integers(0, 7, (30, 5))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


@pytest.mark.fast
def test_frames(tmp_path: Path) -> None:
    data = datasets.load("npz", save(tmp_path, x=FRAMES))
    assert (data.likelihood, data.frame_size, len(data.train)) == ("gaussian", 4, 24)
    chosen = [int(name) for name in data.train.names]
    assert data.train.normalization.mean == pytest.approx(FRAMES[chosen].mean())
    frames = data.train.normalization.invert(np.stack(data.train.values))
    np.testing.assert_allclose(frames, FRAMES[chosen], atol=1e-5)
    assert data.train.start is None


@pytest.mark.fast
def test_tokens_bits_and_unequal_lengths(tmp_path: Path) -> None:
    data = datasets.load("npz", save(tmp_path, x=TOKENS))
    assert (data.likelihood, data.frame_size, data.train.data_type) == ("categorical", 7, "tokens")
    assert data.train.values[0].dtype == np.int64
    bits = (FRAMES > 3).astype(np.float32)
    data = datasets.load("npz", save(tmp_path, x=bits), likelihood="bernoulli")
    assert (data.likelihood, data.train.data_type) == ("bernoulli", "binary")
    assert set(np.unique(data.train.values[0])) <= {0.0, 1.0}
    lengths = np.array([3, 1, 5, 2, 4] * 4)
    ragged = save(tmp_path, values=RANDOM.standard_normal((60, 2)), lengths=lengths)
    data = datasets.load("npz", ragged)
    assert sorted(data.split("all").lengths) == sorted(lengths)


@pytest.mark.fast
def test_given_splits_and_folders(tmp_path: Path) -> None:
    path = save(tmp_path, train=FRAMES[:20], valid=FRAMES[20:25], test=FRAMES[25:])
    data = datasets.load("npz", path)
    assert (len(data.train), len(data.valid), len(data.test)) == (20, 5, 5)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, value in enumerate(FRAMES):
        np.save(folder / f"walk_{i:02d}.npy", value[: 2 + i % 3])
    data = datasets.load("npz", folder, condition_on_first=True, normalize=False)
    assert data.split("all").lengths.max() == 3
    assert data.train.start is not None
    index = int(data.train.names[0][-2:])
    np.testing.assert_allclose(data.train.start[0], FRAMES[index][0], rtol=1e-6)


@pytest.mark.fast
def test_other_arrays_take_the_training_scale(tmp_path: Path) -> None:
    found = datasets.load_all(
        "npz", save(tmp_path, x=FRAMES), ArraySettings(), Normalization(1.0, 2.0)
    )
    np.testing.assert_allclose(found.values[3], (FRAMES[3] - 1.0) / 2.0, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.full((9, 5, 4), np.inf)}, "x, sequence 0 holds infinity"),
        ({"x": FRAMES[0]}, r"x has shape \(5, 4\); it must be \(N, T, D\)"),
        ({"x": FRAMES[:, :, :0]}, "x has shape"),
        ({"x": np.array([[1, 2], [3]], dtype=object)}, "without Python objects"),
        ({"x": FRAMES.astype("U8")}, "must hold numbers"),
        ({"y": FRAMES}, "has arrays y; it needs x"),
        ({"values": FRAMES[0], "lengths": np.array([2, 2])}, "lengths add up to 4"),
        ({"values": FRAMES[0], "lengths": np.array([0, 5])}, "whole numbers of at least 1"),
        ({"x": TOKENS - 1}, "tokens must not be negative"),
        ({"x": TOKENS + 1_700_000_000}, r"token 17000000\d\d would make a vocabulary of 1,7"),
        ({"x": TOKENS.astype(np.uint64) + 2**63}, "number the tokens from 0"),
        ({"x": TOKENS + 2**20}, "would make a vocabulary of 1,048,58"),
        ({"values": TOKENS[0], "lengths": np.array([len(TOKENS[0])]), "z": TOKENS}, "would be"),
        ({"values": TOKENS[0] + 2**31, "lengths": np.array([5])}, "token 21474836"),
        ({"train": TOKENS, "dev": TOKENS, "test": TOKENS + 2**40}, "token 1099511627"),
        ({"x": TOKENS.astype(float)}, "whole numbers .tokens., and has type float64"),
        (
            {"values": FRAMES[0], "lengths": np.array([2**63, 2**63, 5], np.uint64)},
            "lengths add up to 18446744073709551621",
        ),
        ({"x": FRAMES, "test": FRAMES}, "not both"),
        ({"train": FRAMES, "val": FRAMES, "valid": FRAMES}, "val and valid for one split"),
        ({"x": np.ones((30, 5, 4))}, "constant throughout"),
        ({"x": FRAMES[:2]}, "split would be empty"),
        ({"x": np.array(3.0)}, r"x has shape \(\)"),
        ({"values": np.array(3.0), "lengths": np.array([1])}, r"values has shape \(\)"),
        ({"values": FRAMES[0], "lengths": np.array(5)}, "whole numbers of at least 1"),
    ],
)
def test_unusable_arrays_are_told(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        datasets.load("npz", save(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


@pytest.mark.fast
def test_unusable_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with pytest.raises(UserError, match="does not exist"):
        datasets.load("npz", path)
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(UserError, match="cannot be read as plain arrays"):
        datasets.load("npz", path)
    with pytest.raises(UserError, match=r"holds no \.npy files; .* \.npz files: data\.npz$"):
        datasets.load("npz", tmp_path)
    folder = tmp_path / "broken"
    folder.mkdir()
    with pytest.raises(UserError, match=r"holds no \.npy files; give a \.npz file or a folder"):
        datasets.load("npz", folder)
    for number in range(3):
        (folder / f"{number}.npy").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"0\.npy: .* \(and 2 more files like it\)$"):
        datasets.load("npz", folder)
    np.savez_compressed(path, x=FRAMES)
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(200) + whole[400:])
    with pytest.raises(UserError, match="cannot be read as plain arrays"):
        datasets.load("npz", path)
    folder = tmp_path / "folder"
    folder.mkdir()
    (save(folder, x=FRAMES)).rename(folder / "a.npy")
    with pytest.raises(UserError, match=r"a\.npy holds several arrays"):
        datasets.load("npz", folder)
    with pytest.raises(UserError, match="does not fit"):
        datasets.load("npz", save(tmp_path, x=FRAMES), likelihood="categorical")
    with pytest.raises(UserError, match="zeros and ones"):
        datasets.load("npz", save(tmp_path, x=FRAMES), likelihood="bernoulli")
    with pytest.raises(UserError, match="likelihood is 'poisson'"):
        datasets.load("npz", path, likelihood="poisson")


@pytest.mark.fast
def test_one_array_in_a_file_of_its_own(tmp_path: Path) -> None:
    np.save(tmp_path / "walks.npy", FRAMES)
    alone = datasets.load("npz", tmp_path / "walks.npy")
    named = datasets.load("npz", save(tmp_path, x=FRAMES))
    for one, other in zip(alone.train.values, named.train.values, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.fast
def test_unusable_arrays_of_a_folder_are_told(tmp_path: Path) -> None:
    for number, value in enumerate(FRAMES):
        np.save(tmp_path / f"{number}.npy", value)
    np.save(tmp_path / "7.npy", FRAMES)
    with pytest.raises(UserError, match=r"7\.npy has shape .*; it must be \(T, D\), or \(T,\)"):
        datasets.load("npz", tmp_path)
    np.save(tmp_path / "7.npy", 1e300 * FRAMES[7])
    with pytest.raises(UserError, match=r"7\.npy holds numbers beyond"):
        datasets.load("npz", tmp_path)
    np.save(tmp_path / "7.npy", FRAMES[7, :1])
    with pytest.raises(UserError, match=r"sequence 7 has one frame; data\.condition_on_first"):
        datasets.load("npz", tmp_path, condition_on_first=True)


@pytest.mark.fast
def test_an_array_that_declares_more_than_there_is_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "data.npy"
    np.save(path, FRAMES)
    content = bytearray(path.read_bytes())
    content[6:8] = b"\x09\x00"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.npy.*(npy version|cannot be read)"):
        datasets.load("npz", path)
    path = save(tmp_path, x=FRAMES)
    content = bytearray(path.read_bytes())
    # The sizes of the only member in the directory at the end of the archive: stored and plain.
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x declares|x .*holds|cannot be read"):
        datasets.load("npz", path)
    content[place + 20 : place + 24] = (1 << 30).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x declares|x .*holds|cannot be read"):
        datasets.load("npz", path)


FEW = VowelsSettings(utterances=24, seed=3)


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    return vowels.synthesize(FEW)


def test_the_voice_is_seeded(sounds: list[np.ndarray]) -> None:
    again = vowels.synthesize(FEW)
    assert all((a == b).all() for a, b in zip(sounds, again, strict=True))
    other = vowels.synthesize(VowelsSettings(utterances=24, seed=4))
    assert any(len(a) != len(b) for a, b in zip(sounds, other, strict=True))


@pytest.mark.fast
def test_the_voice_is_a_voice(sounds: list[np.ndarray]) -> None:
    """Levels, a falling spectrum, and pitch within a human range."""
    for waveform in sounds:
        assert 0.5 * voice.RATE <= len(waveform) <= 1.01 * voice.RATE
        assert 0.05 < waveform.std() < 0.12
        assert np.abs(waveform).max() < 1.0
        assert np.abs(np.diff(waveform)).min() >= 0
        quiet = waveform[:200].std()
        assert 1e-5 < quiet < 0.05, "a room, never digital silence"
    whole = np.concatenate(sounds)
    spectrum = np.abs(np.fft.rfft(whole)) ** 2
    hertz = np.fft.rfftfreq(len(whole), 1 / voice.RATE)

    def level(low: float, high: float) -> float:
        return float(10 * np.log10(spectrum[(hertz >= low) & (hertz < high)].mean()))

    assert 8 < level(200, 1000) - level(2000, 4000) < 40
    pitches = [_pitch(waveform) for waveform in sounds]
    assert 70 < np.median(pitches) < 350


def _pitch(waveform: np.ndarray) -> float:
    """Pitch of the loudest 40 ms, by autocorrelation."""
    count = int(0.04 * voice.RATE)
    starts = range(0, len(waveform) - count, count // 2)
    loudest = max(starts, key=lambda i: float(np.square(waveform[i : i + count]).sum()))
    piece = waveform[loudest : loudest + count].astype(np.float64)
    correlation = np.correlate(piece, piece, "full")[count - 1 :]
    lags = np.arange(voice.RATE // 400, voice.RATE // 60)
    return voice.RATE / lags[correlation[lags].argmax()]


@pytest.mark.fast
def test_formants_stand_where_they_should() -> None:
    """A steady vowel's spectrum peaks near its first two formants."""
    count = voice.CONTROL_RATE
    first, second, third = voice.VOWELS["a"]
    steady = voice.Score(
        pitch=np.full(count, 100.0),
        voice=np.ones(count),
        breath=np.zeros(count),
        hiss=np.zeros(count),
        hiss_center=np.full(count, 4000.0),
        formants=np.tile((first, second, third, *voice.HIGHER_FORMANTS), (count, 1)),
    )
    (waveform,) = voice.synthesize([steady], [np.random.SeedSequence(0)])
    window = waveform[4000:12000] * np.hanning(8000)
    levels = np.log(np.abs(np.fft.rfft(window)) ** 2 + 1e-12)
    smooth = np.convolve(levels, np.hanning(121) / np.hanning(121).sum(), "same")
    hertz = np.fft.rfftfreq(8000, 1 / voice.RATE)
    between = smooth[(hertz > 1500) & (hertz < 2000)].mean()
    for formant in (first, second):
        near = smooth[np.abs(hertz - formant) < 120].max()
        assert near > between + 2.0


def test_vowels_are_cached_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    made = datasets.load("vowels", utterances=24, seed=3)
    (kept,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(vowels, "synthesize", lambda _: pytest.fail("must come from the cache"))
    again = datasets.load("vowels", utterances=24, seed=3)
    np.testing.assert_array_equal(made.test.values[0], again.test.values[0])
    monkeypatch.undo()
    monkeypatch.setenv("ZPYRO_CACHE", str(tmp_path / "cache"))
    for damage in (b"damaged", b"", kept.read_bytes()[:-3000]):
        kept.write_bytes(damage)
        mended = datasets.load("vowels", utterances=24, seed=3)
        np.testing.assert_array_equal(made.test.values[0], mended.test.values[0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.fast
def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZPYRO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert vowels.cache_folder() == Path("/somewhere/zpyro")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert vowels.cache_folder().name == "zpyro"


@pytest.mark.fast
def test_vowel_settings_are_checked() -> None:
    with pytest.raises(UserError, match="utterances is 0"):
        VowelsSettings(utterances=0)
    with pytest.raises(UserError, match="must rise"):
        VowelsSettings(shortest=2.0, longest=1.0)
    with pytest.raises(UserError, match="frame_size is 5000; two frames must fit"):
        VowelsSettings(frame_size=5000)
    with pytest.raises(UserError, match="seed is -1"):
        VowelsSettings(seed=-1)


@pytest.mark.fast
def test_the_registry() -> None:
    assert set(datasets.names()) >= {"vowels", "wav", "npz", "blizzard"}
    with pytest.raises(UserError, match="did you mean vowels"):
        datasets.entry("vowel")
    with pytest.raises(UserError, match="choose one of vowels"):
        datasets.entry("qqq")
    with pytest.raises(UserError, match="--data DIR"):
        datasets.load("wav")
    with pytest.raises(UserError, match="reads no --data"):
        datasets.load("vowels", "somewhere")
    with pytest.raises(UserError, match="vowels is built in and reads no --data"):
        datasets.load_all("vowels", "somewhere", VowelsSettings(), Normalization())
    assert datasets.entry("wav").needs_data
    assert not datasets.entry("vowels").needs_data


@pytest.mark.fast
def test_descriptions(tmp_path: Path) -> None:
    rows = dict(datasets.describe(datasets.load("npz", save(tmp_path, x=FRAMES))))
    assert rows["train"].startswith("24 sequences, 120 frames (5 to 5 frames, median 5)")
    assert rows["frame size"] == "4"
    assert "from train" in rows["normalization"]
    tokens = dict(datasets.describe(datasets.load("npz", save(tmp_path, x=TOKENS))))
    assert tokens["vocabulary"] == "7"
