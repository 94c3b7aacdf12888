"""Errors of Hydra and OmegaConf as one line that names the key, the value and the choices."""

from __future__ import annotations

import re
from pathlib import Path

from s0.config import schema
from s0.config.registry import KINDS, PLAIN_GROUPS, SECTIONS, fields_of
from s0.errors import suggest
from s0.settings import names


def groups(configs: Path) -> dict[str, list[str]]:
    """Config groups and their options, from the files: "model" -> [...], also "hydra/launcher"."""
    found: dict[str, list[str]] = {}
    for f in sorted(configs.rglob("*.yaml")):
        group = f.parent.relative_to(configs).as_posix()
        if group != ".":
            found.setdefault(group, []).append(f.stem)
    return found


def fields_at(path: str, object_type: str | None = None) -> list[str]:
    """Keys that may stand where `path` (a.b.c) points; `object_type` is the class of the settings there, if known."""
    group, *deeper = path.split(".")
    if object_type and (named := _classes().get(object_type)):
        return names(named)
    if len(deeper) != 1:
        return [] if deeper else names(schema.Config)
    known = {*PLAIN_GROUPS, *SECTIONS, *(k for k, (_, base) in KINDS.items() if base is not None)}
    return sorted(fields_of(group)) if group in known else []


def _classes() -> dict[str, type]:
    every = [*PLAIN_GROUPS.values(), *SECTIONS.values(), schema.Config]
    every += [e.config for registry, _ in KINDS.values() for e in registry.values() if e.config is not None]
    return {c.__name__: c for c in every}


def elsewhere(key: str) -> list[str]:
    """Full names of the settings called `key` in a group: "lr" -> ["method.lr"]."""
    return [f"{group}.{key}" for group, fields in _group_fields().items() if key in fields]


def _nested(key: str, there: list[str]) -> str:
    return f"{key}: not a key of the top level; write {' or '.join(f'{t}=VALUE' for t in there)}"


def _group_fields() -> dict[str, list[str]]:
    groups = [*(k for k, (_, base) in KINDS.items() if base is not None), *PLAIN_GROUPS, *SECTIONS]
    return {g: fields_of(g) for g in groups}


def unknown_option(option: str, options: list[str]) -> str:
    """One line for an option (or a word) the parser did not know."""
    if "=" in option and not option.startswith("-"):
        return f"{option}: options come before the overrides: put -m first (-m KEY=VALUE ...)"
    key = option.lstrip("-").partition("=")[0].replace("-", "_")
    if key in names(schema.Config):
        return f"{option}: settings are written without dashes: {key}=VALUE"
    if there := elsewhere(key):
        return f"{option}: settings are written without dashes: {' or '.join(f'{t}=VALUE' for t in there)}"
    return f"{option}: unknown option; {suggest(option, options)}"


def error_line(error: BaseException, configs: Path) -> str | None:
    """One line for an error of Hydra, OmegaConf or YAML, with the valid choices; None for anything else."""
    from hydra.errors import HydraException, MissingConfigException, OverrideParseException
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
    from yaml import YAMLError

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    available = groups(configs)
    for e in chain:
        if isinstance(e, YAMLError):
            mark = getattr(e, "problem_mark", None)
            where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
            return f"{where}: not valid YAML ({getattr(e, 'problem', None) or _first(e)}); fix the file"
        if isinstance(e, OverrideParseException):
            return (
                f"{e.override!r}: not a valid override ({_first(e)}); write key=value, and quote values with special "
                "characters: \"key='a b'\""
            )
        if isinstance(e, MissingMandatoryValue) and (m := re.search(r"full_key: ([\w.]+)", str(e))):
            return f"{m[1]}: a value is needed; give {m[1]}=VALUE"
    text = " ".join(" ".join(str(e).split()) for e in chain)
    if m := re.search(r"Could not find '([\w./-]+)/([\w.*-]+)'", text):
        listed = next((e.options for e in chain if isinstance(e, MissingConfigException) and e.options), None)
        return f"{m[1]}={m[2]}: no such option; {suggest(m[2], available.get(m[1]) or list(listed or []))}"
    if m := re.search(r"(?:Could not load|Could not find) '([\w./-]+)'", text):
        return f"{m[1]}: no such config; {suggest(m[1], sorted(available))}"
    if m := re.search(r"Ambiguous value for argument '([^']*)'", text):
        key, _, value = m[1].partition("=")
        return f"{m[1]}: several values; add -m to sweep over them, or write {key}=[{value}] or \"{key}='{value}'\""
    if m := re.search(r"Config group override must be a string or a list", text):
        return f"a group cannot be set to null; leave it out, or choose an option of: {', '.join(sorted(available))}"
    if m := re.search(r"Key '([^']+)' (?:is not in struct|not in '\w+')", text):
        full = re.search(r"full_key: ([\w.\[\]-]+)", text)
        path = full[1] if full else m[1]
        kind = re.search(r"(?:object_type=|not in ')(\w+)", text)
        if "." not in path and (there := elsewhere(path)):
            return _nested(path, there)
        choices = fields_at(path, kind[1] if kind else None) if "." in path else _top(available)
        return f"{path}: unknown key; {suggest(m[1], choices)}"
    if m := re.search(r"Could not (override|append to config|delete from config)[^']*'([\w./@-]+)'", text):
        key = m[2]
        if m[1].startswith("append"):
            return f"+{key}: the key exists already; write {key}=VALUE without the plus sign"
        if "." not in key and (there := elsewhere(key)):
            return _nested(key, there)
        return f"{key}: unknown key or group; {suggest(key, _top(available))}"
    if m := re.search(r"full_key: ([\w.\[\]]+)", text):
        first = next((_first(e) for e in chain if isinstance(e, OmegaConfBaseException)), _first(chain[-1]))
        typed = re.search(r"could not be converted|not a valid|Invalid value", first)
        return f"{m[1]}: {first}" + ("; give a value of the right type" if typed else "")
    if any(isinstance(e, (HydraException, OmegaConfBaseException)) for e in chain):
        return _first(chain[0])
    return None


def _top(available: dict[str, list[str]]) -> list[str]:
    return sorted({*names(schema.Config), *(g for g in available if "/" not in g)})


def _first(error: BaseException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
