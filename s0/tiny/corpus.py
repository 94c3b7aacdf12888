"""The pretraining corpus: an endless stream of (prompt, completion) pairs from the grammar, without the benchmark.

Left out are pairs whose prompt asks for one of the 164 programs (under any names and opener) and pairs whose completion
computes one of them, be it as a wrong answer to another prompt.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from s0.tiny import benchmark
from s0.tiny.grammar import sample_answer, sample_program, sample_request


def forbidden() -> frozenset[str]:
    """Canonical form of the 164 benchmark programs."""
    return frozenset(request.program.canonical() for request in benchmark.requests())


def pairs(seed: int, n: int) -> Iterator[tuple[str, str]]:
    """`n` (prompt, completion) pairs; the same for the same seed."""
    rng = random.Random(seed)
    banned = forbidden()
    produced = 0
    while produced < n:
        request = sample_request(rng, sample_program(rng))
        answer = sample_answer(rng, request)
        if request.program.canonical() in banned or answer.program.canonical(answer.habits) in banned:
            continue
        produced += 1
        yield request.prompt, answer.text


def corpus_sha256(seed: int, n: int) -> str:
    """SHA-256 over all `n` pairs in order, NUL after each text."""
    h = hashlib.sha256()
    for prompt, completion in pairs(seed, n):
        h.update(prompt.encode() + b"\0" + completion.encode() + b"\0")
    return h.hexdigest()
