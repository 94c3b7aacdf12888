"""Writes of one layer and head over a corpus: streamed from the model, kept as factors (key dim + value dim numbers per token).

The embedded models' corpus is the pretraining grammar with seeds of its own; others read a text file, one document a line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s0.errors import ConfigError, DataError
from s0.kernels.writes import Factors, tap
from s0.state.families import Layout
from s0.tiny.corpus import pairs

#: pretraining drew from the corpus of seed 1
CORPUS_SEED = 7001


@dataclass(frozen=True)
class Site:
    """A layer of the model (its index there) and a head of it."""

    layer: int
    head: int

    @classmethod
    def parse(cls, text: str) -> Site:
        layer, dot, head = str(text).partition(".")
        if not (dot and layer.isdigit() and head.isdigit()):
            raise ConfigError(f"site={text!r}: must be LAYER.HEAD, for example site=2.2")
        return cls(int(layer), int(head))

    def check(self, layout: Layout) -> None:
        """Raise ConfigError unless the model has it."""
        if self.layer not in layout.layers:
            raise ConfigError(f"site={self}: layer {self.layer} is not recurrent; choose among {list(layout.layers)}")
        if not 0 <= self.head < layout.shapes[self.layer][0]:
            raise ConfigError(f"site={self}: layer {self.layer} has heads 0..{layout.shapes[self.layer][0] - 1}")

    def __str__(self) -> str:
        return f"{self.layer}.{self.head}"


def token_sequences(checkpoint: Any, corpus: str, n: int, max_tokens: int = 1024) -> list[list[int]]:
    """Token ids of the first n documents of the corpus: "grammar" (embedded models) or a text file. Raises DataError."""
    tokenizer = checkpoint.tokenizer
    if corpus == "grammar":
        out = []
        for prompt, completion in pairs(CORPUS_SEED, n):
            ids = checkpoint.prompt_ids([{"role": "user", "content": prompt}])
            out.append([*ids, *tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
        return out
    try:
        lines = [x for x in Path(corpus).read_text(encoding="utf-8").splitlines() if x.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"corpus={corpus!r}: cannot be read ({error}); give a UTF-8 file, one document a line"
        ) from error
    if len(lines) < n:
        raise DataError(f"corpus={corpus!r}: {len(lines)} documents, {n} wanted; lower sequences")
    return [tokenizer(x)["input_ids"][:max_tokens] for x in lines[:n]]


def padded_batches(
    sequences: Sequence[Sequence[int]], rows: int, pad: int
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """(positions in `sequences`, ids [rows, T], lengths [rows]), right-padded, sequences of like length together."""
    order = sorted(range(len(sequences)), key=lambda i: (len(sequences[i]), i))
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        length = max(len(sequences[i]) for i in part)
        ids = torch.full((len(part), length), pad)
        for row, i in enumerate(part):
            ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
        yield part, ids, torch.tensor([len(sequences[i]) for i in part])


@dataclass(frozen=True)
class Writes:
    """Factors of a site over many sequences, fp32: k [N, dk], u [N, dv] (corrected or additive write), g [N] mean log decay,
    sequence [N] and position [N] of each token; `sequences` are the token ids."""

    k: Tensor
    u: Tensor
    g: Tensor
    sequence: Tensor
    position: Tensor
    sequences: list[list[int]]

    def of(self, wanted: Tensor) -> Writes:
        """The tokens of the sequences with these numbers."""
        keep = torch.isin(self.sequence, wanted)
        k, u, g = self.k[keep], self.u[keep], self.g[keep]
        return Writes(k, u, g, self.sequence[keep], self.position[keep], self.sequences)

    def __len__(self) -> int:
        return len(self.k)


@torch.no_grad()
def stream(
    model: Any, layout: Layout, site: Site, sequences: Sequence[Sequence[int]], rows: int = 32, pad: int = 0
) -> Iterator[tuple[list[int], Tensor, Factors]]:
    """(positions, lengths, factors of the site's head) batch by batch; causal layers do not feel right pads."""
    device = next(model.parameters()).device
    for part, ids, lengths in padded_batches(sequences, rows, pad):
        seen: dict[int, Factors] = {}
        with tap(layout, see=seen.__setitem__, layers=(site.layer,)):
            model(input_ids=ids.to(device), use_cache=False)
        yield part, lengths, seen[site.layer].head(site.head)


def capture(
    model: Any, layout: Layout, site: Site, sequences: list[list[int]], write: str = "corrected", rows: int = 32
) -> Writes:
    """All writes of a site, in the order of the sequences."""
    parts: list[tuple[int, list[Tensor]]] = []
    for part, lengths, f in stream(model, layout, site, sequences, rows):
        f = f.additive() if write == "additive" else f
        for row, (i, n) in enumerate(zip(part, lengths.tolist(), strict=True)):
            k, u, g = f.k[row, :n, 0].cpu(), f.u[row, :n, 0].cpu(), f.g[row, :n, 0].mean(-1).cpu()
            parts.append((i, [k, u, g, torch.full((n,), i), torch.arange(n)]))
    parts.sort(key=lambda x: x[0])
    k, u, decay, owner, position = (torch.cat([p[1][j] for p in parts]) for j in range(5))
    return Writes(k, u, decay, owner, position, sequences)


@torch.no_grad()
def capture_states(
    model: Any, layout: Layout, site: Site, sequences: list[list[int]], per_sequence: int, seed: int, rows: int = 16
) -> tuple[Tensor, Tensor]:
    """A sample of states after tokens: fp32 [n, dk, dv], and the sequence of each. Only what is sampled is ever built: a state
    is the sum of the decayed writes of its sequence."""
    g = torch.Generator().manual_seed(seed)
    states, owners = [], []
    for part, lengths, f in stream(model, layout, site, sequences, rows):
        total = f.g.cumsum(1)[:, :, 0]  # [B, T, 1 or dk]
        for row, (i, n) in enumerate(zip(part, lengths.tolist(), strict=True)):
            for t in torch.randperm(n, generator=g)[:per_sequence].tolist():
                left = (total[row, t] - total[row, : t + 1]).exp()
                states.append(((f.k[row, : t + 1, 0] * left).T @ f.u[row, : t + 1, 0]).cpu())
                owners.append(i)
    return torch.stack(states), torch.tensor(owners)
