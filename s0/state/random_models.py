"""A tiny random model of every family, for checking what S0 promises on it without downloading anything.

Each has at least two recurrent layers, grouped heads and chunks shorter than the test sequences where its config allows,
so that shapes which happen to be equal in a default config are told apart. Weights are drawn from a seed and scaled so
that the recurrent state matters for the logits.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from s0.errors import ArchitectureError
from s0.state.families import describe

VOCABULARY = 101
#: no token of the vocabulary ends a sequence, so greedy runs have equal length
_COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}

_GDN = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
_MOE = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
_MAMBA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "mamba_n_heads": 4,
    "mamba_n_groups": 2,
    "mamba_d_state": 8,
    "mamba_chunk_size": 8,
}
_MLA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "kv_lora_rank": 16,
    "v_head_dim": 16,
    "qk_nope_head_dim": 16,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}


def _build(model_class: str, config_class: str, **fields: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, config_class)(**{**_COMMON, **fields})
    return getattr(transformers, model_class)(config)


def _without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k not in names}


def _qwen3_5_wrapped() -> nn.Module:
    import transformers

    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    text = transformers.Qwen3_5TextConfig(**{**_COMMON, **_GDN})
    special: dict[str, Any] = {
        "image_token_id": 97,
        "video_token_id": 98,
        "vision_start_token_id": 99,
        "vision_end_token_id": 100,
    }
    config = transformers.Qwen3_5Config(text_config=text.to_dict(), vision_config=vision, **special)
    return transformers.Qwen3_5ForConditionalGeneration(config)


def _qwen4_exp(**more: Any) -> nn.Module:
    indexer = {"n_heads": 2, "kv_heads": 1, "head_dim": 16, "budget": 64, "compress_ratio": 4}
    fields = {**_without(_GDN, "intermediate_size"), **_MOE, **{f"indexer_{k}": v for k, v in indexer.items()}}
    return _build("Qwen4ExpForCausalLM", "Qwen4ExpTextConfig", **{**fields, "hc_count": 2, "hc_lowrank": 8, **more})


def _glm5_next() -> nn.Module:
    import transformers

    text = {
        **_COMMON,
        **_MLA,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 0,
        "index_topk": 64,
        "index_kpool": 4,
        "index_head_dim": 16,
        "index_n_heads": 2,
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "hc_mult": 2,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "mlp_layer_types": ["dense", "sparse", "dense"],
    }
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
    special: dict[str, Any] = {"image_token_id": 97, "video_token_id": 98}
    config = transformers.Glm5NextConfig(text_config=text, vision_config=vision, **special)
    return transformers.Glm5NextForConditionalGeneration(config)


#: every model there is a recipe for, whatever the installed transformers has; `MODELS` holds those it can build
_RECIPES: dict[str, Callable[[], nn.Module]] = {
    "qwen3_5": lambda: _build("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", **_GDN),
    "qwen3_5 (multimodal wrapper)": _qwen3_5_wrapped,
    "qwen3_5_moe": lambda: _build(
        "Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", **_without(_GDN, "intermediate_size"), **_MOE
    ),
    "qwen3_next": lambda: _build("Qwen3NextForCausalLM", "Qwen3NextConfig", **_GDN, **_MOE),
    "qwen4_exp": _qwen4_exp,
    "qwen4_exp (n-gram embeddings)": lambda: _qwen4_exp(
        ple_layer_ids=[1],
        ple_embed_dim=32,
        heads_per_ngram=2,
        ngram_vocab_size_base=50,
        make_ngram_vocab_size_divisible_by=2,
        split_ngram_parts=1,
        eos_token_id=2,
    ),
    "lara_mini": lambda: _build("LaraMiniForCausalLM", "LaraMiniConfig", **_without(_GDN, "intermediate_size"), **_MOE),
    "olmo_hybrid": lambda: _build("OlmoHybridForCausalLM", "OlmoHybridConfig", **_without(_GDN, "head_dim")),
    "kimi_linear": lambda: _build(
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        **_MLA,
        num_local_experts=4,
        qk_rope_head_dim=16,
        linear_head_dim=8,
        linear_num_heads=4,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        mlp_layer_types=["dense", "sparse", "dense"],
    ),
    "bailing_hybrid": lambda: _build(
        "BailingHybridForCausalLM",
        "BailingHybridConfig",
        **_MLA,
        num_local_experts=4,
        qk_rope_head_dim=16,
        head_dim=8,
        num_mtp_layers=0,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        mlp_layer_types=["dense", "sparse", "dense"],
    ),
    "glm5_next": _glm5_next,
    "falcon_h1": lambda: _build(
        "FalconH1ForCausalLM",
        "FalconH1Config",
        **_MAMBA,
        head_dim=16,
        mamba_d_ssm=48,
        ssm_multipliers=[1.1, 0.9, 1.2, 0.8, 0.7],
    ),
    "falcon_h1 (gated norm, biases, time-step floor)": lambda: _build(
        "FalconH1ForCausalLM",
        "FalconH1Config",
        **_MAMBA,
        head_dim=16,
        mamba_d_ssm=48,
        mamba_rms_norm=True,
        mamba_proj_bias=True,
        time_step_limit=(0.01, 10.0),
    ),
    "bamba": lambda: _build("BambaForCausalLM", "BambaConfig", **_MAMBA, attn_layer_indices=[1]),
    "granitemoehybrid": lambda: _build(
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        **_MAMBA,
        layer_types=["linear_attention", "full_attention", "linear_attention"],
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
    ),
    "nemotron_h": lambda: _build(
        "NemotronHForCausalLM",
        "NemotronHConfig",
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        mamba_num_heads=4,
        mamba_head_dim=12,
        n_groups=2,
        ssm_state_size=8,
        time_step_min=0.01,
        chunk_size=8,
        n_routed_experts=4,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
        layers_block_type=["mamba", "moe", "attention", "mamba", "mlp"],
    ),
    "zamba2": lambda: _build(
        "Zamba2ForCausalLM",
        "Zamba2Config",
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        n_mamba_heads=4,
        mamba_ngroups=2,
        mamba_d_state=8,
        chunk_size=8,
        adapter_rank=4,
        time_step_min=0.01,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    ),
    "mamba2": lambda: _build(
        "Mamba2ForCausalLM",
        "Mamba2Config",
        hidden_size=32,
        num_heads=4,
        head_dim=16,
        state_size=8,
        n_groups=2,
        num_hidden_layers=2,
        chunk_size=8,
    ),
}


def _buildable(name: str) -> bool:
    """Whether the installed transformers has the family and runs this variant of it rightly."""
    if find_spec(f"transformers.models.{name.split()[0]}") is None:
        return False
    if "gated norm" in name:
        try:
            with torch.device("meta"):
                describe(_RECIPES[name]())
        except ArchitectureError:
            return False
    return True


#: name -> builder: the family's name, with the variant in brackets
MODELS = {name: recipe for name, recipe in _RECIPES.items() if _buildable(name)}

_CONV = {"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}

#: model and config classes whose mixers are refused (`s0.state.families.REFUSED`), and pure Transformers
_REFUSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba": ("MambaForCausalLM", "MambaConfig", {}),
    "falcon_mamba": ("FalconMambaForCausalLM", "FalconMambaConfig", {}),
    "jamba": ("JambaForCausalLM", "JambaConfig", {}),
    "zamba": ("ZambaForCausalLM", "ZambaConfig", {}),
    "minimax": ("MiniMaxForCausalLM", "MiniMaxConfig", {}),
    "zaya": ("ZayaForCausalLM", "ZayaConfig", {}),
    "recurrent_gemma": ("RecurrentGemmaForCausalLM", "RecurrentGemmaConfig", {}),
    "rwkv": ("RwkvForCausalLM", "RwkvConfig", {}),
    "xlstm": ("xLSTMForCausalLM", "xLSTMConfig", {}),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", _CONV),
    "lfm2_moe": ("Lfm2MoeForCausalLM", "Lfm2MoeConfig", _CONV),
    "lfm3": ("Lfm3ForCausalLM", "Lfm3Config", {}),
    "inkling": ("InklingForCausalLM", "InklingTextConfig", {}),
    "inkling2": ("Inkling2ForCausalLM", "Inkling2TextConfig", {}),
    "qwen2 (pure Transformer)": ("Qwen2ForCausalLM", "Qwen2Config", {}),
}
REFUSED_MODELS = {
    name: entry for name, entry in _REFUSED.items() if find_spec(f"transformers.models.{name.split()[0]}") is not None
}


def build_refused(name: str) -> nn.Module:
    """The refused model `name` on the meta device (structure only, no weights)."""
    import transformers

    model_class, config_class, fields = REFUSED_MODELS[name]
    with torch.device("meta"):
        return getattr(transformers, model_class)(getattr(transformers, config_class)(**fields))


@torch.no_grad()
def build(name: str, seed: int = 0) -> nn.Module:
    """The model `name` in float32 and eval mode; equal for equal seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name]()
        for name, parameter in model.named_parameters():
            if name.endswith("dt_bias"):  # time steps of 0.1 to 0.4, as inverse softplus
                steps = torch.empty_like(parameter).uniform_(0.1, 0.4)
                parameter.copy_(steps + torch.log(-torch.expm1(-steps)))
            elif name.endswith("A_log"):  # slow decay: default initialisations forget S0 within a few tokens
                parameter.uniform_(0.1, 1.0).log_()
            elif parameter.ndim >= 2 and parameter.shape[-1] > 1 and parameter.std() < 0.1:
                parameter.mul_(5.0)
    return model.float().eval()
