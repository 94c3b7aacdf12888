"""Where code may live: packages import downwards only, modules form no circle, and start-up costs are named."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import s0

PACKAGE = Path(s0.__file__).parent

#: From the ground up; a package or top-level module may import those on earlier lines, and its own modules. A new one has to be
#: entered here on purpose.
ORDER = [
    ["errors", "paths", "stats"],
    ["settings"],
    ["data"],
    ["storage"],
    ["runtime"],
    ["tiny"],
    ["state"],
    ["kernels"],
    ["training"],
    ["sandbox"],
    ["config"],
    ["tasks", "engines"],
    ["methods"],
    ["bank", "trainer", "peft"],
    ["experiment"],
    ["export"],
    ["analysis"],
    ["writesae"],
    ["report", "tracking"],
    ["sweep"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: n for n, names in enumerate(ORDER) for name in names}
#: a module's import inside a function says so in a comment: what start-up then costs less
MARKS = ("start-up", "startup", "TYPE_CHECKING")


def modules() -> dict[str, Path]:
    """Dotted name below s0 -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(p for p in parts if p != "__init__")] = path
    return found


MODULES = modules()


def imports(path: Path) -> list[tuple[str, ast.stmt, bool]]:
    """(module below s0, statement, whether inside a function) of every import of the project's own modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            names: list[str] = []
            if isinstance(child, ast.ImportFrom) and child.module and child.level == 0:
                whole = [f"{child.module}.{a.name}" for a in child.names]
                names = [w if w.removeprefix("s0.") in MODULES else child.module for w in whole]
            elif isinstance(child, ast.Import):
                names = [a.name for a in child.names]
            found.extend((n.removeprefix("s0."), child, inside) for n in names if n.startswith("s0."))
            visit(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)))

    visit(tree, False)
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_place() -> None:
    assert {room(m) for m in MODULES if m} == set(LEVEL)


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m))
def test_no_import_runs_upward(module: str) -> None:
    up = [
        f"line {node.lineno}: {other}"
        for other, node, _ in imports(MODULES[module])
        if room(other) != room(module) and LEVEL[room(other)] >= LEVEL[room(module)]
    ]
    assert not up, f"s0.{module} imports upward: {up}"


def test_no_circle() -> None:
    """Depth-first search over all imports, those inside functions and for typing included."""
    graph = {m: {o for o, _, _ in imports(p)} for m, p in MODULES.items()}
    state: dict[str, int] = {}

    def visit(m: str, way: list[str]) -> None:
        assert state.get(m) != 1, f"circle: {' -> '.join([*way[way.index(m) :], m])}"
        if m not in state and m in graph:
            state[m] = 1
            for other in sorted(graph[m]):
                visit(other, [*way, m])
            state[m] = 2

    for m in graph:
        visit(m, [])


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_inside_functions_say_what_start_up_they_save(module: str) -> None:
    path = MODULES[module]
    lines = path.read_text(encoding="utf-8").splitlines()
    silent = [
        f"line {node.lineno}: {lines[node.lineno - 1].strip()}"
        for _, node, inside in imports(path)
        if inside
        and not any(mark in line for mark in MARKS for line in lines[max(0, node.lineno - 2) : node.end_lineno])
    ]
    assert not silent, f"s0.{module}: move these to the top, or say above them which start-up cost they save: {silent}"


def test_few_files_at_the_top_and_none_too_long() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 12
    sizes = {m: len(p.read_text(encoding="utf-8").splitlines()) for m, p in MODULES.items()}
    assert not {m: n for m, n in sizes.items() if n > 500}
    assert sorted(sizes.values())[len(sizes) // 2] < 180
