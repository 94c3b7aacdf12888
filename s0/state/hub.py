"""States on the Hugging Face Hub: a folder in the published three-file form with a generated model card.

    state.push_to_hub("me/s0-qwen3.5-4b-sql", base_model="Qwen/Qwen3.5-4B")
    state = InitialState.from_pretrained("me/s0-qwen3.5-4b-sql")        # or a local folder

Every network call goes through the `HfApi` given as `api` (default: huggingface_hub's, with its own endpoint and login).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from s0.errors import ConfigError, S0Error
from s0.storage.files import write_text

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from torch import Tensor


class SavedState(Protocol):
    """What the Hub form needs of a state (`InitialState` is one)."""

    @property
    def tensors(self) -> Mapping[int, Tensor]: ...

    @property
    def architecture(self) -> str: ...

    @property
    def alpha(self) -> float: ...

    @property
    def normalize(self) -> bool: ...

    @property
    def metadata(self) -> Mapping[str, Any]: ...

    def replace(self, **changes: Any) -> SavedState: ...

    def save(self, folder: Path) -> Any: ...


#: what a state needs; anything else in a repository is left alone
FILES = ("states.safetensors", "states.pt", "config.json", "meta.json")
TAGS = ("s0", "s0-tuning", "state-tuning", "initial-state")

CARD = """\
# {title}

{description}

## What this is

One learned initial state per recurrent layer of [{base_model}](https://huggingface.co/{base_model}): {n_layers} layers of
shape {shape} ({architecture}), {size} in fp32. The model's weights are unchanged; its recurrent layers start every
sequence from this state instead of zero, which costs nothing per token. Used with alpha = {alpha:g}{normalized}.
{results}
## Usage

```python
from huggingface_hub import snapshot_download
from s0 import S0Trainer

trainer = S0Trainer.from_pretrained("{base_model}")
trainer.load(snapshot_download("{repo_id}"))
trainer.activate()
print(trainer.generate("...", max_new_tokens=256))
```

Several states can share one loaded model, row by row:

```python
from s0 import StateBank

bank = StateBank(trainer.model, trainer.tokenizer)
bank.add("this", "{repo_id}")
bank.generate(["...", "..."], states=["this", None], max_new_tokens=256)
```

## Files

- `states.safetensors`: the state before alpha, one fp32 tensor per recurrent layer, keyed by the layer's index
- `config.json`: alpha, normalisation and what is known of the training
- `meta.json`: architecture, recurrent layers, state shape

Method: S0 tuning ([arXiv 2604.01168](https://arxiv.org/abs/2604.01168)).
"""


@dataclass(frozen=True)
class CardResult:
    """One row of a card's results. `tuned` and `base` are fractions in [0, 1]; `seeds` and `p_value` are shown if given."""

    benchmark: str
    tuned: float
    base: float | None = None
    metric: str = "pass@1"
    seeds: int | None = None
    p_value: float | None = None

    def __post_init__(self) -> None:
        for name in ("tuned", "base"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"CardResult.{name}={value}: must be a fraction in [0, 1], not a percentage")


def model_card(
    state: SavedState,
    repo_id: str,
    base_model: str,
    results: Sequence[CardResult] = (),
    description: str = "",
    license: str | None = None,
) -> str:
    """README.md of a state: YAML metadata (base_model, library_name, tags, results if given), then the card.

    A license is named only if given: that of the base model does not pass to the state by itself.
    """
    from huggingface_hub import EvalResult, ModelCardData

    evaluations = [
        EvalResult(
            task_type="text-generation",
            dataset_type=r.benchmark.lower(),
            dataset_name=r.benchmark,
            metric_type=r.metric,
            metric_value=round(100 * r.tuned, 2),
        )
        for r in results
    ]
    name = repo_id.split("/")[-1]
    options: dict[str, Any] = {"eval_results": evaluations, "model_name": name} if evaluations else {}
    data = ModelCardData(
        base_model=base_model,
        library_name="s0",
        pipeline_tag="text-generation",
        tags=[*TAGS, state.architecture.replace("_", "-")],
        license=license,
        **options,
    )
    shapes = sorted({tuple(t.shape) for t in state.tensors.values()})
    text = CARD.format(
        title=f"S0 state for {base_model.split('/')[-1]}: {name}",
        description=description or f"A learned initial recurrent state for {base_model}.",
        base_model=base_model,
        repo_id=repo_id,
        n_layers=len(state.tensors),
        shape=" or ".join(" × ".join(map(str, s)) for s in shapes),
        architecture=state.architecture,
        size=_size(4 * sum(t.numel() for t in state.tensors.values())),
        alpha=state.alpha,
        normalized=", after division by its Frobenius norm per layer" if state.normalize else "",
        results=_results(results),
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _size(n: int) -> str:
    return f"{n / 2**20:.1f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def _results(results: Sequence[CardResult]) -> str:
    if not results:
        return ""
    lines = [
        "\n## Results\n",
        "| benchmark | metric | base | with S0 | delta | seeds | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        base = "–" if r.base is None else f"{100 * r.base:.1f} %"
        delta = "–" if r.base is None else f"{100 * (r.tuned - r.base):+.1f} pp"
        seeds = "–" if r.seeds is None else str(r.seeds)
        p = "–" if r.p_value is None else f"{r.p_value:.2g}"
        lines.append(f"| {r.benchmark} | {r.metric} | {base} | {100 * r.tuned:.1f} % | {delta} | {seeds} | {p} |")
    return "\n".join(lines) + "\n"


def write_folder(
    state: SavedState, folder: str | Path, repo_id: str, base_model: str | None = None, **card: Any
) -> Path:
    """Write the state and its card into `folder`, ready to be pushed or read by `from_pretrained`. Raises StoreError,
    ConfigError where the base model is not known. `card` are the remaining arguments of `model_card`."""
    base_model = base_model or state.metadata.get("base_model")
    if not base_model:
        raise ConfigError(
            'base_model: not known for this state; give the model it was trained for, as "Qwen/Qwen3.5-4B"'
        )
    folder = Path(folder)
    state.replace(metadata={**state.metadata, "base_model": base_model}).save(folder)
    write_text(folder / "README.md", model_card(state, repo_id, base_model, **card))
    return folder


def push(
    state: SavedState,
    repo_id: str,
    base_model: str | None = None,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload S0 state",
    api: HfApi | None = None,
    **card: Any,
) -> str:
    """Create the repository if needed and upload the state with its card in one commit; returns the commit's address.

    Raises ConfigError (no base model), S0Error (the Hub refused or cannot be reached).
    """
    from huggingface_hub import CommitOperationAdd

    api = api or _default_api()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_folder(state, temporary, repo_id, base_model, **card)
        files = [CommitOperationAdd(p.name, str(p)) for p in sorted(folder.iterdir())]
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.create_commit(repo_id, files, commit_message=commit_message, revision=revision)
        except Exception as error:
            if not _is_hub_error(error):
                raise
            raise S0Error(
                f"push_to_hub {repo_id!r}: {_first_line(error)}; check the name, log in with `hf auth login`, and try again"
            ) from error
    return str(commit.commit_url)


def fetch(repo_or_dir: str | Path, *, revision: str | None = None, api: HfApi | None = None) -> Path:
    """Folder that holds a state: a local one, or a snapshot of a Hub repository (only the state's own files).

    Raises S0Error where there is neither.
    """
    local = Path(repo_or_dir).expanduser()
    if local.is_dir():
        return local
    name = str(repo_or_dir)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise S0Error(
            f"state {name!r}: no such folder; give a folder written by save(), or a Hub repository as user/name"
        )
    try:
        return Path(
            (api or _default_api()).snapshot_download(name, revision=revision, allow_patterns=[*FILES])  # type: ignore[arg-type]
        )
    except Exception as error:
        if not _is_hub_error(error):
            raise
        raise S0Error(
            f"state {name!r}: no such folder, and the Hub answered: {_first_line(error)}; check the name and the network"
        ) from error


def _default_api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="s0")


def _is_hub_error(error: Exception) -> bool:
    """What huggingface_hub raises for a Hub that refuses, is unreachable, or is switched off; anything else is a bug."""
    from huggingface_hub import errors

    http = (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    return isinstance(error, (*http, errors.HFValidationError, OSError)) or type(error).__module__.startswith("httpx")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
