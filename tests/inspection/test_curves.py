"""Curves of several runs: what they show, and what is said of runs that cannot be shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zpyro.errors import UserError
from zpyro.training import curves
from zpyro.training.curves import plot_curves
from zpyro_cli.main import main

pytestmark = pytest.mark.fast

RECORDS = [
    {"kind": "train", "step": 1, "bound": -9.0, "kl": 1.0, "learning_rate": 0.1},
    {"kind": "train", "step": 2, "bound": -8.0, "kl": None, "learning_rate": 0.1},
    {"kind": "valid", "step": 2, "elbo": -7.0, "kl": 3.0},
]


def write_run(folder: Path, records: list[dict[str, object]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('dataset = "vowels"\n')
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    return folder


def test_several_runs_in_one_picture(tmp_path: Path) -> None:
    later = [{**record, "step": record["step"] + 10} for record in RECORDS]
    folders = [write_run(tmp_path / "a", RECORDS), write_run(tmp_path / "b", later)]
    figure = plot_curves(folders, tmp_path / "deep" / "curves.svg", ("bound", "kl"))
    assert "<svg" in (tmp_path / "deep" / "curves.svg").read_text()
    bound, kl = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["training step"] * 2
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "bound, nats/sequence",
        "KL, nats/sequence",
    ]
    shown = [(line.get_label(), *map(list, line.get_data())) for line in bound.lines]
    assert shown == [
        ("a, training", [1, 2], [-9.0, -8.0]),
        ("a, held out", [2], [-7.0]),
        ("b, training", [11, 12], [-9.0, -8.0]),
        ("b, held out", [12], [-7.0]),
    ]
    assert [list(line.get_xdata()) for line in kl.lines] == [[1], [2], [11], [12]]
    entries = figure.legends[0].legend_handles
    assert [(each.get_label(), each.get_color()) for each in entries if each is not None][:2] == [  # pyright: ignore[reportAttributeAccessIssue]
        ("a", bound.lines[0].get_color()),
        ("b", bound.lines[2].get_color()),
    ]
    assert [each.get_text() for each in figure.legends[0].texts] == [
        "a", "b", "training", "held out",
    ]  # fmt: skip
    alone = curves.curves_figure({"a": RECORDS}, ("learning_rate",))
    assert [each.get_text() for each in alone.legends[0].texts] == ["training"]
    assert bound.lines[0].get_color() == bound.lines[1].get_color() != bound.lines[2].get_color()


def test_every_metric_names_its_unit_or_has_none() -> None:
    plain = {"active_units", "learning_rate", "skipped"}
    plain |= {"kl_weight", "auxiliary_weight", "reverse_weight", "smoothness_weight"}
    terms = ("bound", "kl", "log_likelihood", "loss", "log_auxiliary", "log_reverse", "smoothness")
    per_frame = [f"{name}_per_frame" for name in terms]
    for name in {*plain, *terms, *per_frame, *curves.LABELS}:
        unit = re.search(r", (nats|frames)/\w+$", curves.label(name))
        assert bool(unit) == (name not in plain)
        assert (unit is not None and unit[0] == ", nats/frame") == (name in per_frame)


def test_every_recorded_term_can_be_plotted(tmp_path: Path) -> None:
    terms = {"smoothness": -3.0, "smoothness_per_frame": -0.5, "smoothness_weight": 0.1}
    unused = {"log_reverse": 0.0, "reverse_weight": 0.0}
    records = [{**record, **terms, **unused, "kl_weight": 1.0} for record in RECORDS]
    assert curves.weighted_terms(records) == ["smoothness", "kl"]
    run = write_run(tmp_path / "run", records)
    figure = plot_curves([run], tmp_path / "a.png", tuple(terms))
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == [
        "smoothness, nats/sequence",
        "smoothness, nats/frame",
        "smoothness weight",
    ]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([-3.0, -3.0])


def test_runs_are_told_apart_by_as_little_as_needed() -> None:
    assert curves.short_names([Path("x/a"), Path("y/b")]) == ["a", "b"]
    assert curves.short_names([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]
    with pytest.raises(UserError, match=r"y/\.\./x/a: is given twice"):
        curves.short_names([Path("x/a"), Path("y/../x/a")])


def test_mistakes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", RECORDS)
    with pytest.raises(UserError, match="metric 'bond' is unknown; did you mean bound"):
        plot_curves([run], tmp_path / "a.png", ("bond",))
    with pytest.raises(UserError, match="metric 'zzz' is unknown; choose one of bound, kl"):
        plot_curves([run], tmp_path / "a.png", ("zzz",))
    with pytest.raises(
        UserError, match="no run recorded skipped; they have bound, kl, learning_rate"
    ):
        plot_curves([run], tmp_path / "a.png", ("skipped",))
    with pytest.raises(UserError, match=r"a\.doc: pictures end in one of .*png.*; rename it"):
        plot_curves([run], tmp_path / "a.doc", ("kl",))
    with pytest.raises(UserError, match="is not a run directory"):
        plot_curves([tmp_path], tmp_path / "a.png")
    empty = write_run(tmp_path / "empty", [])
    with pytest.raises(UserError, match=f"has no metrics yet; train on with .* --resume {empty}"):
        plot_curves([run, empty], tmp_path / "a.png")


def test_the_command(tmp_path: Path) -> None:
    run: Path = write_run(tmp_path / "run", RECORDS)

    def zpyro(*texts: object) -> Result:
        return CliRunner(catch_exceptions=False).invoke(main, [str(text) for text in texts])

    result = zpyro("plot", run, "--metric", "kl")
    assert (result.exit_code, result.stdout) == (0, f"picture in {run / 'curves.png'}\n")
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    result = zpyro("plot", run, "--metric", "zzz")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: metric 'zzz' is unknown")
    assert zpyro("plot").exit_code == 2
