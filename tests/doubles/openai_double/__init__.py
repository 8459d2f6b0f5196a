"""A double of OpenAI-compatible servers for tests. It is none of them; `tests/doubles/README.md` describes it."""
