"""Files are replaced as a whole; what is no file is written into."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from zpyro.errors import UserError, pluralize
from zpyro.io import replace_file

pytestmark = pytest.mark.fast

CONTENTS: dict[str, str | Callable[[Path], object]] = {
    "text": "new\n",
    "function": lambda place: place.write_text("new\n"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("before", ["missing", "file", "link", "link_of_a_link", "dangling_link"])
def test_files_and_links(tmp_path: Path, before: str, content: str) -> None:
    path, target = tmp_path / "out.csv", tmp_path / "elsewhere" / "kept.csv"
    target.parent.mkdir()
    if before == "file":
        path.write_text("old\n")
    elif before == "link_of_a_link":
        target.write_text("old\n")
        (tmp_path / "middle").symlink_to(target)
        path.symlink_to("middle")
    elif before != "missing":
        if before == "link":
            target.write_text("old\n")
        path.symlink_to(target)
    replace_file(path, CONTENTS[content])  # pyright: ignore[reportArgumentType]
    assert path.read_text() == "new\n"
    assert path.is_symlink() == ("link" in before)
    if "link" in before:
        assert target.read_text() == "new\n"
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.parametrize("content", CONTENTS)
def test_a_full_device_stays_a_device(content: str) -> None:
    path = Path("/dev/full")
    if not path.is_char_device():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(UserError, match=r"^/dev/full: cannot be written \(No space left"):
        replace_file(path, CONTENTS[content])  # pyright: ignore[reportArgumentType]
    assert stat.S_ISCHR(os.stat(path).st_mode)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_pipe_gets_the_content(tmp_path: Path, content: str) -> None:
    path, received = tmp_path / "pipe", list[str]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: received.append(path.read_text()))
    reader.start()
    replace_file(path, CONTENTS[content])  # pyright: ignore[reportArgumentType]
    reader.join()
    assert received == ["new\n"]
    assert path.is_fifo()


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: cannot be written"):
        replace_file(tmp_path / "folder", "new\n")


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "step", "0 steps"),
        (1, "step", "1 step"),
        (12, "step", "12 steps"),
        (1350, "wav file", "1,350 wav files"),
        (1, "series", "1 series"),
        (2, "series", "2 series"),
    ],
)
def test_numbers_with_their_nouns(number: int, noun: str, expected: str) -> None:
    assert pluralize(number, noun) == expected
