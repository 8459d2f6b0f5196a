"""Run profiles: how large a run is, and how much worse than the baseline its margin allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .option_values import OptionError, a_text, boolean, did_you_mean, number, whole_number


@dataclass(frozen=True)
class RunProfile:
    """Sizes of a run and how much worse than the baseline is allowed.

    `documents` forced documents of `length` scored tokens (half human text, half sampled from the reference),
    `prompts` greedy prompts of `max_tokens` tokens, `rollouts` prompts of `rollout_tokens` tokens that the
    `deployed` profile decodes under load (0: that profile is not run at all). `long` further documents have
    `long_context` tokens before the scored ones; with `vocabulary`, each token id is scored, twice. `margin` is
    relative to the floor, None: by what changed. With `exact`, an engine that is blessed is restarted
    for the exact tier.
    """

    documents: int
    length: int
    prompts: int
    max_tokens: int
    margin: float | None
    rollouts: int = 0
    rollout_tokens: int = 128
    long: int = 0
    long_context: int = 1024
    vocabulary: bool = False
    exact: bool = False

    @property
    def deployed(self) -> bool:
        """Whether engines are also started with the user's own arguments, to decode under load."""
        return self.rollouts > 0


RUN_PROFILES: Mapping[str, RunProfile] = {
    "smoke": RunProfile(documents=32, length=64, prompts=16, max_tokens=32, margin=0.50),
    "ci": RunProfile(
        documents=256,
        length=128,
        prompts=64,
        max_tokens=64,
        margin=None,
        rollouts=64,
        long=32,
        long_context=896,
        exact=True,
    ),
    "release": RunProfile(
        documents=512,
        length=192,
        prompts=256,
        max_tokens=128,
        margin=None,
        rollouts=256,
        rollout_tokens=256,
        long=32,
        long_context=1856,
        vocabulary=True,
        exact=True,
    ),
}

_PROFILE_KEYS: Mapping[str, Callable[[object], Any]] = {
    "base": a_text,
    "documents": whole_number(1, 100_000),
    "length": whole_number(1, 100_000),
    "prompts": whole_number(1, 100_000),
    "max-tokens": whole_number(1, 100_000),
    "rollouts": whole_number(0, 100_000),
    "rollout-tokens": whole_number(1, 100_000),
    "long": whole_number(0, 100_000),
    "long-context": whole_number(1, 100_000),
    "vocabulary": boolean,
    "exact": boolean,
    "margin": number(0, 10),
}


def profile_from_table(name: str, entry: object) -> RunProfile:
    """Return the run profile that one table describes: `base`, and the sizes that differ from it."""
    where = f"[tool.llmparity.run-profiles.{name}]"
    if not isinstance(entry, dict):
        raise OptionError(f"{where}: expected a table, found {entry!r}")
    if name in RUN_PROFILES:
        raise OptionError(f"{where}: {name!r} is a profile of this package; give your own another name")
    base = entry.get("base", "ci")
    if base not in RUN_PROFILES:
        raise OptionError(f"{where}: base: expected {' or '.join(RUN_PROFILES)}, found {base!r}")
    for key in entry:
        if key not in _PROFILE_KEYS:
            raise OptionError(f"{where}: unknown key {key!r}{did_you_mean(key, _PROFILE_KEYS)}")
    changes: dict[str, Any] = {}
    for key, value in entry.items():
        if key != "base":
            try:
                changes[key.replace("-", "_")] = _PROFILE_KEYS[key](value)
            except ValueError as error:
                raise OptionError(f"{where}: {key}: {error}") from error
    return replace(RUN_PROFILES[base], **changes)
