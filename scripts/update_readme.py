"""Fill the generated blocks of README.md; run it after `make run`, a replication and `make bench`.

run     outputs/summary/screen.txt, what `make run` printed last
table1  the aggregate of experiments/records/table1_main
bench   experiments/bench/cpu_tiny_gdn.json and experiments/bench/growth/cpu_tiny_gdn.json
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from s0.storage.files import write_text

ROOT = Path(__file__).resolve().parent.parent


def run_block() -> str:
    text = (ROOT / "outputs" / "summary" / "screen.txt").read_text().rstrip()
    return f"`make run` ends with:\n\n```text\n{text}\n```"


def table_block() -> str:
    from s0.report.screen import screen_table
    from s0.storage.records import find_records, read_record

    records = [read_record(p) for p in find_records([ROOT / "experiments" / "records" / "table1_main"])]
    return f"```text\n{screen_table(records, 100).strip()}\n```"


def bench_block() -> str:
    folder = ROOT / "experiments" / "bench"
    data, growth = (json.loads((f / "cpu_tiny_gdn.json").read_text()) for f in (folder, folder / "growth"))
    r, seconds = data["results"], growth["results"]["growth"]["experiment_s_by_seeds"]
    rows = [
        (
            f"whole experiment, {r['experiment']['seeds']} seeds, start-up included, against the published procedure",
            f"{r['experiment']['ratio']:.1f}x faster ({r['experiment']['ours_s']:.0f} s against "
            f"{r['experiment']['naive_s_per_seed']:.0f} s per seed)",
        ),
        (
            f"training {r['experiment']['seeds']} seeds fused, against one batched training per seed",
            f"{r['training']['ratio_vs_separate']:.2f}x (arithmetic floor: {r['training']['arithmetic_floor_s']:.1f} s of "
            f"{r['training']['fused_s']:.1f} s)",
        ),
        ("... against one example at a time", f"{r['training']['ratio_vs_one_by_one']:.1f}x"),
        *(
            (f"decode tokens/s against `model.generate`, batch {n}", f"{r['decode'][f'batch_{n}']['ratio']:.2f}x")
            for n in (1, 8, 64)
        ),
        ("decode time, S0 on / off", f"{r['overhead']['ratio']:.3f}"),
        ("decode time, 16 states / 1 state in a batch", f"{r['states']['ratio']:.3f}"),
        (
            "one isolated check, against a plain subprocess",
            f"{r['checks']['sandbox_ms']:.1f} ms, {r['checks']['subprocess_ms']:.1f} ms",
        ),
        (
            f"whole experiment, {', '.join(seconds)} seeds (second command)",
            ", ".join(f"{s:.0f} s" for s in seconds.values()),
        ),
        ("`python run.py` to the loaded model", f"{r['startup']['first_work_s']:.1f} s"),
    ]
    body = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"`{data['command']}`, `{growth['command']}`\n\n| quantity | measured |\n|---|---|\n{body}"


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()  # no options: --help must not rewrite the file
    path = ROOT / "README.md"
    text = path.read_text()
    for name, make in (("run", run_block), ("table1", table_block), ("bench", bench_block)):
        try:
            block = make()
        except FileNotFoundError as missing:
            print(f"{name}: left as it is ({missing.filename} does not exist)")
            continue
        pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = pattern.sub(lambda m, b=block: f"{m[1]}{b}\n{m[2]}", text)
    write_text(path, text)


if __name__ == "__main__":
    main()
