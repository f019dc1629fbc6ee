"""``zpyro interpolate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import log, status
from .prefix import read_prefix
from .sequences import LoadedRun, make_folder, opened, sequence_options, write_picture, write_sound

if TYPE_CHECKING:
    import numpy as np

    from zpyro.datasets.sequences import Sequences
    from zpyro.training.checkpoint import Checkpoint


@click.command("interpolate")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("first")
@click.argument("second")
@click.option(
    "--steps",
    default=7,
    show_default=True,
    type=click.IntRange(2, 1000),
    help="Places on the way, both ends counted.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder.  [default: RUN/interpolated]")
@click.option("--draw", is_flag=True, help="Draw frames in place of their means.")
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, 100, min_open=True),
    help="Of drawn frames: below 1 for less variety.",
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
    which: str,
    device: str,
    guide: str | None,
    run_guide: bool,
) -> None:
    """Walk from the latents of FIRST to those of SECOND, and decode on the way.

    FIRST and SECOND are names or numbers of the split's sequences, files as for zpyro sample
    --prefix, or, for a run on text, sentences in quotes. The posterior means of both are brought to
    one length, which moves evenly from the one's to the other's, and mixed in a straight line; the
    model then runs freely.

    \b
    Example:
      zpyro interpolate runs/reviews "a great film ." "i hated every minute ." --steps 5
    """
    from zpyro.analysis.interpolation import interpolate

    found = opened(run, which, device, split, data, guide, run_guide)
    ends = _ends(found, (first, second))
    batches = [each.batch() for each in ends]
    with status(f"decoding {steps} places"):
        walk = interpolate(
            found.checkpoint.module,
            batches[0],
            batches[1],
            steps,
            seed=seed,
            use_mean=not draw,
            temperature=temperature,
        )
    decoded = walk.decoded.frames if draw else walk.decoded.mean
    frames = _raw(found.checkpoint, decoded.cpu().numpy(), walk.lengths.tolist())
    inputs = [
        _raw(found.checkpoint, batch.x.numpy(), batch.lengths.tolist())[0] for batch in batches
    ]
    out = make_folder(out or run / "interpolated")
    places = [f"{place:.2f}" for place in walk.positions.tolist()]
    if found.checkpoint.vocabulary is not None:
        _write_text(found.checkpoint, places, frames, inputs, out)
    elif found.checkpoint.data.data_type == "audio":
        for number, each in enumerate(frames):
            write_sound(out / f"step_{number}.wav", each, found.checkpoint)
        click.echo(f"{len(frames)} wav files in {out}")
    else:
        _write_arrays(places, frames, out)
    if found.checkpoint.data.data_type != "tokens":
        shown = [("first", inputs[0]), *zip(places, frames, strict=True), ("second", inputs[1])]
        upright = found.checkpoint.data.image_shape is None
        rows = [[each] for each in shown] if upright else [shown]
        write_picture(rows, out / "interpolation.png", found.checkpoint)


def _ends(found: LoadedRun, wanted: tuple[str, str]) -> list[Sequences]:
    """The two sequences; the data are loaded only for those that are looked for there."""
    from zpyro.analysis import selection as choosing

    split: Sequences | None = None
    ends: list[Sequences] = []
    for each in wanted:
        if choosing.looks_like_file(each):
            frames = read_prefix(Path(each), found.checkpoint)
            if found.checkpoint.vocabulary is not None and not each.endswith(".npy"):
                frames = _ended(frames)
            ends.append(choosing.sequence_from_array(found.checkpoint, frames, each))
            continue
        if found.checkpoint.vocabulary is not None and " " in each.strip():
            ends.append(choosing.of_sentence(found.checkpoint, each))
            continue
        split = found.sequences() if split is None else split
        ends.append(split[[choosing.find(split, each, found.split)]])
    return ends


def _ended(tokens: np.ndarray) -> np.ndarray:
    import numpy as np

    from zpyro.datasets.vocabulary import END

    return np.append(tokens, END)


def _raw(checkpoint: Checkpoint, frames: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    from zpyro.analysis.sampling import raw

    values = raw(checkpoint, frames)
    return [each[:length] for each, length in zip(values, lengths, strict=True)]


def _write_text(
    checkpoint: Checkpoint,
    places: list[str],
    frames: list[np.ndarray],
    inputs: list[np.ndarray],
    out: Path,
) -> None:
    from zpyro.io import files

    vocabulary = checkpoint.vocabulary
    assert vocabulary is not None
    middle = [(place, vocabulary.text(f.tolist())) for place, f in zip(places, frames, strict=True)]
    first, second = (vocabulary.text(each.tolist()) for each in inputs)
    rows = [("first", first), *middle, ("second", second)]
    for name, line in rows:
        click.echo(f"{name:6}  {line}")
    path = out / "interpolation.txt"
    files.replace_file(path, "".join(f"{name}\t{line}\n" for name, line in rows))
    log(f"{len(rows)} lines in {path}")


def _write_arrays(places: list[str], frames: list[np.ndarray], out: Path) -> None:
    import numpy as np

    from zpyro.io import files

    path = out / "interpolation.npz"
    arrays = {f"step_{number}": each for number, each in enumerate(frames)}
    with files.translate_os_errors(path):
        np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    click.echo(f"{len(places)} arrays in {path}")
