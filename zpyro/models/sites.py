"""Reading the sites of a Pyro trace."""

from __future__ import annotations

from typing import Any, cast

from pyro.poutine.trace_struct import Trace

Site = dict[str, Any]
"""One node of a trace: name, fn, value, log_prob, scale, mask, infer, ..."""


def sample_sites(trace: Trace) -> dict[str, Site]:
    """The sample sites of a trace, latent and observed, in the order they ran."""
    sites = cast(dict[str, Site], trace.nodes)
    return {name: site for name, site in sites.items() if site["type"] == "sample"}
