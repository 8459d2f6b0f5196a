"""Fingerprints: what identifies a running engine, and how two of them differ in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Fields of a launch key in the order in which they usually explain a difference.
_CAUSES = (
    ("checkpoint.files", "checkpoint file"),
    ("checkpoint.config", "config.json"),
    ("checkpoint.generation_config", "generation_config.json"),
    ("checkpoint.weights", "weights digest"),
    ("dtype", "dtype"),
    ("kind", "engine"),
    ("version", "engine version"),
    ("profile", "profile"),
    ("arguments", "arguments"),
    ("environment", "environment"),
    ("facts", "running engine"),
    ("machine", "machine"),
    ("distributions", "distribution"),
)
_MANY = 12

OWN_ERROR = "own_error"
"""Field of the reference's fingerprint: KL between two of its own kernels, nats a token."""


def own_error(fingerprint: Mapping[str, Any]) -> float | None:
    """Return a reference's own error in nats a token; None where it was not measured."""
    found = fingerprint.get(OWN_ERROR)
    return None if found is None else float(found)


def differences(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one line for each difference, likely causes first.

    Two kinds of engine differ in arguments, facts and distributions by nature; those are listed only between
    two arms of one kind.
    """
    same_kind = baseline.get("kind") == candidate.get("kind")
    lines: list[str] = []
    for prefix, label in _CAUSES:
        if not same_kind and prefix in ("arguments", "environment", "facts", "distributions"):
            continue
        before, after = dict(_flat(_get(baseline, prefix), "")), dict(_flat(_get(candidate, prefix), ""))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                name = f"{label} {key}".strip()
                lines.append(f"{name}: {_short(before.get(key))} -> {_short(after.get(key))}")
    if len(lines) > _MANY:
        lines[_MANY:] = [f"... and {len(lines) - _MANY} more (see the fingerprints in the report)"]
    return tuple(lines)


def _get(fingerprint: Mapping[str, Any], path: str) -> Any:
    value: Any = fingerprint
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _flat(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _short(value: Any) -> str:
    if value is None:
        return "absent"
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 200 else text[:200] + "..."
