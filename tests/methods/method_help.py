"""Tiny random models, examples and method builders shared by the tests of the methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from s0.config.resolve import resolve_method
from s0.data import Example
from s0.errors import ArchitectureError
from s0.methods import FitContext, Method, TrainingSet, make_method
from s0.state.families import describe
from s0.state.random_models import VOCABULARY, build

MODELS = ("qwen3_5", "falcon_h1", "qwen2")


def qwen2(family: str = "Qwen2", **fields: Any) -> nn.Module:
    """A pure Transformer with grouped-query attention (`family` Qwen2 or Qwen3)."""
    import transformers

    values: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "eos_token_id": None,
        "bos_token_id": 1,
        "pad_token_id": 0,
        **fields,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**values)
        model = getattr(transformers, f"{family}ForCausalLM")(config)
        for p in model.parameters():
            if p.ndim == 2:
                p.data.mul_(5.0)
    return model.eval()


def model_of(name: str) -> nn.Module:
    return qwen2() if name == "qwen2" else build(name)


def method(name: str, **settings: Any) -> Method:
    return make_method(resolve_method({"name": name, **settings}, {}))


def context(model: nn.Module, **fields: Any) -> FitContext:
    try:
        layout = describe(model)
    except ArchitectureError:
        layout = None
    return FitContext(model, None, layout, **{"token_budget": 40, **fields})


def examples(seed: int = 0, n: int = 3) -> list[Example]:
    g = torch.Generator().manual_seed(seed)
    draw = lambda k: torch.randint(2, 90, (k,), generator=g).tolist()  # noqa: E731
    return [Example(f"p{i}", draw(4 + i), draw(5 + 2 * i)) for i in range(n)]


def sets(*seeds: int) -> list[TrainingSet]:
    return [TrainingSet(s, examples(s)) for s in seeds or (0,)]


def tokens(batch: int, length: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(2, 90, (batch, length), generator=torch.Generator().manual_seed(seed))


class Letters:
    """The least tokenizer an engine needs: token i is the character with code 200 + i."""

    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(200 + int(i)) for i in ids)
