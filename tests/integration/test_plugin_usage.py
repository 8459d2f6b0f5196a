"""Wrong options and tables are usage errors that say what was expected, before a model loads."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

USAGE_ERROR = 4
GATE = ("--pyargs", "pytest_llmparity.gate")
# One process for all cases: importing the numerics takes longer than to find any of these errors.
RUN_ALL = """
import json, sys, pytest
for arguments in json.loads(sys.argv[1]):
    print("ended with", int(pytest.main(arguments)), flush=True)
"""


def run_all(project: ParityProject, cases: list[list[str]]) -> list[tuple[int, str]]:
    """Run pytest once for each list of arguments; return exit codes and outputs."""
    project.python("-c", RUN_ALL, json.dumps([[*case, *GATE] for case in cases])).wait(timeout=120)
    outputs = re.split(r"^ended with (\d+)$", project.output, flags=re.MULTILINE)
    return [(int(code), output) for output, code in zip(outputs[::2], outputs[1::2], strict=False)]


def test_wrong_engines_models_and_options(parity_project: ParityProject, tmp_path: Path) -> None:
    (tmp_path / "no-config").mkdir()
    (tmp_path / "a-file").touch()
    parity_project.honest_pair()
    parity_project.engine("strange", kind="llama")
    parity_project.engine("no-python", python="/missing/bin/python")
    parity_project.engine("no-vllm", env={})
    parity_project.engine("own-model", model=str(tmp_path / "missing-model"))
    expected = {
        (): ["gate needs engines", "--llm-engines="],
        ("--llm-engines=a",): ["compares two engines", "a"],
        ("--llm-engines=a,nobody",): ["unknown engine 'nobody'", "own-model", "vllm==0.32.0"],
        ("--llm-engines=a,strange",): ["'strange'", "unknown kind 'llama'", "hf, openai, vllm, replay"],
        ("--llm-engines=a,no-python",): ["'no-python'", "/missing/bin/python", "no such file"],
        ("--llm-engines=a,no-vllm",): ["'no-vllm'", sys.executable, "does not have vllm", "install"],
        ("--llm-engines=a,own-model",): ["missing-model", "no such folder"],
        ("--llm-engines=a,openai",): ["name the server that runs"],
        ("--llm-engines=a,replay",): ["name the folder of captures"],
        ("--llm-engines=a,replay@nowhere",): ["no such folder of captures"],
        ("--llm-engines=a,hf@http://host:1",): ["kind 'hf' cannot be attached to"],
        ("--llm-engines=a,vllm>=0.3",): ["exact version"],
        ("--llm-engines=a,,b",): ["--llm-engines", "separated by commas"],
        ("--llm-engines=a,b", f"--llm-model={tmp_path}/nowhere"): ["nowhere", "no such folder", "checkpoint folder"],
        ("--llm-engines=a,b", f"--llm-model={tmp_path}/no-config"): ["no-config", "no config.json"],
        ("--llm-engines=a,b", f"--llm-model={tmp_path}/a-file"): ["a-file", "expected a folder"],
        ("--llm-engines=a,b", "--llm-baseline=c"): ["baseline 'c'", "a, b"],
        ("--llm-alpha=2",): ["--llm-alpha", "at most 0.2", "found 2"],
        ("--llm-alpha=small",): ["--llm-alpha", "expected a number", "'small'"],
        ("--llm-margin=-1",): ["--llm-margin", "over 0", "-1"],
        ("--llm-top-k=21",): ["--llm-top-k", "from 5 to 20", "21"],
        ("--llm-run-profile=tiny",): ["--llm-run-profile", "smoke", "release", "'tiny'"],
        ("--llm-reference=gpt",): ["--llm-reference", "hf, replay@DIR or none"],
        ("--llm-keep=30",): ["--llm-keep", "90s", "'30'"],
    }
    ended = run_all(parity_project, [list(case) for case in expected])
    assert len(ended) == len(expected), parity_project.output
    for (code, output), (case, words) in zip(ended, expected.items(), strict=True):
        assert code == USAGE_ERROR, (case, output)
        assert "Traceback" not in output
        for word in words:
            assert word in output, (case, word)
    assert not parity_project.logs(), "nothing was started"


def test_a_misspelt_key_of_the_project(parity_project: ParityProject) -> None:
    parity_project.settings(run_profil="ci")
    run = parity_project.run()
    assert run.code == USAGE_ERROR
    assert "pyproject.toml, [tool.llmparity]: unknown key 'run-profil'; did you mean 'run-profile'" in run.output


def test_a_wrong_value_in_an_engine_table(parity_project: ParityProject) -> None:
    parity_project.engine("x", **{"ready-timeout": "long"})
    run = parity_project.run()
    assert run.code == USAGE_ERROR
    assert "[tool.llmparity.engines.x]: expected a duration such as 90s, 20min or 1h30m, found 'long'" in run.output
