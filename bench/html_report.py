"""How long the page of a report with 10,000 cases takes to be made, and to open in Chromium.

    python bench/html_report.py --json docs/results/html-report.json

Three reports: 10,000 verdicts of which one in a hundred is red, one check with a detail of 10,000 documents, and both
in one. Each page is opened several times, each time by a browser that was just started. Seconds from the navigation:
`load` is when the browser says that the page is loaded, `ready` when it has drawn a frame of it and takes input. What
else the machine does counts too: its load is told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import Playwright, sync_playwright

from pytest_llmparity.report.html import render

sys.path.append(str(Path(__file__).parents[1] / "tests" / "unit"))
from reports import check, kl, large, report

CASES = 10_000
OPENED = 15
READY = "new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now() / 1000))))"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"


def reports() -> dict[str, Mapping[str, Any]]:
    """Return the reports by name."""
    both = large(CASES)
    return {
        "verdicts": report(*both["checks"][1:], verdict="fail"),
        "documents": report(check(verdict="fail", detail=kl(CASES, 1.1)), verdict="fail"),
        "both": both,
    }


def measured(playwright: Playwright, browser: str, given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return how long one page takes."""
    start = time.perf_counter()
    html = render(given)
    seconds = time.perf_counter() - start
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    loads, readies, elements = [], [], 0
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    for _ in range(OPENED):
        started = playwright.chromium.launch(executable_path=browser, args=options)
        page = started.new_page(viewport={"width": 1280, "height": 800})
        page.goto(file.as_uri())
        readies.append(page.evaluate(READY))
        loads.append(page.evaluate(LOADED))
        elements = page.evaluate("document.querySelectorAll('*').length")
        version = started.version
        started.close()
    return {
        "checks": len(given["checks"]),
        "render": round(seconds, 2),
        "bytes": len(html.encode()),
        "elements": elements,
        "load": _spread(loads),
        "ready": _spread(readies),
        "browser": version,
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 2),
        "largest": round(max(seconds), 2),
        "over_2": sum(s > 2 for s in seconds),
    }


def main() -> None:
    """Measure, print, and write a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("no browser: install chromium")
    before = os.getloadavg()[0]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        pages = {name: measured(playwright, browser, given, Path(folder)) for name, given in reports().items()}
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    result = {
        "command": "make bench-html-report",
        "machine": f"{platform.machine()}, {os.cpu_count()} threads; {load}",
        "opened": OPENED,
        "pages": pages,
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
