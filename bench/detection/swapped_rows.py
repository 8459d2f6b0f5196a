"""Of all pairs of rows of the output layer, swapped: how many does the workload `vocabulary` see?

    PYTHONPATH=. PYTHON bench/detection/swapped_rows.py MODEL --ids 8192 --out docs/results/swapped-rows.json

PYTHON has torch and transformers. Documents as `every_id` makes them are scored in fp32, in bf16 and in bf16 with other
kernels (attention `eager`), and, to compare, each id once behind other random ids, where no id is expected. From that
come the token limit of the check (3 times the furthest that an id is off in bf16, at least 1 nat), how far the other
kernels are off, and what would be answered if two rows were swapped: one id's log-probability in the place of the
other's. A swap is seen where either id is off by more than the limit wherever it is scored.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from worker import InFp32

from pytest_llmparity.workloads.documents import every_id
from pytest_llmparity.workloads.model import Prompt

TOKEN_LIMIT, TOKEN_FACTOR = 1.0, 3.0
"""Those of pytest_llmparity/parity/local_defects.py, which an interpreter with torch need not be able to import."""

BATCH = 16
PAIRED = 1024
"""Ids whose pairs are looked at, and pairs of neighbours, drawn at random."""

Floats = NDArray[np.float64]


class Scores:
    """What the engines make of documents that score each id once.

    `off` holds how far each bf16 engine is off fp32 at each id, (ids,); `table` what fp32 gives, where the id of its
    row is scored, to each id of its column, (paired, paired).
    """

    def __init__(self, vocabulary: int, paired: list[int]) -> None:
        self.paired = torch.tensor(paired)
        self.rows = {token: row for row, token in enumerate(paired)}
        self.off = {name: np.full(vocabulary, np.nan) for name in ("bf16", "other kernels")}
        self.table: Floats = np.full((len(paired), len(paired)), np.nan)

    def add(self, ids: torch.Tensor, fp32: torch.Tensor, others: dict[str, torch.Tensor]) -> None:
        """Add positions: their ids, (positions,), and log-probabilities of all ids, (positions, vocabulary)."""
        at = ids[:, None]
        for name, found in others.items():
            self.off[name][ids] = (found.gather(1, at) - fp32.gather(1, at)).abs()[:, 0]
        for position, token in enumerate(ids.tolist()):
            if token in self.rows:
                self.table[self.rows[token]] = fp32[position, self.paired]

    def swapped(self) -> Floats:
        """Return how far each id of `paired` is off when its row is another's, (paired, paired)."""
        off: Floats = np.abs(self.table - np.diag(self.table)[:, None])
        return off


def scored(networks: dict[str, Any], documents: list[Prompt], scores: Scores) -> Scores:
    """Score documents of one length in both precisions, bf16 by two attention kernels."""
    for start in range(0, len(documents), BATCH):
        batch = documents[start : start + BATCH]
        tokens = torch.tensor([prompt.ids for prompt in batch])
        begin = batch[0].scored_from
        found = []
        for dtype, attention in (("float32", "sdpa"), ("bfloat16", "sdpa"), ("bfloat16", "eager")):
            network = networks[dtype]
            network.set_attn_implementation(attention)
            with InFp32().used():
                states = network.model(tokens, use_cache=False).last_hidden_state[:, begin - 1 : -1]
                found.append(network.lm_head(states).float().log_softmax(-1).flatten(0, 1))
        scores.add(tokens[:, begin:].flatten(), found[0], dict(zip(scores.off, found[1:], strict=True)))
        print(f"{start + len(batch)} of {len(documents)} documents", flush=True)
    return scores


def summary(rounds: list[Scores], documents: int, lone: int) -> dict[str, Any]:
    """Return the figures of one way of asking; what counts of an id is where it is off the least."""
    off = {name: np.minimum.reduce([each.off[name] for each in rounds]) for name in rounds[0].off}
    limit = max(TOKEN_LIMIT, TOKEN_FACTOR * float(np.nanmax(off["bf16"])))
    one = np.minimum.reduce([each.swapped() for each in rounds]) > limit
    seen = one | one.T
    places = rounds[0].rows
    next_to = [seen[row, places[token + 1]] for token, row in places.items() if row >= lone and token + 1 in places]
    pairs = seen[:lone, :lone][np.triu_indices(lone, 1)]
    return {
        "documents": documents,
        "furthest": {name: float(np.nanmax(values)) for name, values in off.items()},
        "limit": limit,
        "pairs": len(pairs),
        "pairs_seen": float(pairs.mean()),
        "neighbours": len(next_to),
        "neighbours_seen": float(np.mean(next_to)) if next_to else None,
    }


def said_once(documents: list[Prompt]) -> list[Prompt]:
    """Return the documents without their second half: nothing has been said before."""
    return [replace(each, ids=each.ids[: each.scored_from], scored_from=1) for each in documents]


def drawn(ids: list[int]) -> tuple[list[int], int]:
    """Return (ids whose pairs are looked at, how many of them are at random): behind these, pairs of neighbours."""
    draw = random.Random(7)
    lone, known = draw.sample(ids, min(PAIRED, len(ids) // 2)), set(ids)
    apart = known - set(lone)
    neighbours = [token for token in sorted(apart) if token + 1 in apart and token % 2 == 0]
    return lone + [token + i for token in draw.sample(neighbours, min(PAIRED, len(neighbours))) for i in (0, 1)], len(
        lone
    )


def main() -> None:
    """Score, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ids", type=int, help="only so many ids, drawn at random")
    options = parser.parse_args()
    networks = {
        dtype: transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, dtype)).eval()
        for dtype in ("float32", "bfloat16")
    }
    vocabulary = networks["float32"].config.vocab_size
    ids = random.Random(5).sample(range(vocabulary), options.ids or vocabulary)
    documents = [replace(each, ids=tuple(ids[i] for i in each.ids)) for each in every_id(len(ids))]
    half = len(documents) // 2
    paired, lone = drawn(ids)
    with torch.inference_mode():
        once, first, second = (
            scored(networks, some, Scores(vocabulary, paired))
            for some in (said_once(documents[:half]), documents[:half], documents[half:])
        )
    result = {
        "command": f"bench/detection/swapped_rows.py MODEL --ids {len(ids)} --out docs/results/swapped-rows.json",
        "model": "smollm2-135m-instruct",
        "machine": platform.machine(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ids": len(ids),
        "once": summary([once], half, lone),
        "again": summary([first], half, lone),
        "again, in two documents": summary([first, second], 2 * half, lone),
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
