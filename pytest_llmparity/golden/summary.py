"""What a golden keeps of a capture: a line for each prompt, enough for the paired rule and for greedy text.

A golden and what is held against it are summarised by the same functions, each arm against the reference alone. So an
arm's KL is over the ids that it and the reference list, the support of `parity.divergence.distance`, where two live
arms have one support in common.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..captures.model import NO_ID, Capture, Scored
from ..parity.defaults import surprise
from ..parity.divergence import Floats, distance, measure
from ..parity.greedy import DEFECT_GAP
from ..parity.local_defects import token_errors
from ..parity.sharpness import covariance
from ..workloads.model import Workload

VOCABULARY = "vocabulary"
"""Name of the workload that has every token id."""

_BITS = 16


@dataclass(frozen=True)
class DocumentSummary:
    """Sums over the scored tokens of one document, in nats; `later_*` over its later half.

    `kl` is KL(reference || arm), `nll` that of the forced tokens, `regret` and `flips` are about the reference's best
    tokens, `covariance` and `variance` are those of `parity.sharpness.covariance`. `overlap` is the mean share of the
    reference's best ids that the arm lists. `worst_kl` is the largest of one token, at position `worst_at`; `off`
    is the furthest that one forced token's log-probability is off the reference's, at `off_at`. `bits` is a digest of
    all ids and log-probabilities.
    """

    prompt: str
    tokens: int
    kl: float
    nll: float
    regret: float
    flips: int
    later_tokens: int
    later_kl: float
    covariance: float
    variance: float
    overlap: float
    worst_kl: float
    worst_at: int
    off: float
    off_at: int
    bits: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data, numbers with seven digits."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> DocumentSummary:
        """Return the document that `to_json` described; raises TypeError or ValueError for anything else."""
        return cls(**{name: _typed(name, entry[name], kind) for name, kind in _FIELDS.items()})


@dataclass(frozen=True)
class TextSummary:
    """One greedy answer: its ids, text, end and counts, and what else the arm might have said.

    `others` are, by position, the ids whose log-probability is within 2 nats of the chosen one's, and how much less it
    is: a text that leaves this one at an id that is not there leaves it by more than any rounding moves. Where the
    engine lists less far down, the id -1 has the least that an unlisted one can be away.
    """

    prompt: str
    ids: tuple[int, ...]
    others: Mapping[int, tuple[tuple[int, float], ...]]
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    text: str | None
    bits: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        entry = asdict(self) | {"ids": list(self.ids)}
        entry["others"] = {str(at): [[i, _rounded(gap)] for i, gap in ids] for at, ids in self.others.items()}
        return entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> TextSummary:
        """Return the answer that `to_json` described; raises TypeError, ValueError or KeyError for anything else."""
        others = {int(at): tuple((int(i), float(gap)) for i, gap in ids) for at, ids in entry["others"].items()}
        counts = {name: entry[name] for name in ("finish_reason", "prompt_tokens", "completion_tokens", "text")}
        return cls(str(entry["prompt"]), tuple(int(i) for i in entry["ids"]), others, **counts, bits=str(entry["bits"]))

    def gap_to(self, token: int, at: int) -> tuple[float, bool]:
        """Return how much more the arm preferred its own token over another at a position, in nats.

        True with it: that is the least it can be.
        """
        known = dict(self.others.get(at, ()))
        if token in known:
            return known[token], False
        return known.get(NO_ID, math.nextafter(DEFECT_GAP, math.inf)), True


@dataclass(frozen=True)
class RolloutSummary:
    """One answer decoded under load: how far from fp32 each of its tokens was, in nats with 3 digits, and its text.

    `overlap` is the mean share of the reference's best ids that the arm lists. An answer of no token has no `kl`.
    """

    prompt: str
    kl: tuple[float, ...]
    overlap: float
    finish_reason: str | None
    text: str | None
    bits: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self) | {"kl": list(self.kl)}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> RolloutSummary:
        """Return the answer that `to_json` described; raises TypeError, ValueError or KeyError for anything else."""
        kl = tuple(_typed("kl", value, float) for value in entry["kl"])
        told = {name: entry[name] for name in ("finish_reason", "text")}
        return cls(str(entry["prompt"]), kl, _typed("overlap", entry["overlap"], float), **told, bits=entry["bits"])


@dataclass(frozen=True)
class DrawnSummary:
    """One answer drawn where no sampling parameter was sent, and how surprising its tokens are, in nats.

    `surprise` is the sum that `parity.defaults.surprise` returns.
    """

    prompt: str
    tokens: int
    surprise: float
    finish_reason: str | None
    text: str | None
    bits: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: _rounded(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> DrawnSummary:
        """Return the answer that `to_json` described; raises TypeError, ValueError or KeyError for anything else."""
        tokens, drawn = _typed("tokens", entry["tokens"], int), _typed("surprise", entry["surprise"], float)
        told = {name: entry[name] for name in ("finish_reason", "text")}
        return cls(str(entry["prompt"]), tokens, drawn, **told, bits=entry["bits"])


def summarise_scores(workload: Workload, reference: Capture, arm: Capture) -> list[DocumentSummary]:
    """Return the documents of a scored workload, in its order, as an arm scored them.

    Of the workload that has every id twice, an id is off as far as where it is least (`parity.local_defects`).
    """
    off = token_errors(arm, reference, least=workload.name == VOCABULARY)
    return [
        summarise_document(prompt.id, reference.scored(i), arm.scored(i), off[i])
        for i, prompt in enumerate(workload.prompts)
    ]


def summarise_texts(workload: Workload, arm: Capture) -> list[TextSummary]:
    """Return the answers to a generated workload, in its order; of private prompts without their text."""
    return [
        TextSummary(
            prompt.id,
            tuple(scored.token_ids.tolist()),
            _others(scored),
            answer.finish_reason,
            answer.prompt_tokens,
            answer.completion_tokens,
            None if workload.private or answer.text is None else _encodable(answer.text),
            bits_of(scored),
        )
        for prompt, (answer, scored) in zip(workload.prompts, arm.rows(), strict=True)
    ]


def summarise_rollouts(workload: Workload, arm: Capture, reference: Capture) -> list[RolloutSummary]:
    """Return what an arm decoded, in the workload's order; `reference` scored the answers that have tokens."""
    rows = []
    for prompt, (answer, decoded) in zip(workload.prompts, arm.rows(), strict=True):
        kl, overlap = np.zeros(0), np.ones(1)
        if len(decoded.token_ids):
            kl, overlap = distance(reference.scored(reference.position(prompt.id)), decoded)
        text = None if workload.private or answer.text is None else _encodable(answer.text)
        short = tuple(_rounded(float(value), 3) for value in kl)
        share = _rounded(float(overlap.mean()))
        rows.append(RolloutSummary(prompt.id, short, share, answer.finish_reason, text, bits_of(decoded)))
    return rows


def summarise_drawn(workload: Workload, arm: Capture) -> list[DrawnSummary]:
    """Return what an arm drew by default, in the workload's order."""
    rows = []
    for prompt, (answer, drawn) in zip(workload.prompts, arm.rows(), strict=True):
        text = None if workload.private or answer.text is None else _encodable(answer.text)
        told = answer.finish_reason, text, bits_of(drawn)
        rows.append(DrawnSummary(prompt.id, len(drawn.token_ids), _rounded(surprise(drawn)), *told))
    return rows


def bits_of(scored: Scored) -> str:
    """Return a digest of all ids and log-probabilities, 64 bits of SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for array, kind in (
        (scored.token_ids, "<i4"),
        (scored.token_logprobs, "<f4"),
        (scored.top_ids, "<i4"),
        (scored.top_logprobs, "<f4"),
    ):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array, kind).tobytes())
    return digest.hexdigest()[:_BITS]


def summarise_document(prompt: str, reference: Scored, arm: Scored, off: Floats) -> DocumentSummary:
    """Return one document; `off` is how far its forced tokens are off the reference, nats, (T,)."""
    found = measure(reference, arm, arm)
    kl, tokens = found.kl_candidate, len(found.kl_candidate)
    half = tokens // 2
    slope, variance = covariance(reference, arm)
    at = int(kl.argmax()) if tokens else 0
    return DocumentSummary(
        prompt=prompt,
        tokens=tokens,
        kl=float(kl.sum()),
        nll=float(found.nll_candidate.sum()),
        regret=float(found.regret_candidate.sum()),
        flips=int(found.flip_candidate.sum()),
        later_tokens=tokens - half if half else 0,
        later_kl=float(kl[half:].sum()) if half else 0.0,
        covariance=slope,
        variance=variance,
        overlap=float(found.overlap_candidate.mean()) if tokens else 1.0,
        worst_kl=float(kl[at]) if tokens else 0.0,
        worst_at=at,
        off=float(off.max(initial=0.0)),
        off_at=int(off.argmax()) if tokens else 0,
        bits=bits_of(arm),
    )


def _others(scored: Scored) -> dict[int, tuple[tuple[int, float], ...]]:
    gaps = scored.token_logprobs[:, None].astype(np.float64) - scored.top_logprobs
    listed = scored.top_ids != NO_ID
    near = listed & (scored.top_ids != scored.token_ids[:, None]) & (gaps <= DEFECT_GAP)
    least = np.where(listed, gaps, -np.inf).max(axis=1, initial=-np.inf)
    found: dict[int, tuple[tuple[int, float], ...]] = {}
    for at in range(len(scored.token_ids)):
        ids = [(int(scored.top_ids[at, j]), float(gaps[at, j])) for j in np.flatnonzero(near[at])]
        if least[at] <= DEFECT_GAP:
            ids.append((NO_ID, max(0.0, float(least[at]))))
        if ids:
            found[at] = tuple(ids)
    return found


def _encodable(text: str) -> str:
    """Return the text without halves of surrogate pairs, which no file can hold."""
    return text.encode("utf-8", "replace").decode()


def _rounded(value: Any, digits: int = 7) -> Any:
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


_FIELDS = {
    "prompt": str,
    **dict.fromkeys(("tokens", "flips", "later_tokens", "worst_at", "off_at"), int),
    **dict.fromkeys(("kl", "nll", "regret", "later_kl", "covariance", "variance", "overlap", "worst_kl", "off"), float),
    "bits": str,
}


def _typed(name: str, value: object, kind: type) -> Any:
    wanted = (int, float) if kind is float else kind
    if not isinstance(value, wanted) or isinstance(value, bool):
        raise TypeError(f"{name}: expected {kind.__name__}, found {value!r}")
    if kind is float and not np.isfinite(float(value)):  # type: ignore[arg-type]
        raise ValueError(f"{name}: expected a number, found {value!r}")
    return kind(value)
