"""`llmparity capture`: make the captures of one arm, from the store if they are there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from ..arms import Arm
from ..atomic import write_text
from ..captures.format import read_capture, write_capture
from ..captures.model import Capture
from ..captures.store import CaptureStore
from ..options import OptionError
from ..plan import REFERENCE
from ..session import ParitySession
from ..workloads.sources import PromptSource, from_jsonl, shipped
from .command import Command, columns, emit
from .inputs import WORKLOADS_FILE
from .settings import add_options, open_arm, read_settings

_WORKLOADS = ("prompts", "forced", "greedy")
_OF_REFERENCE = ("forced",)
"""What checks ask of the reference."""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "engine",
        metavar="ENGINE",
        help="the engine as --llm-engines names it (table name, kind, vllm==0.32.0, vllm@/path/to/python), or "
        "`reference` for the fp32 reference",
    )
    parser.add_argument(
        "--workload",
        action="append",
        choices=_WORKLOADS,
        help="what to capture, repeatable (default: all three; of the reference: forced)",
    )
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a JSONL file with prompts in the place of the shipped ones"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help=f"copy each capture to DIR/WORKLOAD.npz, and the workloads to DIR/{WORKLOADS_FILE}, to compare elsewhere",
    )
    add_options(parser, "model", "dtype", "run-profile", "reference", "top-k", "keep", "installer", "fresh")


def _run(arguments: argparse.Namespace) -> int:
    source = shipped() if arguments.prompts is None else from_jsonl(arguments.prompts)
    session, arm = open_arm(read_settings(vars(arguments)), arguments.engine)
    names = arguments.workload or (_OF_REFERENCE if arm.id == REFERENCE else _WORKLOADS)
    if arguments.output is not None:
        _require_own_folder(session, arm, arguments.output, names)
    captures = _capture(session, arm, source, names)
    emit("\n".join(_listing(session, arm, source, captures)))
    if arguments.output is not None:
        _copy(session, source, captures, arguments.output)
        emit(f"copied to {arguments.output}")
    return 0


def _capture(session: ParitySession, arm: Arm, source: PromptSource, names: Sequence[str]) -> list[Capture]:
    """Plan everything and then ask for it, so that the arm starts at most once."""
    session.plan.add(session.request(arm, source, name) for name in names)
    if session.has_reference and "forced" in names:
        # If the reference has to start to prepare the workloads, it makes the capture that the comparison needs.
        session.plan.add([session.request(session.roster.reference, source, "forced")])
    return [session.capture(arm, source, name) for name in dict.fromkeys(names)]


def _listing(session: ParitySession, arm: Arm, source: PromptSource, captures: Sequence[Capture]) -> list[str]:
    rows = []
    prepared, record = session.workloads(source), session.record(arm)
    for capture in captures:
        origin = "from the store" if capture.workload in record.from_store else "captured now"
        path = session.store.path(session.roster.key(arm), prepared.named(capture.workload), capture.draw)
        rows.append((arm.id, capture.workload, origin, CaptureStore.name_of(capture), str(path)))
    return columns(rows)


def _require_own_folder(session: ParitySession, arm: Arm, folder: Path, names: Sequence[str]) -> None:
    """Check that nothing of another arm would be overwritten."""
    for name in names:
        path = folder / f"{name}.npz"
        if path.exists() and (other := read_capture(path)).fingerprint.get("launch_key") != session.roster.key(arm).digest:
            raise OptionError(f"{path} is a capture of another arm ({other.arm}); give a folder of its own with -o")


def _copy(session: ParitySession, source: PromptSource, captures: Sequence[Capture], folder: Path) -> None:
    for capture in captures:
        write_capture(capture, folder / f"{capture.workload}.npz")
    write_text(folder / WORKLOADS_FILE, json.dumps(session.workloads(source).to_json(), ensure_ascii=False))


CAPTURE = Command(
    "capture",
    "make the captures of one engine, in one start, or take them from the store",
    "llmparity capture vllm==0.32.0 --model demo --run-profile smoke -o build/vllm-0.32",
    _configure,
    _run,
)
