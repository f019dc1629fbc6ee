"""Sums over training steps that stay on the device until they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zpyro.nn.devices import sum_dtype

COUNTS = ("steps", "sequences", "frames", "gradient_norm", "loss")
NONFINITE_ORDER = ("loss", "gradient_norm")
"""Checked for a first number that is not finite after the terms, in order of computation."""


class MetricAccumulator:
    """Sums of the finite steps since the last record, and counts of skipped steps.

    Adding never waits for the device, so the host runs ahead of an accelerator; reading does.

    Args:
        device: where the steps are computed.
        terms: names of the terms, in the order in which they are computed.

    Attributes:
        columns: what is summed: :data:`COUNTS`, then the terms.
    """

    def __init__(self, device: torch.device, terms: Sequence[str]) -> None:
        self.columns = (*COUNTS, *terms)
        self._order = (*terms, *NONFINITE_ORDER)
        kept: Any = {"dtype": sum_dtype(device), "device": device}
        self._sums = torch.zeros(len(self.columns), **kept)
        self._skipped = torch.zeros(2, **kept)
        self._seen = torch.zeros(1, **kept)
        # Step and term of the first one that is not finite: since the last record, and in a row.
        self._first = torch.zeros(2, 2, **kept)
        self._places = torch.tensor(
            [self.columns[3:].index(name) for name in self._order], device=device
        )
        self._falling = torch.arange(len(self._order), 0, -1, device=device)

    def add(
        self, values: Mapping[str, Tensor], norm: Tensor, sequences: Tensor, frames: Tensor
    ) -> Tensor:
        """Add one step if all its numbers are finite.

        Args:
            values: "loss" and the terms, sums over the step's sequences.
            norm: length of the gradient.
            sequences: B, a 0-dim tensor.
            frames: how many frames were scored, a 0-dim tensor.

        Returns:
            Whether they are, a 0-dim bool tensor.
        """
        row = torch.stack([norm, *(values[name] for name in self.columns[4:])]).to(self._sums)
        finite = row.isfinite()
        is_finite = finite.all()
        frames = frames.to(row)
        counts = torch.stack([torch.ones_like(frames), sequences.to(frames), frames])
        self._sums += torch.cat([counts, row]).where(is_finite, 0.0)
        skipped = (~is_finite).to(row)
        # In all, and in a row: one finite step ends the row.
        self._skipped += skipped
        self._skipped[1].mul_(skipped)
        self._seen += 1
        # Of several largest ones argmax takes any: falling numbers make the first the largest.
        term = (~finite[self._places] * self._falling).argmax(0, keepdim=True)
        found = torch.cat([self._seen, term.to(row)])
        is_first = (self._first[:, :1] == 0) & skipped.bool()
        self._first.copy_(found.where(is_first, self._first))
        self._first[1].mul_(skipped)
        return is_finite

    def first_nonfinite(self, *, in_a_row: bool = False) -> tuple[int, str] | None:
        """Step (from 1) and name of the first number that was not finite since :meth:`clear`.

        Args:
            in_a_row: of the steps skipped in a row up to now instead.

        Returns:
            None where every step was finite. The name is that of a term, "loss", or
            "gradient_norm" where only the gradient was not finite.
        """
        step, term = (int(number) for number in self._first[int(in_a_row)].tolist())
        return (step, self._order[term]) if step else None

    def clear(self) -> None:
        """Begin a new interval; the counts of skipped steps are kept."""
        self._sums.zero_()
        self._first[0].zero_()

    def read(self) -> dict[str, float]:
        """The sums by column."""
        return dict(zip(self.columns, self._sums.tolist(), strict=True))

    def skipped(self) -> tuple[int, int]:
        """Steps skipped because they were not finite: in all, and in a row up to now."""
        total, in_a_row = self._skipped.tolist()
        return int(total), int(in_a_row)

    def tensors(self) -> list[Tensor]:
        """What :meth:`add` changes in place."""
        return list(self._parts().values())

    def state_dict(self) -> dict[str, Any]:
        """The sums and counts as plain numbers."""
        parts: dict[str, Any] = {name: part.tolist() for name, part in self._parts().items()}
        return {**parts, "columns": list(self.columns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; of an objective with other terms, the counts.

        Raises:
            KeyError, RuntimeError: if the state has another form.
        """
        if state.get("columns", list(self.columns)) != list(self.columns):
            self._skipped[0] = state["skipped"][0]
            return
        for name, part in self._parts().items():
            part.copy_(torch.tensor(state[name], dtype=part.dtype))

    def _parts(self) -> dict[str, Tensor]:
        return {
            "sums": self._sums,
            "skipped": self._skipped,
            "seen": self._seen,
            "first": self._first,
        }


def means(sums: Mapping[str, float], seconds: float) -> dict[str, float | None]:
    """The loss and each term per sequence and per frame, the gradient norm per step, the speed.

    Args:
        sums: of :meth:`MetricAccumulator.read`, with any further sums of terms.
        seconds: spent on the steps.
    """

    def ratio(total: float, count: float) -> float | None:
        return total / count if count else None

    terms = {name: total for name, total in sums.items() if name not in COUNTS[:4]}
    return {
        **{name: ratio(total, sums["sequences"]) for name, total in terms.items()},
        **{f"{name}_per_frame": ratio(total, sums["frames"]) for name, total in terms.items()},
        "gradient_norm": ratio(sums["gradient_norm"], sums["steps"]),
        "frames_per_second": ratio(sums["frames"], seconds),
    }
