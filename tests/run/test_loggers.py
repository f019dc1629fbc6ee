"""Records reach TensorBoard, Weights & Biases and MLflow, also after a resumed training."""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.run.small import dataset, model, settings
from zpyro.errors import UserError
from zpyro.training import LOGGERS, TrackerLogger, TrainState, fit, runs
from zpyro.training.runs import Run

# What the trackers' own packages raise on import or leave open is not the subject here.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlflow").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def train_twice(folder: Path, name: str) -> Run:
    """Ten steps, and ten more after resuming, with a record every five."""
    pytest.importorskip(name)
    first = settings(max_steps=10, log_every=5, validate_every=10)
    run = runs.create(folder, first)
    for steps in (10, 20):
        config = settings(max_steps=steps, log_every=5, validate_every=10)
        resume = steps > 10
        if resume and name == "wandb":
            # It names the folder of each session by the second.
            time.sleep(1.0)
        module = run.load("last").model if resume else model()
        tracker = LOGGERS[name](run.folder, {"train.max_steps": steps})
        fit(module, dataset(), config, run=run, resume=resume, callbacks=[tracker])
    return run


def expected(run: Run, part: str, name: str) -> list[tuple[int, float]]:
    """Steps and values of a column in metrics.jsonl."""
    return [(each["step"], each[name]) for each in run.records() if each["kind"] == part]


@pytest.mark.parametrize(("part", "name"), [("train", "loss"), ("train", "kl"), ("valid", "elbo")])
def test_tensorboard(tmp_path: Path, part: str, name: str) -> None:
    run = train_twice(tmp_path / "run", "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    found = [(each.step, each.value) for each in events.Scalars(f"{part}/{name}")]
    wanted = expected(run, part, name)
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-5)
    assert len(wanted) == (4 if part == "train" else 2)
    assert "settings/text_summary" in events.Tags()["tensors"]


def test_mlflow_continues_one_run(tmp_path: Path) -> None:
    run = train_twice(tmp_path / "run", "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    (found,) = client.search_runs(["0"])
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.max_steps": "10"}
    for part, name in (("train", "loss"), ("valid", "elbo")):
        history = client.get_metric_history(found.info.run_id, f"{part}/{name}")
        assert [(each.step, each.value) for each in history] == expected(run, part, name)


def log_records(path: Path) -> list[bytes]:
    """The records of a wandb file: LevelDB's log format after a header of 7 bytes."""
    content = path.read_bytes()
    found, place = [b""], 7
    while place + 7 <= len(content):
        length, part = struct.unpack_from("<HB", content, place + 4)
        if part == 0:  # the rest of a block of 32 KiB is padding
            place += -place % 32768 or 32768
            continue
        found[-1] += content[place + 7 : place + 7 + length]
        place += 7 + length
        if part in (1, 4):  # whole, or the last part
            found.append(b"")
    return found[:-1]


def test_wandb_continues_one_run(tmp_path: Path) -> None:
    run = train_twice(tmp_path / "run", "wandb")
    from wandb.proto import wandb_internal_pb2

    files = sorted((run.folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.name for path in files}) == 1
    found: dict[str, list[tuple[int, float]]] = {"train/loss": [], "valid/elbo": []}
    for path in files:
        for data in log_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            row = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            for name in found.keys() & row.keys():
                found[name].append((int(row["step"]), float(row[name])))
    assert found["train/loss"] == expected(run, "train", "loss")
    assert found["valid/elbo"] == expected(run, "valid", "elbo")


class Failing(TrackerLogger):
    """Fails at the action it is given."""

    package = "json"

    def __init__(self, folder: Path, at: str) -> None:
        super().__init__(folder)
        self.at, self.steps = at, list[int]()

    def start(self, step: int) -> None:
        self.reach("start")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)
        self.reach("write")

    def close(self) -> None:
        self.reach("close")

    def reach(self, action: str) -> None:
        if self.at == action:
            raise ConnectionError("no server\nand more")


@pytest.mark.parametrize("at", ["write", "close"])
def test_a_tracker_that_fails_does_not_end_the_training(
    tmp_path: Path, at: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Failing(tmp_path, at)
    with caplog.at_level(logging.WARNING):
        outcome = fit(model(), dataset(), settings(max_steps=9, log_every=3), callbacks=[tracker])
    assert outcome.step == 9
    assert tracker.steps == ([3] if at == "write" else [3, 6, 9, 9])
    assert [each.getMessage() for each in caplog.records] == [
        "logger json: failed (no server); training continues without this logger"
    ]


def test_a_tracker_that_cannot_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^logger json: cannot start \(no server\); "):
        fit(model(), dataset(), settings(max_steps=9), callbacks=[Failing(tmp_path, "start")])


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    class Missing(Failing):
        package = "no_such_tracker"

    with pytest.raises(UserError, match=r'pip install "zpyro\[no_such_tracker\]"'):
        Missing(tmp_path, "")


def test_only_finite_numbers_are_written(tmp_path: Path) -> None:
    written: list[Mapping[str, float]] = []

    class Keeping(Failing):
        def write(self, step: int, values: Mapping[str, float]) -> None:
            written.append(values)

    tracker = Keeping(tmp_path, "")
    record: dict[str, Any] = {"step": 3, "kind": "train", "loss": None, "kl": float("nan")}
    tracker.on_train_record(record)
    assert written == []  # not started
    task: Any = None
    tracker.on_fit_start(task, TrainState())
    tracker.on_train_record({**record, "elbo": -2})
    assert written == [{"train/elbo": -2.0}]
