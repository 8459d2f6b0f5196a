"""`python -m vllm.entrypoints.launchers.api_server.entry`: starts the double of vLLM for tests. It is not vLLM."""

from __future__ import annotations

from vllm._double.startup import main

if __name__ == "__main__":
    main()
