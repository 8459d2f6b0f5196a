"""The engine kinds this version knows."""

from __future__ import annotations

from collections.abc import Mapping

from .base import EngineKind
from .hf import HfKind
from .openai import OpenAIKind
from .vllm import VllmKind

KINDS: Mapping[str, EngineKind] = {"hf": HfKind(), "openai": OpenAIKind(), "vllm": VllmKind()}
