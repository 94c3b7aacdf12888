"""The WriteSAE study of one model and site: capture, train a dictionary, evaluate it, substitute; one result per seed.

    results = run_study(checkpoint, store, settings, seeds, records)

Work is kept in the store under keys of everything that determines it, and a result that exists is found again.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s0.errors import ConfigError, S0Error
from s0.experiment.checkpoint import Checkpoint
from s0.runtime.environment import git_state, versions
from s0.runtime.progress import bar
from s0.storage import keys
from s0.storage.files import atomic_path, write_json
from s0.storage.store import Store
from s0.writesae.capture import Site, Writes, capture, capture_states, token_sequences
from s0.writesae.dictionaries import INPUTS, DictionaryConfig, WriteSAE
from s0.writesae.substitute import CONDITIONS, choose_firings, effects, replacements, summary
from s0.writesae.train import TrainSettings, evaluate, train

SUFFIX = ".writesae.json"


@dataclass(frozen=True)
class StudySettings:
    """What one result depends on besides model and seed. The defaults are the embedded models' (published: s0.writesae.presets).

    sequences  documents captured; every fifth is held out (whole sequences)    firings  held-out tokens, one per sequence
    window     KL is summed over t..t+window (0: at t)                          state_samples  states per sequence (input=state)
    """

    site: str = "2.2"
    variant: str = "bilinear"
    activation: str = "topk"
    input: str = "corrected"
    n_features: int = 256
    k: int = 1
    rank: int = 1
    corpus: str = "grammar"
    sequences: int = 1000
    firings: int = 192
    window: int = 8
    state_samples: int = 16
    steps: int = 600
    batch: int = 512
    lr: float = 3e-3

    def __post_init__(self) -> None:
        Site.parse(self.site)
        if self.input not in INPUTS:
            raise ConfigError(f"input={self.input!r}: must be one of {', '.join(INPUTS)}")
        for name in ("sequences", "firings", "steps", "batch", "state_samples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.window < 0 or self.lr <= 0:
            raise ConfigError(f"window={self.window}, lr={self.lr}: window must not be negative, lr must be above 0")


#: published share of firings on which the atom beats deletion, Table 2 of the paper: shown beside what is measured here
PUBLISHED_WIN = {"gated_delta_net": 0.924, "mamba2": 0.8808}


def result_key(checkpoint: Checkpoint, settings: StudySettings, seed: int) -> str:
    return keys.study("writesae", checkpoint.key, dataclasses.asdict(settings), seed, ("s0.writesae",))


def dictionary_key(checkpoint: Checkpoint, settings: StudySettings, seed: int) -> str:
    """A trained dictionary: everything but how it is evaluated."""
    training = {n: v for n, v in dataclasses.asdict(settings).items() if n not in ("firings", "window")}
    return keys.study("dictionary", checkpoint.key, training, seed, ("s0.writesae",))


def split(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the training and of the held-out sequences."""
    numbers = torch.arange(n)
    return numbers[numbers % 5 != 0], numbers[numbers % 5 == 0]


def run_study(
    checkpoint: Checkpoint,
    store: Store,
    settings: StudySettings,
    seeds: Sequence[int],
    records: Path,
    command: str = "",
) -> list[dict[str, Any]]:
    """Results of one site, one per seed: found if they exist, computed otherwise. Raises S0Error."""
    folder = Path(records)
    named = {seed: result_key(checkpoint, settings, seed) for seed in seeds}
    found = {seed: r for seed in seeds if (r := find_result(folder, named[seed])) is not None}
    todo = [s for s in seeds if s not in found]
    if todo:
        site = Site.parse(settings.site)
        site.check(checkpoint.layout)
        start = time.monotonic()
        sequences = token_sequences(checkpoint, settings.corpus, settings.sequences)
        writes = _captured(checkpoint, settings, site, sequences)
        seconds = {"capture": time.monotonic() - start}
        for seed in todo:
            with store.claim(f"writesae-{named[seed]}"):
                result = find_result(folder, named[seed])
                if result is None:
                    result = _run_seed(checkpoint, store, settings, site, writes, seed, dict(seconds))
                    result |= {"key": named[seed], "command": command}
                    write_json(folder / file_name(result), result)
            found[seed] = result
    return [found[s] for s in seeds]


def _captured(checkpoint: Checkpoint, settings: StudySettings, site: Site, sequences: list[list[int]]) -> Writes:
    write = "additive" if settings.input == "additive" else "corrected"
    with bar(f"writes of site {site}", None, "tokens", quiet_s=1.0) as progress:
        writes = capture(checkpoint.model, checkpoint.layout, site, sequences, write)
        progress.advance(len(writes))
    return writes


def _run_seed(
    checkpoint: Checkpoint,
    store: Store,
    settings: StudySettings,
    site: Site,
    writes: Writes,
    seed: int,
    seconds: dict[str, float],
) -> dict[str, Any]:
    training, heldout = split(settings.sequences)
    start = time.monotonic()
    sae, losses = _dictionary(checkpoint, store, settings, site, writes, training, seed)
    seconds["train"] = time.monotonic() - start
    held = writes.of(heldout)
    start = time.monotonic()
    quality = evaluate(sae, _inputs(checkpoint, settings, site, writes, heldout, seed + 1_000_003))
    firings = choose_firings(held, settings.firings, seed, after=max(2, min(settings.window, 4)))
    conditions = replacements(sae, firings, seed)
    kl = effects(checkpoint.model, checkpoint.layout, site, writes.sequences, firings, conditions, settings.window)
    seconds["substitute"] = time.monotonic() - start
    decay = float(held.g.double().mean().exp())
    return {
        "study": "writesae",
        "model": checkpoint.name,
        "architecture": checkpoint.layout.architecture,
        "seed": seed,
        "settings": dataclasses.asdict(settings),
        "tokens": len(writes),
        "quality": quality,
        "decay": decay,
        "substitution": summary(kl),
        "kl": {c: v.tolist() for c, v in kl.items()},
        "final_loss": losses[-1] if losses else None,
        "parameters": sae.n_parameters(),
        "environment": {**git_state(), "versions": versions()},
        "wall_s": {n: round(s, 3) for n, s in seconds.items()},
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _inputs(
    checkpoint: Checkpoint, settings: StudySettings, site: Site, writes: Writes, numbers: torch.Tensor, seed: int
) -> tuple[torch.Tensor, ...]:
    """What the dictionary sees of these sequences: write factors, or sampled states."""
    if settings.input != "state":
        part = writes.of(numbers)
        return part.k, part.u
    texts = [writes.sequences[i] for i in numbers.tolist()]
    states, _ = capture_states(checkpoint.model, checkpoint.layout, site, texts, settings.state_samples, seed)
    return (states,)


def _dictionary(
    checkpoint: Checkpoint,
    store: Store,
    settings: StudySettings,
    site: Site,
    writes: Writes,
    training: torch.Tensor,
    seed: int,
) -> tuple[WriteSAE, list[float]]:
    """The stored dictionary, or a newly trained one (a killed training goes on from its snapshot)."""
    key = dictionary_key(checkpoint, settings, seed)
    folder = store.folder("dictionaries", key)
    if store.has_folder("dictionaries", key):
        return WriteSAE.load(folder), json.loads((folder / "losses.json").read_text())
    config = DictionaryConfig(
        writes.k.shape[1],
        writes.u.shape[1],
        settings.n_features,
        settings.k,
        settings.rank,
        settings.variant,
        settings.activation,
        settings.input,
    )
    data = _inputs(checkpoint, settings, site, writes, training, seed)
    options = TrainSettings(steps=settings.steps, batch=settings.batch, lr=settings.lr, seed=seed)
    snapshot = store.root / "partial" / f"{key}.pt"
    resume = torch.load(snapshot, map_location="cpu", weights_only=True) if snapshot.exists() else None
    last = time.monotonic()
    with bar(f"dictionary of site {site}, seed {seed}", settings.steps, "steps") as progress:

        def on_step(step: int, make: Any, loss: float) -> None:
            nonlocal last
            progress.to(step, settings.steps)
            progress.note(f"loss {loss:.4f}")
            if time.monotonic() - last > 30:
                with atomic_path(snapshot) as temporary:
                    torch.save(make(), temporary)
                last = time.monotonic()

        done = train(config, data, options, resume, on_step)
    evaluate(done.sae, data)  # leaves each feature's density in the dictionary
    with store.new_folder("dictionaries", key) as new:
        done.sae.save(new, {"model": checkpoint.name, "site": str(site), "seed": seed, "tokens": len(data[0])})
        write_json(new / "losses.json", done.losses)
    snapshot.unlink(missing_ok=True)
    return done.sae, done.losses


# -- results --------------------------------------------------------------------------------------------------------------


def file_name(result: dict[str, Any]) -> str:
    s = result["settings"]
    what = f"{result['model']}.{s['site']}.{s['variant']}.{s['input']}"
    return f"{what}.seed{result['seed']}.{result['key']}{SUFFIX}"


def find_result(folder: Path, key: str) -> dict[str, Any] | None:
    """The result with this key, or None. Raises S0Error for a torn file."""
    for path in sorted(Path(folder).glob(f"*.{key}{SUFFIX}")):
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise S0Error(f"{path}: not a readable result ({error}); delete it and run the study again") from error
    return None


def table(results: Sequence[dict[str, Any]]) -> str:
    """The study's table as text: every condition, pooled over seeds, the null and the random rows included."""
    first = results[0]
    pooled: dict[str, Any] = {}
    for c in CONDITIONS:
        pooled[c] = np.concatenate([np.asarray(r["kl"][c]) for r in results])
    values = summary(pooled)
    published = PUBLISHED_WIN.get(first["architecture"])
    lines = [
        f"{first['model']}, site {first['settings']['site']} (decay {first['decay']:.3f}), {first['settings']['variant']} "
        f"{first['settings']['input']}, {len(results)} seed(s), {values['n']} of {values['n_all']} firings above the floor",
        f"{'condition':<17}{'median KL':>11}{'beats deletion':>16}{'95 %':>15}{'recovered':>11}",
    ]
    for name, row in values["conditions"].items():
        if row["win"] is None:
            continue
        interval = "" if row["win_low"] is None else f"[{100 * row['win_low']:.0f}, {100 * row['win_high']:.0f}]"
        win = "" if name == "delete" else f"{100 * row['win']:.1f} %"
        lines.append(f"{name:<17}{row['median_kl']:>11.2e}{win:>16}{interval:>15}{row['recovered']:>11.2f}")
    quality = {n: sum(r["quality"][n] for r in results) / len(results) for n in first["quality"]}
    lines.append("  ".join(f"{n} {v:.3f}" for n, v in quality.items()))
    if published is not None:
        measured = values["conditions"]["atom"]["win"]
        lines.append(
            f"atom beats deletion: published {100 * published:.1f} % (other models, dictionaries of states, see "
            f"docs/writesae.md), measured here {'-' if measured is None else f'{100 * measured:.1f} %'}"
        )
    return "\n".join(lines)
