"""Goldens of doubles: blessed, committed, checked; red where something got worse, and never written in CI."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity_project import Finished, ParityProject

pytest_plugins = ("parity_project",)

QUICK = {"quick": {"base": "smoke", "rollouts": 32, "rollout-tokens": 24}}
GOLDEN_CHECKS = ("prompt_ids", "forced_kl", "anchor", "strata", "local_defects", "greedy", "finish")


def verdicts(run: Finished) -> dict[str, str]:
    """Return the verdict of each check, by its name; runs here have one engine."""
    return {check["check"]: check["verdict"] for check in run.report["checks"]}


def goldens(project: ParityProject) -> dict[str, bytes]:
    """Return the files under golden/, by name."""
    folder = project.folder / "golden"
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*"))}


def blessed(project: ParityProject, noise_seed: int = 1) -> dict[str, bytes]:
    """Bless a double called `vllm`, and return its files."""
    project.environment["CI"] = ""
    project.engine("vllm", noise_seed)
    run = project.gate("vllm", "--llm-golden=create")
    assert run.code == 0, run.output
    assert "4 verdicts left open: goldens were blessed, read them before you commit" in run.output
    assert verdicts(run)["forced_kl"] == "undecided", "nothing was compared"
    return goldens(project)


def edit(path: Path, **about: Any) -> None:
    """Change a golden by hand."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "about": {**document["about"], **about}}))


def test_an_engine_is_blessed_and_checked(parity_project: ParityProject) -> None:
    files = blessed(parity_project)
    (arm,) = {name.partition("/")[0] for name in files} - {"drawn"}
    assert arm.startswith("vllm_base_bfloat16_strict_tp-pp-1x1_")
    assert sorted(name.partition("/")[2].partition("-")[0] for name in files if name.startswith(arm)) == [
        "forced",
        "greedy",
    ]
    again = parity_project.gate("vllm", "--llm-golden=check")
    assert again.code == 0, again.output
    assert verdicts(again) == dict.fromkeys(GOLDEN_CHECKS, "pass")
    assert "it is the very capture that was blessed, from the store: --llm-fresh asks the engine" in again.output
    assert again.started == {"vllm": 0, "reference": 0}
    fresh = parity_project.gate("vllm", "--llm-golden=check", "--llm-fresh")
    assert fresh.code == 0, fresh.output
    assert "the very capture" not in fresh.output
    assert fresh.started["vllm"] == 1
    assert goldens(parity_project) == files, "checking writes nothing"


def test_a_changed_engine_is_judged_by_the_paired_rule(parity_project: ParityProject) -> None:
    blessed(parity_project)
    parity_project.engine("vllm", 2)
    honest = parity_project.gate("vllm", "--llm-golden=check")
    assert honest.code == 0, honest.output
    (forced,) = (check for check in honest.report["checks"] if check["check"] == "forced_kl")
    assert 0.8 < forced["figures"]["R"] < 1.25
    assert forced["baseline"].startswith("golden of vllm ")
    assert forced["changed"] == ["environment LLMPARITY_DOUBLE_NOISE_SEED: 1 -> 2"]
    seen = {"shifted": "forced_kl", "double-bos": "prompt_ids", "short": "finish", "garbage-prompt:9": "local_defects"}
    for fault, check in seen.items():
        parity_project.engine("vllm", 2, fault=fault)
        faulty = parity_project.gate("vllm", "--llm-golden=check")
        assert faulty.code == 1
        assert verdicts(faulty)[check] == ("undecided" if check == "local_defects" else "fail"), (fault, faulty.output)


def test_what_is_missing_is_red_with_the_command_that_makes_it(parity_project: ParityProject) -> None:
    parity_project.environment["CI"] = "true"
    parity_project.engine("vllm", 1)
    run = parity_project.gate("vllm", "--llm-golden=create")
    assert run.code == 1, run.output
    assert "CI is set: nothing is blessed, --llm-golden=create compares only" in run.output
    assert not (parity_project.folder / "golden").exists()
    whys = [check["why"] for check in run.report["checks"] if check["verdict"] == "undecided"]
    assert len(whys) == 4
    assert all("no golden golden/vllm_base_" in why for why in whys)
    assert all("make it with: pytest --llm-golden=create --llm-engines=vllm" in why for why in whys)


def test_goldens_of_another_key_are_not_used(parity_project: ParityProject) -> None:
    files = blessed(parity_project)
    run = parity_project.gate("vllm", "--llm-golden=check", "--llm-dtype=float16")
    assert run.code == 1
    assert "(there are some of other arms: vllm_base_bfloat16_strict_tp-pp-1x1_" in run.output
    assert goldens(parity_project) == files


def test_fix_blesses_what_changed_and_keeps_what_was_first(parity_project: ParityProject) -> None:
    files = blessed(parity_project)
    parity_project.engine("vllm", 2)
    honest = parity_project.gate("vllm", "--llm-golden=fix")
    assert honest.code == 0, honest.output
    assert "was pass: " in honest.output
    parity_project.engine("vllm", 2, fault="shifted")
    fixed = parity_project.gate("vllm", "--llm-golden=fix")
    assert verdicts(fixed)["forced_kl"] == "undecided"
    assert "was fail: " in fixed.output
    assert "more than the " in fixed.output
    assert "verdicts left open: goldens were blessed" in fixed.output
    assert fixed.code == 1
    assert verdicts(fixed)["anchor"] == "fail", "the first blessing cannot be moved"
    after = goldens(parity_project)
    assert after.keys() == files.keys()
    (forced,) = (name for name in files if "/forced-" in name)
    before, now = json.loads(files[forced]), json.loads(after[forced])
    assert now["rows"] != before["rows"]
    assert now["first"] == before["first"]
    checked = parity_project.gate("vllm", "--llm-golden=check", "-k", "test_forced")
    assert verdicts(checked) == {"forced_kl": "pass", "anchor": "fail"}
    same = goldens(parity_project)
    parity_project.gate("vllm", "--llm-golden=fix")
    assert goldens(parity_project) == same, "nothing changed"


def test_trim_blesses_only_what_came_closer(parity_project: ParityProject) -> None:
    parity_project.environment["CI"] = ""
    parity_project.engine("vllm", 1, noise="0.06")
    assert parity_project.gate("vllm", "--llm-golden=create").code == 0
    files = goldens(parity_project)
    parity_project.engine("vllm", 2, noise="0.062")
    assert parity_project.gate("vllm", "--llm-golden=trim").code == 0
    assert goldens(parity_project) == files
    parity_project.engine("vllm", 2, noise="0.02")
    trimmed = parity_project.gate("vllm", "--llm-golden=trim")
    assert trimmed.code == 0, trimmed.output
    changed = {name for name, text in goldens(parity_project).items() if files[name] != text}
    assert [name.partition("/")[2].partition("-")[0] for name in changed] == ["forced"]


def test_a_spoilt_golden_is_red_and_a_sick_engine_is_not_blessed(parity_project: ParityProject) -> None:
    blessed(parity_project)
    (forced,) = parity_project.folder.glob("golden/*/forced-*.json")
    whole = forced.read_text()
    edit(forced, version="9.9.9")
    run = parity_project.gate("vllm", "--llm-golden=check")
    assert run.code == 1
    assert verdicts(run)["forced_kl"] == "undecided"
    assert "was changed since it was written" in run.output
    assert "obsolete" not in run.output
    assert parity_project.gate("vllm", "--llm-golden=fix").code == 0
    assert json.loads(forced.read_text())["rows"] == json.loads(whole)["rows"]
    parity_project.engine("vllm", 1, fault="short")
    sick = parity_project.gate("vllm", "--llm-golden=fix")
    assert sick.code == 1
    assert "vllm is not blessed" in sick.output


def test_a_tree_that_cannot_be_written_is_told(parity_project: ParityProject) -> None:
    parity_project.environment["CI"] = ""
    parity_project.engine("vllm", 1)
    (parity_project.folder / "golden").write_text("a file where the folder should be")
    run = parity_project.gate("vllm", "--llm-golden=create")
    assert run.code == 1
    assert "could not be written" in run.output
    assert verdicts(run)["forced_kl"] == "undecided"


def test_another_reference_draws_nothing_anew(parity_project: ParityProject) -> None:
    blessed(parity_project)
    (drawn,) = parity_project.folder.glob("golden/drawn/*.json")
    documents = json.loads(drawn.read_text())["documents"]
    assert len(documents) == 16
    whole = drawn.read_text()
    drawn.write_text(whole.replace(str(documents[0][1][0]), "7", 1))
    spoilt = parity_project.gate("vllm", "--llm-golden=check")
    assert spoilt.code == 4
    assert "was changed since it was written; restore it" in spoilt.output
    drawn.unlink()
    again = parity_project.gate("vllm", "--llm-golden=check")
    assert again.code == 0, "the same reference draws the same"


def test_a_server_at_a_url_has_no_golden(parity_project: ParityProject) -> None:
    parity_project.server("served", kind="openai", url="http://127.0.0.1:9")
    run = parity_project.gate("served", "--llm-golden=check", "-k", "golden")
    assert "nobody knows the device of a server at a URL" in run.output
    assert run.code == 1, "nothing was compared"
    assert not run.report["checks"]


def test_obsolete_goldens_are_named_after_a_run_that_left_nothing_out(parity_project: ParityProject) -> None:
    blessed(parity_project)
    named = "obsolete golden golden/vllm_"
    other_profile = parity_project.gate("vllm", "--llm-golden=check", "--llm-run-profile=smoke")
    assert named not in other_profile.output, "all of them were asked for"
    folder = next(parity_project.folder.glob("golden/vllm_*"))
    for path in list(folder.glob("*.json")):  # as if the prompts were others when it was blessed
        path.rename(path.with_name(f"{path.name.partition('-')[0]}-{'0' * 10}.json"))
    filtered = parity_project.gate("vllm", "--llm-golden=check", "-k", "forced")
    assert named not in filtered.output
    whole = parity_project.gate("vllm", "--llm-golden=check")
    assert whole.code == 1
    assert whole.output.count(named) >= 2
    assert "/forced-0000000000.json: these prompts are asked no more; git rm it" in whole.output
    assert len([line for line in whole.report["warnings"] if "obsolete golden" in line]) == 2


def test_what_stands_out_is_asked_again(parity_project: ParityProject) -> None:
    blessed(parity_project)
    parity_project.engine("vllm", 1, fault="garbage-ids:13")
    run = parity_project.gate("vllm", "--llm-golden=check", "-k", "local")
    (check,) = run.report["checks"]
    assert (run.code, check["verdict"]) == (1, "fail"), run.output
    assert "the same again alone" in check["why"]
    assert run.started["vllm"] == 2
    parity_project.engine("vllm", 1, fault="garbage-prompt:9")
    run = parity_project.gate("vllm", "--llm-golden=check", "-k", "local")
    (check,) = run.report["checks"]
    assert (run.code, check["verdict"]) == (1, "undecided")
    assert "stood out once" in check["why"]
    assert "not when they were asked again: unstable" in check["why"]


def test_rollouts_are_blessed_and_checked(parity_project: ParityProject) -> None:
    parity_project.settings(run_profile="quick", run_profiles=QUICK)
    parity_project.environment["CI"] = ""
    rollouts = ("-k", "test_rollout or test_defaults")
    parity_project.engine("vllm", 1, fault="decode-noise:0.2")
    refused = parity_project.gate("vllm", "--llm-golden=create", *rollouts)
    assert verdicts(refused) == {"decode": "fail", "defaults": "undecided"}, refused.output
    assert not [name for name in goldens(parity_project) if "/rollout" in name]
    shutil.rmtree(parity_project.folder / "golden")
    parity_project.engine("vllm", 1)
    assert parity_project.gate("vllm", "--llm-golden=create", *rollouts).code == 0
    files = goldens(parity_project)
    (rollout,) = (name for name in files if "/rollout-" in name)
    assert rollout.startswith("vllm_base_bfloat16_deployed_")
    parity_project.engine("vllm", 2)
    honest = parity_project.gate("vllm", "--llm-golden=check", *rollouts)
    assert honest.code == 0, honest.output
    assert verdicts(honest) == {"decode": "pass", "rollout": "pass", "defaults": "pass"}
    (check,) = (check for check in honest.report["checks"] if check["check"] == "rollout")
    assert check["changed"] == ["environment LLMPARITY_DOUBLE_NOISE_SEED: 1 -> 2"]
    assert check["limit"].startswith("R <= 1.50")
    parity_project.engine("vllm", 2, noise="0.08")
    further = parity_project.gate("vllm", "--llm-golden=check", *rollouts)
    assert verdicts(further)["rollout"] == "fail", further.output
    parity_project.engine("vllm", 2, fault="default-temperature:0.4")
    other = parity_project.gate("vllm", "--llm-golden=check", *rollouts)
    assert verdicts(other) == {"decode": "pass", "rollout": "pass", "defaults": "fail"}, other.output
    assert goldens(parity_project) == files


def test_an_unchanged_build_repeats_itself_bit_by_bit(parity_project: ParityProject) -> None:
    seed = parity_project.folder / "seed.txt"
    seed.write_text("1")
    parity_project.environment["CI"] = ""
    parity_project.engine("vllm", f"@{seed}")
    forced = ("-k", "test_forced")
    blessing = ("--llm-golden=create", "--llm-golden-exact=true", *forced)
    assert "starts about six more times" in parity_project.gate("vllm", "--llm-plan", *blessing).output
    made = parity_project.gate("vllm", *blessing)
    assert made.code == 0, made.output
    assert made.started["vllm"] == 7
    (path,) = parity_project.folder.glob("golden/vllm*/forced-*.json")
    stable = json.loads(path.read_text())["stable"]
    assert (stable["starts"], len(stable["prompts"])) == (7, 32)
    same = parity_project.gate("vllm", "--llm-golden=check", "--llm-fresh", *forced)
    assert verdicts(same) == {"forced_kl": "pass", "anchor": "pass", "exact": "pass"}, same.output
    assert same.started["vllm"] == 1
    seed.write_text("2")
    changed = parity_project.gate("vllm", "--llm-golden=check", "--llm-fresh", *forced)
    assert verdicts(changed) == {"forced_kl": "pass", "anchor": "pass", "exact": "fail"}, changed.output
    assert changed.started["vllm"] == 7
    assert "32 of 32 documents that were the same in 7 starts have other bits in 7 starts" in changed.output
    warm = parity_project.gate("vllm", "--llm-golden=check", "--llm-fresh", "--llm-keep=1m", *forced)
    assert verdicts(warm)["exact"] == "undecided", "a warm engine has no starts of its own"
    parity_project.llmparity("down", "--all")


def test_a_build_that_never_repeats_itself_has_no_exact_tier(parity_project: ParityProject) -> None:
    parity_project.environment["CI"] = ""
    parity_project.engine("vllm", "each-start")
    forced = ("-k", "test_forced")
    assert parity_project.gate("vllm", "--llm-golden=create", "--llm-golden-exact=true", *forced).code == 0
    run = parity_project.gate("vllm", "--llm-golden=check", "--llm-fresh", *forced)
    assert verdicts(run) == {"forced_kl": "pass", "anchor": "pass"}, run.output
    assert "no document repeated itself over restarts; nothing is compared bit by bit" in run.output
    assert run.started["vllm"] == 1
