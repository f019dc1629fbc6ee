"""Networks and inputs of a recurrence, small and seeded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zpyro.nn.layers import Cell, ConditionalLayerNormLSTM, GaussianMLP, LatentLSTM, State
from zpyro.nn.recurrence import Path, Recurrence

CELLS = {"lstm": LatentLSTM, "layer_norm": ConditionalLayerNormLSTM}


@dataclass(frozen=True)
class Case:
    """The arguments of a recurrence."""

    posterior: GaussianMLP
    cell: Cell
    backward: Tensor
    embedded: Tensor
    noise: Tensor
    state: State

    def run(self, recurrence: Recurrence) -> Path:
        return recurrence(
            self.posterior, self.cell, self.backward, self.embedded, self.noise, self.state
        )

    def to(self, *args: torch.dtype | torch.device | str) -> Case:
        """The same numbers with another dtype or device, as new leaves."""
        parts = (self.backward, self.embedded, self.noise, *self.state)
        moved = [leaf(part.detach().to(*args)) for part in parts]
        state = moved[3], moved[4]
        return Case(self.posterior.to(*args), self.cell.to(*args), *moved[:3], state)  # pyright: ignore[reportArgumentType]

    def leaves(self) -> dict[str, Tensor]:
        """All tensors that have gradients."""
        leaves = {
            "backward": self.backward,
            "embedded": self.embedded,
            "noise": self.noise,
            "h_0": self.state[0],
            "c_0": self.state[1],
        }
        for name, network in (("posterior", self.posterior), ("cell", self.cell)):
            leaves |= {f"{name}.{key}": value for key, value in network.named_parameters()}
        return leaves

    def replaced(self, **parts: Tensor | State) -> Case:
        return replace(self, **parts)


def leaf(values: Tensor) -> Tensor:
    return values.clone().requires_grad_()


def make(
    cell: str,
    *,
    sequences: int = 3,
    steps: int = 4,
    particles: int = 1,
    hidden: int = 6,
    latent: int = 2,
    embedded: int = 5,
    width: int = 4,
    scale: float = 1.0,
    seed: int = 0,
) -> Case:
    """A case in float64; a scale well above 1 drives every clamp to its bounds."""
    torch.manual_seed(seed)
    network = CELLS[cell](latent, embedded, width, hidden).double()
    posterior = GaussianMLP(2 * hidden, width, latent).double()
    for parameter in (*network.parameters(), *posterior.parameters()):
        nn.init.normal_(parameter, std=0.5 * scale)
    rows = particles * sequences

    def noise(*shape: int) -> Tensor:
        return leaf(torch.randn(*shape, dtype=torch.float64))

    return Case(
        posterior,
        network,
        noise(sequences, steps, hidden),
        noise(sequences, steps, embedded),
        noise(rows, steps, latent),
        (noise(rows, hidden), noise(rows, hidden)),
    )


def outputs(path: Path) -> dict[str, Tensor]:
    return {
        "z": path.z,
        "hidden": path.hidden,
        "mean": path.mean,
        "log_variance": path.log_variance,
        "h_T": path.state[0],
        "c_T": path.state[1],
    }


def gradients(case: Case, path: Path, which: tuple[str, ...] | None = None) -> dict[str, Tensor]:
    """Gradients of all leaves for a random weighted sum of the outputs, by default of all."""
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64, device=path.z.device)
    for name, value in outputs(path).items():
        weights = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if which is None or name in which:
            total = total + (value.double() * weights.to(value.device)).sum()
    leaves = case.leaves()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(leaves.items(), found, strict=True)
    }


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], relative: float) -> None:
    """Compare arrays with a tolerance relative to the largest element of each."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].shape == expected.shape, name
        scale = max(expected.abs().max().item(), 1e-8)
        error = (ours[name].double() - expected.double()).abs().max().item() / scale
        assert error <= relative, f"{name}: relative error {error:.3g}"
