"""What must not matter to one engine: load, batches, neighbours, streaming, the endpoint. Part of the gate."""

from __future__ import annotations

from pytest_llmparity.handles import SingleEngine


def test_decode_strata(llm_engine: SingleEngine) -> None:
    """Decoding is as good as the engine's own scoring alone, under each load, and late in an answer."""
    assert llm_engine.decode_strata()


def test_batching(llm_engine: SingleEngine) -> None:
    """Sixteen requests at a time are answered like one at a time, up to ties."""
    assert llm_engine.batching()


def test_neighbours(llm_engine: SingleEngine) -> None:
    """The first and the last of a batch, and one among long prompts, are answered like one alone, up to ties."""
    assert llm_engine.neighbours()


def test_streaming(llm_engine: SingleEngine) -> None:
    """A stream brings the same tokens, finish reason and usage as an answer in one piece."""
    assert llm_engine.streaming()


def test_chat(llm_engine: SingleEngine) -> None:
    """The chat endpoint answers what a completion of the rendered template answers."""
    assert llm_engine.chat()
