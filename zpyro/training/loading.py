"""Models from folders: :func:`load` and :func:`load_state`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch

from zpyro import settings
from zpyro.errors import UserError
from zpyro.io import files, tensor_files
from zpyro.io.paths import user_path
from zpyro.models import SequenceModel, saving
from zpyro.nn.devices import choose_device
from zpyro.training import checkpoint, custom_guides
from zpyro.training.custom_guides import GuideFactory
from zpyro.training.runs import CONFIG, Run, open_run


def load(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    classes: Iterable[type[Any]] = (),
    guide: Callable[[SequenceModel], Callable[..., Any]] | None = None,
) -> SequenceModel:
    """Read a model that ``model.save``, :func:`zpyro.fit` or ``zpyro train`` wrote.

    No code is imported: a class of your own must be imported before.

    Args:
        folder: of a saved model, or a run directory, whose best weights are read.
        device: where to put the model, such as "cuda", or "auto".
        classes: classes of models and likelihoods of your own, where importing them is not enough
            (those of a script that ran before).
        guide: what makes the custom guide of the model, called with the model. Without it a saved
            model is read without its custom guide, and a run that was trained with one is refused.

    Returns:
        The model in evaluation mode; ``metadata`` holds what is known of its data and training.

    Raises:
        UserError: if the folder is missing, damaged or of another format, its class is not
            imported, or it is a run with a custom guide and ``guide`` is lacking or does not have
            its parameters; the message names it.

    Example::

        model = zpyro.load("tides")
        bound = zpyro.evaluate(model, data.test).elbo
    """
    place = user_path(folder)
    maker = None if guide is None else GuideFactory(guide)
    if (place / CONFIG).is_file():
        run = Run(place)
        place = run.best if run.has("best") else run.last
        if guide is None:
            _check_custom_guide(run, place)
    place = files.complete_folder(place)
    if not place.is_dir():
        raise UserError(f"{place}: is not a directory; give a saved model or a run directory")
    if saving.is_saved(place):
        model = cast(
            SequenceModel, saving.load(place, classes=classes, guide=maker and maker.attach)
        )
    else:
        held = checkpoint.load(place, guide=maker)
        model = held.model
        model.metadata = {
            "data": settings.plain(held.data),
            "fingerprint": held.fingerprint,
            "training": {"steps": held.step, "epochs": held.epoch, **(held.metrics or {})},
        }
    return model.to(choose_device(str(device)))


def copy_weights(model: SequenceModel, folder: str | Path) -> None:
    """Give a model the best weights of a run, or the last where it has no others.

    Raises:
        UserError: if it is no run, has no weights yet, or those of another model.
    """
    run = open_run(folder)
    place = run.best if run.has("best") else run.last
    if not place.is_dir():
        raise UserError(f"{run.folder}: has no weights to start from; choose another run")
    try:
        model.load_state_dict(checkpoint.load_weights(place, model))
    except UserError as error:
        raise UserError(f"train.init, the weights to start from: {error}") from error


def _check_custom_guide(run: Run, checkpoint_folder: Path) -> None:
    """Check that a run was trained with the guide of its model.

    Raises:
        UserError: if it was trained with a custom guide.
    """
    record = custom_guides.recorded(run.folder)
    weights = files.complete_folder(checkpoint_folder) / checkpoint.MODEL
    found = tensor_files.names(weights) if weights.is_file() else []
    if record is None and not any(each.startswith(custom_guides.PREFIX) for each in found):
        return
    name = "GUIDE" if record is None else record.name
    where = "" if record is None else f" {name} of {record.file}"
    raise UserError(
        f"{run.folder}: was trained with a custom guide{where}, and no code is imported from a "
        f"run; import the guide and pass guide={name}"
    )


def load_state(folder: str | Path) -> dict[str, Any]:
    """Read the state that ``model.save(folder, state=...)`` wrote; tensors are on the CPU.

    Raises:
        UserError: if there is none, or it is damaged.
    """
    place = files.complete_folder(user_path(folder))
    if not (place / checkpoint.STATE).is_file():
        raise UserError(f"{place}: was saved without a state; pass state= to model.save")
    return checkpoint.load_state(place)
