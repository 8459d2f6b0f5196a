"""What a run looked at and what it did not, said in every report."""

from __future__ import annotations

from ..plan import ROLLOUT
from ..session import ParitySession


def not_covered(session: ParitySession) -> list[str]:
    """Return what no check of this version, or no prompt of this run, touched."""
    decoded = any(request.workload == ROLLOUT for request in session.plan.requests)
    missing = [] if decoded else ["decoding under load, caching and the deployed profile"]
    missing += ["structured output and tool calls", "stop strings", "latency"]
    if not session.has_reference:
        missing.append("who is wrong: there is no reference")
    manifest = session.manifest()
    return missing if manifest is None else [*missing, *manifest.gaps()]
