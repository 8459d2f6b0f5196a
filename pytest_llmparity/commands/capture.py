"""`llmparity capture`: make the captures of engines, from the store as far as they are there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arms import Arm, in_profile
from ..atomic import write_text
from ..captures.format import read_capture, write_capture
from ..captures.model import Capture
from ..captures.replay import WORKLOADS_FILE
from ..captures.store import CaptureStore
from ..engines.base import AbilityMissing
from ..option_values import OptionError
from ..plan import ENGINE_CHECKS, PAIR_CHECKS, REFERENCE, CaptureRequest
from ..run import source_of
from ..session import ParitySession
from ..workloads.sources import PromptSource
from ..workloads.variants import FORCED_ROLLOUT
from .command import Command, columns, emit
from .settings import add_options, open_arms, read_settings

_GROUPS: Mapping[str, tuple[str, ...]] = {
    "prompts": ("prompt_ids",),
    "forced": (),
    "greedy": ("finish",),
    "rollout": ("decode",),
    "defaults": ("defaults",),
    "equivalences": ("batching", "neighbours", "streaming", "chat"),
}
"""What can be asked for by name: all that these checks take of an engine. `forced` is also what yardsticks take."""

_BASIC = frozenset({"prompts", "forced", "greedy"})
"""Without any of these an engine cannot be compared."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "arms",
        metavar="ENGINE",
        nargs="+",
        help="an engine as --llm-engines names it (table name, kind, vllm==0.32.0, vllm@/path/to/python, openai@URL), "
        "or `reference` for the fp32 reference",
    )
    parser.add_argument(
        "--workload",
        dest="groups",
        action="append",
        choices=list(_GROUPS),
        help="what to capture, repeatable (default: what the gate asks in this run profile). The reference answers "
        "`forced`, and in `rollout` scores what the other engines named here generated",
    )
    # The options `workload` and `workload-text` of pytest: --workload means a kind of capture here.
    parser.add_argument(
        "--prompts",
        dest="workload",
        metavar="FILE",
        help="a JSONL file with prompts in the place of the shipped ones (default: the project's `workload`)",
    )
    parser.add_argument(
        "--prompts-text",
        dest="workload_text",
        choices=("true", "false"),
        help="whether the text of these prompts and of their answers is kept (default: the project's `workload-text`)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help=f"copy the captures to DIR, and the workloads to DIR/{WORKLOADS_FILE}, for replay@DIR or `compare` "
        "elsewhere; of several engines, to DIR/ENGINE",
    )
    add_options(
        parser, "model", "dtype", "run-profile", "reference", "reference-memory", "top-k", "keep", "installer", "fresh"
    )


@dataclass(frozen=True)
class _LeftOut:
    """What an arm cannot answer: the group in which it was asked for, its name for people, and why."""

    group: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"left out: {self.name}: {' '.join(self.reason.split())}"


@dataclass(frozen=True)
class _Owed:
    """What one arm is to answer, each request with its group; and what is known to be impossible from the start."""

    requests: Mapping[CaptureRequest, str]
    left_out: tuple[_LeftOut, ...]


def _run(arguments: argparse.Namespace) -> int:
    settings = read_settings(vars(arguments))
    source = source_of(settings)
    session, arms = open_arms(settings, arguments.arms)
    owed = {arm: _owed(session, arm, arms, source, arguments.groups or list(_GROUPS)) for arm in arms}
    left_out = [each for due in owed.values() for each in due.left_out]
    if arguments.groups:
        _require_none(left_out)
    folders = {arm: _folder(arguments.output, arm, arms) for arm in arms if arguments.output is not None}
    for arm, folder in folders.items():
        _require_own_folder(session, arm, folder)
    # All at once: then each arm starts at most once, and the reference makes what comparisons need when it prepares.
    session.plan.add(request for due in owed.values() for request in due.requests)
    if session.has_reference and any(request.workload == "forced" for request in session.plan.requests):
        session.plan.add([session.request(session.roster.reference, source, "forced")])
    unusable = []
    for arm in sorted(arms, key=lambda arm: arm.id == REFERENCE):
        captures, lacking = _capture(session, source, owed[arm])
        left_out += lacking
        if not _BASIC.intersection(capture.workload for capture in captures.values()):
            unusable.append(arm.id)
        if not captures:
            continue
        emit("\n".join(_listing(session, source, captures)))
        if arm in folders:
            _copy(session, source, captures, folders[arm])
            emit(f"copied to {folders[arm]}")
    for line in dict.fromkeys(map(str, left_out)):
        emit(line)
    if arguments.groups:
        _require_none(left_out)
    elif unusable:
        raise OptionError(f"{', '.join(unusable)}: nothing that can be compared was captured, for the reasons above")
    return 0


def _require_none(left_out: Sequence[_LeftOut]) -> None:
    """Check that nothing was left out of the groups that the user named."""
    if left_out:
        first = left_out[0]
        raise OptionError(f"--workload {first.group}: {first.reason}")


def _owed(session: ParitySession, arm: Arm, arms: Sequence[Arm], source: PromptSource, groups: Sequence[str]) -> _Owed:
    requests: dict[CaptureRequest, str] = {}
    left_out = []
    if "forced" in groups:
        requests[session.request(arm, source, "forced")] = "forced"
    known = {**PAIR_CHECKS, **ENGINE_CHECKS}
    checks = [(group, known[name]) for group in groups for name in _GROUPS[group] if arm.id != REFERENCE]
    for group, check in checks:
        if (reason := session.why_not(check, source, arm)) is not None:
            left_out.append(_LeftOut(group, group, reason.reason))
            continue
        for take in check.takes:
            if take.side == "candidate" and not take.yardstick:
                requests.setdefault(session.request(in_profile(arm, take.profile), source, take.workload), group)
    if arm.id == REFERENCE and "rollout" in groups:
        for other in arms:
            if other is not arm and session.why_not(ENGINE_CHECKS["decode"], source, other) is None:
                of = in_profile(other, "deployed")
                requests.setdefault(session.request(arm, source, FORCED_ROLLOUT, of), "rollout")
    return _Owed(requests, tuple(left_out))


def _capture(
    session: ParitySession, source: PromptSource, owed: _Owed
) -> tuple[dict[CaptureRequest, Capture], list[_LeftOut]]:
    """Return the captures that could be made, and what could not: a server proves what it can do when it is attached.

    Raises:
        ArmUnavailable: when the arm cannot be started or broke.
    """
    captures, left_out = {}, []
    for request, group in owed.requests.items():
        try:
            captures[request] = session.capture_request(request, source)
        except AbilityMissing as error:
            left_out.append(_LeftOut(group, _file_name(request), str(error)))
    return captures, left_out


def _folder(output: Path, arm: Arm, arms: Sequence[Arm]) -> Path:
    return output if len(arms) == 1 else output / arm.id


def _listing(session: ParitySession, source: PromptSource, captures: Mapping[CaptureRequest, Capture]) -> list[str]:
    rows = []
    for request, capture in captures.items():
        arm = request.arm
        origin = "from the store" if capture.workload in session.runs.record(arm).from_store else "captured now"
        path = session.store.path(session.roster.key(arm), session.workload(request, source), capture.draw)
        rows.append((arm.id, capture.workload, origin, CaptureStore.name_of(capture), str(path)))
    return columns(rows)


def _require_own_folder(session: ParitySession, arm: Arm, folder: Path) -> None:
    """Check that nothing of another arm would be overwritten."""
    keys = {session.roster.key(each).digest for each in (arm, in_profile(arm, "deployed"))}
    for path in folder.glob("*.npz"):
        other = read_capture(path)
        if other.fingerprint.get("launch_key") not in keys:
            raise OptionError(f"{path} is a capture of another arm ({other.arm}); give a folder of its own with -o")


def _copy(
    session: ParitySession, source: PromptSource, captures: Mapping[CaptureRequest, Capture], folder: Path
) -> None:
    for request, capture in captures.items():
        write_capture(capture, folder / f"{_file_name(request)}.npz")
    write_text(folder / WORKLOADS_FILE, json.dumps(session.workloads(source).to_json(), ensure_ascii=False))


def _file_name(request: CaptureRequest) -> str:
    other = "" if request.of in (None, request.arm) else f"-of-{request.of.id}"
    profile = "deployed-" if request.arm.profile == "deployed" and not request.arm.fixed else ""
    return f"{profile}{request.workload}{other}"


CAPTURE = Command(
    "capture",
    "make the captures of engines, each in one start, or take them from the store",
    "llmparity capture hf vllm==0.32.0 reference --model demo --run-profile smoke -o build/captures",
    _configure,
    _run,
)
