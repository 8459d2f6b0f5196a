"""A double of vLLM for the tests of pytest-llmparity. It is not vLLM and runs no model."""

__version__ = "0.32.0+double"
