"""Errors a user can act on.

Every message is one line that names the field, the value, the rule it breaks and the way out. Entry points print the
line and exit with `exit_code`; a traceback is reserved for bugs.
"""

from __future__ import annotations

import difflib
import re

_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters, line separators, bidirectional overrides and lone surrogates as escapes (\\x1b).

    What others wrote can otherwise recolour, overwrite or reorder what a terminal shows. Characters in `keep` stay.
    """
    return _UNPRINTABLE.sub(
        lambda m: m[0] if m[0] in keep else m[0].encode("unicode_escape", "surrogatepass").decode(), text
    )


class S0Error(Exception):
    """Base of all expected errors; `exit_code` is the process exit status an entry point uses for it."""

    exit_code = 1

    def __str__(self) -> str:
        return printable(super().__str__(), keep="\n")


class ConfigError(S0Error):
    """A configuration key or value is wrong; raised before anything is loaded, downloaded or started."""

    exit_code = 2


class ArchitectureError(S0Error):
    """The model has no recurrent state S0 can start, or a saved state does not fit the model."""


class DataError(S0Error):
    """A data set is missing, has the wrong schema, or contradicts the split the task promises."""


class SandboxError(S0Error):
    """The sandbox failed its self-test or cannot isolate on this machine; never turned into a score."""


class StoreError(S0Error):
    """A stored artefact cannot be read or written (disk full, read-only folder, unknown schema version)."""


class NoTrainingSolutions(S0Error):
    """No sampled completion passed verification, so there is nothing to train on (exit code 3)."""

    exit_code = 3


class JobsFailed(S0Error):
    """At least one cell of a run failed; the others are kept (exit code 4)."""

    exit_code = 4


class Diverged(S0Error):
    """Training ended with a loss far above its first one: what was learned means nothing (exit code 5)."""

    exit_code = 5


def suggest(word: str, choices: list[str]) -> str:
    """' did you mean x?' with the nearest choice, and all choices."""
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"choices: {', '.join(choices)}"
