"""Workloads made of other workloads: the same prompts asked in another way, and an arm's own tokens to be scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..captures.model import Capture
from .model import Prompt, Stage, Workload

BATCH = 16
"""Requests in flight where a check asks for a batch; `strict` vLLM runs as many at a time."""
_NEEDLES = 2
_GROUP = 8
_LONG = 4
# Over two blocks of the largest block size in use (128 on a CPU): shorter prefixes are never cached.
_SHARED_TOKENS = 288
DRAWN = 64
"""Tokens of an answer that is drawn by default, at most."""

COMPANY = _NEEDLES * (2 * _GROUP + 1 + _LONG)
"""Prompts of the workload that asks about neighbours, at most."""

FORCED_ROLLOUT = "rollout-forced"


def again(workload: Workload) -> Workload:
    """Return the same questions once more: an A/A probe."""
    return replace(workload, name=f"{workload.name}-again", repeat=workload.repeat + 1)


def batched(workload: Workload, in_flight: int = BATCH) -> Workload:
    """Return the same questions, `in_flight` of them at a time."""
    prompts = workload.prompts if len(workload.prompts) > 1 else ()  # one prompt alone is no batch
    stages = (Stage(len(prompts), in_flight),) if prompts else ()
    return replace(workload, name=f"{workload.name}-batched", prompts=prompts, stages=stages)


def streamed(workload: Workload) -> Workload:
    """Return the same questions, answered token by token."""
    return replace(workload, name=f"{workload.name}-streamed", manner="stream")


def as_chat(workload: Workload) -> Workload:
    """Return the same questions as chat requests; prompts without messages cannot be asked so and are left out."""
    prompts = tuple(prompt for prompt in workload.prompts if prompt.messages is not None)
    return replace(workload, name=f"{workload.name}-chat", prompts=prompts, stages=(), manner="chat")


def by_default(workload: Workload) -> Workload:
    """Return the same prompts for an answer of up to 64 tokens, drawn as the server does where it is told nothing."""
    prompts = tuple(replace(prompt, max_tokens=min(prompt.max_tokens, DRAWN)) for prompt in workload.prompts)
    return replace(batched(workload), name="defaults", prompts=prompts, manner="sample-by-default")


def neighbours(workload: Workload, long: Sequence[Prompt]) -> Workload:
    """Return the first prompts in company: first of a batch, last of a batch, among long prompts.

    A prompt `ID` becomes `ID@first`, `ID@last` and `ID@among-long`; the company's answers are not looked at.
    """
    prompts: list[Prompt] = []
    stages: list[Stage] = []
    short = workload.prompts[_NEEDLES : _NEEDLES + _GROUP - 1]
    for needle in workload.prompts[:_NEEDLES]:
        company = [replace(prompt, id=f"beside-{prompt.id}") for prompt in short]
        among = [replace(prompt, id=f"beside-{prompt.id}", max_tokens=needle.max_tokens) for prompt in long[:_LONG]]
        half = len(among) // 2
        for place, group in (
            ("first", [needle, *company]),
            ("last", [*company, needle]),
            ("among-long", [*among[:half], needle, *among[half:]]),
        ):
            if len(group) == 1:  # no company
                continue
            prompts += [_at(place, needle, prompt) for prompt in group]
            stages.append(Stage(len(group), len(group)))
    return replace(workload, name=f"{workload.name}-neighbours", prompts=tuple(prompts), stages=tuple(stages))


def in_context(workload: Workload, long: Sequence[Prompt]) -> Workload:
    """Return the same prompts behind one long shared text, as documents to answer questions about."""
    shared: tuple[int, ...] = ()
    for prompt in long:
        shared += prompt.ids
        if len(shared) >= _SHARED_TOKENS:
            break
    shared = shared[:_SHARED_TOKENS]
    prompts = tuple(replace(prompt, ids=shared + prompt.ids, messages=None) for prompt in workload.prompts)
    return replace(workload, name="in-context", prompts=prompts)


def warm(workload: Workload) -> Workload:
    """Return the same questions, each asked once before its answer counts."""
    return replace(workload, name=f"{workload.name}-warm", warm=True)


def _at(place: str, needle: Prompt, prompt: Prompt) -> Prompt:
    where = place if prompt is needle else f"{place}-of-{needle.id}"
    return replace(prompt, id=f"{prompt.id}@{where}", unit=prompt.unit, scored_from=0)


def mixed_load(prompts: int) -> tuple[Stage, ...]:
    """Return stages of rising load: an eighth of the prompts one at a time, a quarter 4 at a time, the rest 16."""
    alone, few = prompts // 8, prompts // 4
    stages = (Stage(alone, 1), Stage(few, 4), Stage(prompts - alone - few, BATCH))
    return tuple(stage for stage in stages if stage.prompts)


def forced_rollout(rollout: Workload, capture: Capture) -> Workload:
    """Return what an arm generated as a workload to score; its digest follows from the tokens.

    A prompt that was answered with no token is left out.
    """
    prompts = []
    for prompt in rollout.prompts:
        tokens = capture.scored(capture.position(prompt.id)).token_ids.tolist()
        if tokens:
            ids = (*prompt.ids, *tokens)
            start, hashes = len(prompt.ids), prompt.hashes
            prompts.append(Prompt(prompt.id, prompt.unit, ids, prompt.tags, scored_from=start, hashes=hashes))
    return Workload(FORCED_ROLLOUT, "score", tuple(prompts), rollout.top_k)
