"""Two runs of pytest that bless the same goldens at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from parity_project import ParityProject

pytest_plugins = ("parity_project",)

SEVERAL_FILES = """
from pytest_llmparity.golden import text

text.LIMIT = 12_000  # so that these goldens are in several files, as those of larger run profiles are
"""
ENGINES = ("--llm-engines=vllm", "--pyargs", "pytest_llmparity.gate.test_parity")


@pytest.fixture
def two_projects(
    parity_project: ParityProject, shared_project: ParityProject, tmp_path: Path
) -> tuple[ParityProject, ParityProject]:
    """Two projects with one cache and one folder of goldens."""
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = type(parity_project)(other_folder, shared_project.folder)
    other.cache = parity_project.cache
    other.settings(golden_dir=str(parity_project.folder / "golden"))
    for project in (parity_project, other):
        project.environment["CI"] = ""
        (project.folder / "conftest.py").write_text(SEVERAL_FILES)
    return parity_project, other


def both(projects: tuple[ParityProject, ParityProject], seeds: tuple[int, int], mode: str) -> list[str]:
    """Run both at once on engines of these seeds, and return what they printed."""
    for project, seed in zip(projects, seeds, strict=True):
        project.engine("vllm", seed)
    running = [project.start(*ENGINES, f"--llm-golden={mode}") for project in projects]
    codes = [run.wait(timeout=180) for run in running]
    outputs = [project.output for project in projects]
    assert codes == [0, 0], "\n".join(outputs)
    return outputs


def blessed(project: ParityProject) -> dict[str, list[dict[str, Any]]]:
    """Return what each golden is about, file by file."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(project.folder.glob("golden/vllm_*/*.json")):
        found.setdefault(path.name.partition(".")[0], []).append(json.loads(path.read_text())["about"])
    return found


def test_two_runs_at_once_leave_goldens_of_one_of_them(two_projects: tuple[ParityProject, ParityProject]) -> None:
    project, _ = two_projects
    seeds_seen = set()
    for seeds, mode in (((1, 2), "create"), ((3, 4), "fix")):
        both(two_projects, seeds, mode)
        found = blessed(project)
        assert sorted(name.partition("-")[0] for name in found) == ["forced", "greedy"]
        assert max(map(len, found.values())) > 1, "in several files"
        for abouts in found.values():
            assert all(about == abouts[0] for about in abouts), "files of one blessing"
            seed = abouts[0]["fingerprint"]["environment"]["LLMPARITY_DOUBLE_NOISE_SEED"]
            assert int(seed) in seeds, "what was blessed last"
            seeds_seen.add(seed)
        checked = project.run(*ENGINES, "--llm-golden=check")
        assert checked.code == 0, checked.output
        assert {check["verdict"] for check in checked.report["checks"]} == {"pass"}
    assert len(seeds_seen) >= 2
    assert not list(project.folder.glob("golden/**/*.lock")), "nothing for git to find"
