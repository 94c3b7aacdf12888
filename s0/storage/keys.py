"""Every key under which work is stored, made here and nowhere else.

A key holds everything that determines what it names. Settings are hashed whole except for those whose field says it changes
no result (`setting(..., result=False)`), so a setting added later is in the keys unless somebody says otherwise. Prompts are
in them as rendered token ids, stop strings as they are, and what cleans, grades and judges as the code itself
(`sources_of`), so that none of these can change under a stored result.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import shutil
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s0.data import Example, Problem, digest
from s0.paths import PACKAGE
from s0.settings import determining

#: raised when keys or stored forms change; work stored under another number is left alone
LAYOUT = 4
#: change when decoding or training could give other results for the same inputs: stored work is then redone
CODE_VERSION = 3
#: versions of these decide what decoding and training compute
NUMERICAL = ("torch", "transformers", "flash-linear-attention", "causal-conv1d", "mamba-ssm", "triton")
#: task settings no verdict depends on: where problems come from (their text is in the verdict's key), how many, and how
#: answers are made
NOT_JUDGING = (
    "path",
    "hub_id",
    "hub_revision",
    "gold",
    "n_train",
    "n_eval",
    "samples_per_problem",
    "temperature",
    "top_p",
    "max_new_tokens",
    "eval_samples",
    "eval_temperature",
    "eval_top_p",
    "ks",
    "legacy_padding",
    "legacy_batch",
    # of custom tasks: what is read, asked and held out
    "columns",
    "instruction",
    "system",
    "train_fraction",
    "split_seed",
)
#: modules of this project whose code is in no key: settings are in as values, stored forms as LAYOUT, data as its text, and
#: the others only show, find or move things
NOT_CODE = (
    *("s0.config", "s0.settings", "s0.errors", "s0.paths", "s0.data", "s0.storage", "s0.stats", "s0.tiny"),
    *("s0.runtime.progress", "s0.runtime.environment", "s0.runtime.process", "s0.runtime.profiling"),
)
#: where a cell decides what is sampled, learned from, chosen and evaluated
PROCEDURE = ("alpha.py", "cell.py", "evaluations.py")


def _key(what: str, values: Mapping[str, Any], length: int = 16) -> str:
    return digest({"layout": LAYOUT, "what": what, **values}, length)


# -- models ---------------------------------------------------------------------------------------------------------


def model(
    weights: str, tokenizer: str, dtype: str, device: str, loading: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """A loaded model as far as it determines tokens: file hashes, number format, device, how it is loaded and library
    versions."""
    numerical = {k: v for k, v in versions.items() if k in NUMERICAL}
    values = {"weights": weights, "tokenizer": tokenizer, "dtype": dtype, "device": device, "loading": loading}
    return _key("model", {**values, "versions": numerical, "code": CODE_VERSION})


# -- completions and evaluations --------------------------------------------------------------------------------------


def decoding(engine: Any, settings: Any, stop: Sequence[str], max_new_tokens: int) -> dict[str, Any]:
    """How tokens are made and where they end; part of every completion's key: the engine's settings and code."""
    values = {"engine": determining(settings), "sources": sources_of(type(engine))}
    return {**values, "stop": list(stop), "max_new": max_new_tokens}


def samples(model: str, decoding: Mapping[str, Any], temperature: float, top_p: float, seed: int) -> str:
    """Log of the completions sampled for training with one seed."""
    values = {"model": model, "decoding": decoding, "temperature": temperature, "top_p": top_p, "seed": seed}
    return _key("samples", values)


def evaluation(
    model: str,
    decoding: Mapping[str, Any],
    adapter: str,
    applied: Any,
    sampling: Sequence[Any] | None,
    padded: Sequence[Any] | None,
) -> str:
    """Log of one evaluation's completions. `adapter` "" is the base model; `applied` is how it is used (alpha, ...);
    `sampling` None is greedy (no seed: one evaluation serves all); `padded` names the batch of padded runs."""
    values = {"model": model, "decoding": decoding, "adapter": adapter, "applied": applied, "sampling": sampling}
    return _key("evaluation", {**values, "padded": padded})


def unit(prompt_ids: Sequence[int], sample: int, seed: int) -> str:
    """One completion inside a log: the prompt as it was rendered, which of its samples, and the seed it is drawn with."""
    return f"{digest([list(prompt_ids), seed], 24)}:{sample}"


# -- verdicts -------------------------------------------------------------------------------------------------------


def judging(task: Any, task_settings: Any, sandbox_settings: Any) -> dict[str, Any]:
    """What determines a verdict besides the problem and the answer: the grading settings, the code that cleans, grades and
    judges, the interpreter candidates run on, and how this machine can confine them."""
    return {
        "task": task.name,
        "version": task.version,
        "settings": settings_of(task_settings, NOT_JUDGING),
        "sandbox": determining(sandbox_settings),
        "sources": sources_of(type(task)),
        "python": platform.python_version(),
        "libraries": libraries(
            sources_files(type(task)),  # type: ignore[arg-type]
            getattr(sandbox_settings, "packages", None) or (),
        ),
        "confinement": confinement(bool(getattr(sandbox_settings, "allow_unisolated", False))),
    }


def confinement(unisolated_allowed: bool) -> list[Any]:
    """How this machine can confine candidates. Where isolation is demanded, all ways of it are one; where it is not, what the
    kernel offers decides whether there is any."""
    means = [shutil.which("bwrap") is not None, platform.release()] if unisolated_allowed else []
    return [platform.system(), platform.machine(), *means]


def verdicts(judging: Mapping[str, Any]) -> str:
    """Log of the verdicts of one way of judging."""
    return f"{judging['task'].replace(':', '.')}-{_key('verdicts', judging)}"


def problem(p: Problem) -> str:
    return digest(p.to_json())


def verdict(problem_key: str, text: str) -> str:
    """One verdict inside a log."""
    return digest([problem_key, text], 32)


# -- training -------------------------------------------------------------------------------------------------------


def adapter(model: str, method: Any, seed: int, examples: Sequence[Example]) -> str:
    """A trained adapter: model, the settings that decide what is learned, the code that learns it, the seed of
    initialisation, and the examples."""
    determinants = {"settings": method.determinants(), "sources": sources_of(type(method))}
    rows = [[e.problem_id, e.prompt_ids, e.completion_ids] for e in examples]
    return _key("adapter", {"model": model, "method": determinants, "seed": seed, "examples": rows}, 24)


def snapshot(adapters: Sequence[str]) -> str:
    """The file a training of these adapters in progress is kept in."""
    return _key("snapshot", {"adapters": sorted(adapters)})


# -- cells ----------------------------------------------------------------------------------------------------------


def config(values: Any) -> str:
    """Hash of a cell's config: where files go, how it is tracked and which seeds run is left out."""
    return digest({"layout": LAYOUT, "config": determining(values)})


def record(
    config: str, model: str, data: str, prompts: str, decoding: Mapping[str, Any], judging: Any, method: Any, seed: int
) -> str:
    """One record: the cell's config, the files of model and data, what is asked, how answers are made, end and are judged,
    and the code of the method and of the procedure around it."""
    code = [sources_of(type(method)), code_hash([PACKAGE / "experiment" / name for name in PROCEDURE])]
    values = {"config": config, "model": model, "data": data, "prompts": prompts, "decoding": decoding, "code": code}
    return _key("record", {**values, "judging": judging, "seed": seed})


def study(what: str, model: str, settings: Mapping[str, Any], seed: int, packages: Sequence[str]) -> str:
    """One result or trained part of another study: all its settings, and the code of the packages that make it."""
    files = [f for p in packages for f in sorted(PACKAGE.parent.joinpath(*p.split(".")).rglob("*.py"))]
    return _key(what, {"model": model, "settings": settings, "seed": seed, "sources": code_hash(files)}, 24)


def claim(config: str, seed: int) -> str:
    """Claim under which one seed of a cell is computed."""
    return f"cell-{config}-{seed}"


# -- code as part of a key ----------------------------------------------------------------------------------------------


def sources_of(what: Any) -> str:
    """Hash of the code a class or function depends on (see `sources_files`)."""
    return code_hash(sources_files(what))


@functools.cache
def sources_files(what: Any) -> list[Path]:
    """The modules of a class and its bases (or of a function), what they import from this project directly or not but
    `NOT_CODE`, files beside them that they name (worker scripts), and the whole sandbox where any of it is used."""
    files = {Path(f) for c in getattr(what, "__mro__", (what,)) if (f := _file(c)) is not None}
    todo = list(files)
    while todo:
        for found in _needed(todo.pop()):
            more = [found, *((PACKAGE / "sandbox").rglob("*.py") if found.parent.name == "sandbox" else ())]
            todo += [f for f in more if f not in files]
            files |= set(more)
    return sorted(files)


def libraries(files: Sequence[Path], named: Sequence[str] = ()) -> dict[str, str]:
    """Versions of the packages of others that these files import, and of those named; "" where one is not installed."""
    own = {"s0", "builtins", "__future__"}
    roots = set(named).union(*(_imported(f) for f in files)) - own - set(sys.stdlib_module_names)
    found = {}
    for name in sorted(roots):
        try:
            found[name] = importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            found[name] = ""
    return {**found, "sqlite": sqlite3.sqlite_version}


@functools.cache
def _imported(path: Path) -> frozenset[str]:
    """Top-level names of all imports of a file."""
    roots: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            roots |= {a.name.partition(".")[0] for a in node.names}
    return frozenset(roots)


def _file(what: Any) -> str | None:
    """File of a class or function that is neither built in nor of the standard library."""
    root = what.__module__.partition(".")[0]
    if root in sys.stdlib_module_names or root == "builtins":
        return None
    try:
        return inspect.getsourcefile(what)
    except (TypeError, OSError):
        return None


@functools.cache
def _needed(path: Path) -> frozenset[Path]:
    """Files of this project but `NOT_CODE` that a file imports, and scripts beside it that it names in a string."""
    found: set[Path] = set()
    for node in ast.walk(_tree(path)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            beside = path.with_name(Path(node.value).name)
            found |= {beside} if beside.is_file() else set()
        for name in names:
            if name.startswith("s0.") and not any(f"{name}.".startswith(f"{n}.") for n in NOT_CODE):
                module = PACKAGE.parent.joinpath(*name.split("."))
                found |= {f for f in (module.with_suffix(".py"), module / "__init__.py") if f.is_file()}
    return frozenset(found)


def code_hash(files: Sequence[Path]) -> str:
    """Hash of what the files do: comments, docstrings and layout do not count."""
    total = hashlib.sha256()
    for path in files:
        total.update(f"{path.name}\0{_code(path)}\0".encode())
    return total.hexdigest()[:16]


@functools.cache
def _code(path: Path) -> str:
    tree = _tree(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value = ast.Constant("")
    return ast.dump(tree)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def messages(rendered: Sequence[Sequence[Mapping[str, str]]]) -> str:
    """Hash of the conversations a task asks; with the tokenizer's files (in the model's key) they determine the prompts."""
    return digest([[dict(m) for m in one] for one in rendered])


def settings_of(values: Any, without: Sequence[str] = ()) -> dict[str, Any]:
    """All settings of a dataclass as plain values but those named."""
    return {k: v for k, v in dataclasses.asdict(values).items() if k not in without}
