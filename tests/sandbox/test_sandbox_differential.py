"""Own programs are judged as a plain interpreter runs them (`scripts/judge_differential.py` prints the table)."""

from __future__ import annotations

import differential
import pytest

from s0.sandbox import Sandbox

#: honest programs that cannot be judged here, each named in docs/sandbox.md
UNJUDGED = {"exception_stop_iteration"}


@pytest.mark.slow
def test_every_program_is_judged_as_it_runs() -> None:
    with Sandbox(workers=2) as sandbox:
        rows = differential.compare(sandbox)
    honest, wrong = [r for r in rows if r.honest], [r for r in rows if not r.honest]
    assert len(honest) >= 150
    assert len(wrong) >= 40
    assert all(r.plain for r in honest), "an honest program passes in a plain interpreter"
    assert not any(r.plain for r in wrong), "a wrong one does not"
    assert {r.name: (r.outcome, r.verdict) for r in rows if r.outcome.endswith("falsely")} == {}
    assert {r.name for r in rows if r.outcome == "unjudged"} == UNJUDGED


def test_names_are_unique() -> None:
    for kind in ("honest", "wrong"):
        names = [c.name for c in differential.read(differential.HERE / f"differential_{kind}.txt")]
        assert len(set(names)) == len(names)
