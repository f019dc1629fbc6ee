"""``meta.json``: the metadata of a checkpoint, with checksums of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zpyro.errors import UserError
from zpyro.io import files
from zpyro.version import __version__

META = "meta.json"
FORMAT = 2
"""The version that is written; all from 1 on are read, see :mod:`zpyro.training.conversion`."""
CHECKSUM = "checksum"

_LARGEST = 1 << 20
_ENTRIES = {
    *("format", "zpyro", "step", "epoch", "averaged", "metrics"),
    *("dtype", "model", "likelihood", "data", "sha256"),
}
"""The entries of a file without a checksum, from earlier versions."""


def signed(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The entries with a checksum over all of them."""
    entries = {name: value for name, value in meta.items() if name != CHECKSUM}
    text = json.dumps(entries, sort_keys=True)
    return {**entries, CHECKSUM: hashlib.sha256(text.encode()).hexdigest()}


def write(folder: Path, entries: Mapping[str, Any]) -> None:
    """Write the metadata of a checkpoint, with the checksum of every file in its folder.

    Args:
        folder: with all other files in place.
        entries: plain values; the format, the version and the checksums are added.
    """
    sums = {file.name: files.checksum(file) for file in sorted(folder.iterdir())}
    meta = {"format": FORMAT, "zpyro": __version__, **entries, "sha256": sums}
    text = json.dumps(signed(meta), indent=2, allow_nan=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The metadata of a checkpoint, in the format in which they were written.

    Raises:
        UserError: if the file is missing, corrupt, or of a newer format version.
    """
    path = folder / META
    meta = _parsed(path)
    if not _is_known(meta):
        raise UserError(
            f"{path}: has format version {meta.get('format')!r}, but zpyro {__version__} "
            f"reads 1 to {FORMAT}; use the zpyro that wrote it ({meta.get('zpyro')})"
        )
    if not _unaltered(meta):
        raise UserError(f"{path}: does not match its checksum, it is corrupt; choose another one")
    return meta


def check(path: Path, meta: Mapping[str, Any]) -> None:
    """Compare a file with its checksum; a file that is neither present nor listed passes.

    Raises:
        UserError: if they differ, or the file is missing.
    """
    wrong = _difference(path, meta)
    if wrong is not None:
        raise UserError(f"{path}: {wrong}; choose another checkpoint")


def damage(folder: Path) -> str | None:
    """A message that names the first damaged file, or None.

    Every file is compared with its checksum; none is loaded.
    """
    try:
        meta = _parsed(folder / META)
    except UserError as error:
        return str(error).partition("; ")[0]
    if CHECKSUM not in meta and not _is_known(meta):
        # Of a newer version: reading it raises the error.
        return None
    if not _unaltered(meta):
        return f"{folder / META}: does not match its checksum, it is corrupt"
    sums = meta.get("sha256")
    for name in sorted(sums) if isinstance(sums, dict) else ():
        path = folder / Path(name).name
        wrong = _difference(path, meta)
        if wrong is not None:
            return f"{path}: {wrong}"
    return None


def table(meta: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    """An entry that is a table.

    Raises:
        UserError: if it is missing or something else.
    """
    found = meta.get(name)
    if not isinstance(found, dict):
        raise UserError(
            f"{source}: entry {name!r} is missing or no table; choose another checkpoint"
        )
    return found


def count(meta: Mapping[str, Any], name: str, source: str) -> int:
    """An entry that is a count.

    Raises:
        UserError: if it is missing or something else.
    """
    value = meta.get(name)
    if type(value) is not int or value < 0:
        raise UserError(f"{source}: {name} is {value!r}, not a count; choose another checkpoint")
    return value


def _parsed(path: Path) -> dict[str, Any]:
    """The content of the file in any format; an empty table if it is not a table."""
    if not path.is_file():
        raise UserError(f"{path.parent}: is not a checkpoint ({META} is missing); choose another")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path}: is larger than a checkpoint's can be; choose another checkpoint")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); change its permissions"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is corrupt ({error}); choose another checkpoint") from error
    return meta if isinstance(meta, dict) else {}


def _is_known(meta: Mapping[str, Any]) -> bool:
    version = meta.get("format")
    return type(version) is int and 1 <= version <= FORMAT


def _unaltered(meta: Mapping[str, Any]) -> bool:
    """Whether the entries match their checksum."""
    return meta == signed(meta) if CHECKSUM in meta else meta.keys() <= _ENTRIES


def _difference(path: Path, meta: Mapping[str, Any]) -> str | None:
    sums = meta.get("sha256")
    declared = sums.get(path.name) if isinstance(sums, dict) else None
    if not path.is_file():
        return None if declared is None else "is missing"
    if files.checksum(path) != declared:
        return "does not match its checksum, it is corrupt"
    return None
