"""Arrays, digits, puzzles, checkpoints and files of runs to fuzz: damaged, or with odd headers."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import struct
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.trust.fuzz_inputs import Target, damaged, numbers

MANY = 1 << 31


@st.composite
def either(draw: st.DrawFn, *strategies: st.SearchStrategy[bytes], share: int = 2) -> bytes:
    """One of the strategies, the first of them more often."""
    return draw(draw(st.sampled_from([strategies[0]] * share + list(strategies[1:]))))


# -- digits ---------------------------------------------------------------------------------------


@st.composite
def idx(draw: st.DrawFn) -> bytes:
    """A header of four numbers, any of them wrong, and images; perhaps gzipped."""
    count = draw(st.integers(0, 3))
    magic = draw(numbers(32, 0x803, 0x803, 0x803, 0x801))
    sizes = [draw(numbers(32, *usual)) for usual in ((count, count), (28, 28), (28, 28))]
    content = struct.pack(">4I", magic, *sizes) + bytes(784 * count)
    return gzip.compress(content) if draw(st.booleans()) else content


def _idx() -> st.SearchStrategy[bytes]:
    valid = struct.pack(">4I", 0x803, 2, 28, 28) + bytes(range(256)) * 6 + bytes(32)
    return either(idx(), damaged([valid, gzip.compress(valid)]))


def _read_idx(path: Path) -> object:
    from zpyro.datasets.formats import image_files

    return image_files.read_idx(path)


def _matlab() -> st.SearchStrategy[bytes]:
    import numpy as np
    import scipy.io

    files: list[bytes] = []
    bits = (np.arange(3 * 784).reshape(3, 784) % 3 == 0).astype(np.uint8)
    for compressed in (False, True):
        for values in (bits, bits.astype(float)):
            out = io.BytesIO()
            scipy.io.savemat(out, {"x": values}, do_compression=compressed)
            files.append(out.getvalue())
    files.append("".join(" ".join(map(str, row)) + "\n" for row in bits).encode())
    return damaged(files)


def _read_amat(path: Path) -> object:
    from zpyro.datasets.formats import image_files

    return image_files.read_amat(path)


# -- music ----------------------------------------------------------------------------------------


MESSAGES = (
    *(b"\x90\x3c\x40", b"\x90\x3c\x40", b"\x90\x7f\x01", b"\x80\x3c\x00", b"\x99\x24\x40"),
    *(b"\x40\x00", b"\xb0\x40\x7f", b"\xb0\x40\x00", b"\xc0\x05", b"\xff\x51\x03\x07\xa1\x20"),
    *(b"\xff\x01\x02ab", b"\xf0\x02\x01\xf7", b"\x90\xc8\x40", b"\xff\x59\x02\x7f\x05", b"\xff"),
)
"""Notes, pedals, changes of tempo, text; the last ones are damaged."""


@st.composite
def smf(draw: st.DrawFn) -> bytes:
    """A MIDI file with any header, lengths of tracks, times and messages."""
    tracks: list[bytes] = []
    for _ in range(draw(st.integers(0, 3))):
        track = bytearray()
        for _ in range(draw(st.integers(0, 12))):
            time = draw(
                st.sampled_from((b"\x00", b"\x00", b"\x60", b"\x83\x00", b"\x60", b"\xff" * 8))
            )
            message = draw(st.sampled_from(MESSAGES))
            track += time + message
        track += draw(st.sampled_from((b"\x00\xff\x2f\x00", b"")))
        length = draw(st.sampled_from((len(track),) * 9 + (0, max(0, len(track) - 1), MANY)))
        tracks.append(b"MTrk" + struct.pack(">I", length) + bytes(track))
    kind = draw(st.sampled_from((0, 1, 1, 1, 2, 7)))
    count = draw(st.sampled_from((len(tracks),) * 9 + (0, 0xFFFF)))
    division = draw(st.sampled_from((1, 96, 96, 480, 0, 0xE728)))
    return b"MThd" + struct.pack(">IHHH", 6, kind, count, division) + b"".join(tracks)


def _midi() -> st.SearchStrategy[bytes]:
    import numpy as np

    from zpyro.datasets.formats import midi

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.mid")
        midi.write(path, (np.random.default_rng(0).random((9, 88)) < 0.05).astype(np.uint8), 4)
        valid = path.read_bytes()
    return either(smf(), damaged([valid, gzip.compress(valid)]), st.just(valid), share=6)


def _read_midi(path: Path) -> object:
    from zpyro.datasets.formats import midi

    return midi.read(path, 4)


def _cells() -> st.SearchStrategy[bytes]:
    import numpy as np
    import scipy.io

    found: list[bytes] = []
    names = ("traindata", "validdata", "testdata")
    for compressed in (False, True):
        cell = np.empty((1, 2), object)
        cell[0, 0] = cell[0, 1] = (np.arange(3 * 88).reshape(3, 88) % 7 == 0).astype(np.uint8)
        out = io.BytesIO()
        scipy.io.savemat(out, dict.fromkeys(names, cell), do_compression=compressed)
        found.append(out.getvalue())
    return damaged(found)


@st.composite
def pieces(draw: st.DrawFn) -> bytes:
    """JSON of pieces with odd values in some places."""
    content: dict[str, Any] = {name: [[[60, 64], []]] for name in ("train", "valid", "test")}
    for _ in range(draw(st.integers(0, 2))):
        split = draw(st.sampled_from(sorted(content)))
        odd = draw(st.sampled_from((*ODD, 20, 109, [[60]], [[[]]])))
        place = draw(st.integers(0, 3))
        if place == 0:
            content[split] = odd
        elif place == 1:
            content[split] = [odd]
        elif place == 2:
            content[split] = [[odd]]
        else:
            content[split] = [[[odd]]]
    return json.dumps(content).encode()


def _pieces() -> st.SearchStrategy[bytes]:
    valid = json.dumps({name: [[[60, 64], []]] for name in ("train", "valid", "test")}).encode()
    nested = b'{"train": ' + b"[" * 100_000
    return either(pieces(), damaged([valid, gzip.compress(valid), nested]))


def _read_music(path: Path) -> object:
    from zpyro import datasets

    return datasets.load("music", path)


# -- arrays ---------------------------------------------------------------------------------------


@st.composite
def npy(draw: st.DrawFn) -> bytes:
    """A header with any type and shape, and some numbers."""
    kinds = ("<i8", "<i4", "|u1", "<f4", "<f8", "|b1", "<u8", "|O", "<U3", ">i2")
    kind = draw(st.sampled_from(kinds))
    sides = st.one_of(st.integers(0, 40), st.sampled_from((-1, MANY, 1 << 62, 1 << 64)))
    shape = tuple(draw(st.lists(sides, max_size=4)))
    usual = draw(st.sampled_from(((20, 4), (20, 4, 2), shape)))
    order = draw(st.booleans())
    header = repr({"descr": kind, "fortran_order": order, "shape": usual}).encode()
    size = draw(numbers(16, len(header), len(header)))
    body = draw(st.binary(max_size=16)) * draw(st.integers(0, 100))
    version = draw(st.sampled_from((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x07\x00")))
    length = struct.pack("<H", size) if version != b"\x02\x00" else struct.pack("<I", size)
    return b"\x93NUMPY" + version + length + header + body


def _arrays() -> st.SearchStrategy[bytes]:
    import numpy as np

    random = np.random.default_rng(0)
    frames, tokens = random.normal(size=(20, 4, 2)), random.integers(0, 5, (20, 4))
    files: list[bytes] = []
    for arrays in (
        {"x": frames},
        {"x": tokens},
        {"values": tokens.ravel(), "lengths": np.full(20, 4)},
        {"train": tokens, "dev": tokens, "test": tokens},
    ):
        for save in (np.savez, np.savez_compressed):
            out = io.BytesIO()
            save(out, **arrays)  # pyright: ignore[reportArgumentType]
            files.append(out.getvalue())
    for array in (frames, tokens.astype(np.int16), frames.astype(np.float32)):
        out = io.BytesIO()
        np.save(out, array)
        files.append(out.getvalue())
    return either(damaged(files), npy())


def _read_arrays(path: Path) -> object:
    from zpyro import datasets

    return datasets.load("npz", path)


# -- puzzles --------------------------------------------------------------------------------------


def _puzzles() -> st.SearchStrategy[bytes]:
    import zstandard

    rows = [
        "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes,GameUrl,OpeningTags",
        "a,4k3/8/8/3q4/8/2N5/8/4K3 b - - 0 1,e8e7 c3d5,1500,80,90,100,mate,https://x,",
        'b,"4k3/8/8/8/8/8/p7/1R2K3 w - - 0 1",e1e2 a2b1q,700,80,90,100,mate,https://x,',
        "c,4k3/1p6/8/8/8/8/8/R3K2R b KQ - 0 1,b7b6 e1g1,1500,80,90,100,mate,https://x,",
    ]
    plain = "\n".join([*rows, ""]).encode()
    packed = [gzip.compress(plain), bz2.compress(plain), lzma.compress(plain)]
    packed.append(zstandard.ZstdCompressor().compress(plain))
    headless = "\r\n".join(rows[1:]).encode()
    return damaged([plain, plain, headless, *packed])


def _read_puzzles(path: Path) -> object:
    from zpyro_examples.easy_to_hard import chess  # pyright: ignore[reportMissingImports]

    return chess.read_puzzles(path, skip_bad=True)


# -- checkpoints ----------------------------------------------------------------------------------


@st.composite
def safetensors(draw: st.DrawFn) -> bytes:
    """A header with any shape, type and place of two tensors, and their numbers."""
    entries: dict[str, Any] = {}
    for name, place in (("x", 0), ("y", 48)):
        shape = draw(st.sampled_from(([3, 2], [3, 2], [MANY, MANY], [-1], [], [1 << 62, 8], "3")))
        first = draw(st.sampled_from((place, place, place, 0, MANY, -1)))
        last = draw(st.sampled_from((place + 48, place + 48, place + 24, 1 << 62, 0)))
        kind = draw(st.sampled_from(("F64", "F64", "F64", "I64", "F32", "BOOL", "F999")))
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [first, last]}
    header = json.dumps(entries).encode()
    size = draw(st.sampled_from((len(header), len(header), len(header), 0, MANY, 1 << 63)))
    return struct.pack("<Q", size) + header + bytes(96)


def _tensors() -> st.SearchStrategy[bytes]:
    import torch
    from safetensors.torch import save

    valid = save({name: torch.ones(3, 2, dtype=torch.float64) for name in ("x", "y")})
    return either(safetensors(), damaged([valid]))


def _read_tensors(path: Path) -> object:
    import torch

    from zpyro.io import tensor_files

    expected = torch.empty(3, 2, dtype=torch.float64, device="meta")
    return tensor_files.rows(path, "x"), tensor_files.read(path, {"x": expected, "y": expected})


def _reference() -> st.SearchStrategy[bytes]:
    import torch

    from tests.core.test_reference import load, reference_state

    out = io.BytesIO()
    torch.save(reference_state("gaussian", load("gaussian")), out)
    return damaged([out.getvalue()])


def _read_reference(path: Path) -> object:
    from zpyro_cli.import_reference import _convert  # pyright: ignore[reportMissingImports]

    return _convert(path)


# -- run directories ------------------------------------------------------------------------------


@cache
def run_folder() -> Path:
    """A run with one checkpoint, in a temporary folder that the process leaves behind."""
    import torch

    import zpyro
    from zpyro.training import checkpoint, config, runs
    from zpyro.training.checkpoint import Checkpoint, DataSpec

    sizes: dict[str, Any] = {"hidden_size": 4, "latent_size": 2, "embedding_size": 3, "mlp_size": 3}
    assignments = [f"model.{name}={value}" for name, value in sizes.items()]
    entry = zpyro.datasets.entry("text")
    settled = config.resolve("text", entry.settings, assignments=assignments, data_folder="/x")
    torch.manual_seed(0)
    model = zpyro.ZForcing(zpyro.likelihoods.Gaussian(2), **sizes)
    run = runs.create(Path(tempfile.mkdtemp()) / "run", settled)
    spec = DataSpec("wav", "audio", 8000, 0.0, 1.0)
    checkpoint.save(run.best, Checkpoint(model, settled.model, spec))
    return run.folder


TABLES = ("model", "data", "likelihood")
ODD = (0, -1, 1, 2**31, 2**63, 1e308, float("inf"), "", "none", "x", True, None, [], {}, [1, "a"])
ODD_TOML = ("0", "-1", "9223372036854775807", "1e308", "nan", '""', '"none"', "true", "[]", "[1,2]")


@st.composite
def metadata(draw: st.DrawFn, valid: bytes) -> bytes:
    """meta.json with some entries of another type or size, its checksum made anew."""
    from zpyro.io import manifest

    content = json.loads(valid)
    tables = (content, *(content[name] for name in TABLES))
    for _ in range(draw(st.integers(0, 2))):
        table = draw(st.sampled_from(tables))
        key = draw(st.sampled_from(sorted(table)))
        if draw(st.booleans()):
            table[key] = draw(st.sampled_from(ODD))
        else:
            del table[key]
    return json.dumps(manifest.signed(content)).encode()


def _metadata() -> st.SearchStrategy[bytes]:
    valid = (run_folder() / "best" / "meta.json").read_bytes()
    return either(metadata(valid), damaged([valid]))


def _read_metadata(path: Path) -> object:
    from zpyro.training import checkpoint

    best = run_folder() / "best"
    shutil.copyfile(path, best / "meta.json")
    return checkpoint.load(best)


@st.composite
def configuration(draw: st.DrawFn) -> bytes:
    """config.toml with some settings of another type or size."""
    lines = (run_folder() / "config.toml").read_text().splitlines()
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(lines) - 1))
        name, equals, _ = lines[place].partition(" = ")
        lines[place] = f"{name}{equals}{draw(st.sampled_from(ODD_TOML)) if equals else ''}"
    return "\n".join(lines).encode()


def _configuration() -> st.SearchStrategy[bytes]:
    return either(configuration(), damaged([(run_folder() / "config.toml").read_bytes()]))


def _read_configuration(path: Path) -> object:
    from zpyro.training.runs import Run

    return Run(path.parent).config()


def _records() -> st.SearchStrategy[bytes]:
    record = {"file": "a.py", "sha256": "0" * 64, "name": "Guide"}
    nested = b"[" * 100_000
    return damaged([json.dumps(each).encode() for each in (record, [record, record])] + [nested])


def _read_records(path: Path) -> object:
    from zpyro.training import user_files

    return user_files.recorded(path.parent, path.name)


def _vocabulary() -> st.SearchStrategy[bytes]:
    words = ["<start>", "<end>", "<unknown>", "a", "é"]
    valid = json.dumps({"unit": "word", "lower_case": True, "words": words}, ensure_ascii=False)
    return either(damaged([valid.encode(), b"[" * 100_000]), st.just(valid.encode()))


def _read_vocabulary(path: Path) -> object:
    from zpyro.datasets import vocabulary

    return vocabulary.read(path)


@cache
def prepared_folder() -> Path:
    """A small prepared data set."""
    from zpyro.datasets.prepared import prepare
    from zpyro.datasets.text import Text, TextSettings

    folder = Path(tempfile.mkdtemp())
    (folder / "a.txt").write_text("".join(f"line {n % 7} of text\n" for n in range(60)))
    return prepare(Text(), folder / "a.txt", folder / "out", TextSettings()).folder


@st.composite
def index(draw: st.DrawFn, valid: bytes) -> bytes:
    """index.json with some entries of another type or size."""
    content = json.loads(valid)
    tables = (content, content["shards"][0], content["splits"]["train"])
    for _ in range(draw(st.integers(0, 2))):
        table = draw(st.sampled_from(tables))
        table[draw(st.sampled_from(sorted(table)))] = draw(st.sampled_from(ODD))
    return json.dumps(content).encode()


def _index() -> st.SearchStrategy[bytes]:
    valid = (prepared_folder() / "index.json").read_bytes()
    return either(index(valid), damaged([valid]))


def _read_index(path: Path) -> object:
    from zpyro.datasets.prepared import Store
    from zpyro.datasets.text import Text

    folder = prepared_folder()
    shutil.copyfile(path, folder / "index.json")
    data = Text().dataset(Store(folder))
    return [list(data.split(name).values) for name in ("train", "valid", "test")]


@st.composite
def cells(draw: st.DrawFn) -> bytes:
    """A table with any text in some cells, a row or a column too many, or another order."""
    rows = [["when", "place", "x", "y"]]
    for hour in range(6):
        for place in ("a", "b"):
            rows.append([f"2024-01-01 {hour:02}:00", place, str(hour), str(0.5 * hour)])
    odd = ("", "nan", "inf", "-1e400", "text", "2024-01-01 03:30", "2024-13-01", "1e31", '"', "\0")
    odd += ("2024-01-01T05:00+02:00", "9999-12-31", "0001-01-01", "9" * 400, "1,5", "a\nb", "é")
    for _ in range(draw(st.integers(0, 3))):
        row = draw(st.sampled_from(rows))
        row[draw(st.integers(0, len(row) - 1))] = draw(st.sampled_from(odd))
        if draw(st.integers(0, 3)) == 0:
            draw(st.sampled_from(rows)).append("7")
        if draw(st.integers(0, 3)) == 0:
            rows.append(draw(st.sampled_from(rows)))
    separator = draw(st.sampled_from((",",) * 9 + (";",)))
    lines = [separator.join(row) for row in rows]
    return draw(st.sampled_from(("\n", "\r\n", "\r"))).join(lines).encode()


def _csv() -> st.SearchStrategy[bytes]:
    valid = b"when,place,x,y\n" + b"".join(
        f"2024-01-01 {hour:02}:00,a,{hour},0.5\n".encode() for hour in range(9)
    )
    return either(cells(), damaged([valid, gzip.compress(valid)]))


def _parquet() -> st.SearchStrategy[bytes]:
    import pandas

    times = pandas.date_range("2024-01-01", periods=6, freq="h")
    frame = pandas.DataFrame({"when": times, "place": list("aaabbb"), "x": 1.0, "y": range(6)})
    out = io.BytesIO()
    frame.to_parquet(out, index=False)
    return either(damaged([out.getvalue()]), st.just(out.getvalue()), share=20)


def _read_table(path: Path) -> object:
    from zpyro.datasets.table_series import Columns, read_table

    return read_table(path, Columns("when", ("place",), ("x", "y"), calendar=("hour", "weekday")))


SETTINGS = ("data.", "model.", "objective.", "train.", "data set ")
TARGETS = {
    "idx": Target(_idx, _read_idx, "train-images-idx3-ubyte"),
    "matlab": Target(_matlab, _read_amat, "a.amat"),
    "midi": Target(_midi, _read_midi, "a.mid"),
    "cells": Target(_cells, _read_music, "a.mat"),
    "pieces": Target(_pieces, _read_music, "a.json"),
    "npz": Target(_arrays, _read_arrays, "a.npz"),
    "puzzles": Target(_puzzles, _read_puzzles, "p.csv"),
    "safetensors": Target(_tensors, _read_tensors, "model.safetensors"),
    "reference": Target(_reference, _read_reference, "model.pt"),
    "meta": Target(_metadata, _read_metadata, "meta.json", ("best/model.safetensors: ",)),
    "config": Target(_configuration, _read_configuration, "config.toml", SETTINGS),
    "records": Target(_records, _read_records, "plugins.json"),
    "csv": Target(_csv, _read_table, "a.csv"),
    "parquet": Target(_parquet, _read_table, "a.parquet"),
    "vocabulary": Target(_vocabulary, _read_vocabulary, "vocabulary.json"),
    "index": Target(_index, _read_index, "index.json", ("/out: ", "/out/")),
}
