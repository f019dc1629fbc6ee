"""``zpyro inspect``: what it leaves for runs of every kind, and what it says to mistakes."""

from __future__ import annotations

import base64
import html
import re
import shutil
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from tests.cli.conftest import RATE, Zpyro, train, write_tones
from tests.cli.test_text_runs import write_lines
from tests.datasets.test_mnist import digits, write_text
from zpyro import evaluation
from zpyro.analysis import write_report
from zpyro.analysis.loading import load_split
from zpyro.analysis.report import sections
from zpyro.datasets import load
from zpyro.errors import UserError
from zpyro.training import runs

PER_SEQUENCE = {"input", "reconstruction", "prior-posterior", "latents"}
CURVES = {
    f"training-{name}"
    for name in ("bound", "kl", "log-likelihood", "log-auxiliary", "gradient-norm")
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is prepared on first use goes into a folder of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZPYRO_CACHE", str(folder))
        yield


def names_of(folder: Path, ending: str = ".png") -> set[str]:
    return {path.stem for path in folder.glob(f"*{ending}")}


def text_of(page: Path) -> str:
    """What the page says, without marks and contents of files."""
    body = page.read_text(encoding="utf-8").partition("<body>")[2]
    return html.unescape(re.sub(r"<[^>]+>", " ", body))


def test_sound(zpyro: Zpyro, tone_run: Path, tones: Path, tmp_path: Path) -> None:
    result = zpyro("inspect", tone_run, "--sequence", 1, "--out", tmp_path, "--particles", 3)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"13 pictures and report.html in {tmp_path}\n"
    assert "plotting sequence 1 of 1\n" in result.stderr
    data = load("wav", tones, frame_size=40)
    stem = sections.file_stem(data.test.names[1])
    assert names_of(tmp_path) == CURVES | {f"1-{stem}-{each}" for each in PER_SEQUENCE} | {
        f"sample-{number}" for number in range(1, 5)
    }
    played, rate = soundfile.read(tmp_path / f"1-{stem}-input.wav")
    raw = data.test.normalization.invert(data.test.values[1]).reshape(-1)
    np.testing.assert_allclose(played, raw, atol=1e-4)
    assert rate == RATE

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    sounds = re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)
    assert len(sounds) == 7
    first, _ = soundfile.read(BytesIO(base64.b64decode(sounds[0])))
    np.testing.assert_array_equal(first, played)
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]+" alt="[^"]+">', page)) == 13
    assert "http://" not in page
    assert "https://" not in page


def test_the_table_holds_the_bounds(array_run: Path, tmp_path: Path) -> None:
    report = write_report(array_run, out=tmp_path, scored=2, particles=4)
    run = runs.open_run(array_run)
    test = load_split(run, run.load(), "test")[:2]
    expected = evaluation.evaluate(run.load().model, test)
    tighter = evaluation.iwae(run.load().model, test, particles=4)
    found = {score.label: score.value for score in report.scores}
    assert found["evidence lower bound (ELBO)"] == pytest.approx(expected.elbo)
    assert found["importance-weighted bound, 4 particles"] == pytest.approx(tighter.iwae)
    filtered = evaluation.smc(run.load().model, test, particles=4, runs=1)
    assert found["particle-filter bound, 4 particles"] == pytest.approx(filtered.smc)
    assert found["KL of posterior from prior"] == pytest.approx(expected.kl)
    shown = text_of(report.page)
    assert f"{expected.elbo:,.2f}" in shown
    assert "On the first 2 of 4 sequences of the test split" in shown
    assert "hidden_size" in shown
    assert [view.number for view in report.views] == [0, 1, 2]


@pytest.mark.parametrize("used", [0, 1])
def test_latents_that_are_ignored_are_pointed_out(
    array_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: int
) -> None:
    table = [sections.Score("latents in use", used, "of 3")]
    monkeypatch.setattr("zpyro.analysis.report.sections.compute_scores", lambda *_, **__: table)
    report = write_report(array_run, out=tmp_path, sequences=("0",), prior_samples=1)
    assert ("No latent is in use" in text_of(report.page)) == (used == 0)


def test_text_is_read(zpyro: Zpyro, tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "notes.txt", 60)
    run = train(zpyro, "text", lines, tmp_path / "run")
    out = tmp_path / "run" / "inspect"
    result = zpyro("inspect", run, "--sequence", "0", "--scored", 0)
    assert result.exit_code == 0, result.output
    report = text_of(out / "report.html")
    words = write_report(run, sequences=("0",), scored=0, out=tmp_path / "again").views[0]
    assert words.vocabulary is not None
    assert " ".join(words.words(words.frames)) in re.sub(r"\s+", " ", report)
    assert "Bounds" not in report
    samples = (out / "samples.txt").read_text(encoding="utf-8").splitlines()
    assert len(samples) == 4
    assert all(line in report for line in samples)
    assert not any("reconstruction" in name for name in names_of(out))


@pytest.mark.parametrize("by_row", [True, False])
def test_digits(zpyro: Zpyro, tmp_path: Path, by_row: bool) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for seed, (name, count) in enumerate((("train", 40), ("valid", 6), ("test", 10))):
        write_text(data / f"binarized_mnist_{name}.amat", digits(count, seed))
    more = ("--preset=mnist-small", "--set=data.downsample=4", f"--set=data.row_by_row={by_row}")
    run = train(zpyro, "mnist", data, tmp_path / "run", *(each.lower() for each in more))
    result = zpyro("inspect", run, "--out", tmp_path / "out", "--sequence=9", "--particles=2")
    assert result.exit_code == 0, result.output
    assert {name.partition("-")[0] for name in names_of(tmp_path / "out")} == {
        "9", "training", "samples",
    }  # fmt: skip
    assert imread(tmp_path / "out" / "samples.png").shape[0] == 4 * (4 * 8 + 1)
    step = "row" if by_row else "pixel"
    assert f"of every {step}, and the KL" in text_of(tmp_path / "out" / "report.html")


def test_a_model_without_latents(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    run = train(zpyro, "npz", arrays, tmp_path / "run", "--set=model.name=rnn")
    result = zpyro("inspect", run, "--sequence=0")
    assert result.exit_code == 0, result.output
    shown = text_of(run / "inspect" / "report.html")
    assert "This model has no latents" in shown
    assert "log-likelihood, exact" in shown
    assert "Samples from the model" in shown
    endings = {name.rpartition("-")[2] for name in names_of(run / "inspect")}
    assert endings == {"input", "prediction", "likelihood", "norm", "samples"}


def test_tokens_without_words(zpyro: Zpyro, token_run: Path, tmp_path: Path) -> None:
    result = zpyro("inspect", token_run, "--out", tmp_path, "--scored", 1, "--sequence=0")
    assert result.exit_code == 0, result.output
    assert "perplexity" in text_of(tmp_path / "report.html")


def test_names_choose_and_cannot_break_the_page(zpyro: Zpyro, tmp_path: Path) -> None:
    data = write_tones(tmp_path / "data", 20)
    for path in data.iterdir():
        path.rename(path.with_name(f"<b>&'{path.name}"))
    run = train(zpyro, "wav", data, tmp_path / "run", "--set=data.frame_size=40")
    name = load("wav", data, frame_size=40).test.names[1]
    assert "<b>" in name
    result = zpyro("inspect", run, "--sequence", name, "--scored=0")
    assert result.exit_code == 0, result.output
    page = (run / "inspect" / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    assert f"<h3>{html.escape(name)} (number 1)</h3>" in page


def test_mistakes(zpyro: Zpyro, array_run: Path, tmp_path: Path) -> None:
    names = list(load("npz", Path(runs.open_run(array_run).config().data_folder or "")).test.names)

    def error(*arguments: object) -> str:
        result = zpyro("inspect", *arguments, "--out", tmp_path / "out")
        assert (result.exit_code, result.stdout) == (2, "")
        return result.stderr.splitlines()[-1]

    assert error(array_run, "--sequence", 4) == (
        f"error: sequence 4 is out of range: the test split has 4; give a number from 0 to 3, "
        f"or a name such as {names[0]}"
    )
    assert "sequence -1 is out of range: the test split has 4" in error(array_run, "--sequence=-1")
    near = error(array_run, "--sequence", f"{names[2]}x")
    assert "is not in the test split; name one, such as " in near
    assert near.partition("such as ")[2].split(", ")[0] == names[2]
    assert "name one, such as" in error(array_run, "--sequence", "~")
    assert "is not a run directory" in error(tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_checkpoint(zpyro: Zpyro, array_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(array_run, run)
    shutil.rmtree(run / "best")
    result = zpyro("inspect", run)
    assert result.exit_code == 2
    assert "has no best checkpoint yet; train on with" in result.stderr
    assert "or pass --checkpoint last" in result.stderr
    assert zpyro("inspect", run, "--checkpoint=last", "--scored=0", "--sequence=0").exit_code == 0
    shutil.rmtree(run / "last")
    result = zpyro("inspect", run)
    assert f"or see its curves with zpyro plot {run}" in result.stderr
    (run / "metrics.jsonl").unlink()
    result = zpyro("inspect", run)
    assert result.exit_code == 2
    assert f"train on with zpyro train --resume {run}" in result.stderr


def test_data_that_changed(zpyro: Zpyro, arrays: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    shutil.copy(arrays, data)
    run = train(zpyro, "npz", data, tmp_path / "run")
    np.savez(data, x=np.random.default_rng(0).normal(size=(40, 6, 3)))
    result = zpyro("inspect", run)
    assert result.exit_code == 2
    assert "the data are frames of 3 numbers a frame, the run was trained on" in result.stderr
    data.unlink()
    assert zpyro("inspect", run).exit_code == 2
    there = zpyro("inspect", run, "--data", arrays, "--scored=0", "--sequence=0")
    assert there.exit_code == 0, there.output


def test_without_matplotlib_the_line_to_install_it(
    zpyro: Zpyro, array_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for command in ("inspect", "plot"):
        result = zpyro(command, array_run, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert 'pip install "zpyro[plots]"' in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(array_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="file: cannot be written"):
        write_report(array_run, out=tmp_path / "file")


@pytest.mark.parametrize("command", ["inspect", "plot"])
def test_help_has_an_example(zpyro: Zpyro, command: str) -> None:
    assert (
        f"zpyro {command} runs/vowels" in zpyro(command, "--help").output.partition("Example:")[2]
    )


def test_the_python_of_the_page_runs(
    tone_run: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del tones
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    for name in ("vowels", "vowels-plain"):
        shutil.copytree(tone_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zpyro.analysis.report.builder.select_sequences", lambda *_, **__: [0])
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(block, "inspect.md", "exec"), {})
    assert (tmp_path / "looks" / "report.html").exists()
    assert (tmp_path / "curves.png").exists()
