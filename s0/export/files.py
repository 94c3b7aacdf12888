"""From a record to its learned state, and the state as a folder that this library, the published one, PEFT or the Hub reads.

s0          states.safetensors, config.json, meta.json and a card (README.md): `S0Trainer.load`, `StateBank.add`
published   the same three files with nothing that s0-tuning 0.1.2 refuses
peft        adapter_config.json and adapter_model.safetensors: `PeftModel.from_pretrained` after `import s0.peft`
hub         as s0, with the card of a Hub repository: upload the folder with `hf upload USER/NAME DIR`
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s0.config.schema import ModelConfig
from s0.errors import ConfigError, DataError, StoreError
from s0.experiment.checkpoint import load_model, resolve_path
from s0.paths import EMBEDDED_MODELS
from s0.state.hub import CardResult, model_card
from s0.state.initial import InitialState
from s0.storage.files import write_text
from s0.storage.records import Record

FORMATS = ("s0", "published", "peft", "hub")
#: fields of the published S0Config; its reader refuses any other
PUBLISHED_FIELDS = ("n_steps", "lr", "l2_lambda", "grad_clip", "max_length")

CARD = """\
# S0 state: {model}, {task}, seed {seed}

One learned initial state per recurrent layer of {base}: {n_layers} layers, {architecture}, used with
alpha = {alpha:g}{normalized}. The model's weights are unchanged.

## Use

```python
from s0 import S0Trainer

trainer = S0Trainer.from_pretrained("{loads}")
trainer.load("{folder}")
trainer.activate()
print(trainer.generate("...", max_new_tokens=256))
```

{made}"""


def adapter_folder(record: Record, store: Path | None = None) -> Path:
    """Folder of the adapter a record was measured with. Raises DataError where there is none any more.

    Records that name no adapter are matched by what training left: the same losses and gradient norms, step by step.
    """
    if record.status != "ok" or record.method == "none":
        raise DataError(
            f"seed {record.seed} of {record.model} / {record.method}: nothing was learned ({record.status})"
        )
    root = store or Path(record.config["store"])
    named = getattr(record, "adapter", None)
    key = named.get("key") if isinstance(named, dict) else named
    folders = sorted((root / f"adapters-{record.method}").glob("*/training.json"))
    for path in folders:
        if key and path.parent.name == key:
            return path.parent
    for path in folders if not key else []:
        data = json.loads(path.read_text(encoding="utf-8"))
        t = record.training
        if t.losses and (data.get("losses"), data.get("grad_norms")) == (t.losses, t.grad_norms):
            return path.parent
    raise DataError(
        f"{record.model} / {record.task} / {record.method}, seed {record.seed}: its adapter is not in {root}; give the store "
        "the run used (--store DIR), or run the cell again: what is stored is not computed again"
    )


def state_of(record: Record, store: Path | None = None) -> InitialState:
    """The state a record was measured with: its alpha and normalisation set, and what is known of it in config and
    metadata. Raises DataError, ConfigError (another method)."""
    if record.method != "s0":
        raise ConfigError(f"method={record.method}: only states of method=s0 are exported; see docs/methods.md")
    state = InitialState.load(adapter_folder(record, store))
    method = record.config["method"]
    return state.replace(
        alpha=float(record.alpha if record.alpha is not None else state.alpha),
        normalize=bool(method.get("normalize")),
        config={k: method[k] for k in PUBLISHED_FIELDS if method.get(k) is not None},
        metadata={
            "base_model": base_model(record),
            "task": record.task,
            "seed": record.seed,
            "record": record.key,
            "weights_sha256": record.model_info.get("weights_sha256"),
            "alpha_source": record.training.alpha_source,
        },
    )


def base_model(record: Record) -> str:
    return str(record.model_info.get("path") or record.config["model"]["path"])


def _loads(path: str) -> str:
    """What `from_pretrained` takes for a model path of a config."""
    return str(EMBEDDED_MODELS / path.removeprefix("embedded:")) if path.startswith("embedded:") else path


def how_it_was_made(record: Record) -> str:
    """The card's account of training and measurement, from the record."""
    t, env = record.training, record.environment
    lines = [
        "## How it was made",
        "",
        f"- Task {record.task}: {t.n_solutions} verified solutions from {t.n_samples} samples of {t.n_problems} training "
        f"problems, {t.n_passed} samples passed",
        f"- {len(t.losses)} steps, loss {t.losses[0]:.4f} to {t.losses[-1]:.4f}" if t.losses else "- Not trained",
        f"- alpha {t.alpha:g} ({t.alpha_source})" if t.alpha is not None else "- alpha: the architecture's",
    ]
    if record.baseline and record.tuned:
        solved, broken = record.flips()
        n = len(record.tuned.outcomes)
        lines.append(
            f"- Held out ({n} problems, {record.tuned.protocol}): {100 * record.baseline.accuracy:.1f} % before, "
            f"{100 * record.tuned.accuracy:.1f} % with the state; {len(solved)} newly solved, {len(broken)} newly broken"
        )
    for name, control in record.controls.items():
        lines.append(f"- Control ({name}, same alpha): {100 * control.accuracy:.1f} %")
    versions = ", ".join(
        f"{k} {v}" for k, v in (env.get("versions") or {}).items() if k in ("torch", "transformers", "s0")
    )
    lines += [
        f"- Record {record.key}, {record.created}; {versions}",
        f"- Command: `{env.get('command') or 'unknown'}`",
        "",
    ]
    return "\n".join(lines)


def results(record: Record) -> list[CardResult]:
    if not (record.baseline and record.tuned):
        return []
    return [CardResult(record.task, record.tuned.accuracy, record.baseline.accuracy, seeds=1)]


def export(record: Record, out: Path, form: str = "s0", store: Path | None = None, repo_id: str = "") -> Path:
    """Write the state of a record into `out`. Raises ConfigError, DataError, StoreError."""
    if form not in FORMATS:
        raise ConfigError(f"--format {form}: choices: {', '.join(FORMATS)}")
    if form == "hub" and repo_id.count("/") != 1:
        raise ConfigError(f"--repo {repo_id!r}: the card of a Hub repository names it; give USER/NAME")
    state, base = state_of(record, store), base_model(record)
    out = Path(out)
    if out.is_file():
        raise StoreError(f"-o {out}: is a file; give a folder")
    if form == "peft":
        _save_peft(state, record, out)
    elif form == "published":
        shapes = {tuple(t.shape) for t in state.tensors.values()}
        if len(shapes) > 1:
            raise ConfigError("--format published: layers have states of several shapes, which that format cannot say")
        state.replace(metadata={}).save(out)
    else:
        state.save(out)
    if form == "hub":
        text = model_card(state, repo_id, base, results(record)) + "\n" + how_it_was_made(record)
    elif form == "peft":
        text = PEFT_CARD.format(
            model=record.model,
            task=record.task,
            seed=record.seed,
            loads=_loads(base),
            folder=out,
            made=how_it_was_made(record),
        )
    else:
        text = CARD.format(
            model=record.model, task=record.task, seed=record.seed, base=base, loads=_loads(base), folder=out,
            n_layers=len(state.tensors), architecture=state.architecture, alpha=state.alpha,
            normalized=", after division by its Frobenius norm per layer" if state.normalize else "",
            made=how_it_was_made(record),
        )  # fmt: skip
    write_text(out / "README.md", text)
    return out


PEFT_CARD = """\
# S0 adapter: {model}, {task}, seed {seed}

## Use

```python
import s0.peft  # makes PEFT know the type "S0"
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{loads}"), "{folder}")
```

{made}"""


def _save_peft(state: InitialState, record: Record, out: Path) -> None:
    """Through PEFT itself, on the base model, so that the names in the file are PEFT's."""
    try:
        from peft import get_peft_model
    except ImportError as error:
        raise ConfigError("--format peft: peft is not installed; pip install 'peft>=0.19,<0.22'") from error
    # start-up: peft
    from s0.peft import S0PeftConfig, set_initial_state

    config: Any = S0PeftConfig(
        task_type="CAUSAL_LM", layers=list(state.tensors), alpha=state.alpha, normalize=state.normalize
    )
    settings = ModelConfig(**record.config["model"])
    model = load_model(resolve_path(settings), settings, "cpu", "float32")
    tuned = get_peft_model(model, config)
    set_initial_state(tuned, state)
    tuned.save_pretrained(str(out))
