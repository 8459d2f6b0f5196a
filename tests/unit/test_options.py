"""Options: where they come from, which source wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_llmparity.arms import EngineSpec
from pytest_llmparity.option_values import OptionError
from pytest_llmparity.options import OPTIONS, load_settings, read_table
from pytest_llmparity.run_profiles import RUN_PROFILES


@pytest.fixture
def settings(tmp_path):
    def load(toml="", command_line=None, ini=None, environment=None):
        (tmp_path / "pyproject.toml").write_text(toml)
        return load_settings(tmp_path, command_line or {}, ini or {}, environment or {})

    return load


@pytest.fixture
def complaint(settings):
    def load(*args, **sources):
        with pytest.raises(OptionError) as caught:
            settings(*args, **sources)
        return str(caught.value)

    return load


def table(*lines):
    return "\n".join(["[tool.llmparity]", *lines])


class TestSources:
    def test_defaults_without_any_source(self, tmp_path):
        found = load_settings(tmp_path, {}, {}, {})
        assert (found.engines, found.model, found.reference, found.run_profile) == ((), None, "hf", "ci")
        assert (found.alpha, found.margin, found.top_k, found.undecided) == (0.01, None, 20, "fail")
        assert not found.plan
        assert not found.fresh
        assert found.tables == {}

    def test_command_line_then_environment_then_table_then_ini(self, settings, tmp_path):
        sources = {
            "command_line": {"model": "from-command-line"},
            "environment": {"LLMPARITY_MODEL": "from-environment"},
            "toml": table('model = "from-table"'),
            "ini": {"model": "from-ini"},
        }
        order = []
        while sources:
            order.append(settings(**sources).model)
            del sources[next(iter(sources))]
        assert order == ["from-command-line", "from-environment", str(tmp_path / "from-table"), "from-ini"]

    def test_what_is_not_given_does_not_hide_what_is(self, settings):
        found = settings(table("alpha = 0.05"), {"alpha": None}, {"alpha": ""}, {"LLMPARITY_ALPHA": ""})
        assert found.alpha == 0.05

    def test_every_option_has_a_name_in_each_source(self):
        names = {option.name: (option.flag, option.variable, option.ini) for option in OPTIONS}
        assert names["run-profile"] == ("--llm-run-profile", "LLMPARITY_RUN_PROFILE", "llm_run_profile")
        assert len({flag for flag, _, _ in names.values()}) == len(OPTIONS)

    def test_values_have_their_type(self, settings):
        found = settings(
            command_line={
                "engines": "hf, vllm==0.32.0 ,vllm",
                "margin": "0.25",
                "top-k": "5",
                "keep": "30m",
                "report": "build/report.json",
                "plan": True,
            }
        )
        assert found.engines == ("hf", "vllm==0.32.0", "vllm")
        assert (found.margin, found.top_k, found.keep) == (0.25, 5, 1800)
        assert found.report == Path("build/report.json")
        assert (found.plan, found.fresh) == (True, False)

    def test_the_run_profile_decides_sizes(self, settings):
        assert settings(command_line={"run-profile": "smoke"}).sizes is RUN_PROFILES["smoke"]
        assert settings().sizes.documents == 256


class TestWrongValues:
    @pytest.mark.parametrize(
        ("name", "value", "says"),
        [
            ("engines", "hf,,vllm", "expected names separated by commas, found 'hf,,vllm'"),
            ("engines", "", "expected names separated by commas"),
            ("model", " ", "expected a text"),
            ("dtype", "fp8", "expected bfloat16 or float16 or float32, found 'fp8'"),
            ("reference", "vllm", "expected hf, replay@DIR or none, found 'vllm'"),
            ("run-profile", "nightly", "expected smoke or ci or release, found 'nightly'"),
            ("alpha", "1%", "expected a number between 0 and 0.2, found '1%'"),
            ("alpha", "0", "expected a number over 0 and at most 0.2, found 0"),
            ("alpha", "0.5", "at most 0.2, found 0.5"),
            ("alpha", "nan", "found nan"),
            ("margin", "-0.1", "found -0.1"),
            ("top-k", "4", "expected a whole number from 5 to 20, found '4'"),
            ("top-k", "21", "from 5 to 20"),
            ("top-k", "7.5", "from 5 to 20"),
            ("undecided", "pass", "expected fail or warn, found 'pass'"),
            ("keep", "30", "expected a duration such as 90s"),
            ("installer", "conda", "expected pip or uv, found 'conda'"),
            ("report", "", "expected a text"),
        ],
    )
    def test_each_says_where_what_and_what_was_expected(self, complaint, name, value, says):
        text = complaint(command_line={name: value})
        assert text.startswith(f"--llm-{name}: ")
        assert says in text

    def test_the_source_is_named(self, complaint):
        assert complaint(environment={"LLMPARITY_ALPHA": "x"}).startswith("LLMPARITY_ALPHA: ")
        assert complaint(table("alpha = 7")).startswith("[tool.llmparity] alpha: ")
        assert complaint(ini={"alpha": "x"}).startswith("ini llm_alpha: ")

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("engines = 3", "expected names separated by commas, or a list of names"),
            ("engines = [1, 2]", "or a list of names"),
            ("engines = []", "expected names"),
            ("model = 3", "expected a text"),
            ("alpha = []", "expected a number between 0 and 0.2, found []"),
        ],
    )
    def test_values_of_the_wrong_toml_type(self, complaint, line, says):
        assert says in complaint(table(line))


class TestTable:
    def test_an_unknown_key_with_its_likely_meaning(self, complaint):
        text = complaint(table('engine = ["hf"]'))
        assert "pyproject.toml, [tool.llmparity]: unknown key 'engine'; did you mean 'engines'?" in text

    def test_an_unknown_key_like_no_other_lists_the_known(self, complaint):
        assert "; known: alpha, baseline, dtype, engines" in complaint(table("zzz = 1"))

    @pytest.mark.parametrize("switch", ["plan", "fresh"])
    def test_a_switch_of_the_command_line_is_no_setting(self, complaint, switch):
        text = complaint(table(f"{switch} = true"))
        assert f"unknown key '{switch}'" in text
        assert f"did you mean '{switch}'" not in text

    def test_broken_toml_names_the_file(self, complaint, tmp_path):
        assert str(tmp_path / "pyproject.toml") in complaint("[tool.llmparity\n")

    def test_no_file_and_no_table_are_empty(self, tmp_path):
        assert read_table(tmp_path / "pyproject.toml") == ({}, {}, {}, [])
        (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
        assert read_table(tmp_path / "pyproject.toml") == ({}, {}, {}, [])


class TestEngineTables:
    def test_engines_as_a_list(self, settings):
        found = settings(table('engines = ["hf", "vllm"]'))
        assert (found.engines, found.tables) == (("hf", "vllm"), {})

    def test_engines_as_tables_with_the_list_beside_them(self, settings):
        found = settings(
            table('run-engines = ["night", "hf"]', "[tool.llmparity.engines.night]", 'kind = "vllm"', 'devices = "0"')
        )
        assert found.engines == ("night", "hf")
        assert found.tables == {"night": EngineSpec("night", "vllm", devices="0")}

    def test_tables_alone_run_nothing(self, settings):
        assert settings(table("[tool.llmparity.engines.vllm]")).engines == ()

    def test_every_key(self, settings, monkeypatch):
        monkeypatch.setenv("SCRATCH", "/scratch")
        found = settings(
            "\n".join(
                [
                    "[tool.llmparity.engines.night]",
                    'kind = "vllm"',
                    'requirement = "vllm==0.32.0"',
                    'model = "/models/other"',
                    'args = ["--tensor-parallel-size", 2]',
                    'env = { CACHE = "$SCRATCH/vllm", OMP_NUM_THREADS = 4 }',
                    "devices = 1",
                    'ready-timeout = "20min"',
                    'launcher = ["srun", "--gres=gpu:8"]',
                ]
            )
        ).tables["night"]
        assert found == EngineSpec(
            name="night",
            kind="vllm",
            requirement="vllm==0.32.0",
            model="/models/other",
            args=("--tensor-parallel-size", "2"),
            env={"CACHE": "/scratch/vllm", "OMP_NUM_THREADS": "4"},
            devices="1",
            ready_timeout=1200.0,
            launcher=("srun", "--gres=gpu:8"),
        )

    def test_the_kind_is_the_tables_name_and_ten_minutes_are_enough(self, settings):
        engine = settings("[tool.llmparity.engines.vllm]").tables["vllm"]
        assert (engine.kind, engine.ready_timeout) == ("vllm", 600)

    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ('pyton = "/p"', "unknown key 'pyton'; did you mean 'python'?"),
            ('python = "/p"\nrequirement = "vllm==1"', "not both"),
            ('args = "--seed 1"', "expected a list of texts, found str"),
            ('env = ["A=1"]', "env: expected a table of texts"),
            ("ready-timeout = 90", "expected a duration such as 90s"),
            ('kind = ""', "expected a text"),
            ('launcher = "srun"', "expected a list of texts"),
        ],
    )
    def test_a_wrong_table_is_named(self, complaint, line, says):
        text = complaint(f"[tool.llmparity.engines.night]\n{line}")
        assert text.startswith("[tool.llmparity.engines.night]: ")
        assert says in text

    def test_a_name_that_cannot_be_an_id(self, complaint):
        assert "letters, digits and . _ - only" in complaint('[tool.llmparity.engines."a b"]')

    def test_an_entry_that_is_no_table(self, complaint):
        assert "expected a table, found 'x'" in complaint('[tool.llmparity.engines]\nnight = "x"')
