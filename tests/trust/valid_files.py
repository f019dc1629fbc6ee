"""Small valid files of every kind that a user may be sent, and the command that reads each."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import soundfile
import torch
from click.testing import CliRunner

from tests.core.test_reference import load as reference_arrays
from tests.core.test_reference import reference_state
from tests.examples.test_chess_puzzles import BLACK, CASTLES, HEADER, WHITE, line
from zpyro_cli.main import main

TINY = (
    *("--set=model.hidden_size=6", "--set=model.latent_size=2", "--set=model.embedding_size=4"),
    *("--set=model.mlp_size=4", "--set=train.batch_size=8", "--max-steps=1"),
)
RATE = 8000
SENTENCES = ("the cat sat on the mat", "a dog ran", "the dog sat", "it was a good film")


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: what to call it.
        files: those in the folder that may be damaged, as patterns.
        arguments: from (folder, out) to the command that reads them; ``out`` is where it may write.
    """

    name: str
    files: tuple[str, ...]
    arguments: Callable[[Path, Path], tuple[object, ...]]


def _train(dataset: str, data: str, *more: str) -> Callable[[Path, Path], tuple[object, ...]]:
    def arguments(folder: Path, out: Path) -> tuple[object, ...]:
        where = ("--dataset", dataset, "--data", folder / data, "--out", out / "run")
        return ("train", *where, *TINY, *more)

    return arguments


def _with_run(*command: str, out: bool = False) -> Callable[[Path, Path], tuple[object, ...]]:
    def arguments(folder: Path, place: Path) -> tuple[object, ...]:
        name, *rest = command
        return (name, folder / "run", *rest, *(("--out", place / "made") if out else ()))

    return arguments


SOUND = ("wav", "sounds", "--set=data.frame_size=40")
DIGITS = ("--set=data.downsample=7",)

KINDS = (
    Kind("wav", ("sounds/*.wav",), _train(*SOUND)),
    Kind("wav, resampled", ("sounds/*.wav",), _train(*SOUND, "--set=data.sample_rate=16000")),
    Kind("flac", ("sounds/*.flac",), _train(*SOUND)),
    Kind("mp3", ("sounds/*.mp3",), _train(*SOUND)),
    Kind("sphere", ("sounds/*.sph",), _train(*SOUND)),
    Kind("idx", ("idx/t*",), _train("mnist", "idx", *DIGITS)),
    Kind("idx.gz", ("packed/t*.gz",), _train("mnist", "packed", *DIGITS)),
    Kind("amat", ("amat/*train*",), _train("mnist", "amat", *DIGITS)),
    Kind("amat of MATLAB", ("matlab/*train*",), _train("mnist", "matlab", *DIGITS)),
    Kind(
        "csv",
        ("puzzles.csv",),
        lambda folder, out: (
            *("example", "chess", "show", folder / "chess", "--data", folder / "puzzles.csv"),
            *("--iterations", 1, "--out", out / "board.png"),
        ),
    ),
    Kind("npz", ("frames.npz",), _train("npz", "frames.npz")),
    Kind("npz, ragged", ("ragged.npz",), _train("npz", "ragged.npz")),
    Kind("npz, compressed", ("packed.npz",), _train("npz", "packed.npz")),
    Kind("npy", ("arrays/*.npy",), _train("npz", "arrays")),
    Kind("text", ("words.txt",), _train("text", "words.txt")),
    Kind(
        "TOML preset",
        ("preset.toml",),
        lambda folder, out: (
            *_train("npz", "frames.npz")(folder, out),
            *("--preset", folder / "preset.toml"),
        ),
    ),
    Kind("TOML of a run", ("run/config.toml",), _with_run("evaluate")),
    Kind("JSON of a checkpoint", ("run/best/meta.json",), _with_run("evaluate")),
    Kind("JSON vocabulary", ("run/best/vocabulary.json",), _with_run("sample", "-n2", out=True)),
    Kind("JSON of prepared data", ("prepared/index.json",), _train("text", "prepared")),
    Kind("tables of prepared data", ("prepared/*.npy",), _train("text", "prepared")),
    Kind(
        "shards of prepared data",
        ("prepared/*.bin",),
        lambda f, _: ("data", "verify", f / "prepared"),
    ),
    Kind("shards of prepared data, read", ("prepared/*.bin",), _train("text", "prepared")),
    Kind(
        "npy prefix",
        ("prefix.npy",),
        lambda folder, out: (
            *_with_run("sample", "-n2", out=True)(folder, out),
            *("--prefix", folder / "prefix.npy"),
        ),
    ),
    Kind(
        "safetensors start",
        ("frames/best/start.safetensors",),
        lambda f, o: ("sample", f / "frames", "-n2", "--frames=4", "--out", o / "made"),
    ),
    Kind("safetensors weights", ("run/best/model.safetensors",), _with_run("evaluate")),
    Kind("safetensors baselines", ("run/baselines.safetensors",), _with_run("evaluate")),
    Kind(
        "state of a training",
        ("run/last/state.pt",),
        lambda folder, _: ("train", "--resume", folder / "run"),
    ),
    Kind(
        "reference checkpoint",
        ("old.pt",),
        lambda folder, out: ("import-reference", folder / "old.pt", out / "run"),
    ),
    Kind(
        "reference checkpoint of old",
        ("legacy.pt",),
        lambda folder, out: ("import-reference", folder / "legacy.pt", out / "run"),
    ),
)


def run(*arguments: object) -> None:
    """A command that must succeed."""
    done = CliRunner().invoke(main, [str(each) for each in arguments])
    if done.exit_code:
        raise RuntimeError(f"{arguments}: {done.output}") from done.exception


def write_all(folder: Path) -> None:
    """Write every valid file; takes some seconds."""
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    _write_sounds(folder / "sounds", numbers)
    _write_digits(folder, numbers)
    _write_arrays(folder, numbers)
    lines = [f"{numbers.choice(SENTENCES)} {numbers.choice(SENTENCES)}" for _ in range(60)]
    (folder / "words.txt").write_text("\n".join(lines) + "\n")
    (folder / "preset.toml").write_text(PRESET)
    puzzles = [line(each) for each in (WHITE, BLACK, CASTLES)] * 9
    (folder / "puzzles.csv").write_text("\n".join([HEADER, *puzzles]) + "\n")
    torch.save(reference_state("gaussian", reference_arrays("gaussian")), folder / "old.pt")
    torch.save(
        reference_state("categorical", reference_arrays("categorical")),
        folder / "legacy.pt",
        _use_new_zipfile_serialization=False,
    )
    run(*_train("text", "words.txt")(folder, folder))
    np.save(folder / "prefix.npy", np.array([3, 4, 3], dtype=np.int64))
    frames = ("--dataset=npz", "--data", folder / "frames.npz", "--out", folder / "frames")
    run("train", *frames, *TINY, "--set=data.condition_on_first=true")
    run("data", "prepare", "text", folder / "words.txt", "--out", folder / "prepared")
    short = ("--epochs=1", "--max-minutes=0.001")
    chess = ("--data", folder / "puzzles.csv", "--out", folder / "chess")
    run("example", "chess", "train", *chess, *short)


PRESET = """\
# A comment, to be longer than the values.
dataset = "npz"

[data]
normalize = true
valid_fraction = 0.25

[model]
hidden_size = 7
log_variance_bounds = [-10.0, 6.5]

[train]
learning_rate = 2e-3
validate_every = 4
learning_rate_schedule = "cosine"
"""


def _write_sounds(folder: Path, numbers: np.random.Generator) -> None:
    folder.mkdir()
    for number in range(14):
        time = np.arange(int(numbers.integers(900, 1500))) / RATE
        tone = 0.4 * np.sin(2 * np.pi * numbers.uniform(100, 400) * time)
        sound = tone + 0.02 * numbers.normal(size=len(time))
        kind = {11: "flac", 12: "mp3", 13: "sph"}.get(number, "wav")
        container = "NIST" if kind == "sph" else None
        soundfile.write(folder / f"tone{number}.{kind}", sound, RATE, format=container)


def _write_digits(folder: Path, numbers: np.random.Generator) -> None:
    for name in ("idx", "packed", "amat", "matlab"):
        (folder / name).mkdir()
    for name, count in (("train-images-idx3-ubyte", 24), ("t10k-images-idx3-ubyte", 6)):
        pixels = numbers.integers(0, 256, size=(count, 28, 28), dtype=np.uint8).tobytes()
        content = struct.pack(">4I", 0x803, count, 28, 28) + pixels
        (folder / "idx" / name).write_bytes(content)
        (folder / "packed" / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    for split, count in (("train", 24), ("valid", 6), ("test", 6)):
        name = f"binarized_mnist_{split}.amat"
        bits = numbers.integers(0, 2, size=(count, 784), dtype=np.uint8)
        text = "\n".join(" ".join(map(str, row)) for row in bits.tolist()) + "\n"
        (folder / "amat" / name).write_text(text)
        with (folder / "matlab" / name).open("wb") as file:
            scipy.io.savemat(file, {"x": bits}, do_compression=split != "test")


def _write_arrays(folder: Path, numbers: np.random.Generator) -> None:
    frames = numbers.normal(size=(40, 5, 3)).astype(np.float32)
    np.savez(folder / "frames.npz", x=frames)
    np.savez_compressed(folder / "packed.npz", x=frames.round(1))
    lengths = numbers.integers(1, 7, size=40)
    tokens = numbers.integers(0, 9, size=int(lengths.sum()))
    np.savez(folder / "ragged.npz", values=tokens, lengths=lengths)
    (folder / "arrays").mkdir()
    for number in range(30):
        np.save(folder / "arrays" / f"{number}.npy", frames[number])


def copy_for(kind: Kind, valid: Path, place: Path) -> None:
    """Copy what a kind's command reads to a place of its own."""
    names = {pattern.partition("/")[0] for pattern in kind.files}
    if kind.name == "TOML preset":
        names.add("frames.npz")
    if kind.name == "npy prefix":
        names.add("run")
    if kind.name == "csv":
        names.add("chess")
    if "run" in names:
        names.add("words.txt")
    place.mkdir(parents=True)
    for name in names:
        source = valid / name
        if source.is_dir():
            shutil.copytree(source, place / name)
        else:
            shutil.copy(source, place / name)
    _point_at(place)


def _point_at(place: Path) -> None:
    """A copied run reads its data where they were copied to."""
    path = place / "run" / "config.toml"
    if path.exists():
        lines = path.read_text().splitlines()
        where = f"data_folder = {json.dumps(str(place / 'words.txt'))}"
        kept: list[Any] = [where if each.startswith("data_folder") else each for each in lines]
        path.write_text("\n".join(kept) + "\n")
