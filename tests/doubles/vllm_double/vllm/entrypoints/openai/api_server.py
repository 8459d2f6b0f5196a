"""`python -m vllm.entrypoints.openai.api_server`: the older name of the same double for tests. It is not vLLM."""

from __future__ import annotations

import warnings

from vllm._double.startup import main

warnings.warn("`vllm.entrypoints.openai.api_server` is deprecated.", DeprecationWarning, stacklevel=1)

if __name__ == "__main__":
    main()
