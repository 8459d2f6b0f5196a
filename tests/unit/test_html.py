"""The page of a report: verdicts first, red ones open, everything that was said shown as text, a bounded size."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import jsonschema
import pytest
from reports import arm, check, divergence, evidence, greedy_detail, kl, large, report

from pytest_llmparity.report.html import render
from pytest_llmparity.report.json_report import SCHEMA_FILE

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></td></table></style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m\x07",
    "left \u202e right \u200b\ufeff",
    "http://evil.example/x",
    "&lt;already&gt;",
]
VOID = {"meta", "link", "br", "img", "input", "hr"}
INLINE = {"span", "strong", "b", "i", "code", "title"}
DRAWN = {"rect", "line", "path", "circle", "polyline"}


class Element(HTMLParser):
    """All elements of a page: tag, attributes, and the text within, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += "" if tag in INLINE else " "
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def words(page: str) -> str:
    """Return what the page says, spaces folded."""
    return " ".join(Element(page).text.split())


def tags(page: str) -> set[str]:
    return {tag for tag, _ in Element(page).elements}


def red_report() -> dict:
    return report(
        check("prompt_ids"),
        check("greedy", "undecided", tolerated=True),
        check(
            "forced_kl",
            "fail",
            evidence=[evidence("KL 4.1 nat\nbaseline 0.1", "doc-3", 17)],
            detail=kl(),
            why="further from fp32",
        ),
        check("rollout", "undecided", detail=greedy_detail(divergence(), divergence("chat-9", tie=True, gap=0.1))),
        verdict="fail",
    )


class TestOrder:
    def test_the_verdict_is_first(self):
        text = words(render(red_report()))
        assert text.startswith(
            "FAIL: 2 of 4 checks red - llmparity ✗ FAIL 2 of 4 checks red 1 fail, 2 undecided, 1 pass."
        )
        assert (
            "vllm-0.31.0 (vllm 0.31.0), vllm-0.32.0 (vllm 0.32.0); run profile ci; 2026-11-23 03:00 UTC, 2 min 1 s"
            in text
        )

    def test_what_changed_comes_before_what_that_did_and_speed_after(self):
        text = words(render(red_report()))
        assert text.index("What changed engine version: 0.31.0 -> 0.32.0") < text.index("further from fp32")
        assert text.index("Speed forced 298 → 298 tokens a second") > text.index("prompt_ids: as close")

    def test_red_checks_come_first_and_are_open(self):
        page = render(red_report())
        rows = re.findall(r'<tr class="(\w+)" id="check-(\d)">.*?<details( open)?>', page, re.DOTALL)
        assert rows == [("fail", "2", " open"), ("undecided", "3", " open"), ("undecided", "1", ""), ("pass", "0", "")]
        assert "UNDECIDED tolerated" in words(page)

    def test_pairs_with_red_checks_come_first(self):
        page = render(report(check(), check(verdict="fail", candidate="other"), verdict="fail"))
        assert words(page).index("other against vllm-0.31.0") < words(page).index("vllm-0.32.0 against vllm-0.31.0")

    def test_several_pairs_have_an_overview_whose_links_lead_somewhere(self):
        page = render(report(check(), check(verdict="fail", candidate="other"), verdict="fail"))
        elements = Element(page).elements
        links = {str(attributes["href"]) for tag, attributes in elements if tag == "a"}
        assert links == {"#pair-0", "#pair-1", "#check-1"}
        assert {link[1:] for link in links} <= {attributes.get("id") for _, attributes in elements}
        assert "<a" not in render(report(check()))


class TestParts:
    def test_a_check_tells_all_it_knows(self):
        text = words(render(red_report()))
        for part in (
            "measured R = 1.013 on 256 documents",
            "allowed R <= 1.20",
            "interval R from 0.98 to 1.05 (Fieller, 99%)",
            "compared 256 prompts, 33,199 tokens",
            "could have seen R over 1.10 not green",
            "doc-3, token 17 KL 4.1 nat baseline 0.1",
        ):
            assert part in text

    def test_every_red_check_says_how_to_rerun_it(self):
        many = [check(f"check_{i}", "fail", id=f"t::x[{i}]", rerun=f"pytest 't::x[{i}]'") for i in range(300)]
        text = words(render(report(*many, verdict="fail")))
        for i in range(300):
            assert f"pytest 't::x[{i}]'" in text
        assert "llmparity compare a b --check check_0" in text

    def test_arms_skips_gaps_and_warnings(self):
        skipped = [{"id": f"t::skip[{i}]", "reason": "too few", "required": False} for i in range(3)]
        skipped.append({"id": "t::needed", "reason": "not asked", "required": True})
        broken = arm("broken", error="died: out of memory", restarts=["CUDA error"], starts=2)
        text = words(
            render(report(check(), skipped=skipped, warnings=["look here"], arms=[arm("vllm-0.31.0"), broken]))
        )
        assert "Warning look here" in text
        assert text.index("1 test: required, makes the run red: not asked") < text.index("3 tests: too few")
        assert "started 2×, 32 s; captured forced, greedy; from the store: prompts died: out of memory" in text
        assert "vllm serve /models/vllm-0.31.0" in text
        assert "/logs/vllm-0.31.0.log" in text
        assert "died and was started again: CUDA error" in text
        assert '"dtype": "bfloat16"' in text
        assert "Not covered latency" in text
        assert "llmparity report report.json -o report.html" in text

    def test_coverage(self):
        coverage = {
            "documents": {"code": 5, "prose": 4},
            "scored_tokens": 1963,
            "ids_scored": 851,
            "vocabulary": 49152,
            "longest": 260,
            "greedy_prompts": 16,
            "one_token": 1,
            "long_answers": 0,
            "rollouts": 0,
        }
        text = words(render(report(check(), coverage=coverage)))
        assert "documents code 5, prose 4 scored tokens 1,963, with 851 of 49,152 ids" in text

    def test_a_run_that_compared_nothing_says_so(self):
        text = words(render(report(verdict="undecided", arms=[], not_covered=[], warnings=["no verdict for x: y"])))
        assert text.startswith("UNDECIDED: nothing was compared")
        assert "Warning no verdict for x: y" in text
        assert "No arm answered." in text

    def test_reports_of_before_there_was_detail_are_drawn(self):
        old = check(verdict="fail", evidence=[evidence("KL 4.1")])
        del old["detail"]
        assert "KL 4.1" in words(render(report(old, verdict="fail")))

    def test_one_engine_alone_changed_nothing(self):
        page = render(report(check("finish", baseline=None, changed=[])))
        assert "<h2>vllm-0.32.0 <span" in page
        assert "What changed" not in page


class TestPictures:
    def test_kl_by_prompt_and_by_position(self):
        page = render(report(check(verdict="fail", detail=kl()), verdict="fail"))
        assert page.count('role="img"') == 2
        assert 'aria-label="KL from fp32 by prompt, vllm-0.32.0 against vllm-0.31.0: 8 prompts, ' in page
        assert len(re.findall(r'<(?:path class="over"|circle class="under")', page)) == 8
        assert page.count('<circle class="candidate"') == 16
        assert "R = 1.20, allowed in the mean" in words(page)

    def test_the_worst_prompt_is_named_and_above_the_line(self):
        page = render(report(check(verdict="fail", detail=kl()), verdict="fail"))
        assert re.search(r'<path class="over"[^>]*><title>doc-7: .*R = 30.00, 64 tokens</title>', page)
        assert re.search(r'<text class="name"[^>]*>doc-7</text>', page)
        assert "doc-7 64" in words(page)

    def test_no_more_than_so_many_prompts_are_drawn_and_the_picture_says_so(self):
        page = render(report(check(verdict="fail", detail=kl(10_000)), verdict="fail"))
        assert len(re.findall(r'<(?:path class="over"|circle class="under")', page)) == 400
        assert "400 of 10,000 prompts are drawn" in words(page)
        assert ">doc-9999<" in page

    @pytest.mark.parametrize("factor", [0.9, 1.0, 3.0, 80.0])
    def test_names_stand_inside_the_picture_and_on_no_other(self, factor):
        name = "a-rather-long-name-of-a-prompt"
        page = render(report(check(verdict="fail", detail=kl(64, factor, name)), verdict="fail"))
        labels = re.findall(r'<text class="name" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">(.*?)</text>', page)
        assert labels
        lines = sorted(float(y) for _, y, _, _ in labels)
        assert all(after - before >= 13 for before, after in pairwise(lines))
        for x, _, anchor, text in labels:
            width = 6.7 * len(text)
            start = float(x) - width if anchor == "end" else float(x)
            assert 54 <= start <= start + width <= 406.1

    def test_prompts_at_zero_stand_at_the_edge(self):
        rows = [["same", 10, 0.0, 0.0], ["other", 10, 0.01, 0.02]]
        page = render(report(check(detail={"documents": rows})))
        assert "with a KL of 0, at the edge: 1" in words(page)
        assert 'role="img"' not in render(report(check(detail={"documents": rows[:1]})))

    def test_a_wide_range_of_positions_is_on_a_log_scale(self):
        far = render(report(check(detail=kl(factor=80))))
        assert "log scale" in re.search(r"by position</h3>(.*?)</figcaption>", far)[1]
        near = render(report(check(detail=kl(factor=1.2))))
        assert "log scale" not in re.search(r"by position</h3>(.*?)</figcaption>", near)[1]

    def test_goldens_have_halves(self):
        detail = {"documents": kl()["documents"], "halves": [[100, 0.001, 0.002], [120, 0.001, 0.05]]}
        text = words(render(report(check(detail=detail))))
        assert "first half 100 0.001 0.002 later half 120 0.001 0.05" in text
        assert "by position" not in text

    def test_divergences_stand_side_by_side(self):
        found = greedy_detail(divergence(), divergence("chat-9", tie=True, gap=0.1), left_out=4)
        case = evidence("shown as text elsewhere", "chat-7", 12)
        page = render(report(check("greedy", "fail", detail=found, evidence=[case]), verdict="fail"))
        text = words(page)
        assert "chat-7, token 12 no tie: 1.500 nat, a tie is up to 0.400 shared What both say" in text
        assert "vllm-0.31.0 504 ' The', preferred by 1.500 nat The baseline goes on" in text
        assert "vllm-0.32.0 262 ' A', preferred by 0.250 nat A candidate goes on" in text
        assert "1 part at a tie (gaps up to 0.400 nat)" in text
        assert "4 more divergences are not shown here" in text
        assert "shown as text elsewhere" not in text  # the same divergence is drawn

    def test_the_two_ways_of_one_engine_have_their_names(self):
        found = greedy_detail(divergence()) | {"sides": ["alone", "batched"]}
        text = words(render(report(check("batching", "fail", baseline=None, detail=found), verdict="fail")))
        assert "alone 504 ' The'" in text
        assert "batched 262 ' A'" in text


def hostile_report(text: str) -> dict:
    """Return a report that has the text in every place that holds any."""
    found = greedy_detail(divergence(text, text=text), divergence(text + "tie", tie=True, text=text))
    found["divergences"][0]["baseline"]["token"] = text
    changes = dict.fromkeys(("why", "measured", "limit", "interval", "power", "rerun", "replay", "check", "id"), text)
    changes |= {"baseline": text, "candidate": text, "changed": [text], "evidence": [evidence(text, text)]}
    documents = [[f"{text}{i}", 10, 0.01, 0.02] for i in range(4)]
    positions = kl()["positions"]
    engine = arm(text, kind=text, version=text, command=text, log=text, error=text, restarts=[text], captured=[text])
    engine |= {"from_store": [text], "speeds": {text: 1.0}, "fingerprint": {text: text}}
    coverage = {"documents": {text: 1}} | dict.fromkeys(
        ("scored_tokens", "ids_scored", "vocabulary", "longest", "greedy_prompts", "one_token", "long_answers"), 1
    )
    return report(
        check(verdict="fail", **{**changes, "changed": [text, "x"]}),
        check(
            verdict="fail", **changes, detail={"documents": documents, "positions": positions, "sides": [text, text]}
        ),
        check(verdict="fail", **changes, detail=found),
        verdict="fail",
        run_profile=text,
        started=text,
        arms=[engine],
        skipped=[{"id": text, "reason": text, "required": True}],
        not_covered=[text],
        warnings=[text],
        coverage={**coverage, "rollouts": 1},
    )


class TestInert:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_what_anybody_said_is_only_text(self, text):
        page, usual = render(hostile_report(text)), render(hostile_report("usual"))
        assert [tag for tag, _ in Element(page).elements] == [tag for tag, _ in Element(usual).elements]
        assert {name for _, attributes in Element(page).elements for name in attributes} == {
            name for _, attributes in Element(usual).elements for name in attributes
        }
        for character in "\x1b\x07\u202e\u200b\ufeff":
            assert character not in page

    def test_escapes_are_spelled_out_and_markup_is_seen(self):
        text = words(render(report(check(verdict="fail", why="\x1b[31mred <b>bold</b> \u202e"), verdict="fail")))
        assert "\\x1b[31mred <b>bold</b> \\u202e" in text

    def test_every_place_shows_it(self):
        assert words(render(hostile_report("<i>m</i>"))).count("<i>m</i>") >= 60

    def test_nothing_runs_and_nothing_is_loaded(self):
        page = render(hostile_report("http://evil.example/x"))
        elements = Element(page).elements
        assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base", "image", "use"} & tags(page)
        for tag, attributes in elements:
            assert not [name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset")]
            assert str(attributes.get("href", "#")).startswith("#"), tag
        assert "url(" not in page
        assert "@import" not in page

    def test_the_policy_allows_the_pages_own_style_alone(self):
        page = render(red_report())
        style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        (policy,) = (
            a["content"] for _, a in Element(page).elements if a.get("http-equiv") == "Content-Security-Policy"
        )
        assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"

    def test_a_long_answer_is_cut_and_says_so(self):
        text = words(render(report(check(verdict="fail", evidence=[evidence("a" * 9000)]), verdict="fail")))
        assert "5,000 more characters in report.json" in text


class TestForPeople:
    def test_tables_have_headers_and_pictures_have_names(self):
        page = render(red_report())
        elements = Element(page).elements
        assert all(attributes.get("scope") in ("row", "col") for tag, attributes in elements if tag == "th")
        assert all(a.get("role") == "img" and a.get("aria-label") for tag, a in elements if tag == "svg")
        headings = [int(tag[1]) for tag, _ in elements if re.fullmatch("h[1-6]", tag)]
        assert headings[0] == 1
        assert headings.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(headings))

    def test_a_verdict_is_a_word_and_not_only_a_colour(self):
        text = words(render(red_report()))
        for word in ("✗ FAIL", "? UNDECIDED", "✓ PASS"):
            assert word in text


@pytest.fixture(scope="module")
def large_page():
    return render(large())


class TestLarge:
    def test_its_size_is_bounded(self, large_page):
        assert len(large_page) < 8_000_000
        assert sum(tag in DRAWN for tag, _ in Element(large_page).elements) < 1000

    def test_green_checks_are_folded_and_counted(self, large_page):
        folds = re.findall(r"<summary>([\d,]+) not red</summary>", large_page)
        assert sum(int(count.replace(",", "")) for count in folds) == 10_000 - 101
        assert large_page.count('id="check-') == 10_000

    def test_red_ones_are_open_up_to_a_limit(self, large_page):
        assert large_page.count("<details open>") == 40
        assert "more red" not in large_page
        reds = [check(f"check_{i}", "fail", id=f"t::x[{i}]", rerun=f"pytest x[{i}]") for i in range(1000)]
        assert "800 more red" in words(render(report(*reds, verdict="fail")))

    def test_evidence_is_cut_and_says_so(self):
        many = [evidence(f"case {i}") for i in range(500)]
        text = words(render(report(check(verdict="fail", evidence=many), verdict="fail")))
        assert "case 11" in text
        assert "case 12" not in text
        assert "488 more in report.json" in text


def test_the_reports_of_these_tests_are_of_the_schema() -> None:
    schema = json.loads(SCHEMA_FILE.read_text())
    for made in (red_report(), report(check(detail=kl())), large(300)):
        jsonschema.validate(json.loads(json.dumps(made)), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report(check(detail={"documents": [["a", 1, "x", 2]]})), schema)


def test_a_waived_verdict_is_shown_as_it_is_and_is_not_red() -> None:
    report = red_report()
    reds = [check for check in report["checks"] if check["verdict"] != "pass" and not check["tolerated"]]
    assert f"{len(reds)} of {len(report['checks'])} checks red" in words(render(report))
    reds[0]["waived"] = {"until": "2026-12-31", "reason": "ticket <123>"}
    after = words(render(report))
    assert "waived until 2026-12-31: ticket <123>" in after
    assert f"{len(reds) - 1} of {len(report['checks'])} checks red" in after
