"""Features of an engine that must not change what it answers, each as two ways to start it: off and on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .arguments import merged_arguments, split_arguments
from .devices import device_count

_SPECULATION = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 2}

# What an engine says when it cannot do something, as distinct from doing it wrongly.
_REFUSAL = re.compile(
    r"not (?:yet )?(?:supported|implemented|available)|unsupported|NotImplementedError|does(?:n't| not) support|"
    r"unrecognized arguments|invalid choice|requires .*(?:GPU|CUDA|[Tt]riton|runner)|only supports?",
)


@dataclass(frozen=True)
class Toggle:
    """One feature.

    `off` and `on` are arguments put behind the user's own; flags in `replaces` are first taken out of these, each
    with as many words after it as it says. `setting` names what the engine tells of itself (`facts["settings"]`) that
    must differ between the two starts. `users_own`: the user's own flags stand for `on` where there are any. `warm`:
    with it on, every prompt is asked once before its answer counts. `lacking` says why this machine cannot have it,
    or None.
    """

    name: str
    off: tuple[str, ...]
    on: tuple[str, ...]
    replaces: Mapping[str, int]
    setting: str
    users_own: bool = False
    warm: bool = False
    counter: str | None = None
    """Counter of the running engine that stays at zero while the feature is idle."""
    lacking: Callable[[], str | None] = lambda: None


def _no_second_device() -> str | None:
    count = device_count()
    return None if count > 1 else f"tensor parallelism needs two devices, this machine has {count}"


def _no_graphs() -> str | None:
    return None if device_count() else "CUDA graphs need a CUDA device, this machine has none"


def _vllm_toggles() -> Sequence[Toggle]:
    caching = {"--enable-prefix-caching": 0, "--no-enable-prefix-caching": 0}
    chunking = {"--enable-chunked-prefill": 0, "--no-enable-chunked-prefill": 0, "--max-num-batched-tokens": 1}
    eager = {"--enforce-eager": 0, "--no-enforce-eager": 0, "-O": 1, "--optimization-level": 1}
    return (
        Toggle(
            "prefix_caching",
            ("--no-enable-prefix-caching",),
            ("--enable-prefix-caching",),
            caching,
            "prefix_caching",
            warm=True,
            counter="prefix_cache_hits",
        ),
        # A budget below the prompts' length, so that prompts really are cut; it must hold every running request.
        Toggle(
            "chunked_prefill",
            ("--no-enable-chunked-prefill", "--max-num-batched-tokens", "{max_length}"),
            ("--enable-chunked-prefill", "--max-num-batched-tokens", "128", "--max-num-seqs", "16"),
            {**chunking, "--max-num-seqs": 1},
            "chunked_prefill",
        ),
        Toggle("compile", ("--enforce-eager",), (), eager, "compilation"),
        Toggle(
            "cuda_graphs",
            ("--compilation-config", json.dumps({"cudagraph_mode": "NONE"})),
            (),
            eager,
            "cuda_graphs",
            lacking=_no_graphs,
        ),
        Toggle(
            "speculative_decoding",
            (),
            ("--speculative-config", json.dumps(_SPECULATION)),
            {"--speculative-config": 1, "-sc": 1},
            "speculation",
            users_own=True,
            counter="spec_decode_num_drafts",
        ),
        Toggle(
            "tensor_parallel",
            ("--tensor-parallel-size", "1"),
            ("--tensor-parallel-size", "2"),
            {"--tensor-parallel-size": 1, "-tp": 1},
            "tensor_parallel",
            lacking=_no_second_device,
        ),
    )


TOGGLES: Mapping[str, Mapping[str, Toggle]] = {"vllm": {toggle.name: toggle for toggle in _vllm_toggles()}}
"""The toggles of each engine kind, by name."""

TOGGLE_NAMES = tuple(dict.fromkeys(name for toggles in TOGGLES.values() for name in toggles))


def toggled_arguments(toggle: Toggle, arguments: Sequence[str], *, on: bool, max_length: int) -> tuple[str, ...]:
    """Return the user's arguments with a feature switched, however the user spells its flags."""
    kept, own = split_arguments(arguments, toggle.replaces)
    if on and toggle.users_own and own:
        return tuple(arguments)
    added = [str(max_length) if word == "{max_length}" else word for word in (toggle.on if on else toggle.off)]
    return merged_arguments(kept, added)


def refused(cause: str) -> bool:
    """Say whether an engine ended because it cannot do what it was asked for."""
    return _REFUSAL.search(cause) is not None
