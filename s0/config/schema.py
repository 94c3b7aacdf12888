"""The schema of every config group, and everything that can be checked before anything is loaded.

YAML files in `configs/` start from these dataclasses (`base_*` first in their defaults), so a typo or a wrong type is an
error that names the key and the choices. `null` in a method means: the model's documented value (`model.hyperparameters`), else
the published one (paper, Table 4).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from s0.data import digest
from s0.errors import ConfigError


@dataclass
class ModelConfig:
    #: name in records and tables; empty: the last part of `path`
    name: str = ""
    #: "embedded:NAME" (shipped with the package), a local checkpoint folder, or a hub id
    path: str = "???"
    revision: str | None = None
    #: auto = the checkpoint's dtype on GPU, float32 on CPU
    dtype: str = "auto"
    device: str = "auto"
    #: passed to from_pretrained: "auto", "balanced", ... spreads layers over devices (accelerate)
    device_map: str | None = None
    #: passed to from_pretrained: "auto" shards matrices over torchrun ranks (tensor parallel)
    tp_plan: str | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    #: documented hyper-parameters of this model: method name -> field -> value, used where the method says null
    #: (not called defaults: Hydra reads that key of a group file as its defaults list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)


@dataclass
class TaskConfig:
    name: str = "???"
    path: str | None = None
    hub_id: str | None = None
    hub_revision: str | None = None
    database_dir: str | None = None
    match: str = "official"
    keep_distinct: bool = False
    n_train: int | None = None
    n_eval: int | None = None
    samples_per_problem: int = 16
    temperature: float = 0.7
    top_p: float = 0.95
    max_new_tokens: int = 512
    grading_timeout_s: float = 3.0
    eval_samples: int = 1
    eval_temperature: float = 0.7
    eval_top_p: float = 0.95
    ks: list[int] = field(default_factory=lambda: [1])
    legacy_padding: bool = False
    legacy_batch: int = 8


@dataclass
class EngineConfig:
    name: str = "hf"
    max_slots: int = 256
    memory_gb: float | None = None
    prefill_tokens: int = 8192
    cuda_graphs: bool = True
    #: CPU threads of torch (null: all cores)
    threads: int | None = None


@dataclass
class TrackingConfig:
    name: str = "none"
    project: str = "s0"
    entity: str | None = None
    #: wandb: null = online with a key, offline without one
    mode: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    dir: str = "outputs/tracking"


@dataclass
class SandboxSettings:
    workers: int | None = None
    memory_mb: int = 1024
    allow_unisolated: bool = False


@dataclass
class TrainConfig:
    #: padded tokens per forward pass of fused training: the memory knob (null: 2048 on CPU, 16384 on CUDA)
    token_budget: int | None = None
    checkpointing: bool = False
    #: seconds between snapshots of a training in progress
    snapshot_s: float = 30.0


@dataclass
class DebugConfig:
    profile: bool = False
    overfit: bool = False


@dataclass
class NoneMethod:
    name: str = "none"


@dataclass
class S0Method:
    name: str = "s0"
    #: a number, "auto" (chosen by cross-validation on training problems), or null (model.hyperparameters, else architecture)
    alpha: Any = None
    alpha_placement: str | None = None
    alpha_grid: list[float] | None = None
    normalize: bool | None = None
    n_steps: int | None = None
    lr: float | None = None
    l2_lambda: float | None = None
    grad_clip: float | None = None
    max_length: int | None = None
    #: all | early | middle | late | [i, j, ...] (layer indices of the model)
    layers: Any = None
    #: use only the first n verified solutions, in an order shuffled by the seed (null: all)
    n_solutions: int | None = None
    #: > 0: a sum of `rank` outer products per head
    rank: int | None = None
    #: start from the state after reading this text
    init_prompt: str | None = None
    #: also evaluate a random state of the same norm per layer
    control: bool | None = None


@dataclass
class StateOffsetMethod:
    name: str = "state_offset"
    alpha: Any = None
    n_steps: int | None = None
    lr: float | None = None
    l2_lambda: float | None = None
    grad_clip: float | None = None
    max_length: int | None = None
    layers: Any = None
    n_solutions: int | None = None
    #: accumulate: S <- f(S + O) at every step | readout: O is added only where the state is read
    mode: str | None = None


@dataclass
class LoraMethod:
    name: str = "lora"
    #: an integer, or "match": the rank whose parameter count is nearest to S0's
    rank: Any = None
    lora_alpha: float | None = None
    targets: list[str] | None = None
    n_steps: int | None = None
    lr: float | None = None
    grad_clip: float | None = None
    max_length: int | None = None
    n_solutions: int | None = None
    merge: bool | None = None


@dataclass
class PrefixMethod:
    name: str = "prefix"
    n_virtual_tokens: int | None = None
    projection: bool | None = None
    n_steps: int | None = None
    lr: float | None = None
    grad_clip: float | None = None
    max_length: int | None = None
    n_solutions: int | None = None


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


#: presets of models shipped with the package (s0/tiny)
EMBEDDED = frozenset(["tiny_gdn", "tiny_mamba2", "tiny_transformer"])


@dataclass
class Config:
    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    #: one of the schemas of METHODS (no default: a structured one could not be replaced by another)
    method: Any = "???"
    engine: EngineConfig = field(default_factory=EngineConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    train: TrainConfig = field(default_factory=TrainConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
    #: 3 | 0..9 | "0..2,7" | [0, 7]
    seed: Any = "0..2"
    #: name of the preset, written into records
    experiment: str = ""
    #: override strings, one per cell of a preset (a cell = one model, task and method)
    cells: list[str] = field(default_factory=list)
    #: the cells of scale=tiny where they are not simply the embedded stand-ins of `cells`
    tiny_cells: list[str] = field(default_factory=list)
    #: analysis of the learned states to run after the cells (s0/analysis): persistence | probe | alpha_prediction
    analysis: str = ""
    #: paper: as published | tiny: the embedded models and benchmark stand in (see experiments/README.md)
    scale: str = "paper"
    store: str = "outputs/store"
    records: str = "outputs/records"
    out: str = "outputs/summary"
    dry_run: bool = False
    #: plan of workers on this machine (scripts/sweep.py); 0 = this process
    workers: int = 0


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


# -- checks that need no model ---------------------------------------------------------------------------------------


def parse_seeds(value: Any) -> list[int]:
    """Seeds from 3, "3", "0..9" (inclusive), "0..2,7" or a list of these.

    Raises ConfigError for booleans, negative, reversed, duplicate and non-numeric values, showing the right form.
    """
    form = "write seed=3, seed=0..9 (both ends included), seed='0..2,7' or seed=[0,7]"
    if isinstance(value, bool) or value is None:
        raise ConfigError(f"seed={value}: not a seed; {form}")
    parts: list[Any] = list(value) if isinstance(value, (list, tuple)) or OmegaConf.is_list(value) else [value]
    seeds: list[int] = []
    for part in parts:
        if isinstance(part, bool):
            raise ConfigError(f"seed={value}: {part} is not a seed; {form}")
        if isinstance(part, int):
            seeds.append(part)
            continue
        for piece in str(part).split(","):
            piece = piece.strip()
            if m := re.fullmatch(r"(\d+)\.\.(\d+)", piece):
                low, high = int(m[1]), int(m[2])
                if low > high:
                    raise ConfigError(f"seed={value}: {piece} is reversed; write {high}..{low}")
                if high - low >= 10_000:
                    raise ConfigError(f"seed={value}: {piece} is {high - low + 1} seeds; at most 10000 in one range")
                seeds += range(low, high + 1)
            elif re.fullmatch(r"\d+", piece):
                seeds.append(int(piece))
            else:
                raise ConfigError(f"seed={value}: {piece!r} is not a seed; {form}")
    if not seeds:
        raise ConfigError(f"seed={value}: empty; {form}")
    if any(s < 0 or s >= 2**32 for s in seeds):
        raise ConfigError(f"seed={value}: seeds must be between 0 and 2**32 - 1; {form}")
    twice = sorted({s for s in seeds if seeds.count(s) > 1})
    if twice:
        raise ConfigError(f"seed={value}: {twice[0]} occurs twice; give each seed once")
    return seeds


def suggest(word: str, choices: list[str]) -> str:
    """' did you mean x?' with the nearest choice, and all choices."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"choices: {', '.join(choices)}"


def schema_fields(schema: type) -> list[str]:
    return [f.name for f in dataclasses.fields(schema)]


def method_schema(name: Any) -> type:
    if name not in METHODS:
        raise ConfigError(f"method.name={name!r}: {suggest(str(name), list(METHODS))}")
    return METHODS[name][0]


def check_keys(config: dict[str, Any]) -> None:
    """Refuse keys no schema knows (Hydra lets `+method.alhpa=2` through). Raises ConfigError with the nearest choice."""
    _only("", config, schema_fields(Config))
    schemas: dict[str, type] = {
        "model": ModelConfig,
        "task": TaskConfig,
        "engine": EngineConfig,
        "tracking": TrackingConfig,
        "sandbox": SandboxSettings,
        "train": TrainConfig,
        "debug": DebugConfig,
        "method": method_schema(config["method"].get("name")),
    }
    for group, schema in schemas.items():
        _only(f"{group}.", config[group], schema_fields(schema))


def _only(prefix: str, section: dict[str, Any], known: list[str]) -> None:
    for key in section:
        if key not in known:
            raise ConfigError(f"{prefix}{key}: unknown key; {suggest(str(key), known)}")


def resolve(cfg: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """Plain, checked, fully resolved config: interpolations resolved, method defaults filled in.

    The result is what a record stores and what hashes are taken over. Raises ConfigError.
    """
    try:
        raw = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True) if OmegaConf.is_config(cfg) else cfg
    except Exception as error:
        raise ConfigError(f"config: {str(error).splitlines()[0]}; give the missing or wrong value") from error
    assert isinstance(raw, dict)
    config: dict[str, Any] = {str(k): v for k, v in raw.items()}
    check_keys(config)
    config["seed"] = parse_seeds(config["seed"])
    config["model"] = own_model(config["model"])
    config["method"] = resolve_method(config["method"], config["model"].get("hyperparameters") or {})
    from s0.config.values import check_values

    check_values(config)
    return config


def own_model(model: dict[str, Any]) -> dict[str, Any]:
    """The model group, without an embedded preset's name and hyper-parameters where `path` is another checkpoint.

    The default model is an embedded one: `model.path=DIR` alone would put its name into records and tables and train the
    checkpoint with what was found for a model of under a million parameters. A published preset keeps both, since its path
    is replaced to read the same checkpoint from a folder; so does whatever is given a name of its own (`model.name=`).
    """
    if model.get("name") not in EMBEDDED or str(model.get("path")).startswith("embedded:"):
        return model
    return {**model, "name": "", "hyperparameters": {}}


def resolve_method(method: dict[str, Any], model_defaults: dict[str, Any]) -> dict[str, Any]:
    """Fill null fields from the model's documented values, then the published ones."""
    name = method["name"]
    schema = method_schema(name)
    known = schema_fields(schema)
    for m, values in model_defaults.items():
        fields = schema_fields(method_schema(m))
        for key in values or {}:
            if key not in fields:
                raise ConfigError(f"model.hyperparameters.{m}.{key}: unknown key; {suggest(str(key), fields)}")
    merged = {**METHODS[name][1], **(model_defaults.get(name) or {})}
    return {k: (method.get(k) if method.get(k) is not None else merged.get(k)) for k in known} | {"name": name}


#: where files go, how a run is tracked, planned, named and fitted into the machine: none of it changes a result
NOT_HASHED = frozenset(
    [
        "seed",
        "store",
        "records",
        "out",
        "tracking",
        "dry_run",
        "workers",
        "debug",
        "cells",
        "tiny_cells",
        "analysis",
        "scale",
        "experiment",
        "train",
    ]
)


def config_hash(config: dict[str, Any]) -> str:
    """Hash of what determines a cell's result: everything but where files go, how it is tracked and which seeds run."""
    kept = {k: v for k, v in config.items() if k not in NOT_HASHED}
    kept["engine"] = {"name": config["engine"]["name"]}
    kept["sandbox"] = {k: v for k, v in config["sandbox"].items() if k != "workers"}
    return digest(kept)
