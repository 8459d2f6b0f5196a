"""`llmparity capture`: make the captures of engines, from the store as far as they are there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..arms import Arm, in_profile
from ..atomic import write_text
from ..captures.format import read_capture, write_capture
from ..captures.model import Capture
from ..captures.replay import WORKLOADS_FILE
from ..captures.store import CaptureStore
from ..options import OptionError
from ..plan import ENGINE_CHECKS, REFERENCE, CaptureRequest
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
    "equivalences": ("batching", "neighbours", "streaming", "chat"),
}
"""What can be asked for by name: all that these checks take of an engine. `forced` is also what yardsticks take."""


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
    add_options(parser, "model", "dtype", "run-profile", "reference", "top-k", "keep", "installer", "fresh")


def _run(arguments: argparse.Namespace) -> int:
    settings = read_settings(vars(arguments))
    source = source_of(settings)
    session, arms = open_arms(settings, arguments.arms)
    groups = arguments.groups or list(_GROUPS)
    owed = {arm: _owed(session, arm, arms, source, groups) for arm in arms}
    if arguments.groups and (left_out := next((reason for _, reason in owed.values() if reason), None)):
        raise OptionError(f"--workload {' '.join(groups)}: {left_out}")
    folders = {arm: _folder(arguments.output, arm, arms) for arm in arms if arguments.output is not None}
    for arm, folder in folders.items():
        _require_own_folder(session, arm, folder)
    # All at once: then each arm starts at most once, and the reference makes what comparisons need when it prepares.
    session.plan.add(request for requests, _ in owed.values() for request in requests)
    if session.has_reference and any(request.workload == "forced" for request in session.plan.requests):
        session.plan.add([session.request(session.roster.reference, source, "forced")])
    for arm in sorted(arms, key=lambda arm: arm.id == REFERENCE):
        captures = {request: session.capture_request(request, source) for request in owed[arm][0]}
        emit("\n".join(_listing(session, source, captures)))
        if arm in folders:
            _copy(session, source, captures, folders[arm])
            emit(f"copied to {folders[arm]}")
    return 0


def _owed(
    session: ParitySession, arm: Arm, arms: Sequence[Arm], source: PromptSource, groups: Sequence[str]
) -> tuple[list[CaptureRequest], str | None]:
    """Return what an arm is to answer, and why some of it was left out."""
    owed = [session.request(arm, source, "forced")] if "forced" in groups else []
    left_out = None
    for check in (ENGINE_CHECKS[name] for group in groups for name in _GROUPS[group]):
        if arm.id == REFERENCE:
            continue
        if (reason := session.why_not(check, source, arm)) is not None:
            left_out = reason.reason
            continue
        takes = [take for take in check.takes if take.side == "candidate" and not take.yardstick]
        owed += [session.request(in_profile(arm, take.profile), source, take.workload) for take in takes]
    if arm.id == REFERENCE and "rollout" in groups:
        others = [
            other
            for other in arms
            if other is not arm and session.why_not(ENGINE_CHECKS["decode"], source, other) is None
        ]
        owed += [session.request(arm, source, FORCED_ROLLOUT, in_profile(other, "deployed")) for other in others]
    return list(dict.fromkeys(owed)), left_out


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
        other = "" if request.of in (None, request.arm) else f"-of-{request.of.id}"
        profile = "deployed-" if request.arm.profile == "deployed" and not request.arm.fixed else ""
        write_capture(capture, folder / f"{profile}{capture.workload}{other}.npz")
    write_text(folder / WORKLOADS_FILE, json.dumps(session.workloads(source).to_json(), ensure_ascii=False))


CAPTURE = Command(
    "capture",
    "make the captures of engines, each in one start, or take them from the store",
    "llmparity capture hf vllm==0.32.0 reference --model demo --run-profile smoke -o build/captures",
    _configure,
    _run,
)
