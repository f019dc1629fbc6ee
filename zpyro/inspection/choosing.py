"""The sequences to look at: by name, by number, or the first ones of a split."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from zpyro import datasets
from zpyro.checkpoint import Checkpoint
from zpyro.choosing import on_scale_of
from zpyro.datasets.sequences import Sequences
from zpyro.errors import UserError
from zpyro.runs import Run

DEFAULT_COUNT = 3
SHOWN_NAMES = 3


def split_of(
    run: Run, checkpoint: Checkpoint, split: str, data_folder: Path | None = None
) -> Sequences:
    """A split of the data that a run was trained on, on the scale of its training.

    Args:
        run: whose settings name the data.
        checkpoint: whose scale and vocabulary count.
        split: "train", "valid", "test" or "all".
        data_folder: where the data are now; by default where they were at training.

    Raises:
        UserError: if the data are gone, are of another shape than the model's, or the split is
            unknown or empty.
    """
    config = run.config()
    folder = data_folder
    if folder is None and config.data_folder is not None:
        folder = Path(config.data_folder)
    data = datasets.load(config.dataset, folder, config.data, vocabulary=checkpoint.vocabulary)
    found = data.split(split)
    if len(found) == 0:
        raise UserError(f"the {split} split of {config.dataset} is empty; choose another split")
    return on_scale_of(checkpoint, found)


def choose(sequences: Sequences, wanted: Sequence[str], split: str) -> list[int]:
    """The places of the wanted sequences.

    Args:
        sequences: what to choose from.
        wanted: names, or numbers from 0; none for the first ones.
        split: what to call the sequences in an error.

    Raises:
        UserError: for a number out of range, or a name that is not there; it tells the nearest.
    """
    if not wanted:
        return list(range(min(DEFAULT_COUNT, len(sequences))))
    places: dict[int, None] = {}
    names: dict[str, int] | None = None
    for text in wanted:
        if text.isdecimal() and int(text) < len(sequences):
            places[int(text)] = None
            continue
        if names is None:
            names = {name: place for place, name in enumerate(sequences.names)}
        if text not in names:
            raise _missing(text, list(names), split)
        places[names[text]] = None
    return list(places)


def _missing(text: str, names: list[str], split: str) -> UserError:
    if text.lstrip("-").isdecimal():
        return UserError(
            f"sequence {text}: the {split} split has {len(names)} sequences; "
            f"give a number from 0 to {len(names) - 1}, or a name such as {names[0]}"
        )
    # Nearness is judged on names alone: their number may be large, their number shown is not.
    near = difflib.get_close_matches(text, names, n=SHOWN_NAMES, cutoff=0.4) or names[:SHOWN_NAMES]
    return UserError(
        f"sequence {text!r}: is not in the {split} split; the nearest names are {', '.join(near)}"
    )
