"""The embedded models and the published models and tasks they stand in for (scale=tiny)."""

from __future__ import annotations

#: presets of models shipped with the package (s0/tiny)
EMBEDDED = frozenset(["tiny_gdn", "tiny_mamba2", "tiny_transformer"])


#: the embedded stand-ins of `scale=tiny`
TINY = {
    "model": {
        "qwen35_08b": "tiny_gdn",
        "qwen35_2b": "tiny_gdn",
        "qwen35_4b": "tiny_gdn",
        "qwen35_9b": "tiny_gdn",
        "falcon_h1_7b": "tiny_mamba2",
        "qwen25_3b": "tiny_transformer",
    },
    "task": {"humaneval": "minieval"},
}


#: published model -> embedded model of the same kind of recurrence, which stands in for it at scale=tiny
STAND_IN = {"qwen35_4b": "tiny_gdn", "falcon_h1_7b": "tiny_mamba2", "qwen25_3b": "tiny_transformer"}
