"""`llmparity show`: what an arm, or two side by side, answered around one token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ..cache import cache_folder
from ..captures.model import NO_ID, Answer, Capture, Scored
from ..captures.store import CaptureStore
from ..option_values import OptionError
from ..parity.identity import CapturesDiffer
from ..workloads.model import Prompt
from ..workloads.vocabulary import Vocabulary
from .command import Command, columns, emit, say
from .inputs import Inputs, WorkloadMissing

_CANDIDATES = 10
_BEFORE, _AFTER = 24, 12
_FIRST_WORDS = 60


@dataclass(frozen=True)
class _Source:
    """A capture, and what is known of the prompts it answers: nothing, where their workload is missing."""

    capture: Capture
    prompts: dict[str, Prompt]
    vocabulary: Vocabulary


@dataclass(frozen=True)
class _View:
    """One arm's answer to one prompt, at token `at` of those that were scored or generated."""

    arm: str
    kind: str
    answer: Answer
    scored: Scored
    prompt: Prompt | None
    vocabulary: Vocabulary
    at: int

    @property
    def token(self) -> int:
        """The id at this position."""
        return int(self.scored.token_ids[self.at])

    @property
    def context(self) -> tuple[int, ...]:
        """The ids before the first scored or generated one."""
        if self.prompt is None or self.kind == "tokenize":
            return ()
        return self.prompt.ids[: self.prompt.scored_from] if self.kind == "score" else self.prompt.ids


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("capture", metavar="CAPTURE", help="a capture file, or a store name as reports print it")
    parser.add_argument("other", metavar="CAPTURE2", nargs="?", help="the other arm's capture; the same as --against")
    parser.add_argument("--against", metavar="CAPTURE2", help="show both arms side by side")
    parser.add_argument("--prompt", metavar="ID", help="the prompt to show (default: list all prompts)")
    parser.add_argument(
        "--at",
        type=int,
        metavar="N",
        help="the token to show, counted from 0 as in verdicts (default: the first where the two arms differ, else 0)",
    )


def _run(arguments: argparse.Namespace) -> int:
    if arguments.other is not None and arguments.against is not None:
        raise OptionError("two captures at most: give the second one by position or with --against")
    if arguments.at is not None and arguments.prompt is None:
        raise OptionError("--at needs --prompt ID; without --at and --prompt the prompts are listed")
    inputs = Inputs(CaptureStore(cache_folder()))
    names = [name for name in (arguments.capture, arguments.other, arguments.against) if name is not None]
    captures = [inputs.read(name) for name in names]
    if len({capture.workload_digest for capture in captures}) > 1:
        first, second = captures
        raise CapturesDiffer(
            f"{first.arm} answered workload {first.workload} {first.workload_digest[:12]} and {second.arm} "
            f"{second.workload} {second.workload_digest[:12]}; they cannot be shown side by side"
        )
    sources = [_source(inputs, capture) for capture in captures]
    lines = _listing(sources) if arguments.prompt is None else _around(sources, arguments.prompt, arguments.at)
    emit("\n".join(lines))
    return 0


def _source(inputs: Inputs, capture: Capture) -> _Source:
    try:
        workload, vocabulary = inputs.workload(capture)
    except WorkloadMissing as error:
        say(f"token ids are shown without their text: {error}")
        return _Source(capture, {}, Vocabulary())
    return _Source(capture, {prompt.id: prompt for prompt in workload.prompts}, vocabulary)


def _listing(sources: Sequence[_Source]) -> list[str]:
    lines = []
    for source in sources:
        capture = source.capture
        lines.append(f"{capture.arm}: {capture.workload} ({capture.kind}), {len(capture)} prompts, {capture.created}")
        rows = [("prompt", "tokens", "finish", "first words")]
        for answer, scored in capture.rows():
            text = answer.text or source.vocabulary.text(scored.token_ids.tolist())
            reason = answer.finish_reason or "-"
            rows.append((answer.prompt_id, str(len(scored.token_ids)), reason, repr(text[:_FIRST_WORDS])))
        lines += [f"  {line}" for line in columns(rows)]
    return lines


def _around(sources: Sequence[_Source], prompt_id: str, at: int | None) -> list[str]:
    rows = [_row(source.capture, prompt_id) for source in sources]
    first = _first_difference([scored for _, scored in rows])
    at = (first or 0) if at is None else at
    views = [_view(source, answer, scored, at) for source, (answer, scored) in zip(sources, rows, strict=True)]
    lines = [f"{prompt_id}, token {at}"]
    if first is not None and first < at:
        lines.append(f"  the two arms differ from token {first} on: here they answer different texts")
    for view in views:
        lines += _text_lines(view)
    return lines + _candidate_lines(views)


def _row(capture: Capture, prompt_id: str) -> tuple[Answer, Scored]:
    try:
        i = capture.position(prompt_id)
    except KeyError as error:
        raise OptionError(f"--prompt: {error.args[0]}") from error
    return capture.answers[i], capture.scored(i)


def _view(source: _Source, answer: Answer, scored: Scored, at: int) -> _View:
    capture, count = source.capture, len(scored.token_ids)
    if not 0 <= at < count:
        found = f"0 to {count - 1}" if count else "none"
        raise OptionError(f"--at {at}: {capture.arm} has {count} tokens of {answer.prompt_id} ({found})")
    prompt = source.prompts.get(answer.prompt_id)
    return _View(capture.arm, capture.kind, answer, scored, prompt, source.vocabulary, at)


def _first_difference(scored: Sequence[Scored]) -> int | None:
    """Return the first token at which two answers differ; None for one answer, or where one ends first."""
    if len(scored) < 2:
        return None
    a, b = (each.token_ids for each in scored)
    shared = min(len(a), len(b))
    unequal = np.flatnonzero(a[:shared] != b[:shared])
    return int(unequal[0]) if len(unequal) else None


def _text_lines(view: _View) -> list[str]:
    ids = (*view.context, *view.scored.token_ids.tolist())
    here = len(view.context) + view.at
    text = view.vocabulary.text
    finish = f", finish reason {view.answer.finish_reason}" if view.answer.finish_reason else ""
    lines = [
        f"{view.arm}: {len(view.scored.token_ids)} tokens{finish}",
        f"  before  {text(ids[max(0, here - _BEFORE) : here])!r}",
        f"  token   {view.vocabulary.piece(view.token)}",
        f"  after   {text(ids[here + 1 : here + 1 + _AFTER])!r}",
    ]
    if view.scored.top_ids.shape[1]:
        lines.append(f"  its log-probability {view.scored.token_logprobs[view.at]:.4f}; {_margin(view)}")
    return lines


def _margin(view: _View) -> str:
    best = view.scored.top_logprobs[view.at][:2].astype(float)
    if len(best) < 2 or not np.isfinite(best).all():
        return "one candidate only"
    return f"margin of the best candidate to the second {best[0] - best[1]:.4f} nat"


def _candidate_lines(views: Sequence[_View]) -> list[str]:
    if not any(view.scored.top_ids.shape[1] for view in views):
        return ["no log-probabilities: this capture holds token ids alone"]
    cells = [[view.arm, *_candidates(view)] for view in views]
    rows = [("", *(str(rank) for rank in range(1, max(map(len, cells)))))]
    table = list(zip_longest(*rows, *cells, fillvalue=""))
    return ["candidates with their log-probabilities (* is the token of this answer)", *columns(table)]


def _candidates(view: _View) -> list[str]:
    shown = []
    for token, logprob in zip(view.scored.top_ids[view.at], view.scored.top_logprobs[view.at], strict=True):
        if token != NO_ID:
            mark = "*" if token == view.token else " "
            shown.append(f"{mark} {logprob:9.4f}  {view.vocabulary.piece(int(token))}")
    return shown[:_CANDIDATES]


SHOW = Command(
    "show",
    "show the text and the candidates around one token of a capture, or of two side by side",
    "llmparity show old/greedy.npz new/greedy.npz --prompt chat-007 --at 12",
    _configure,
    _run,
)
