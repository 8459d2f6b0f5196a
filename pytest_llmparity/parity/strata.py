"""The paired rule on each kind of document by itself: a mean over all of them can hide one that is ruined.

R = 2 in one of eight kinds is 1.125 overall. A stratum is a kind of document (`workloads.coverage.kinds_of`),
or a place: the later half of every document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..captures.model import Capture, Scored
from ..stats.kernel import DOCUMENTS_TO_PASS, Levels
from ..verdicts import SEVERITY, Evidence, Verdict
from ..workloads.coverage import kinds_of
from ..workloads.model import Prompt, Workload
from .forced import ForcedDocuments, tabulate
from .paired import Finding, judge_documents
from .settled import settle

CHECK = "strata"

LATER = "later half"

STRATUM_MARGIN = 0.50
"""Margin of a stratum, in floors, at least: 32 documents cannot decide less."""

Row = tuple[Prompt, Scored, Scored, Scored]


@dataclass(frozen=True, eq=False)
class _Stratum:
    name: str
    documents: ForcedDocuments
    finding: Finding

    def line(self) -> str:
        """Return its result in words."""
        found = self.finding
        low, high = found.ratio.low, found.ratio.high
        interval = "" if low is None or high is None else f" ({max(low, 0.0):.2f} to {high:.2f})"
        return f"{self.name} R = {found.estimate}{interval}"

    def figures(self) -> dict[str, object]:
        """Return the numbers behind the words."""
        return {"verdict": self.finding.status, "why": self.finding.why, "power": self.finding.power} | (
            self.finding.figures()
        )


def compare_strata(
    workload: Workload,
    reference: Capture | None,
    baseline: Capture,
    candidate: Capture,
    *,
    margin: float,
    levels: Levels,
) -> Verdict:
    """Return the worst verdict of the paired rule over the strata of at least 32 documents, and what each is.

    The margin of a stratum is `margin`, but at least 0.50: a stratum holds a fraction of the documents. Its `fail`
    level is that of the check divided by the number of strata. Strata with fewer documents are counted, not judged.

    Raises:
        CapturesDiffer: when the captures are not of one workload, or are one and the same capture.
    """
    if (settled := settle(CHECK, workload, reference, baseline, candidate, levels)) is not None:
        return settled
    assert reference is not None
    rows = [(p, reference.scored(i), baseline.scored(i), candidate.scored(i)) for i, p in enumerate(workload.prompts)]
    dtype = str(baseline.fingerprint.get("dtype"))
    strata = {name: tabulate(part) for name, part in strata_of(rows).items()}
    return judge_strata(CHECK, strata, (baseline.arm, candidate.arm), margin=margin, levels=levels, dtype=dtype)


def judge_strata(
    check: str,
    strata: Mapping[str, ForcedDocuments],
    arms: tuple[str | None, str],
    *,
    margin: float,
    levels: Levels,
    dtype: str,
    yardstick: str = "the baseline",
) -> Verdict:
    """Return the worst verdict of the paired rule over strata given by name, and what each is.

    `yardstick` says in words, with its article, whose distances the baseline's are.
    """
    judged = {name: part for name, part in strata.items() if len(part.units) >= DOCUMENTS_TO_PASS}
    small = {name: len(part.units) for name, part in strata.items() if name not in judged}
    if not judged:
        least = f"no kind of document has the {DOCUMENTS_TO_PASS} that a verdict needs"
        return Verdict(check, "undecided", *arms, least, figures={"too_small": small})
    share, allowed = levels.shared(len(judged)), max(margin, STRATUM_MARGIN)
    found = []
    for name, documents in judged.items():
        finding = judge_documents(documents, margin=allowed, levels=share, dtype=dtype, yardstick=yardstick)
        found.append(_Stratum(name, documents, finding))
    return _verdict(check, found, small, arms)


def strata_of(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each stratum, by name; a row may be in several, and is cut where the stratum is a place."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name in kinds_of(row[0]):
            found.setdefault(name, []).append(row)
    found[LATER] = later_halves(rows)
    return {name: part for name, part in found.items() if part}


def later_halves(rows: Sequence[Row]) -> list[Row]:
    """Return the later half of every row that has two tokens or more."""
    halves = []
    for prompt, *scored in rows:
        half = len(scored[0].token_ids) // 2
        if half:
            one, two, three = (each.beginning_at(half) for each in scored)
            halves.append((prompt, one, two, three))
    return halves


def _verdict(check: str, strata: Sequence[_Stratum], small: Mapping[str, int], arms: tuple[str | None, str]) -> Verdict:
    status = min((each.finding.status for each in strata), key=SEVERITY.index)
    deciding = [each for each in strata if each.finding.status == status]
    if status == "pass":
        why = f"each within its margin: {', '.join(each.name for each in strata)}"
    else:
        why = "; ".join(f"{each.name}: {each.finding.why}" for each in deciding)
    return Verdict(
        check,
        status,
        *arms,
        why,
        measured="; ".join(each.line() for each in strata),
        limit=f"in each: {strata[0].finding.limit}",
        power="; ".join(f"{each.name}: {each.finding.power}" for each in strata)
        + "".join(f"; {name}: nothing, {n} documents are too few" for name, n in sorted(small.items())),
        prompts=sum(each.finding.used for each in strata),
        tokens=sum(each.finding.tokens for each in strata),
        evidence=_evidence(deciding) if status != "pass" else (),
        figures={"strata": {each.name: each.figures() for each in strata}, "too_small": dict(small)},
    )


def _evidence(strata: Sequence[_Stratum]) -> tuple[Evidence, ...]:
    return tuple(case for each in strata for case in (each.finding.spread, *each.documents.worst[:1]))
