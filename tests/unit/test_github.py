"""What a GitHub job shows: a table and annotations, in which an engine's text is only text."""

from __future__ import annotations

import re

import pytest

from pytest_llmparity.report.github import step_summary, workflow_commands

WAIVED = {"until": "2026-12-31", "reason": "ticket 123"}


def check(name="forced_kl", verdict="pass", **changes):
    return {
        "id": f"test[{name}]",
        "check": name,
        "baseline": "vllm-0.31.0",
        "candidate": "vllm-0.32.0",
        "verdict": verdict,
        "tolerated": False,
        "changed": ["engine version: 0.31.0 -> 0.32.0"],
        "measured": "R = 1.01",
        "limit": "R <= 1.20",
        "why": "as close to fp32",
        "rerun": "pytest --llm-engines=a,b 'x::y[b-vs-a]'",
        **changes,
    }


def report(*checks, verdict="pass"):
    return {
        "verdict": verdict,
        "run_profile": "ci",
        "seconds": 12.3,
        "arms": [{"id": "vllm-0.31.0", "kind": "vllm", "version": "0.31.0"}],
        "checks": list(checks),
        "warnings": [],
        "not_covered": ["latency"],
    }


class TestSummary:
    def test_a_green_run_is_a_table(self):
        page = step_summary(report(check(), check("greedy")))
        assert page.startswith("## ✅ llmparity: pass\n")
        assert "### vllm-0.32.0 against vllm-0.31.0" in page
        assert "- engine version&#58; 0.31.0 -&gt; 0.32.0" in page
        assert page.count("| ✅ | ") == 2
        assert "Rerun" not in page
        assert "Not covered&#58;" not in page
        assert "Not covered: latency" in page

    def test_what_changed_comes_before_what_that_did(self):
        page = step_summary(report(check()))
        assert page.index("engine version") < page.index("| ✅ |")

    def test_red_verdicts_say_how_to_rerun_them(self):
        page = step_summary(report(check(verdict="fail"), check("greedy", "undecided", tolerated=True), verdict="fail"))
        assert page.startswith("## ❌ llmparity: fail")
        assert "    pytest --llm-engines=a,b 'x::y[b-vs-a]'" in page
        assert page.count("Rerun") == 1

    def test_a_waived_verdict_is_shown_as_it_is(self):
        page = step_summary(report(check(), check("greedy", "fail", waived=WAIVED)))
        assert page.startswith("## ✅ llmparity: pass, 1 waived\n")
        assert "| ❌ | greedy | waived until 2026-12-31&#58; ticket 123. as close to fp32 |" in page
        assert "Rerun" not in page

    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            "a | b | c",
            "![x](http://evil)",
            "**bold**",
            "\x1b[31mred",
            "@everyone",
            "`x`",
            "# h",
        ],
    )
    def test_text_of_an_engine_is_only_text(self, text):
        page = step_summary(report(check(why=text)))
        row = next(line for line in page.splitlines() if line.startswith("| ✅"))
        assert row.count("|") == 6
        assert not re.search(r"<script|!\[|\*\*|\x1b|@everyone|`", row)

    def test_lines_stay_in_their_cell(self):
        page = step_summary(report(check(why="one\ntwo\r\n| three")))
        assert "one two" in page
        assert page.count("\n| ✅") == 1


class TestAnnotations:
    def test_red_is_annotated_worst_first(self):
        found = workflow_commands(report(check("greedy", "undecided"), check("forced_kl", "fail"), check("finish")))
        assert found == [
            "::error title=fail forced_kl%3A vllm-0.32.0 against vllm-0.31.0::as close to fp32",
            "::warning title=undecided greedy%3A vllm-0.32.0 against vllm-0.31.0::as close to fp32",
        ]

    def test_tolerated_and_green_are_not(self):
        assert workflow_commands(report(check(), check("greedy", "undecided", tolerated=True))) == []

    def test_what_is_waived_is_a_notice(self):
        found = workflow_commands(report(check("finish", "fail", waived=WAIVED), check("greedy", "undecided")))
        assert found == [
            "::warning title=undecided greedy%3A vllm-0.32.0 against vllm-0.31.0::as close to fp32",
            "::notice title=fail finish%3A vllm-0.32.0 against vllm-0.31.0"
            "::waived until 2026-12-31: ticket 123. as close to fp32",
        ]

    def test_a_waiver_that_does_not_cover_is_told_beside_the_verdict(self):
        (line,) = workflow_commands(report(check(verdict="fail", unwaived="the waiver of forced_kl expired")))
        assert line.endswith("::the waiver of forced_kl expired. as close to fp32")

    def test_no_more_than_github_shows(self):
        red, waived = ([check(str(i), "fail", waived=waiver) for i in range(30)] for waiver in (None, WAIVED))
        assert [line.partition(" ")[0] for line in workflow_commands(report(*red, *waived))] == [
            *["::error"] * 10,
            *["::notice"] * 10,
        ]

    def test_text_of_an_engine_gives_no_command(self):
        (line,) = workflow_commands(report(check(verdict="fail", why="x\n::set-output name=a::b\r\n::error::c 100%")))
        assert "\n" not in line
        assert "\r" not in line
        assert "100%25" in line
