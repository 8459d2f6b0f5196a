"""Waivers: what one covers, until when, what is said of it, and which entries are refused."""

from __future__ import annotations

import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from pytest_llmparity.comparison import ENGINES, PAIRS
from pytest_llmparity.option_values import OptionError
from pytest_llmparity.options import load_settings
from pytest_llmparity.verdicts import Verdict, is_red
from pytest_llmparity.waivers import WAIVABLE, Waiver, Waivers, waivers_from_tables

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TODAY = date(2026, 10, 1)
PAIR = "vllm-0.32.0-vs-vllm-0.31.0"


def waiver(check="greedy", days=30, **fields):
    return Waiver(check, TODAY + timedelta(days), "ticket 123: two prompts", **fields)


def verdict(status="fail", check="greedy", measured="2 divergences", **fields):
    return Verdict(check, status, "vllm-0.31.0", "vllm-0.32.0", "two prompts leave", measured=measured, **fields)


class Told(Waivers):
    """Waivers, and what they warned of."""

    def __init__(self, *waivers, today=TODAY):
        self.told = []
        super().__init__(waivers, today, self.told.append)


class TestCovered:
    def test_what_is_known_is_true_and_stays_what_it_is(self):
        waivers = Told(waiver())
        found = waivers.applied(verdict(), PAIR)
        assert found
        assert found.require() is found
        assert found.status == "fail"
        assert found.to_json()["verdict"] == "fail"
        assert found.to_json()["waived"] == {"until": "2026-10-31", "reason": "ticket 123: two prompts"}
        assert not is_red(found.to_json())
        assert found.explain().splitlines()[1] == "  waived until 2026-10-31: ticket 123: two prompts"
        assert waivers.told == []

    @pytest.mark.parametrize("status", ["fail", "undecided"])
    def test_either_verdict_unless_one_is_named(self, status):
        other = {"fail": "undecided", "undecided": "fail"}[status]
        assert Told(waiver()).applied(verdict(status), PAIR)
        assert Told(waiver(verdict=status)).applied(verdict(status), PAIR)
        assert not Told(waiver(verdict=other)).applied(verdict(status), PAIR)

    def test_another_check_is_not(self):
        assert not Told(waiver("finish")).applied(verdict(), PAIR)

    @pytest.mark.parametrize(
        ("pattern", "covers"),
        [
            (PAIR, True),
            ("vllm-0.32.*-vs-*", True),
            ("*", True),
            ("vllm-0.32.0", False),
            ("vllm-0.33.*", False),
            ("VLLM*", False),
        ],
    )
    def test_the_pair_is_one_id_or_a_pattern(self, pattern, covers):
        assert bool(Told(waiver(pair=pattern)).applied(verdict(), PAIR)) is covers

    def test_a_pass_and_a_tolerated_one_need_none(self):
        assert Told(waiver()).applied(verdict("pass"), PAIR).waived is None
        assert Told(waiver()).applied(verdict("undecided", tolerated=True), PAIR).waived is None

    @pytest.mark.parametrize(
        "nothing",
        [
            verdict(measured=""),
            verdict("undecided", measured=""),
            verdict("undecided", figures={"golden": "not written"}),
        ],
    )
    def test_where_nothing_was_judged_there_is_nothing_to_know_of(self, nothing):
        waivers = Told(waiver())
        found = waivers.applied(nothing, PAIR)
        assert not found
        assert found.unwaived == "the waiver of greedy does not cover this: nothing was judged"
        assert waivers.told == [found.unwaived]

    def test_of_two_the_one_that_lasts_longer(self):
        found = Told(waiver(days=-5), waiver(days=20), waiver(days=10)).applied(verdict(), PAIR)
        assert found.waived.until == TODAY + timedelta(20)


class TestUntil:
    def test_it_holds_on_its_last_day_and_warns_of_it(self):
        waivers = Told(waiver(days=0))
        assert waivers.applied(verdict(), PAIR)
        assert waivers.told == ["the waiver of greedy ends today, on 2026-10-01: ticket 123: two prompts"]

    def test_it_has_no_effect_after_that_and_the_verdict_says_so(self):
        waivers = Told(waiver(days=-1, pair="vllm-*", verdict="fail"))
        found = waivers.applied(verdict(), PAIR)
        said = "the waiver of fail greedy of vllm-* expired on 2026-09-30: ticket 123: two prompts"
        assert not found
        assert is_red(found.to_json())
        assert found.unwaived == said
        assert f"  {said}" in found.explain().splitlines()
        assert waivers.told == [said]

    @pytest.mark.parametrize(("days", "warned"), [(1, "ends in 1 day, "), (14, "ends in 14 days, "), (15, "")])
    def test_two_weeks_before_it_is_warned_of(self, days, warned):
        waivers = Told(waiver(days=days))
        waivers.applied(verdict(), PAIR)
        assert len(waivers.told) == bool(warned)
        assert warned in "".join(waivers.told)

    def test_one_that_covers_nothing_is_not_warned_of(self):
        waivers = Told(waiver(days=3), waiver("finish", days=-3))
        waivers.applied(verdict("pass"), PAIR)
        assert waivers.told == []


class TestNeedless:
    def needless(self, waivers, *verdicts):
        for found, pair in verdicts:
            waivers.applied(found, pair)
        return list(waivers.needless())

    def test_one_whose_check_passed(self):
        (line,) = self.needless(Told(waiver()), (verdict("pass"), PAIR))
        assert line.startswith("the waiver of greedy is no longer needed: every verdict that it is about is a pass")

    def test_an_expired_one_too(self):
        assert len(self.needless(Told(waiver(days=-9)), (verdict("pass"), PAIR))) == 1

    def test_not_one_whose_check_was_not_made(self):
        assert not self.needless(
            Told(waiver(pair="c-vs-a")), (verdict("pass"), PAIR), (verdict("pass", "finish"), PAIR)
        )

    @pytest.mark.parametrize("status", ["fail", "undecided"])
    def test_not_one_with_a_verdict_that_is_no_pass(self, status):
        both = (verdict("pass"), PAIR), (verdict(status), "c-vs-a")
        assert not self.needless(Told(waiver(verdict="fail")), *both)
        assert not self.needless(Told(waiver(verdict="fail")), *reversed(both))


class TestForeseen:
    def test_a_plan_that_would_be_undecided_is_made_where_that_is_waived(self):
        assert Told(waiver("forced_kl")).foresee("forced_kl", PAIR)
        assert Told(waiver("forced_kl", verdict="undecided")).foresee("forced_kl", PAIR)

    def test_and_not_where_it_would_be_red(self):
        assert not Told(waiver("forced_kl", verdict="fail")).foresee("forced_kl", PAIR)
        assert not Told(waiver("forced_kl", days=-1)).foresee("forced_kl", PAIR)
        assert not Told(waiver("forced_kl", pair="c-vs-a")).foresee("forced_kl", PAIR)
        assert not Told(waiver("rollout")).foresee("forced_kl", PAIR)


class TestTables:
    def read(self, tmp_path, *lines):
        (tmp_path / "pyproject.toml").write_text("\n".join(["[[tool.llmparity.waivers]]", *lines]))
        return load_settings(tmp_path, {}, {}, {}, today=lambda: TODAY).waivers

    def test_every_key(self, tmp_path):
        text = f'pair = "{PAIR}"\nverdict = "fail"\nreason = " ticket 123 "'
        found = self.read(tmp_path, 'check = "greedy"', "until = 2026-12-31", text)
        assert found == (Waiver("greedy", date(2026, 12, 31), "ticket 123", PAIR, "fail"),)

    def test_any_pair_and_either_verdict_if_none_is_named(self, tmp_path):
        (found,) = self.read(tmp_path, 'check = "greedy"', "until = 2025-01-01", 'reason = "x"')
        assert (found.pair, found.verdict) == ("*", None)

    def test_without_any(self, tmp_path):
        assert load_settings(tmp_path, {}, {}, {}).waivers == ()

    def test_at_most_half_a_year(self, tmp_path):
        last = TODAY + timedelta(180)
        assert self.read(tmp_path, 'check = "greedy"', f"until = {last}", 'reason = "x"')[0].until == last
        with pytest.raises(
            OptionError, match="until: expected a day within 180 days, found 2027-03-31, 181 days ahead"
        ):
            self.read(tmp_path, 'check = "greedy"', f"until = {last + timedelta(1)}", 'reason = "x"')

    @pytest.mark.parametrize(
        ("changed", "says"),
        [
            ({"check": None}, "check: expected one of alike, anchor, batching, "),
            ({"check": None}, "found nothing"),
            ({"check": "gredy"}, "vocabulary, found 'gredy'"),
            ({"check": "texts"}, "found 'texts'"),
            ({"check": ["greedy"]}, "found ['greedy']"),
            ({"until": None}, "until: expected the last day on which it holds, such as 2026-12-31, found nothing"),
            ({"until": "2026-12-31"}, "until: expected a date alone and without quotes, such as 2026-12-31"),
            ({"until": 20261231}, "found '20261231'"),
            ({"reason": None}, "reason: expected a text, found nothing"),
            ({"reason": "  "}, "reason: expected a text"),
            ({"pair": ""}, "pair: expected a text"),
            ({"verdict": "pass"}, "verdict: expected fail or undecided, found 'pass'"),
            ({"untill": TODAY}, "unknown key 'untill'; did you mean 'until'?"),
        ],
    )
    def test_a_wrong_one_is_named_by_its_number(self, changed, says):
        right = {"check": "greedy", "until": TODAY, "reason": "x"}
        wrong = {key: value for key, value in {**right, **changed}.items() if value is not None}
        with pytest.raises(OptionError) as caught:
            waivers_from_tables([right, wrong], TODAY)
        assert str(caught.value).startswith("[[tool.llmparity.waivers]], number 2: ")
        assert says in str(caught.value)

    def test_a_time_of_day_is_no_date(self, tmp_path):
        with pytest.raises(OptionError, match=r"without quotes, such as 2026-12-31, found '2026-12-31 12:00:00'"):
            self.read(tmp_path, 'check = "greedy"', "until = 2026-12-31T12:00:00", 'reason = "x"')

    @pytest.mark.parametrize("entries", ["none", {"check": "greedy"}])
    def test_no_list_of_tables(self, entries):
        with pytest.raises(OptionError, match="expected tables with two pairs of brackets"):
            waivers_from_tables(entries, TODAY)

    def test_an_entry_that_is_no_table(self):
        with pytest.raises(OptionError, match="number 1: expected a table, found 'greedy'"):
            waivers_from_tables(["greedy"], TODAY)


def test_every_check_that_gives_a_verdict_can_be_waived():
    assert set(WAIVABLE) == {*PAIRS, *ENGINES, "exact"}


def test_the_page_shows_an_entry_that_is_right():
    page = (Path(__file__).parents[2] / "docs" / "waivers.md").read_text()
    entry = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])["tool"]["llmparity"]["waivers"]
    (found,) = waivers_from_tables(entry, entry[0]["until"])
    assert (found.check, found.pair, found.verdict) == ("greedy", PAIR, "fail")
    assert found.reason.startswith("ticket 123")
