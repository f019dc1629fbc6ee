"""The sections of a report; each writes its pictures and sounds to a folder.

The functions raise UserError if matplotlib is missing or the folder cannot be written.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zpyro import evaluation
from zpyro.analysis import plots
from zpyro.analysis.loading import LoadedRun
from zpyro.analysis.report import figures, page
from zpyro.analysis.report.page import Section
from zpyro.analysis.report.views import Array, SequenceView
from zpyro.analysis.sampling import sample
from zpyro.analysis.scores import LABELS, labels_for, score_baselines
from zpyro.analysis.sounds import compress, frames_per_second, has_sound, waveform_of, write_sound
from zpyro.datasets.sequences import Sequences
from zpyro.errors import pluralize
from zpyro.io import files
from zpyro.training import curves
from zpyro.training.checkpoint import Checkpoint, DataSpec
from zpyro.training.config import write_config
from zpyro.training.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160
SAMPLE_SECONDS = 3.0
SAMPLE_IMAGES = 16
SAMPLE_TOKENS = 60


def _player(path: Path, frames: Array, data: DataSpec, label: str) -> str:
    notes = list[str]()
    write_sound(path, data, frames, notes.append)
    # Recordings are judged by ear down to their noise; synthesized sound is smooth.
    content, mime = compress(path, lossless=data.sample_rate is not None)
    return page.player(content, mime, f"{label}, scaled to fit full scale" if notes else label)


def _seconds(frames: Array, data: DataSpec) -> float:
    return len(frames) / frames_per_second(data, frames.shape[1])


def _write(figure: Figure, path: Path) -> Path:
    plots.save_figure(figure, path, DPI)
    return path


# -- training -------------------------------------------------------------------------------------


def training_section(run: Run, folder: Path, *, latents: bool = True) -> Section:
    """The training curves of the bound, of each term of the objective, and of the gradient norm.

    Without latents, the bound is the log-likelihood and is shown once.
    """
    records = run.records()
    terms = [name for name in curves.weighted_terms(records) if name != "kl"]
    wanted = [*(("bound", "kl") if latents else ()), "log_likelihood", *terms, "gradient_norm"]
    parts: list[str] = []
    for name in dict.fromkeys(wanted):
        if not curves.is_recorded(records, name):
            continue
        path = folder / f"training-{name.replace('_', '-')}.png"
        _write(curves.curves_figure({run.folder.name: records}, (name,)), path)
        ends: list[str] = []
        for kind, title in (("train", "training"), ("valid", "held out")):
            steps, values = curves.points(records, kind, name)
            if steps:
                ends.append(
                    f"{title} goes from {values[0]:,.1f} at step {steps[0]:,} "
                    f"to {values[-1]:,.1f} at step {steps[-1]:,}"
                )
        label = curves.label(name)
        alternative = f"Curve of {label} over training steps: {'; '.join(ends)}."
        parts.append(page.figure(path, alternative, label.replace(", ", " in ", 1)))
    shown = page.grid(parts) if parts else page.paragraph("No metrics were recorded.")
    return Section("training", "Training", (shown,))


# -- bounds ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One row of the table of bounds.

    Attributes:
        label: the quantity.
        value: its number.
        unit: of the number.
        error: standard error over sequences, or None.
    """

    label: str
    value: float
    unit: str = "nats/sequence"
    error: float | None = None


def compute_scores(
    loaded: LoadedRun, sequences: Sequences, *, particles: int, batch_size: int = 64, seed: int = 0
) -> list[Score]:
    """Compute bounds of the model on some sequences, and the scores of simple models.

    Args:
        loaded: the run.
        sequences: on the scale of the model.
        particles: K of the importance-weighted and the particle-filter bound; 1 omits both. The
            particle filter is omitted for a custom guide.
        batch_size: sequences scored together.
        seed: of the samples.

    Raises:
        UserError: if a bound is not finite.
    """
    model = loaded.model
    options: dict[str, Any] = {"batch_size": batch_size, "seed": seed}
    result = evaluation.evaluate(model, sequences, **options)
    evaluation.check_finite(result)
    exact, tokens = model.latent_size == 0, sequences.data_type == "tokens"
    first = "log-likelihood, exact" if exact else LABELS["elbo"][0]
    table = [
        Score(first, result.elbo, error=result.elbo_stderr),
        Score("median", result.elbo_median),
        Score(
            LABELS["elbo_trimmed"][0].strip(), result.elbo_trimmed, error=result.elbo_trimmed_stderr
        ),
    ]
    if not exact and particles > 1:
        options["particles"] = particles
        iwae = evaluation.iwae(model, sequences, **options)
        label = f"{LABELS['iwae'][0]}, {particles} particles"
        table.append(Score(label, iwae.iwae, error=iwae.stderr))
        if model.custom_guide is None:
            smc = evaluation.smc(model, sequences, runs=1, **options)
            label = f"{LABELS['smc'][0]}, {particles} particles"
            table.append(Score(label, smc.smc, error=smc.stderr))
    if not exact:
        table += [
            Score("log-likelihood given latents", result.log_likelihood),
            Score(LABELS["kl"][0], result.kl),
            Score(LABELS["active_units"][0], result.active_units, f"of {model.latent_size}"),
        ]
    label, unit = "log-likelihood" if exact else "ELBO", "nats/token" if tokens else "nats/frame"
    table.append(Score(f"{label} per step", result.elbo_per_frame, unit))
    if result.bits_per_sample is not None:
        table.append(Score(LABELS["bits_per_sample"][0], result.bits_per_sample, "bits"))
    if tokens:
        table.append(Score("perplexity, ends included", result.perplexity, "a token"))
    for name, values in score_baselines(loaded.run, model.likelihood, sequences).items():
        error = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None
        label = labels_for(sequences)[f"baseline_{name}"][0]
        table.append(Score(label, float(values.mean()), error=error))
        nats = float(values.sum()) / sequences.num_frames
        table.append(Score("the same per step", nats, unit))
    return table


def bounds_section(table: Sequence[Score], split: str, count: int, total: int) -> Section:
    """The table of bounds on the first ``count`` of the ``total`` sequences of a split."""
    which = f"all {total:,}" if count == total else f"the first {count:,} of {total:,}"
    rows = [
        (
            f"{score.label}, {score.unit}",
            f"{score.value:,.0f}" if score.unit.startswith("of ") else f"{score.value:,.2f}",
            "" if score.error is None or math.isnan(score.error) else f"± {score.error:,.2f}",
        )
        for score in table
    ]
    caption = f"On {which} sequences of the {split} split; ± is the standard error over sequences."
    parts = [page.table(caption, ("quantity, unit", "value#", "error#"), rows)]
    if any(score.label == LABELS["active_units"][0] and score.value == 0 for score in table):
        parts.append(
            page.paragraph(
                "No latent is in use: the decoder ignores them. Longer training may change that; "
                "so may an auxiliary weight, a KL weight that starts low, free bits or word "
                "dropout."
            )
        )
    pure = "The weights of the training objective do not enter these bounds."
    return Section("bounds", "Bounds", (*parts, page.paragraph(pure, note=True)))


# -- sequences ------------------------------------------------------------------------------------


def sequences_section(parts: Sequence[str], split: str) -> Section:
    """The parts of all sequences, see :func:`sequence_parts`."""
    return Section("sequences", f"Sequences of the {split} split", tuple(parts))


def file_stem(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:80] or "sequence"


def sequence_parts(view: SequenceView, folder: Path) -> list[str]:
    """A sequence with its terms, its reconstruction and its latents, as HTML."""
    stem = f"{view.number}-{file_stem(view.name)}"
    parts = [page.heading(f"{view.name} (number {view.number})")]
    if view.whole_length > view.steps:
        cut = (
            f"It has {view.whole_length:,} {view.step_name}s; the first {view.steps:,} are shown, "
            "as a sequence of their own."
        )
        parts.append(page.paragraph(cut, note=True))
    if view.note:
        parts.append(page.paragraph(view.note, note=True))
    shown = [_input_figure(view, folder, stem)]
    if view.data_type == "tokens":
        parts += _texts(view)
    else:
        shown.append(_reconstruction_figure(view, folder, stem))
    if view.has_latents:
        shown += _latent_figures(view, folder, stem)
    return [*parts, page.grid(shown)]


def _input_figure(view: SequenceView, folder: Path, stem: str) -> str:
    path = _write(figures.plot_input(view), folder / f"{stem}-input.png")
    what = {"audio": "Waveform", "tokens": "Words"}.get(view.data_type, "Frames")
    what = "Image" if view.image_shape is not None else "Notes" if view.is_roll else what
    terms = "KL and surprise" if view.has_latents else "surprise"
    alternative = f"{what} of {view.name}, {view.steps} {view.step_name}s, with {terms} of each."
    caption = f"{what} with the surprise -log p(x_t | h_t) of every {view.step_name}"
    if view.has_latents:
        most = int(np.argmax(view.kl))
        place = f"{view.step_name} {most + 1}"
        if view.sample_rate is not None:
            place = f"{view.edges[most]:.2f} s"
        elif view.vocabulary is not None:
            place += f", {view.words(view.frames)[most]}"
        alternative += f" The KL is highest, {view.kl[most]:,.2f} nats, at {place}."
        caption += ", and the KL of posterior from prior: where it is high, the latents are used"
    players: list[str] = []
    if view.sound is not None:
        label = f"Input, {_seconds(view.frames, view.sound):.2f} s"
        players.append(_player(folder / f"{stem}-input.wav", view.frames, view.sound, label))
    return page.figure(path, alternative, f"{caption}.", players)


def _reconstruction_figure(view: SequenceView, folder: Path, stem: str) -> str:
    path = _write(figures.plot_reconstruction(view), folder / f"{stem}-{view.output_name}.png")
    players: list[str] = []
    if view.sound is not None:
        for name, frames in view.outputs:
            sound = folder / f"{stem}-{file_stem(name)}.wav"
            players.append(_player(sound, frames, view.sound, name.capitalize()))
    error = float(np.sqrt(np.mean((view.frames - view.reconstruction) ** 2)))
    alternative = (
        f"{view.name} beside its {view.output_name}; "
        f"the root mean squared difference is {error:.3g}."
    )
    return page.figure(path, alternative, _explanation(view), players)


def _explanation(view: SequenceView) -> str:
    """An explanation of the outputs of the model."""
    step = view.step_name
    value = f"the most probable {step}" if view.data_type == "tokens" else f"the mean {step}"
    if not view.has_latents:
        return f"Prediction: {value} given those before it."
    return (
        f"Reconstruction: {value} given latents sampled from the posterior and the true {step}s "
        f"before it. Latents alone: the same latents, the model fed its own {step}s; this is "
        "better than a typical sequence only where the latents carry information."
    )


def _latent_figures(view: SequenceView, folder: Path, stem: str) -> list[str]:
    nats = view.kl_by_latent.sum(0)
    top = figures.top_latents_by_kl(view)
    listed = ", ".join(f"latent {latent} with {nats[latent]:,.2f}" for latent in top)
    return [
        page.figure(
            _write(figures.plot_prior_posterior(view), folder / f"{stem}-prior-posterior.png"),
            f"Prior and posterior over time of the latents with the most KL in nats: {listed}.",
            "Prior and posterior of the latents with the most KL: mean and one standard deviation "
            "along one sample, and other samples.",
        ),
        page.figure(
            _write(figures.plot_latents(view), folder / f"{stem}-latents.png"),
            f"Posterior means and KL of all {len(nats)} latents over time, sorted by KL; "
            f"{nats.sum():,.2f} nats in all.",
            "All latents over time, those with the most KL on top: posterior means, and KL.",
        ),
    ]


def _texts(view: SequenceView) -> list[str]:
    """Input and outputs as text, with different words marked."""
    words = view.words(view.frames)
    joint = "" if view.unit == "character" else " "

    def marked(tokens: Sequence[str]) -> str:
        return joint.join(
            html.escape(token) if token == word else f"<mark>{html.escape(token)}</mark>"
            for token, word in zip(tokens, words, strict=True)
        )

    parts = [f"<p><strong>Input:</strong> {marked(words)}</p>"]
    for name, tokens in view.outputs:
        output = view.words(tokens)
        right = sum(a == b for a, b in zip(words, output, strict=True))
        title = f"{name.capitalize()} ({right} of {view.steps} right):"
        parts.append(f"<p><strong>{title}</strong> {marked(output)}</p>")
    note = f"{_explanation(view)} Different {view.step_name}s are marked."
    return [*parts, page.paragraph(note, note=True)]


# -- samples --------------------------------------------------------------------------------------


def samples_section(
    checkpoint: Checkpoint, count: int, steps: int, folder: Path, seed: int
) -> Section:
    """Sequences sampled from the prior.

    Args:
        checkpoint: the model.
        count: how many; of images always 16, which need little space.
        steps: their length, for data that are not images, recordings or text.
        folder: where to write.
        seed: of the samples.
    """
    data, size = checkpoint.data, checkpoint.model.likelihood.size
    if data.image_shape is not None:
        steps, count = data.image_shape[0] * data.image_shape[1] // size, SAMPLE_IMAGES
    elif data.sample_rate is not None:
        steps = max(1, round(SAMPLE_SECONDS * data.sample_rate / size))
    elif data.data_type == "tokens":
        steps = SAMPLE_TOKENS
    sampled, path = sample(checkpoint, count, steps, seed=seed), folder / "samples.png"
    if data.image_shape is not None:
        plots.plot_images(sampled.reshape(count, *data.image_shape), path)
        alternative = f"{pluralize(count, 'image')} sampled from the model."
        shown = page.grid([page.figure(path, alternative, "Sampled from the model.")])
    elif has_sound(data):
        shown = page.grid(_sample_sounds(sampled, data, folder))
    elif data.data_type == "tokens":
        vocabulary = checkpoint.vocabulary
        lines = [
            " ".join(map(str, tokens)) if vocabulary is None else vocabulary.text(tokens)
            for tokens in sampled.tolist()
        ]
        files.replace_file(folder / "samples.txt", "".join(f"{line}\n" for line in lines))
        shown = page.items(map(html.escape, lines))
    else:
        plots.plot_frames(list(sampled), path, data.data_type)
        alternative = (
            f"{pluralize(count, 'sequence')} of {pluralize(steps, 'frame')} sampled from the model."
        )
        shown = page.grid([page.figure(path, alternative, "Sampled from the model.")])
    title = f"Samples from the {'prior' if checkpoint.model.latent_size else 'model'}"
    return Section("samples", title, (shown,))


def _sample_sounds(sampled: Array, data: DataSpec, folder: Path) -> list[str]:
    parts: list[str] = []
    for number, frames in enumerate(sampled, start=1):
        seconds, path = _seconds(frames, data), folder / f"sample-{number}.png"
        if data.steps_per_quarter is not None:
            plots.plot_frames([frames], path, "roll", first=number)
            shown = "Notes"
        else:
            sound, rate = waveform_of(data, frames)
            _write(plots.plot_sounds([(f"sample {number}", sound)], rate, figures.WIDTH), path)
            shown = "Waveform and spectrogram"
        alternative = f"{shown} of sample {number}, {seconds:.2f} s."
        label = f"Sample {number}, {seconds:.2f} s"
        player = _player(folder / f"sample-{number}.wav", frames, data, label)
        parts.append(page.figure(path, alternative, f"Sample {number}.", [player]))
    return parts


# -- settings -------------------------------------------------------------------------------------


def settings_section(run: Run) -> Section:
    """Every setting of config.toml, one folded table per section."""
    name, tables = "run", dict[str, list[tuple[str, str]]]()
    for line in write_config(run.config()).splitlines():
        if line.startswith("["):
            name = line.strip("[]")
        elif line:
            key, _, value = line.partition(" = ")
            tables.setdefault(name, []).append((key, value))
    parts = [
        page.folded(name, page.table(f"Section {name} of config.toml", ("setting", "value"), rows))
        for name, rows in tables.items()
    ]
    return Section("settings", "Settings", tuple(parts))
