"""Pictures of a run in a folder, and one page that shows them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zpyro.analysis import plots
from zpyro.analysis import selection as choosing
from zpyro.analysis.report import page, samples, training
from zpyro.analysis.report.page import Section
from zpyro.analysis.report.scores import IN_USE, Score, scores
from zpyro.analysis.report.sequence_parts import sequence_parts
from zpyro.analysis.report.views import SequenceView, view
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.training import custom_guides as custom_guides
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.config import write_config
from zpyro.training.runs import Run, open_run
from zpyro.version import __version__

PAGE = "report.html"
DEFAULT_COUNT = 3

IGNORED = (
    "No latent is in use: the decoder does without them. Training on may change that; so may an "
    "auxiliary weight, a KL weight that starts low, free bits or word dropout."
)

OnStage = Callable[[str], None]
"""Told what is being done now."""


@dataclass(frozen=True, eq=False)
class Report:
    """What was written, and what it shows.

    Attributes:
        folder: where the pictures and sounds are.
        page: the page, which needs none of them.
        views: what there is to see of each sequence.
        scores: the table of bounds; empty where none was asked for.
    """

    folder: Path
    page: Path
    views: tuple[SequenceView, ...]
    scores: tuple[Score, ...]


def inspect(
    folder: Path,
    *,
    split: str = "test",
    sequences: Sequence[str] = (),
    out: Path | None = None,
    data_folder: Path | None = None,
    which: str = "best",
    device: str = "cpu",
    draws: int = 8,
    num_samples: int = 4,
    particles: int = 10,
    scored: int = 256,
    seed: int = 0,
    on_stage: OnStage | None = None,
) -> Report:
    """Draw what a run has learned, and write a page that shows it.

    Args:
        folder: the run directory.
        split: whose sequences: "train", "valid", "test" or "all".
        sequences: names, or numbers from 0; by default the first three.
        out: where to write; by default ``inspect`` in the run directory.
        data_folder: where the data are now; by default where they were at training.
        which: the checkpoint, "best" or "last".
        device: where to compute.
        draws: paths of latents drawn from the posterior of each sequence.
        num_samples: sequences drawn from the prior.
        particles: of the importance-weighted and the particle-filter bound; 1 leaves them out.
        scored: the bounds are those of this many sequences, the first ones; 0 leaves them out.
        seed: of every draw.
        on_stage: told about progress.

    Raises:
        UserError: if matplotlib is missing, the run has no such checkpoint yet, its data are gone,
            its guide is the user's own and not in use, a sequence is not there, or the folder
            cannot be written.
    """
    plots.require_matplotlib()
    tell = on_stage or _silent
    run = open_run(folder)
    checkpoint = _load(run, which, device)
    _check_guide(run, checkpoint)
    tell("loading the data")
    found = choosing.load_split(run, checkpoint, split, data_folder)
    chosen = choosing.choose(found, sequences, split, first=DEFAULT_COUNT)
    target = out or folder / "inspect"
    with files.translate_os_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    tell("drawing sequences")
    views = tuple(view(checkpoint, found, place, draws=draws, seed=seed) for place in chosen)
    sections = [training.section(run, target, latents=checkpoint.module.latent_size > 0)]
    sections.append(_sequences(views, target, split))
    tell("sampling from the prior")
    sections.append(samples.section(checkpoint, num_samples, views[0].steps, target, seed))
    table: list[Score] = []
    if scored:
        tell("computing bounds")
        part = found[: min(scored, len(found))]
        table = scores(run, checkpoint, part, particles=particles, seed=seed)
        sections.insert(0, _bounds(table, split, len(part), len(found)))
    sections.append(_settings(run))
    text = page.page(
        f"{run.folder.resolve().name}: {checkpoint.model.name} on {checkpoint.data.name}",
        _lead(checkpoint, which),
        sections,
        f"Written by zpyro {__version__}. Everything shown is within this file.",
    )
    files.replace_file(target / PAGE, text)
    return Report(target, target / PAGE, views, tuple(table))


def _silent(stage: str) -> None:
    del stage


def _load(run: Run, which: str, device: str) -> Checkpoint:
    other = "last" if which == "best" else "best"
    if not run.has(which):
        if run.has(other):
            raise UserError(
                f"{run.folder}: has no {which} checkpoint yet; say --checkpoint {other}, "
                "which is there"
            )
        if run.records():
            raise UserError(
                f"{run.folder}: has no checkpoint yet; zpyro plot {run.folder} shows its curves "
                f"so far, zpyro train --resume {run.folder} trains on"
            )
    return run.load(which, device)


def _check_guide(run: Run, checkpoint: Checkpoint) -> None:
    """The model's own guide was never trained where the user's was: it would show noise."""
    record = custom_guides.recorded(run.folder)
    if record is not None and checkpoint.module.custom_guide is None:
        raise UserError(
            f"{run.folder}: was trained with a guide of its own, {record.name} of {record.file}; "
            "inspect it within custom_guides.using(custom_guides.load(FILE:NAME))"
        )


def _lead(checkpoint: Checkpoint, which: str) -> list[str]:
    module = checkpoint.module
    parameters = sum(parameter.numel() for parameter in module.parameters())
    latents = f"{module.latent_size} latents a step" if module.latent_size else "no latents"
    lines = [
        f"The {which} checkpoint, after {checkpoint.step:,} training steps: {latents}, "
        f"{module.hidden_size} hidden units, {parameters:,} parameters, "
        f"{module.likelihood.name} likelihood."
    ]
    if not module.latent_size:
        lines.append(
            "This model has no latents: there is no KL, no prior and no posterior to show, and its "
            "log-likelihood is exact. What there is: the surprise of every step, and what the "
            "model expected there."
        )
    return [page.paragraph(line) for line in lines]


def _bounds(table: Sequence[Score], split: str, count: int, whole: int) -> Section:
    which = f"all {whole:,}" if count == whole else f"the first {count:,} of {whole:,}"
    rows = [
        (
            f"{score.label}, {score.unit}",
            f"{score.value:,.0f}" if score.unit.startswith("of ") else f"{score.value:,.2f}",
            "" if score.error is None else f"± {score.error:,.2f}",
        )
        for score in table
    ]
    caption = f"On {which} sequences of the {split} split; ± is the standard error over sequences."
    header = ("quantity, unit", "value#", "error#")
    parts = [page.table(caption, header, rows)]
    if any(score.label == IN_USE and score.value == 0 for score in table):
        parts.append(page.paragraph(IGNORED))
    pure = "No weight of the training objective enters: these are pure bounds."
    return Section("bounds", "Bounds", (*parts, page.paragraph(pure, note=True)))


def _sequences(views: Sequence[SequenceView], folder: Path, split: str) -> Section:
    parts = [part for each in views for part in sequence_parts(each, folder)]
    return Section("sequences", f"Sequences of the {split} split", tuple(parts))


def _settings(run: Run) -> Section:
    """Every setting of config.toml, one folded table a section."""
    plain: list[tuple[str, str]] = []
    tables: dict[str, list[tuple[str, str]]] = {"run": plain}
    current = plain
    for line in write_config(run.config()).splitlines():
        if line.startswith("["):
            current = tables.setdefault(line.strip("[]"), [])
        elif line:
            name, _, value = line.partition(" = ")
            current.append((name, value))
    parts = [
        page.folded(name, page.table(f"Section {name} of config.toml", ("setting", "value"), rows))
        for name, rows in tables.items()
        if rows
    ]
    return Section("settings", "Settings", tuple(parts))
