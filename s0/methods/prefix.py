"""Prefix tuning (Li & Liang 2021) through peft: the negative control, on a pure Transformer.

Published: 30 virtual tokens with a projection (prefix_projection=True). After training the projection is folded away:
what is kept, in peft's form ("prompt_embeddings"), are keys and values per layer. They are put in front of every fresh
cache, and positions count from after them, as in peft.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from s0.config.schema import PrefixMethod
from s0.engines.slots import SlotCache
from s0.errors import ArchitectureError, S0Error, StoreError
from s0.methods.base import Adapter, CostClass, Method
from s0.storage.files import atomic_path, write_json
from s0.training.jobs import Curve, FitContext, TrainingSet
from s0.training.loop import Trainee, train_each

#: layer -> (keys, values), each [kv heads, virtual tokens, head dim]
KeysValues = list[tuple[Tensor, Tensor]]


def _attention_shape(model: Any) -> tuple[int, int, int]:
    """(layers, kv heads, head dim) of a Transformer whose layers all keep keys and values.

    Raises ArchitectureError for any other model: a recurrent layer has no keys and values to put in front of.
    """
    config = model.config.get_text_config(decoder=True)
    others = {type(layer).__name__ for layer in DynamicCache(config=config).layers if type(layer) is not DynamicLayer}
    if others:
        raise ArchitectureError(
            f"prefix: {type(model).__name__} has recurrent or windowed layers (cached as {', '.join(sorted(others))}), where "
            "there are no keys and values to put a prefix in front of; use method=s0 or lora, or a pure Transformer"
        )
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, dim


def split(embeddings: Tensor, layers: int, heads: int, dim: int) -> KeysValues:
    """peft's flat form [virtual tokens, layers * 2 * heads * dim] -> keys and values per layer."""
    parts = embeddings.view(len(embeddings), layers, 2, heads, dim).permute(1, 2, 3, 0, 4)
    return [(p[0], p[1]) for p in parts]


class PrefixTrainingCache(DynamicCache):
    """One forward pass: every layer sees the prefix in front of its own keys and values, and nothing is stored, so that
    gradients reach the prefix and layers may be recomputed."""

    def __init__(self, config: Any, prefix: KeysValues):
        super().__init__(config=config)
        self._prefix = prefix

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kw: Any) -> Any:
        k, v = (t.to(key_states).expand(len(key_states), -1, -1, -1) for t in self._prefix[layer_idx])
        return torch.cat([k, key_states], 2), torch.cat([v, value_states], 2)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._prefix[0][0].shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class PrefixHook:
    """Puts the prefix into every fresh cache that reaches the model's backbone, and shifts masks and positions by it."""

    def __init__(self, model: Any, prefix: KeysValues):
        self.config = model.config.get_text_config(decoder=True)
        self.prefix = prefix
        self.n = prefix[0][0].shape[1]
        self.handle = model.base_model.register_forward_pre_hook(self._before, with_kwargs=True)

    def _before(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("past_key_values")
        if isinstance(
            cache, (SlotCache, PrefixTrainingCache)
        ):  # a slot's rows were prefilled here: all is in its own terms
            return args, kwargs
        tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        tokens = args[0] if tokens is None else tokens
        if cache is None:
            cache = kwargs["past_key_values"] = DynamicCache(config=self.config)
        if not cache.get_seq_length():
            for i, (k, v) in enumerate(self.prefix):
                cache.update(k.expand(len(tokens), -1, -1, -1), v.expand(len(tokens), -1, -1, -1), i)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.ndim != 2:
                raise S0Error(
                    "prefix: attention_mask must be [batch, length]; a prepared mask leaves no room for the prefix"
                )
            kwargs["attention_mask"] = torch.cat([mask.new_ones(len(mask), self.n), mask], 1)
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] + self.n
        return args, kwargs


class PrefixAdapter(Adapter):
    """embeddings: fp32 [virtual tokens, layers * 2 * kv heads * head dim], peft's "prompt_embeddings"."""

    def __init__(self, embeddings: Tensor, trainable_params: int, curve: Curve):
        self.embeddings = embeddings.detach().cpu().float().contiguous()
        self.trainable_params, self.curve = trainable_params, curve

    def check(self, model: Any) -> tuple[int, int, int]:
        """Raise ArchitectureError unless the prefix fits the model; returns (layers, kv heads, head dim)."""
        layers, heads, dim = shape = _attention_shape(model)
        if self.embeddings.shape[1] != layers * 2 * heads * dim:
            raise ArchitectureError(
                f"prefix: {self.embeddings.shape[1]} numbers per virtual token, the model needs {layers * 2 * heads * dim} "
                f"({layers} layers, {heads} key/value heads of {dim}); fit it on this model"
            )
        return shape

    @contextlib.contextmanager
    def applied(self, model: Any) -> Iterator[Any]:
        home = next(model.parameters())
        flat = self.embeddings.to(device=home.device, dtype=home.dtype)
        hook = PrefixHook(model, split(flat, *self.check(model)))
        try:
            yield model
        finally:
            hook.handle.remove()

    def save(self, folder: Path) -> None:
        folder = Path(folder)
        with atomic_path(folder / "adapter_model.safetensors") as path:
            safetensors.torch.save_file({"prompt_embeddings": self.embeddings}, str(path))
        write_json(
            folder / "training.json",
            {
                "trainable_params": self.trainable_params,
                **self.curve.to_json(),
            },
        )


class Prefix(Method):
    name = "prefix"
    settings: PrefixMethod
    inference_cost: ClassVar[CostClass] = "extra tokens"
    resumable = True

    def label(self) -> str:
        s = self.settings
        flat = "" if s.projection else "_flat"
        return f"prefix_v{s.n_virtual_tokens}{flat}" + (f"_n{s.n_solutions}" if s.n_solutions else "")

    def check(self, ctx: FitContext, one: TrainingSet) -> None:
        super().check(ctx, one)
        _attention_shape(ctx.model)

    def fit(self, ctx: FitContext, sets: list[TrainingSet]) -> list[Adapter]:
        from peft import PrefixEncoder, PrefixTuningConfig

        s, model = self.settings, ctx.model
        layers, heads, dim = _attention_shape(model)
        text_config = model.config.get_text_config(decoder=True)
        n = s.n_virtual_tokens
        config = PrefixTuningConfig(
            num_virtual_tokens=n,
            prefix_projection=bool(s.projection),
            num_layers=layers,
            # with grouped-query attention a virtual token is as wide as the keys (peft's convention)
            token_dim=heads * dim,
            num_attention_heads=heads,
            encoder_hidden_size=heads * dim,
            task_type="CAUSAL_LM",
        )
        count = 0

        @contextlib.contextmanager
        def open_trainee(seed: int) -> Iterator[Trainee]:
            nonlocal count
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = PrefixEncoder(config)
            encoder.to(next(model.parameters()).device)
            index = torch.arange(n, device=encoder.embedding.weight.device)
            params = list(encoder.parameters())
            count = sum(p.numel() for p in params)
            yield Trainee(
                params,
                lambda: {"prompt_embeddings": encoder(index).detach().cpu().float().clone()},
                lambda batch: PrefixTrainingCache(text_config, split(encoder(index), layers, heads, dim)),
            )

        done = train_each(ctx, sets, s, open_trainee)
        count = count or self._count(config)
        return [PrefixAdapter(tensors["prompt_embeddings"], count, curve) for tensors, curve in done]

    @staticmethod
    def _count(config: Any) -> int:
        from peft import PrefixEncoder

        with torch.device("meta"):
            return sum(p.numel() for p in PrefixEncoder(config).parameters())

    def load(self, ctx: FitContext, folder: Path) -> Adapter:
        folder = Path(folder)
        try:
            data = json.loads((folder / "training.json").read_text())
            embeddings = safetensors.torch.load_file(str(folder / "adapter_model.safetensors"))["prompt_embeddings"]
        except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
            raise StoreError(
                f"prefix in {folder}: cannot be read ({error}); delete the folder and fit again"
            ) from error
        adapter = PrefixAdapter(embeddings, data["trainable_params"], Curve.from_json(data))
        adapter.check(ctx.model)
        return adapter
