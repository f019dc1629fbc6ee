"""Some damaged and generated files for every reader; the script beside runs as long as you like.

``python -m tests.trust.fuzz wav --minutes 10``
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from tests.trust import fuzz
from tests.trust.fuzz_inputs import Target
from zpyro.errors import UserError

INPUTS = 200


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fuzz.Reader]:
    reader = fuzz.Reader(tmp_path_factory.mktemp("fuzz"))
    yield reader
    reader.close()


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_every_input_is_read_or_refused_in_one_line(reader: fuzz.Reader, name: str) -> None:
    report = fuzz.Report()
    reader.run(name, 0, INPUTS, report)
    assert not [text for text, _ in report.findings]
    assert report.counts["refused"] > 0
    assert report.counts["accepted"] > 0
    assert report.counts["accepted"] + report.counts["refused"] == INPUTS


def _broken(path: Path) -> None:
    content = path.read_bytes()
    if content == b"crash":
        os._exit(3)
    if content == b"hang":
        time.sleep(1000)
    if content == b"memory":
        # Twice as much, as what was in use at the start may have been freed.
        np.zeros(2 * fuzz.ALLOWANCE, np.uint8)
    if content == b"warning":
        warnings.warn("odd", stacklevel=1)
    if content == b"key":
        raise KeyError("x")
    if content == b"lines":
        error = UserError(f"{path}: two lines")
        # Its constructor escapes line ends.
        error.args = (f"{path}: two\nlines",)
        raise error
    raise UserError("no file is named")


FINDINGS = {
    b"memory": "MemoryError",
    b"warning": "UserWarning: odd",
    b"key": "KeyError",
    b"lines": "not one line that names the file",
    b"name": "not one line that names the file",
    b"hang": "hang: no answer",
    b"crash": "crash: the process ended (3)",
}


def test_what_must_not_happen_is_found(tmp_path: Path) -> None:
    targets = {
        content.decode(): Target(partial(st.just, content), _broken, "a.bin")
        for content in FINDINGS
    }
    reader = fuzz.Reader(tmp_path, targets, limit=5.0)
    for content, expected in FINDINGS.items():
        report = fuzz.Report()
        reader.run(content.decode(), 0, 1, report)
        assert [found for _, found in report.findings] == [content]
        assert expected in report.findings[0][0]
    reader.close()
