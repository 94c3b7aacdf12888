"""Keys: every setting, prompt, stop string, version and source, one at a time, and which keys a change of it changes."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s0.config import registry, schema
from s0.config.schema import Config
from s0.data import Example, Problem, digest
from s0.methods import make_method
from s0.settings import types_of
from s0.storage import keys
from s0.tasks import task_of

PROBLEM = Problem("P/0", "def f():\n", "check", {"entry_point": "f"})
EXAMPLES = [Example("P/0", [1, 2], [3])]


def all_keys(config: Config) -> dict[str, str]:
    """Every key of one cell's work, made from its parts as a cell makes them."""
    task, method = task_of(config.task), make_method(config.method)
    engine = registry.make("engine", config.engine)
    loading = {
        k: getattr(config.model, k) for k in ("attn_implementation", "device_map", "tp_plan", "trust_remote_code")
    }
    model = keys.model("w", "t", config.model.dtype, config.model.device, loading, {"torch": "2"})
    t = config.task
    decoding = keys.decoding(engine, config.engine, task.stop, t.max_new_tokens)
    judging = keys.judging(task, t, config.sandbox)
    hashed = keys.config(config)
    prompts = keys.messages([task.messages(PROBLEM)]) if hasattr(task, "instruction") else ""
    return {
        "completion": keys.samples(model, decoding, t.temperature, t.top_p, 0),
        "evaluation": keys.evaluation(model, decoding, "", None, [0, t.eval_temperature, t.eval_top_p], None),
        "verdict": keys.verdicts(judging),
        "adapter": keys.adapter(model, method, 0, EXAMPLES),
        "record": keys.record(hashed, model, "d", prompts, decoding, judging, method, 0),
        "config": hashed,
    }


def other(value: Any, hint: Any, choices: Any) -> Any:
    """Another value of the same field."""
    if choices:
        return next((c for c in choices if c != value), "another")
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, *(value[-1:] or ["x"])]
    if isinstance(value, dict):
        return {**value, "s0": {"lr": 1.0}}
    plain = [a for a in (typing.get_args(hint) or (hint,)) if a in (int, float, str, bool)]
    return {int: 7, float: 7.0, str: "x", bool: True}[plain[0]] if plain else ["x"]


def configs() -> Iterator[tuple[str, Config]]:
    base = Config(
        model=schema.ModelConfig(path="embedded:tiny_gdn"),
        task=schema.HumanEvalTask(name="minieval"),
        method=schema.S0Method(),
        engine=schema.HFEngineConfig(),
    )
    yield "base", base
    for name, entry in registry.METHODS.items():
        yield f"method={name}", dataclasses.replace(base, method=entry.config(name=name))  # type: ignore[misc]
    for name, entry in registry.TASKS.items():
        yield f"task={name}", dataclasses.replace(base, task=entry.config(name=name))  # type: ignore[misc]
    yield "engine=naive", dataclasses.replace(base, engine=schema.NaiveEngineConfig())


#: what a change of a setting changes, beyond config and record; a setting that is not here must change both of these at least
UNCHANGED = {
    "store", "records", "out", "seed", "experiment", "cells", "tiny_cells", "analysis", "scale", "dry_run", "workers",
    "tracking.*", "train.*", "debug.*", "engine.threads", "engine.max_slots", "engine.memory_gb", "engine.prefill_tokens",
    "engine.cuda_graphs", "sandbox.workers",
}  # fmt: skip
COMPLETION = {"completion", "evaluation"}
MODEL = {*COMPLETION, "adapter"}
CHANGES = {
    **dict.fromkeys(("model.dtype", "model.device", "model.attn_implementation"), MODEL),
    **dict.fromkeys(("model.device_map", "model.tp_plan", "model.trust_remote_code"), MODEL),
    "task.temperature": {"completion"},
    "task.top_p": {"completion"},
    "task.eval_temperature": {"evaluation"},
    "task.eval_top_p": {"evaluation"},
    "task.max_new_tokens": COMPLETION,
}
#: how what was learned is used: the same training serves
USED_ONLY = {"alpha", "alpha_grid", "control", "normalize", "merge", "n_solutions"}


#: fields of narrower forms than their types
SPECIAL = {"extract": "boxed", "columns": {"prompt": "question"}}


def expected(group: str, name: str) -> set[str] | None:
    """Keys that a setting changes besides config and record; None: it changes nothing at all."""
    full = f"{group}.{name}" if group else name
    if full in UNCHANGED or f"{group}.*" in UNCHANGED:
        return None
    if full in CHANGES:
        return CHANGES[full]
    if group == "method":
        return set() if name in USED_ONLY else {"adapter"}
    if group == "engine":
        return COMPLETION
    if group == "sandbox" or (group == "task" and name not in keys.NOT_JUDGING):
        return {"verdict"}
    return set()


def flips() -> Iterator[Any]:
    seen = set()
    for label, config in configs():
        for f in dataclasses.fields(config):
            section = getattr(config, f.name)
            inner = dataclasses.fields(section) if dataclasses.is_dataclass(section) else [None]
            for g in inner:
                # names choose classes: another one is another config of this list
                if g is not None and g.name == "name" and f.name != "model":
                    continue
                where = (type(section), g.name) if g is not None else (Config, f.name)
                if where not in seen:
                    seen.add(where)
                    yield pytest.param(config, f.name, g and g.name, id=f"{label}:{f.name}{f'.{g.name}' if g else ''}")


@pytest.mark.parametrize(("config", "section", "name"), list(flips()))
def test_every_setting_changes_exactly_the_keys_of_what_depends_on_it(
    config: Config, section: str, name: str | None
) -> None:
    if name is None:
        value = getattr(config, section)
        (field,) = [f for f in dataclasses.fields(Config) if f.name == section]
        changed = dataclasses.replace(
            config, **{section: other(value, types_of(Config)[section], field.metadata.get("choices"))}
        )
        want = expected("", section)
    else:
        inner = getattr(config, section)
        (field,) = [f for f in dataclasses.fields(inner) if f.name == name]
        value = SPECIAL.get(name) or other(
            getattr(inner, name), types_of(type(inner))[name], field.metadata.get("choices")
        )
        if value == "another":
            pytest.skip("its only choice")
        changed = dataclasses.replace(config, **{section: dataclasses.replace(inner, **{name: value})})
        want = expected(section, name)
        if (section, name) == ("method", "alpha_placement"):
            want = {"adapter"}
    before, after = all_keys(config), all_keys(changed)
    different = {k for k in before if before[k] != after[k]}
    assert different == (set() if want is None else {"config", "record", *want})


def test_what_a_task_asks_and_where_answers_end_and_its_version_are_in_the_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, config = next(configs())
    cls = type(task_of(config.task))
    before = all_keys(config)
    for attribute, value, want in (
        ("instruction", "Now: ", {"record"}),
        ("stop", ("\n\n",), {"completion", "evaluation", "record"}),
        ("version", 99, {"verdict", "record"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(cls, attribute, value)
            after = all_keys(config)
        assert {k for k in before if before[k] != after[k]} == want, attribute
    assert keys.unit([1, 2], 0, 5) != keys.unit([1, 3], 0, 5), "the prompt as it was rendered"
    assert keys.unit([1, 2], 0, 5) != keys.unit([1, 2], 0, 6), "two problems with one prompt"


@pytest.mark.parametrize("field", ["id", "prompt", "reference", "meta"])
def test_every_part_of_a_problem_is_in_its_verdicts_key(field: str) -> None:
    changed = dataclasses.replace(PROBLEM, **{field: {"x": 1} if field == "meta" else "other"})
    assert keys.problem(changed) != keys.problem(PROBLEM)


def sources(config: Config) -> dict[str, set[str]]:
    task, method, engine = task_of(config.task), make_method(config.method), registry.make("engine", config.engine)
    parts = {"verdict": task, "adapter": method, "completion": engine}
    return {k: {str(Path(f).relative_to(keys.PACKAGE)) for f in keys.sources_files(type(v))} for k, v in parts.items()}


def test_the_code_that_makes_and_judges_is_in_the_keys() -> None:
    _, config = next(configs())
    found = sources(config)
    assert {
        "tasks/minieval.py",
        "tasks/humaneval.py",
        "tasks/text.py",
        "tasks/layout.py",
        "tasks/limited_worker.py",
    } <= found["verdict"]
    assert {"sandbox/judge.py", "sandbox/candidate.py", "sandbox/trial.py", "sandbox/pool.py"} <= found["verdict"]
    assert {"engines/hf.py", "engines/base.py", "engines/slots.py", "state/cache.py"} <= found["completion"]
    assert {"methods/s0.py", "methods/base.py", "training/fit.py", "training/passes.py"} <= found["adapter"]
    every = set().union(*found.values())
    assert not {f for f in every if f.startswith(("config/", "report/", "cli/", "tracking/", "sweep/", "storage/"))}


def test_code_counts_and_its_comments_do_not(tmp_path: Path) -> None:
    def hashed(text: str) -> str:
        path = tmp_path / digest(text) / "m.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return keys.code_hash([path])

    code = 'def f(x):\n    """Doc."""\n    return x + 1\n'
    assert hashed(code) == hashed('def f(x):\n    """Other."""\n    # why\n    return (x + 1)\n')
    assert hashed(code) != hashed(code.replace("1", "2"))
    assert hashed(code) != hashed(code.replace("x + 1", "x - 1"))


def test_a_store_of_another_layout_shares_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    _, config = next(configs())
    before = all_keys(config)
    monkeypatch.setattr(keys, "LAYOUT", keys.LAYOUT - 1)
    assert not {k for k, v in all_keys(config).items() if v == before[k]}


def test_each_source_is_in_the_keys_of_what_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file named above, one at a time: a change of its code changes the hash of all that depend on it."""
    _, config = next(configs())
    task, method, engine = task_of(config.task), make_method(config.method), registry.make("engine", config.engine)
    for what in (type(task), type(method), type(engine)):
        made = {keys.sources_of(what)}
        for path in keys.sources_files(what):
            with monkeypatch.context() as patch:
                patch.setattr(keys, "_code", lambda p, path=path: f"{p}{p == path}")
                made.add(keys.sources_of(what))
        assert len(made) == 1 + len(keys.sources_files(what))
