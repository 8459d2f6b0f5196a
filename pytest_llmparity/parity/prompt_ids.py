"""Do both engines see the same prompt? The cheapest cause of everything that differs later."""

from __future__ import annotations

from collections.abc import Sequence

from ..captures.model import Answer, Capture
from ..verdicts import Evidence, Verdict
from ..workloads.model import Prompt, Workload
from ..workloads.vocabulary import Vocabulary
from .identity import require_comparable

CHECK = "prompt_ids"
_SHOWN = 3


def compare_prompt_ids(
    workload: Workload, baseline: Capture | None, candidate: Capture, vocabulary: Vocabulary | None = None
) -> Verdict:
    """Return whether both engines make the reference tokenizer's ids of every chat and text, and count them so.

    An exact check: one prompt that differs is a failure.
    """
    captures = [candidate] if baseline is None else [baseline, candidate]
    require_comparable(workload, captures)
    if not workload.prompts:
        arm = None if baseline is None else baseline.arm
        return Verdict(CHECK, "undecided", arm, candidate.arm, "no prompt was compared")
    vocabulary = vocabulary or Vocabulary()
    cases: list[Evidence] = []
    causes: list[str] = []
    for capture in captures:
        for prompt, (answer, scored) in zip(workload.prompts, capture.rows(), strict=True):
            found = tuple(scored.token_ids.tolist())
            if found != prompt.ids and not _tells_counts_only(answer, found):
                cause = explain_ids(prompt.ids, found)
                causes.append(f"{capture.arm}: {cause}")
                cases.append(_case(capture.arm, prompt, found, cause, vocabulary))
            elif (wrong := _wrong_count(answer, len(prompt.ids))) is not None:
                causes.append(f"{capture.arm}: {wrong}")
                cases.append(Evidence(prompt.id, f"{capture.arm}: {wrong}"))
    checked = len(workload.prompts)
    kinds = _counts(workload)
    counting = [capture.arm for capture in captures if not capture.tokens]
    if not cases:
        only = f"; {' and '.join(counting)} tells how many, not which" if counting else ""
        why = f"the same ids as the reference tokenizer on {kinds}{only}"
    else:
        differing = len({case.prompt for case in cases})
        why = f"{differing} of {checked} prompts differ from the reference tokenizer: {_most_common(causes)}"
    return Verdict(
        CHECK,
        "fail" if cases else "pass",
        None if baseline is None else baseline.arm,
        candidate.arm,
        why,
        measured=f"{len(cases)} differences on {kinds}",
        limit="none",
        power=(
            f"{'another number of tokens' if counting else 'any difference'} in any of these prompts; nothing about "
            "other templates, tools or languages"
        ),
        prompts=checked,
        tokens=sum(len(prompt.ids) for prompt in workload.prompts),
        evidence=tuple(cases[:_SHOWN]),
        figures={"differences": len(cases)},
    )


def _tells_counts_only(answer: Answer, found: tuple[int, ...]) -> bool:
    """Say whether an engine gave the number of tokens alone, as many servers of the OpenAI protocol do."""
    return not found and bool(answer.prompt_tokens)


def explain_ids(expected: Sequence[int], found: Sequence[int]) -> str:
    """Return in words how an engine's ids differ from the expected ones, naming the usual causes."""
    expected, found = tuple(expected), tuple(found)
    if not found:
        return "no ids at all"
    if found[1:] == expected and found[:1] == expected[:1]:
        return f"a second begin-of-sequence token (id {found[0]}) in front: double BOS"
    if found[1:] == expected:
        return f"one more token (id {found[0]}) in front, usually a begin-of-sequence token"
    if expected[1:] == found:
        return f"the first token (id {expected[0]}) is missing, usually the begin-of-sequence token"
    if found == expected[: len(found)]:
        return f"the last {len(expected) - len(found)} tokens are missing, usually the generation prompt"
    if expected == found[: len(expected)]:
        return f"{len(found) - len(expected)} more tokens at the end"
    at = next(i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b)
    return (
        f"other ids from position {at} on ({len(expected)} expected, {len(found)} found): another template or tokenizer"
    )


def _wrong_count(answer: Answer, expected: int) -> str | None:
    if answer.prompt_tokens is None or answer.prompt_tokens == expected:
        return None
    return f"usage says {answer.prompt_tokens} prompt tokens where the prompt has {expected}"


def _case(arm: str, prompt: Prompt, found: tuple[int, ...], cause: str, vocabulary: Vocabulary) -> Evidence:
    at = next((i for i, (a, b) in enumerate(zip(prompt.ids, found, strict=False)) if a != b), len(prompt.ids))
    window = slice(max(0, at - 2), at + 6)
    lines = [
        f"{arm}: {cause}",
        f"expected  {list(prompt.ids[window])}  {vocabulary.text(prompt.ids[window])!r}",
        f"found     {list(found[window])}  {vocabulary.text(found[window])!r}",
    ]
    return Evidence(prompt.id, "\n".join(lines), at)


def _counts(workload: Workload) -> str:
    chats = sum(prompt.messages is not None for prompt in workload.prompts)
    return f"{chats} chats and {len(workload.prompts) - chats} texts"


def _most_common(causes: Sequence[str]) -> str:
    return max(causes, key=causes.count)
