"""Who works on what, and what became of it: claims on seeds, and the outcomes of a plan's cells."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s0.config.resolve import from_json, to_json
from s0.config.schema import Config
from s0.storage import keys
from s0.storage.files import write_json
from s0.storage.store import Store
from s0.sweep.failures import Failure
from s0.sweep.plan import Planned


@dataclass(frozen=True)
class CellOutcome:
    """What became of one cell: paths of its records, and its failures."""

    records: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __add__(self, other: CellOutcome) -> CellOutcome:
        return CellOutcome(self.records + other.records, self.failures + other.failures)


class Sweep:
    """The outcomes of a plan's cells by position: in memory, or in a folder that several processes share."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self._known: dict[int, CellOutcome] = {}

    @classmethod
    def create(cls, folder: Path, cells: Sequence[Planned]) -> Sweep:
        write_json(folder / "plan.json", [{**dataclasses.asdict(c), "config": to_json(c.config)} for c in cells])
        return cls(folder)

    def plan(self) -> list[Planned]:
        assert self.folder is not None
        return [
            Planned(**{**c, "config": from_json(c["config"])})
            for c in json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        ]

    def put(self, n: int, outcome: CellOutcome) -> None:
        self._known[n] = outcome
        if self.folder:
            write_json(self.folder / f"cell-{n:05d}.json", dataclasses.asdict(outcome))

    def get(self, n: int) -> CellOutcome | None:
        if n not in self._known and self.folder:
            with contextlib.suppress(FileNotFoundError):
                data = json.loads((self.folder / f"cell-{n:05d}.json").read_text(encoding="utf-8"))
                self._known[n] = CellOutcome(data["records"], [Failure(**f) for f in data["failures"]])
        return self._known.get(n)

    def attempt(self, n: int, what: str = "attempts") -> int:
        """Count one more process starting on cell n (called under its claim). Returns how many started before it."""
        if not self.folder:
            return 0
        path = self.folder / f"{what}-{n:05d}"
        before = path.stat().st_size if path.exists() else 0
        with open(path, "ab") as f:
            f.write(b".")
        return before

    def remove(self) -> None:
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def claim_name(config: Config, seed: int) -> str:
    """Claim under which one seed of a cell is computed."""
    return keys.claim(keys.config(config), seed)


@contextlib.contextmanager
def claimed(config: Config, seeds: Sequence[int], wait: bool) -> Iterator[list[int]]:
    """Hold the claims of those seeds that are free (wait=False; none if the first is taken), or of all (wait=True)."""
    store = Store(config.store)
    with contextlib.ExitStack() as held:
        mine = []
        for seed in sorted(seeds):  # one order for everybody: two waiting processes cannot wait for each other
            if held.enter_context(store.claim(claim_name(config, seed), wait=wait)):
                mine.append(seed)
            elif not mine:
                break
        yield [s for s in seeds if s in mine]
