"""A model as a folder, for any class of models and however it was trained::

    model.safetensors   the weights
    meta.json           class, arguments, likelihood, metadata, and checksums
    state.pt            what continuing a training needs, if it was given
    README.md           a description for readers, if it was asked for

Nothing in it is unpickled, and no code is imported for it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from zpyro.errors import UserError
from zpyro.io import files, manifest, tensor_files, torch_files
from zpyro.io.manifest import META
from zpyro.io.paths import user_path
from zpyro.likelihoods import Likelihood
from zpyro.models import parameter_store
from zpyro.models.steps import StepwiseModel

MODEL, STATE, CARD = "model.safetensors", "state.pt", "README.md"
CUSTOM_GUIDE = "custom_guide."
"""Prefix of a custom guide's parameters among those of a model."""

T = TypeVar("T")


def save(
    model: StepwiseModel,
    folder: str | Path,
    *,
    state: Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write a model to a folder, as a whole or not at all; see ``SequenceModel.save``.

    Args:
        model: the model.
        folder: a new one, or one with a saved model, which is replaced.
        state: plain numbers, texts, lists, dictionaries and tensors.
        card: the text of the README.

    Raises:
        UserError: if the folder holds something else or cannot be written, or an argument or
            metadata of the model are not plain values.
    """
    place = user_path(folder)
    if place.exists() and not (place / META).is_file() and not _is_empty(place):
        raise UserError(f"{place}: holds something other than a model; choose another folder")
    likelihood, cls = model.likelihood, type(model)
    given = model.constructor_arguments
    arguments = {name: value for name, value in given.items() if not isinstance(value, Likelihood)}
    source = inspect.getsourcefile(cls) if cls.__module__ != "__main__" else None
    meta: dict[str, Any] = {
        "class": _path(cls),
        "source": Path(source).name if source else "",
        "arguments": arguments,
        "likelihood": {
            "class": _path(type(likelihood)),
            "fields": {
                field.name: getattr(likelihood, field.name)
                for field in dataclasses.fields(likelihood)
                if field.init
            },
            "argument": next((name for name in given if name not in arguments), ""),
        },
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "word_dropout": model.word_dropout,
        "mask_rate": model.mask_rate,
        "mask_length": model.mask_length,
        "fill": model.fill,
        "skip_gradient": model.skip_gradient,
        "store_name": model.store_name,
        "metadata": model.metadata,
    }
    for what in ("arguments", "likelihood", "metadata"):
        _check_plain(f"{cls.__name__}.save: {what}", meta[what])

    def fill(writing: Path) -> None:
        tensor_files.write(writing / MODEL, model.state_dict())
        if state is not None:
            torch_files.write(writing / STATE, dict(state))
        manifest.write(writing, meta)
        if card is not None:
            # Not among the checksums: its readers may edit it.
            (writing / CARD).write_text(card, encoding="utf-8")

    files.replace_folder(place, fill, keep_previous=False)


def is_saved(folder: Path) -> bool:
    """Whether a folder holds a model that :func:`save` wrote, rather than a run's checkpoint."""
    return "class" in manifest.read(folder)


def load(folder: Path, *, classes: Iterable[type[Any]] = (), guide: Any = None) -> StepwiseModel:
    """Read what :func:`save` wrote; the model is on the CPU and in evaluation mode.

    Args:
        folder: the folder.
        classes: classes of models and likelihoods to look among, beside those that are imported.
        guide: a function that gives the model its custom guide, called before weights are read.

    Raises:
        UserError: if it is missing, corrupt or of another format, its class is not among the
            imported ones, or its weights do not fit.
    """
    folder = files.complete_folder(folder)
    meta, source = manifest.read(folder), str(folder / META)
    manifest.check(folder / MODEL, meta)
    given = list(classes)
    stored = manifest.table(meta, "likelihood", source)
    density: Any = _find(stored.get("class"), Likelihood, given, source)
    fields, arguments = (
        _with_tuples(manifest.table(table, name, source))
        for table, name in ((stored, "fields"), (meta, "arguments"))
    )
    cls: Any = _find(meta.get("class"), StepwiseModel, given, source, str(meta.get("source", "")))
    dtype = getattr(torch, str(meta.get("dtype")), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(f"{source}: dtype is {meta.get('dtype')!r}; choose another folder")
    # Classes of others may compute with their parameters when they are made.
    is_own = cls.__module__.startswith("zpyro.")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta") if is_own else nullcontext():
            name = stored.get("argument")
            if name:
                arguments[str(name)] = density(**fields)
            model = cls(**arguments)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{source}: {cls.__name__} cannot be made of its arguments ({error}); use the version "
            "of its code that saved it"
        ) from error
    model = model.to(dtype)
    if guide is not None:
        guide(model)
    tensors = tensor_files.read(
        folder / MODEL, model.state_dict(), optional=CUSTOM_GUIDE if guide is None else None
    )
    # Copies: tensors of a file need not begin where the processor reads fastest.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    model.load_state_dict(copies, assign=True)
    model.word_dropout = float(meta.get("word_dropout", 0.0))
    model.mask_rate = float(meta.get("mask_rate", 0.0))
    model.mask_length = int(meta.get("mask_length", 1))
    model.fill = str(meta.get("fill", "zeros"))
    model.skip_gradient = float(meta.get("skip_gradient", 0.0))
    model.metadata = manifest.table(meta, "metadata", source)
    model.store_name = parameter_store.claim_name(model, str(meta.get("store_name", "")) or None)
    return model.eval().requires_grad_(True)


def _path(cls: type[Any]) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _find(
    path: object, base: type[T], given: list[type[Any]], source: str, file: str = ""
) -> type[T]:
    """The class of a path among those of the user's and the imported ones.

    Raises:
        UserError: naming what to import.
    """
    module, _, name = str(path).partition(":")
    for cls in given:
        if issubclass(cls, base) and cls.__qualname__ == name:
            return cls
    # Of a class that was defined again, as in a notebook, the newest counts.
    found = [cls for cls in _subclasses(base) if _path(cls) == path]
    # A module may have become a package since the model was saved.
    found = found or [
        cls
        for cls in _subclasses(base)
        if cls.__qualname__ == name and cls.__module__.startswith(f"{module}.")
    ]
    if found:
        return found[-1]
    where = f"{file} (module {module})" if file else f"the module {module}"
    raise UserError(
        f"{source}: needs the class {name} of {where}; import it first, or pass classes=[{name}]"
    )


def _subclasses(base: type[T]) -> Iterator[type[T]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def _check_plain(label: str, value: object) -> None:
    """Raise UserError unless JSON holds the value."""
    if value is None or isinstance(value, int | str):
        return
    if isinstance(value, float) and math.isfinite(value):
        return
    if isinstance(value, list | tuple):
        for item in cast("list[object]", value):
            _check_plain(label, item)
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            _check_plain(f"{label}.{key}", item)
        return
    raise UserError(
        f"{label}: is {value if isinstance(value, float) else f'a {type(value).__name__}'}, which "
        "a saved model cannot hold; use finite numbers, text, and lists and dictionaries of these"
    )


def _with_tuples(table: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as they were given: JSON has lists for tuples."""
    return {
        name: tuple(cast("list[Any]", value)) if isinstance(value, list) else value
        for name, value in table.items()
    }


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
