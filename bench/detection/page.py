"""Fill the tables of docs/detection.md from the results that stand in docs/results.

    python bench/detection/page.py docs/detection.md docs/results

Replaces what stands between `<!-- table: NAME of RESULT -->` and `<!-- end -->` in the page, for each name in `TABLES`
and each RESULT.json in the folder.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHORT = {"forced_kl": "KL", "local_defects": "local"}


def _lines(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows)])


def _names(checks: Sequence[str]) -> str:
    return ", ".join(SHORT.get(check, check) for check in checks)


def _ratio(row: dict[str, Any]) -> str:
    ratio = row["R"]
    if ratio is None:
        return "not a number"
    return "1" if ratio == 1 else f"{ratio:.3f}" if ratio < 10 else f"{ratio:.0f}"


def _result(row: dict[str, Any]) -> str:
    if row["called"]:
        also = f" (undecided: {_names(row['undecided_by'])})" if row["undecided_by"] else ""
        return f"fail: {_names(row['called_by'])}{also}"
    return f"undecided: {_names(row['undecided_by'])}" if row["detected"] else "green"


def _unseen(row: dict[str, Any], margin: float) -> str:
    """Return why a fault is green, and what sees it."""
    under = row["R"] is not None and row["R"] <= 1 + margin
    reason = "not seen by design: R is within the margin" if under else "not seen"
    return f"green, {reason}; meant for: {row['seen_by'] or 'exact tier'}"


def _tokens(row: dict[str, Any]) -> str:
    return f"{row['tokens']:,}" if row["tokens"] else ""


def summary(result: dict[str, Any]) -> str:
    """The headline: of each group, how many were called, undecided and green."""
    groups = {
        "faults, R within the margin": [row for row in result["faults"] if (row["R"] or 99) <= 1 + result["margin"]],
        "faults, R over the margin": [row for row in result["faults"] if (row["R"] or 99) > 1 + result["margin"]],
        "honest changes": [*result["benign"], *result["blind"]],
    }
    if result.get("vllm"):
        groups |= {
            "faults in vLLM": [_of_checks(row) for row in result["vllm"] if row["expected"] == "red"],
            "honest changes of vLLM": [_of_checks(row) for row in result["vllm"] if row["expected"] == "pass"],
        }
    rows = []
    for name, group in groups.items():
        called, red = (sum(row[key] for row in group) for key in ("called", "detected"))
        rows.append((name, str(len(group)), str(called), str(red - called), str(len(group) - red)))
    return _lines(("arms", "of them", "`fail`", "`undecided` (red too)", "green"), rows)


def _of_checks(row: dict[str, Any]) -> dict[str, Any]:
    return {"called": "fail" in row["checks"].values(), "detected": row["detected"]}


def faults(result: dict[str, Any]) -> str:
    """One row a fault, the green ones first: its true R, what the gate says, and which rivals see it."""
    rows = []
    for row in sorted(result["faults"], key=lambda row: (row["called"], row["detected"])):
        seen = [name for name, rival in result["rivals"].items() if row["name"] in rival["detected_native"]]
        said = _result(row) if row["detected"] else _unseen(row, result["margin"])
        rows.append((f"`{row['name']}`", row["what"], _ratio(row), said, _tokens(row), ", ".join(seen)))
    return _lines(("fault", "what is wrong", "R", "the gate", "tokens", "rivals, at their own thresholds"), rows)


def families(result: dict[str, Any]) -> str:
    """Faults of growing size: gates simulated from each one's own documents."""
    sizes = Counter(row["family"] for row in result["faults"])
    rows = [
        (f"`{row['name']}`", _ratio(row), *_shares(row["simulated"]), f"{row['simulated']['mean_tokens']:,.0f}")
        for row in result["faults"]
        if sizes[row["family"]] >= 3 and row["simulated"]
    ]
    return _lines(("fault", "true R", "pass", "undecided", "fail", "mean tokens"), rows)


def _shares(simulated: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{simulated[outcome]:.1%}" for outcome in ("pass", "undecided", "fail"))


def accuracy(result: dict[str, Any]) -> str:
    """Faults that cost accuracy: tokens until our `fail`, and what the unpaired z-test would need."""
    a_token = result["item_tokens"]
    rows = []
    for row in result["faults"]:
        if row["called"] and row["items_needed"]:
            needed = 2 * row["items_needed"] * a_token
            before, after = row["accuracy"]
            items = f"{row['items_needed']:,}"
            cost = (f"{row['tokens']:,}", items, f"{needed:,.0f}", f"{needed / (2 * row['tokens']):,.0f}")
            rows.append((f"`{row['name']}`", f"{before:.1%} to {after:.1%}", *cost))
    header = (
        "fault",
        "accuracy",
        "tokens to `fail`, an arm",
        "items the z-test needs",
        "tokens of both arms",
        "times ours",
    )
    return _lines(header, rows)


def benign(result: dict[str, Any]) -> str:
    """One row an honest change, with the rivals that call it."""
    return _others(result, [*result["benign"], *result["blind"]])


def formats(result: dict[str, Any]) -> str:
    """One row another number format: a change that costs something, and is called as one."""
    return _others(result, result["format"])


def _others(result: dict[str, Any], found: Sequence[dict[str, Any]]) -> str:
    rows = []
    for row in found:
        kappa = "" if row["kappa"] is None else f"{row['kappa']:.2f}"
        red = [name for name, rival in result["rivals"].items() if row["rivals"][name] > rival["native"]]
        rows.append((f"`{row['name']}`", row["what"], _ratio(row), kappa, _result(row), ", ".join(red)))
    return _lines(("change", "what differs", "R", "kappa", "the gate", "rivals, at their own thresholds"), rows)


def rivals(result: dict[str, Any]) -> str:
    """One row a rival: detections and false alarms at its own threshold, and at one without false alarms."""
    of = len(result["faults"])
    ours = sum(row["detected"] for row in result["faults"])
    called = sum(row["called"] for row in result["faults"])
    alarms = sum(row["detected"] for row in [*result["benign"], *result["blind"]])
    honest = len(result["benign"]) + len(result["blind"])
    rows = [("**this gate**", f"red; {called} of them `fail`", f"{alarms} of {honest}", f"{ours} of {of}", "", "")]
    for name, rival in result["rivals"].items():
        rows.append(
            (
                name,
                rival["what"],
                f"{rival['false_alarms_native']} of {rival['honest']}",
                f"{len(rival['detected_native'])} of {of}",
                f"{rival['tuned']:.3g}",
                f"{len(rival['detected_tuned'])} of {of}",
            )
        )
    header = ("rule", "red when over", "false alarms", "faults seen", "threshold without alarms", "faults seen with it")
    return _lines(header, rows)


def dose(result: dict[str, Any]) -> str:
    """Simulated gates of real documents at a known truth."""
    rows = [
        (
            row["pair"],
            f"{row['R']:.2f}",
            f"{row['pass']:.2%}",
            f"{row['fail']:.2%}",
            f"{row['undecided']:.2%}",
            f"{row['fail_within_16000_tokens']:.2%}",
            f"{row['mean_tokens']:,.0f}",
        )
        for row in result["dose"]
    ]
    header = ("pair", "true R", "pass", "fail", "undecided", "fail within 16,000 tokens", "mean tokens")
    return _lines(header, rows)


def sharpness(result: dict[str, Any]) -> str:
    """The sharpness check on gates simulated from documents of honest arms, and of faults that it is meant for."""
    meant = {row["name"] for row in result["faults"] if row["seen_by"] == "sharpness"}
    honest = {row["name"] for row in [*result["benign"], *result["blind"]]}
    found = [row for row in result["sharpness"] if row["pair"] in meant | honest]
    rows = [
        (f"`{row['pair']}`", f"{row['slope']:+.5f}", f"{row['sd']:.4f}", *_shares(row))
        for row in sorted(found, key=lambda row: (row["pair"] in meant, abs(row["slope"])))
    ]
    return _lines(("arm", "slope", "sd between documents", "pass", "undecided", "fail"), rows)


def profiles(result: dict[str, Any]) -> str:
    """What each run profile's size and margin come to, over the honest pairs."""
    rows = []
    keys = dict.fromkeys((row["profile"], row["margin"], row["n_max"], row["R"]) for row in result["profiles"])
    for key in keys:
        same = [row for row in result["profiles"] if (row["profile"], row["margin"], row["n_max"], row["R"]) == key]
        profile, margin, n_max, ratio = key
        spread = [[row[outcome] for row in same] for outcome in ("pass", "fail", "undecided")]
        shares = [f"{min(values):.1%} to {max(values):.1%}" for values in spread]
        rows.append((f"`{profile}`", f"{n_max}", f"{margin:.2f}", f"{ratio:.2f}", *shares))
    return _lines(("profile", "documents", "margin", "true R", "pass", "fail", "undecided"), rows)


def gates(result: dict[str, Any]) -> str:
    """Real gates of two honest arms each: those whose baseline is no better than the others, and the rest."""
    found, alike = result["gates"], result["gates"]["alike"]
    low, high = alike["red_share_interval"]
    rest = found["gates"] - alike["gates"]
    better = next((row for row in result["benign"] if row["name"] == "head-fp32"), {"R": None})
    rows = [
        ("an arm like the others", f"{alike['gates']}", f"{alike['red']} ({low:.1%} to {high:.1%})"),
        (f"`head-fp32`, R = {_ratio(better)}", f"{rest}", f"{found['red'] - alike['red']}"),
    ]
    return _lines(("baseline", "gates", "red (95 %)"), rows)


def controls(result: dict[str, Any]) -> str:
    """Cases with a known answer."""
    rows = [(row["case"], row["expected"], _ratio(row), row["verdict"]) for row in result["controls"]]
    return _lines(("case", "expected", "R", "`forced_kl`"), rows)


def creep(result: dict[str, Any]) -> str:
    """Ten steps against the one before and against the first."""
    rows = [
        (row["step"], f"{row['R_of_step']:.2f}", row["verdict_of_step"], f"{row['R_of_first']:.2f}", row["anchor"])
        for row in result["creep"]
    ]
    return _lines(("step", "R to the step before", "verdict", "R to the first", "anchor"), rows)


def vllm(result: dict[str, Any]) -> str:
    """The arms in a running vLLM: honest changes, and faults."""
    rows = [
        (
            row["case"],
            row["what"],
            _ratio(row),
            ", ".join(f"{SHORT.get(check, check)} {status}" for check, status in row["checks"].items()),
        )
        for row in result["vllm"]
    ]
    return _lines(("case", "what differs, or is wrong", "R", "checks"), rows)


def swaps(result: dict[str, Any]) -> str:
    """Pairs of rows swapped: how many the documents of random ids show, by how they are made."""
    rows = []
    for name in ("once", "again", "again, in two documents"):
        row = result[name]
        off = f"{row['furthest']['bf16']:.2f}, {row['furthest']['other kernels']:.2f}"
        shares = (f"{row['pairs_seen']:.2%}", f"{row['neighbours_seen']:.2%}")
        rows.append((name, f"{row['documents']}", off, f"{row['limit']:.2f}", *shares))
    header = ("scored", "documents", "furthest id, bf16 and other kernels", "limit", "pairs seen", "neighbours seen")
    return _lines(header, rows)


def engines(result: dict[str, Any]) -> str:
    """A recorded report of real engines: one row a candidate, with the first thing that differs."""
    candidates = dict.fromkeys(check["candidate"] for check in result["checks"])
    rows = []
    for name in candidates:
        checks = {check["check"]: check for check in result["checks"] if check["candidate"] == name}
        said = ", ".join(f"{SHORT.get(check, check)} {row['verdict']}" for check, row in checks.items())
        forced, figures = checks["forced_kl"], checks["forced_kl"]["figures"]
        first = forced["changed"][0]
        changed = "its arguments" if first.startswith("arguments") else first
        kappa = figures.get("kappa")
        rows.append(
            (f"`{name}`", changed, _ratio({"R": figures.get("R", 1)}), "" if kappa is None else f"{kappa:.2f}", said)
        )
    return _lines(("candidate", "what differs", "R", "kappa", "checks"), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    table.__name__: table
    for table in (
        *(summary, faults, families, benign, formats, gates, rivals),
        *(accuracy, dose, sharpness, profiles, controls, creep, vllm, swaps, engines),
    )
}


def filled(page: str, result_of: Callable[[str], dict[str, Any]]) -> str:
    """Return the page with its tables made of the results."""

    def table(match: re.Match[str]) -> str:
        name, result = match.groups()
        return f"<!-- table: {name} of {result} -->\n{TABLES[name](result_of(result))}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) of ([\w-]+) -->\n.*?<!-- end -->", table, page, flags=re.S)


def main() -> None:
    """Fill the page in place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()

    def result_of(name: str) -> dict[str, Any]:
        result: dict[str, Any] = json.loads((options.results / f"{name}.json").read_text(encoding="utf-8"))
        return result

    options.page.write_text(filled(options.page.read_text(encoding="utf-8"), result_of), encoding="utf-8")


if __name__ == "__main__":
    main()
