"""A few malformed files of every kind; the script beside has the full number.

``python -m tests.trust.malformed --inputs 200 --processes 20``
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.trust.malformed import Harness, Outcome, refusals
from tests.trust.valid_files import KINDS


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    cache = os.environ.get("ZPYRO_CACHE")
    yield Harness(tmp_path_factory.mktemp("malformed"))
    if cache is None:
        del os.environ["ZPYRO_CACHE"]
    else:
        os.environ["ZPYRO_CACHE"] = cache


def test_every_malformed_file_is_one_line_of_error(harness: Harness) -> None:
    found, _ = refusals(harness, 2 * len(KINDS), seed=123)
    problems = {each.what: (each.defects, each.trace or each.stderr) for each in found}
    assert not {what: problem for what, problem in problems.items() if problem[0]}


def test_a_process_of_its_own_does_the_same(harness: Harness) -> None:
    kind = next(kind for kind in KINDS if kind.name == "JSON of a checkpoint")
    seed = next(seed for seed in range(100) if not harness.run(kind, seed).valid)
    outcome = harness.process(kind, seed)
    assert not outcome.valid
    assert not outcome.defects, outcome.stderr


def test_the_oracle_sees_what_is_wrong() -> None:
    right = Outcome("", 2, "loading\nerror: /x/file.wav: is empty\n", names=("file.wav",))
    assert not right.defects
    wrong = {
        "exit code 1": Outcome("", 1, right.stderr, names=right.names),
        "not one line of error at the end": Outcome("", 2, "error: a\nerror: b\n"),
        "the error names no file": Outcome("", 2, right.stderr, names=("file.mp3",)),
        "traceback": Outcome("", 2, right.stderr, trace="Traceback", names=right.names),
        "something unpickled": Outcome("", 0, "unpickled\n"),
        "11 s": Outcome("", 0, "", seconds=11.0),
        "3072 MiB": Outcome("", 0, "", grown=3 << 30),
        "written outside: ['open /x']": Outcome("", 0, "", written=["open /x"]),
        "a warning": Outcome(
            "", 2, f"x.py:3: RuntimeWarning: y\n{right.stderr}", names=right.names
        ),
    }
    for expected, outcome in wrong.items():
        assert outcome.defects == [expected]
