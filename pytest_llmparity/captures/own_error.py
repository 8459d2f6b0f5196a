"""How exact the reference itself is: its first documents once more, with the other attention implementation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..engines.base import EngineClient
from ..engines.hf import HfClient, StreamedHfClient
from ..parity.divergence import distance
from ..workloads.model import Workload
from .fingerprint import OWN_ERROR
from .model import Capture

DOCUMENTS = 4
_OTHER = {"sdpa": "eager", "eager": "sdpa"}


def with_own_error(capture: Capture, client: EngineClient, workload: Workload) -> Capture:
    """Return the reference's capture with its own error in the fingerprint, where its worker can be asked for it."""
    if not isinstance(client, HfClient) or isinstance(client, StreamedHfClient):
        return capture
    other = _OTHER.get(str(client.facts().get("attention")))
    if other is None:
        return capture
    kl = []
    for i, prompt in enumerate(workload.prompts[:DOCUMENTS]):
        _, again = client.score(prompt, workload.top_k, attention=other)
        kl.append(distance(capture.scored(i), again)[0])
    if not kl:
        return capture
    return replace(capture, fingerprint={**capture.fingerprint, OWN_ERROR: float(np.concatenate(kl).mean())}, _index={})
