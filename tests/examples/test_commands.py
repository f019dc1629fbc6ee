"""``zpyro example prefix-sums`` on tiny sizes, and a line for each mistake."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from zpyro_cli.main import main
from zpyro_examples.easy_to_hard import prefix_sums
from zpyro_examples.easy_to_hard.tasks import Preset

TINY = Preset(
    width=8,
    iterations=4,
    progressive_weight=1.0,
    train_size=16,
    train_count=60,
    epochs=2,
    batch_size=20,
    valid_sizes=(16,),
    valid_count=10,
    test_sizes=(16, 24),
)


def run(*arguments: object) -> Result:
    runner = CliRunner(catch_exceptions=False)
    return runner.invoke(main, ["example", *(str(each) for each in arguments)])


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> object:
    patch = pytest.MonkeyPatch()
    patch.setitem(prefix_sums.PRESETS, "tiny", TINY)  # pyright: ignore[reportArgumentType]
    yield
    patch.undo()


def trained(folder: Path, *more: object) -> Path:
    result = run("prefix-sums", "train", "--preset", "tiny", "--out", folder, *more)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("runs") / "sums")


def test_train_leaves_a_run(sums: Path) -> None:
    records = [json.loads(line) for line in (sums / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "epoch" in record] == [1, 2]
    assert json.loads((sums / "settings.json").read_text())["seed"] == 0
    assert (sums / "last" / "model.safetensors").exists()


def test_a_log_is_told_how_it_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zpyro.training.callbacks.GrowingPace.due", lambda *_: True)
    result = run("prefix-sums", "train", "--preset", "tiny", "--out", tmp_path / "run")
    assert re.search(r"^step \d+  \d+%.*  loss \d", result.stderr, re.MULTILINE)
    result = run("prefix-sums", "test", tmp_path / "run", "--count", 10, "--json")
    assert "solving size 16: 10 of 10 problems" in result.stderr
    assert all(line.startswith("{") for line in result.stdout.splitlines())


def test_json_lines(sums: Path) -> None:
    result = run("prefix-sums", "test", sums, "--sizes", "20,24", "--count", 30, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["size"] for line in lines] == [20, 24]
    for line in lines:
        assert line["count"] == 30
        assert 0 <= line["accuracy"] <= 1
        assert line["iterations"] >= 1
    assert lines[1]["iterations"] >= lines[0]["iterations"]


def test_the_table_and_the_picture(sums: Path, tmp_path: Path) -> None:
    picture = tmp_path / "accuracy.png"
    result = run("prefix-sums", "test", sums, "--count", 10, "--picture", picture)
    assert result.exit_code == 0, result.output
    for shown in ("16", "24", "solved", "most confident"):
        assert shown in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_show_prints_the_answer_forming(sums: Path) -> None:
    lines = run("prefix-sums", "show", sums, "--size", 12, "--iterations", 3).stdout.splitlines()
    assert lines[0].split()[0] == "bits"
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    bits, sums_shown = lines[0].split()[1], lines[4].split()[1]
    assert [int(bit) for bit in sums_shown] == [
        bits[: i + 1].count("1") % 2 for i in range(len(bits))
    ]
    for line in lines[1:4]:
        answer = line.split()[1]
        wrong = sum(a != b for a, b in zip(answer, sums_shown, strict=True))
        assert line.endswith(f"{wrong} wrong" if wrong else "all right")


def test_latent_depth_reports_its_own_stop(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", "--depth", "latent")
    result = run("prefix-sums", "test", folder, "--sizes", "16", "--count", 10, "--json")
    line = json.loads(result.stdout)
    assert 0 <= line["stopped_accuracy"] <= 1
    assert line["stopped_iterations"] >= 1
    shown = run("prefix-sums", "show", folder, "--size", 12, "--iterations", 3).stdout.splitlines()
    assert re.fullmatch(
        r"stops after [123] iterations?, at a probability of \d+% to stop", shown[-1]
    )


def test_resuming_a_finished_run_trains_no_further(sums: Path) -> None:
    before = (sums / "last" / "model.safetensors").read_bytes()
    assert run("prefix-sums", "train", "--resume", sums).exit_code == 0
    assert (sums / "last" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("width", -1, "settings.json: width is -1, but the checkpoint was trained with"),
        ("iterations", 77, "settings.json: iterations is 77, but the checkpoint was trained with"),
        ("optimizer", "sgd", 'settings.json: optimizer is "sgd", but the checkpoint was trained'),
        ("seed", 9, "settings.json: seed is 9, but the checkpoint was trained with 0"),
        ("width", "wide", 'settings.json: width must be a whole number, but is "wide"'),
        ("milestones", 3, "settings.json: milestones must be a list of numbers, but is 3"),
        ("learning_rats", 0.1, "unknown setting learning_rats; did you mean learning_rate?"),
        ("learning_rate", 0.25, None),
    ],
)
def test_edited_settings_are_refused_by_name_or_used(
    sums: Path, tmp_path: Path, name: str, value: object, message: str | None
) -> None:
    folder = Path(shutil.copytree(sums, tmp_path / "run"))
    values = json.loads((folder / "settings.json").read_text())
    (values if name in values else values["preset"])[name] = value
    (folder / "settings.json").write_text(json.dumps(values))
    result = run("prefix-sums", "train", "--resume", folder)
    assert result.exit_code == (0 if message is None else 2), result.output
    if message is not None:
        assert message in result.stderr
        assert len(result.stderr.splitlines()) == 1


def test_a_file_that_runs_by_itself() -> None:
    script = Path(__file__).parents[2] / "examples" / "prefix_sums.py"
    shown = subprocess.run(
        [sys.executable, str(script), "train", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert "--preset" in shown.stdout


@pytest.mark.parametrize("command", ["train", "test", "show"])
@pytest.mark.parametrize("task", ["prefix-sums", "mazes", "chess"])
def test_help_has_an_example(task: str, command: str) -> None:
    result = run(task, command, "--help")
    assert result.exit_code == 0
    assert f"zpyro example {task} {command}" in result.output


def test_help_needs_no_torch() -> None:
    code = "import sys, zpyro_cli.example; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def mistake(*arguments: object) -> str:
    result = run("prefix-sums", *arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert errors == result.stderr.splitlines()[-1:]
    return errors[0]


def test_mistakes_in_training(tmp_path: Path, sums: Path) -> None:
    out = ("--out", tmp_path / "run")
    assert "preset 'hasty' is unknown; prefix-sums has quick, published" in mistake(
        "train", "--preset", "hasty", *out
    )
    assert "choose one of recall, recurrent" in mistake("train", "--solver", "oracle", *out)
    assert "choose one of fixed, latent" in mistake("train", "--depth", "deep", *out)
    assert "leave out --solver zforcing" in mistake(
        "train", "--depth", "latent", "--solver", "zforcing", *out
    )
    assert "Invalid value for '--seed'" in mistake("train", "--seed", -1, *out)
    assert "Invalid value for '--max-minutes'" in mistake("train", "--max-minutes", 0, *out)
    assert not (tmp_path / "run").exists()
    assert "is not empty; choose another --out" in mistake("train", "--out", sums)
    assert "is not a run directory" in mistake("train", "--resume", tmp_path)


def test_mistakes_in_testing(tmp_path: Path, sums: Path) -> None:
    assert "is not a run directory" in mistake("test", tmp_path)
    assert "write whole numbers as in 64,128,512" in mistake("test", sums, "--sizes", "64;128")
    for size in (-16, 0, 2):
        short = f"{size}: strings of that length are too short; choose 3 bits or more"
        assert mistake("test", sums, "--sizes", f"8,{size}") == f"error: --sizes {short}"
        if size > 0:
            assert mistake("show", sums, "--size", size) == f"error: --size {short}"
    assert "Invalid value for '--count'" in mistake("test", sums, "--count", 0)
    assert "Missing argument 'RUN'" in mistake("test")
    (tmp_path / "no").write_text("not a directory")
    wrong = ("test", sums, "--count", 5, "--picture", tmp_path / "no" / "where.png")
    assert "cannot be written" in mistake(*wrong)
    assert "No such command" in mistake("tset")


def test_a_run_of_another_task(sums: Path, tmp_path: Path) -> None:
    text = (sums / "settings.json").read_text()
    other = tmp_path / "other"
    other.mkdir()
    (other / "settings.json").write_text(text.replace('"prefix-sums"', '"mazes"'))
    command = "zpyro example mazes"
    told = f"error: {other}: is a run of {command}; use {command} test, show or train --resume"
    for given in (("test",), ("show",), ("train", "--resume")):
        assert mistake(*given, other) == told
    (other / "settings.json").write_text("{")
    assert "settings.json: is damaged" in mistake("test", other)
    (other / "settings.json").write_text(text)
    go_on = f"zpyro example prefix-sums train --resume {other}"
    assert f"has no checkpoint yet; train on with {go_on}" in mistake("test", other)


def test_runs_of_the_other_commands(sums: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("")
    for given in (("test",), ("show",), ("train", "--resume")):
        assert mistake(*given, tmp_path) == (
            f"error: {tmp_path}: is a run of zpyro train; use zpyro evaluate or "
            "zpyro train --resume"
        )
    for given in (("evaluate",), ("sample",), ("train", "--resume"), ("plot",)):
        result = CliRunner().invoke(main, [*given, str(sums)])
        assert result.exit_code == 2
        command = "zpyro example prefix-sums"
        told = f"{sums}: is a run of {command}; use {command} test, show or train --resume"
        assert result.stderr == f"error: {told}\n"
    (tmp_path / "config.toml").unlink()
    (tmp_path / "settings.json").write_text("[")
    result = CliRunner().invoke(main, ["evaluate", str(tmp_path)])
    assert "is a run of zpyro example TASK; use zpyro example TASK test" in result.stderr


def test_fewer_problems_than_asked_for_are_noted(sums: Path) -> None:
    result = run("prefix-sums", "test", sums, "--sizes", "8,20", "--count", 40, "--json")
    assert [json.loads(line)["count"] for line in result.stdout.splitlines()] == [32, 40]
    notes = [line for line in result.stderr.splitlines() if line.startswith("note: ")]
    assert notes == ["note: size 8 has 32 problems for testing, fewer than --count 40"]


def test_a_training_that_solves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(inputs: Tensor, *_: Tensor) -> Tensor:
        return torch.zeros(len(inputs), dtype=torch.bool)

    task = dataclasses.replace(prefix_sums.TASK, correct=wrong)
    monkeypatch.setattr(prefix_sums, "TASK", task)
    folder = tmp_path / "run"
    result = run("prefix-sums", "train", "--preset", "tiny", "--out", folder)
    lines = result.stderr.splitlines()
    assert "held-out bits 16: none solved in 24 iterations" in lines
    assert (
        "no held-out problem was solved; in tests a problem of the training's size gets the "
        "4 iterations of the training"
    ) in lines
    go_on = f"go on with zpyro example prefix-sums train --resume {folder} --epochs 3, or"
    assert [line for line in lines if line.startswith("warning: ") and go_on in line]
    tested = run("prefix-sums", "test", folder, "--count", 5, "--json")
    found = [json.loads(line) for line in tested.stdout.splitlines()]
    assert [(line["size"], line["iterations"]) for line in found] == [(16, 4), (24, 6)]
