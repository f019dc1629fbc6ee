"""Conversion of older checkpoints while they are read, from one format version to the next.

A change of the format raises :data:`zpyro.io.manifest.FORMAT`, adds the function from the version
before to :data:`METADATA` (and to :func:`convert_state` for the state of a training), and commits a
small run of the old format to the tests. Checkpoints are written in the newest format only, so the
next checkpoint of a resumed run is converted for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zpyro.io.manifest import FORMAT


def convert_metadata(meta: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a checkpoint in the newest format.

    Args:
        meta: of any format that :func:`zpyro.io.manifest.read` accepts; it is not changed.
    """
    while (version := meta["format"]) < FORMAT:
        meta = {**METADATA[version](meta), "format": version + 1}
    return meta


def _metadata_to_2(meta: dict[str, Any]) -> dict[str, Any]:
    """Data types have a name of their own; some checkpoints of format 1 have it already."""
    data = meta.get("data")
    if isinstance(data, dict) and "kind" in data:
        return {**meta, "data": {"data_type" if k == "kind" else k: v for k, v in data.items()}}
    return meta


METADATA: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _metadata_to_2}
"""For each older format, the function that gives the metadata of the next one."""


_SAME_IN_1 = (
    *("step", "epoch", "batch", "seconds", "best", "validated"),
    *("interval_seconds", "steps_per_epoch", "extra_steps"),
)
"""Fields of a training's position that had these names in format 1 too; one had another."""


def convert_state(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a training in the newest format; older ones are known by their keys.

    Format 2 renamed ``position``, ``tally``, ``carried``, and ``adam`` in the optimizer's state.
    """
    if "position" not in state:
        return state
    names = {"position": "train_state", "tally": "accumulator", "carried": "task"}
    state = {names.get(name, name): part for name, part in state.items()}
    optimizer, train_state = state.get("optimizer"), state["train_state"]
    if isinstance(optimizer, dict) and "adam" in optimizer:
        state["optimizer"] = {**optimizer, "optimizer": optimizer["adam"]}
    if isinstance(train_state, dict) and "evals_without_improvement" not in train_state:
        state["train_state"] = {
            name if name in _SAME_IN_1 else "evals_without_improvement": value
            for name, value in train_state.items()
        }
    return state
