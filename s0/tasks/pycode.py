"""Turning a chat model's answer into the code that follows a HumanEval prompt.

Only layout is repaired, and the choice is made from syntax alone, never from test results, so that a wrong program
stays wrong. Each rule applies where the ones before it do not:

1. The answer defines the entry point itself (`def f`, `f = lambda ...`): used as it is, common indentation removed.
2. Prompt + answer parses, with no `return` outside a function, and the answer's first line is indented: used as it is.
3. The answer, dedented, parses on its own: every line is moved to the body's indentation (a body written at column 0,
   or with another offset). Lines inside string literals stay where they are, so no value changes.
4. Only the first line lost its indentation (the usual effect of stripping whitespace): that line is moved.
5. Otherwise the answer is used as it is and fails as the syntax error it is.

No answer parses both under rule 3 and under rule 4 with different meanings: in 4 the second logical line stands deeper
than column 0; in 3 it stands at column 0 unless the first line opens a block, and then both give the same nesting.

Nothing here compiles: code generation may need memory exponential in the text (nested `finally`). Parsing alone may still
be slow, recurse or crash on hostile text, so `s0.tasks.layout` runs this file in a limited process; it imports nothing of
the project.
"""

from __future__ import annotations

import ast
import io
import re
import textwrap
import tokenize
import warnings
from typing import Any

DEFAULT_INDENT = "    "


def function_body(prompt: str, answer: str, entry_point: str) -> str:
    """`answer` (thinking and fences already stripped) in the form that can be appended to `prompt`."""
    answer = re.sub(r"\A(?:[ \t]*\r?\n)+", "", answer.replace("\r\n", "\n")).rstrip()
    if not answer:
        return ""
    dedented = textwrap.dedent(answer)
    for candidate in (answer, dedented):
        if binds(candidate, entry_point):
            return candidate + "\n"
    if answer[0] in " \t" and _stands(prompt + answer):
        return answer + "\n"
    indent = body_indent(prompt)
    if _parse(dedented) is not None:
        return _indent(dedented, indent) + "\n"
    if answer[0] not in " \t" and _stands(prompt + indent + answer):
        return indent + answer + "\n"
    return answer + "\n"


def binds(code: str, name: str) -> bool:
    """Does `code`, run as a module, bind `name` at its top level (def, class, assignment or import)?"""
    tree = _parse(code)
    if tree is None:
        # Broken code that restates the function is still a restatement: it must fail as such, not be indented away.
        return re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\s*\(", code, re.MULTILINE) is not None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.Import | ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            return True
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(t, ast.Name) and t.id == name for t in targets):
            return True
    return False


def body_indent(prompt: str) -> str:
    """Indentation of the body of the last function in `prompt`; four spaces where it cannot be told."""
    tree = _parse(prompt)
    if tree is not None and tree.body and isinstance(tree.body[-1], ast.FunctionDef | ast.AsyncFunctionDef):
        first = tree.body[-1].body[0]
        line = prompt.splitlines()[first.lineno - 1]
        if not line[: first.col_offset].strip():
            return line[: first.col_offset]
    return DEFAULT_INDENT


def _parse(code: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # SyntaxWarning about the candidate's escapes is not ours to print
            return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _stands(code: str) -> bool:
    """Does `code` parse, with every `return` and `yield` inside a function (which parsing alone does not ask for)?"""
    tree = _parse(code)
    if tree is None:
        return False
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom):
            return False
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return True


def _indent(code: str, indent: str) -> str:
    """Indent every line except blank ones and those that begin inside a string literal."""
    inside: set[int] = set()
    fstring_starts: list[int] = []
    for token in tokenize.generate_tokens(io.StringIO(code + "\n").readline):
        kind = tokenize.tok_name[token.type]
        if kind == "STRING":
            inside.update(range(token.start[0] + 1, token.end[0] + 1))
        elif kind == "FSTRING_START":
            fstring_starts.append(token.start[0])
        elif kind == "FSTRING_END":
            inside.update(range(fstring_starts.pop() + 1, token.end[0] + 1))
    return "\n".join(
        line if number in inside or not line.strip() else indent + line
        for number, line in enumerate(code.split("\n"), start=1)
    )


def handle(request: dict[str, Any]) -> str:
    """What a limited process does with {"prompt", "answer", "entry_point"}."""
    return function_body(request["prompt"], request["answer"], request["entry_point"])
