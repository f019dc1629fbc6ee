"""The chess task: presets, splits by rating, the two highest squares, and a move forming.

A size is the lower end of a band of :data:`BAND` rating points; size 0 stands for all ratings.
Puzzles are sorted by rating. Training sees the easier ones but for a few held out evenly, half of
those validate, and the test problems are the other half and the harder puzzles.
"""

from __future__ import annotations

import functools
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from zpyro.errors import UserError

from .chess import ChessPuzzles, read_puzzles
from .chess_archive import archived_puzzles
from .chess_pictures import show
from .chess_players import chance, greedy
from .tasks import Examples, Preset, Request, Task

BAND = 200
"""Rating points in a band."""

PRESETS = {
    "quick": Preset(
        width=48,
        iterations=6,
        progressive_weight=0.5,
        train_size=0,
        train_count=15_000,
        epochs=5,
        batch_size=32,
        weight_decay=1e-4,
        average=0.998,
        precision="bfloat16",
        valid_sizes=(0,),
        test_sizes=(0, 800, 1200, 1600, 1800, 2000, 2200, 2400),
        options={"train_part": 0.75, "held_out_every": 20, "mirrored": True},
    ),
    "published": Preset(
        width=512,
        iterations=30,
        progressive_weight=0.5,
        train_size=0,
        train_count=600_000,
        epochs=120,
        batch_size=300,
        learning_rate=1e-2,
        optimizer="sgd",
        weight_decay=2e-4,
        clip_norm=None,
        schedule="steps",
        milestones=(100, 110),
        warmup=3.0,
        valid_sizes=(0,),
        test_sizes=(0,),
        options={"train_to": 600_000, "test_to": 700_000, "held_out_every": 200},
    ),
}


def build(request: Request) -> Examples:
    """Puzzles of one band of ratings."""
    puzzles = chosen(request)
    turned = bool(request.options.get("turned", True))
    inputs, targets = puzzles.planes(turned), puzzles.squares(turned)
    if request.split == "train" and request.options.get("mirrored"):
        # Left and right differ only by castling, which few puzzles ask for.
        inputs, targets = (
            torch.cat([inputs, inputs.flip(-1)]),
            torch.cat([targets, targets.flip(-1)]),
        )
    return Examples(inputs, targets)


def chosen(request: Request) -> ChessPuzzles:
    """The puzzles that a request asks for.

    Raises:
        UserError: if no file was named, or it has no such puzzles.
    """
    if request.source is None:
        raise UserError("chess needs --data FILE, a puzzle export of database.lichess.org")
    puzzles = _read(request.source, bool(request.options.get("skip_bad", False)))
    split = _split(puzzles, request)
    if request.size:
        ratings = puzzles.ratings[split]
        split = split[(ratings >= request.size) & (ratings < request.size + BAND)]
    if not len(split):
        which = f"rated {request.size} to {request.size + BAND - 1}" if request.size else "at all"
        raise UserError(f"{request.source}: has no {request.split} puzzle {which}")
    if len(split) > request.count:
        order = np.random.default_rng([request.seed, request.size]).permutation(len(split))
        split = np.sort(split[order[: request.count]])
    return puzzles[split]


def _split(puzzles: ChessPuzzles, request: Request) -> np.ndarray:
    """Indices of the puzzles of a split, in the order of their ratings."""
    options = request.options
    part = float(options.get("train_part") or 0.75)
    cut = int(options.get("train_to") or part * len(puzzles))
    end = int(options.get("test_to") or len(puzzles))
    every = int(options.get("held_out_every") or 20)
    if len(puzzles) < end:
        raise UserError(
            f"{request.source}: has {len(puzzles):,} puzzles; this preset needs {end:,}, "
            "or take --preset quick"
        )
    easier = np.arange(cut)
    held_out = easier % every == every // 2
    valid = held_out & (easier // every % 2 == 0)
    if request.split == "train":
        return easier[~held_out]
    if request.split == "valid":
        return easier[valid]
    harder = np.arange(cut, end)
    # "All ratings" are the harder ones, as published; a band takes what was not trained on.
    return np.concatenate([easier[held_out & ~valid], harder]) if request.size else harder


def _read(source: Path, skip_bad: bool) -> ChessPuzzles:
    if source.is_dir():
        return _archived(source)
    if not source.is_file():
        raise UserError(f"{source}: there is no such file")
    return _exported(source, skip_bad, source.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _exported(source: Path, skip_bad: bool, _changed: int) -> ChessPuzzles:
    puzzles = read_puzzles(source, skip_bad)
    if puzzles.skipped:
        click.echo(
            f"{source}: {puzzles.skipped} bad rows skipped, the first: {puzzles.first_damage}",
            err=True,
        )
    return puzzles


@functools.lru_cache(maxsize=1)
def _archived(source: Path) -> ChessPuzzles:
    return archived_puzzles(source)


def correct(inputs: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """Whether the two most probable squares are those of the move, (B,)."""
    del inputs
    highest = (logits[:, 1] - logits[:, 0]).flatten(1).topk(2).indices
    return targets.flatten(1).gather(1, highest).bool().all(1)


def one_for_all(size: int) -> float:
    """Every board is as large as any other: no band gets more iterations than another."""
    del size
    return 1.0


def players(request: Request) -> dict[str, float]:
    """What players without learning solve of the same puzzles."""
    puzzles = chosen(request)
    return {"any legal move": chance(puzzles), "greedy": greedy(puzzles)}


TASK = Task(
    name="chess",
    dimensions=2,
    channels=12,
    classes=2,
    presets=PRESETS,
    build=build,
    correct=correct,
    show=show,
    difficulty=one_for_all,
    players=players,
    unit="rating",
    summary="the two squares of the best move",
)
