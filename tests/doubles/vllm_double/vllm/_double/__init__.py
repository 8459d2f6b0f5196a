"""What the double of vLLM for tests is made of. It is not vLLM; `tests/doubles/README.md` describes it."""
