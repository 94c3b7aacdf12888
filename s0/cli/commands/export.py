"""`s0 export`: the learned state of a record as files others can load."""

from __future__ import annotations

from pathlib import Path

from s0.cli.arguments import Parser
from s0.errors import ConfigError, DataError
from s0.storage.records import find_records, read_record

DESCRIPTION = """
Write the learned state of a record, with a card made from the record.

  s0 export outputs/records -o states
  s0 export outputs/records --seed 0 -o my_state
  s0 export RECORD.json -o my_adapter --format peft
  s0 export RECORD.json -o upload --format hub --repo me/my-state

Formats: s0 (S0Trainer.load, StateBank.add), published (s0-tuning 0.1.2), peft
(PeftModel.from_pretrained after import s0.peft), hub (a folder for hf upload).
A folder with several states is written as one folder per state.
"""


def main(argv: list[str], program: str = "s0 run") -> int:
    parser = Parser("export", DESCRIPTION)
    parser.add_argument("records", nargs="+", type=Path, help="record files, or folders searched recursively")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--format", default="s0", metavar="FORMAT", help="s0 (default), published, peft or hub")
    parser.add_argument("--seed", type=int, help="only the record of this seed")
    parser.add_argument("--store", type=Path, help="store the run used (default: the record's)")
    parser.add_argument("--repo", default="", help="USER/NAME on the Hub, for --format hub")
    args = parser.parse_args(argv)
    records = [read_record(p) for p in find_records(args.records)]
    if args.seed is not None:
        records = [r for r in records if r.seed == args.seed]
    chosen = [r for r in records if r.method == "s0" and r.status == "ok"]
    where = " ".join(map(str, args.records)) + (f", seed {args.seed}" if args.seed is not None else "")
    if not chosen:
        others = sorted({f"{r.method} ({r.status})" for r in records})
        raise DataError(f"{where}: no record of a learned state there{'; found ' if others else ''}{', '.join(others)}")
    if args.format == "hub" and len(chosen) > 1:
        raise ConfigError(f"{where}: {len(chosen)} states; --format hub makes one repository: choose one (--seed N)")
    # start-up: torch
    from s0.export.files import export

    for r in chosen:
        label = f"alpha{r.config['method']['alpha']}-{r.key[:8]}"
        out = args.out / f"{r.model}__{r.task}__{label}__seed{r.seed}" if len(chosen) > 1 else args.out
        path = export(r, out, args.format, args.store, args.repo)
        print(f"wrote {path} ({r.model}, {r.task}, seed {r.seed}, alpha {r.alpha:g})")
    return 0
