"""Configurations and initialisation of the three embedded models.

tiny_gdn is a Qwen3.5 text model (3 GatedDeltaNet layers, then full attention), tiny_mamba2 a Falcon-H1 (Mamba-2 and
attention side by side in every layer), tiny_transformer a Qwen3 (attention only: the negative control).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    PreTrainedModel,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from s0.errors import ConfigError
from s0.tiny.tokenizer import VOCAB_SIZE

NAMES = ("tiny_gdn", "tiny_mamba2", "tiny_transformer")
#: Ids of <|endoftext|> (padding), <|im_start|> and <|im_end|> (end of turn) in the tiny tokenizer.
PAD_ID, START_ID, END_ID = 0, 1, 2

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "pad_token_id": PAD_ID,
    "bos_token_id": None,
    "eos_token_id": END_ID,
    "dtype": "float32",
}


def embedded_model(name: str) -> Path:
    """Where the shipped files of a model lie. Raises ConfigError for an unknown name."""
    if name not in NAMES:
        raise ConfigError(f"model={name!r}: not an embedded model; choose one of {', '.join(NAMES)}")
    return Path(__file__).parent / name


def build(name: str, seed: int) -> PreTrainedModel:
    """A freshly initialised model in fp32, the same for the same seed."""
    embedded_model(name)
    torch.manual_seed(seed)
    if name == "tiny_gdn":
        model: PreTrainedModel = Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(
                **_COMMON,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
                linear_num_key_heads=4,
                linear_num_value_heads=4,
                linear_key_head_dim=32,
                linear_value_head_dim=32,
            )
        )
    elif name == "tiny_mamba2":
        model = FalconH1ForCausalLM(
            FalconH1Config(
                **_COMMON,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                mamba_d_ssm=128,
                mamba_n_heads=4,
                mamba_d_head=32,
                mamba_d_state=32,
                mamba_n_groups=1,
                mamba_chunk_size=32,
                mamba_rms_norm=True,
                mamba_norm_before_gate=False,
            )
        )
    else:
        model = Qwen3ForCausalLM(
            Qwen3Config(
                **_COMMON,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=4,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=32,
            )
        )
    slow_decay(model)
    return model


@torch.no_grad()
def slow_decay(model: PreTrainedModel) -> None:
    """Mamba's initialisation of the decay (dt log-uniform in .001-.1, A uniform in 1-16).

    The library's own default forgets within a few tokens, and an initial state could not reach the answer.
    """
    for module in model.modules():
        dt_bias, a_log = getattr(module, "dt_bias", None), getattr(module, "A_log", None)
        if isinstance(dt_bias, torch.Tensor) and isinstance(a_log, torch.Tensor):
            dt = torch.exp(torch.empty_like(dt_bias).uniform_(math.log(1e-3), math.log(1e-1)))
            dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus
            a_log.copy_(torch.log(torch.empty_like(a_log).uniform_(1, 16)))
