"""What a report shows of one sequence."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zpyro.analysis import plots
from zpyro.analysis.report import figures, latent_figures, page
from zpyro.analysis.report.views import Array, SequenceView
from zpyro.datasets.formats import audio
from zpyro.io import files

DPI = 160


def sequence_parts(view: SequenceView, folder: Path) -> list[str]:
    """HTML of one sequence; its pictures and sounds are written to a folder.

    Raises:
        UserError: if matplotlib is missing or the folder cannot be written.
    """
    stem = f"{view.number}-{slug(view.name)}"
    parts = [page.heading(f"{view.name} (number {view.number})")]
    if view.whole_length > view.steps:
        parts.append(
            page.paragraph(
                f"It has {view.whole_length:,} {view.step_name}s; shown are the first "
                f"{view.steps:,}, taken as a sequence of their own.",
                note=True,
            )
        )
    if view.note:
        parts.append(page.paragraph(view.note, note=True))
    shown = [_input(view, folder, stem)]
    if view.data_type == "tokens":
        parts += _readings(view)
    else:
        shown.append(_reconstruction(view, folder, stem))
    if view.has_latents:
        shown += _latents(view, folder, stem)
    return [*parts, page.grid(shown)]


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:80] or "sequence"


def write_sound(waveform: Array, rate: int, path: Path) -> Path:
    """Write a wav file; returns its path.

    Raises:
        UserError: if it cannot be written.
    """
    with files.translate_os_errors(path):
        path.touch()
    audio.write_wav(path, waveform, rate)
    return path


def _input(view: SequenceView, folder: Path, stem: str) -> str:
    path = folder / f"{stem}-input.png"
    plots.save_figure(figures.input_figure(view), path, DPI)
    what = {"audio": "Waveform", "tokens": "Words"}.get(view.data_type, "Frames")
    what = "Picture" if view.image_shape is not None else what
    terms = "KL and surprise" if view.has_latents else "surprise"
    alternative = f"{what} of {view.name}, {view.steps} {view.step_name}s, with {terms} of each."
    caption = f"{what} with the surprise -log p(x_t | h_t) of every {view.step_name}"
    if view.has_latents:
        most = int(np.argmax(view.kl))
        alternative += f" The KL is highest, {view.kl[most]:,.2f} nats, at {_place(view, most)}."
        caption += ", and the KL of posterior from prior: where it is high, the latents speak"
    players: list[str] = []
    if view.sample_rate is not None:
        sound = write_sound(view.frames.reshape(-1), view.sample_rate, folder / f"{stem}-input.wav")
        players.append(page.player(sound, f"Input, {view.edges[-1]:.2f} s"))
    return page.figure(path, alternative, f"{caption}.", players)


def _reconstruction(view: SequenceView, folder: Path, stem: str) -> str:
    path = folder / f"{stem}-{view.answer_name}.png"
    plots.save_figure(figures.reconstruction_figure(view), path, DPI)
    players: list[str] = []
    if view.sample_rate is not None:
        for name, frames in view.answers:
            sound = folder / f"{stem}-{slug(name)}.wav"
            write_sound(frames.reshape(-1), view.sample_rate, sound)
            players.append(page.player(sound, name.capitalize()))
    error = float(np.sqrt(np.mean((view.frames - view.reconstruction) ** 2)))
    alternative = (
        f"{view.name} beside its {view.answer_name}; "
        f"the root mean squared difference is {error:.3g}."
    )
    return page.figure(path, alternative, _explained(view), players)


def _explained(view: SequenceView) -> str:
    """What the answers of the model are."""
    expected = "the most probable" if view.data_type == "tokens" else "the expected"
    if not view.has_latents:
        return f"Prediction: {expected} {view.step_name} given those before it."
    return (
        f"Reconstruction: {expected} {view.step_name} given latents drawn from the posterior and "
        f"the true {view.step_name}s before it. Latents alone: the same latents, the model fed its "
        f"own {view.step_name}s; more than what is usual is right there only where the latents "
        "hold it."
    )


def _latents(view: SequenceView, folder: Path, stem: str) -> list[str]:
    both = folder / f"{stem}-prior-posterior.png"
    plots.save_figure(latent_figures.prior_posterior_figure(view), both, DPI)
    every = folder / f"{stem}-latents.png"
    plots.save_figure(latent_figures.latents_figure(view), every, DPI)
    nats = view.kl_by_latent.sum(0)
    best = ", ".join(f"latent {i} with {nats[i]:,.2f}" for i in latent_figures.speaking(view))
    return [
        page.figure(
            both,
            f"Prior and posterior over time of the latents with the most KL in nats: {best}.",
            "Prior against posterior of the latents with the most KL: mean and one standard "
            "deviation along one draw, and other draws.",
        ),
        page.figure(
            every,
            f"Posterior means and KL of all {len(nats)} latents over time, sorted by KL; "
            f"{nats.sum():,.2f} nats in all.",
            "All latents over time, those with the most KL on top: posterior means, and KL.",
        ),
    ]


def _readings(view: SequenceView) -> list[str]:
    """Input and what the model makes of it to read, words that differ marked."""
    answers = [tokens for _, tokens in view.answers]
    if view.words is None:
        words, *read = ([str(int(token)) for token in part] for part in (view.frames, *answers))
    else:
        words = list(view.words)
        found = (view.reconstructed_words, view.words_from_latents)
        read = [list(part) for part in found if part is not None]
    joint = "" if view.unit == "character" else " "
    parts = [f"<p><strong>Input:</strong> {_marked(words, words, joint)}</p>"]
    for (name, _), answer in zip(view.answers, read, strict=True):
        right = sum(a == b for a, b in zip(words, answer, strict=True))
        title = f"{name.capitalize()} ({right} of {view.steps} right):"
        parts.append(f"<p><strong>{title}</strong> {_marked(answer, words, joint)}</p>")
    return [*parts, page.paragraph(f"{_explained(view)} Those that differ are marked.", note=True)]


def _marked(words: Sequence[str], others: Sequence[str], joint: str) -> str:
    shown = [
        html.escape(word) if word == other else f"<mark>{html.escape(word)}</mark>"
        for word, other in zip(words, others, strict=True)
    ]
    return joint.join(shown)


def _place(view: SequenceView, step: int) -> str:
    if view.sample_rate is not None:
        return f"{view.edges[step]:.2f} s"
    if view.words is not None:
        return f"{view.step_name} {step + 1}, {view.words[step]}"
    return f"{view.step_name} {step + 1}"
