"""A wheel and a source distribution hold all they need: used from an empty folder, by another user, read-only, without the
repository; and beside the published s0-tuning, which owns the same import name, one line says what to uninstall."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = (
    *("s0", "s0_tuning", "configs", "experiments/published", "pyproject.toml", "setup.py", "MANIFEST.in"),
    *("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "run.py"),
)
NOBODY = 65534

pytestmark = pytest.mark.slow


def call(*argv: object, cwd: Path, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
    done = subprocess.run(
        [str(a) for a in argv], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, check=False
    )
    assert code is None or done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that other users may enter (pytest's own are closed to them)."""
    folder = Path(tempfile.mkdtemp(prefix="s0-install-"))
    folder.chmod(0o755)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(folder, ignore_errors=True)


def build(source: Path, what: str, out: Path) -> Path:
    """A distribution from a source folder, with the build tool that is installed (nothing is downloaded)."""
    out.mkdir(parents=True, exist_ok=True)
    call(sys.executable, "-c", f"from setuptools import build_meta as b; b.build_{what}({str(out)!r})", cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(place: Path) -> Path:
    copy = place / "checkout"
    for part in PARTS:
        source, target = ROOT / part, copy / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return build(copy, "sdist", place / "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, place: Path) -> Path:
    """Built from the source distribution: so that one is whole, too."""
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "unpacked", filter="data")
    (source,) = (place / "unpacked").iterdir()
    return build(source, "wheel", place / "wheel")


IN_REACH = "import ctypes, json, os, ssl, sqlite3, sys; sys.exit(not os.access(sys.executable, os.X_OK))"


def interpreter() -> str:
    """A Python of this version that another user can run."""
    for path in (getattr(sys, "_base_executable", sys.executable), f"/usr/bin/python3.{sys.version_info.minor}"):
        tried = subprocess.run([*as_nobody(), path, "-c", IN_REACH], capture_output=True)
        if Path(path).exists() and tried.returncode == 0:
            return path
    return ""


def as_nobody() -> list[str]:
    who = str(NOBODY)
    return ["setpriv", "--reuid", who, "--regid", who, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]


def venv(folder: Path, python: str, *wheels: Path) -> Path:
    """A fresh virtual environment over the libraries of this one, with these wheels; returns its bin folder."""
    call(python, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    (site,) = folder.glob("lib/python3.*/site-packages")
    libraries = [p for p in sys.path if p.endswith("site-packages") and Path(p).resolve() != ROOT]
    (site / "libraries.pth").write_text("\n".join(libraries) + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    for w in wheels:
        call(*pip, "--force-reinstall", "--prefix", folder, w, cwd=folder)
    script = folder / "bin" / "s0"
    if script.exists():  # pip wrote its own interpreter's name
        script.write_text("\n".join([f"#!{folder / 'bin' / 'python'}", *script.read_text().splitlines()[1:], ""]))
    return folder / "bin"


def test_the_wheel_holds_configs_published_figures_models_and_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("configs", "s0/_configs"), ("experiments/published", "s0/_published")):
        wanted = {
            f"{inside}/{p.relative_to(ROOT / folder).as_posix()}" for p in (ROOT / folder).rglob("*") if p.is_file()
        }
        assert wanted <= names
    for name in ("s0/py.typed", "s0/tiny/tiny_gdn/model.safetensors", "s0/__main__.py", "s0_tuning/__init__.py"):
        assert name in names
    (entries,) = (n for n in names if n.endswith("entry_points.txt"))
    assert "s0 = s0.cli:command" in zipfile.ZipFile(wheel).read(entries).decode()


def test_run_export_report_from_a_wheel_in_an_empty_folder(wheel: Path, place: Path) -> None:
    """By another user where this one may become one, with a site-packages nobody may write."""
    other = interpreter() if os.geteuid() == 0 and shutil.which("setpriv") else ""
    bin_ = venv(place / "venv", other or sys.executable, wheel)
    for path in [place / "venv", *(place / "venv").rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    empty = place / "empty"
    empty.mkdir()
    who = as_nobody() if other else []
    if other:
        os.chown(empty, NOBODY, NOBODY)

    def s0(*argv: str) -> str:
        return call(*who, bin_ / "s0", *argv, cwd=empty, HOME=str(empty), COLUMNS="80", S0_THREADS="1").stdout

    assert s0("--version").startswith("s0 ")
    small = ["task.n_train=4", "task.n_eval=3", "task.samples_per_problem=4", "method.n_steps=2", "seed=0"]
    assert "tiny_gdn" in s0("run", "debug=limits", *small)
    assert "1 exist, 0 to run" in s0("run", "debug=limits", *small, "--dry-run")
    assert "seed 0" in s0("export", "outputs/debug/records", "-o", "state")
    assert "wrote report.html" in s0("report", "outputs/debug/records")
    assert (empty / "report.html").stat().st_size > 10_000
    assert {p.name for p in (empty / "state").iterdir()} == {
        "README.md",
        "config.json",
        "meta.json",
        "states.safetensors",
    }
    assert "1 done" in s0("status", "debug=limits", *small)
    assert "delta" in s0("aggregate", "outputs/debug/records")
    code = "import s0, pathlib; assert pathlib.Path(s0.__file__).parts[-3] == 'site-packages'; s0.S0Trainer"
    call(*who, bin_ / "python", "-c", code, cwd=empty, HOME=str(empty))


STANDIN = {
    "s0/__init__.py": "from s0.config import S0Config\nfrom s0.trainer import S0Trainer\n",
    "s0/config.py": "class S0Config: ...\n",
    "s0/trainer.py": "from s0.config import S0Config\nclass S0Trainer: ...\n",
    "s0_tuning-0.1.2.dist-info/METADATA": "Metadata-Version: 2.1\nName: s0-tuning\nVersion: 0.1.2\n",
    "s0_tuning-0.1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}


@pytest.fixture(scope="module")
def published(place: Path) -> Path:
    """A stand-in for the published distribution: its name, its version and its files."""
    path = place / "s0_tuning-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in STANDIN.items():
            archive.writestr(name, text)
        record = "s0_tuning-0.1.2.dist-info/RECORD"
        archive.writestr(record, "".join(f"{n},,\n" for n in [*STANDIN, record]))
    return path


@pytest.mark.parametrize("second", ["ours", "theirs"])
def test_beside_the_published_s0_tuning_one_line_says_what_to_uninstall(
    wheel: Path, published: Path, place: Path, second: str
) -> None:
    order = [published, wheel] if second == "ours" else [wheel, published]
    bin_ = venv(place / f"both-{second}", sys.executable, *order)
    for what in (["-c", "import s0"], ["-c", "from s0 import S0Trainer"], ["-m", "s0", "--version"]):
        done = call(bin_ / "python", *what, cwd=place, code=1)
        last = done.stderr.strip().splitlines()[-1]
        assert "s0-tuning 0.1.2 is installed beside s0-states" in last
        assert "pip uninstall -y s0-tuning" in last
