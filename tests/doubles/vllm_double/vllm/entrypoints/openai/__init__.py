"""Part of the double of vLLM for tests: a folder on the path that `python -m` is given. It is not vLLM."""
