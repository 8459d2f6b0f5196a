# Everything runs in .venv, which is made on first use; engines get environments of their own in the user's cache.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test unit engines lint bench-operating-characteristic clean

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(STAMP)  ## transformers against vLLM on a real 135M model; report in build/demo
	$(BIN)/pytest --llm-engines=hf,vllm --llm-model=demo --llm-run-profile=smoke \
	  --llm-report=build/demo --junitxml=build/demo/junit.xml --pyargs pytest_llmparity.gate

test: lint unit engines  ## everything, real engines included

unit: $(STAMP)  ## seconds, no engine
	$(BIN)/pytest tests/unit

engines: $(STAMP)  ## real engines; makes their environments on first use
	$(BIN)/pytest tests/engines

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-operating-characteristic: $(STAMP)  ## how often the decision rule passes, fails and stays undecided
	$(BIN)/python bench/operating_characteristic.py --json docs/results/operating-characteristic.json

clean:
	rm -rf .venv build
