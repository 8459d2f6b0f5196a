"""Let the verdicts recorded on a test decide its outcome, and explain it."""

from __future__ import annotations

import pytest

from ..items import OPTIONAL, VERDICTS, is_gate, item_id, with_verdicts
from ..secrets import Secrets
from ..verdicts import Verdict, waiver_line

_NOTHING = (
    "this test used an llm fixture and recorded no verdict: call a check such as llm_pair.forced_kl(), or "
    "llm_engine.expect(condition, why)"
)


class Explanation:
    """What pytest prints in the place of a traceback through our code; `message` is its short form."""

    def __init__(self, text: str, path: str, line: int, message: str) -> None:
        self.text = text
        self.reprcrash = _Crash(path, line, message)

    def __str__(self) -> str:
        return self.text

    def toterminal(self, tw: object) -> None:
        """Write the explanation line by line."""
        for line in self.text.splitlines():
            tw.line(line)  # type: ignore[attr-defined]


class _Crash:
    """Where and what, for pytest's one-line summary and for JUnit."""

    def __init__(self, path: str, lineno: int, message: str) -> None:
        self.path, self.lineno, self.message = path, lineno, message

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


def apply_verdicts(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Attach the item's verdicts to its report; make the call phase red where they say so or where none is."""
    assert isinstance(item, pytest.Function)
    extra = vars(report)  # what is set here travels with the report through xdist
    extra["llm_id"] = item_id(item)
    extra["llm_required"] = is_gate(item) and not item.stash.get(OPTIONAL, False)
    if report.when == "teardown":
        _forget_attempt(item)
    if report.when != "call":
        return
    verdicts = item.stash.get(VERDICTS, [])
    extra["llm_verdicts"] = [verdict.to_json() for verdict in verdicts]
    item.user_properties[:] = with_verdicts(item.user_properties, verdicts)
    if report.skipped or hasattr(report, "wasxfail"):
        return
    red = [verdict for verdict in verdicts if verdict.required and not verdict]
    if red and (report.passed or _is_assertion(call)):
        _make_red(item, report, red)
    elif not verdicts and report.passed:
        _fail(item, report, _NOTHING)
    elif report.passed and (waived := [verdict for verdict in verdicts if verdict.waived is not None]):
        _make_known(item, report, waived)


def _forget_attempt(item: pytest.Function) -> None:
    """Make ready for a rerun (pytest-rerunfailures). It uses the same captures, so what was red stays red."""
    item.stash[VERDICTS] = [verdict for verdict in item.stash.get(VERDICTS, []) if verdict.required and not verdict]
    item.user_properties[:] = with_verdicts(item.user_properties)


def hide_secrets(report: pytest.TestReport, secrets: Secrets) -> None:
    """Hide secrets in all that a report shows: why the test failed, what it printed, its verdicts and properties."""
    extra = vars(report)
    extra["llm_verdicts"] = secrets.redact_tree(getattr(report, "llm_verdicts", []))
    report.sections = [(title, secrets.redact(text)) for title, text in report.sections]
    report.user_properties = [(name, secrets.redact_tree(value)) for name, value in report.user_properties]
    if hasattr(report, "wasxfail"):
        extra["wasxfail"] = secrets.redact(str(report.wasxfail))
    reason = report.longrepr
    if isinstance(reason, tuple):
        path, line, text = reason
        report.longrepr = (path, line, secrets.redact(text))
    elif reason is not None and (text := secrets.redact(str(reason))) != str(reason):
        report.longrepr = _without_secrets(reason, text, secrets)  # type: ignore[assignment]


def _without_secrets(reason: object, text: str, secrets: Secrets) -> Explanation | str:
    """Return what pytest prints in the place of a reason that shows secrets; a text stays one."""
    crash = getattr(reason, "reprcrash", None)
    if crash is None:
        return text
    return Explanation(text, crash.path, crash.lineno, secrets.redact(crash.message))


def _is_assertion(call: pytest.CallInfo[None]) -> bool:
    return call.excinfo is not None and call.excinfo.errisinstance(AssertionError)


def _make_red(item: pytest.Function, report: pytest.TestReport, red: list[Verdict]) -> None:
    _fail(item, report, "\n\n".join(verdict.explain() for verdict in red))


def _make_known(item: pytest.Function, report: pytest.TestReport, waived: list[Verdict]) -> None:
    """Make the outcome what pytest has for a failure that is known of: `xfailed`, neither red nor a pass."""
    _fail(item, report, "\n\n".join(verdict.explain() for verdict in waived))
    report.outcome = "skipped"
    vars(report)["wasxfail"] = "; ".join(f"{each.status} {each.check} {waiver_line(each.to_json())}" for each in waived)


def _fail(item: pytest.Function, report: pytest.TestReport, text: str) -> None:
    report.outcome = "failed"
    path, line, _ = item.reportinfo()
    report.longrepr = Explanation(text, str(path), (line or 0) + 1, text.splitlines()[0])  # type: ignore[assignment]
