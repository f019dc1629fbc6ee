"""Tiny networks and problems for the easy-to-hard tests."""

from __future__ import annotations

import torch
from torch import Tensor

from zpyro_examples.easy_to_hard import networks
from zpyro_examples.easy_to_hard.networks import IteratedNetwork
from zpyro_examples.easy_to_hard.prefix_sums import PrefixSums

ITERATIONS = 5


def network(
    name: str = "recall", dimensions: int = 1, seed: int = 0, width: int = 6, blocks: int = 2
) -> IteratedNetwork:
    """A narrow network with weights large enough that answers differ from a coin's."""
    torch.manual_seed(seed)
    channels = 1 if dimensions == 1 else 3
    built = networks.build(name, dimensions, channels, width, 2, ITERATIONS, blocks=blocks)
    with torch.no_grad():
        for weight in built.parameters():
            weight.mul_(2.0)
    return built.double()


def strings(bits: int = 9, count: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs (count, 1, bits) in float64 and targets (count, bits)."""
    inputs, targets = PrefixSums(bits, count).tensors()
    return inputs.double(), targets.long()
