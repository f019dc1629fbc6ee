"""What a report shows of one sequence."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from zpyro import drawing, files
from zpyro.datasets import audio
from zpyro.inspection import figures, latent_figures, page
from zpyro.inspection.views import Array, SequenceView

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
    shown = [_input(view, folder, stem)]
    if view.kind == "tokens":
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
    with files.saying(path):
        path.touch()
    audio.write_wav(path, waveform, rate)
    return path


def _input(view: SequenceView, folder: Path, stem: str) -> str:
    path = folder / f"{stem}-input.png"
    drawing.save(figures.input_figure(view), path, DPI)
    what = {"audio": "Waveform", "tokens": "Words"}.get(view.kind, "Frames")
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
    drawing.save(figures.reconstruction_figure(view), path, DPI)
    given = "latents drawn from the posterior and the frames before"
    given = given if view.has_latents else "the frames before"
    caption = f"Input, and its {view.answer_name}: what is expected of every step given {given}."
    players: list[str] = []
    if view.sample_rate is not None:
        sound = write_sound(
            view.reconstruction.reshape(-1),
            view.sample_rate,
            folder / f"{stem}-{view.answer_name}.wav",
        )
        players.append(page.player(sound, view.answer_name.capitalize()))
    error = float(np.sqrt(np.mean((view.frames - view.reconstruction) ** 2)))
    alternative = (
        f"{view.name} beside its {view.answer_name}; "
        f"the root mean squared difference is {error:.3g}."
    )
    return page.figure(path, alternative, caption, players)


def _latents(view: SequenceView, folder: Path, stem: str) -> list[str]:
    both = folder / f"{stem}-prior-posterior.png"
    drawing.save(latent_figures.prior_posterior_figure(view), both, DPI)
    every = folder / f"{stem}-latents.png"
    drawing.save(latent_figures.latents_figure(view), every, DPI)
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
    """Input and reconstruction to read, words that differ marked."""
    if view.words is None or view.reconstructed_words is None:
        words = [str(int(token)) for token in view.frames]
        expected = [str(int(token)) for token in view.reconstruction]
    else:
        words, expected = list(view.words), list(view.reconstructed_words)
    joint = "" if view.unit == "character" else " "
    title = view.answer_name.capitalize()
    right = sum(a == b for a, b in zip(words, expected, strict=True))
    given = "the latents and the words before" if view.has_latents else "the words before"
    return [
        f"<p><strong>Input:</strong> {_marked(words, words, joint)}</p>",
        f"<p><strong>{title}:</strong> {_marked(expected, words, joint)}</p>",
        page.paragraph(
            f"The {view.answer_name} is the most probable {view.step_name} at every place given "
            f"{given}; {right} of {view.steps} are those of the input, the others are marked.",
            note=True,
        ),
    ]


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
