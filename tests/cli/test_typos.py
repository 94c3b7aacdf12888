"""A typo anywhere is one line with the valid choices, exit code 2, before anything heavy is imported or contacted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

#: command line -> what its one line must hold
TYPOS: dict[tuple[str, ...], list[str]] = {
    # group option, group name, key in a group, key on the top level
    ("model=tiny_gnd",): ["model=tiny_gnd", "did you mean tiny_gdn?", "qwen35_4b"],
    ("modle=tiny_gdn",): ["modle", "did you mean model?", "task"],
    ("method.alhpa=3",): ["method.alhpa", "did you mean alpha?", "n_steps"],
    ("sed=3",): ["sed", "did you mean seed?"],
    ("engine.slots=3",): ["engine.slots", "max_slots"],
    ("tracking=wandbb",): ["did you mean wandb?", "none"],
    ("experiment=table1",): ["did you mean table1_main?"],
    ("debug=limit",): ["did you mean limits?", "overfit"],
    ("sandbox.worker=3",): ["did you mean workers?"],
    # plus signs get past Hydra, not past us
    ("+method.alhpa=2",): ["method.alhpa", "did you mean alpha?"],
    ("++task.n_trian=2",): ["task.n_trian", "did you mean n_train?"],
    ("+foo=1",): ["foo", "unknown key", "seed"],
    ("+seed=1",): ["+seed", "without the plus sign"],
    ("+model.hyperparameters.s0.alhpa=3",): ["did you mean alpha?"],
    # deletions
    ("~bar",): ["bar", "unknown key or group"],
    # wrong type
    ("task.n_train=abc",): ["task.n_train", "'abc'", "Integer"],
    ("task.temperature=hot",): ["task.temperature", "'hot'", "Float"],
    ("dry_run=maybe",): ["dry_run", "'maybe'", "bool"],
    ("task.ks=3",): ["task.ks", "list"],
    ("workers=1.5",): ["workers", "1.5", "Integer"],
    # bad value
    ("method.alpha=high",): ["method.alpha='high'", "must be a number or auto, or null"],
    ("task.top_p=2",): ["task.top_p=2", "more than 0, at most 1"],
    ("model.dtype=float31",): ["did you mean float32?", "bfloat16"],
    ("model.device=gpu",): ["model.device", "cuda"],
    ("task.name=humanevil",): ["did you mean humaneval?", "gsm8k"],
    ("scale=small",): ["scale='small'", "paper, tiny"],
    ("analysis=prob",): ["did you mean probe?", "persistence"],
    ("workers=-1",): ["workers=-1", "0"],
    ("seed=9..0",): ["9..0", "reversed", "0..9"],
    ("seed=true",): ["seed=True", "seed=3"],
    ("seed=x",): ["seed=x", "seed=0..9"],
    ("model.path=embedded:tiny",): ["no such embedded model", "tiny_gdn"],
    ("model.path=/no/such/folder",): ["/no/such/folder", "no such folder"],
    ("task.path=/no/such/file",): ["/no/such/file", "existing path"],
    # missing value, interpolation to nowhere
    ("~model",): ["model"],
    ("model.path=???",): ["model.path", "a value is needed"],
    ("model.name=${nowhere}",): ["model.name", "nowhere"],
    # grammar
    ("foo",): ["'foo'", "key=value"],
    ("method.alpha=[1,",): ["'method.alpha=[1,'", "quote"],
    ("seed=0,1",): ["seed=0,1", "-m", "seed='0,1'"],
    # options of the command itself
    ("--dryrun",): ["--dryrun", "did you mean --dry-run?"],
    ("--cfg", "jib"): ["jib", "'job'"],
    ("-cd", "/no/such/folder"): ["/no/such/folder", "no such folder"],
    ("-cn", "other"): ["not supported"],
    ("hydra/launcher=ray",): ["hydra/launcher=ray", "add -m"],
    ("alpha=1",): ["alpha", "method.alpha=VALUE"],
    ("lr=.1",): ["lr", "method.lr=VALUE"],
    ("n_train=10",): ["n_train", "task.n_train=VALUE"],
    ("max_slots=3",): ["engine.max_slots=VALUE"],
    ("--seed", "3"): ["--seed", "seed=VALUE"],
    ("--alpha=1",): ["method.alpha=VALUE"],
    ("seed=1", "-m", "method.alpha=1,2"): ["put -m first"],
    # Hydra's own settings: honoured or refused
    ("hydra.job.chdir=true",): ["hydra.job.chdir=true", "hydra.run.dir=DIR"],
    ("hydra.output_subdir=.hydra",): ["every record holds its resolved config"],
    ("hydra.verbose=true",): ["has no effect here"],
    ("hydra.sweep.dir=x",): ["add -m"],
    ("-m", "hydra.run.dir=x", "seed=0,1"): ["hydra.sweep.dir=x"],
    ("-m", "method.lr=interval(1e-4,1e-2)"): ["hydra/sweeper=optuna", "method.lr=A,B,C"],
    # the same while only asking
    ("--cfg", "job", "method.alhpa=1"): ["did you mean alpha?"],
    ("method.alhpa=1", "--dry-run"): ["did you mean alpha?"],
    # sweeps: every job is checked before the first starts
    ("-m", "model=tiny_gdn,tiny_gnd"): ["model=tiny_gnd", "did you mean tiny_gdn?"],
    ("-m", "method.alpha=0.1,0.2,high"): ["method.alpha='high'"],
    ("-m", "seed=0..1", "method.n_steps=3,x"): ["method.n_steps", "'x'", "Integer"],
    ("-m", "model=glob(zz*)"): ["matched nothing"],
    ("-m", "hydra/launcher=slrum"): ["hydra/launcher=slrum", "submitit_slurm"],
    ("-m", "hydra/sweeper=none"): ["hydra/sweeper=none"],
    ("-m", "method.alpha=range(0,1"): ["method.alpha=range(0,1"],
    # cells of presets
    ("cells=[method=s1]",): ["cells"],
    ("cells=['method=s1']",): ["method=s1", "did you mean s0?"],
    ("cells=['method.alhpa=1']",): ["did you mean alpha?"],
}


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, ...], dict]:
    done = subprocess.run(
        [sys.executable, str(HERE / "run_typos.py")],
        input=json.dumps([list(argv) for argv in TYPOS]),
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(TYPOS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("argv", TYPOS, ids=" ".join)
def test_a_typo_is_one_line_with_the_choices_before_anything_starts(outcomes: dict, argv: tuple[str, ...]) -> None:
    done = outcomes[argv]
    assert done["code"] == 2
    assert done["err"].startswith("error: ")
    assert done["err"].count("\n") == 1, done["err"]
    assert done["err"].endswith("\n")
    assert done["out"] == ""
    assert done["heavy"] == []
    for words in TYPOS[argv]:
        assert words in done["err"]


def test_a_typo_in_a_yaml_file_names_the_file_or_the_key(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [base_model, _self_]\nnaem: mine\npath: embedded:tiny_gdn\n"
    )
    (tmp_path / "model" / "torn.yaml").write_text("name: [\npath: x\n")
    (tmp_path / "model" / "typed.yaml").write_text("defaults: [base_model, _self_]\npath: x\ntrust_remote_code: 7up\n")
    asked = [["-cd", str(tmp_path), f"model={name}"] for name in ("mine", "torn", "typed")]
    done = subprocess.run(
        [sys.executable, str(HERE / "run_typos.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    mine, torn, typed = json.loads(done.stdout)
    assert "naem: unknown key; did you mean name?" in mine["err"]
    assert "torn.yaml, line" in torn["err"]
    assert "not valid YAML" in torn["err"]
    assert "trust_remote_code" in typed["err"]
    assert "7up" in typed["err"]
    for one in (mine, torn, typed):
        assert one["code"] == 2
        assert one["err"].count("\n") == 1
        assert one["heavy"] == []


def test_a_config_folder_of_ones_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [base_model, _self_]\nname: mine\npath: embedded:tiny_gdn\n"
    )
    asked = [["-cd", str(tmp_path), "model=mine", "--dry-run", f"records={tmp_path / 'r'}"]]
    done = subprocess.run(
        [sys.executable, str(HERE / "run_typos.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    (one,) = json.loads(done.stdout)
    assert one["code"] == 0
    assert "mine / minieval / s0" in one["out"]
    assert one["heavy"] == []
