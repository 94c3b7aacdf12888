"""S0Trainer: the published library interface, on this project's exact injection and fused training.

    from s0 import S0Trainer
    trainer = S0Trainer.from_pretrained("Qwen/Qwen3.5-4B")
    trainer.train([(prompt + solution, n_prompt_tokens), ...])
    trainer.activate()
    print(trainer.generate(prompt, max_new_tokens=256))
    trainer.save("my_state")

Differences from the public library 0.1.2, all in the direction of correctness: a state that changes nothing is an error,
continued caches keep their history, padding is exact, and every hybrid family of `s0.state.families` works.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from s0.data import Example
from s0.errors import S0Error
from s0.state.families import Layout, describe
from s0.state.initial import InitialState
from s0.state.inject import Injection, self_test
from s0.training.fit import fit_states
from s0.training.jobs import FitConfig, FitJob


@dataclass
class S0Config:
    """Published hyper-parameters. alpha None is the architecture's default (0.07 GatedDeltaNet, 0.65 Mamba-2)."""

    n_steps: int = 20
    lr: float = 1e-3
    l2_lambda: float = 5e-4
    alpha: float | None = None
    normalize: bool = False
    grad_clip: float = 1.0
    max_length: int = 2048

    def __post_init__(self) -> None:
        for name, low in (("n_steps", 1), ("lr", 0), ("l2_lambda", 0), ("grad_clip", 0), ("max_length", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or value < low:
                raise S0Error(f"S0Config.{name}={value!r}: must be a number, {low} or more")


class S0Trainer:
    """Learns, applies, saves and loads one state for one model (a transformers causal LM with recurrent layers).

    Raises ArchitectureError at construction for models without a state S0 could start.
    """

    def __init__(self, model: Any, tokenizer: Any, config: S0Config | None = None):
        self.model, self.tokenizer = model, tokenizer
        self.config = config or S0Config()
        self.layout: Layout = describe(model)
        self.state: InitialState | None = None
        self._injection: Injection | None = None

    @classmethod
    def from_pretrained(cls, name: str, config: S0Config | None = None, **model_kwargs: Any) -> S0Trainer:
        """Load model and tokenizer by hub id or folder; `model_kwargs` go to `from_pretrained` of the model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        trust = {k: model_kwargs[k] for k in ("trust_remote_code", "revision", "token") if k in model_kwargs}
        tokenizer = AutoTokenizer.from_pretrained(name, **trust)
        model = AutoModelForCausalLM.from_pretrained(name, **model_kwargs)
        if torch.cuda.is_available() and "device_map" not in model_kwargs:
            model.to("cuda")  # type: ignore[arg-type]
        return cls(model.eval(), tokenizer, config)

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
        prepared = []
        for n, (text, prompt_length) in enumerate(examples):
            ids = self.tokenizer.encode(text)
            if not 0 < prompt_length < len(ids):
                raise S0Error(
                    f"example {n}: prompt_length={prompt_length} of {len(ids)} tokens; must be at least 1 and leave a completion"
                )
            prepared.append(Example(str(n), ids[:prompt_length], ids[prompt_length:]))
        if not prepared:
            raise S0Error("train: no examples; give at least one (full_text, prompt_length_in_tokens) pair")
        was_active = self._injection is not None
        self.deactivate()
        c = self.config
        fit = FitConfig(
            n_steps=c.n_steps, lr=c.lr, l2_lambda=c.l2_lambda, grad_clip=c.grad_clip, max_length=c.max_length
        )
        pad = self.tokenizer.pad_token_id or 0
        (result,) = fit_states(
            self.model,
            self.layout,
            [FitJob(prepared, fit)],
            token_budget=token_budget,
            pad_id=pad,
            progress=progress,
        )
        self.state = result.state
        if was_active:
            self.activate()
        return {"final_loss": result.losses[-1], "avg_state_norm": result.avg_state_norm}

    def activate(self) -> None:
        """Make every fresh forward pass and `generate` of the model start from the state. Raises S0Error when there is
        no state, or when it changes no logit."""
        if self.state is None:
            raise S0Error("activate: no state yet; call train(...) or load(folder) first")
        if self._injection is not None:
            return
        state = self.state.replace(alpha=self.alpha, normalize=self.config.normalize)
        self_test(self.model, self.layout, state)
        self._injection = Injection(self.model, self.layout, state)
        self._injection.attach()

    def deactivate(self) -> None:
        """Back to the base model, bit for bit."""
        if self._injection is not None:
            self._injection.detach()
            self._injection = None

    @torch.no_grad()
    def generate(self, prompt: str, max_new_tokens: int = 512, **kwargs: Any) -> str:
        """Completion of a prompt (text as it is, without chat template), greedy unless sampling arguments say otherwise;
        with the state if active. Further keyword arguments go to `model.generate`. Raises S0Error for an empty prompt."""
        inputs = self.tokenizer(prompt, return_tensors="pt").to(self.model.device)
        if not inputs["input_ids"].shape[1]:
            raise S0Error("generate: the prompt is empty; a recurrent model needs at least one token to start from")
        inputs.pop("token_type_ids", None)
        kwargs.setdefault("do_sample", False)
        if self.tokenizer.pad_token_id is not None:
            kwargs.setdefault("pad_token_id", self.tokenizer.pad_token_id)
        out = self.model.generate(**inputs, max_new_tokens=max_new_tokens, **kwargs)
        return str(self.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

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
