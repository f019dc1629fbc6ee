"""Pyro traces: reading their sites, and replaying a model against the trace of a guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_struct import Trace

from zpyro.models.distributions import TrajectoryNormal

Site = dict[str, Any]
"""One node of a trace: name, fn, value, log_prob, scale, mask, infer, ..."""


def sample_sites(trace: Trace) -> dict[str, Site]:
    """The sample sites of a trace, latent and observed, in the order they ran."""
    sites = cast(dict[str, Site], trace.nodes)
    return {name: site for name, site in sites.items() if site["type"] == "sample"}


def replay_directly(model: Callable[..., Any], guide_trace: Trace) -> Callable[..., Any]:
    """``poutine.replay``, where the model also takes over the states that the guide computed.

    Only for a model that is called once, with the arguments of the guide and right after it, so
    that parameters and batch are still those that the states were computed from. Any later
    replay, and any of ``poutine.replay``, computes the states anew.

    Args:
        model: the program to replay.
        guide_trace: of the guide's call.
    """
    return _DirectReplay(trace=guide_trace)(model)


class _DirectReplay(ReplayMessenger):
    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if not msg["done"] or not isinstance(msg["fn"], TrajectoryNormal):
            return
        assert self.trace is not None
        node = cast(Site, self.trace.nodes.get(msg["name"], {}))
        if isinstance(node.get("fn"), TrajectoryNormal) and node["value"] is msg["value"]:
            msg["fn"].bound.adopt_path(msg["value"], node["fn"].bound)
