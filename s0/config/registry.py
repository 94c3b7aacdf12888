"""What a config can name: methods, tasks, engines, trackers, analyses and studies.

One line per name: the class or function ("module:Class", imported on first use) and the settings it takes. Names that are
not here may be entry points of installed packages (groups `s0.methods`, `s0.tasks`, `s0.engines`, `s0.trackers`,
`s0.analyses`, `s0.studies`) or `module:Class` itself; such a class brings its settings as the attribute `config_class`
(a dataclass derived from the group's base).
"""

from __future__ import annotations

import functools
import importlib.metadata
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from s0.config import schema
from s0.errors import ConfigError, suggest
from s0.paths import CONFIGS
from s0.settings import hydra_schema, names


@dataclass(frozen=True)
class Entry:
    """target: "module:Class"; config: its settings (None: it has none)."""

    target: str
    config: type | None = None


METHODS = {
    "none": Entry("s0.methods.none:NoMethod", schema.NoneMethod),
    "s0": Entry("s0.methods.s0:S0", schema.S0Method),
    "state_offset": Entry("s0.methods.state_offset:StateOffset", schema.StateOffsetMethod),
    "lora": Entry("s0.methods.lora:Lora", schema.LoraMethod),
    "prefix": Entry("s0.methods.prefix:Prefix", schema.PrefixMethod),
}
TASKS = {
    "minieval": Entry("s0.tasks.minieval:MiniEval", schema.HumanEvalTask),
    "humaneval": Entry("s0.tasks.humaneval:HumanEval", schema.HumanEvalTask),
    "math500": Entry("s0.tasks.math500:Math500", schema.Math500Task),
    "gsm8k": Entry("s0.tasks.gsm8k:GSM8K", schema.GSM8KTask),
    "spider": Entry("s0.tasks.spider:Spider", schema.SpiderTask),
    "humaneval_plus": Entry("s0.tasks.humaneval:HumanEvalPlus", schema.HumanEvalTask),
    "mbpp": Entry("s0.tasks.mbpp:MBPP", schema.MBPPTask),
    "mbpp_plus": Entry("s0.tasks.mbpp:MBPPPlus", schema.MBPPTask),
    "custom": Entry("s0.tasks.custom:Custom", schema.CustomTask),
}
ENGINES = {
    "hf": Entry("s0.engines.hf:HFEngine", schema.HFEngineConfig),
    "naive": Entry("s0.engines.naive:NaiveEngine", schema.NaiveEngineConfig),
}
TRACKERS = {
    "none": Entry("", schema.TrackingConfig),
    "wandb": Entry("s0.tracking.wandb:write_run", schema.WandbTracking),
}
ANALYSES = {
    "persistence": Entry("s0.analysis.run:persistence_of"),
    "alpha_prediction": Entry("s0.analysis.run:alpha_prediction_of"),
    "probe": Entry("s0.analysis.run:probe_of"),
}
#: what `study=NAME` hands the words of a command line to: (words, program) -> exit code; without one, cells of S0 are run
STUDIES = {
    "writesae": Entry("s0.cli.commands.writesae:main"),
}
#: what a key of the config names -> (its registry, the base of its settings)
KINDS: dict[str, tuple[dict[str, Entry], type | None]] = {
    "method": (METHODS, schema.MethodConfig),
    "task": (TASKS, schema.TaskConfig),
    "engine": (ENGINES, schema.EngineConfig),
    "tracking": (TRACKERS, schema.TrackingConfig),
    "analysis": (ANALYSES, None),
    "study": (STUDIES, None),
}
_ENTRY_POINTS = {
    "method": "s0.methods",
    "task": "s0.tasks",
    "engine": "s0.engines",
    "tracking": "s0.trackers",
    "analysis": "s0.analyses",
    "study": "s0.studies",
}
#: groups whose options all have the same settings
PLAIN_GROUPS: dict[str, type] = {"model": schema.ModelConfig}
#: parts of the config that are no groups
SECTIONS: dict[str, type] = {
    "sandbox": schema.SandboxSettings,
    "train": schema.TrainConfig,
    "debug": schema.DebugConfig,
}


def find(kind: str, name: Any) -> Entry:
    """The entry called `name`. Raises ConfigError with the nearest choice, or why a class of one's own cannot be used."""
    registry, base = KINDS[kind]
    key = kind if base is None else f"{kind}.name"
    if name in registry:
        return registry[name]
    point = next(iter(_entry_points(kind).select(name=str(name))), None)
    target = point.value if point else str(name)
    if ":" not in target:
        raise ConfigError(f"{key}={name!r}: {suggest(str(name), [*registry, *sorted(_entry_points(kind).names)])}")
    found = load(target, f"{key}={name!r}")
    config = getattr(found, "config_class", base)
    if base is not None and not (isinstance(config, type) and issubclass(config, base)):
        raise ConfigError(
            f"{key}={name!r}: {target}.config_class must be a dataclass derived from {base.__module__}.{base.__name__}"
        )
    return Entry(target, config)


@functools.cache
def _entry_points(kind: str) -> Any:
    return importlib.metadata.entry_points(group=_ENTRY_POINTS[kind])


def load(target: str, what: str = "") -> Any:
    """What "module:Class" names. Raises ConfigError when it cannot be imported."""
    module, _, name = target.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        if not what:
            raise
        raise ConfigError(f"{what}: {target} cannot be imported ({error}); give an importable module:Class") from error


def make(kind: str, config: Any) -> Any:
    """The object a group of the config names, from its settings."""
    entry = find(kind, config.name)
    return load(entry.target, f"{kind}.name={config.name!r}")(config)


def fields_of(group: str, name: Any = None) -> list[str]:
    """Keys that may stand in a group (for its option `name`, or for any)."""
    if group in PLAIN_GROUPS or group in SECTIONS:
        return names({**PLAIN_GROUPS, **SECTIONS}[group])
    registry = KINDS[group][0]
    entries = [find(group, name)] if name is not None else list(registry.values())
    return list(dict.fromkeys(f for e in entries if e.config for f in names(e.config)))


def register() -> None:
    """Register the settings with Hydra's ConfigStore (idempotent): `base_config`, and `base_NAME` in every group."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="base_config", node=_top())
    for group, cls in PLAIN_GROUPS.items():
        store.store(group=group, name=f"base_{group}", node=hydra_schema(cls))
    for group, (registry, base) in KINDS.items():
        if base is None:
            continue
        store.store(group=group, name=f"base_{group}", node=hydra_schema(base, open=group == "method"))
        for name, entry in registry.items():
            assert entry.config is not None
            node = hydra_schema(entry.config, open=group == "method")
            store.store(group=group, name=f"base_{name}", node=node)
            if not (CONFIGS / group / f"{name}.yaml").exists():  # an option even without a file of its own
                store.store(group=group, name=name, node=node(name=name))


def _top() -> type:
    """The whole config as Hydra composes it. Open are seeds, written in several forms, and groups whose options have settings
    of their own: a structured default could not be replaced by another."""
    groups = tuple((group, Any, "???") for group, (_, base) in KINDS.items() if base is not None)
    return hydra_schema(schema.Config, changed=(("seed", Any, "0..2"), *groups))
