"""``vowels``: the built-in data set, a seeded synthetic voice (see :mod:`zpyro.datasets.voice`)."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zpyro.datasets import voice
from zpyro.datasets.entry import DatasetEntry
from zpyro.datasets.formats.audio import Waveform
from zpyro.datasets.formats.declared import DAMAGED
from zpyro.datasets.sequences import Dataset
from zpyro.datasets.splitting import split_by_name
from zpyro.datasets.wav import WavSettings, assemble
from zpyro.errors import UserError
from zpyro.io.cache import ADVICE, cache_folder

logger = logging.getLogger(__name__)

VERSION = 2
"""Part of the cache's name: raise it whenever the voice changes."""

SIDE_BY_SIDE = 150
"""Utterances synthesized together; more would only take more memory."""


@dataclass(frozen=True)
class VowelsSettings:
    """What the voice says.

    Attributes:
        utterances: how many.
        shortest: length of the shortest utterance, seconds.
        longest: length of the longest, seconds.
        frame_size: samples in a frame.
        segment_length: cut utterances into rows of at most so many scored frames; None keeps them.
        valid_fraction: share held out for validation.
        test_fraction: share held out for the test.
        seed: fixes every sound.
    """

    utterances: int = 600
    shortest: float = 0.5
    longest: float = 1.0
    frame_size: int = 200
    segment_length: int | None = 40
    valid_fraction: float = 0.1
    test_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("utterances", "frame_size", "segment_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"data.{name} is {value}; give a positive number")
        if not 0.1 <= self.shortest <= self.longest <= 60.0:
            raise UserError("data.shortest and data.longest must rise and lie within 0.1 and 60 s")
        if 2 * self.frame_size > self.shortest * voice.RATE:
            raise UserError(
                f"data.frame_size is {self.frame_size}; two frames must fit into data.shortest,"
                f" {self.shortest} s"
            )
        if self.seed < 0:
            raise UserError(f"data.seed is {self.seed}; give 0 or a positive number")


def load(settings: VowelsSettings) -> Dataset:
    """The utterances, synthesized once and cached (under $ZPYRO_CACHE or the user's cache folder).

    Raises:
        UserError: if a split would be empty.
    """
    waveforms = _cached(settings)
    names = [f"utterance_{i:04d}" for i in range(len(waveforms))]
    splits = split_by_name(
        names, settings.valid_fraction, settings.test_fraction, seed=settings.seed
    )
    framing = WavSettings(frame_size=settings.frame_size, segment_length=settings.segment_length)
    return assemble("vowels", names, waveforms, splits, voice.RATE, framing)


def synthesize(settings: VowelsSettings) -> list[Waveform]:
    """Every utterance at 16 kHz; the same settings give the same sounds (but for rounding).

    Each utterance has a seed of its own, so that the first ones are the same however many follow.
    """
    shortest = math.ceil(settings.shortest * voice.CONTROL_RATE)
    longest = max(shortest, round(settings.longest * voice.CONTROL_RATE))
    scores: list[voice.Score] = []
    sounds: list[np.random.SeedSequence] = []
    for seed in np.random.SeedSequence(settings.seed).spawn(settings.utterances):
        duration, score, sound = seed.spawn(3)
        ticks = int(np.random.default_rng(duration).integers(shortest, longest, endpoint=True))
        scores.append(voice.compose(score, ticks))
        sounds.append(sound)
    waveforms: list[Waveform] = []
    for begin in range(0, len(scores), SIDE_BY_SIDE):
        group = slice(begin, begin + SIDE_BY_SIDE)
        waveforms.extend(voice.synthesize(scores[group], sounds[group]))
    return waveforms


def _cached(settings: VowelsSettings) -> list[Waveform]:
    facts = (VERSION, settings.utterances, settings.shortest, settings.longest, settings.seed)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = cache_folder() / f"vowels-{key}.npz"
    try:
        # Opened here, so that a damaged file is closed all the same.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return list(np.split(kept["samples"], np.cumsum(kept["lengths"])[:-1]))
    except (*DAMAGED, KeyError):
        # Absent or damaged: it can always be made again.
        waveforms = synthesize(settings)
    _keep(path, waveforms)
    return waveforms


def _keep(path: Path, waveforms: list[Waveform]) -> None:
    lengths = np.array([len(waveform) for waveform in waveforms])
    writing = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(writing, samples=np.concatenate(waveforms), lengths=lengths)
        writing.replace(path)
    except OSError as error:
        # Without a place to keep it, it is made anew next time; nothing is lost but seconds.
        reason = error.strerror or error
        logger.warning("%s: cannot be written (%s); %s", path.parent, reason, ADVICE)
        with contextlib.suppress(OSError):
            writing.unlink(missing_ok=True)


def _load_entry(_folder: object, settings: VowelsSettings) -> Dataset:
    return load(settings)


ENTRY = DatasetEntry(
    "vowels",
    "built in: a synthetic voice, 16 kHz, frames of 200 samples",
    VowelsSettings,
    _load_entry,
)
