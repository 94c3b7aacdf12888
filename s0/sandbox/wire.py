"""What crosses the border between the judge and untrusted code: length-prefixed frames of JSON; see `codec.py` for values.

Used on both sides, so it imports the standard library only.
"""

from __future__ import annotations

import json
import os
from typing import Any

#: largest frame untrusted code may send, in bytes
MAX_FRAME = 64 << 20
#: deepest nesting of containers in a value
MAX_DEPTH = 64


class WireError(Exception):
    """The other side broke the protocol: frame too large, malformed JSON, unknown tag, nesting too deep."""


def one_line(text: object, limit: int = 300) -> str:
    """Untrusted text for a report: one line of at most `limit` printable characters, no terminal control codes."""
    words = " ".join(str(text)[: 4 * limit].split())[:limit]
    return "".join(c if c.isprintable() else "?" for c in words)


# -- frames ------------------------------------------------------------------------------------------------------------


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_frame(fd: int, payload: bytes) -> None:
    """Four bytes of length (big endian), then the payload. Raises OSError when the other side is gone."""
    write_all(fd, len(payload).to_bytes(4, "big") + payload)


def _read_exact(fd: int, size: int) -> bytes | None:
    parts, missing = [], size
    while missing:
        part = os.read(fd, min(missing, 1 << 20))
        if not part:
            return None
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def read_frame(fd: int, limit: int = MAX_FRAME) -> bytes | None:
    """The next payload, or None at end of file. Raises WireError when it is longer than `limit` bytes."""
    head = _read_exact(fd, 4)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if size > limit:
        raise WireError(f"a message of {size} bytes exceeds the limit of {limit}")
    return _read_exact(fd, size)


def dumps(node: Any) -> bytes:
    return json.dumps(node, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_constant(text: str) -> Any:
    raise WireError(f"{text} is not a number here")


def loads(payload: bytes) -> Any:
    """Parsed JSON. Raises WireError for anything a well-behaved sender cannot produce."""
    try:
        return json.loads(payload.decode("ascii"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise WireError(f"malformed message: {exc}") from None
