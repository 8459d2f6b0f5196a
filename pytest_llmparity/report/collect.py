"""Collects what a run found and writes it: terminal summary, report.json, exit status.

Verdicts ride on the test reports, so that under xdist the controller has them; arms come from whichever process
ran the engines.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..items import GATE, with_verdicts
from ..options import Settings
from ..secrets import Secrets
from ..verdicts import is_red, waiver_line

if TYPE_CHECKING:
    from ..session import ParitySession

_WORKER_KEY = "llmparity_session"


class RunReport:
    """A pytest plugin object, one for each process."""

    NAME = "llmparity-report"

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._began = time.monotonic()
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.verdicts: list[dict[str, Any]] = []
        self.skipped: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []
        self._superseded: set[str] = set()
        self.arms: list[dict[str, Any]] = []
        self.leaked: list[int] = []
        self.told: list[str] = []
        self.not_covered: list[str] = []
        self.coverage: dict[str, Any] | None = None
        self.written: Path | None = None
        self.not_written: str | None = None

    @cached_property
    def _secrets(self) -> Secrets:
        return Secrets.of_run(self._settings)

    def take_session(self, session: ParitySession) -> None:
        """Take over arms and leaks from the session that ran the engines."""
        from .coverage import not_covered

        facts = {
            "arms": [record.to_json() for record in session.runs.records()],
            "leaked": session.runs.leaked,
            "warnings": list(session.warnings),
            "not_covered": not_covered(session),
            "coverage": None if (manifest := session.manifest()) is None else manifest.to_json(),
        }
        facts = self._secrets.redact_tree(facts)
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput[_WORKER_KEY] = facts
        else:
            self._take_facts(facts)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hide secrets in the reports of llm tests before anybody sees them: the terminal, JUnit, and this report."""
        report = yield
        if hasattr(report, "llm_id"):
            from .outcome import hide_secrets

            hide_secrets(report, self._secrets)
        return report

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over arms and leaks from an xdist worker."""
        facts = getattr(node, "workeroutput", {}).get(_WORKER_KEY)
        if facts is not None:
            self._take_facts(facts)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect verdicts, skips and setup errors of llm tests; of a test that is rerun, those of its last attempt."""
        name = getattr(report, "llm_id", None)
        if name is None:
            return
        if report.when == "setup":
            self._forget(name)
        if str(report.outcome) == "rerun":  # pytest-rerunfailures
            self._superseded.add(name)
        if name in self._superseded:  # JUnit would list the verdicts once for each attempt
            report.user_properties = with_verdicts(report.user_properties)
        self.verdicts.extend(getattr(report, "llm_verdicts", ()))
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            required = bool(getattr(report, "llm_required", False))
            self.skipped.append({"id": name, "reason": reason.removeprefix("Skipped: "), "required": required})
        if report.failed and not any(is_red(entry) for entry in getattr(report, "llm_verdicts", ())):
            self.errors.append({"id": name, "error": _last_line(report)})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write report.json and its page, and make the run red for what no single test can show."""
        if hasattr(self._config, "workeroutput") or not self._has_content():
            return
        if self._red_without_a_test() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self._settings.plan or self._config.option.collectonly:
            return
        if (page := os.environ.get("GITHUB_STEP_SUMMARY")) and self.verdicts:
            self._summarise_step(Path(page))
        if self._settings.report is not None:
            from .html import write_page
            from .json_report import write_report

            report, target = self.to_json(), self._settings.report
            try:
                self.written = write_report(report, target)
                target = self.written.with_suffix(".html")
                write_page(report, target)
            except OSError as error:
                self.not_written = f"{target}: {error.strerror or error}"
                if session.exitstatus == pytest.ExitCode.OK:  # who reads it next must not find an older one
                    session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _summarise_step(self, page: Path) -> None:
        from .github import step_summary

        try:
            with page.open("a", encoding="utf-8") as file:
                file.write(step_summary(self.to_json()))
        except OSError as error:
            self.told.append(f"the job's summary could not be written: {page}: {error.strerror or error}")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the verdicts, arms, skips and where the report is."""
        if self._has_content() and not self._settings.plan:
            from .terminal import print_summary

            print_summary(terminalreporter, self)
            if os.environ.get("GITHUB_ACTIONS") == "true":
                from .github import workflow_commands

                for line in workflow_commands(self.to_json()):
                    terminalreporter.write_line(line)

    def to_json(self) -> dict[str, Any]:
        """Return report.json."""
        from .json_report import SCHEMA

        return {
            "schema": SCHEMA,
            "verdict": self.verdict(),
            "waived": len(self.waived()),
            "alpha": self._settings.alpha,
            "started": self.started,
            "seconds": round(time.monotonic() - self._began, 1),
            "run_profile": self._settings.run_profile,
            "arms": self.arms,
            "checks": self.verdicts,
            "skipped": self.skipped,
            "coverage": self.coverage,
            "not_covered": self.not_covered,
            "warnings": self.warnings(),
        }

    def verdict(self) -> str:
        """Return the verdict of the run: fail before undecided before pass; nothing compared is undecided."""
        red = [entry["verdict"] for entry in self.verdicts if entry["required"] and is_red(entry)]
        if "fail" in red or self.leaked:
            return "fail"
        if red or not self.verdicts or self.errors or self._required_skips():
            return "undecided"
        return "pass"

    def waived(self) -> list[dict[str, Any]]:
        """Return the red verdicts that do not count, since the user knows of them until a date."""
        return [entry for entry in self.verdicts if entry["waived"]]

    def warnings(self) -> list[str]:
        """Return what a reader should know besides the verdicts."""
        tolerated = [entry for entry in self.verdicts if entry["tolerated"]]
        blessed = sum(entry["figures"].get("golden") == "blessed" for entry in tolerated)
        undecided = len(tolerated) - blessed
        found = [f"{blessed} verdicts left open: goldens were blessed, read them before you commit"] if blessed else []
        found += [f"{undecided} undecided verdicts tolerated (undecided = warn)"] if undecided else []
        found += [
            f"{entry['verdict']} of {entry['check']} {waiver_line(entry)}: {entry['id']}" for entry in self.waived()
        ]
        found += self.told
        found += [f"engine processes survived their stop: {self.leaked}"] if self.leaked else []
        found += [
            f"{arm['id']} died under a request and was started again; no latency of it counts: {why.splitlines()[0]}"
            for arm in self.arms
            for why in arm["restarts"]
        ]
        found += [f"required check skipped: {entry['id']}: {entry['reason']}" for entry in self._required_skips()]
        reasons: dict[str, list[str]] = {}
        for entry in self.errors:
            reasons.setdefault(entry["error"], []).append(entry["id"])
        found += [f"no verdict for {', '.join(ids)}: {error}" for error, ids in reasons.items()]
        return found

    def _forget(self, name: str) -> None:
        """Drop what an earlier attempt of a test told."""
        self._superseded.discard(name)
        self.verdicts = [entry for entry in self.verdicts if entry["id"] != name]
        self.errors = [entry for entry in self.errors if entry["id"] != name]

    def _take_facts(self, facts: dict[str, Any]) -> None:
        self.arms.extend(facts["arms"])
        self.leaked.extend(facts["leaked"])
        self.told.extend(facts["warnings"])
        self.not_covered = facts["not_covered"]
        self.coverage = facts["coverage"]

    def _has_content(self) -> bool:
        return bool(self.verdicts or self.skipped or self.errors or self.arms)

    def _required_skips(self) -> Sequence[dict[str, Any]]:
        """Return skipped tests of the gate that its engines could have run: a check the user relies on."""
        return [entry for entry in self.skipped if entry["required"]]

    def _red_without_a_test(self) -> bool:
        return bool(self.leaked or self._required_skips() or self._compared_nothing())

    def _compared_nothing(self) -> bool:
        """Say whether the gate ran with engines and every test of it was skipped: a green would have seen nothing."""
        gate = any(entry["id"].startswith(GATE) for entry in self.skipped)
        return gate and bool(self._settings.engines) and not self.verdicts and not self._settings.plan


def _last_line(report: pytest.TestReport) -> str:
    """Return why a test failed for another reason than a verdict, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr) if crash is None else str(crash.message)
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
