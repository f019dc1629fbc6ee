"""``zpyro sample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import log, pluralize, status
from .guides import use_guide
from .options import model_options
from .prefix import read_prefix

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.vocabulary import Vocabulary
    from zpyro.training.checkpoint import Checkpoint

PICTURED = 8
PICTURED_IMAGES = 400


@click.command("sample")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-n", "--count", default=8, show_default=True, type=click.IntRange(1, 10_000))
@click.option(
    "--seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    help="Length of sound.  [default: 3]",
)
@click.option(
    "--frames",
    type=click.IntRange(1, 10_000_000),
    help="Length in frames, of text in words or characters.  [default: 100; of pictures, the whole"
    " of one]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: RUN/samples]")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 100, min_open=True),
    help="Below 1 for less variety.",
)
@click.option(
    "--prefix",
    type=click.Path(path_type=Path),
    help="What to go on from: a recording, a text file of one line, or a .npy array (P, D) or (P,)"
    " of frames, tokens, or the upper rows of a picture.",
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
    prefix: Path | None,
    which: str,
    device: str,
    guide: str | None,
    run_guide: bool,
) -> None:
    """Draw new sequences from a run, and a picture of them.

    Sound is written as wav files, text is printed and written as lines, anything else is written
    as one array; pictures are drawn as such. Of a prefix comes first what was given: its latents
    are drawn from the posterior.

    \b
    Example:
      zpyro sample runs/vowels -n 8 --seconds 3 --out samples
    """
    from zpyro.analysis import sampling
    from zpyro.io import files
    from zpyro.training import runs
    from zpyro.training.building import choose_device

    opened = runs.open_run(run)
    use_guide(run, guide, run_guide, needed=prefix is not None)
    checkpoint = opened.load(which, choose_device(device))
    given = None if prefix is None else read_prefix(prefix, checkpoint)
    steps = _steps(checkpoint, seconds, frames, 0 if given is None else len(given))
    out = out or run / "samples"
    with files.translate_os_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    unit = "frame" if checkpoint.vocabulary is None else checkpoint.vocabulary.unit
    with status(f"drawing {pluralize(count, 'sample')} of {pluralize(steps, unit)}"):
        drawn = sampling.draw(
            checkpoint, count, steps, seed=seed, temperature=temperature, prefix=given
        )
    if checkpoint.data.data_type == "audio":
        _write_sound(checkpoint, drawn, given, seconds, out)
    elif checkpoint.vocabulary is not None:
        _write_text(checkpoint.vocabulary, drawn, given, out)
    else:
        _write_array(checkpoint, drawn, given, out)


def _steps(checkpoint: Checkpoint, seconds: float | None, frames: int | None, before: int) -> int:
    """Frames to draw after those of the prefix."""
    from zpyro.errors import UserError

    rate = checkpoint.data.sample_rate
    if seconds is not None and frames is not None:
        raise UserError("--seconds and --frames are both given; give one")
    if rate is None:
        if seconds is not None:
            raise UserError("--seconds is for sound, which this run is not; give --frames")
        return frames or _image_steps(checkpoint, before) or 100
    if frames is not None:
        return frames
    return max(1, -(-round((seconds or 3.0) * rate) // checkpoint.module.likelihood.size))


def _image_steps(checkpoint: Checkpoint, before: int) -> int | None:
    """Frames up to the end of a picture, or None where the data are none."""
    from zpyro.errors import UserError

    shape = checkpoint.data.image_shape
    if shape is None:
        return None
    whole = shape[0] * shape[1] // checkpoint.module.likelihood.size
    if before >= whole:
        raise UserError(
            f"the prefix has {before} frames and a picture {whole}; cut it, or give --frames"
        )
    return whole - before


def _write_sound(
    checkpoint: Checkpoint,
    drawn: np.ndarray,
    prefix: np.ndarray | None,
    seconds: float | None,
    out: Path,
) -> None:
    import numpy as np

    from zpyro.analysis import plots
    from zpyro.datasets.formats import audio
    from zpyro.io import files

    rate = checkpoint.data.sample_rate
    assert rate is not None
    length = drawn[0].size if seconds is None else round(seconds * rate)
    before = np.zeros(0, np.float32) if prefix is None else prefix.reshape(-1)
    sounds = [np.concatenate([before, one.reshape(-1)[:length]]) for one in drawn]
    for number, sound in enumerate(sounds, start=1):
        path = out / f"sample_{number}.wav"
        with files.translate_os_errors(path):
            path.touch()
        audio.write_wav(path, sound, rate)
    click.echo(f"{pluralize(len(sounds), 'wav file')} in {out}")
    _picture(lambda path: plots.plot_audio(sounds[:PICTURED], rate, path), out)


def _write_text(
    vocabulary: Vocabulary, drawn: np.ndarray, prefix: np.ndarray | None, out: Path
) -> None:
    from zpyro.io import files

    before = [] if prefix is None else prefix.tolist()
    lines = [vocabulary.text([*before, *tokens]) for tokens in drawn.tolist()]
    for line in lines:
        click.echo(line)
    path = out / "samples.txt"
    files.replace_file(path, "".join(f"{line}\n" for line in lines))
    log(f"{pluralize(len(lines), 'line')} in {path}")


def _write_array(
    checkpoint: Checkpoint, drawn: np.ndarray, prefix: np.ndarray | None, out: Path
) -> None:
    import numpy as np

    from zpyro.analysis import plots
    from zpyro.io import files

    path = out / "samples.npz"
    with files.translate_os_errors(path):
        if prefix is None:
            np.savez(path, x=drawn)
        else:
            np.savez(path, x=drawn, prefix=prefix)
    after = "" if prefix is None else ", what comes after the prefix,"
    click.echo(f"array x {drawn.shape}{after} in {path}")
    images = _images(checkpoint, drawn, prefix)
    kind = checkpoint.data.data_type
    if images is not None:
        _picture(lambda path: plots.plot_images(images[:PICTURED_IMAGES], path), out)
    else:
        _picture(lambda path: plots.plot_frames(list(drawn[:PICTURED]), path, kind), out)


def _images(
    checkpoint: Checkpoint, drawn: np.ndarray, prefix: np.ndarray | None
) -> np.ndarray | None:
    """What was drawn as pictures (N, R, C), the prefix at their top; None where it is none."""
    import numpy as np

    shape = checkpoint.data.image_shape
    if shape is None:
        return None
    if prefix is not None:
        before = np.broadcast_to(prefix, (len(drawn), *prefix.shape))
        drawn = np.concatenate([before, drawn], axis=1)
    if drawn[0].size != shape[0] * shape[1]:
        return None
    return drawn.reshape(len(drawn), *shape)


def _picture(draw: object, out: Path) -> None:
    """Draw the picture, or say what is missing for it: the samples are there all the same."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        log('no picture without matplotlib; pip install "zpyro[plots]"')
        return
    path = out / "samples.png"
    assert callable(draw)
    draw(path)
    click.echo(f"picture in {path}")
