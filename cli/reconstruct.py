"""``zpyro reconstruct``."""

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
    output_noise_option,
)
from .paths import PATH
from .sequences import (
    load_split,
    make_folder,
    open_run,
    plot_rows,
    save_arrays,
    sequence_options,
    sound_files,
)

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.sequences import Sequences
    from zpyro.training.checkpoint import Checkpoint

    Arrays = list[np.ndarray]

DEFAULT_COUNT = 8


@click.command("reconstruct")
@click.argument("run", type=PATH)
@click.option(
    "--sequence",
    "wanted",
    multiple=True,
    metavar="NAME|INDEX",
    help="By name or by number from 0; repeat for more.  [default: the first 8]",
)
@click.option("--out", type=PATH, help="Folder.  [default: RUN/reconstructed]")
@click.option("--draw", is_flag=True, help="Sample latents and frames instead of using means.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=NumberRange(0, 100, min_open=True),
    help="Of frames that --draw samples.",
)
@output_noise_option
@dither_option
@click.option("--free", is_flag=True, help="Feed the model its own frames, not those recorded.")
@sequence_options
def command(
    run: Path,
    wanted: tuple[str, ...],
    out: Path | None,
    draw: bool,
    temperature: float,
    output_noise: float,
    dither: bool,
    free: bool,
    split: str,
    data: Path | None,
    seed: int,
    **options: Any,
) -> None:
    """Compare sequences with their reconstructions from the latents.

    As in training, the model is fed the recorded frames before the one it predicts; with --free it
    is fed its own frames, so that only the latents carry the sequence. Sound is written as pairs of
    wav files, music as wav and MIDI files of the notes that are more probable than not, text line
    by line, anything else as arrays; all but text is plotted.

    \b
    Example:
      zpyro reconstruct runs/vowels --sequence 0 --sequence 3 --out reconstructed
    """
    from zpyro.analysis.decoding import check_has_latents
    from zpyro.analysis.selection import select_sequences
    from zpyro.analysis.sounds import has_sound, write_sound
    from zpyro.errors import UserError, pluralize

    for option, value in {"--temperature": temperature, "--output-noise": output_noise}.items():
        if value != 1.0 and not draw:
            raise UserError(
                f"{option}: changes sampled frames, and means are asked for; add --draw"
            )
    loaded = open_run(run, **options)
    check_has_latents(loaded.model)
    checkpoint = loaded.checkpoint
    check_output_noise(output_noise, checkpoint.model.likelihood)
    sequences = load_split(loaded, split, data)
    indices = select_sequences(sequences, wanted, split, default_count=DEFAULT_COUNT)
    sequences = sequences[indices]
    with status(f"reconstructing {pluralize(len(indices), 'sequence')}"):
        inputs, outputs = _reconstruct(
            checkpoint,
            sequences,
            seed,
            draw=draw,
            free=free,
            temperature=temperature,
            output_noise=output_noise,
        )
    out = make_folder(out or run / "reconstructed")
    if checkpoint.vocabulary is not None:
        _write_text(checkpoint, inputs, outputs, out)
        return
    pairs = list(zip(inputs, outputs, strict=True))
    if has_sound(checkpoint.data):
        numbers = dither_numbers(dither, seed)
        for index, (before, after) in zip(indices, pairs, strict=True):
            write_sound(out / f"{index}_input.wav", checkpoint.data, before, log)
            write_sound(out / f"{index}_reconstruction.wav", checkpoint.data, after, log, numbers)
        click.echo(f"{sound_files(checkpoint.data, len(pairs), 'pair')} in {out}")
    else:
        path = out / "reconstructions.npz"
        arrays = {f"input_{i}": each for i, each in zip(indices, inputs, strict=True)}
        arrays |= {f"reconstruction_{i}": each for i, each in zip(indices, outputs, strict=True)}
        save_arrays(path, **arrays)
        click.echo(f"{pluralize(len(pairs), 'pair')} of arrays in {path}")
    for name, (before, after) in zip(sequences.names, pairs, strict=True):
        click.echo(f"{name}: {_difference(checkpoint, before, after)}")
    titles = [f"{index}: {name}" for index, name in zip(indices, sequences.names, strict=True)]
    if checkpoint.data.image_shape is None:
        rows = [
            [(title, before), ("reconstruction", after)]
            for title, (before, after) in zip(titles, pairs, strict=True)
        ]
    else:  # images are small: one row of inputs, and one of reconstructions below
        rows = [
            list(zip(titles, inputs, strict=True)),
            [("reconstruction", after) for after in outputs],
        ]
    plot_rows(rows, out / "reconstructions.png", checkpoint)


def _reconstruct(
    checkpoint: Checkpoint,
    sequences: Sequences,
    seed: int,
    *,
    draw: bool,
    free: bool,
    temperature: float,
    output_noise: float,
) -> tuple[Arrays, Arrays]:
    """Inputs and reconstructions on the scale of the raw data, without padding."""
    import torch

    from zpyro.analysis.decoding import decode, reconstruct
    from zpyro.analysis.selection import denormalize

    batch = sequences.batch()
    result = reconstruct(
        checkpoint.model, batch, seed=seed, use_mean=not draw, temperature=temperature
    )
    mean, frames = result.mean[0], result.frames[0]
    if free:
        result = decode(
            checkpoint.model,
            result.z[0],
            lengths=batch.lengths,
            start=batch.start,
            seed=seed,
            use_mean=not draw,
            temperature=temperature,
        )
        mean, frames = result.mean, result.frames
    if draw:
        shown = frames if output_noise == 1.0 else torch.lerp(mean, frames, output_noise)
    else:
        shown = mean
    inputs, outputs = (
        [each[:length] for each, length in zip(values, batch.lengths.tolist(), strict=True)]
        for values in (
            denormalize(checkpoint, batch.x.numpy()),
            denormalize(checkpoint, shown.cpu().numpy()),
        )
    )
    return inputs, outputs


def _difference(checkpoint: Checkpoint, before: np.ndarray, after: np.ndarray) -> str:
    """The difference of two sequences in one number."""
    import numpy as np

    if checkpoint.data.data_type == "tokens":
        return f"{np.mean(before == after):.1%} of the tokens"
    if checkpoint.data.data_type == "binary":
        return f"{np.mean((before > 0.5) == (after > 0.5)):.1%} of the bits"
    error = float(np.sqrt(np.mean((before - after) ** 2)))
    spread = float(before.std())
    return f"error {error:.4g} (root mean square), {error / max(spread, 1e-12):.2f} of the spread"


def _write_text(checkpoint: Checkpoint, inputs: Arrays, outputs: Arrays, out: Path) -> None:
    from zpyro.errors import pluralize
    from zpyro.io import files

    vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    pairs = [
        (vocabulary.text(before.tolist()), vocabulary.text(after.tolist()))
        for before, after in zip(inputs, outputs, strict=True)
    ]
    path = out / "reconstructions.txt"
    files.replace_file(path, "".join(f"{first}\t{second}\n" for first, second in pairs))
    for (first, second), before, after in zip(pairs, inputs, outputs, strict=True):
        click.echo(f"input           {first}")
        click.echo(f"reconstruction  {second}")
        click.echo(f"                ({_difference(checkpoint, before, after)})")
    log(f"{pluralize(len(pairs), 'line')}, input and reconstruction separated by a tab, in {path}")
