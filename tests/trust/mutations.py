"""Damage to files, by seed: bytes of any kind, and the inside of those with a structure."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zpyro.io import manifest

Mutation = Callable[[bytes, random.Random], bytes]

WRONG: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1 << 16,
        1 << 20,
        10**12,
        10**30,
        1e308,
        -2.5,
        "",
        "x",
        "../../outside",
        "none",
    ),
    *([], {}, [[]], ["x"], {"x": 1}, [1, 2, 3]),
)
HUGE = (1 << 31, (1 << 32) - 1, 1 << 40, (1 << 62) + 1)


def truncate(content: bytes, chance: random.Random) -> bytes:
    """Cut short anywhere."""
    return content[: chance.randrange(len(content))]


def empty(_content: bytes, _chance: random.Random) -> bytes:
    """Nothing left."""
    return b""


def flip_in_head(content: bytes, chance: random.Random) -> bytes:
    """One to four bits of the first 128 bytes flipped."""
    return _flipped(content, chance, min(len(content), 128))


def flip_anywhere(content: bytes, chance: random.Random) -> bytes:
    """One to four bits flipped."""
    return _flipped(content, chance, len(content))


def oversize(content: bytes, chance: random.Random) -> bytes:
    """Four or eight bytes among the first 128 or the last 96 as large as they can be."""
    place = chance.randrange(min(len(content), 128))
    if chance.random() < 0.3:
        place = max(0, len(content) - chance.randrange(8, 96))
    size = chance.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8))
    return content[:place] + size + content[place + len(size) :]


def garbage(content: bytes, chance: random.Random) -> bytes:
    """Random bytes, as many."""
    return chance.randbytes(len(content))


def doubled(content: bytes, _chance: random.Random) -> bytes:
    """The file twice."""
    return content + content


def other_type(_content: bytes, chance: random.Random) -> bytes:
    """A file of another type."""
    return chance.choice((PICTURE, b"hello, this is text\n" * 9, ARCHIVE, b"\0" * 999, PICKLED))


def wrong_json(content: bytes, chance: random.Random) -> bytes:
    """One value somewhere in JSON replaced, its key dropped, or nested without end."""
    if chance.random() < 0.1:
        return b"[" * 100_000
    try:
        tree = json.loads(content)
    except ValueError:
        return content
    _change(tree, chance)
    if isinstance(tree, dict) and manifest.CHECKSUM in tree and chance.random() < 0.8:
        # As one who means harm would: the sums are right.
        tree = manifest.signed(tree)
    return json.dumps(tree).encode()


def wrong_toml(content: bytes, chance: random.Random) -> bytes:
    """One value of TOML replaced."""
    lines = content.decode().splitlines()
    number = chance.choice([n for n, line in enumerate(lines) if " = " in line])
    key = lines[number].partition(" = ")[0]
    nested = "[" * 10_000
    wrong = ("-1", "1e400", "nan", '"x"', "[]", "1979-05-27", "{a = 1}", nested, "9" * 5000, "")
    lines[number] = f"{key} = {chance.choice(wrong)}"
    return "\n".join(lines).encode()


def wrong_safetensors(content: bytes, chance: random.Random) -> bytes:
    """The header of safetensors declares something else."""
    (size,) = struct.unpack_from("<Q", content)
    if chance.random() < 0.2:
        return struct.pack("<Q", chance.choice((*HUGE, 0, size - 1))) + content[8:]
    header = json.loads(content[8 : 8 + size])
    tensor = header[chance.choice([name for name in header if name != "__metadata__"])]
    choice = chance.randrange(4)
    if choice == 0:
        tensor["shape"] = [chance.choice(HUGE), *tensor["shape"]]
    elif choice == 1:
        tensor["data_offsets"] = [0, chance.choice(HUGE)]
    elif choice == 2:
        tensor["dtype"] = chance.choice(("F16", "BOOL", "X9", "I64"))
    else:
        header.pop(next(iter(header)))
        header["other"] = tensor
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def wrong_npy(content: bytes, chance: random.Random) -> bytes:
    """An .npy file whose header declares another shape or type; the data stay."""
    array = np.lib.format.read_array(io.BytesIO(content))
    header_size = len(content) - array.nbytes
    shape = chance.choice(((1 << 40,), (1 << 20, 1 << 20), (-1, 3), (0,), (99, 99), ("x",), (1.5,)))
    kind = chance.choice(("<f4", "<f8", "|O", "<U9", "|V3", "<c16", "x9", "<i8", "<M8[s]"))
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    head = content[:8] + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    return head + content[header_size:]


def wrong_npz(content: bytes, chance: random.Random) -> bytes:
    """An .npz file with one such member, or one that expands without measure."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        chosen = chance.choice(old.namelist())
        for name in old.namelist():
            data = old.read(name)
            if name == chosen and chance.random() < 0.2:
                bomb = data[:128].replace(b"'shape': (", b"'shape': (9") + bytes(1 << 26)
                new.writestr(name, bomb, zipfile.ZIP_DEFLATED)
            else:
                new.writestr(name, wrong_npy(data, chance) if name == chosen else data)
    return out.getvalue()


def wrong_state(content: bytes, chance: random.Random) -> bytes:
    """A saved dictionary with one entry replaced or dropped, or with code in it."""
    tree = torch.load(io.BytesIO(content), weights_only=True)
    if chance.random() < 0.2:
        tree["more"] = Evil()
    else:
        _change(tree, chance)
    out = io.BytesIO()
    torch.save(tree, out, _use_new_zipfile_serialization=chance.random() < 0.5)
    return out.getvalue()


class Evil:
    """Prints when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("unpickled",)


ARCHIVE = b"PK\x05\x06" + bytes(18)
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(200)
PICKLED = (
    b"\x80\x04\x8c\x08builtins\x94\x8c\x05print\x94\x93\x94\x8c\x09unpickled\x94\x85\x94R\x94."
)

OF_BYTES: tuple[Mutation, ...] = (
    *(truncate, truncate, flip_in_head, flip_in_head, flip_anywhere, oversize, oversize),
    *(garbage, doubled, other_type, other_type, empty),
)
OF_STRUCTURE: dict[str, Mutation] = {
    ".json": wrong_json,
    ".toml": wrong_toml,
    ".safetensors": wrong_safetensors,
    ".npy": wrong_npy,
    ".npz": wrong_npz,
    ".pt": wrong_state,
}


def mutate(path: Path, chance: random.Random) -> str:
    """Damage a file; gives the name of what was done to it."""
    inside = OF_STRUCTURE.get(path.suffix)
    by_structure = inside is not None and chance.random() < 0.6
    mutation = inside if by_structure and inside is not None else chance.choice(OF_BYTES)
    content = path.read_bytes()
    changed = mutation(content, chance)
    while changed == content:
        changed = mutation(content, chance)
    path.write_bytes(changed)
    return mutation.__name__.replace("_", " ")


def _flipped(content: bytes, chance: random.Random, up_to: int) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(up_to)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _change(tree: Any, chance: random.Random) -> None:
    """Replace or drop one value, at any depth."""
    while True:
        keys: list[Any] = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = chance.choice(keys)
        below = tree[key]
        if isinstance(below, dict | list) and below and chance.random() < 0.8:
            tree = below
            continue
        if chance.random() < 0.2:
            del tree[key]
        else:
            tree[key] = chance.choice(
                [wrong for wrong in WRONG if type(wrong) is not type(below) or wrong != below]
            )
        return
