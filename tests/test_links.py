"""What the documentation names exists: linked files and anchors, and files named in code style."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "experiments").glob("*.md"),
                *(ROOT / "experiments" / "published").glob("*.md")])  # fmt: skip
#: what a log or a change list says of the past may be gone
PAST = ("LOG.md", "CHANGELOG.md")
#: a path of the repository: has a folder of it in front and a known ending, or names a folder with a slash at its end
NAMED = re.compile(
    r"`((?:s0|tests|scripts|docs|configs|experiments|paper)/[\w./-]*(?:\.(?:py|md|yaml|csv|tex|json|sh)|/))`"
)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ +(.+?) *$", without_code(page.read_text(encoding="utf-8")), flags=re.M)
    plain = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", h).lower() for h in heads]
    return {re.sub(r"[^\w\- ]", "", h).replace(" ", "-") for h in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", [p for p in PAGES if p.name not in PAST], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    assert not sorted(n for n in named if not (ROOT / n).exists())


def test_the_checker_sees_a_broken_link_and_anchor(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n[a](gone.md) [b](#one-two-three) [c](#no)\n")
    assert anchors(page) == {"one-two-three"}
    with pytest.raises(AssertionError, match=r"gone\.md"):
        test_links_lead_somewhere(page)
