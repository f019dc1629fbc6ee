"""``zpyro sample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log, status
from .options import (
    NumberRange,
    check_output_noise,
    dither_numbers,
    dither_option,
    model_options,
    output_noise_option,
)
from .paths import PATH
from .sequences import make_folder, open_run, save_arrays, sound_files, write_plot

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.vocabulary import Vocabulary
    from zpyro.training.checkpoint import Checkpoint

PLOTTED = 8
PLOTTED_IMAGES = 400


@click.command("sample")
@click.argument("run", type=PATH)
@click.option("-n", "--count", default=8, show_default=True, type=click.IntRange(1, 10_000))
@click.option(
    "--seconds",
    type=NumberRange(0, 3600, min_open=True),
    help="Length of sound.  [default: 3]",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 10_000_000),
    help="Length in frames; of text in words or characters.  [default: 100; of images, the whole"
    " image]",
)
@click.option("--out", type=PATH, help="Folder.  [default: RUN/samples]")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=NumberRange(0, 100, min_open=True),
    help="Below 1 for less variety.",
)
@output_noise_option
@dither_option
@click.option(
    "--prefix",
    type=PATH,
    help="What to continue: a recording, a MIDI file, a text file of one line, or a .npy array"
    " (P, D) or (P,) of frames, tokens, or the upper rows of an image.",
)
@click.option(
    "--covariates",
    type=PATH,
    help="Of a run with covariates: a .npy array (P + T, C) of those of the prefix and of the new"
    " frames, as in the data.",
)
@model_options
def command(
    run: Path,
    count: int,
    seconds: float | None,
    frames: int | None,
    out: Path | None,
    seed: int,
    temperature: float,
    output_noise: float,
    dither: bool,
    prefix: Path | None,
    covariates: Path | None,
    **options: Any,
) -> None:
    """Sample new sequences from a run, and plot them.

    Sound is written as wav files, music as wav and MIDI files, text is printed and written as
    lines, anything else is written as one array; images are plotted as such. With a prefix, sounds,
    lines and images begin with it; its latents are sampled from the posterior.

    A low --temperature also makes latents and frames fed back less varied; --output-noise changes
    only what is written: 0 writes the expected frame of every step.

    \b
    Example:
      zpyro sample runs/vowels -n 8 --seconds 3 --out samples
    """
    from zpyro.analysis.sampling import sample
    from zpyro.analysis.selection import covariates_from_file, frames_from_file
    from zpyro.analysis.sounds import has_sound
    from zpyro.errors import UserError, pluralize

    checkpoint = open_run(run, guide_needed=prefix is not None, **options).checkpoint
    check_output_noise(output_noise, checkpoint.model.likelihood)
    given = None if prefix is None else frames_from_file(prefix, checkpoint, log)
    before = 0 if given is None else len(given)
    known = None if covariates is None else covariates_from_file(covariates, checkpoint)
    if known is not None and frames is None:
        # The first frame of a prefix is the start frame where the data have one.
        frames = len(known) - before + (before > 0 and checkpoint.start is not None)
        if frames < 1:
            raise UserError(f"{covariates}: has no rows beyond those of the prefix; add rows")
    steps = _steps(checkpoint, seconds, frames, before)
    out = make_folder(out or run / "samples")
    unit = "frame" if checkpoint.vocabulary is None else checkpoint.vocabulary.unit
    with status(f"sampling {pluralize(count, 'sequence')} of {pluralize(steps, unit)}"):
        samples = sample(
            checkpoint,
            count,
            steps,
            seed=seed,
            temperature=temperature,
            output_noise=output_noise,
            prefix=given,
            covariates=known,
        )
    if has_sound(checkpoint.data):
        _write_sound(checkpoint, samples, given, seconds, out, dither_numbers(dither, seed))
    elif checkpoint.vocabulary is not None:
        _write_text(checkpoint.vocabulary, samples, given, out)
    else:
        _write_array(checkpoint, samples, given, out)


def _steps(checkpoint: Checkpoint, seconds: float | None, frames: int | None, before: int) -> int:
    """The number of frames to sample after those of the prefix."""
    from zpyro.analysis.sounds import frames_per_second, has_sound
    from zpyro.errors import UserError

    data, size = checkpoint.data, checkpoint.model.likelihood.size
    shape = data.image_shape
    if seconds is not None and frames is not None:
        raise UserError("--seconds and --frames are both given; give one")
    if data.sample_rate is not None:
        return frames or max(1, -(-round((seconds or 3.0) * data.sample_rate) // size))
    if seconds is not None and has_sound(data):
        return max(1, round(seconds * frames_per_second(data, size)))
    if seconds is not None:
        raise UserError("--seconds is for sound, but the run has none; give --frames")
    if frames is not None or shape is None:
        return frames or 100
    whole = shape[0] * shape[1] // size
    if before >= whole:
        raise UserError(
            f"the prefix has {before} frames and an image {whole}; shorten it, or give --frames"
        )
    return whole - before


def _write_sound(
    checkpoint: Checkpoint,
    samples: np.ndarray,
    prefix: np.ndarray | None,
    seconds: float | None,
    out: Path,
    dither: np.random.Generator | None,
) -> None:
    import numpy as np

    from zpyro.analysis import plots
    from zpyro.analysis.sounds import write_sound

    data, rate = checkpoint.data, checkpoint.data.sample_rate
    whole = list(samples)
    if prefix is not None:
        whole = [np.concatenate([prefix, each]) for each in samples]
    if rate is not None and seconds is not None:
        before = 0 if prefix is None else prefix.size
        whole = [each.reshape(-1)[: before + round(seconds * rate)] for each in whole]
    for number, each in enumerate(whole, start=1):
        write_sound(out / f"sample_{number}.wav", data, each, log, dither)
    click.echo(f"{sound_files(data, len(whole))} in {out}")
    if rate is None:
        write_plot(
            lambda path: plots.plot_frames(whole[:PLOTTED], path, "roll"), out / "samples.png"
        )
        return
    sounds = [each.reshape(-1) for each in whole[:PLOTTED]]
    titled = [(f"sample {number}", sound) for number, sound in enumerate(sounds, 1)]
    write_plot(
        lambda path: plots.save_figure(plots.plot_sounds(titled, rate), path), out / "samples.png"
    )


def _write_text(
    vocabulary: Vocabulary, samples: np.ndarray, prefix: np.ndarray | None, out: Path
) -> None:
    from zpyro.errors import pluralize
    from zpyro.io import files

    before = [] if prefix is None else prefix.tolist()
    lines = [vocabulary.text([*before, *tokens]) for tokens in samples.tolist()]
    path = out / "samples.txt"
    files.replace_file(path, "".join(f"{line}\n" for line in lines))
    for line in lines:
        click.echo(line)
    log(f"{pluralize(len(lines), 'line')} in {path}")


def _write_array(
    checkpoint: Checkpoint, samples: np.ndarray, prefix: np.ndarray | None, out: Path
) -> None:
    import numpy as np

    from zpyro.analysis import plots

    path = out / "samples.npz"
    save_arrays(path, x=samples, **({} if prefix is None else {"prefix": prefix}))
    after = "" if prefix is None else ", what comes after the prefix,"
    click.echo(f"array x {samples.shape}{after} in {path}")
    shape, data_type = checkpoint.data.image_shape, checkpoint.data.data_type
    whole = samples
    if prefix is not None and shape is not None:
        before = np.broadcast_to(prefix, (len(samples), *prefix.shape))
        whole = np.concatenate([before, samples], axis=1)
    if shape is not None and whole[0].size == shape[0] * shape[1]:
        images = whole[:PLOTTED_IMAGES].reshape(-1, *shape)
        write_plot(lambda path: plots.plot_images(images, path), out / "samples.png")
    else:
        shown = list(samples[:PLOTTED])
        write_plot(lambda path: plots.plot_frames(shown, path, data_type), out / "samples.png")
