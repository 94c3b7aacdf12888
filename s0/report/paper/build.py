"""Build what is stale: tables (LaTeX, Markdown, CSV), figures (PDF, PNG), macros, and the PDF where LaTeX is installed.

An item is up to date when the manifest holds the hash of its inputs (records, published figures, the code that builds it)
and every output is still the file that was written. Nothing else decides: no times, no force flags needed after a change.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import s0
from s0.errors import ConfigError, S0Error
from s0.report.formats import csv_text, latex, latex_escape, markdown
from s0.report.paper.context import Built, Context
from s0.report.paper.items import ITEMS, Item
from s0.storage.files import write_json, write_text

LATEX_HINT = (
    "no pdflatex here: tables and figures are built, the PDF is not; install it with "
    "apt-get install texlive-latex-base texlive-latex-recommended texlive-fonts-recommended"
)
PDF = "s0_tuning.pdf"
#: source files whose change can change a table or a figure
_CODE = ("stats.py", "data.py", "storage/records.py", "storage/results.py", "report", "analysis", "state/gates.py")


@dataclass(frozen=True)
class PaperPaths:
    """Where things lie: `root` is the repository."""

    root: Path
    paper: Path
    records: Path
    published: Path
    configs: Path

    @classmethod
    def of(cls, root: Path, paper: Path | None = None, records: Path | None = None) -> PaperPaths:
        return cls(
            root,
            paper or root / "paper",
            records or root / "experiments" / "records",
            root / "experiments" / "published",
            root / "configs",
        )


def _hash_files(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        # names, not folders: a clone elsewhere has the same inputs
        total.update(f"{path.name}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


@functools.cache
def code_hash() -> str:
    package = Path(s0.__file__).parent
    files = [
        f
        for name in _CODE
        for f in ([package / name] if name.endswith(".py") else sorted((package / name).rglob("*.py")))
    ]
    return _hash_files(files)


def input_hash(item: Item, layout: PaperPaths) -> str:
    """Hash of everything the item is made from."""
    files = [f for e in item.experiments for f in sorted((layout.records / e).rglob("*.json"))]
    files += [layout.published / f"{name}.csv" for name in item.published]
    configs = [*sorted((layout.configs / "model").glob("*.yaml")), Path(s0.__file__).parent / "config" / "schema.py"]
    files += configs if item.configs else []
    return hashlib.sha256(f"{code_hash()}{_hash_files(files)}".encode()).hexdigest()


def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _write(item: Item, built: Built, layout: PaperPaths) -> list[Path]:
    """Outputs of one item, sorted."""
    # start-up: matplotlib
    from s0.report.plots import save_figure

    paths = []
    for stem, table in built.tables.items():
        forms = (
            ("tex", latex(table, caption=True, label=f"tab:{stem}")),
            ("md", markdown(table)),
            ("csv", csv_text(table)),
        )
        for suffix, text in forms:
            paths.append(layout.paper / "tables" / f"{stem}.{suffix}")
            write_text(paths[-1], text)
    for stem, figure in built.figures.items():
        paths += save_figure(figure, layout.paper / "figures" / stem)
    if built.macros:
        paths.append(layout.paper / "generated" / f"{item.name}.tex")
        write_text(paths[-1], macro_text(built.macros))
    return sorted(paths)


def macro_text(macros: dict[str, str]) -> str:
    """One \\newcommand per macro. Raises ConfigError for a name LaTeX cannot hold."""
    for name in macros:
        if not re.fullmatch(r"[A-Za-z]+", name):
            raise ConfigError(f"macro {name!r}: a LaTeX macro has letters only; rename it")
    return "".join(f"\\newcommand{{\\{k}}}{{{latex_escape(v)}}}\n" for k, v in sorted(macros.items()))


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest; empty where there is none or it cannot be read (everything is then stale)."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def build(layout: PaperPaths, names: Sequence[str] = (), say: Callable[[str], None] = print) -> list[str]:
    """Build the stale items (of `names`, or all); returns their names. Raises ConfigError for an unknown name, S0Error
    where a record or published file cannot be used (after the other items are built)."""
    unknown = [n for n in names if n not in ITEMS]
    if unknown:
        raise ConfigError(f"item {unknown[0]!r}: unknown; choose from {', '.join(ITEMS)}")
    manifest_path = layout.paper / "manifest.json"
    manifest = read_manifest(manifest_path)
    context = Context(layout.records, layout.published, layout.configs)
    rebuilt, errors = [], []
    for name in names or ITEMS:
        try:
            inputs = input_hash(ITEMS[name], layout)
            known = manifest.get(name, {})
            outputs = known.get("outputs", {})
            if (
                known.get("inputs") == inputs
                and outputs
                and all(_file_hash(layout.paper / p) == h for p, h in outputs.items())
            ):
                continue
            paths = _write(ITEMS[name], ITEMS[name].build(context), layout)
        except (S0Error, OSError) as error:
            errors.append(f"{name}: {error}")
            continue
        current = {p.relative_to(layout.paper).as_posix(): _file_hash(p) for p in paths}
        for orphan in set(outputs) - set(current):
            (layout.paper / orphan).unlink(missing_ok=True)
        manifest[name] = {"inputs": inputs, "outputs": current}
        rebuilt.append(name)
        say(f"built {name}: {', '.join(current)}")
    macros = sorted(p.name for p in (layout.paper / "generated").glob("*.tex") if p.name != "all.tex")
    write_text(layout.paper / "generated" / "all.tex", "".join(f"\\input{{generated/{m}}}\n" for m in macros))
    write_json(manifest_path, {name: manifest[name] for name in (*ITEMS, PDF) if name in manifest})
    if errors:
        raise S0Error("; ".join(errors))
    return rebuilt


def build_pdf(layout: PaperPaths, say: Callable[[str], None] = print) -> Path | None:
    """`s0_tuning.pdf` from LaTeX, if its sources changed; None (and one line) where LaTeX is not installed."""
    pdf, source = layout.paper / PDF, layout.paper / "s0_tuning.tex"
    manifest_path = layout.paper / "manifest.json"
    manifest = read_manifest(manifest_path)
    folders = (("generated", "*.tex"), ("tables", "*.tex"), ("figures", "*.pdf"))
    inputs = _hash_files([source, *(f for d, pattern in folders for f in sorted((layout.paper / d).glob(pattern)))])
    known = manifest.get(PDF, {})
    if known.get("inputs") == inputs and pdf.exists() and _file_hash(pdf) == known.get("sha256"):
        say(f"{pdf.name} is up to date")
        return pdf
    if shutil.which("pdflatex") is None:
        say(LATEX_HINT)
        return None
    work = layout.paper / "build"
    work.mkdir(parents=True, exist_ok=True)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={work.name}", source.name]
    # a fixed date in the file makes equal sources give equal bytes
    environment = {"SOURCE_DATE_EPOCH": "0", "FORCE_SOURCE_DATE": "1"}
    for _ in range(3):  # references need a second pass, moved floats a third
        done = subprocess.run(command, cwd=layout.paper, capture_output=True, text=True, errors="replace", check=False,
                              env={**os.environ, **environment})  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stdout.splitlines() if line.startswith(("!", "l."))]
            raise S0Error(f"pdflatex failed: {' '.join(lines[:3]) or done.stdout[-300:]}; see {work / 's0_tuning.log'}")
    shutil.copyfile(work / PDF, pdf)
    manifest[PDF] = {"inputs": inputs, "sha256": _file_hash(pdf)}
    write_json(manifest_path, manifest)
    say(f"built {pdf.name}")
    return pdf
