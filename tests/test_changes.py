"""How many places a change touches. Each test makes the change the way docs/architecture.md says and sees it work."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from s0.cli.compose import make_plan
from s0.config import registry, schema
from s0.config.registry import Entry, find, load, make
from s0.data import Verdict
from s0.storage import keys
from s0.tasks import make_task
from s0.tasks.humaneval import HumanEval
from s0.tasks.minieval import MiniEval

ROOT = Path(__file__).parents[1]


def plan(*argv: str) -> Any:
    from s0.cli.compose import parse_args

    return make_plan(parse_args(list(argv)))


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands for the one new file of a change."""
    module = types.ModuleType("s0_test_room")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_task_is_a_file_and_a_line(room: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shouting(MiniEval):
        name = "shouting"
        instruction = "ANSWER:"

    room.Shouting = Shouting  # type: ignore[attr-defined]
    monkeypatch.setitem(registry.TASKS, "shouting", Entry("s0_test_room:Shouting", schema.HumanEvalTask))
    (cell,) = plan("task=shouting", "task.n_eval=3").cells
    task = make("task", cell.config.task)
    assert isinstance(task, Shouting)
    assert len(task.problems("heldout")) == 3
    assert not (ROOT / "configs" / "task" / "shouting.yaml").exists()  # a file is only needed for values of its own


def test_a_method_is_a_file_its_settings_and_a_line(room: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from s0.methods.none import NoMethod

    @dataclasses.dataclass
    class StillMethod(schema.TrainedMethod):
        name: str = "still"
        calm: float = 1.5

    class Still(NoMethod):
        name = "still"

    room.Still = Still  # type: ignore[attr-defined]
    monkeypatch.setitem(registry.METHODS, "still", Entry("s0_test_room:Still", StillMethod))
    (cell,) = plan("method=still", "method.calm=2.5").cells
    assert isinstance(cell.config.method, StillMethod)
    assert (cell.config.method.calm, cell.config.method.lr) == (2.5, 1e-3)
    assert make("method", cell.config.method).determinants()["calm"] == 2.5  # in the keys without a word


def test_an_engine_is_a_file_and_a_line(room: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from s0.engines.naive import NaiveEngine

    class Slow(NaiveEngine):
        pass

    room.Slow = Slow  # type: ignore[attr-defined]
    monkeypatch.setitem(registry.ENGINES, "slow", Entry("s0_test_room:Slow", schema.EngineConfig))
    (cell,) = plan("engine=slow").cells
    assert isinstance(make("engine", cell.config.engine), Slow)


def test_a_tracker_is_a_file_and_a_line(
    room: types.ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from s0.tracking import base

    seen: list[Any] = []

    def write_run(config: Any, record: Any) -> str:
        seen.append(record)
        return "nowhere"

    room.write_run = write_run  # type: ignore[attr-defined]
    monkeypatch.setattr(base, "fingerprint", lambda record: "f")
    monkeypatch.setitem(registry.TRACKERS, "list", Entry("s0_test_room:write_run", schema.TrackingConfig))
    (cell,) = plan("tracking=list", f"tracking.dir={tmp_path}").cells
    record = types.SimpleNamespace(key="k", seed=0)
    base.track(cell.config.tracking, [record])  # type: ignore[list-item]
    assert seen == [record]


def test_an_analysis_is_a_function_and_a_line(room: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    room.count = lambda cell, state, record: {"n": 1}  # type: ignore[attr-defined]
    monkeypatch.setitem(registry.ANALYSES, "count", Entry("s0_test_room:count"))
    (cell,) = plan("analysis=count").cells
    assert load(find("analysis", cell.config.analysis).target)(None, None, None) == {"n": 1}


def test_an_optimiser_is_a_class_and_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """training/optimizers.py and the tuple in training/settings.py: methods, S0 and LoRA alike take it from there."""
    import torch

    from s0.training import optimizers

    class Sign(optimizers.JobOptimizer):
        single = torch.optim.SGD

        def update(self, p: Any, g: Any, lr: Any, memory: list[Any]) -> None:
            p.sub_(lr * g.sign())

    monkeypatch.setitem(optimizers.OPTIMIZERS, "sign", Sign)
    p = torch.zeros(1, 2)
    p.grad = torch.tensor([[3.0, -4.0]])
    optimizers.OPTIMIZERS["sign"]([p], torch.tensor([0.5]), torch.tensor([0.0])).step()
    assert p.tolist() == [[-0.5, 0.5]]
    users = [f for f in (ROOT / "s0").rglob("*.py") if "OPTIMIZERS" in f.read_text(encoding="utf-8")]
    assert {f.name for f in users} == {"optimizers.py", "settings.py", "fit.py", "loop.py"}


@pytest.mark.parametrize(("attribute", "value"), [("instruction", "Write nothing."), ("stop", ("\nclass ",))])
def test_a_prompt_or_a_stop_string_is_one_line_and_redoes_what_depends_on_it(
    attribute: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        task = make_task("humaneval", {"n_train": 2, "n_eval": 2})
        asked = keys.messages([task.messages(p) for p in task.problems("train")])
        return keys.record("c", "m", task.dataset_hash(), asked, {"stop": list(task.stop)}, {}, task, 0)

    before = key()
    monkeypatch.setattr(HumanEval, attribute, value)
    assert key() != before


def test_a_grader_is_one_file_and_its_verdicts_are_made_again(tmp_path: Path) -> None:
    """Two classes that differ in how they grade have different keys, without anybody listing anything."""
    sources = []
    for n, verdict in enumerate(("pass", "wrong")):
        file = tmp_path / f"own_grader_{n}.py"
        file.write_text(
            "from s0.data import Verdict\nfrom s0.tasks.humaneval import HumanEval\n\n\nclass Own(HumanEval):\n"
            f"    def grade_many(self, items, sandbox):\n        return [Verdict('{verdict}') for _ in items]\n"
        )
        sys.path.insert(0, str(tmp_path))
        try:
            own = load(f"own_grader_{n}:Own")
        finally:
            sys.path.remove(str(tmp_path))
        assert own.grade_many(None, [1], None) == [Verdict(verdict)]  # type: ignore[arg-type]
        sources.append(keys.sources_of(own))
    assert len(set(sources)) == 2
    assert keys.sources_of(HumanEval) not in sources
