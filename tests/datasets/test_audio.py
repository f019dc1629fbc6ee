"""Recordings of every format, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from zpyro import UserError, datasets
from zpyro.datasets.formats import audio
from zpyro.datasets.sequences import Normalization
from zpyro.datasets.wav import WavSettings

pytestmark = pytest.mark.fast


def tone(count: int, seed: int = 0) -> np.ndarray:
    return (0.3 * np.random.default_rng(seed).standard_normal(count)).clip(-0.9, 0.9)


def write_sphere(path: Path, samples: np.ndarray, rate: int, coding: str = "pcm") -> None:
    fields = {
        "sample_count": len(samples),
        "sample_n_bytes": 2,
        "channel_count": 1,
        "sample_rate": rate,
    }
    lines = [f"{name} -i {value}" for name, value in fields.items()]
    lines += ["sample_byte_format -s2 01", f"sample_coding -s{len(coding)} {coding}", "end_head"]
    head = ("NIST_1A\n   1024\n" + "\n".join(lines) + "\n").encode().ljust(1024)
    path.write_bytes(head + (samples * 32767).astype("<i2").tobytes())


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3", "sph"])
def test_every_format_is_read(tmp_path: Path, extension: str) -> None:
    path, samples = tmp_path / f"a.{extension}", tone(16_000)
    if extension == "sph":
        write_sphere(path, samples, 16_000)
    else:
        soundfile.write(path, samples, 16_000)
    waveform, rate = audio.read(path)
    assert rate == 16_000
    assert waveform.dtype == np.float32
    if extension == "mp3":
        assert abs(len(waveform) - 16_000) < 3000
        assert waveform.std() == pytest.approx(samples.std(), rel=0.3)
    else:
        np.testing.assert_allclose(waveform, samples, atol=1e-4)


def test_stereo_is_averaged_and_eight_bits_are_scaled(tmp_path: Path) -> None:
    samples = np.stack([tone(1000), tone(1000, seed=1)], axis=1)
    soundfile.write(tmp_path / "stereo.wav", samples, 8000)
    waveform, _ = audio.read(tmp_path / "stereo.wav")
    np.testing.assert_allclose(waveform, samples.mean(1), atol=1e-4)
    soundfile.write(tmp_path / "eight.wav", samples[:, 0], 8000, subtype="PCM_U8")
    waveform, _ = audio.read(tmp_path / "eight.wav")
    np.testing.assert_allclose(waveform, samples[:, 0], atol=1e-2)


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    seconds = np.arange(8000) / 8000
    waveform = np.sin(2 * np.pi * 440 * seconds).astype(np.float32)
    doubled = audio.resample(waveform, 8000, 16_000)
    assert len(doubled) == 16_000
    spectrum = np.abs(np.fft.rfft(doubled))
    assert spectrum.argmax() == 440
    assert audio.resample(waveform, 8000, 8000) is waveform


def broken(folder: Path, kind: str) -> Path:
    path = folder / "bad.wav"
    soundfile.write(path, tone(4000), 8000)
    whole = path.read_bytes()
    if kind == "text":
        path.write_text("this is no sound")
    elif kind == "cut":
        path.write_bytes(whole[:3000])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "no_samples":
        soundfile.write(path, np.zeros(0), 8000)
    elif kind == "nan":
        soundfile.write(path, np.full(4000, np.nan), 8000, subtype="FLOAT")
    elif kind == "short":
        soundfile.write(path, tone(399), 8000)
    elif kind == "cut_sphere":
        write_sphere(path, tone(4000), 8000)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "shorten":
        write_sphere(path, tone(4000), 8000, coding="pcm,embedded-shorten-v2.00")
    elif kind == "sphere_header":
        path.write_bytes(b"NIST_1A\n   1024\nsample_count -i 5\n")
    elif kind == "sphere_fields":
        path.write_bytes(b"NIST_1A\n   1024\nchannel_count -i 1\nend_head\n".ljust(1024))
    elif kind == "cut_after_notes":
        notes = b"LIST" + (100_000).to_bytes(4, "little") + bytes(100_000)
        path.write_bytes((whole[:36] + notes + whole[36:])[:-2000])
    elif kind == "dead_link":
        path.unlink()
        path.symlink_to(folder / "nothing.wav")
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "cannot be read as audio"),
        ("cut", "is cut short, its header declares 8044 bytes and it has 3000"),
        ("empty", "is an empty file"),
        ("no_samples", "holds no samples"),
        ("nan", "holds NaN"),
        ("short", "has 399 samples; two frames of 200"),
        ("cut_sphere", "is cut short"),
        ("shorten", "compressed with shorten"),
        ("sphere_header", "header has no end"),
        ("sphere_fields", "header is damaged"),
        ("cut_after_notes", "header declares 108052 bytes and it has 106052"),
        ("dead_link", "cannot be opened"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    for i in range(4):
        soundfile.write(tmp_path / f"good{i}.wav", tone(4000, seed=i), 8000)
    path = broken(tmp_path, kind)
    with pytest.raises(UserError, match=message) as caught:
        datasets.load("wav", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extension", ["mp3", "flac"])
def test_bad_compressed_files_are_told(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_text("this is no sound, only words\n" * 100)
    with pytest.raises(UserError, match=r"cannot be read as audio \(Format not recognised\)"):
        audio.read(path)
    path.unlink()
    soundfile.write(path, tone(64_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is cut short|cannot be read"):
        audio.read(path)


def test_a_flac_header_that_announces_too_much_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(4000), 8000)
    whole = bytearray(path.read_bytes())
    whole[21] |= 0x0F
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"is cut short|cannot be read"):
        audio.read(path)


def test_hidden_files_are_left_out_and_closed_folders_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1000), 8000)
    (tmp_path / "._a.wav").write_bytes(b"not a recording")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b.wav").write_bytes(b"neither")
    assert audio.find(tmp_path) == [tmp_path / "a.wav"]

    def closed(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        audio.find(tmp_path)


def test_several_bad_files_are_counted(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.wav").write_text("no")
    with pytest.raises(UserError, match=r"0\.wav.*and 2 more files"):
        datasets.load("wav", tmp_path)


def test_folders_without_recordings_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no recordings"):
        datasets.load("wav", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        datasets.load("wav", tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is not a folder"):
        datasets.load("wav", tmp_path / "file")


def test_links_that_lead_round_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    soundfile.write(tmp_path / "below" / "a.WAV", tone(1000), 8000, format="WAV")
    (tmp_path / "below" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert audio.find(tmp_path) == [tmp_path / "below" / "a.WAV"]


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    for i in range(20):
        soundfile.write(tmp_path / f"take_{i:02d}.wav", tone(1000 + 150 * i, seed=i), 8000)
    return tmp_path


def test_frames_are_the_recording(recordings: Path) -> None:
    data = datasets.load("wav", recordings)
    scale = data.train.normalization
    whole = np.concatenate([audio.read(recordings / name)[0] for name in data.train.names])
    assert scale.mean == pytest.approx(float(whole.mean(dtype=np.float64)), abs=1e-7)
    assert scale.scale == pytest.approx(float(whole.std(dtype=np.float64)), rel=1e-6)
    for split in (data.train, data.valid, data.test):
        assert split.sample_rate == 8000
        assert split.start is not None
        for name, start, value in zip(split.names, split.start, split.values, strict=True):
            raw, _ = audio.read(recordings / name)
            frames = np.concatenate([start, value.reshape(-1)])
            count = len(raw) // 200 * 200
            np.testing.assert_allclose(scale.invert(frames), raw[:count], atol=1e-6)
    assert len(data.train) + len(data.valid) + len(data.test) == 20


def test_rows_score_every_frame_but_the_first_once(recordings: Path) -> None:
    whole = datasets.load("wav", recordings, test_files="take_1?.wav").test
    rows = datasets.load("wav", recordings, test_files="take_1?.wav", segment_length=4).test
    assert rows.num_frames == whole.num_frames
    assert rows.lengths.max() == 4
    joined = np.concatenate(list(rows.values))
    np.testing.assert_array_equal(joined, np.concatenate(list(whole.values)))
    assert rows.start is not None
    assert rows.names[:2] == ("take_10.wav#0", "take_10.wav#1")
    np.testing.assert_array_equal(rows.start[1], rows.values[0][-1])


def test_other_recordings_take_the_training_scale(recordings: Path) -> None:
    scale = Normalization(0.5, 2.0)
    found = datasets.load_all("wav", recordings, WavSettings(), scale)
    assert len(found) == 20
    raw, _ = audio.read(recordings / found.names[0])
    np.testing.assert_allclose(found.values[0][0], (raw[200:400] - 0.5) / 2.0, rtol=1e-5)


def test_rates_must_agree_unless_one_is_asked_for(recordings: Path) -> None:
    soundfile.write(recordings / "other.wav", tone(4000), 16_000)
    with pytest.raises(UserError, match=r"sample rates differ: 8000 .*16000 \(other\.wav\)"):
        datasets.load("wav", recordings)
    data = datasets.load("wav", recordings, sample_rate=4000)
    assert data.train.sample_rate == 4000


def test_settings_are_checked(recordings: Path) -> None:
    with pytest.raises(UserError, match="frame_size is 0"):
        datasets.load("wav", recordings, frame_size=0)
    with pytest.raises(UserError, match=r"valid_fraction is 1\.5"):
        datasets.load("wav", recordings, valid_fraction=1.5)


def test_silence_is_told(tmp_path: Path) -> None:
    for i in range(5):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(2000), 8000)
    with pytest.raises(UserError, match="silent throughout"):
        datasets.load("wav", tmp_path)


def test_blizzard_targets_are_the_next_frames_of_their_own_stream(tmp_path: Path) -> None:
    """Samples encode stream and position; every frame must follow its predecessor."""
    for stream in range(3):
        ramp = (1000 * (stream + 1) + np.arange(200 * 410) // 200).astype("<i2")
        soundfile.write(tmp_path / f"{stream}.wav", ramp, 16_000, subtype="PCM_16")
    data = datasets.load("blizzard", tmp_path)
    total = 0
    for split in (data.train, data.valid, data.test):
        assert split.start is not None
        for start, value in zip(split.start, split.values, strict=True):
            frames = split.normalization.invert(np.concatenate([start[None], value]))
            codes = np.rint(frames * 32768)
            assert (codes == codes[:, :1]).all()
            np.testing.assert_array_equal(np.diff(codes[:, 0]), 1)
            assert len(value) == 40
            total += len(value)
    # 409 frames follow the first: ten whole rows a recording, the last nine frames are left out.
    assert total == 3 * 400
    assert len(data.valid) == len(data.test) == round(0.05 * 30)
    settings = datasets.entry("blizzard").settings()
    assert len(datasets.load_all("blizzard", tmp_path, settings, Normalization())) == 30


def test_blizzard_of_short_recordings_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(4000), 16_000)
    with pytest.raises(UserError, match=r"too few sequences for three splits \(0 in train"):
        datasets.load("blizzard", tmp_path)


def test_blizzard_without_the_corpus_says_what_to_do() -> None:
    with pytest.raises(UserError) as caught:
        datasets.load("blizzard")
    for words in ("licensed", "--data", "zpyro train --dataset vowels", "BOOK/CHAPTER.mp3"):
        assert words in str(caught.value)


def test_real_digits(data_folder: Path) -> None:
    data = datasets.load(
        "wav", data_folder / "fsdd", test_files="*_[0-4].wav", valid_files="*_[5-7].wav"
    )
    assert (len(data.train), len(data.valid), len(data.test)) == (1020, 180, 300)
    assert data.train.sample_rate == 8000
    assert sum(len(audio.read(p)[0]) for p in audio.find(data_folder / "fsdd")) / 8000 / 60 == (
        pytest.approx(10.9, abs=0.1)
    )
    assert data.test.lengths.mean() == pytest.approx(15.75, abs=0.01)


def test_real_sphere_files(data_folder: Path) -> None:
    waveform, rate = audio.read(data_folder / "sphere" / "chan3.sph")
    assert (len(waveform), rate) == (230_108, 11_025)
    waveform, rate = audio.read(data_folder / "sphere" / "stereo.sph")
    assert (len(waveform), rate) == (8000, 8000)


def test_real_audiobooks(data_folder: Path) -> None:
    data = datasets.load("wav", data_folder / "ljspeech", sample_rate=16_000)
    assert len(data.split("all")) == 26
    assert data.split("all").seconds == pytest.approx(180, rel=0.05)
    books = datasets.load("blizzard", data_folder / "ljspeech")
    assert set(books.split("all").lengths) == {40}
