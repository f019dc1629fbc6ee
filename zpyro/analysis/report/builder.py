"""A report on a run: pictures and sounds in a folder, and one page that shows them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zpyro.analysis.loading import load_run
from zpyro.analysis.report import page, sections
from zpyro.analysis.report.sections import Score
from zpyro.analysis.report.views import SequenceView, view_sequence
from zpyro.analysis.selection import select_sequences
from zpyro.errors import UserError
from zpyro.io import files
from zpyro.io.figures import require_matplotlib
from zpyro.io.paths import user_path
from zpyro.training import custom_guides
from zpyro.training.checkpoint import Checkpoint
from zpyro.training.custom_guides import GuideSource
from zpyro.version import __version__

PAGE = "report.html"
DEFAULT_COUNT = 3

OnStage = Callable[[str], object]
"""Receives a line about the next stage."""


@dataclass(frozen=True, eq=False)
class Report:
    """A report that was written.

    Attributes:
        folder: where the pictures and sounds are.
        page: the page, which holds copies of them.
        views: of each sequence.
        scores: the table of bounds; empty if they were not computed.

    Example:
        >>> report = write_report("runs/vowels", split="test", out="looks")
        >>> report.views[0].kl.sum()
    """

    folder: Path
    page: Path
    views: tuple[SequenceView, ...]
    scores: tuple[Score, ...]


def write_report(
    run: str | Path,
    *,
    split: str = "test",
    sequences: Sequence[str] = (),
    out: str | Path | None = None,
    data_folder: Path | None = None,
    which: str = "best",
    device: str = "auto",
    num_samples: int = 8,
    prior_samples: int = 4,
    particles: int = 10,
    scored: int = 256,
    seed: int = 0,
    guide: GuideSource | None = None,
    workers: int = 1,
    on_stage: OnStage | None = None,
) -> Report:
    """Write a page with figures of a trained run, its sequences, samples and bounds.

    Args:
        run: the run directory.
        split: "train", "valid", "test" or "all".
        sequences: names, or numbers from 0; by default the first three.
        out: where to write; by default ``inspect`` in the run directory.
        data_folder: where the data are now; by default where they were at training.
        which: the checkpoint, "best" or "last".
        device: "auto", or a device of torch such as "cpu" or "cuda:1".
        num_samples: latent paths sampled from the posterior of each sequence.
        prior_samples: sequences sampled from the prior.
        particles: of the importance-weighted and the particle-filter bound; 1 omits both.
        scored: the bounds are computed on this many sequences, the first ones; 0 omits them.
        seed: of all samples.
        guide: the custom guide of the run, see :func:`zpyro.training.custom_guides.load`.
        workers: see :func:`zpyro.datasets.load`.
        on_stage: receives progress.

    Raises:
        UserError: if matplotlib is missing, the run has no such checkpoint yet, its data are
            missing, its custom guide is not given, a sequence is not there, or the folder cannot
            be written.
    """
    require_matplotlib()
    report_stage = on_stage or (lambda _: None)
    loaded = load_run(run, which, device, guide)
    checkpoint = loaded.checkpoint
    record = custom_guides.recorded(loaded.run.folder)
    if record is not None and loaded.model.custom_guide is None:
        # The built-in guide is untrained in a run with a custom guide.
        raise UserError(
            f"{loaded.run.folder}: was trained with the custom guide {record.name} of "
            f'{record.file}; pass guide=custom_guides.load("FILE.py:NAME")'
        )
    report_stage("loading the data")
    found = loaded.split(split, data_folder, workers=workers)
    chosen = select_sequences(found, sequences, split, default_count=DEFAULT_COUNT)
    folder = user_path(out) if out is not None else loaded.run.folder / "inspect"
    with files.translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    report_stage("plotting training curves")
    parts = [sections.training_section(loaded.run, folder, latents=loaded.model.latent_size > 0)]
    views: list[SequenceView] = []
    shown: list[str] = []
    for place, number in enumerate(chosen, start=1):
        report_stage(f"plotting sequence {place} of {len(chosen)}")
        view = view_sequence(checkpoint, found, number, num_samples=num_samples, seed=seed)
        views.append(view)
        shown += sections.sequence_parts(view, folder)
    parts.append(sections.sequences_section(shown, split))
    report_stage("sampling from the prior")
    steps = views[0].steps
    parts.append(sections.samples_section(checkpoint, prior_samples, steps, folder, seed))
    scores: list[Score] = []
    if scored:
        report_stage("computing bounds")
        part = found[: min(scored, len(found))]
        scores = sections.compute_scores(loaded, part, particles=particles, seed=seed)
        parts.insert(0, sections.bounds_section(scores, split, len(part), len(found)))
    parts.append(sections.settings_section(loaded.run))
    text = page.page(
        f"{loaded.run.folder.resolve().name}: {checkpoint.config.name} on {checkpoint.data.name}",
        _lead(checkpoint, which),
        parts,
        f"Written by zpyro {__version__}. Everything shown is within this file.",
    )
    files.replace_file(folder / PAGE, text)
    return Report(folder, folder / PAGE, tuple(views), tuple(scores))


def _lead(checkpoint: Checkpoint, which: str) -> list[str]:
    model = checkpoint.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    latents = f"{model.latent_size} latents per step" if model.latent_size else "no latents"
    lines = [
        f"The {which} checkpoint, after {checkpoint.step:,} training steps: {latents}, "
        f"{model.hidden_size} hidden units, {parameters:,} parameters, "
        f"{model.likelihood.name} likelihood."
    ]
    if not model.latent_size:
        lines.append(
            "This model has no latents: it has no KL, no prior and no posterior, and its "
            "log-likelihood is exact. The page shows the surprise and the prediction of each step."
        )
    return [page.paragraph(line) for line in lines]
