"""Plant regressions in the newer of two vLLM versions, and see who catches them: the pair of both, and a golden.

    python bench/planted/run.py --work build/planted --out docs/results/planted-regressions.json

vLLM 0.31.0 is the baseline, and is blessed once; each regression is planted in vLLM 0.32.0, which is then held against
both in one run. `none` is 0.32.0 as it is, and has to be green.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

SETTINGS = """\
[tool.llmparity]
model = "demo"
run-profile = "planted"
golden-dir = "../golden"

[tool.llmparity.run-profiles.planted]
base = "smoke"
rollouts = 32
rollout-tokens = 64

[tool.llmparity.engines.before]
kind = "vllm"
requirement = "vllm==0.31.0"
args = ["--enforce-eager"]

[tool.llmparity.engines.vllm]
"""
EAGER = {"requirement": "vllm==0.32.0", "args": ["--enforce-eager"]}
PLANTED: Mapping[str, Mapping[str, Any]] = {
    "none": EAGER,
    "rope-theta": {**EAGER, "model": "../wrong/rope"},
    "default-temperature": {
        **EAGER,
        "args": ["--enforce-eager", "--override-generation-config", '{"temperature": 0.6}'],
    },
    "zeroed-head": {**EAGER, "env": {"PYTHONPATH": str(HERE / "engine"), "PLANTED": "zeroed-head"}},
    "stream-drops-last-token": {
        **EAGER,
        "env": {"PYTHONPATH": str(HERE / "engine")},
        "args": ["--enforce-eager", "--middleware", "planted_regressions.DropLastToken"],
    },
}
GATE = ["--pyargs", "pytest_llmparity.gate", "-k", "(test_parity or test_streaming) and not before-vs-golden"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=PLANTED, action="append")
    options = parser.parse_args()
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "wrong").exists():
        maker = ROOT / "examples" / "wrong_candidates" / "make_checkpoints.py"
        main_ = "from pytest_llmparity.cli import main; main()"
        model = subprocess.run(
            [sys.executable, "-c", main_, "model", "demo"], capture_output=True, text=True, check=True
        )
        subprocess.run([sys.executable, str(maker), model.stdout.strip(), str(work / "wrong")], check=True)
    if not (work / "golden").exists():
        bless(work)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"regressions": {}}
    for name in options.only or PLANTED:
        found["regressions"][name] = judged(work, name)
        found["date"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        found["command"] = (
            "python bench/planted/run.py --work build/planted --out docs/results/planted-regressions.json"
        )
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def bless(work: Path) -> None:
    """Bless vLLM 0.31.0 under the name that the newer one has."""
    table = {**EAGER, "requirement": "vllm==0.31.0"}
    report = gate(work, "blessed", table, "--llm-engines=vllm", "--llm-golden=create")
    if any(check["verdict"] == "fail" for check in report["checks"]):
        shutil.rmtree(work / "golden", ignore_errors=True)
        raise SystemExit("what should be blessed failed")


def judged(work: Path, name: str) -> dict[str, Any]:
    """Return the verdicts on one planted regression: beside the older version, against its golden, and alone."""
    return tabulated(gate(work, name, PLANTED[name], "--llm-engines=before,vllm", "--llm-golden=check"))


def tabulated(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the newer version's verdicts in a report, by whom it was held against."""
    sides = {"[vllm-vs-before]": "pair", "[vllm-vs-golden]": "golden", "[vllm]": "alone"}
    table: dict[str, Any] = {side: {} for side in sides.values()} | {"seconds": report["seconds"]}
    for check in report["checks"]:
        side = sides.get("[" + check["id"].rpartition("[")[2])
        if side is not None:
            table[side][check["check"]] = {name: check[name] for name in ("verdict", "why", "measured")}
    table["changed"] = next(check["changed"] for check in report["checks"] if check["id"].endswith("[vllm-vs-before]"))
    return table


def gate(work: Path, name: str, table: Mapping[str, Any], *options: str) -> dict[str, Any]:
    """Return the report of the gate with one table for the engine `vllm`."""
    project = work / name
    project.mkdir(exist_ok=True)
    (project / "pyproject.toml").write_text(
        SETTINGS + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
    )
    report = project / "report.json"
    with (project / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "pytest", "--rootdir=.", *options, f"--llm-report={report}", *GATE]
        environment = {name: value for name, value in os.environ.items() if name != "CI"}  # which would not bless
        subprocess.run(command, cwd=project, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    found = json.loads(report.read_text(encoding="utf-8"))
    print(f"{name}: {found['verdict']} in {found['seconds']:.0f} s", flush=True)
    return dict(found)


def toml(value: Any) -> str:
    """Return a value of a table as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {json.dumps(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


if __name__ == "__main__":
    main()
