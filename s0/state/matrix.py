"""The matrix of families x checks, each cell run on a tiny random model, and the documentation page made from the registry."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from s0.errors import ArchitectureError, ConfigError, S0Error
from s0.state.checks import CHECKS, Broken
from s0.state.families import FAMILIES, Family, describe
from s0.state.random_models import MODELS, REFUSED_MODELS, build, build_refused
from s0.state.recurrences import DEFAULT_ALPHA

#: families for which the paper measured alpha
PUBLISHED_ALPHA = ("qwen3_5", "falcon_h1")

PAGE = """\
# Families

Written by `python scripts/families.py --write docs/families.md` from the registry in `s0/state/families.py`; do not edit.

S0 works on a model whose recurrent layers read their state from the cache at the first token. Every family below passes
every check in float32 on a tiny random model; the same command prints the matrix, and the tests run the same checks.

{supported}

State shapes are per layer and row, always read from the loaded model. *alpha* is the default scale of a learned state:
{alphas}.
It was measured for {published} only (by the paper); elsewhere it is an untested starting point, and `method.alpha=auto`
chooses one on training problems. The last columns say how other engines hold the same state, from their source (vLLM: the
CUDA kernels): *same* axes, the last two *transposed*, or value heads *tiled* (one of every key head in turn, where
transformers keeps those of one key head together) and transposed; *unknown* where nobody has compared states.

What each check says:

{meanings}

## Refused

Loading one of these raises `ArchitectureError` with the reason.

{refused}

Pure Transformers have no recurrent state and are refused as well.

## Notes

- *Time-step floor* (zamba2, nemotron_h, and Mamba-2 configs whose `time_step_limit` starts above 0): a pad decays the
  state whatever its gate says. The state is scaled up beforehand by exactly what the pads of its row will take away.
- transformers applies `time_step_limit` in the chunk kernel but not in the one-token kernel, so a Mamba-2 model whose
  time steps really leave that range decodes slightly differently from a full forward pass, with or without S0.
- Bamba numbers positions from 0 at every call unless `position_ids` are given; `generate` gives them.
- In a mixture of experts the loss jumps where a router switches experts; gradients are exact between such points.
"""


def run(names: list[str]) -> dict[str, dict[str, str | float]]:
    """model -> check -> largest error, or the reason why it is broken."""
    results: dict[str, dict[str, str | float]] = {}
    for name in names:
        model = build(name)
        layout = describe(model)
        results[name] = {}
        for check, run_check in CHECKS.items():
            try:
                results[name][check] = run_check(model, layout)
            except Broken as broken:
                results[name][check] = str(broken)
    return results


def refusals() -> dict[str, str]:
    """model -> the error its loading raises. Raises S0Error if one is not refused."""
    reasons = {}
    for name in REFUSED_MODELS:
        try:
            describe(build_refused(name))
        except ArchitectureError as error:
            reasons[name] = str(error).split(": ", 1)[1].split("; use a model")[0]
        else:
            raise S0Error(f"{name}: is not refused")
    return reasons


def print_matrix(results: dict[str, dict[str, str | float]], reasons: dict[str, str]) -> bool:
    """Print the tables; True if every cell is green."""
    console = Console()
    table = Table("family", *CHECKS)
    broken = []
    for name, cells in results.items():
        shown = []
        for check, cell in cells.items():
            if isinstance(cell, str):
                broken.append(f"{name}, {check}: {cell}")
            shown.append(
                "[red]BROKEN[/red]"
                if isinstance(cell, str)
                else f"[green]{cell:.0e}[/green]"
                if cell
                else "[green]0[/green]"
            )
        table.add_row(name, *shown)
    console.print(table)
    for line in broken:
        console.print(f"[red]{line}[/red]", soft_wrap=True)
    if reasons:
        table = Table("refused", "reason")
        for name, reason in reasons.items():
            table.add_row(name, reason)
        console.print(table)
    return not broken


def page() -> str:
    """The documentation page; depends on the registry alone, so that a test can tell whether it is up to date."""
    families = sorted(FAMILIES.values(), key=lambda f: (f.architecture, f.name))
    rows = [
        "| family | recurrence | recurrent mixer | state | alpha | vLLM | llama.cpp | MLX |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {f.name} | {f.architecture} | `{f.mixer}` | {f.recurrence.axes} | {_alpha(f)} "
        f"| {f.engines.vllm} | {f.engines.llama_cpp} | {f.engines.mlx} |"
        for f in families
    ]
    refused = ["| model | reason |", "|---|---|"]
    refused += [f"| {name} | {reason} |" for name, reason in refusals().items() if "Transformer" not in name]
    meanings = [
        f"- **{name}**: {(check.__doc__ or '').split(chr(10) + chr(10))[0].strip()}" for name, check in CHECKS.items()
    ]
    return PAGE.format(
        supported="\n".join(rows),
        alphas=", ".join(f"{v} for {k}" for k, v in DEFAULT_ALPHA.items()),
        published=" and ".join(PUBLISHED_ALPHA),
        meanings="\n".join(" ".join(m.split()) for m in meanings),
        refused="\n".join(refused),
    )


def _alpha(family: Family) -> str:
    return f"{family.default_alpha}{'' if family.name in PUBLISHED_ALPHA else ' (untested)'}"


def chosen(words: list[str]) -> list[str]:
    """Models of the families named (all where none is). Raises ConfigError for a name nobody has."""
    names = [n for n in MODELS if not words or n in words or n.split(" ")[0] in words]
    unknown = sorted(set(words) - set(names) - {n.split(" ")[0] for n in names})
    if unknown:
        raise ConfigError(f"families={', '.join(unknown)}: not known; choose among {', '.join(MODELS)}")
    return names
