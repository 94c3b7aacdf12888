"""False-positive rates and coverage of every p and interval a table prints: python scripts/null_simulation.py

Synthetic experiments whose truth is known go through `aggregate`, the code every table uses. Writes
experiments/statistics/null_simulation.csv and .json (with seed and command) and the table of docs/statistics.md; minutes.
"""

from __future__ import annotations

import argparse
import csv
import functools
import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from s0.data import Outcome, Verdict
from s0.report.aggregate import Row, aggregate
from s0.storage.files import write_json, write_text
from s0.storage.records import Evaluation, Record, TrainingSummary

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "experiments" / "statistics"
SEEDS = (1, 3, 10)
N_SAMPLES = 10
LEVEL = 0.05

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Null:
    """One data-generating process. `draw(rng, seeds, problems)` returns passes (base [seeds or 1, problems], tuned
    [seeds, problems]) out of `n` answers; the mean difference over the population of seeds and problems is `delta`."""

    name: str
    text: str
    draw: Callable[[np.random.Generator, int, int], tuple[Counts, Counts]]
    n: int = 1
    delta: float = 0.0


def _passes(rng: np.random.Generator, n: int, chance: NDArray[np.float64], shape: tuple[int, int]) -> Counts:
    return rng.binomial(n, np.broadcast_to(chance, shape))


def _abilities(rng: np.random.Generator, problems: int) -> NDArray[np.float64]:
    """Success probability per problem [1, problems]: most are nearly always or nearly never solved."""
    return rng.beta(0.6, 0.6, (1, problems))


def fixed_baseline(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    base = _passes(rng, 1, np.full((1, problems), 0.5), (1, problems))
    flips = _passes(rng, 1, np.full((1, 1), 0.15), (seeds, problems))
    return base, np.where(flips == 1, 1 - base, base)


def shared_draw(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    chance = _abilities(rng, problems)
    return _passes(rng, 1, chance, (1, problems)), _passes(rng, 1, chance, (seeds, problems))


def problem_shifts(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    base = _passes(rng, 1, np.full((1, problems), 0.5), (1, problems))
    turned = np.where(rng.random((1, problems)) < 0.15, 1 - base, base)
    return base, np.where(rng.random((seeds, problems)) < 0.02, 1 - turned, turned)


def own_baselines(n: int) -> Callable[[np.random.Generator, int, int], tuple[Counts, Counts]]:
    def draw(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
        chance = _abilities(rng, problems)
        return _passes(rng, n, chance, (seeds, problems)), _passes(rng, n, chance, (seeds, problems))

    return draw


def seed_shifts(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    base = _passes(rng, 1, np.full((1, problems), 0.5), (1, problems))
    up = np.clip(rng.normal(0.15, 0.05, (seeds, 1)), 0, 0.3)
    return base, np.where(rng.random((seeds, problems)) < np.where(base == 1, 0.3 - up, up), 1 - base, base)


def rare_gain(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    return np.zeros((1, problems), np.int64), _passes(rng, 1, np.full((1, 1), 0.02), (seeds, problems))


def rare_gain_shared(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    gained = _passes(rng, 1, np.full((1, 1), 0.02), (1, problems))
    return np.zeros((1, problems), np.int64), np.broadcast_to(gained, (seeds, problems))


def large_gain(rng: np.random.Generator, seeds: int, problems: int) -> tuple[Counts, Counts]:
    gained = _passes(rng, 1, np.full((1, 1), 0.37), (1, problems))
    return np.zeros((1, problems), np.int64), np.broadcast_to(gained, (seeds, problems))


NULLS = (
    Null("fixed baseline", "baseline fixed by the problem; each run flips 15 % of problems", fixed_baseline),
    Null("shared baseline draw", "one baseline for all seeds, drawn from the runs' own probabilities", shared_draw),
    Null(
        "problem shifts", "the state turns 15 % of problems, the same for all seeds, and each run 2 %", problem_shifts
    ),
    Null("own baseline, greedy", "a baseline per seed, drawn like the tuned run", own_baselines(1)),
    Null("own baseline, sampled", "the same with 10 samples per problem", own_baselines(N_SAMPLES), N_SAMPLES),
    Null("seed shifts", "each seed moves all problems: standard deviation 5 points", seed_shifts),
    Null("rare gain", "true gain 2 points: each run solves 2 % more, breaks none", rare_gain, delta=0.02),
    Null(
        "rare gain, shared", "true gain 2 points: the same 2 % of problems for all seeds", rare_gain_shared, delta=0.02
    ),
    Null("large gain, shared", "true gain 37 points: the same problems for all seeds", large_gain, delta=0.37),
)


@functools.cache
def _outcome(problem: int, n: int, c: int) -> Outcome:
    return Outcome(f"P/{problem}", "", Verdict("pass" if c == n else "wrong"), n=n, c=c)


def _evaluation(passes: Counts, n: int) -> Evaluation:
    outcomes = [_outcome(i, n, c) for i, c in enumerate(passes.tolist())]
    return Evaluation("x", "sampled" if n > 1 else "greedy", outcomes, n_samples=n)


def experiment(null: Null, rng: np.random.Generator, seeds: int, problems: int) -> list[Record]:
    """The records of one synthetic experiment."""
    base, tuned = null.draw(rng, seeds, problems)
    shared = [_evaluation(row, null.n) for row in base]
    records = []
    for seed in range(seeds):
        which = seed if len(shared) == seeds else 0
        records.append(
            Record(
                key=f"k{seed}",
                status="ok",
                experiment="",
                model="m",
                task="t",
                method="s0",
                seed=seed,
                alpha=1.0,
                error=None,
                config={},
                config_hash="",
                model_info={},
                task_info={},
                method_info={},
                training=TrainingSummary(),
                baseline=shared[which],
                tuned=_evaluation(tuned[seed], null.n),
                controls={},
                baseline_key=f"b{which}",
                environment={},
                wall_s={},
                created="",
            )
        )
    return records


def _measured(row: Row, delta: float) -> dict[str, float]:
    """1 or 0 per p (below the level) and interval (holds the truth); NaN where the table prints none."""
    ps = {"p": row.p_value, "welch_p": row.welch_p, "paired_p": row.paired_p, "mcnemar_p": row.mcnemar_p}
    found = {name: math.nan if math.isnan(p) else float(p < LEVEL) for name, p in ps.items()}
    low, high = row.interval.low, row.interval.high
    found["coverage"] = math.nan if math.isnan(low) else float(low <= 100 * delta <= high)
    return found


def simulate(null: Null, seeds: int, n: int, problems: int, seed: int) -> dict[str, float]:
    """Rates over `n` experiments, NaN where nothing is printed; false-positive rates only where the truth is 0."""
    rng = np.random.default_rng([seed, seeds, *null.name.encode()])
    rows = [_measured(aggregate(experiment(null, rng, seeds, problems))[0], null.delta) for _ in range(n)]
    rates = {}
    for name in rows[0]:
        values = [r[name] for r in rows if not math.isnan(r[name])]
        # the conditional rate of a p that a few experiments lack is that of the printed ones
        rates[name] = float(np.mean(values)) if values else math.nan
    if null.delta:
        rates |= {name: math.nan for name in rates if name != "coverage"}
    return rates


COLUMNS = ("p", "welch_p", "paired_p", "mcnemar_p", "coverage")


def document(lines: list[dict[str, str]]) -> str:
    """The block of docs/statistics.md: rates in percent, those outside the target marked."""
    head = "| truth | seeds | p | Welch p | paired p | McNemar p | coverage of the 95 % CI |"
    out = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for line in lines:
        cells = []
        for name in COLUMNS:
            value = line[name]
            low, high = (93, 97) if name == "coverage" else (3, 7)
            text = "–" if not value else f"{100 * float(value):.1f}"
            cells.append(text if not value or low <= float(text) <= high else f"**{text}**")
        out.append(f"| {line['truth']} | {line['seeds']} | {' | '.join(cells)} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=2000, help="synthetic experiments per line (2000)")
    parser.add_argument("--problems", type=int, default=84, help="held-out problems of each (84)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=STORED)
    args = parser.parse_args()
    lines = []
    for null in NULLS:
        for seeds in SEEDS:
            rates = simulate(null, seeds, args.experiments, args.problems, args.seed)
            values = {k: "" if math.isnan(v) else f"{v:.4f}" for k, v in rates.items()}
            lines.append({"truth": null.name, "delta_pp": f"{100 * null.delta:g}", "seeds": str(seeds), **values})
            print(lines[-1], flush=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, ["truth", "delta_pp", "seeds", *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    write_text(args.out / "null_simulation.csv", out.getvalue())
    about = {
        "command": f"python scripts/null_simulation.py --experiments {args.experiments} --problems {args.problems} "
        f"--seed {args.seed}",
        "level": LEVEL,
        "truths": {n.name: n.text for n in NULLS},
    }
    write_json(args.out / "null_simulation.json", about)
    if args.out != STORED:  # the page shows the stored table and no other
        return
    page = ROOT / "docs" / "statistics.md"
    pattern = re.compile(r"(<!-- null:begin -->\n).*?(<!-- null:end -->)", re.DOTALL)
    write_text(page, pattern.sub(lambda m: f"{m[1]}{document(lines)}\n{m[2]}", page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
