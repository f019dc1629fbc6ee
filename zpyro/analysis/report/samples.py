"""What a report shows of the prior: sequences that the model made up."""

from __future__ import annotations

import html
from pathlib import Path

from zpyro.analysis import plots, sampling
from zpyro.analysis.report import figures, page
from zpyro.analysis.report.page import Section
from zpyro.analysis.report.sequence_parts import DPI, write_sound
from zpyro.analysis.report.views import Array
from zpyro.io import files
from zpyro.training.checkpoint import Checkpoint

SECONDS = 3.0
IMAGES = 16
TEXT_STEPS = 60


def section(checkpoint: Checkpoint, count: int, steps: int, folder: Path, seed: int) -> Section:
    """Samples from the prior, written to a folder too.

    Args:
        checkpoint: the model.
        count: how many; of pictures 16 in any case, which take no more room.
        steps: how many steps, where neither seconds nor the size of a picture tells.
        folder: where to write.
        seed: of the draws.

    Raises:
        UserError: if matplotlib is missing or the folder cannot be written.
    """
    data, size = checkpoint.data, checkpoint.module.likelihood.size
    if data.image_shape is not None:
        steps, count = data.image_shape[0] * data.image_shape[1] // size, IMAGES
    elif data.sample_rate is not None:
        steps = max(1, round(SECONDS * data.sample_rate / size))
    elif data.data_type == "tokens":
        steps = TEXT_STEPS
    title = f"Samples from the {'prior' if checkpoint.module.latent_size else 'model'}"
    drawn = sampling.draw(checkpoint, count, steps, seed=seed)
    if data.image_shape is not None:
        parts = [_images(drawn.reshape(count, *data.image_shape), folder)]
    elif data.sample_rate is not None:
        parts = _sounds(drawn, data.sample_rate, folder)
    elif data.data_type == "tokens":
        return Section("samples", title, (_texts(checkpoint, drawn, folder),))
    else:
        parts = [_frames(drawn, folder, data.data_type)]
    return Section("samples", title, (page.grid(parts),))


def _images(images: Array, folder: Path) -> str:
    path = folder / "samples.png"
    plots.plot_images(images, path)
    return page.figure(
        path, f"{len(images)} pictures drawn from the model.", "Drawn from the model."
    )


def _sounds(drawn: Array, rate: int, folder: Path) -> list[str]:
    parts: list[str] = []
    for number, frames in enumerate(drawn, start=1):
        sound = frames.reshape(-1)
        path = folder / f"sample-{number}.png"
        figure = plots.new_figure(figures.WIDTH, 2.8)
        figures.draw_sounds(figure, [(f"sample {number}", sound)], rate)
        plots.save_figure(figure, path, DPI)
        played = write_sound(sound, rate, folder / f"sample-{number}.wav")
        seconds = len(sound) / rate
        parts.append(
            page.figure(
                path,
                f"Waveform and spectrogram of sample {number}, {seconds:.2f} s.",
                f"Sample {number}.",
                [page.player(played, f"Sample {number}, {seconds:.2f} s")],
            )
        )
    return parts


def _texts(checkpoint: Checkpoint, drawn: Array, folder: Path) -> str:
    vocabulary = checkpoint.vocabulary
    lines = [
        " ".join(map(str, tokens)) if vocabulary is None else vocabulary.text(tokens)
        for tokens in drawn.tolist()
    ]
    files.replace_file(folder / "samples.txt", "".join(f"{line}\n" for line in lines))
    return page.items(html.escape(line) for line in lines)


def _frames(drawn: Array, folder: Path, kind: str) -> str:
    path = folder / "samples.png"
    plots.plot_frames(list(drawn), path, kind)
    steps = drawn.shape[1]
    return page.figure(
        path,
        f"{len(drawn)} sequences of {steps} frames drawn from the model.",
        "Drawn from the model.",
    )
