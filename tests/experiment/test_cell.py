"""The whole experiment on the embedded model at small limits: records, sharing through the store, and its edges."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from s0.cli.compose import make_plan, parse_args
from s0.config.schema import Config
from s0.errors import ArchitectureError, ConfigError, DataError
from s0.experiment.resources import Resources
from s0.experiment.run import run_cell
from s0.paths import EMBEDDED_MODELS as EMBEDDED
from s0.storage import keys
from s0.storage.records import Record, find_record, fingerprint, read_record
from s0.storage.store import Store

LIMITS = [
    "task.n_train=8",
    "task.n_eval=6",
    "task.samples_per_problem=4",
    "task.max_new_tokens=48",
    "method.n_steps=3",
    "engine.max_slots=32",
]


def config(tmp_path: Path, *overrides: str, limits: bool = True) -> Config:
    folders = [f"{k}={tmp_path / k}" for k in ("store", "records", "out")]
    return make_plan(parse_args([*(LIMITS if limits else []), *folders, *overrides])).cells[0].config


def run(cfg: Config) -> list[Record]:
    torch.set_num_threads(1)
    with Resources(Store(cfg.store), cfg.sandbox) as resources:
        return run_cell(cfg, resources, "test")


def completions(cfg: Config) -> int:
    return sum(len(p.read_text().splitlines()) for p in Path(cfg.store, "completions").glob("*.jsonl"))


def adapters(cfg: Config) -> int:
    return len(list(Path(cfg.store).glob("adapters-*/*")))


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    tmp = tmp_path_factory.mktemp("run")
    return tmp, run(config(tmp, "seed=[0,4]", "method.alpha=0.3"))


def test_one_record_per_seed_with_everything_a_reviewer_needs(first: tuple[Path, list[Record]]) -> None:
    tmp, records = first
    assert [r.seed for r in records] == [0, 4]
    assert len({r.key for r in records}) == 2
    for r in records:
        assert (r.status, r.error, r.alpha) == ("ok", None, 0.3)
        assert r.config["seed"] == r.seed
        assert len(r.model_info["weights_sha256"]) == len(r.model_info["tokenizer_sha256"]) == 64
        assert r.task_info["dataset_hash"]
        assert r.environment["isolation"].startswith("isolated")
        assert {"torch", "transformers"} <= r.environment["versions"].keys()
        assert {"sample", "train", "evaluate"} <= r.wall_s.keys()
        assert len(r.training.losses) == 3
        assert r.training.n_samples == 32
        assert r.training.n_solutions > 0
        assert r.baseline is not None
        assert r.tuned is not None
        assert len(r.baseline.outcomes) == len(r.tuned.outcomes) == 6
        assert all(o.completion for o in r.baseline.outcomes)
        path = next((tmp / "records").glob(f"*{r.key}.json"))
        assert fingerprint(read_record(path)) == fingerprint(r)
        lines = [json.loads(line) for line in path.with_suffix(".jsonl").read_text().splitlines()]
        assert [x["id"] for x in lines] == [o.problem_id for o in r.tuned.outcomes]
        assert {"prompt", "baseline", "tuned", "random_state"} <= lines[0].keys()


def test_seeds_share_one_greedy_baseline(first: tuple[Path, list[Record]]) -> None:
    _, records = first
    assert records[0].baseline_key == records[1].baseline_key
    assert records[0].baseline == records[1].baseline


def test_train_and_heldout_never_overlap(first: tuple[Path, list[Record]]) -> None:
    from s0.tasks import make_task

    for name in ("minieval", "humaneval"):
        task = make_task(name, {})
        assert not {p.id for p in task.problems("train")} & {p.id for p in task.problems("heldout")}


def test_another_alpha_samples_and_trains_nothing(first: tuple[Path, list[Record]]) -> None:
    tmp, records = first
    cfg = config(tmp, "seed=[0,4]", "method.alpha=0.6", "method.control=false")
    before, trained = completions(cfg), adapters(cfg)
    other = run(cfg)
    assert adapters(cfg) == trained
    assert completions(cfg) == before + 2 * 6  # only the two tuned evaluations are new
    assert [r.training.losses for r in other] == [r.training.losses for r in records]


def test_another_seed_reuses_the_baseline(first: tuple[Path, list[Record]]) -> None:
    tmp, _ = first
    cfg = config(tmp, "seed=9", "method.alpha=0.3", "method.control=false")
    before = completions(cfg)
    run(cfg)
    assert completions(cfg) == before + 8 * 4 + 6


def test_second_run_does_nothing_and_loads_no_model(
    first: tuple[Path, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp, records = first
    import s0.experiment.checkpoint

    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(s0.experiment.checkpoint, "load_model", refuse)
    again = run(config(tmp, "seed=[0,4]", "method.alpha=0.3"))
    assert [fingerprint(r) for r in again] == [fingerprint(r) for r in records]


def test_fresh_store_gives_the_same_record(first: tuple[Path, list[Record]], tmp_path: Path) -> None:
    """Same config and seed, same bytes, also when the other seed did not run beside it."""
    _, records = first
    (alone,) = run(config(tmp_path, "seed=4", "method.alpha=0.3"))
    ours, theirs = records[1], alone
    assert ours.tuned == theirs.tuned or [o.completion for o in ours.tuned.outcomes] == [  # type: ignore[union-attr]
        o.completion
        for o in theirs.tuned.outcomes  # type: ignore[union-attr]
    ]
    assert ours.baseline is not None
    assert theirs.baseline is not None
    assert [o.completion for o in ours.baseline.outcomes] == [o.completion for o in theirs.baseline.outcomes]


def test_alpha_auto_looks_at_training_problems_only(first: tuple[Path, list[Record]]) -> None:
    tmp, _ = first
    (r,) = run(config(tmp, "seed=0", "method.alpha=auto", "method.alpha_grid=[0.1,0.4]", "method.control=false"))
    assert r.training.alpha_source == "auto"
    assert set(r.training.alpha_scores) == {"0.1", "0.4"}
    best = max(r.training.alpha_scores.values())
    assert r.alpha == min(float(a) for a, s in r.training.alpha_scores.items() if s == best)
    # changing the held-out part cannot change the choice: the scores come from completions of training prompts alone
    (half,) = run(
        config(
            tmp,
            "seed=0",
            "method.alpha=auto",
            "method.alpha_grid=[0.1,0.4]",
            "method.control=false",
            "task.n_eval=3",
        )
    )
    assert half.training.alpha_scores == r.training.alpha_scores


def test_sampled_protocol_stores_counts(first: tuple[Path, list[Record]]) -> None:
    tmp, _ = first
    (r,) = run(
        config(tmp, "seed=0", "method.alpha=0.3", "task.eval_samples=3", "task.ks=[1,3]", "method.control=false")
    )
    assert r.tuned is not None
    assert r.tuned.protocol == "sampled"
    assert {o.n for o in r.tuned.outcomes} == {3}
    assert all(0 <= o.c <= 3 for o in r.tuned.outcomes)
    assert r.baseline_key


def test_legacy_padding_says_so_and_differs_in_key(first: tuple[Path, list[Record]]) -> None:
    tmp, records = first
    (r,) = run(
        config(
            tmp, "seed=0", "method.alpha=0.3", "task.legacy_padding=true", "task.legacy_batch=4", "method.control=false"
        )
    )
    assert r.tuned is not None
    assert (r.tuned.padding, r.tuned.legacy_batch) == ("legacy", 4)
    assert r.key != records[0].key


def test_no_verified_solution_is_a_record_not_a_crash(tmp_path: Path) -> None:
    """A random model of the real layout (config, safetensors, tokenizer with chat template) solves nothing."""
    folder = random_checkpoint(tmp_path / "falcon")
    (r,) = run(config(tmp_path, f"model.path={folder}", "model.name=random", "seed=0", "method.alpha=0.5"))
    assert r.status == "no_solutions"
    assert "nothing to train on" in str(r.error)
    assert r.baseline is not None
    assert r.tuned is None


@pytest.mark.parametrize("method", ["none", "state_offset", "lora"])
def test_every_method_runs_through_the_pipeline(first: tuple[Path, list[Record]], method: str) -> None:
    tmp, _ = first
    limits = [x for x in LIMITS if not x.startswith("method.")] + (["method.n_steps=2"] if method != "none" else [])
    cfg = config(tmp, f"method={method}", "seed=0", *limits, limits=False)
    (r,) = run(cfg)
    assert (r.status, r.method) == ("ok", method)
    assert r.tuned is not None
    assert r.method_info["inference_cost"] in ("none", "merge", "per-step")
    assert (r.method_info["trainable_params"] > 0) == (method != "none")


def test_prefix_tunes_the_transformer_and_refuses_the_hybrid(tmp_path: Path) -> None:
    small = ["task.n_train=8", "task.n_eval=4", "task.samples_per_problem=4", "method.n_steps=2", "seed=0"]
    (r,) = run(config(tmp_path, "model=tiny_transformer", "method=prefix", *small, limits=False))
    assert (r.status, r.method_info["inference_cost"]) == ("ok", "extra tokens")
    with pytest.raises(ArchitectureError):
        run(config(tmp_path, "model=tiny_gdn", "method=prefix", *small, limits=False))


def test_real_humaneval_end_to_end(tmp_path: Path) -> None:
    cfg = config(tmp_path, "task=humaneval", "task.n_train=2", "task.n_eval=2", "seed=0", "method.alpha=0.3")
    (r,) = run(cfg)
    assert r.status in ("ok", "no_solutions")
    assert r.baseline is not None
    assert [o.problem_id for o in r.baseline.outcomes] == ["HumanEval/80", "HumanEval/81"]


def test_pure_transformer_is_refused_by_s0(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="no recurrent layer"):
        run(config(tmp_path, "model=tiny_transformer", "seed=0", "method.alpha=0.3"))


def test_more_solutions_wanted_than_verified_is_one_line(tmp_path: Path, first: tuple[Path, list[Record]]) -> None:
    tmp, _ = first
    with pytest.raises(DataError, match="n_solutions=500"):
        run(config(tmp, "seed=0", "method.alpha=0.3", "method.n_solutions=500"))


def test_missing_checkpoint_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        run(config(tmp_path, "model.path=/nowhere/model"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json"):
        run(config(tmp_path, f"model.path={tmp_path / 'empty'}"))


def test_failed_records_do_not_count_as_done(first: tuple[Path, list[Record]], tmp_path: Path) -> None:
    tmp, records = first
    shutil.copytree(tmp / "records", tmp_path / "records")
    path = next((tmp_path / "records").glob(f"*{records[0].key}.json"))
    path.write_text(
        json.dumps(
            dataclasses.replace(
                records[0], status="failed", error="lost", baseline=None, tuned=None, controls={}, baseline_key=""
            ).to_json()
        )
    )
    assert find_record(tmp_path / "records", records[0].key) is None


def random_checkpoint(folder: Path) -> Path:
    """A random Falcon-H1 checkpoint in the real layout, with the embedded tokenizer and its chat template."""
    from transformers import AutoTokenizer, FalconH1Config, FalconH1ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED / "tiny_gdn")
    model = FalconH1ForCausalLM(
        FalconH1Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            mamba_d_ssm=32,
            mamba_n_heads=2,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_n_groups=1,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_changed_task_redoes_what_depends_on_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another prompt, stop string, cleaning rule, grader or optimiser setting: nothing stale is printed, and what does not
    depend on it is reused."""
    from s0.tasks.minieval import MiniEval

    small = [
        "seed=0",
        "method.alpha=1.0",
        "method.control=false",
        "task.n_train=2",
        "task.n_eval=2",
        "method.n_steps=1",
    ]

    def reused(*more: str) -> dict[str, tuple[int, int]]:
        run(config(tmp_path, *small, *more))
        (line,) = [x for x in capsys.readouterr().out.splitlines() if "reused" in x]
        return {
            kind: (int(a), int(b))
            for a, b, kind in re.findall(r"(\d+) of (\d+) (records|completions|trained states|verdicts)", line)
        }

    first = reused()
    assert {found for found, _ in first.values()} == {0}
    assert reused() == {"records": (1, 1)}
    clean, code = MiniEval.clean, keys._code
    changes: dict[str, Any] = {
        "instruction": "Complete this.\n\n", "stop": ("\n\n\n",), "version": 2,
        "clean": lambda self, problem, text: clean(self, problem, text) + "\n",
    }  # fmt: skip
    for name, value in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(MiniEval, name, value)
            if name == "clean":  # code is read from files: a test cannot edit the package's
                patch.setattr(keys, "_code", lambda p: code(p) + ("changed" if p.name == "minieval.py" else ""))
            counts = reused()
        assert counts["records"] == (0, 1)
        if name in ("instruction", "stop"):
            assert counts["completions"][0] == 0
        else:
            assert counts["completions"][0] == counts["completions"][1]
            assert counts["verdicts"][0] == 0
    counts = reused("method.lr=0.5")
    n = 2 * 4 + 2
    assert counts["completions"] == (n, n + 2)
    assert (counts["records"], counts.get("trained states", (0, 1))) == ((0, 1), (0, 1))
