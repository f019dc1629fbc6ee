"""``zpyro interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import log, status
from .options import NumberRange
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
    from torch import Tensor

    from zpyro.datasets.sequences import Sequences


@click.command("interpolate")
@click.argument("run", type=PATH)
@click.argument("first")
@click.argument("second")
@click.option(
    "--steps",
    default=7,
    show_default=True,
    type=click.IntRange(2, 1000),
    help="Number of positions, including both ends.",
)
@click.option("--out", type=PATH, help="Folder.  [default: RUN/interpolated]")
@click.option("--draw", is_flag=True, help="Sample frames instead of using their means.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=NumberRange(0, 100, min_open=True),
    help="Of sampled frames: below 1 for less variety.",
)
@sequence_options
def command(
    run: Path,
    first: str,
    second: str,
    steps: int,
    out: Path | None,
    draw: bool,
    temperature: float,
    split: str,
    data: Path | None,
    seed: int,
    **options: Any,
) -> None:
    """Interpolate between the latents of FIRST and SECOND, and decode every position.

    FIRST and SECOND are names or numbers of the split's sequences, files as for zpyro sample
    --prefix, or, for a run on text, sentences in quotes. The posterior means of both are resampled
    to one length, which changes linearly between the two, and mixed on a straight line; the model
    is then fed its own frames.

    \b
    Example:
      zpyro interpolate runs/reviews "a great film ." "i hated every minute ." --steps 5
    """
    from zpyro.analysis.decoding import check_has_latents, interpolate
    from zpyro.analysis.selection import denormalize, find_sequence, parse_sequence
    from zpyro.analysis.sounds import has_sound, write_sound
    from zpyro.errors import pluralize
    from zpyro.io import files

    loaded = open_run(run, **options)
    check_has_latents(loaded.model)
    checkpoint = loaded.checkpoint
    found: Sequences | None = None  # loaded only if an end is one of its sequences
    ends: list[Sequences] = []
    for text in (first, second):
        end = parse_sequence(checkpoint, text, log)
        if end is None:
            found = load_split(loaded, split, data) if found is None else found
            end = found[[find_sequence(found, text, split)]]
        ends.append(end)
    batches = [end.batch() for end in ends]
    with status(f"decoding {steps} positions"):
        path = interpolate(
            loaded.model,
            batches[0],
            batches[1],
            steps,
            seed=seed,
            use_mean=not draw,
            temperature=temperature,
        )

    def raw(values: Tensor, lengths: Tensor) -> list[np.ndarray]:
        arrays = denormalize(checkpoint, values.cpu().numpy())
        return [each[:n] for each, n in zip(arrays, lengths.tolist(), strict=True)]

    frames = raw(path.decoded.frames if draw else path.decoded.mean, path.lengths)
    inputs = [raw(batch.x, batch.lengths)[0] for batch in batches]
    positions = [f"{position:.2f}" for position in path.positions.tolist()]
    rows = [("first", inputs[0]), *zip(positions, frames, strict=True), ("second", inputs[1])]
    out = make_folder(out or run / "interpolated")
    if checkpoint.vocabulary is not None:
        lines = [(name, checkpoint.vocabulary.text(each.tolist())) for name, each in rows]
        to = out / "interpolation.txt"
        files.replace_file(to, "".join(f"{name}\t{line}\n" for name, line in lines))
        for name, line in lines:
            click.echo(f"{name:6}  {line}")
        log(f"{pluralize(len(lines), 'line')} in {to}")
    elif has_sound(checkpoint.data):
        for number, each in enumerate(frames):
            write_sound(out / f"step_{number}.wav", checkpoint.data, each, log)
        click.echo(f"{sound_files(checkpoint.data, len(frames))} in {out}")
    else:
        to = out / "interpolation.npz"
        save_arrays(to, **{f"step_{number}": each for number, each in enumerate(frames)})
        click.echo(f"{len(frames)} arrays in {to}")
    if checkpoint.data.data_type != "tokens":
        in_column = checkpoint.data.image_shape is None
        grid = [[row] for row in rows] if in_column else [rows]
        plot_rows(grid, out / "interpolation.png", checkpoint)
