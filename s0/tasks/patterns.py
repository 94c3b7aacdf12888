"""Regular expressions that the user wrote, run over text that a model wrote: in a limited process, because a pattern may
backtrack without end. Run as that process's handler this file imports nothing of the project; `search` is for the others.
"""

from __future__ import annotations

import re
from typing import Any


def handle(request: dict[str, Any]) -> str | None:
    """The last match of `pattern` in `text` (its first group, if it has one), or None."""
    found = None
    for match in re.finditer(request["pattern"], request["text"], re.MULTILINE):
        found = match[1] if match.re.groups else match[0]
    return found
