"""`--help` of run.py and `s0 run`, at 80 columns: commands, groups with their options, and every key."""

from __future__ import annotations

import textwrap
from pathlib import Path

from s0.cli.errors import groups
from s0.config.registry import KINDS, PLAIN_GROUPS, SECTIONS
from s0.config.schema import Config
from s0.settings import Setting, describe, names

WIDTH = 80
TEXT = """\
usage: {program} [OPTIONS] [GROUP=OPTION] [KEY=VALUE] ...

Learn the state that the recurrent layers of a hybrid language model start from,
and measure it: sample, verify, train, evaluate, one record per seed.

  {program}
      the embedded default, minutes on a CPU
  {program} model=qwen35_4b task=humaneval seed=0..9
      the paper's main cell (GPU)
  {program} -m method.alpha=0.03,0.07,0.15 seed=0..9
      a sweep: trains once, evaluates three times
  {program} experiment=table1_main scale=tiny
      a table of the paper on the embedded models

Options:
  -m, --multirun     sweep: every combination of a=1,2 b=3,4 (put it first)
  -m hydra/sweeper=optuna 'method.lr=interval(1e-4,1e-2)'
                     a search by the validation score of method.alpha=auto
  --dry-run          what would run, what is stored already, what it will cost
  --cfg job          the config of this command (--resolve: interpolations too)
  -cd, --config-dir  a folder of config groups of your own
  --version, --hydra-help, --info, -sc (shell completion)

Groups (choose with GROUP=OPTION):
{groups}

Keys (set with KEY=VALUE; --cfg job shows their values):
{keys}

Exit codes: 0 done, 1 error, 2 config, 3 no verified training solution, 4 some
cells failed, 5 training diverged, 130 interrupted.
"""


def help_text(configs: Path, program: str) -> str:
    found = groups(configs)
    options = sorted(found, key=lambda g: g.startswith("hydra/"))
    known = {*KINDS, *PLAIN_GROUPS, *SECTIONS}
    keys = [_key("", s) for s in describe(Config) if s.name not in known - {"analysis", "study"}]
    for group in [*PLAIN_GROUPS, *(k for k, (_, base) in KINDS.items() if base is not None), *SECTIONS]:
        registry, base = KINDS.get(group, ({}, None))
        shared = base or {**PLAIN_GROUPS, **SECTIONS}[group]
        keys += ["", f"  {group}"] + [_key(f"{group}.", s) for s in describe(shared)]
        for name, entry in registry.items():
            more = [s for s in describe(entry.config) if s.name not in names(shared)] if entry.config else []
            keys += [f"  {group}={name}"] * bool(more) + [_key(f"{group}.", s) for s in more]
    return TEXT.format(
        program=program, groups="\n".join(_listed(f"{g}: ", found[g]) for g in options), keys="\n".join(keys)
    )


def _key(prefix: str, s: Setting) -> str:
    """`key=default` and what it means, with its rule."""
    default = "null" if s.default is None else str(s.default).lower() if isinstance(s.default, bool) else str(s.default)
    about = "; ".join(t for t in (s.help, s.rule) if t)
    head = f"{prefix}{s.name}={default}"
    text = f"{head:<30}  {about}" if len(head) <= 30 else f"{head}  {about}"
    return textwrap.fill(
        text, WIDTH, initial_indent="    ", subsequent_indent=" " * 36, break_on_hyphens=False, break_long_words=False
    )


def _listed(head: str, words: list[str]) -> str:
    return textwrap.fill(
        head + ", ".join(words), WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
    )
