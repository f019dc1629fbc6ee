"""``zpyro example mazes`` and ``chess`` from the command line, and mistakes that users make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zpyro_cli.main import main
from zpyro_examples.easy_to_hard import sweep

HEADER = "PuzzleId,FEN,Moves,Rating,RatingDeviation,Popularity,NbPlays,Themes,GameUrl,OpeningTags"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["example", *map(str, arguments)])


def puzzles(path: Path, count: int = 80, bad: int = 0) -> Path:
    """White takes a queen with a pawn, on boards that differ by black pawns."""
    lines = [HEADER]
    for number in range(count):
        pawns = "".join("p1"[number >> n & 1] for n in range(8))
        fen = f"4k3/{pawns}/8/3q4/4P3/8/8/4K3 b - - 0 1"
        lines.append(f"id{number},{fen},e8f8 e4d5,{1000 + 10 * number},80,90,100,x,https://x,")
    for _ in range(bad):
        lines.append("bad,8/8 w - - 0 1,e8f8 e4d5,900,80,90,100,x,https://x,")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_chess_from_training_to_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    data, folder = puzzles(tmp_path / "puzzles.csv"), tmp_path / "run"
    trained = run("chess", "train", "--data", data, "--out", folder, "--max-minutes", 0.02)
    assert trained.exit_code == 0, trained.output
    tested = run("chess", "test", folder, "--sizes", "harder,1600", "--json")
    assert tested.exit_code == 0, tested.output
    records = [json.loads(line) for line in tested.stdout.splitlines()]
    assert [(record["size"], record["count"]) for record in records] == [(0, 20), (1600, 20)]
    assert [record.get("name") for record in records] == ["harder", None]
    for record in records:
        assert record["players"]["greedy"] == 1.0
        assert 0.05 < record["players"]["any legal move"] < 0.25
    table = run("chess", "test", folder, "--sizes", "0")
    assert "greedy" in table.stdout
    assert "100.00%" in table.stdout
    shown = run("chess", "show", folder, "--out", tmp_path / "board.png")
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines()[0].count(" ") == 7
    assert (tmp_path / "board.png").stat().st_size > 1000


def test_chess_sizes_with_names(tmp_path: Path) -> None:
    """Held-out puzzles of the training's ratings in one row, and bands without puzzles in none."""
    data, folder = puzzles(tmp_path / "puzzles.csv"), tmp_path / "run"
    trained = run("chess", "train", "--data", data, "--out", folder, "--max-minutes", 0.02)
    assert "held-out problems: " in trained.output
    tested = run("chess", "test", folder, "--json")
    assert tested.exit_code == 0, tested.output
    records = [json.loads(line) for line in tested.stdout.splitlines()]
    # One of 60 easier puzzles is for testing; two choose the number of iterations.
    found = [(record.get("name", record["size"]), record["count"]) for record in records]
    assert found == [("held-out", 1), ("harder", 20), (1200, 1), (1600, 20)]
    notes = tested.stderr.splitlines()
    left_out = [line for line in notes if "left out, the data hold no such problems" in line]
    assert [line.split(":")[0].split()[-1] for line in left_out] == [
        *("800", "1800", "2000", "2200", "2400")
    ]
    table = run("chess", "test", folder, "--sizes", "held-out, 1200")
    assert [line for line in table.stdout.splitlines() if "held-out" in line]
    wrong = run("chess", "test", folder, "--sizes", "easy")
    assert wrong.exit_code == 2
    assert "write whole numbers, held-out or harder, as in held-out,harder,1600\n" in wrong.stderr
    nothing = run("chess", "test", folder, "--sizes", "800")
    assert nothing.exit_code == 2
    lacks = f"{data} has no test puzzle rated"
    choices = "choose a size between 1300 and 1790"
    for option, size in (("--sizes", 800), ("--sizes", -5), ("--sizes", 3400), ("--size", 3400)):
        command = "test" if option == "--sizes" else "show"
        nothing = run("chess", command, folder, option, size)
        assert nothing.exit_code == 2
        line = f"error: {option} {size}: {lacks} {size} to {size + 199}; {choices}\n"
        assert nothing.stderr == line


def test_bad_rows_are_an_error_or_skipped_and_counted(tmp_path: Path) -> None:
    data, folder = puzzles(tmp_path / "puzzles.csv", bad=3), tmp_path / "run"
    options = ("--data", data, "--out", folder, "--max-minutes", 0.01)
    refused = run("chess", "train", *options)
    assert refused.exit_code == 2
    loading, error = refused.stderr.splitlines()
    assert loading == "chess: loading problems"
    assert error.startswith("error: ")
    assert "puzzles.csv: row 82 FEN '8/8 w - - 0 1'" in refused.stderr
    assert not folder.exists()
    trained = run("chess", "train", *options, "--skip-bad")
    assert trained.exit_code == 0, trained.output
    assert "3 bad rows skipped, the first: row 82" in trained.stderr
    # The run remembers; a new file needs the word again.
    assert run("chess", "test", folder, "--sizes", "0").exit_code == 0
    assert run("chess", "test", folder, "--sizes", "0", "--data", data).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chess", "train", "--out", "x"), "chess needs --data FILE"),
        (("chess", "train", "--data", "missing.csv", "--out", "x"), "missing.csv"),
        (("mazes", "train", "--preset", "slow", "--out", "x"), "preset 'slow' is unknown"),
        (("mazes", "train", "--solver", "zforcing", "--out", "x"), "zforcing"),
        (("mazes", "train", "--data", "nowhere", "--out", "x"), "nowhere"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if "loading problems" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "x").exists()


def test_sizes_before_a_mistake_are_not_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--out", folder, "--max-minutes", 0.001, "--device", "cpu")
    trained = run("mazes", "train", *options)
    assert trained.exit_code == 0, trained.output
    resume = f"zpyro example mazes train --resume {folder}"
    assert f"go on with {resume} --max-minutes 0.002\n" in trained.stderr
    again = run("mazes", "train", "--resume", folder, "--max-minutes", 0.001, "--device", "cpu")
    assert "nothing is left to train" in again.stderr
    tested = run("mazes", "test", folder, "--sizes", "5,99999", "--count", 200)
    assert tested.exit_code == 2
    assert "error: size 99999: 200 problems of" in tested.stderr
    assert "note: size 5 has 150 problems for testing, fewer than --count 200\n" in tested.stderr
    assert "│      150 │" in tested.stdout


def test_mazes_from_training_to_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("PIL")
    folder = tmp_path / "run"
    options = ("--out", folder, "--max-minutes", 0.02, "--device", "cpu")
    trained = run("mazes", "train", *options)
    assert trained.exit_code == 0, trained.output
    assert "warning: this solver did not learn the task" in trained.stderr
    recorded = json.loads((folder / "settings.json").read_text())["preset"]["precision"]
    assert recorded == "float32"
    tested = run("mazes", "test", folder, "--sizes", "5,9", "--count", 20, "--json")
    assert tested.exit_code == 0, tested.output
    assert [json.loads(line)["count"] for line in tested.stdout.splitlines()] == [20, 20]
    stable = run(
        "mazes", "test", folder, "--sizes", "5,9", "--count", 20, "--until-stable", "--json"
    )
    assert stable.exit_code == 0, stable.output
    assert "of the first" not in stable.stderr
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "STABLE_CELLS", 15 * 11**2)
        parts = run(
            "mazes", "test", folder, "--sizes", "9", "--count", 20, "--until-stable", "--json"
        )
    last = json.loads(stable.stdout.splitlines()[-1])
    assert json.loads(parts.stdout)["accuracy"] == last["accuracy"]
    (told,) = re.findall(r"(\d+) of the first 15 are solved", parts.stderr)
    assert last["accuracy"] * 20 - 5 <= int(told) <= last["accuracy"] * 20
    for line in map(json.loads, stable.stdout.splitlines()):
        assert line["count"] == 20
        assert 1 <= line["stable_iterations"] <= line["iterations"]
        assert 0 <= line["unstable"] <= 20
        assert 0 <= line["differing_views"] <= 20
        assert 0 <= line["one_view_accuracy"] <= 1
    table = run("mazes", "test", folder, "--sizes", "5", "--until-stable")
    # None is at rest: the network is hardly trained.
    assert "unstable" in table.output
    assert "by one view" in table.output
    single = run("mazes", "test", folder, "--sizes", "5", "--until-stable", "--views", 1)
    assert "by one view" not in single.output
    for size, word in ((8, "even"), (1, "too small")):
        refused = run("mazes", "test", folder, "--sizes", size)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"error: --sizes {size}: maze size {size} is {word}")
    refused = run("mazes", "test", folder, "--sizes", "harder")
    assert refused.stderr == "error: --sizes 'harder': write whole numbers as in 9,13,33\n"
    shown = run("mazes", "show", folder, "--size", 13, "--out", tmp_path / "maze.gif")
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "maze.gif").stat().st_size > 1000
    assert run("mazes", "show", folder, "--out", tmp_path / "maze.txt").exit_code == 2
