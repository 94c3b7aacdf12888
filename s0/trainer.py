"""S0Trainer: the published library interface, on this project's exact injection and fused training.

    from s0 import S0Trainer
    trainer = S0Trainer.from_pretrained("Qwen/Qwen3.5-4B")
    trainer.train([(prompt + solution, n_prompt_tokens), ...])
    trainer.activate()
    print(trainer.generate(prompt, max_new_tokens=256))
    trainer.save("my_state")

Differences from the public library 0.1.2, all in the direction of correctness: a state that changes nothing is an error,
continued caches keep their history, padding is exact, and every hybrid family of `s0.state.families` works. `generate` is
greedy unless told otherwise and does not cut its prompt; `from_pretrained` keeps the checkpoint's dtype; `fit` is new.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s0.data import Example
from s0.errors import ConfigError, S0Error, suggest
from s0.runtime.chat import prompt_ids
from s0.runtime.progress import bar
from s0.runtime.quiet import quiet
from s0.settings import check, shared
from s0.state.compat import device_of
from s0.state.families import Layout, describe
from s0.state.initial import InitialState, read_json
from s0.state.inject import Injection, self_test
from s0.state.pads import exact_pads
from s0.storage.files import write_json
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob, FitResult
from s0.training.rows import Answer, FitReport, Row, is_conversation, pad_id, published_pairs, read_rows, split_rows
from s0.training.settings import StateTraining, StateUse

#: factors tried by `S0Trainer.fit(alpha="auto")`
ALPHA_GRID = (0.02, 0.05, 0.07, 0.1, 0.2, 0.35, 0.65, 1.0)


@dataclass
class S0Config:
    """Published hyper-parameters. alpha None is the architecture's default (0.07 GatedDeltaNet, 0.65 Mamba-2).

    Raises ConfigError for a value out of its range, here and whenever a changed field is used.
    """

    n_steps: int = shared(StateTraining, "n_steps")
    lr: float = shared(StateTraining, "lr")
    l2_lambda: float = shared(StateTraining, "l2_lambda")
    alpha: float | None = shared(StateUse, "alpha")
    normalize: bool = shared(StateUse, "normalize")
    grad_clip: float = shared(StateTraining, "grad_clip")
    max_length: int = shared(StateTraining, "max_length")

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        check(self, "S0Config.")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> S0Config:
        """Raises ConfigError for a name that is no field."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"S0Config.{name}: no such field; {suggest(str(name), names)}")
        return cls(**values)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, or config.json into a folder."""
        path = Path(path)
        write_json(path / "config.json" if path.suffix != ".json" else path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> S0Config:
        """Read what `save` wrote. Raises S0Error for a file that cannot be read."""
        path = Path(path)
        return cls.from_dict(read_json(path if path.suffix == ".json" else path / "config.json"))


class S0Trainer:
    """Learns, applies, saves and loads one state for one model (a transformers causal LM with recurrent layers).

    Raises ArchitectureError at construction for models without a state S0 could start.
    """

    def __init__(self, model: Any, tokenizer: Any, config: S0Config | None = None):
        if not isinstance(model, torch.nn.Module):
            raise S0Error(
                f"S0Trainer: model is a {type(model).__name__}; the order is S0Trainer(model, tokenizer, config)"
            )
        if not hasattr(tokenizer, "encode"):
            raise S0Error(f"S0Trainer: tokenizer is a {type(tokenizer).__name__}; give the model's tokenizer")
        if config is not None and not isinstance(config, S0Config):
            raise S0Error(
                f"S0Trainer: config is a {type(config).__name__}; give an S0Config, or None for the published one"
            )
        self.layout: Layout = describe(model)
        if device_of(model).type == "meta":
            raise S0Error("S0Trainer: the model has no weights (meta device); load them with from_pretrained")
        self.model: Any = model
        self.tokenizer = tokenizer
        self.config = config or S0Config()
        self.state: InitialState | None = None
        self._injection: Injection | None = None

    @classmethod
    def from_pretrained(cls, name: str, config: S0Config | None = None, **model_kwargs: Any) -> S0Trainer:
        """Load model and tokenizer by hub id or folder; `model_kwargs` go to `from_pretrained` of the model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        trust = {k: model_kwargs[k] for k in ("trust_remote_code", "revision", "token") if k in model_kwargs}
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(name, **trust)
            model = AutoModelForCausalLM.from_pretrained(name, **model_kwargs)
        if torch.cuda.is_available() and "device_map" not in model_kwargs:
            model.to("cuda")  # type: ignore[arg-type]
        return cls(model.eval(), tokenizer, config)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return device_of(self.model)

    @property
    def alpha(self) -> float:
        return self.layout.family.default_alpha if self.config.alpha is None else self.config.alpha

    def train(
        self,
        examples: Sequence[tuple[str, int]],
        progress: Callable[[int, int, list[float]], None] | None = None,
        token_budget: int | None = None,
    ) -> dict[str, float]:
        """Learn a state from (full_text, prompt_length_in_tokens) pairs; the loss is on the tokens after the prompt.

        Returns {"final_loss", "avg_state_norm"}: the loss before the last update and the mean Frobenius norm per layer
        before alpha. A state that is active stays active with the new tensors. Raises S0Error for unusable examples.
        """
        prepared = published_pairs(self.tokenizer, examples)
        result = self._learn(prepared, progress, token_budget)
        return {"final_loss": result.losses[-1], "avg_state_norm": result.avg_state_norm}

    def fit(
        self,
        data: Iterable[Any],
        valid: float | Iterable[Any] = 0.2,
        alpha: float | str | None = "auto",
        grid: Sequence[float] = ALPHA_GRID,
        seed: int = 0,
        samples: int = 3,
        max_new_tokens: int = 64,
        progress: Callable[[int, int, list[float]], None] | None = None,
        token_budget: int | None = None,
    ) -> FitReport:
        """Learn a state from your own data, choose alpha, and say what it did.

        data    rows of one kind or several: (prompt, completion) texts; {"prompt": ..., "completion": ...}, where both may be
                chat messages; {"messages": [...]} or a list of messages, whose last one is learned. A Dataset of the
                `datasets` library is such a sequence. Chats go through the tokenizer's template, thinking disabled; a
                completion ends with the tokenizer's end token.
        valid   what is held out: a fraction, drawn with `seed`, or rows of its own (0 or []: nothing)
        alpha   "auto" takes the factor of `grid` with the lowest held-out loss; a number or None (the architecture's) is kept

        The state is active afterwards. Raises S0Error for rows it cannot read, before training starts.
        """
        if not (alpha is None or alpha == "auto" or _is_finite(alpha)):
            raise ConfigError(f"fit: alpha={alpha!r}: must be a finite number, None for the architecture's, or 'auto'")
        if not grid or not all(_is_finite(a) for a in grid):
            raise ConfigError(f"fit: grid={grid!r}: must be finite numbers, at least one")
        rows = read_rows(self.tokenizer, data)
        if isinstance(valid, (int, float)):
            training, held = split_rows(rows, float(valid), seed)
        else:
            training, held = rows, read_rows(self.tokenizer, valid, allow_empty=True)
        losses = self._learn([r.example for r in training], progress, token_budget).losses
        self.deactivate()
        assert self.state is not None
        before = held_out_loss(self, held, None)
        scores = {a: held_out_loss(self, held, a) or 0.0 for a in sorted(set(grid))} if held and alpha == "auto" else {}
        if alpha != "auto":
            self.config.alpha = alpha  # type: ignore[assignment]
        elif scores:
            self.config.alpha = min(scores, key=lambda a: scores[a])
        after = held_out_loss(self, held, self.alpha)
        shown = (held or training)[:samples]
        plain = [self.generate_ids(r.example.prompt_ids, max_new_tokens) for r in shown]
        self.activate()
        tuned = [self.generate_ids(r.example.prompt_ids, max_new_tokens) for r in shown]
        answers = [Answer(r.prompt, r.completion, b, t) for r, b, t in zip(shown, plain, tuned, strict=True)]
        return FitReport(losses, self.alpha, scores, before, after, len(training), len(held), answers)

    def _learn(self, prepared: list[Example], progress: Any, token_budget: int | None) -> FitResult:
        self.config.check()
        was_active = self._injection is not None
        self.deactivate()
        c = self.config
        fit = FitConfig(
            n_steps=c.n_steps, lr=c.lr, l2_lambda=c.l2_lambda, grad_clip=c.grad_clip, max_length=c.max_length
        )
        with quiet(), bar("training", c.n_steps, "steps", quiet_s=5.0) as shown:

            def step(done: int, total: int, losses: list[float]) -> None:
                shown.to(done, total)
                shown.note(f"loss {losses[0]:.4f}")
                if progress:
                    progress(done, total, losses)

            (result,) = fit_states(
                self.model,
                self.layout,
                [FitJob(prepared, fit)],
                token_budget=token_budget,
                pad_id=self.tokenizer.pad_token_id or 0,
                progress=step,
            )
        self.state = result.state
        if was_active:
            self.activate()
        return result

    def activate(self) -> None:
        """Make every fresh forward pass and `generate` of the model start from the state. Raises S0Error when there is
        no state, or when it changes no logit."""
        if self.state is None:
            raise S0Error("activate: no state yet; call train(...) or load(folder) first")
        if self._injection is not None:
            return
        with quiet():
            self_test(self.model, self.layout, self.used_state())
        self._injection = _Following(self)
        self._injection.attach()

    def used_state(self) -> InitialState:
        """The state with the config's alpha and normalize as they are now. Raises S0Error where there is none."""
        if self.state is None:
            raise S0Error("S0Trainer: no state yet; call train(...) or load(folder) first")
        self.config.check()
        return self.state.replace(alpha=float(self.alpha), normalize=self.config.normalize)

    def deactivate(self) -> None:
        """Back to the base model, bit for bit."""
        if self._injection is not None:
            self._injection.detach()
            self._injection = None

    @torch.no_grad()
    def generate(self, prompt: Any, max_new_tokens: int = 512, **kwargs: Any) -> Any:
        """Completion of a prompt, greedy unless sampling arguments say otherwise; with the state if active.

        prompt    a text (as it is), a conversation (list of {"role", "content"}; chat template, thinking disabled), or a list
                  of either, which is answered in one left-padded batch
        returns   the completion, or a list of them

        Further keyword arguments go to `model.generate`. Raises S0Error for an empty prompt.
        """
        several = isinstance(prompt, (list, tuple)) and not is_conversation(prompt)
        rows = [self._encode(p, n) for n, p in enumerate(prompt if several else [prompt])]
        if not rows:
            raise S0Error("generate: no prompts; give a text, a conversation, or a list of either")
        width, pad = max(map(len, rows)), pad_id(self.model, self.tokenizer)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        kwargs = {"do_sample": False, "pad_token_id": pad, **kwargs}
        # without a state pads would make a batch's answers depend on each other's lengths all the same
        exact = exact_pads(self.layout) if several and self._injection is None else contextlib.nullcontext()
        with exact, quiet():
            out = self.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, **kwargs)
        new = getattr(out, "sequences", out)[:, width:]
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in new]
        return texts if several or len(texts) > 1 else texts[0]

    def generate_ids(self, ids: Sequence[int], max_new_tokens: int) -> str:
        """Greedy completion of token ids."""
        tokens = torch.tensor([list(ids)], device=self.device)
        options = {
            "do_sample": False,
            "max_new_tokens": max_new_tokens,
            "pad_token_id": pad_id(self.model, self.tokenizer),
        }
        with torch.no_grad(), quiet():
            out = self.model.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
        return str(self.tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))

    def _encode(self, prompt: Any, n: int) -> list[int]:
        if isinstance(prompt, str):
            ids = list(self.tokenizer.encode(prompt))
        elif is_conversation(prompt):
            ids = prompt_ids(self.tokenizer, prompt)
        else:
            raise S0Error(
                f"generate: prompt {n} is a {type(prompt).__name__}; give a text, a conversation (list of "
                '{"role": ..., "content": ...}), or a list of either'
            )
        if not ids:
            raise S0Error("generate: the prompt is empty; a recurrent model needs at least one token to start from")
        return ids

    def save(self, folder: str | Path) -> None:
        """Write states.safetensors, config.json and meta.json. Raises S0Error when there is no state."""
        if self.state is None:
            raise S0Error("save: no state yet; call train(...) or load(folder) first")
        config = {**dataclasses.asdict(self.config)}
        config.pop("alpha")
        config.pop("normalize")
        self.state.replace(alpha=self.alpha, normalize=self.config.normalize, config=config).save(folder)

    def load(self, folder: str | Path) -> None:
        """Read a saved state (also `states.pt` folders) and its config. Raises ArchitectureError when it does not fit."""
        state = InitialState.load(folder, self.layout)
        was_active = self._injection is not None
        self.deactivate()
        known = {f.name for f in dataclasses.fields(S0Config)}
        kept = {k: v for k, v in state.config.items() if k in known}
        self.config = S0Config(**{**kept, "alpha": state.alpha, "normalize": state.normalize})
        self.state = state
        if was_active:
            self.activate()


class _Following(Injection):
    """The trainer's state with its config's alpha and normalize as they are when a sequence starts."""

    def __init__(self, trainer: S0Trainer):
        super().__init__(trainer.model, trainer.layout, trainer.used_state())
        self._trainer = trainer

    def rows(self, batch: int) -> dict[int, Tensor]:
        state, config = self.states, self._trainer.config
        if (state.alpha, state.normalize) != (self._trainer.alpha, config.normalize):
            self.states, self._cached = self._trainer.used_state(), None
        return super().rows(batch)


def held_out_loss(trainer: S0Trainer, rows: Sequence[Row], alpha: float | None) -> float | None:
    """Mean over rows of the mean cross entropy per completion token, with the state at `alpha` (None: without it)."""
    if not rows:
        return None
    state = None if alpha is None else trainer.used_state().replace(alpha=float(alpha))
    total = 0.0
    with torch.no_grad(), quiet(), Injection(trainer.model, trainer.layout, state):
        for row in rows:
            prompt, completion = row.example.prompt_ids, row.example.completion_ids
            ids = torch.tensor([[*prompt, *completion]], device=trainer.device)
            logits = trainer.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :].to(logits.device)))
    return total / len(rows)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
