"""A library user's own data as training examples, and what training on it is answered with."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from s0.data import Example
from s0.errors import ConfigError, S0Error
from s0.runtime.chat import prompt_ids


@dataclass(frozen=True)
class Row:
    """One prompt with the completion to learn, as text and as token ids."""

    prompt: str
    completion: str
    example: Example


@dataclass(frozen=True)
class Answer:
    """One prompt answered without and with the state."""

    prompt: str
    wanted: str
    before: str
    after: str


@dataclass(frozen=True)
class FitReport:
    """What `S0Trainer.fit` did. Losses are cross entropy per completion token. `alpha_scores` holds the held-out loss of every
    factor tried (the chosen one was chosen by it, so `held_out_after` is slightly optimistic)."""

    losses: list[float]
    alpha: float
    alpha_scores: dict[float, float]
    held_out_before: float | None
    held_out_after: float | None
    n_train: int
    n_held_out: int
    answers: list[Answer] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """One sentence: what changed, or what to try where nothing did."""
        same = bool(self.answers) and all(a.before == a.after for a in self.answers)
        if self.held_out_before is None or self.held_out_after is None:
            change = f"training loss {self.losses[0]:.3f} -> {self.losses[-1]:.3f}, nothing held out"
            better = self.losses[-1] < 0.99 * self.losses[0]
        else:
            change = f"held-out loss {self.held_out_before:.3f} -> {self.held_out_after:.3f} at alpha {self.alpha:g}"
            better = self.held_out_after < 0.99 * self.held_out_before
        if better and not same:
            return change
        what = "the loss did not fall" if not better else "the sample answers are the same"
        return f"{change}; {what}: try more steps (n_steps), a larger lr, a larger alpha, or more rows"

    def __str__(self) -> str:
        lines = [f"{self.n_train} rows learned, {self.n_held_out} held out: {self.verdict}"]
        lines += [f"  alpha {a:g}: held-out loss {loss:.4f}" for a, loss in self.alpha_scores.items()]
        for a in self.answers:
            lines += [f"prompt: {a.prompt!r}", f"  before: {a.before!r}", f"  after:  {a.after!r}"]
        return "\n".join(lines)


def is_conversation(value: Any) -> bool:
    """Whether a value is a non-empty list of {"role": text, "content": text}."""
    return isinstance(value, (list, tuple)) and bool(value) and all(_is_message(m) for m in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)


_FORMS = (
    '(prompt, completion), {"prompt": ..., "completion": ...} or {"messages": [...]}, each as text or chat messages '
    "that end with the assistant's"
)


def read_rows(tokenizer: Any, data: Iterable[Any], allow_empty: bool = False) -> list[Row]:
    """Rows in any of the forms of `S0Trainer.fit`, tokenized. Raises S0Error naming the row that cannot be read."""
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise S0Error(f"fit: data is a {type(data).__name__}; give a list (or Dataset) of rows: {_FORMS}")
    rows = [_row(tokenizer, n, row) for n, row in enumerate(data)]
    if not rows and not allow_empty:
        raise S0Error(f"fit: no rows; give at least one: {_FORMS}")
    return rows


def _row(tokenizer: Any, n: int, row: Any) -> Row:
    if isinstance(row, Mapping) and is_conversation(row.get("messages")):
        row = row["messages"]
    if is_conversation(row) and len(row) > 1 and row[-1]["role"] == "assistant":
        prompt, completion = list(row[:-1]), row[-1]["content"]
    elif isinstance(row, Mapping) and "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
    elif isinstance(row, (tuple, list)) and len(row) == 2 and not is_conversation(row):
        prompt, completion = row
        if isinstance(completion, int):
            raise S0Error(f"fit: row {n} is (text, number), which is the form of train(); give {_FORMS}")
    else:
        raise S0Error(f"fit: row {n} is {_shown(row)}; give {_FORMS}")
    if is_conversation(completion) and len(completion) == 1:
        completion = completion[0]["content"]
    if not (isinstance(prompt, str) or is_conversation(prompt)) or not isinstance(completion, str):
        raise S0Error(f"fit: row {n} is {_shown(row)}; give {_FORMS}")
    start = prompt_ids(tokenizer, prompt) if not isinstance(prompt, str) else list(tokenizer.encode(prompt))
    rest = list(tokenizer.encode(completion, add_special_tokens=False))
    if not start or not rest:
        raise S0Error(f"fit: row {n}: the {'completion' if start else 'prompt'} is empty; leave the row out")
    end = getattr(tokenizer, "eos_token_id", None)
    if end is not None and rest[-1] != end:
        rest.append(int(end))
    text = prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)
    return Row(text, completion, Example(str(n), start, rest))


def _shown(row: Any) -> str:
    if isinstance(row, Mapping):
        return f"a row with the fields {', '.join(map(str, row))}"
    return f"a {type(row).__name__}" + (f" of {len(row)}" if isinstance(row, (tuple, list)) else "")


def split_rows(rows: list[Row], valid: float, seed: int) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows): a fraction drawn with `seed`, at least one of each if the fraction is above 0."""
    if isinstance(valid, bool) or not 0.0 <= valid < 1.0:
        raise ConfigError(f"fit: valid={valid!r}: must be a fraction, 0 or more and below 1, or rows of its own")
    if valid == 0.0:
        return rows, []
    if len(rows) < 2:
        raise S0Error("fit: one row cannot be split; give more rows, or valid=0 to hold nothing out")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held = set(order[: min(max(1, round(valid * len(rows))), len(rows) - 1)])
    return [r for n, r in enumerate(rows) if n not in held], [r for n, r in enumerate(rows) if n in held]


def published_pairs(tokenizer: Any, examples: Sequence[tuple[str, int]]) -> list[Example]:
    """(full_text, prompt_length_in_tokens) pairs, tokenized. Raises S0Error for anything else."""
    if isinstance(examples, (str, bytes, Mapping)) or not isinstance(examples, Iterable):
        raise S0Error(
            f"train: examples is a {type(examples).__name__}; give a list of (full_text, prompt_length_in_tokens) pairs"
        )
    prepared = []
    for n, pair in enumerate(examples):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise S0Error(
                f"example {n} is {_shown(pair)}; give (full_text, prompt_length_in_tokens), or use fit() for other forms"
            )
        text, length = pair
        if isinstance(length, bool) or not isinstance(length, int):
            raise S0Error(
                f"example {n}: prompt_length is a {type(length).__name__}; must be a number of tokens, or use fit() for "
                "(prompt, completion) pairs"
            )
        ids = tokenizer.encode(text)
        if not 0 < length < len(ids):
            raise S0Error(
                f"example {n}: prompt_length={length} of {len(ids)} tokens; must be at least 1 and leave a completion"
            )
        prepared.append(Example(str(n), ids[:length], ids[length:]))
    if not prepared:
        raise S0Error("train: no examples; give at least one (full_text, prompt_length_in_tokens) pair")
    return prepared


def pad_id(model: Any, tokenizer: Any) -> int:
    """Pads are masked, so any id serves; the model's own keeps `generate` quiet."""
    for source in (tokenizer, model.generation_config, model.config.get_text_config(decoder=True)):
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(source, name, None)
            if value is not None:
                return int(value[0] if isinstance(value, list) else value)
    return 0
