"""Finding the answer inside what a chat model wrote: thinking blocks, code fences, boxed answers.

The text is untrusted: everything here takes time and memory linear in its length (`s0.tasks.growth` measures it).
"""

from __future__ import annotations

import re

_THINK_BLOCK = re.compile(r"<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*")
_INFO = re.compile(r"[\w+#.-]*")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{|(?=\S))")
_BARE = re.compile(r"[^\s$\\]+")


def strip_thinking(text: str) -> str:
    """`text` without thinking; the indentation of the first remaining line is kept.

    A lone `</think>` closes a block that the chat template opened in the prompt, so everything before the last one is
    thinking. An unclosed `<think>` means that the model never came to an answer: what precedes it is kept.
    """
    # Blocks are looked for before the last closing tag only: behind it, every unclosed tag would be a scan to the end.
    head, tag, tail = text.rpartition("</think>")
    text = _THINK_BLOCK.sub("", head + tag).rpartition("</think>")[2] + tail
    return text.partition("<think>")[0].lstrip("\r\n")


def fenced_blocks(text: str) -> list[tuple[str, str]]:
    """(info string in lower case, content) of every Markdown code block, in order.

    A block still open at the end of the text (truncated output) counts; so does the content before a single closing
    fence that nothing follows, which is how an answer looks when the opening fence was part of the prompt.
    """
    blocks: list[tuple[str, str]] = []
    lines = text.split("\n")
    start: int | None = None
    indent = marker = info = ""
    for number, line in enumerate(lines):
        fence = _fence(line.rstrip("\r"))
        if fence is None:
            continue
        if start is None:
            if not blocks and not fence[2] and not "".join(lines[number + 1 :]).strip():
                before = "\n".join(lines[:number])
                if before.strip():
                    return [("", before + "\n")]
            start, (indent, marker, info) = number + 1, fence
        elif fence[1].startswith(marker) and not fence[2]:
            blocks.append((info, _block(lines[start:number], indent)))
            start = None
    if start is not None:
        blocks.append((info, _block(lines[start:], indent)))
    return blocks


def _fence(line: str) -> tuple[str, str, str] | None:
    """(indentation, marker, first word of the info string in lower case) where `line` opens or closes a code block."""
    match = _FENCE.match(line)
    # Inline code is not a fence. Looked for apart, because one pattern for the whole line would try every split of it.
    if match is None or "`" in line[match.end() :]:
        return None
    info = _INFO.match(line, match.end())
    return match[1], match[2], info[0].lower() if info else ""


def _block(lines: list[str], indent: str) -> str:
    # A fence indented inside a list carries its indentation onto every line of the block.
    return "\n".join(line.removeprefix(indent) for line in lines) + "\n"


def strip_fences(text: str, prefer: str | None = None) -> str:
    """The first code block, or the first that matches the pattern `prefer`; without any block `text` itself."""
    blocks = [content for _, content in fenced_blocks(text)]
    if not blocks:
        return text
    if prefer is not None:
        for content in blocks:
            if re.search(prefer, content):
                return content
    return next((content for content in blocks if content.strip()), "")


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}` or `\fbox{...}` (also `\boxed 7`); None where there is none."""
    closing = _matching_braces(text)
    for match in reversed(list(_BOX.finditer(text))):
        if match[1]:
            end = closing.get(match.end() - 1)
            if end is not None:
                return text[match.end() : end].strip()
        else:
            token = _BARE.match(text, match.end())
            if token:
                return token[0].rstrip(".,;")
    return None


def _matching_braces(text: str) -> dict[int, int]:
    """Index of every opening brace that is closed -> index of its closing brace; escaped braces do not count."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing
