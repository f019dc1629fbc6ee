"""Sums over training steps that stay on the device until someone reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zpyro.objectives.elbo import ObjectiveTerms

TERMS = ("loss", "log_likelihood", "kl", "log_auxiliary", "log_reverse")
COLUMNS = ("steps", "sequences", "frames", "gradient_norm", *TERMS)
"""What is summed over the good steps."""
NONFINITE_ORDER = ("log_likelihood", "kl", "log_auxiliary", "log_reverse", "loss", "gradient_norm")
"""What a step that is not finite is blamed on, in the order in which it is computed."""


class MetricAccumulator:
    """What the steps since the last record gave, and how many were skipped.

    Adding to it never waits for the device, so the host runs ahead of an accelerator; reading does.

    Args:
        device: where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(COLUMNS), dtype=torch.float64, device=device)
        self._skipped = torch.zeros(2, dtype=torch.float64, device=device)
        self._seen = torch.zeros(1, dtype=torch.float64, device=device)
        # Step and term of the first bad one: since the last record, and of those in a row.
        self._first = torch.zeros(2, 2, dtype=torch.float64, device=device)
        self._order = torch.tensor(
            [COLUMNS[3:].index(name) for name in NONFINITE_ORDER], device=device
        )
        self._falling = torch.arange(len(NONFINITE_ORDER), 0, -1, device=device)

    def add(self, terms: ObjectiveTerms, norm: Tensor, sequences: Tensor, frames: Tensor) -> Tensor:
        """Take in one step if all its numbers are finite; gives whether they are, a bool tensor.

        Args:
            terms: sums over the step's sequences.
            norm: length of its gradient.
            sequences: B, a 0-dim tensor.
            frames: how many frames were scored, a 0-dim tensor.
        """
        values = torch.stack([norm, terms.loss, *terms.values.values()]).double()
        good = values.isfinite().all()
        frames = frames.to(values)
        counts = torch.stack([torch.ones_like(frames), sequences.to(frames), frames])
        row = torch.cat([counts, values])
        self._sums += row.where(good, 0.0)
        bad = (~good).double()
        # In all, and in a row: one good step ends the row.
        self._skipped += bad
        self._skipped[1].mul_(bad)
        self._note(values.isfinite(), bad)
        return good

    def _note(self, finite: Tensor, bad: Tensor) -> None:
        """Keep the step and its first bad term, where it is the first bad step."""
        self._seen += 1
        # Of several largest ones argmax takes any: falling numbers make the first the largest.
        term = (~finite[self._order] * self._falling).argmax(0, keepdim=True)
        found = torch.cat([self._seen, term.double()])
        is_first = (self._first[:, :1] == 0) & bad.bool()
        self._first.copy_(found.where(is_first, self._first))
        self._first[1].mul_(bad)

    def first_nonfinite(self, *, in_a_row: bool = False) -> tuple[int, str] | None:
        """Step (from 1) and name of the first term that was not finite since :meth:`clear`.

        Args:
            in_a_row: of the steps skipped in a row up to now instead.

        Returns:
            None where every step was finite. The term is one of the objective's, or
            "gradient_norm" where they were all finite and the gradient alone was not.
        """
        step, term = (int(number) for number in self._first[int(in_a_row)].tolist())
        return (step, NONFINITE_ORDER[term]) if step else None

    def clear(self) -> None:
        """Begin a new interval; the counts of skipped steps go on."""
        self._sums.zero_()
        self._first[0].zero_()

    def read(self) -> dict[str, float]:
        """The sums by the names of :data:`COLUMNS`."""
        return dict(zip(COLUMNS, self._sums.tolist(), strict=True))

    def skipped(self) -> tuple[int, int]:
        """Steps skipped because they were not finite: in all, and in a row up to now."""
        total, in_a_row = self._skipped.tolist()
        return int(total), int(in_a_row)

    def state(self) -> dict[str, Any]:
        """As plain numbers."""
        return {name: part.tolist() for name, part in self._parts().items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`state` gave.

        Raises:
            KeyError, RuntimeError: if the state is not one of these.
        """
        for name, part in self._parts().items():
            part.copy_(torch.tensor(state[name], dtype=torch.float64))

    def _parts(self) -> dict[str, Tensor]:
        return {
            "sums": self._sums,
            "skipped": self._skipped,
            "seen": self._seen,
            "first": self._first,
        }


def means(sums: dict[str, float], seconds: float) -> dict[str, float | None]:
    """Each term per sequence and per frame, the gradient's norm per step, and the speed."""
    named = {name: sums[name] for name in TERMS}
    named["bound"] = named["log_likelihood"] - named["kl"]
    per_sequence = {name: _ratio(total, sums["sequences"]) for name, total in named.items()}
    per_frame = {
        f"{name}_per_frame": _ratio(total, sums["frames"]) for name, total in named.items()
    }
    return {
        **per_sequence,
        **per_frame,
        "gradient_norm": _ratio(sums["gradient_norm"], sums["steps"]),
        "frames_per_second": _ratio(sums["frames"], seconds),
    }


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None
