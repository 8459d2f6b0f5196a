"""What happened to each arm in one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .arms import Arm

if TYPE_CHECKING:
    from .captures.model import Capture


@dataclass
class ArmRecord:
    """What happened to one arm in this run; goes into the report."""

    arm: Arm
    starts: int = 0
    attached: int = 0
    restarts: list[str] = field(default_factory=list)
    """Why it was started again: what it said when it died under a request."""
    seconds: float = 0.0
    captured: list[str] = field(default_factory=list)
    from_store: list[str] = field(default_factory=list)
    speeds: dict[str, float] = field(default_factory=dict)
    """Tokens a second of each workload that was answered, now or when the store's capture was made."""
    version: str = ""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    log: str = ""
    error: str = ""
    refused: bool = False
    """It ended at its start and named as the cause that it cannot do what it was asked for."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Of each ability that a server we were attached to was found to lack, why."""

    def note_speed(self, capture: Capture) -> None:
        """Note how fast a workload was answered, where there were tokens to answer."""
        if capture.kind != "tokenize" and capture.tokens and capture.seconds:
            self.speeds[capture.workload] = round(capture.tokens / capture.seconds, 2)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of this arm in report.json."""
        return {
            "id": self.arm.id,
            "kind": self.arm.engine.kind,
            "version": self.version,
            "variant": self.arm.variant.name,
            "profile": self.arm.profile,
            "starts": self.starts,
            "attached": self.attached,
            "restarts": self.restarts,
            "seconds": round(self.seconds, 1),
            "captured": self.captured,
            "from_store": self.from_store,
            "speeds": self.speeds,
            "command": self.command,
            "log": self.log,
            "error": self.error,
            "fingerprint": self.fingerprint,
        }
