"""``zpyro reconstruct``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import log, pluralize, status
from .sequences import LoadedRun, make_folder, opened, sequence_options, write_picture, write_sound

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.sequences import Sequences
    from zpyro.training.checkpoint import Checkpoint

SHOWN = 8


@click.command("reconstruct")
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--sequence",
    "wanted",
    multiple=True,
    metavar="NAME|INDEX",
    help="By name or by number from 0; again for another.  [default: the first 8]",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder.  [default: RUN/reconstructed]"
)
@click.option("--draw", is_flag=True, help="Draw latents and frames in place of their means.")
@click.option("--free", is_flag=True, help="Feed the model its own frames, not those recorded.")
@sequence_options
def command(
    run: Path,
    wanted: tuple[str, ...],
    out: Path | None,
    draw: bool,
    free: bool,
    split: str,
    data: Path | None,
    seed: int,
    which: str,
    device: str,
    guide: str | None,
    run_guide: bool,
) -> None:
    """Put sequences beside what the model makes of their latents.

    Teacher-forced, as in training: the model is told every frame but the one it gives; with --free
    it has the latents alone. Sound is written as pairs of wav files, text line by line, anything
    else as arrays; pictures are drawn of all but text.

    \b
    Example:
      zpyro reconstruct runs/vowels --sequence 0 --sequence 3 --out reconstructed
    """
    found = opened(run, which, device, split, data, guide, run_guide)
    sequences, indices = _chosen(found, wanted)
    with status(f"reconstructing {pluralize(len(indices), 'sequence')}"):
        inputs, outputs = _reconstructed(found.checkpoint, sequences, seed, draw=draw, free=free)
    out = make_folder(out or run / "reconstructed")
    names = list(sequences.names)
    if found.checkpoint.vocabulary is not None:
        _write_text(found.checkpoint, inputs, outputs, out)
        return
    for name, before, after in zip(names, inputs, outputs, strict=True):
        click.echo(f"{name}: {_difference(found.checkpoint, before, after)}")
    if found.checkpoint.data.data_type == "audio":
        for index, before, after in zip(indices, inputs, outputs, strict=True):
            write_sound(out / f"{index}_input.wav", before, found.checkpoint)
            write_sound(out / f"{index}_reconstruction.wav", after, found.checkpoint)
        click.echo(f"{pluralize(len(inputs), 'pair')} of wav files in {out}")
    else:
        _write_arrays(indices, inputs, outputs, out)
    titles = [f"{index}: {name}" for index, name in zip(indices, names, strict=True)]
    _draw(found.checkpoint, titles, inputs, outputs, out / "reconstructions.png")


def _chosen(found: LoadedRun, wanted: tuple[str, ...]) -> tuple[Sequences, list[int]]:
    from zpyro.analysis import selection as choosing

    sequences = found.sequences()
    indices = choosing.choose(sequences, wanted, found.split, first=SHOWN)
    return sequences[indices], indices


def _reconstructed(
    checkpoint: Checkpoint, sequences: Sequences, seed: int, *, draw: bool, free: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and reconstructions on the scale of the raw data, without padding."""
    from zpyro.analysis import decoding
    from zpyro.analysis.sampling import raw

    batch = sequences.batch()
    result = decoding.reconstruct(checkpoint.module, batch, seed=seed, use_mean=not draw)
    mean, frames = result.mean[0], result.frames[0]
    if free:
        result = decoding.decode(
            checkpoint.module,
            result.z[0],
            lengths=batch.lengths,
            start=batch.start,
            seed=seed,
            use_mean=not draw,
        )
        mean, frames = result.mean, result.frames
    made = raw(checkpoint, (frames if draw else mean).cpu().numpy())
    given = raw(checkpoint, batch.x.numpy())
    lengths = batch.lengths.tolist()
    both = ([each[:n] for each, n in zip(part, lengths, strict=True)] for part in (given, made))
    inputs, outputs = both
    return inputs, outputs


def _difference(checkpoint: Checkpoint, before: np.ndarray, after: np.ndarray) -> str:
    """In one number how far the two are apart."""
    import numpy as np

    kind = checkpoint.data.data_type
    if kind == "tokens":
        return f"{np.mean(before == after):.1%} of the tokens"
    if kind == "binary":
        return f"{np.mean((before > 0.5) == (after > 0.5)):.1%} of the bits"
    error = float(np.sqrt(np.mean((before - after) ** 2)))
    spread = float(before.std())
    return f"error {error:.4g} (root mean square), {error / max(spread, 1e-12):.2f} of the spread"


def _write_text(
    checkpoint: Checkpoint, inputs: list[np.ndarray], outputs: list[np.ndarray], out: Path
) -> None:
    from zpyro.io import files

    vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    pairs = [
        (vocabulary.text(before.tolist()), vocabulary.text(after.tolist()), before, after)
        for before, after in zip(inputs, outputs, strict=True)
    ]
    lines: list[str] = []
    for first, second, before, after in pairs:
        right = _difference(checkpoint, before, after)
        lines += [
            f"input           {first}",
            f"reconstruction  {second}",
            f"                ({right})",
        ]
    click.echo("\n".join(lines))
    path = out / "reconstructions.txt"
    files.replace_file(path, "".join(f"{first}\t{second}\n" for first, second, *_ in pairs))
    log(f"{pluralize(len(pairs), 'line')}, input and reconstruction with a tab between, in {path}")


def _write_arrays(
    indices: list[int], inputs: list[np.ndarray], outputs: list[np.ndarray], out: Path
) -> None:
    import numpy as np

    from zpyro.io import files

    path = out / "reconstructions.npz"
    arrays = {f"input_{i}": each for i, each in zip(indices, inputs, strict=True)}
    arrays |= {f"reconstruction_{i}": each for i, each in zip(indices, outputs, strict=True)}
    with files.translate_os_errors(path):
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    click.echo(f"{pluralize(len(inputs), 'pair')} of arrays in {path}")


def _draw(
    checkpoint: Checkpoint,
    titles: list[str],
    inputs: list[np.ndarray],
    outputs: list[np.ndarray],
    path: Path,
) -> None:
    if checkpoint.data.image_shape is None:
        rows = [
            [(title, before), ("reconstruction", after)]
            for title, before, after in zip(titles, inputs, outputs, strict=True)
        ]
    else:
        # Pictures are small: inputs in one row, and below each what was made of it.
        rows = [
            list(zip(titles, inputs, strict=True)),
            [("reconstruction", after) for after in outputs],
        ]
    write_picture(rows, path, checkpoint)
