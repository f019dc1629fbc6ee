"""The sizes that are benchmarked, and the operations of a training step of each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A model and a batch.

    Attributes:
        hidden: H, of the forward and the backward LSTM.
        latent: Z.
        embedding: E, of e(x).
        mlp: width of the MLPs and of g(z).
        sequences: B.
        steps: T.
        frame: D, samples in a frame.
    """

    hidden: int
    latent: int
    embedding: int
    mlp: int
    sequences: int
    steps: int
    frame: int = 200

    @property
    def frames(self) -> int:
        """Frames in a batch."""
        return self.sequences * self.steps

    @property
    def operations(self) -> float:
        """Floating-point operations of the products in one training step.

        Two per weight and frame in the forward pass and twice that in the backward pass, for the
        products of the equations, even if an implementation merges some.
        """
        weights = self.parameters + self.frame * self.embedding  # e(x) as input and as target
        return 3.0 * 2.0 * weights * self.frames

    @property
    def parameters(self) -> int:
        """Number of weights of the model without biases."""
        h, z, e, m, d = self.hidden, self.latent, self.embedding, self.mlp, self.frame
        return (
            d * e
            + 4 * h * (e + h)  # backward LSTM
            + z * m + 4 * h * (m + e + h)  # g, forward LSTM
            + m * (h + 2 * z)  # prior
            + m * (2 * h + 2 * z)  # posterior
            + m * (h + z + 2 * h)  # auxiliary
            + 2 * h * 2 * d  # likelihood and reverse
        )  # fmt: skip


SIZES = {
    "small": Size(256, 64, 128, 128, sequences=32, steps=40),
    "timit": Size(1024, 256, 512, 512, sequences=32, steps=40),
    "blizzard": Size(2048, 256, 1024, 1024, sequences=128, steps=40),
    "long": Size(256, 64, 128, 128, sequences=32, steps=784),
}

TINY = Size(8, 2, 4, 4, sequences=2, steps=3, frame=3)
"""A size for tests, which takes no time."""
