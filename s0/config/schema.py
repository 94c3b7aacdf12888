"""The settings of every config group. Each is stated once, here: default, range or choices, unit, one line of help.

YAML files in `configs/` start from these classes (`base_*` first in their defaults), so a typo or a wrong type is an error
that names the key and the choices. In a method `null` means: the model's documented value (`model.hyperparameters`), else
the default here, which is the published one (paper, Table 4).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from s0.settings import setting, shared
from s0.training.settings import StateTraining, StateUse, Training


class Frozen:
    """No field changes after construction (a frozen dataclass cannot inherit fields from one that is not)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_complete", True)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_complete" in self.__dict__:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class ModelConfig:
    name: str = setting("", "name in records and tables; empty: the last part of path")
    path: str = setting("???", "embedded:NAME (shipped with the package), a local checkpoint folder, or a hub id")
    revision: str | None = setting(None, "revision of a hub checkpoint")
    dtype: str = setting(
        "auto",
        "auto: the checkpoint's dtype on GPU, float32 on CPU",
        choices=["auto", "float32", "bfloat16", "float16"],
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
    device_map: str | None = setting(None, "for from_pretrained: auto, balanced, ... spreads layers over devices")
    tp_plan: str | None = setting(None, "for from_pretrained: auto shards matrices over torchrun ranks")
    attn_implementation: str | None = setting(None, "for from_pretrained: eager, sdpa, flash_attention_2, ...")
    trust_remote_code: bool = setting(False, "run code that comes with the checkpoint")
    #: not called defaults: Hydra reads that key of a group file as its defaults list
    hyperparameters: dict[str, Any] = setting(
        help="documented values of this model, method name -> field -> value, where the method says null", factory=dict
    )

    @property
    def label(self) -> str:
        """Name in records and tables."""
        return self.name or self.path.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class TaskConfig:
    name: str = setting("???", "a task of the registry, or module:Class")
    path: str | None = setting(None, "file or folder to read instead of the shipped or hub data")
    hub_id: str | None = setting(None, "data set on the hub")
    hub_revision: str | None = setting(None, "its revision")
    match: str = setting("official", "how answers are compared", choices=["official"])
    gold: str = setting(
        "warn",
        "problems whose own reference solution fails: warn leaves them out, refuse ends the run, skip does not look",
        choices=["warn", "refuse", "skip"],
    )
    n_train: int | None = setting(None, "first n training problems (null: all)", low=1)
    n_eval: int | None = setting(None, "first n held-out problems (null: all)", low=1)
    samples_per_problem: int = setting(16, "completions sampled per training problem", low=1, high=4096)
    temperature: float = setting(0.7, "of sampling the training completions", low=0, high=10)
    top_p: float = setting(0.95, "of sampling the training completions", above=0, high=1)
    max_new_tokens: int = setting(512, "longest completion", low=1, high=1_000_000, unit="tokens")
    grading_timeout_s: float = setting(3.0, "limit for judging one completion", low=0.01, high=3600, unit="s")
    eval_samples: int = setting(1, "completions per held-out problem (1: greedy)", low=1, high=4096)
    eval_temperature: float = setting(0.7, "of sampled evaluation", low=0, high=10)
    eval_top_p: float = setting(0.95, "of sampled evaluation", above=0, high=1)
    ks: list[int] = setting(help="the k of pass@k, each at most eval_samples", factory=lambda: [1], low=1)
    legacy_padding: bool = setting(False, "left pads that fade the state, as in the published batched runs")
    legacy_batch: int = setting(8, "rows of such a batch", low=1, high=4096)


@dataclass(frozen=True)
class HumanEvalTask(TaskConfig):
    match: str = setting("official", "how answers are cleaned and compared", choices=["official", "published"])


@dataclass(frozen=True)
class GSM8KTask(TaskConfig):
    samples_per_problem: int = shared(TaskConfig, "samples_per_problem", default=4)


@dataclass(frozen=True)
class Math500Task(TaskConfig):
    samples_per_problem: int = shared(TaskConfig, "samples_per_problem", default=4)
    max_new_tokens: int = shared(TaskConfig, "max_new_tokens", default=1024)
    grading_timeout_s: float = shared(TaskConfig, "grading_timeout_s", default=5.0)


@dataclass(frozen=True)
class SpiderTask(TaskConfig):
    samples_per_problem: int = shared(TaskConfig, "samples_per_problem", default=4)
    grading_timeout_s: float = shared(TaskConfig, "grading_timeout_s", default=10.0)
    match: str = setting("official", "how rows are compared", choices=["official", "set"])
    database_dir: str | None = setting(None, "folder of the SQLite databases (null: database/ beside the data)")
    keep_distinct: bool = setting(False, "keep DISTINCT in both queries when comparing")


@dataclass(frozen=True)
class MBPPTask(TaskConfig):
    grading_timeout_s: float = shared(TaskConfig, "grading_timeout_s", default=10.0)


@dataclass(frozen=True)
class CustomTask(TaskConfig):
    grader: str = setting(
        "exact",
        "when an answer is right",
        choices=["exact", "numeric", "math", "regex", "contains", "json", "python", "sql", "none"],
    )
    columns: dict[str, str] | None = setting(
        None, "what for -> column: prompt, answer, test, id, entry_point, solution, setup, split, database"
    )
    extract: str | None = setting(
        None, "where the answer stands: all, last_line, boxed, fence or regex:PATTERN (null: what suits the grader)"
    )
    tolerance: float = setting(0.0, "relative difference at which numbers are equal (grader numeric)", low=0, high=1)
    instruction: str = setting("", "text before every prompt that is no chat")
    system: str | None = setting(None, "system message before every prompt")
    train_fraction: float = setting(0.5, "training part of a file that is not split already", above=0, high=0.99)
    split_seed: int = setting(0, "chooses the rows of that part", low=0)
    database_dir: str | None = setting(
        None, "folder of the SQLite databases (grader sql; null: database/ beside the data)"
    )


@dataclass(frozen=True)
class EngineConfig:
    name: str = setting("hf", "an engine of the registry, or module:Class")
    threads: int | None = setting(None, "CPU threads of torch (null: all cores)", low=1, high=4096, result=False)


@dataclass(frozen=True)
class HFEngineConfig(EngineConfig):
    max_slots: int = setting(256, "rows decoded at once", low=1, high=65536, result=False)
    memory_gb: float | None = setting(
        None,
        "for states, keys and values of all slots (null: 60 % of free device memory, 4 on CPU)",
        above=0,
        unit="GB",
        result=False,
    )
    prefill_tokens: int = setting(8192, "tokens of one prefill batch", low=1, result=False)
    cuda_graphs: bool = setting(True, "capture the decode step on CUDA", result=False)


@dataclass(frozen=True)
class NaiveEngineConfig(EngineConfig):
    name: str = shared(EngineConfig, "name", default="naive")


@dataclass(frozen=True)
class TrackingConfig:
    name: str = setting("none", "a tracker of the registry, or module:Class")
    dir: str = setting("outputs/tracking", "folder for the tracker's files")


@dataclass(frozen=True)
class WandbTracking(TrackingConfig):
    name: str = shared(TrackingConfig, "name", default="wandb")
    project: str = setting("s0", "project the runs belong to")
    entity: str | None = setting(None, "team or user")
    mode: str | None = setting(None, "null: online with a key, offline without one", choices=["online", "offline"])
    group: str | None = setting(None, "group of the runs (null: the preset, else model/task/method)")
    tags: list[str] = setting(help="further tags", factory=list)


@dataclass(frozen=True)
class SandboxSettings:
    workers: int | None = setting(None, "judging processes (null: one per core)", low=1, high=1024, result=False)
    memory_mb: int = setting(1024, "limit of a candidate's memory", low=128, unit="MB")
    allow_unisolated: bool = setting(False, "judge without isolation where none works; named in every record")
    judge: str = setting(
        "separate",
        "separate: tests in a process of their own; inside: in the candidate's, forgeable, named in every record",
        choices=["separate", "inside"],
    )
    packages: list[str] = setting(help="installed packages that tests may import, such as numpy", factory=list)
    answer_packages: bool = setting(False, "answers may import them, too")


@dataclass(frozen=True)
class TrainConfig:
    token_budget: int | None = setting(
        None, "padded tokens per forward pass of training (null: 2048 on CPU, 16384 on CUDA)", low=1
    )
    checkpointing: bool = setting(False, "recompute activations in the backward pass")
    snapshot_s: float = setting(30.0, "between snapshots of a training in progress", low=0, unit="s")


@dataclass(frozen=True)
class DebugConfig:
    profile: bool = setting(False, "write a profile of the run")
    overfit: bool = setting(False, "fail unless training fits its examples")


@dataclass
class MethodConfig(Frozen):
    name: str = setting("???", "a method of the registry, or module:Class")

    @property
    def solutions(self) -> int | None:
        """How many verified solutions it learns from (None: all)."""
        return getattr(self, "n_solutions", None)


@dataclass
class NoneMethod(MethodConfig):
    name: str = shared(MethodConfig, "name", default="none")


@dataclass
class TrainedMethod(Training, MethodConfig):
    """A method that learns from verified solutions."""

    n_solutions: int | None = setting(
        None, "use only the first n verified solutions, in an order shuffled by the seed (null: all)", low=1
    )


@dataclass
class S0Method(StateUse, StateTraining, TrainedMethod):
    name: str = shared(MethodConfig, "name", default="s0")
    alpha: float | str | None = setting(  # type: ignore[assignment]
        None, "factor on the learned state; auto: chosen on training problems; null: the architecture's"
    )
    alpha_placement: str = setting("after", "scale after training, or train through alpha", choices=["after", "inside"])
    alpha_grid: list[float] = setting(
        help="what alpha=auto chooses from", factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5], above=0
    )
    layers: str | list[int] = setting("all", "all, early, middle, late, or layer indices of the model")
    rank: int = setting(0, "more than 0: a sum of so many outer products per head", low=0, high=4096)
    init_prompt: str | None = setting(None, "start from the state after reading this text")
    control: bool = setting(True, "also evaluate a random state of the same norm per layer")


@dataclass
class StateOffsetMethod(StateTraining, TrainedMethod):
    name: str = shared(MethodConfig, "name", default="state_offset")
    alpha: float | str = setting(1.0, "factor on the learned offset; auto: chosen on training problems")
    alpha_grid: list[float] = setting(
        help="what alpha=auto chooses from", factory=lambda: [0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5, 2.0], above=0
    )
    layers: str | list[int] = setting("all", "all, early, middle, late, or layer indices of the model")
    mode: str = setting(
        "accumulate",
        "accumulate: S <- f(S + O) at every step; readout: O is added only where the state is read",
        choices=["accumulate", "readout"],
    )


@dataclass
class LoraMethod(TrainedMethod):
    name: str = shared(MethodConfig, "name", default="lora")
    n_steps: int = shared(Training, "n_steps", default=50)
    lr: float = shared(Training, "lr", default=5e-4)
    rank: int | str = setting(24, "an integer, or match: parameters as near to S0's as possible", low=1)
    lora_alpha: float | None = setting(None, "scale times rank (null: twice the rank)")
    targets: list[str] | None = setting(None, "linear layers to adapt (null: the family's published ones)")
    merge: bool = setting(True, "merge into the weights for use: no cost per token")


@dataclass
class PrefixMethod(TrainedMethod):
    name: str = shared(MethodConfig, "name", default="prefix")
    n_steps: int = shared(Training, "n_steps", default=50)
    n_virtual_tokens: int = setting(30, "virtual tokens before every prompt", low=1)
    projection: bool = setting(True, "learn the tokens through a small network")


@dataclass(frozen=True)
class Config:
    """One cell, or what the cells of a preset share."""

    model: ModelConfig = field(default_factory=ModelConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    tracking: TrackingConfig = setting(factory=TrackingConfig, result=False)
    sandbox: SandboxSettings = field(default_factory=SandboxSettings)
    train: TrainConfig = setting(factory=TrainConfig, result=False)
    debug: DebugConfig = setting(factory=DebugConfig, result=False)
    seed: list[int] = setting(
        help="3 | 0..9 (both ends included) | '0..2,7' | [0,7]", factory=lambda: [0, 1, 2], result=False
    )
    experiment: str = setting("", "name of the preset, written into records", result=False)
    cells: list[str] = setting(help="override strings, one per cell of a preset", factory=list, result=False)
    tiny_cells: list[str] = setting(
        help="cells of scale=tiny where they are not simply stand-ins", factory=list, result=False
    )
    analysis: str = setting("", "analysis of the learned states after the cells", result=False)
    scale: str = setting(
        "paper",
        "paper: as published; tiny: the embedded models and benchmark stand in",
        choices=["paper", "tiny"],
        result=False,
    )
    store: str = setting("outputs/store", "folder of samples, verdicts and adapters, shared by all runs", result=False)
    records: str = setting("outputs/records", "folder of records, one per seed", result=False)
    out: str = setting("outputs/summary", "folder of the summary", result=False)
    dry_run: bool = setting(False, "say what would run and what is stored, and stop", result=False)
    workers: int = setting(0, "processes on this machine (0: this one)", low=0, high=1024, result=False)

    @property
    def label(self) -> str:
        """model / task / method."""
        return f"{self.model.label} / {self.task.name} / {self.method.name}"
