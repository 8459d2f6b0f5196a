"""Forced scoring of a model that is larger than memory: all documents go through one decoder layer at a time.

Imported by hf_server.py, beside which it lies; needs torch, transformers and tensor_files.py, nothing else of ours.

The model is built on the meta device, where a tensor has a shape and no bytes. One pass reads every weight once:
the embedding, each decoder layer, then norm and `lm_head` are read from the safetensors files, used for all documents,
and freed. Every step runs *the model's own forward*, in which the decoder layers and the norm hand on what they are
given, except for those whose weights are there. So masks, sliding windows, position embeddings, scalings and soft caps
are the model's own code and nothing of them is written again here; and each document goes alone, in the shapes in which
an unstreamed forward would see it, so the bits do not depend on the bound, the other documents or their order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from tensor_files import READ_BYTES, CannotStream, HiddenStates, Weights  # type: ignore[import-not-found]

LOGIT_ROWS = 256 + 1
"""Rows of logits held at once: those of 256 scored tokens, which are one matrix product, as in an unstreamed forward.

A longer document is several, which may round otherwise in the last bit.
"""
_PROGRESS_SECONDS = 5.0
# Tensors as wide as a layer's widest that its forward holds at once, counted in Llama's with some to spare.
_WORKING_TENSORS = 8

Distributions = Callable[[torch.Tensor, torch.Tensor, int], dict[str, torch.Tensor]]
"""Turns (logits, tokens, top_k) into named arrays with one row a position."""


class StreamedModel:
    """A causal language model whose weights stay on disk, and how it scores documents within `memory` bytes.

    `memory` bounds what a pass allocates, beside what the interpreter with torch and transformers takes already.

    Raises:
        CannotStream: for another layout than embedding, `layers`, `norm`, `lm_head`; for weights under other names or
            in other formats; for a bound that is too small for the largest part.
    """

    def __init__(
        self,
        folder: Path,
        config: transformers.PretrainedConfig,
        *,
        dtype: torch.dtype,
        attention: str,
        device: torch.device,
        memory: int,
    ) -> None:
        if getattr(config, "quantization_config", None) is not None:
            raise CannotStream(f"{folder}: the checkpoint is quantised; give the one it was made from as --llm-model")
        self.memory, self._device, self._dtype = memory, device, dtype
        self._weights = Weights(folder)
        self._network = _skeleton(config, dtype, attention)
        self._names = {module: name for name, module in self._network.named_modules()}
        self._eager = attention == "eager"
        base, head = self._network.base_model, self._network.get_output_embeddings()
        self._embedding = base.get_input_embeddings()
        self._layers, self._norm = _layers_and_norm(base)
        self._end = (self._norm, head)
        self._groups = ((self._embedding,), *((layer,) for layer in self._layers), self._end)
        self._sources = {name: self._sources_of(name, tensor) for name, tensor in self._network.state_dict().items()}
        self._require_nothing_else()
        _compute_buffers(self._network, device)
        for module in (*self._layers, self._norm):
            module.forward = _hand_on
        self._require_handing_on()
        self._require_room(LOGIT_ROWS)
        self.last_pass: dict[str, Any] = {}
        self.passes = 0

    @property
    def generation_config(self) -> transformers.GenerationConfig | None:
        """What the architecture alone says about generation."""
        return self._network.generation_config

    def facts(self) -> dict[str, Any]:
        """Return how it streams, what the last pass read and took, and what grows with every pass."""
        counters = {"passes": self.passes, "weight_bytes_read": self._weights.bytes_read}
        return {"streamed": True, "memory": self.memory, "last_pass": self.last_pass, "counters": counters}

    def score(
        self, documents: Sequence[tuple[Sequence[int], int]], top_k: int, distributions: Distributions
    ) -> Iterator[dict[str, Any]]:
        """Score ids[start:] of each document (ids, start); `start` is 1 or more.

        Yields `{"layer", "layers"}` (done, in all) as the pass goes on, and near its end `{"document": arrays}` for
        each, in order.
        """
        began, read = time.monotonic(), self._weights.bytes_read
        hidden = self._room_for([len(ids) for ids, _ in documents])
        heard = _Every(_PROGRESS_SECONDS)
        try:
            for part, modules in enumerate(self._groups):
                with self._loaded(modules):
                    for i, (ids, start) in enumerate(documents):
                        if modules is self._end:
                            yield {"document": self._distributions(hidden.get(i), ids, start, top_k, distributions)}
                        else:
                            hidden.put(i, self._step(hidden, i, ids, part))
                            if heard.due():
                                yield self._progress(part - 1)
                yield self._progress(part)
        finally:
            hidden.close()
        self.passes += 1
        self.last_pass = {
            "documents": len(documents),
            "weight_bytes_read": self._weights.bytes_read - read,
            "seconds": round(time.monotonic() - began, 3),
            "hidden_states": "file" if hidden.spilled else "memory",
        }

    def _progress(self, part: int) -> dict[str, int]:
        """Return how many layers are done when this part is, the embedding being part 0."""
        return {"layer": min(max(part, 0), len(self._layers)), "layers": len(self._layers)}

    def _step(self, hidden: HiddenStates, i: int, ids: Sequence[int], part: int) -> torch.Tensor:
        if part == 0:
            given = {"input_ids": torch.tensor([list(ids)], device=self._device)}
        else:
            given = {"inputs_embeds": hidden.get(i).to(self._device)[None]}
        with torch.inference_mode():
            states: torch.Tensor = self._network.base_model(**given, use_cache=False).last_hidden_state[0]
        return states

    def _distributions(
        self, states: torch.Tensor, ids: Sequence[int], start: int, top_k: int, distributions: Distributions
    ) -> dict[str, torch.Tensor]:
        """Return the arrays of ids[start:]; what predicts a token is the row before it.

        One row more than is used goes through the head, the last: the unstreamed server's product has it too, and a
        product of another shape may round otherwise.
        """
        embeds = states.to(self._device)[None]
        found: list[dict[str, torch.Tensor]] = []
        for first in range(start - 1, len(ids), LOGIT_ROWS):
            rows = torch.arange(first, min(first + LOGIT_ROWS, len(ids)), device=self._device)
            tokens = torch.tensor(list(ids[first + 1 : first + 1 + len(rows)]), device=self._device)
            if len(tokens) or not found:
                with torch.inference_mode():
                    logits = self._network(inputs_embeds=embeds, use_cache=False, logits_to_keep=rows).logits[0]
                    arrays = distributions(logits[: len(tokens)], tokens, top_k)
                del logits
                found.append({name: array.cpu() for name, array in arrays.items()})
        return {name: torch.cat([each[name] for each in found]) for name in found[0]}

    @contextmanager
    def _loaded(self, modules: Sequence[torch.nn.Module]) -> Iterator[None]:
        """Read the weights of some modules and let them work; afterwards they hand on again, without weights."""
        names = [name for module in modules for name in self._tensors_of(module)]
        empty = {name: _slot(self._network, name) for name in names}
        try:
            for name in names:
                self._load(name, empty[name])
            for module in modules:
                vars(module).pop("forward", None)
            yield
        finally:
            for module in modules:
                if module in (*self._layers, self._norm):
                    module.forward = _hand_on
            for name, tensor in empty.items():
                _put(self._network, name, tensor)

    def _load(self, name: str, like: torch.Tensor) -> None:
        tensor = torch.empty(like.shape, dtype=like.dtype, device=self._device)
        for source, place in self._sources[name]:
            self._weights.fill(tensor[place], source)
        _put(self._network, name, tensor)

    def _tensors_of(self, module: torch.nn.Module) -> list[str]:
        return [f"{self._names[module]}.{name}" for name in module.state_dict()]

    def _sources_of(self, name: str, tensor: torch.Tensor) -> list[tuple[str, Any]]:
        """Return from which tensors of the checkpoint one of the model is filled, and which part by each.

        Mostly it is the one of that name; tied weights may have the other one's, and experts may be stored one by one.
        """
        tied = dict(getattr(self._network, "all_tied_weights_keys", {}))
        names = [name, tied.get(name), *(target for target, source in tied.items() if source == name)]
        stored = next((each for each in names if each in self._weights), None)
        sources = [(stored, ...)] if stored is not None else _sources_of_experts(name, tensor)
        for source, place in sources:
            if source not in self._weights:
                raise CannotStream(f"the checkpoint has no tensor {source}, which the model's {name} is made of")
            self._weights.require(source, tensor[place].shape)
        return sources

    def _require_nothing_else(self) -> None:
        """Check that the parts have all of the model's weights between them."""
        known = {name for modules in self._groups for module in modules for name in self._tensors_of(module)}
        others = sorted(self._sources.keys() - known)
        if others:
            raise CannotStream(
                f"{type(self._network).__name__} has weights outside of its embedding, decoder layers, norm and output "
                f"layer: {', '.join(others[:5])}"
            )

    def _require_handing_on(self) -> None:
        """Check that nothing but the layers and the norm changes what goes through the model."""
        given = torch.linspace(-1, 1, 6 * self._width, dtype=self._dtype, device=self._device).view(1, 6, self._width)
        try:
            with torch.inference_mode():
                found = self._network.base_model(inputs_embeds=given, use_cache=False).last_hidden_state
        except Exception as error:
            raise CannotStream(
                f"{type(self._network).__name__} cannot go layer by layer: with layers that hand on their input it "
                f"fails with {type(error).__name__}: {error}"
            ) from error
        if found.shape != given.shape or not torch.equal(found, given):
            raise CannotStream(
                f"{type(self._network).__name__} cannot go layer by layer: between its embedding and its output layer "
                "something changes the hidden states beside the decoder layers and the norm"
            )

    @property
    def _width(self) -> int:
        return int(self._network.config.hidden_size)

    def _room_for(self, lengths: Sequence[int]) -> HiddenStates:
        left = self.memory - self._require_room(max(lengths, default=0))
        needed = sum(lengths) * self._width * self._dtype.itemsize
        return HiddenStates(lengths, self._width, self._dtype, spilled=needed > left)

    def _require_room(self, longest: int) -> int:
        """Return the bytes that a pass takes beside the hidden states that it keeps; raise if the bound is smaller."""
        config = self._network.config
        heads = config.num_attention_heads
        across = heads * (getattr(config, "head_dim", None) or self._width // heads)
        widest = max(self._width, across, getattr(config, "intermediate_size", 0) or 4 * self._width)
        working = _WORKING_TENSORS * longest * widest * self._dtype.itemsize
        working += longest**2 * (3 * heads * self._dtype.itemsize if self._eager else self._dtype.itemsize)
        # Logits in the model's dtype, in float32 where that is another, and log-probabilities.
        each = 8 if self._dtype == torch.float32 else 8 + self._dtype.itemsize
        logits = min(longest, LOGIT_ROWS) * config.vocab_size * each
        groups = [sum(map(self._bytes_of, modules)) for modules in self._groups]
        sizes = [groups[0], *(group + working for group in groups[1:-1]), groups[-1] + logits]
        needed: int = READ_BYTES + max(sizes)
        if needed > self.memory:
            largest = self._groups[sizes.index(max(sizes))][-1]
            raise CannotStream(
                f"memory of {self.memory} bytes is too little: at least {needed} are needed for documents of {longest} "
                f"tokens, most of them for {self._names[largest]} ({math.ceil(needed / 2**20)} MiB in all)"
            )
        return needed

    def _bytes_of(self, module: torch.nn.Module) -> int:
        return sum(tensor.numel() * tensor.dtype.itemsize for tensor in module.state_dict().values())


class _Every:
    """Says when so many seconds have gone by again."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def due(self) -> bool:
        if time.monotonic() - self._last < self._seconds:
            return False
        self._last = time.monotonic()
        return True


def _hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def _skeleton(config: Any, dtype: torch.dtype, attention: str) -> Any:
    with torch.device("meta"):
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    return network.eval()


def _layers_and_norm(base: torch.nn.Module) -> tuple[torch.nn.ModuleList, torch.nn.Module]:
    layers, norm = getattr(base, "layers", None), getattr(base, "norm", None)
    if not isinstance(layers, torch.nn.ModuleList) or norm is None:
        found = ", ".join(name for name, _ in base.named_children())
        raise CannotStream(
            f"{type(base).__name__} has not the usual layout of a decoder (embed_tokens, layers, norm); it has {found}"
        )
    return layers, norm


def _compute_buffers(network: Any, device: torch.device) -> None:
    """Compute what is in no checkpoint, such as rotary frequencies, as transformers does when it loads a model."""
    for name, module in network.named_modules():
        computed = {key: buffer for key, buffer in module.named_buffers(recurse=False) if _is_computed(module, key)}
        for key, buffer in computed.items():
            unknown = math.nan if buffer.is_floating_point() else 0
            setattr(module, key, torch.full_like(buffer, unknown, device="cpu"))
        if computed:
            network._init_weights(module)
        for key in computed:
            found = getattr(module, key)
            if not found.is_floating_point() or found.isnan().any():
                raise CannotStream(
                    f"transformers {transformers.__version__} does not say how {name}.{key} of "
                    f"{type(network).__name__} is computed apart from loading it; version 5 does for most models"
                )
            setattr(module, key, found.to(device))


def _is_computed(module: torch.nn.Module, key: str) -> bool:
    return key in module._non_persistent_buffers_set


def _sources_of_experts(name: str, tensor: torch.Tensor) -> list[tuple[str, Any]]:
    """Return the tensors of single experts that make up the one that transformers holds of all.

    A name that is none of these is returned as it is, for the message that says what is missing.
    """
    stem, _, kind = name.rpartition(".")
    experts = range(tensor.shape[0]) if tensor.dim() == 3 else range(0)
    if kind == "gate_up_proj" and experts:
        half = tensor.shape[1] // 2
        halves = {"gate_proj": slice(None, half), "up_proj": slice(half, None)}
        return [(f"{stem}.{i}.{each}.weight", (i, part)) for i in experts for each, part in halves.items()]
    if kind == "down_proj" and experts:
        return [(f"{stem}.{i}.down_proj.weight", i) for i in experts]
    return [(name, ...)]


def _slot(network: torch.nn.Module, name: str) -> torch.Tensor:
    path, _, leaf = name.rpartition(".")
    found: torch.Tensor = getattr(network.get_submodule(path), leaf)
    return found


def _put(network: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = network.get_submodule(path)
    if leaf in owner._parameters:
        owner._parameters[leaf] = torch.nn.Parameter(tensor, requires_grad=False)
    else:
        owner._buffers[leaf] = tensor
