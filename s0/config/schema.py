"""The schema of every config group, and everything that can be checked before anything is loaded.

YAML files in `configs/` start from these dataclasses (`base_*` first in their defaults), so a typo or a wrong type is an
error that names the key and the choices. `null` in a method means: the model's documented value (`model.hyperparameters`), else
the published one (paper, Table 4).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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


# -- checks that need no model ---------------------------------------------------------------------------------------
