"""What a config can name: methods, tasks, engines and analyses."""

from __future__ import annotations

from typing import Any

from s0.config.schema import (
    Config,
    EngineConfig,
    LoraMethod,
    ModelConfig,
    NoneMethod,
    PrefixMethod,
    S0Method,
    StateOffsetMethod,
    TaskConfig,
    TrackingConfig,
)
from s0.errors import ConfigError, suggest

#: method name -> (schema, published values; paper, Table 4 and the method's section)
METHODS: dict[str, tuple[type, dict[str, Any]]] = {
    "none": (NoneMethod, {}),
    "s0": (
        S0Method,
        {
            "alpha_placement": "after",
            "alpha_grid": [0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5],
            "normalize": False,
            "n_steps": 20,
            "lr": 1e-3,
            "l2_lambda": 5e-4,
            "grad_clip": 1.0,
            "max_length": 2048,
            "layers": "all",
            "rank": 0,
            "control": True,
        },
    ),
    "state_offset": (
        StateOffsetMethod,
        {
            "alpha": 1.0,
            "n_steps": 20,
            "lr": 1e-3,
            "l2_lambda": 5e-4,
            "grad_clip": 1.0,
            "max_length": 2048,
            "layers": "all",
            "mode": "accumulate",
        },
    ),
    "lora": (LoraMethod, {"rank": 24, "n_steps": 50, "lr": 5e-4, "grad_clip": 1.0, "max_length": 2048, "merge": True}),
    "prefix": (
        PrefixMethod,
        {
            "n_virtual_tokens": 30,
            "projection": True,
            "n_steps": 50,
            "lr": 1e-3,
            "grad_clip": 1.0,
            "max_length": 2048,
        },
    ),
}


GROUPS: dict[str, type] = {
    "model": ModelConfig,
    "task": TaskConfig,
    "engine": EngineConfig,
    "tracking": TrackingConfig,
}


def register() -> None:
    """Register the schemas with Hydra's ConfigStore (idempotent)."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for name, group in GROUPS.items():
        store.store(group=name, name=f"base_{name}", node=group)
    for name, (method, _) in METHODS.items():
        store.store(group="method", name=f"base_{name}", node=method)


def method_schema(name: Any) -> type:
    if name not in METHODS:
        raise ConfigError(f"method.name={name!r}: {suggest(str(name), list(METHODS))}")
    return METHODS[name][0]


#: what `analysis` may be: the keys of s0.analysis.run.ANALYSES, which is too heavy to import for a check
ANALYSES = ("persistence", "alpha_prediction", "probe")


#: `task.name` -> "module:class"
TASKS: dict[str, str] = {
    "minieval": "s0.tasks.minieval:MiniEval",
    "humaneval": "s0.tasks.humaneval:HumanEval",
    "math500": "s0.tasks.math500:Math500",
    "gsm8k": "s0.tasks.gsm8k:GSM8K",
    "spider": "s0.tasks.spider:Spider",
}


#: engine names
ENGINES = ("hf", "naive")
