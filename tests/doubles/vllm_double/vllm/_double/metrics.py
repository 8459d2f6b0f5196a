"""/metrics of the double of vLLM for tests (not vLLM): a few counters in the Prometheus text format."""

from __future__ import annotations

from vllm._double.prefix_cache import PrefixCache
from vllm._double.speculation import Speculation


def prometheus(model: str, *, finished: int, cache: PrefixCache, speculation: Speculation) -> str:
    """The text of /metrics, under vLLM's names; the speculative ones are there only with speculative decoding."""
    counters = {
        "vllm:num_preemptions_total": ("Preemptions; the double has none.", 0),
        "vllm:request_success_total": ("Requests answered.", finished),
        "vllm:prefix_cache_queries_total": ("Prefix cache queries, in tokens.", cache.queries),
        "vllm:prefix_cache_hits_total": ("Prefix cache hits, in tokens.", cache.hits),
    }
    if speculation.draft_tokens:
        drafts = speculation.drafts.value
        counters |= {
            "vllm:spec_decode_num_drafts_total": ("Number of drafts.", drafts),
            "vllm:spec_decode_num_draft_tokens_total": ("Number of draft tokens.", drafts * speculation.draft_tokens),
            "vllm:spec_decode_num_accepted_tokens_total": ("Number of accepted tokens.", speculation.accepted.value),
        }
    label = f'{{engine="0",model_name="{model}"}}'
    lines = []
    for name, (meaning, value) in counters.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} counter", f"{name}{label} {value}.0"]
    return "\n".join(lines) + "\n"
