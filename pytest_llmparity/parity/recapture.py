"""How much of what stands out is asked again; apart from the checks, whose imports take seconds, for plans to know."""

from __future__ import annotations

ASKED_AGAIN = 8
"""Suspect documents that are asked again, the worst first; one that comes back is enough."""

IN_COMPANY_OF = 8
"""Other documents that suspects are asked again together with."""

MOST_ASKED_AGAIN = 2 * ASKED_AGAIN + IN_COMPANY_OF
"""Documents that are asked again at most: suspects alone, and the same with others in company."""
