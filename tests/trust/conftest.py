"""The small data sets of the command line's tests."""

from __future__ import annotations

from tests.cli.conftest import arrays, zpyro

__all__ = ["arrays", "zpyro"]
