"""Texts read straight from a tar archive; nothing is unpacked onto the disk."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path, PurePosixPath

from zpyro.errors import UserError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
LARGEST_MEMBER = 1 << 26
LARGEST_SUM = 1 << 30
"""Bytes of all texts of an archive; those of aclImdb have 133 MB."""

DAMAGED = (tarfile.TarError, EOFError, OSError, zlib.error)
"""What tarfile may raise on a damaged archive."""


def is_archive(path: Path) -> bool:
    """Whether a path is a file with an archive's name."""
    return path.name.lower().endswith(ENDINGS) and path.is_file()


def members(path: Path, ending: str) -> dict[str, bytes]:
    """The files of an archive whose names end so, by their paths in it; links are left out.

    Raises:
        UserError: if the archive is damaged, a file in it is too large, or the path of a member
            leads out of the archive, which no honest archive has.
    """
    found: dict[str, bytes] = {}
    held = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = _checked(path, member)
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None and name.endswith(ending):
                    held += member.size
                    if held > LARGEST_SUM:
                        raise UserError(
                            f"{path}: expands to more than {LARGEST_SUM >> 20} MiB of text; do not"
                            " use this file, download it again"
                        )
                    found[name] = stream.read()
    except DAMAGED as error:
        raise UserError(f"{path}: is a damaged archive ({error}); download it again") from error
    return found


def _checked(path: Path, member: tarfile.TarInfo) -> str:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise UserError(
            f"{path}: member {member.name!r} leads out of the archive; do not use this file,"
            " download it again"
        )
    if member.size > LARGEST_MEMBER:
        raise UserError(
            f"{path}: member {member.name!r} claims {member.size} bytes, more than a text has;"
            " do not use this file, download it again"
        )
    return name.as_posix()
