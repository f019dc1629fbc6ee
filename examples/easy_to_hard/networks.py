"""Convolutional networks that iterate a block, over sequences (1-D) and images (2-D).

All are a projection, iterations of a residual block, and a head that can answer after any
iteration. Layers, widths and the absence of biases are those of the published networks; sequences
run through the same two-dimensional layers with kernels of 1 x 3, which lets one code serve both
and computes channels-last, the fast layout on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

NETWORKS = ("recall", "recurrent", "feed-forward")
"""The names of networks for :func:`build`."""


class IteratedNetwork(nn.Module):
    """A network that refines a state (B, width, *cells) and can answer after every iteration.

    Inputs are (B, channels, *cells) with one or two dimensions of cells.

    Args:
        dimensions: 1 for sequences, 2 for images.
        channels: of the inputs.
        width: channels of a state.
        classes: number of answers to choose from in each cell.
        blocks: residual blocks in an iteration; two in the published networks.
    """

    def __init__(
        self, dimensions: int, channels: int, width: int, classes: int = 2, *, blocks: int = 2
    ) -> None:
        super().__init__()
        if dimensions not in (1, 2):
            raise ValueError(f"dimensions is {dimensions}; choose 1 (sequences) or 2 (images)")
        self.dimensions = dimensions
        self.width = width
        self.classes = classes
        self.num_blocks = blocks
        # The published heads narrow by halves over sequences and to 32 and 8 over images.
        first, second = (width, width // 2) if dimensions == 1 else (32, 8)
        self.head_radius = 3  # one cell for each convolution
        self.projection = self.convolution(channels, width)
        self.head = nn.Sequential(
            self.convolution(width, first),
            nn.ReLU(),
            self.convolution(first, second),
            nn.ReLU(),
            self.convolution(second, classes),
        )

    def convolution(self, channels: int, width: int) -> nn.Conv2d:
        """A convolution over three cells in each dimension, without bias."""
        kernel, padding = ((1, 3), (0, 1)) if self.dimensions == 1 else (3, 1)
        layer = nn.Conv2d(channels, width, kernel, padding=padding, bias=False)
        layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
        return layer

    def initial_state(self, inputs: Tensor) -> Tensor:
        """The state before the first iteration, (B, width, *cells)."""
        return self._cells(functional.relu(self.projection(self._image(inputs))))

    def answer(self, state: Tensor) -> Tensor:
        """Logits of the answers, (B, classes, *cells)."""
        return self._cells(self.head(self._image(state)))

    def iterate_from(
        self, state: Tensor, inputs: Tensor, count: int, first: int = 0, noise: float = 0.0
    ) -> Tensor:
        """The state after ``count`` more iterations.

        Args:
            state: the state now, (B, width, *cells).
            inputs: the problem, (B, channels, *cells).
            count: how many iterations to do.
            first: how many were done before.
            noise: standard deviation of normal noise that every iteration adds to the state,
                relative to the state's mean magnitude.
        """
        state, image = self._image(state), self._image(inputs)
        for iteration in range(first, first + count):
            state = self.iterate(state, image, iteration)
            if noise:
                scale = noise * state.detach().abs().mean()
                state = torch.addcmul(state, _channels_last_normal(state), scale)
        return self._cells(state)

    def states(self, inputs: Tensor, iterations: int) -> Iterator[Tensor]:
        """The state after each of the iterations, (B, width, *cells), one after another."""
        state = self.initial_state(inputs)
        for iteration in range(iterations):
            state = self.iterate_from(state, inputs, 1, iteration)
            yield state

    def forward(self, inputs: Tensor, iterations: int) -> Tensor:
        """Logits (B, classes, *cells) after a number of iterations."""
        return self.answer(self.iterate_from(self.initial_state(inputs), inputs, iterations))

    @property
    def longest(self) -> int | None:
        """The most iterations it can do; None where there is no limit."""
        return None

    @property
    def radius(self) -> int:
        """How many cells away a state can be and still decide about another after an iteration."""
        # Each of the two convolutions of a block reaches one cell further.
        return 2 * self.num_blocks

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        """One iteration on four-dimensional tensors, (B, width, rows, columns)."""
        # Not abstract: an abstract class could not be turned into a PyroModule.
        raise NotImplementedError(f"{type(self).__name__} has no iterations of its own")

    def _image(self, values: Tensor) -> Tensor:
        if self.dimensions == 1:
            values = values.unsqueeze(2)
        return values.contiguous(memory_format=torch.channels_last)

    def _cells(self, values: Tensor) -> Tensor:
        return values.squeeze(2) if self.dimensions == 1 else values


class ResidualBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), (B, width, rows, columns) to the same shape."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class RecurrentNetwork(IteratedNetwork):
    """The same residual blocks iterated, with recall or without.

    With recall every iteration begins with a convolution over the state and the inputs, so that
    the problem is not forgotten over many iterations.

    Args:
        recall: whether the inputs are given again in every iteration.
        state_bound: largest value of a state after an iteration, None for any. A bounded state
            cannot carry small differences through many iterations.
        others: as in :class:`IteratedNetwork`.

    Source: with recall section 3 of arXiv:2202.05826, without arXiv:2106.04537::

        @inproceedings{bansal2022endtoend,
          title={End-to-end Algorithm Synthesis with Recurrent Networks: Extrapolation without
                 Overthinking},
          author={Bansal, Arpit and Schwarzschild, Avi and Borgnia, Eitan and Emam, Zeyad and
                  Huang, Furong and Goldblum, Micah and Goldstein, Tom},
          booktitle={Advances in Neural Information Processing Systems}, year={2022}
        }
        @inproceedings{schwarzschild2021can,
          title={Can You Learn an Algorithm? Generalizing from Easy to Hard Problems with
                 Recurrent Networks},
          author={Schwarzschild, Avi and Borgnia, Eitan and Gupta, Arjun and Huang, Furong and
                  Vishkin, Uzi and Goldblum, Micah and Goldstein, Tom},
          booktitle={Advances in Neural Information Processing Systems}, year={2021}
        }
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        width: int,
        classes: int = 2,
        *,
        recall: bool = True,
        state_bound: float | None = None,
        blocks: int = 2,
    ) -> None:
        super().__init__(dimensions, channels, width, classes, blocks=blocks)
        self.state_bound = state_bound
        self.recall = self.convolution(width + channels, width) if recall else None
        self.block = _residual_blocks(self)

    @property
    def radius(self) -> int:
        return super().radius + (self.recall is not None)

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        del iteration
        if self.recall is not None:
            state = self.recall(torch.cat([state, image], dim=1))
            # The published image network has no activation here, the sequence network has one.
            state = functional.relu(state) if self.dimensions == 1 else state
        state = self.block(state)
        return state if self.state_bound is None else state.clamp(max=self.state_bound)


class FeedForwardNetwork(IteratedNetwork):
    """The recurrent network without recall, unrolled into layers with separate weights.

    Args: as in :class:`IteratedNetwork`, and
        iterations: how many there are, each with weights of its own.
    """

    def __init__(
        self,
        dimensions: int,
        channels: int,
        width: int,
        classes: int = 2,
        *,
        iterations: int,
        blocks: int = 2,
    ) -> None:
        super().__init__(dimensions, channels, width, classes, blocks=blocks)
        self.blocks = nn.ModuleList(_residual_blocks(self) for _ in range(iterations))

    @property
    def longest(self) -> int:
        return len(self.blocks)

    def iterate(self, state: Tensor, image: Tensor, iteration: int) -> Tensor:
        del image
        return self.blocks[iteration](state)


def keep_sizes(network: IteratedNetwork, branch: float = 0.1) -> None:
    """Initialize a network so that states keep their size over many iterations, in place.

    torch's default, which the published networks use, shrinks a state in every convolution outside
    a residual branch, so that some trainings do not find the recurrence. Here convolutions before a
    ReLU keep the size of their inputs (He et al., arXiv:1502.01852), and residual branches begin
    small.

    Args:
        network: the network.
        branch: size of a residual branch relative to its input.
    """
    for name, weight in network.named_parameters():
        scale = branch if name.endswith("second.weight") else 1.0
        nn.init.normal_(weight, 0, scale * (2 / weight[0].numel()) ** 0.5)


def _channels_last_normal(like: Tensor) -> Tensor:
    """Standard normal numbers of a shape (B, width, rows, columns), channels last.

    ``torch.randn_like`` fills a tensor that is not contiguous one number at a time.
    """
    shape = like.movedim(1, -1).shape
    return torch.randn(shape, dtype=like.dtype, device=like.device).movedim(-1, 1)


def _residual_blocks(network: IteratedNetwork) -> nn.Sequential:
    sizes = network.width, network.width
    blocks = (
        ResidualBlock(network.convolution(*sizes), network.convolution(*sizes))
        for _ in range(network.num_blocks)
    )
    return nn.Sequential(*blocks)


def build(
    name: str,
    dimensions: int,
    channels: int,
    width: int,
    classes: int,
    iterations: int,
    state_bound: float | None = None,
    blocks: int = 2,
) -> IteratedNetwork:
    """A network by name, see :data:`NETWORKS`; ``state_bound`` is that of the recurrent ones.

    Raises:
        ValueError: for another name.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    shape = dimensions, channels, width, classes
    if name == "feed-forward":
        return FeedForwardNetwork(*shape, iterations=iterations, blocks=blocks)
    recall = name == "recall"
    return RecurrentNetwork(*shape, recall=recall, state_bound=state_bound, blocks=blocks)
