"""Seeds as a person writes them, in and out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from s0.errors import ConfigError


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


def ranges(seeds: Sequence[int]) -> str:
    """0..4,7 for [0, 1, 2, 3, 4, 7]."""
    out: list[list[int]] = []
    for s in sorted(seeds):
        if out and s == out[-1][-1] + 1:
            out[-1].append(s)
        else:
            out.append([s])
    return ",".join(f"{r[0]}..{r[-1]}" if len(r) > 2 else ",".join(map(str, r)) for r in out)
