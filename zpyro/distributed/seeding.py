"""Seeds and states of random number generators."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zpyro.nn.devices import accelerators, rng_states, set_rng_states


def seed_everything(seed: int) -> None:
    """Seed torch's generators of every device, for weights, training noise and prior samples.

    Data sets and their batches take their seeds as arguments.
    """
    torch.manual_seed(seed)


def random_states() -> dict[str, object]:
    """The state of every generator that training uses, as plain tensors."""
    devices = accelerators()
    kind = devices[0].type if devices else "cuda"
    return {"cpu": torch.get_rng_state(), kind: rng_states(devices)}


def restore_random_states(states: dict[str, object]) -> None:
    """Restore :func:`random_states`; states of devices that this machine lacks are ignored."""
    cpu, devices = states["cpu"], accelerators()
    assert isinstance(cpu, Tensor)
    torch.set_rng_state(cpu)
    saved = states.get(devices[0].type) if devices else None
    if isinstance(saved, list) and len(saved) == len(devices):
        set_rng_states(devices, saved)


def named_noise(names: Sequence[str], steps: int, size: int, seed: int, draw: int = 0) -> Tensor:
    """Standard normal noise (B, steps, size) that depends on the names of the sequences.

    A sequence has the same noise in every batch, in every order and on every device.

    Args:
        names: of the sequences.
        steps: T, of the padded batch.
        size: Z.
        seed: of the noise.
        draw: number of the particle.
    """
    noise = np.empty((len(names), steps, size), dtype=np.float32)
    for row, name in enumerate(names):
        key = zlib.crc32(name.encode("utf-8", "surrogateescape"))
        np.random.default_rng([seed, draw, key]).standard_normal(out=noise[row], dtype=np.float32)
    return torch.from_numpy(noise)
