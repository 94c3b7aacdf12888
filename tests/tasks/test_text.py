"""Thinking blocks, code fences and boxed answers."""

from __future__ import annotations

import pytest

from s0.tasks.text import fenced_blocks, last_boxed, strip_fences, strip_thinking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("answer", "answer"),
        ("<think>a</think>answer", "answer"),
        ("<think>\n\n</think>\n\n    return x", "    return x"),
        ("<think>a</think>one<think>b</think>two", "onetwo"),
        ("thought without opening</think>\nanswer", "answer"),
        ("a</think>b</think>answer", "answer"),
        ("<think>never finished", ""),
        ("answer<think>afterthought", "answer"),
        ("", ""),
    ],
)
def test_strip_thinking(text, expected):
    assert strip_thinking(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return x\n", "    return x\n"),
        ("```python\n    return x\n```", "    return x\n"),
        ("```\n    return x\n```", "    return x\n"),
        ("```py\nreturn x\n```\nThis returns x.", "return x\n"),
        ("Here you go:\n\n```python\nreturn x\n```\nDone.", "return x\n"),
        ("```python\nreturn x", "return x\n"),
        ("    return x\n```", "    return x\n"),
        ("~~~\nreturn x\n~~~", "return x\n"),
        ("````\n```\nreturn x\n```\n````", "```\nreturn x\n```\n"),
        ("- step:\n  ```python\n  if x:\n      return x\n  ```", "if x:\n    return x\n"),
        ("```python\n\n```\n```python\nreturn 2\n```", "return 2\n"),
        ("```python\r\nreturn x\r\n```", "return x\r\n"),
        ("the `code` is ```inline``` here", "the `code` is ```inline``` here"),
        ("```python\n```", ""),
    ],
)
def test_strip_fences(text, expected):
    assert strip_fences(text).rstrip("\n") == expected.rstrip("\n")


def test_the_block_with_the_wanted_definition_is_preferred():
    text = "```python\nprint(1)\n```\n```python\ndef f():\n    return 2\n```"
    assert strip_fences(text, prefer=r"def f\b") == "def f():\n    return 2\n"
    assert strip_fences(text, prefer=r"def g\b") == "print(1)\n"
    assert fenced_blocks(text) == [("python", "print(1)\n"), ("python", "def f():\n    return 2\n")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"so \boxed{42}.", "42"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ \{1, 2\} }", r"\{1, 2\}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7.", "7"),
        (r"\boxed{a\}b}", r"a\}b"),
        (r"\boxed{1} and the cut \boxed{2", "1"),
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{}", ""),
        ("no box", None),
        (r"\boxed{cut off", None),
        (r"\boxed", None),
        ("", None),
    ],
)
def test_last_boxed(text, expected):
    assert last_boxed(text) == expected


def test_attack_deep_nesting_is_linear():
    assert last_boxed("\\boxed{" * 2000) is None
    assert last_boxed("\\boxed{" + "{" * 50_000 + "}" * 50_000 + "}") is not None
    assert strip_thinking("<think>" * 20_000) == ""
    assert strip_fences("```\n" * 20_001) == ""


@pytest.mark.parametrize(
    "text", ["```\n" * 20_001, "prose\n" + "```\nx\n```\n" * 10_000, "</think>" * 50_000 + "<think>" * 50_000]
)
def test_attack_many_markers_are_linear(text):
    strip_fences(strip_thinking(text))
