"""The embedded models and the published models and tasks they stand in for."""

from __future__ import annotations

#: group -> published -> embedded: what `scale=tiny` runs instead
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
#: presets of models shipped with the package (s0/tiny)
EMBEDDED = frozenset(TINY["model"].values())
#: the published model of each kind that the paper's tables show, and the embedded one beside it
STAND_IN = {m: TINY["model"][m] for m in ("qwen35_4b", "falcon_h1_7b", "qwen25_3b")}
