"""The arms of the benchmark, as data: what is wrong (or only different) with each engine that is judged.

Read by both halves: `worker.py` makes the arm, `judge.py` says what the gate makes of it. Everything is seeded, and an
arm is whatever its `change` and `size` say; see `faults.py` for what each change does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

Group = Literal["baseline", "reference", "fault", "benign", "format", "blind", "support", "vllm"]
"""fault: must not be green. benign: must be green. blind: nothing is wrong, and it lies unmarked among the faults.
format: another number format, which a gate of unchanged formats calls too. vllm: made in a running vLLM.
support: used by other rows, not judged by itself."""

LAYER = 12
"""The layer that faults of one layer are put into, of 30."""

ZEROED_AT_TWICE = 9.6e-5
"""Share of all MLP weights that, zeroed, takes the demo model to about R = 2; the excess grows with the share."""


@dataclass(frozen=True)
class Arm:
    """One engine: a `change` to the honest one, of some `size`; `what` says it in words.

    `family` joins arms that differ in size alone; `seen_by` names the check that is meant to see it beside KL;
    `device` is where alone the difference is one.
    """

    name: str
    group: Group
    change: str = "nothing"
    size: Any = None
    what: str = ""
    dtype: str = "bfloat16"
    options: dict[str, Any] = field(default_factory=dict)
    seen_by: str = ""
    device: Literal["", "cpu", "cuda"] = ""

    @property
    def family(self) -> str:
        """Arms that differ in size alone have one family."""
        return self.change if self.size is None else self.name.removesuffix(f"-{self.size}")


def _sizes(
    name: str, change: str, sizes: tuple[Any, ...], what: str, group: Group = "fault", seen_by: str = "", **options: Any
) -> Iterator[Arm]:
    for size in sizes:
        yield Arm(f"{name}-{size}", group, change, size, what.format(size), options=options, seen_by=seen_by)


def _fault(name: str, change: str, what: str, size: Any = None, seen_by: str = "", **options: Any) -> Arm:
    return Arm(name, "fault", change, size, what, options=options, seen_by=seen_by)


def _benign(name: str, what: str, **options: Any) -> Arm:
    return Arm(name, "benign", "nothing", None, what, options=options)


def _all() -> Iterator[Arm]:
    yield Arm("reference", "reference", dtype="float32", what="fp32, attention `sdpa`, batches of 16")
    yield Arm("baseline", "baseline", what="bf16, attention `sdpa`, batches of 16 of similar length")
    yield from _faults()
    yield from _honest()
    yield from _formats()
    yield from _controls()
    yield from _in_vllm()


def _faults() -> Iterator[Arm]:
    for module in ("q", "k", "v", "o", "gate", "up", "down"):
        sizes: tuple[float, ...] = (1.02, 1.05, 1.07, 1.1, 1.2, 1.5) if module in ("v", "o", "down") else (1.1, 1.5)
        yield from _sizes(f"scale-{module}", "scale", sizes, f"layer {LAYER}: {module}_proj times {{}}", module=module)
    yield from _sizes(
        "lm-head", "logit-scale", (1.001, 1.003, 1.005, 1.01, 1.03), "lm_head times {}", seen_by="sharpness"
    )
    yield from _sizes(
        "temperature",
        "temperature",
        (0.9, 0.95, 0.99, 0.995, 0.998),
        "log-probabilities taken after temperature {}",
        seen_by="sharpness",
    )
    yield from _sizes("softcap", "softcap", (30, 100, 300), "logits soft-capped at {}", seen_by="sharpness")
    yield from _sizes(
        "attention-scale", "attention-scale", (1.01, 1.02, 1.05, 1.1, 1.3), "attention scale times {}, all layers"
    )
    yield from _sizes("rope-theta", "rope", (1.001, 1.005, 1.02, 1.1, 10.0), "rope_theta times {}")
    yield from _sizes("epsilon", "epsilon", (1e-6, 1e-4, 1e-3, 1e-2), "norm epsilon {} for 1e-5")
    yield from _sizes("zeroed", "zeroed", (2e-6, 5e-6, 1e-5, 3e-5, 1e-4, 1e-3), "share {} of all MLP weights zeroed")
    yield _fault("head-zeroed", "head-zeroed", f"layer {LAYER}: one head's output zeroed")
    yield _fault("heads-swapped", "heads-swapped", f"layer {LAYER}: two heads' outputs swapped")
    yield _fault("kv-rotated", "kv-rotated", f"layer {LAYER}: grouped queries use the next key-value head")
    yield _fault("kv-rotated-all", "kv-rotated", "all layers: grouped queries use the next key-value head", size="all")
    yield _fault("layer-stale", "layer-stale", f"layer {LAYER} has the weights of layer {LAYER - 1}")
    yield _fault("layers-swapped", "layers-swapped", f"layers {LAYER} and {LAYER + 1} swapped")
    yield _fault("k-row-zeroed", "k-row-zeroed", f"layer {LAYER}: one row of k_proj zeroed", seen_by="exact tier")
    yield _fault("norm-channel", "norm-channel", "one channel of the final norm zeroed")
    yield _fault(
        "quant-scale", "quant-scale", f"layer {LAYER}: down_proj in int8 by channel, one channel's scale doubled"
    )
    yield _fault("quant-scale-tensor", "quant-scale", f"layer {LAYER}: down_proj in int8, its scale 5 % off", size=1.05)
    yield _fault("gelu", "gelu", f"layer {LAYER}: gelu in the place of silu")
    yield _fault("window", "window", "a sliding window of 64 tokens where there is none")
    yield _fault("rows-swapped", "rows-swapped", "two rare rows of lm_head swapped", seen_by="vocabulary")
    yield _fault(
        "embeddings-swapped", "embeddings-swapped", "two rare rows of the embeddings swapped", seen_by="vocabulary"
    )
    yield _fault("bos-double", "bos-double", "BOS twice before every prompt", seen_by="prompt_ids")
    yield _fault("template-wrong", "template-wrong", "the template leaves the system message out", seen_by="prompt_ids")
    yield _fault("eos-missing", "eos-missing", "generation does not stop at EOS", seen_by="finish")
    yield _fault("eos-wrong", "eos-wrong", "generation stops at a line break too", seen_by="finish")
    yield _fault("penalty", "penalty", "repetition penalty 1.1 leaks into greedy requests", size=1.1, seen_by="greedy")
    yield _fault("sampling", "sampling", "temperature 0.7 leaks into greedy requests", size=0.7, seen_by="greedy")
    yield _fault("stale-block", "stale-block", "1 document in 8 begins with another's block of 16 tokens", size=8)
    yield _fault(
        "stale-block-one",
        "stale-block",
        "1 document begins with another's block of 16 tokens",
        size=0,
        seen_by="local_defects",
    )
    yield _fault(
        "garbage-prompt", "garbage-prompt", "one document is scored behind another's context", seen_by="local_defects"
    )
    yield _fault(
        "garbage-token", "garbage-token", "one position of one document has shuffled logits", seen_by="local_defects"
    )
    yield _fault("slot", "slot", "slot 7 of each batch of 16 begins with 8 tokens of slot 6", seen_by="local_defects")
    yield from _sizes("beyond", "beyond", (64, 256, 768), "positions from {} on are off by one", seen_by="strata")
    yield _fault("chunk-dropped", "chunk-dropped", "one answer in 16 lacks a token of its stream", seen_by="finish")
    yield _fault("zero-logprobs", "zero-logprobs", "one document's log-probabilities are all zero", seen_by="exact")
    yield Arm(
        "unmarked", "blind", what="nothing is wrong: batches of 8 in another order", options={"batch": 8, "seed": 5}
    )


def _honest() -> Iterator[Arm]:
    for batch in (1, 4, 32, 64):
        yield _benign(f"batch-{batch}", f"batches of {batch}", batch=batch)
    yield _benign("order-reversed", "batches of 16 in reversed order", order="reversed")
    for seed in (1, 2):
        yield _benign(f"order-shuffled-{seed}", "batches of 16 drawn at random", order="shuffled", seed=seed)
    yield _benign("left-padding", "padded on the left", padding="left")
    yield _benign("chunked-2", "prefill in 2 chunks through the cache", pieces=2)
    yield _benign("chunked-4", "prefill in 4 chunks through the cache", pieces=4)
    yield _benign("prefix-cache", "the context computed first, its keys and values reused", pieces="context")
    yield _benign("eager", "attention `eager`", attention="eager")
    yield _benign("math", "attention `sdpa`, math back end", kernel="MATH")
    yield _benign("eager-batch-1", "attention `eager`, one at a time", attention="eager", batch=1)
    for name, what, options in (
        ("efficient", "attention `sdpa`, memory-efficient back end", {"kernel": "EFFICIENT_ATTENTION"}),
        ("flash", "attention `sdpa`, flash back end", {"kernel": "FLASH_ATTENTION"}),
        ("full-reduction", "matrix products without reductions in bf16", {"reduction": "full"}),
    ):
        yield Arm(name, "benign", what=what, options=options, device="cuda")
    for name, what, options in (
        ("native-products", "matrix products by the processor's own bf16 kernels", {"products": "native"}),
        ("threads-1", "one CPU thread", {"threads": 1}),
    ):
        yield Arm(name, "benign", what=what, options=options, device="cpu")
    for seed in (1, 2):
        what = "matrix products in four parts, added in an order drawn each time, as by atomic additions"
        yield _benign(f"unordered-{seed}", what, products="unordered", seed=seed)
    yield Arm("fused-mlp", "benign", "fused-mlp", what="gate and up projections as one matrix product")
    yield Arm("fused-qkv", "benign", "fused-qkv", what="query, key and value projections as one matrix product")
    yield Arm("head-fp32", "benign", "head-fp32", what="lm_head computed in fp32")
    yield Arm("resharded", "benign", "resharded", what="the checkpoint written in 20 MB shards and read again")


def _formats() -> Iterator[Arm]:
    yield Arm("int8", "format", "int8", what="all linear weights in int8 by channel, round to nearest")
    yield Arm("fp8-weights", "format", "fp8-weights", what="all linear weights in e4m3, one scale a tensor")
    yield Arm("fp8-kv", "format", "fp8-kv", what="keys and values rounded to e4m3")


def _controls() -> Iterator[Arm]:
    for step in range(1, 11):
        share = ZEROED_AT_TWICE * (1.15**step - 1)
        yield Arm(f"creep-{step:02}", "support", "zeroed", share, f"step {step} of ten: R = 1.15^{step} planned")
    yield Arm(
        "reference-eager", "support", dtype="float32", what="fp32, attention `eager`", options={"attention": "eager"}
    )
    yield Arm("reference-wrong", "support", "layers-swapped", dtype="float32", what="fp32 of another checkpoint")
    yield Arm(
        "reference-int8", "support", "int8", dtype="float32", what="the int8 weights in fp32: the format reference"
    )
    yield Arm(
        "int8-faulty",
        "support",
        "int8+scale",
        1.07,
        f"int8, and layer {LAYER}: down_proj times 1.07",
        options={"module": "down"},
    )
    yield Arm("int8-eager", "support", "int8", what="int8, attention `eager`", options={"attention": "eager"})


def _in_vllm() -> Iterator[Arm]:
    yield Arm("vllm", "vllm", what="vLLM, bf16, eager mode")
    for name, what, options in (
        ("graphs", "compiled, with CUDA graphs", {"enforce_eager": False}),
        ("triton", "attention by Triton kernels", {"attention_backend": "TRITON_ATTN"}),
        ("chunked", "prefill in chunks of 128 tokens", {"max_num_batched_tokens": 128, "max_num_seqs": 64}),
    ):
        yield Arm(f"vllm-{name}", "vllm", what=what, options=options)
    for change, what in (
        ("scale", f"layer {LAYER}: down_proj times 1.5"),
        ("head-zeroed", f"layer {LAYER}: one head's output zeroed"),
        ("kv-rotated", f"layer {LAYER}: grouped queries use the next key-value head"),
        ("layer-stale", f"layer {LAYER} has the weights of layer {LAYER - 1}"),
        ("norm-channel", "one channel of the final norm zeroed"),
        ("zeroed", "share 0.001 of all MLP weights zeroed"),
        ("quant-scale", f"layer {LAYER}: down_proj in int8 by channel, one channel's scale doubled"),
        ("k-row-zeroed", f"layer {LAYER}: one row of k_proj zeroed"),
    ):
        yield Arm(f"vllm-{change}", "vllm", change, what=what)


ARMS: dict[str, Arm] = {arm.name: arm for arm in _all()}
"""All arms by name, in the order in which they are made."""

LEFT_OUT = (
    *("batch-4", "batch-32", "order-reversed", "order-shuffled-2", "chunked-2", "math", "eager-batch-1", "fused-qkv"),
    *("beyond-256", "beyond-768"),
    *("scale-k-1.1", "scale-gate-1.1", "scale-up-1.1"),
)
"""What a run of size `cpu` leaves out: arms much like others, and faults that its short documents cannot hold."""


def thinned(arms: list[Arm]) -> list[Arm]:
    """Return the arms for a machine without a GPU: the smallest, the middle and the largest of each family."""
    families: dict[str, list[Arm]] = {}
    for arm in arms:
        families.setdefault(arm.family if arm.group == "fault" else arm.name, []).append(arm)
    kept = {id(arm) for family in families.values() for arm in (family[0], family[len(family) // 2], family[-1])}
    return [arm for arm in arms if id(arm) in kept and arm.name not in LEFT_OUT]
