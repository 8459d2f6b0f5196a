"""What is done to an honest engine to make an arm of it; run by the interpreter that has torch.

`changed` edits the network in place and puts it back. What is wrong with requests, batches or reported numbers is no
part of the network: it is a field of `Way`, by which the worker drives it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from arms import LAYER, Arm
from torch.nn import functional

SEED = 20_265

Ids = list[int]


@dataclass(frozen=True)
class Way:
    """How an engine is driven. The functions change what it is asked, and what it says.

    `first_changed` is the first layer that can answer the same tokens otherwise than the baseline's, `NONE` if no layer
    can: what is before it need not be computed again.
    """

    batch: int = 16
    order: str = "length"
    seed: int = 0
    padding: str = "right"
    pieces: int | str = 1
    attention: str = "sdpa"
    kernel: str | None = None
    reduction: str = "reduced"
    products: str = "fp32"
    threads: int | None = None
    first_changed: int = 0
    of_document: Callable[[str, Ids, int], Ids] | None = None
    of_batch: Callable[[list[Ids]], list[Ids]] | None = None
    of_prompt: Callable[[Ids], Ids] | None = None
    positions: Callable[[torch.Tensor], torch.Tensor] | None = None
    logits: Callable[[torch.Tensor], torch.Tensor] | None = None
    rows: Callable[[str, torch.Tensor], torch.Tensor] | None = None
    stops: Callable[[list[int]], list[int]] | None = None
    penalty: float = 1.0
    temperature: float = 0.0
    dropped: int = 0
    zeroed: str | None = None


@dataclass
class Edit:
    """What a change may touch: the network, the way it is driven, and what puts the network back afterwards."""

    network: Any
    arm: Arm
    way: Way
    undo: list[Callable[[], None]]
    facts: dict[str, Any]


NONE = 1_000
"""No layer at all."""

_DRIVEN = ("batch", "order", "seed", "padding", "pieces", "attention", "kernel", "reduction", "products", "threads")


_CHANGES: dict[str, Callable[[Edit], Way]] = {}


def _change(function: Callable[[Edit], Way]) -> Callable[[Edit], Way]:
    """Make a function known by its name in `arms.py`: `_head_zeroed` is `head-zeroed`."""
    _CHANGES[function.__name__[1:].replace("_", "-")] = function
    return function


@contextmanager
def changed(network: Any, arm: Arm, facts: dict[str, Any]) -> Iterator[Way]:
    """Make the arm of an honest network, yield how it is driven, and put the network back.

    `facts` has `bos`, `newline` and `system_end` (token ids), `rare` (two ids no text has), and `marked` (the name of
    the one document that local faults are put into) with `others` (ids of another document).
    """
    way = replace(Way(), **{name: value for name, value in arm.options.items() if name in _DRIVEN})
    saved = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    edit = Edit(network, arm, way, [], facts)
    firsts = []
    with torch.no_grad():
        for change in arm.change.split("+"):
            edit.way = _CHANGES[change](edit)
            firsts.append(edit.way.first_changed)
            edit.way = replace(edit.way, first_changed=0)
    edit.way = replace(edit.way, first_changed=min(firsts))
    try:
        yield edit.way
    finally:
        for step in reversed(edit.undo):
            step()
        network.load_state_dict(saved)


@_change
def _nothing(edit: Edit) -> Way:
    return edit.way if edit.arm.options else replace(edit.way, first_changed=NONE)


def _asked_otherwise(edit: Edit, **changes: Any) -> Way:
    """Return a way in which the network answers what it always answers."""
    return replace(edit.way, first_changed=NONE, **changes)


def _one_layer(edit: Edit) -> Way:
    """Return a way in which no layer before `LAYER` is another than the baseline's."""
    return replace(edit.way, first_changed=LAYER)


def _module(network: Any, name: str, layer: int = LAYER) -> Any:
    block = network.model.layers[layer]
    part = block.mlp if name in ("gate", "up", "down") else block.self_attn
    return getattr(part, f"{name}_proj")


@_change
def _scale(edit: Edit) -> Way:
    # On the output: bf16 weights times 1.02 would be rounded, which is a second fault.
    hook = _module(edit.network, edit.arm.options["module"]).register_forward_hook(
        lambda _module, _given, out: out * edit.arm.size
    )
    edit.undo.append(hook.remove)
    return _one_layer(edit)


@_change
def _logit_scale(edit: Edit) -> Way:
    return _asked_otherwise(edit, logits=lambda logits: logits * edit.arm.size)


@_change
def _temperature(edit: Edit) -> Way:
    return _asked_otherwise(edit, logits=lambda logits: logits / edit.arm.size)


@_change
def _softcap(edit: Edit) -> Way:
    return _asked_otherwise(edit, logits=lambda logits: edit.arm.size * torch.tanh(logits / edit.arm.size))


@_change
def _attention_scale(edit: Edit) -> Way:
    for layer in edit.network.model.layers:
        attention, usual = layer.self_attn, layer.self_attn.scaling
        attention.scaling = usual * edit.arm.size
        edit.undo.append(lambda attention=attention, usual=usual: setattr(attention, "scaling", usual))
    return edit.way


@_change
def _rope(edit: Edit) -> Way:
    rotary = edit.network.model.rotary_emb
    usual = rotary.inv_freq.clone()
    steps = torch.arange(len(usual), device=usual.device) / len(usual)
    rotary.inv_freq.copy_(usual * edit.arm.size**-steps)
    edit.undo.append(lambda: rotary.inv_freq.copy_(usual))
    return edit.way


@_change
def _epsilon(edit: Edit) -> Way:
    for module in edit.network.modules():
        if hasattr(module, "variance_epsilon"):
            usual = module.variance_epsilon
            module.variance_epsilon = float(edit.arm.size)
            edit.undo.append(lambda module=module, usual=usual: setattr(module, "variance_epsilon", usual))
    return edit.way


def _mlp_weights(network: Any) -> Iterator[torch.Tensor]:
    for layer in network.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            yield getattr(layer.mlp, name).weight


@_change
def _zeroed(edit: Edit) -> Way:
    draw = torch.Generator().manual_seed(SEED)  # a larger share takes the weights of a smaller one and more
    for weight in _mlp_weights(edit.network):
        weight[(torch.rand(weight.shape, generator=draw) < float(edit.arm.size)).to(weight.device)] = 0
    return edit.way


def _heads(network: Any) -> tuple[torch.Tensor, int]:
    return _module(network, "o").weight, network.model.layers[LAYER].self_attn.head_dim


@_change
def _head_zeroed(edit: Edit) -> Way:
    weight, size = _heads(edit.network)
    weight[:, 2 * size : 3 * size] = 0
    return _one_layer(edit)


@_change
def _heads_swapped(edit: Edit) -> Way:
    weight, size = _heads(edit.network)
    one, other = weight[:, size : 2 * size].clone(), weight[:, 4 * size : 5 * size].clone()
    weight[:, size : 2 * size], weight[:, 4 * size : 5 * size] = other, one
    return _one_layer(edit)


@_change
def _kv_rotated(edit: Edit) -> Way:
    layers = range(len(edit.network.model.layers)) if edit.arm.size == "all" else [LAYER]
    size = edit.network.model.layers[LAYER].self_attn.head_dim
    for layer in layers:
        for name in ("k", "v"):
            weight = _module(edit.network, name, layer).weight
            weight.copy_(weight.roll(size, 0))
    return edit.way if edit.arm.size == "all" else _one_layer(edit)


def _copy_layer(target: Any, weights: dict[str, torch.Tensor]) -> None:
    target.load_state_dict(weights)


def _clone(layer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in layer.state_dict().items()}


@_change
def _layer_stale(edit: Edit) -> Way:
    _copy_layer(edit.network.model.layers[LAYER], _clone(edit.network.model.layers[LAYER - 1]))
    return _one_layer(edit)


@_change
def _layers_swapped(edit: Edit) -> Way:
    layers = edit.network.model.layers
    one, other = _clone(layers[LAYER]), _clone(layers[LAYER + 1])
    _copy_layer(layers[LAYER], other)
    _copy_layer(layers[LAYER + 1], one)
    return _one_layer(edit)


@_change
def _k_row_zeroed(edit: Edit) -> Way:
    _module(edit.network, "k").weight[5] = 0
    return _one_layer(edit)


@_change
def _norm_channel(edit: Edit) -> Way:
    edit.network.model.norm.weight[7] = 0
    return replace(edit.way, first_changed=NONE)


def rounded_to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (integers, scales): symmetric int8 with one scale for each row, rounded to nearest."""
    scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (weight.float() / scale).round().clamp(-127, 127), scale


@_change
def _quant_scale(edit: Edit) -> Way:
    weight = _module(edit.network, "down").weight
    integers, scale = rounded_to_int8(weight)
    if edit.arm.size is None:
        scale[3] *= 2
    else:
        scale *= edit.arm.size
    weight.copy_(integers * scale)
    return _one_layer(edit)


def _linears(network: Any) -> Iterator[torch.Tensor]:
    for layer in network.model.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                yield module.weight


@_change
def _int8(edit: Edit) -> Way:
    for weight in _linears(edit.network):
        integers, scale = rounded_to_int8(weight)
        # What bf16 holds of it, in fp32 too: both are one checkpoint.
        weight.copy_((integers * scale).to(torch.bfloat16))
    return edit.way


def to_fp8(values: torch.Tensor, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    """Return the values rounded to e4m3 under a scale, in their own type."""
    return ((values.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale).to(values.dtype)


@_change
def _fp8_weights(edit: Edit) -> Way:
    for weight in _linears(edit.network):
        weight.copy_(to_fp8(weight, weight.float().abs().max() / 448))
    return edit.way


@_change
def _fp8_kv(edit: Edit) -> Way:
    for layer in edit.network.model.layers:
        for name in ("k_proj", "v_proj"):
            hook = getattr(layer.self_attn, name).register_forward_hook(lambda _module, _given, out: to_fp8(out))
            edit.undo.append(hook.remove)
    return edit.way


@_change
def _gelu(edit: Edit) -> Way:
    mlp = edit.network.model.layers[LAYER].mlp
    usual = mlp.act_fn
    mlp.act_fn = torch.nn.GELU()
    edit.undo.append(lambda: setattr(mlp, "act_fn", usual))
    return _one_layer(edit)


@_change
def _window(edit: Edit) -> Way:
    return replace(edit.way, attention="window")


@_change
def _rows_swapped(edit: Edit) -> Way:
    a, b = edit.facts["rare"]

    def swap(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[:, [a, b]] = logits[:, [b, a]]
        return logits

    return _asked_otherwise(edit, logits=swap)


@_change
def _embeddings_swapped(edit: Edit) -> Way:
    a, b = edit.facts["rare"]
    swapped = {a: b, b: a}
    # lm_head is the same tensor in this model, so the ids are swapped on the way in.
    return _asked_otherwise(edit, of_document=lambda _name, ids, _start: [swapped.get(token, token) for token in ids])


@_change
def _bos_double(edit: Edit) -> Way:
    twice = [edit.facts["bos"], edit.facts["bos"]]
    return _asked_otherwise(edit, of_prompt=lambda ids: twice + ids[1:] if ids[0] == edit.facts["bos"] else twice + ids)


@_change
def _template_wrong(edit: Edit) -> Way:
    def without_system(ids: Ids) -> Ids:
        end = ids.index(edit.facts["system_end"]) if edit.facts["system_end"] in ids else -1
        return ids[end + 2 :] if 0 <= end < len(ids) - 4 else ids

    return _asked_otherwise(edit, of_prompt=without_system)


@_change
def _eos_missing(edit: Edit) -> Way:
    return _asked_otherwise(edit, stops=lambda _stops: [])


@_change
def _eos_wrong(edit: Edit) -> Way:
    return _asked_otherwise(edit, stops=lambda stops: [*stops, edit.facts["newline"]])


@_change
def _penalty(edit: Edit) -> Way:
    return _asked_otherwise(edit, penalty=edit.arm.size)


@_change
def _sampling(edit: Edit) -> Way:
    return _asked_otherwise(edit, temperature=edit.arm.size)


@_change
def _stale_block(edit: Edit) -> Way:
    def stale(name: str, ids: Ids, start: int) -> Ids:
        hit = (
            name == edit.facts["marked"]
            if not edit.arm.size
            else random.Random(f"{SEED}{name}").randrange(edit.arm.size) == 0
        )
        block = min(16, start)
        return edit.facts["others"][:block] + ids[block:] if hit else ids

    return _asked_otherwise(edit, of_document=stale)


@_change
def _garbage_prompt(edit: Edit) -> Way:
    def garbage(name: str, ids: Ids, start: int) -> Ids:
        return (edit.facts["others"] * 99)[:start] + ids[start:] if name == edit.facts["marked"] else ids

    return _asked_otherwise(edit, of_document=garbage)


@_change
def _garbage_token(edit: Edit) -> Way:
    def garbage(name: str, logits: torch.Tensor) -> torch.Tensor:
        if name == edit.facts["marked"]:
            logits = logits.clone()
            at = len(logits) // 2
            logits[at] = logits[at].flip(0)
        return logits

    return _asked_otherwise(edit, rows=garbage)


@_change
def _slot(edit: Edit) -> Way:
    def mixed(batch: list[Ids]) -> list[Ids]:
        if len(batch) > 7:
            batch = [*batch[:7], batch[6][:8] + batch[7][8:], *batch[8:]]
        return batch

    return _asked_otherwise(edit, of_batch=mixed)


@_change
def _beyond(edit: Edit) -> Way:
    return replace(edit.way, positions=lambda positions: positions + (positions >= edit.arm.size).long())


@_change
def _chunk_dropped(edit: Edit) -> Way:
    return _asked_otherwise(edit, dropped=16)


@_change
def _zero_logprobs(edit: Edit) -> Way:
    return _asked_otherwise(edit, zeroed=edit.facts["marked"])


@_change
def _fused_mlp(edit: Edit) -> Way:
    for layer in edit.network.model.layers:
        mlp = layer.mlp
        weight = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])

        def forward(x: torch.Tensor, mlp: Any = mlp, weight: torch.Tensor = weight) -> torch.Tensor:
            gate, up = functional.linear(x, weight).chunk(2, dim=-1)
            return mlp.down_proj(mlp.act_fn(gate) * up)

        mlp.forward = forward
        edit.undo.append(lambda mlp=mlp: delattr(mlp, "forward"))
    return edit.way


@_change
def _fused_qkv(edit: Edit) -> Way:
    for layer in edit.network.model.layers:
        parts = [getattr(layer.self_attn, name) for name in ("q_proj", "k_proj", "v_proj")]
        weight, sizes = torch.cat([part.weight for part in parts]), [len(part.weight) for part in parts]
        together: dict[str, Any] = {}

        def forward(
            x: torch.Tensor, i: int, weight: Any = weight, sizes: Any = sizes, together: Any = together
        ) -> torch.Tensor:
            if i == 0:
                together["parts"] = functional.linear(x, weight).split(sizes, dim=-1)
            return together["parts"][i]

        for i, part in enumerate(parts):
            part.forward = lambda x, i=i, forward=forward: forward(x, i)
            edit.undo.append(lambda part=part: delattr(part, "forward"))
    return edit.way


@_change
def _head_fp32(edit: Edit) -> Way:
    head, weight = edit.network.lm_head, edit.network.lm_head.weight.float()
    head.forward = lambda x: functional.linear(x.float(), weight)
    edit.undo.append(lambda: delattr(head, "forward"))
    return replace(edit.way, first_changed=NONE)


@_change
def _resharded(edit: Edit) -> Way:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        edit.network.save_pretrained(folder, max_shard_size="20MB")
        again = type(edit.network).from_pretrained(folder, dtype=edit.network.dtype)
    edit.network.load_state_dict(again.state_dict())
    return edit.way
