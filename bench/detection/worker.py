"""Make the arms and let them answer: run by an interpreter that has torch and transformers, imports nothing of ours.

    python worker.py MODEL JOBS.json OUT

JOBS.json: {"facts": {...}, "jobs": [{"arm", "workload", "kind", "top_k", "documents": [...]}]}, where a document is
{"name", "ids", "start"} for kind `score`, {"name", "ids", "max_tokens"} for `generate`, and {"name", "prefix",
"choices"} (texts) for `choices`. Each job writes OUT/ARM/WORKLOAD.npz; one that is there already is not done again.
bf16 or fp32 as the arm says, TF32 off, on a GPU if there is one.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from arms import ARMS, LAYER, Arm
from faults import SEED, Way, changed

_ROWS = 2048
"""Positions whose logits are in memory at a time."""

_SHORT = 4
"""Prompts decoded, or choices scored, together, in batches of documents: a step costs the same for 16 and for 64."""


class Engine:
    """One checkpoint in both precisions."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self.networks: dict[str, Any] = {}
        self.kept: dict[str, Kept] = {}

    def network(self, dtype: str) -> Any:
        """Return the network in a precision; loaded once."""
        if dtype not in self.networks:
            loaded = transformers.AutoModelForCausalLM.from_pretrained(
                self.model, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            )
            self.networks[dtype] = loaded.to(self.device).eval()
            self.kept[dtype] = Kept(self.networks[dtype].model)
        return self.networks[dtype]


class Kept:
    """Hidden states before a layer, by batch, for arms that differ from the baseline only behind it.

    Kept are those before `LAYER` and those behind the last layer. The same kernels on the same batch give the same
    bits, so what comes out is what the whole network would give (tests/engines/test_detection_worker.py).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.layers = model.layers
        self.states: dict[tuple[int, bytes, tuple[int, ...]], torch.Tensor] = {}

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, first_changed: int) -> torch.Tensor:
        """Return the last hidden states (batch, tokens, width), layers from `first_changed` on computed anew."""
        levels = [level for level in (LAYER, len(self.layers)) if level <= first_changed]
        batch = (tokens.cpu().numpy().tobytes(), tuple(tokens.shape))
        found = max((level for level in levels if (level, *batch) in self.states), default=0)
        hooks = [self._before(level, partial(self._keep, (level, *batch))) for level in levels if level > found]
        if found:
            states = self.states[(found, *batch)]
            hooks.append(self._before(found, lambda _module, given, states=states: (states, *given[1:])))
            self.model.layers = self.layers[found:]
        try:
            answer: torch.Tensor = self.model(tokens, position_ids=positions, use_cache=False).last_hidden_state
        finally:
            self.model.layers = self.layers
            for hook in hooks:
                hook.remove()
        return answer

    def _before(self, level: int, hook: Callable[..., Any]) -> Any:
        module = self.layers[level] if level < len(self.layers) else self.model.norm
        return module.register_forward_pre_hook(hook)

    def _keep(self, key: tuple[int, bytes, tuple[int, ...]], _module: Any, given: tuple[torch.Tensor, ...]) -> None:
        self.states[key] = given[0].clone()


class Driven:
    """A network, driven in some way."""

    def __init__(self, network: Any, way: Way, tokenizer: Any, kept: Kept) -> None:
        self.network, self.way, self.tokenizer, self.kept = network, way, tokenizer, kept
        self.device = network.device

    def score(self, documents: list[dict[str, Any]], top_k: int) -> dict[str, np.ndarray]:
        """Return the distributions at each document's ids[start:], in the order of the documents."""
        asked = [self._asked(document) for document in documents]
        rows: list[Any] = [None] * len(documents)
        for batch in self._batches([len(ids) for ids in asked]):
            ids = [asked[i] for i in batch]
            if self.way.of_batch is not None:
                ids = self.way.of_batch(ids)
            starts = [documents[i]["start"] + len(asked[i]) - len(documents[i]["ids"]) for i in batch]
            hidden = self._hidden(ids, starts)
            for i, states in zip(batch, hidden, strict=True):
                targets = documents[i]["ids"][documents[i]["start"] :]
                rows[i] = self._distributions(documents[i]["name"], states, targets, top_k)
        return _joined(rows, [document["ids"][document["start"] :] for document in documents])

    def _asked(self, document: dict[str, Any]) -> list[int]:
        ids = list(document["ids"])
        if self.way.of_document is not None:
            ids = self.way.of_document(document["name"].split("@")[0], ids, document["start"])
        return ids

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        order = list(range(len(lengths)))
        if self.way.order == "shuffled":
            random.Random(self.way.seed).shuffle(order)
            # By length all the same, to a quarter: padding a short document to 1,024 is no honest load.
            order.sort(key=lambda i: lengths[i].bit_length())
        else:
            order.sort(key=lambda i: lengths[i], reverse=self.way.order == "reversed")
        for start in range(0, len(order), self.way.batch):
            yield order[start : start + self.way.batch]

    def _hidden(self, batch: list[list[int]], starts: list[int]) -> list[torch.Tensor]:
        """Return the last hidden states from which each document's scored tokens are predicted."""
        width = max(map(len, batch))
        left = self.way.padding == "left" and len({len(ids) for ids in batch}) > 1
        padded = [[0] * (width - len(ids)) + ids if left else ids + [0] * (width - len(ids)) for ids in batch]
        tokens = torch.tensor(padded, device=self.device)
        arguments: dict[str, Any] = {}
        positions = torch.arange(width, device=self.device)[None].expand(len(batch), -1)
        if left:
            mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in batch], device=self.device)
            arguments["attention_mask"] = mask
            positions = (mask.cumsum(1) - 1).clamp(min=0)
        if self.way.positions is not None:
            positions = self.way.positions(positions)
            # Without a mask, transformers takes a leap in the positions for the beginning of another document.
            arguments["attention_mask"] = torch.ones_like(tokens)
        if self.way.attention == "window":
            arguments["attention_mask"] = _window_mask(len(batch), width, self.network.dtype, self.device)
        states = torch.cat(list(self._states(tokens, positions, arguments, min(starts))), dim=1)
        offsets = [width - len(ids) if left else 0 for ids in batch]
        return [
            states[i, offset + start - 1 : offset + len(ids) - 1]
            for i, (ids, start, offset) in enumerate(zip(batch, starts, offsets, strict=True))
        ]

    def _states(
        self, tokens: torch.Tensor, positions: torch.Tensor, arguments: dict[str, Any], first: int
    ) -> Iterator[torch.Tensor]:
        width = tokens.shape[1]
        if self.way.first_changed:
            yield self.kept.forward(tokens, positions, self.way.first_changed)
            return
        if self.way.pieces == 1:
            yield self.network.model(tokens, position_ids=positions, use_cache=False, **arguments).last_hidden_state
            return
        count = self.way.pieces
        cuts = [0, first, width] if count == "context" else [width * i // int(count) for i in range(int(count) + 1)]
        cache = transformers.DynamicCache()
        for begin, end in pairwise(cuts):
            if end > begin:
                piece = self.network.model(
                    tokens[:, begin:end], position_ids=positions[:, begin:end], past_key_values=cache, use_cache=True
                )
                yield piece.last_hidden_state

    def _distributions(
        self, name: str, states: torch.Tensor, targets: list[int], top_k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kept: list[tuple[np.ndarray, ...]] = []
        for start in range(0, len(states), _ROWS):
            part = states[start : start + _ROWS]
            logits = self._logits(part)
            if self.way.rows is not None:
                logits = self.way.rows(name.split("@")[0], logits)
            logprobs = logits.log_softmax(-1)
            top = logprobs.topk(top_k, dim=-1)
            wanted = torch.tensor(targets[start : start + _ROWS], device=self.device)
            chosen = logprobs.gather(1, wanted[:, None])[:, 0]
            kept.append((chosen.cpu().numpy(), top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy()))
        chosen, ids, values = (np.concatenate(columns) for columns in zip(*kept, strict=True))
        if self.way.zeroed == name.split("@")[0]:
            chosen, values = chosen * 0, values * 0
        return chosen, ids, values

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        logits = self.network.lm_head(states).float()
        return logits if self.way.logits is None else self.way.logits(logits)

    def generate(self, prompts: list[dict[str, Any]], top_k: int) -> dict[str, np.ndarray]:
        """Decode greedily, as many prompts together as the way says, and return tokens with their distributions."""
        rows: list[Any] = [None] * len(prompts)
        stops = _end_ids(self.network)
        stops = stops if self.way.stops is None else self.way.stops(stops)
        together = _SHORT * self.way.batch
        for start in range(0, len(prompts), together):
            batch = prompts[start : start + together]
            for offset, row in enumerate(self._decode(batch, stops, top_k)):
                rows[start + offset] = row
        tokens = [row[0] for row in rows]
        claimed = [len(each) for each in tokens]
        if self.way.dropped:
            rows = [_without_one(row) if i % self.way.dropped == 3 else row for i, row in enumerate(rows)]
            tokens = [row[0] for row in rows]
        joined = _joined([row[1:] for row in rows], tokens)
        ended = [bool(row[0]) and row[0][-1] in stops for row in rows]
        return joined | {"claimed": np.array(claimed), "stopped": np.array(ended)}

    def _decode(self, batch: list[dict[str, Any]], stops: list[int], top_k: int) -> list[tuple[Any, ...]]:
        asked = [prompt["ids"] if self.way.of_prompt is None else self.way.of_prompt(prompt["ids"]) for prompt in batch]
        width = max(map(len, asked))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in asked], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in asked], device=self.device)
        seen = ids.clone()
        draw = torch.Generator().manual_seed(SEED)
        out: list[tuple[list[int], list[Any], list[Any], list[Any]]] = [([], [], [], []) for _ in batch]
        running, cache, step = [True] * len(batch), None, ids
        for taken in range(max(prompt["max_tokens"] for prompt in batch)):
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -step.shape[1] :]
            if self.way.positions is not None:
                positions = self.way.positions(positions)
            output = self.network.model(
                step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            logits = self._logits(output.last_hidden_state[:, -1])
            logprobs = logits.log_softmax(-1)
            tokens = self._choose(logits, seen, draw)
            top = logprobs.topk(top_k, dim=-1)
            chosen = logprobs.gather(1, tokens[:, None])[:, 0].cpu().numpy()
            indices, values = top.indices.to(torch.int32).cpu().numpy(), top.values.cpu().numpy()
            for i, prompt in enumerate(batch):
                if running[i]:
                    for column, value in zip(out[i], (int(tokens[i]), chosen[i], indices[i], values[i]), strict=True):
                        column.append(value)
                    running[i] = int(tokens[i]) not in stops and taken + 1 < prompt["max_tokens"]
            if not any(running):
                break
            step = tokens[:, None]
            seen = torch.cat([seen, step], dim=1)
            mask = torch.cat([mask, torch.ones_like(step)], dim=1)
        return [(row[0], *(np.array(column) for column in row[1:])) for row in out]

    def _choose(self, logits: torch.Tensor, seen: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
        if self.way.penalty != 1.0:
            said = logits.gather(1, seen)
            said = torch.where(said > 0, said / self.way.penalty, said * self.way.penalty)
            logits = logits.scatter(1, seen, said)
        if self.way.temperature:
            chances = (logits / self.way.temperature).softmax(-1).cpu()
            return torch.multinomial(chances, 1, generator=draw)[:, 0].to(self.device)
        return logits.argmax(-1)

    def again(self, documents: list[dict[str, Any]], alone: int, top_k: int) -> dict[str, np.ndarray]:
        """Return the distributions of the first `alone` documents asked one by one, and of the others together."""
        usual = self.way
        parts = []
        for batch, some in ((1, documents[:alone]), (len(documents) - alone, documents[alone:])):
            self.way = replace(usual, batch=batch)
            parts.append(self.score(some, top_k))
        self.way = usual
        one, other = parts
        return {
            name: np.concatenate([one[name], other[name][1:] + one[name][-1] if name == "offsets" else other[name]])
            for name in one
        }

    def tokenized(self, prompts: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Return the ids that the engine makes of each prompt."""
        ids = [prompt["ids"] if self.way.of_prompt is None else self.way.of_prompt(prompt["ids"]) for prompt in prompts]
        return {
            "offsets": np.concatenate([[0], np.cumsum([len(each) for each in ids])]).astype(np.int64),
            "token_ids": np.concatenate([np.array(each, np.int32) for each in ids]),
        }

    def choices(self, items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        """Return the mean log-likelihood a token of each choice behind its question, (items, choices)."""
        documents = []
        for item in items:
            prefix = self.tokenizer(item["prefix"])["input_ids"]
            for j, choice in enumerate(item["choices"]):
                ids = self.tokenizer(f"{item['prefix']} {choice}")["input_ids"]
                documents.append({"name": f"{item['name']}-{j}", "ids": ids, "start": min(len(prefix), len(ids) - 1)})
        usual, self.way = self.way, replace(self.way, batch=_SHORT * self.way.batch)
        scored = self.score(documents, 1)
        self.way = usual
        spans = zip(scored["offsets"], scored["offsets"][1:], strict=False)
        means = [float(scored["token_logprobs"][begin:end].mean()) for begin, end in spans]
        fed = sum(len(document["ids"]) for document in documents)
        return {"scores": np.array(means).reshape(len(items), -1), "tokens": np.array(fed)}


def _window_mask(batch: int, width: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    back = torch.arange(width, device=device)[:, None] - torch.arange(width, device=device)[None]
    allowed = (back >= 0) & (back < 64)
    mask = torch.zeros(width, width, dtype=dtype, device=device).masked_fill(~allowed, torch.finfo(dtype).min)
    return mask[None, None].expand(batch, 1, -1, -1)


def _end_ids(network: Any) -> list[int]:
    ids = network.generation_config.eos_token_id
    return [ids] if isinstance(ids, int) else list(ids or [])


def _without_one(row: tuple[Any, ...]) -> tuple[Any, ...]:
    at = len(row[0]) // 2
    return ([*row[0][:at], *row[0][at + 1 :]], *(np.delete(column, at, 0) for column in row[1:]))


def _joined(rows: list[tuple[np.ndarray, ...]], tokens: list[list[int]]) -> dict[str, np.ndarray]:
    logprobs, ids, values = (np.concatenate(columns) for columns in zip(*rows, strict=True))
    return {
        "offsets": np.concatenate([[0], np.cumsum([len(each) for each in tokens])]).astype(np.int64),
        "token_ids": np.concatenate([np.array(each, np.int32) for each in tokens]),
        "token_logprobs": logprobs.astype(np.float32),
        "top_ids": ids.astype(np.int32),
        "top_logprobs": values.astype(np.float32),
    }


_PARTS = 4
"""Parts of a sum whose order is drawn."""

_USUAL = torch.nn.functional.linear, torch.matmul


class InFp32:
    """Products of bf16 matrices that sum in fp32 and are rounded to bf16 once, as GPUs do it.

    Processors without bf16 instructions take four times as long for it (`products = "native"` is their own way).
    The weights' fp32 copies are kept for one arm: between arms they are edited.
    """

    def __init__(self) -> None:
        self.copies: dict[int, torch.Tensor] = {}

    def product(self, usual: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return such a product in the place of a usual one."""

        def rounded(a: torch.Tensor, b: torch.Tensor, *more: Any) -> torch.Tensor:
            if a.dtype != torch.bfloat16:
                return usual(a, b, *more)
            return usual(a.float(), self._copy(b), *more).to(torch.bfloat16)

        return rounded

    def _copy(self, matrix: torch.Tensor) -> torch.Tensor:
        if not isinstance(matrix, torch.nn.Parameter):
            return matrix.float()
        if id(matrix) not in self.copies:
            self.copies[id(matrix)] = matrix.float()
        return self.copies[id(matrix)]

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use them until the block ends."""
        torch.nn.functional.linear, torch.matmul = map(self.product, _USUAL)
        try:
            yield
        finally:
            torch.nn.functional.linear, torch.matmul = _USUAL
            self.copies.clear()


@contextmanager
def unordered(seed: int) -> Iterator[None]:
    """Add parts of bf16 products in fp32 in an order drawn anew each time, as kernels that split a sum may do."""
    draw, usual = random.Random(seed), torch.nn.functional.linear

    def product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if a.dtype != torch.bfloat16 or bias is not None:
            return usual(a, b, bias)
        parts = [_USUAL[0](x.float(), y.float()) for x, y in zip(a.chunk(_PARTS, -1), b.chunk(_PARTS, -1), strict=True)]
        draw.shuffle(parts)
        return sum(parts[1:], parts[0]).to(torch.bfloat16)

    torch.nn.functional.linear = product
    try:
        yield
    finally:
        torch.nn.functional.linear = usual


@contextmanager
def driving(network: Any, way: Way) -> Iterator[None]:
    """Set the kernels that a way asks for, and put the usual ones back."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        if way.attention == "eager":
            network.set_attn_implementation("eager")
            stack.callback(network.set_attn_implementation, "sdpa")
        if way.kernel is not None:
            stack.enter_context(sdpa_kernel(getattr(SDPBackend, way.kernel)))
        if way.reduction == "full":
            flags = torch.backends.cuda.matmul
            stack.callback(setattr, flags, "allow_bf16_reduced_precision_reduction", True)
            flags.allow_bf16_reduced_precision_reduction = False
        if way.products != "native" and network.device.type == "cpu":
            stack.enter_context(InFp32().used())
        if way.products == "unordered":
            stack.enter_context(unordered(way.seed))
        if way.threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(way.threads)
        yield


def main() -> None:
    """Do the jobs, arm by arm."""
    model, jobs_file, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    asked = json.loads(jobs_file.read_text())
    engine = Engine(model)
    jobs = [job for job in asked["jobs"] if not (out / job["arm"] / f"{job['workload']}.npz").exists()]
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, group in groupby(jobs, key=lambda job: str(job["arm"])):
        began = time.monotonic()
        arm = ARMS[name]
        network = engine.network(arm.dtype)
        with torch.inference_mode(), changed(network, arm, asked["facts"]) as way, driving(network, way):
            driven = Driven(network, way, engine.tokenizer, engine.kept[arm.dtype])
            for job in group:
                _do(driven, arm, job, asked["workloads"], out)
        print(f"{time.time():.1f} {name}: {time.monotonic() - began:.1f} s", flush=True)


def _do(driven: Driven, arm: Arm, job: dict[str, Any], workloads: dict[str, Any], out: Path) -> None:
    documents = workloads[job["documents"]]
    try:
        if job["kind"] == "choices":
            arrays = driven.choices(documents)
        elif job["kind"] == "tokenize":
            arrays = driven.tokenized(documents)
        elif "alone" in job:
            arrays = driven.again(documents, job["alone"], job["top_k"])
        elif job["kind"] == "generate":
            arrays = driven.generate(documents, job["top_k"])
        else:
            arrays = driven.score(documents, job["top_k"])
    except RuntimeError as error:  # a kernel that this machine has not
        print(f"{arm.name}: {job['workload']}: {error}"[:300], flush=True)
        return
    path = out / arm.name / f"{job['workload']}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez(part, **arrays)
    part.rename(path)


if __name__ == "__main__":
    main()
