"""report.html in a real browser: what a reader sees, in the dark, on a phone, by keyboard; and that nothing runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from reports import check, divergence, evidence, greedy_detail, kl, large, report

if TYPE_CHECKING:
    from conftest import Open

HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=2</script>\x1b[31m\u202e <b>bold</b>'

# WCAG 2.2, "contrast ratio": of every text that is drawn, against the nearest background that is not transparent.
CONTRAST = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parsed = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parsed(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return parsed(getComputedStyle(document.documentElement).getPropertyValue("background-color"));
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || element.localName === "title" || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [one, two] = [light(parsed(colour)), light(background(element))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    found.push([ratio, `${element.localName}.${element.getAttribute("class")}: ${element.textContent.slice(0, 30)}`]);
  }
  return found;
}"""


def red_report(text: str = "", **changes: object) -> dict[str, object]:
    """Return a report with every part: red, tolerated and green checks, pictures, texts, skips, a warning."""
    found = greedy_detail(divergence(text=text), divergence("chat-9", tie=True, gap=0.1, text=text))
    return report(
        check("prompt_ids"),
        check("chat", "undecided", tolerated=True),
        check("forced_kl", "fail", evidence=[evidence(f"KL 4.1 nat {text}")], detail=kl(64)),
        check("greedy", "fail", detail=found, why=f"texts part {text}"),
        check("finish", candidate="vllm-other"),
        check("rollout", "undecided", rerun="pytest " + "long" * 100),
        verdict="fail",
        skipped=[{"id": "t::x", "reason": "too few", "required": False}],
        warnings=["look here"],
        **changes,
    )


def test_the_verdict_is_what_a_reader_sees_first(open_report: Open) -> None:
    opened = open_report(red_report())
    assert opened.page.title() == "FAIL: 3 of 6 checks red - llmparity"
    heading = opened.page.locator("h1")
    assert heading.inner_text().split() == ["✗", "FAIL", "3", "of", "6", "checks", "red"]
    first_check = opened.page.locator("table.checks tbody tr").first
    assert first_check.locator("th").first.inner_text() == "forced_kl"
    assert heading.bounding_box()["y"] < first_check.bounding_box()["y"] < 800  # both on the first screen


def test_nothing_is_asked_for_and_the_browser_has_no_complaint(open_report: Open) -> None:
    opened = open_report(red_report())
    opened.page.wait_for_load_state("networkidle")
    assert opened.requests == [opened.page.url]
    assert opened.complaints == []


def test_text_of_a_model_does_nothing_and_is_seen(open_report: Open) -> None:
    opened = open_report(red_report(HOSTILE))
    assert opened.page.title().startswith("FAIL")
    assert opened.evaluate("document.querySelectorAll('img, script, main b:not(.over, .under)').length") == 0
    assert (opened.requests, opened.complaints) == ([opened.page.url], [])
    shown = opened.page.locator(".sides pre").first.inner_text()
    assert shown.endswith(
        '<img src=x onerror="document.title=1"><script>document.title=2</script>\\x1b[31m\\u202e <b>bold</b>'
    )


def test_the_policy_stops_what_an_error_of_ours_would_let_through(open_report: Open) -> None:
    """Markup that is put into the page all the same, as by an error in escaping, neither runs nor loads."""
    opened = open_report(red_report())
    failed = []
    opened.page.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    markup = "<img src='http://127.0.0.1:9/x' onerror='document.title=1'>"
    opened.evaluate(f'document.body.insertAdjacentHTML("beforeend", "{markup}")')
    opened.page.wait_for_timeout(200)
    assert opened.page.title().startswith("FAIL")
    assert failed == [("http://127.0.0.1:9/x", "csp")]
    assert all("Content Security Policy" in line for line in opened.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_text_can_be_read(open_report: Open, scheme: str, width: int) -> None:
    opened = open_report(red_report(), scheme=scheme, width=width)
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    found = opened.evaluate(CONTRAST)
    assert len(found) > 150
    assert [what for ratio, what in found if ratio < 4.5] == []


def test_the_measure_of_contrast_sees_a_text_that_is_too_pale(open_report: Open) -> None:
    opened = open_report(red_report())
    opened.evaluate("document.documentElement.style.setProperty('--quiet', '#999')")
    assert [what for ratio, what in opened.evaluate(CONTRAST) if ratio < 4.5]


def test_dark_is_dark_and_light_is_light(open_report: Open) -> None:
    colours = "['color', 'backgroundColor'].map(name => getComputedStyle(document.body)[name])"
    light, dark = (open_report(red_report(), scheme=scheme).evaluate(colours) for scheme in ("light", "dark"))
    assert light[0] != dark[0]
    assert light[1] == "rgb(251, 251, 250)"
    assert dark[1] == "rgb(21, 24, 27)"


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_narrow_page_does_not_scroll_sideways(open_report: Open, width: int) -> None:
    opened = open_report(red_report("x" * 400), width=width)
    opened.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    wide, seen = opened.evaluate("[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]")
    assert wide <= seen == width


def test_continuations_stand_side_by_side_and_on_a_phone_below_one_another(open_report: Open) -> None:
    places = {}
    for width in (1280, 375):
        sides = open_report(red_report(), width=width).page.locator(".sides").first.locator("> div")
        places[width] = [sides.nth(i).bounding_box() for i in range(2)]
    one, two = places[1280]
    assert one["y"] == two["y"]
    assert one["x"] < two["x"]
    one, two = places[375]
    assert one["x"] == two["x"]
    assert one["y"] < two["y"]


def test_checks_fold_by_keyboard(open_report: Open) -> None:
    page = open_report(red_report()).page
    details = page.locator("tr.pass details").first
    assert details.get_attribute("open") is None
    details.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert details.locator(".facts").is_visible()
    page.keyboard.press("Enter")
    assert not details.locator(".facts").is_visible()
    page.keyboard.press("Tab")  # on to the next, which shows where it is
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_a_link_of_the_overview_leads_to_its_check(open_report: Open) -> None:
    page = open_report(red_report()).page
    page.locator(".overview a", has_text="rollout").click()
    assert page.url.endswith("#check-5")
    assert 0 <= page.locator("#check-5").bounding_box()["y"] < 800


def test_a_command_is_selected_by_one_click(open_report: Open) -> None:
    page = open_report(red_report()).page
    page.locator("tr.fail .command pre").first.click()
    assert page.evaluate("getSelection().toString()") == "pytest --llm-engines=a,b 'x::test_forced_kl[b-vs-a]'"


def test_on_paper_nothing_is_folded_away(open_report: Open) -> None:
    page = open_report(red_report()).page
    page.emulate_media(media="print")
    assert page.locator("tr.pass .facts").first.is_visible()


def test_ten_thousand_cases_are_a_bounded_page(open_report: Open) -> None:
    opened = open_report(large(10_000))
    assert opened.page.locator("h1").inner_text().endswith("101 of 10,000 checks red")
    assert opened.evaluate("document.querySelectorAll('*').length") < 120_000
    assert opened.evaluate("document.querySelectorAll('svg *').length") < 2_000
    assert "400 of 10,000 prompts are drawn" in opened.page.locator("figure").first.inner_text()
    drawn = "[...document.querySelectorAll('tr')].filter(row => row.checkVisibility()).length"
    assert opened.evaluate(drawn) < 1_000  # the rest is folded
    assert opened.complaints == []
