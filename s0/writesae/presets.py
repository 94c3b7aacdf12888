"""Presets of the study: the sites of the published tables, and the embedded models' that stand in at scale=tiny."""

from __future__ import annotations

from s0.errors import ConfigError, suggest

_PUBLISHED = "n_features=2048 k=32 lr=3e-4 batch=256 input=state window=0"

#: name -> (cells as published, cells at scale=tiny); a cell is a line of overrides
PRESETS: dict[str, tuple[list[str], list[str]]] = {
    "ws_headline": (
        [f"model=qwen35_08b site={site} {_PUBLISHED}" for site in ("1.4", "9.4", "17.4")],
        ["model=tiny_gdn site=2.2", "model=tiny_gdn site=1.1 window=0"],
    ),
    "ws_heads": (
        [f"model=qwen35_08b site=9.{head} {_PUBLISHED}" for head in range(16)],
        [f"model=tiny_gdn site=2.{head}" for head in range(4)],
    ),
    "ws_variants": (
        [f"model=qwen35_08b site=9.4 variant={v} {_PUBLISHED}" for v in ("bilinear", "rank1", "tied", "flat")],
        [f"model=tiny_gdn site=2.2 variant={v} k=4" for v in ("bilinear", "rank1", "tied", "flat")],
    ),
    "ws_jumprelu": (
        [f"model=qwen35_08b site=9.4 activation=jumprelu {_PUBLISHED}"],
        ["model=tiny_gdn site=2.2 activation=jumprelu", "model=tiny_gdn site=2.2 activation=batchtopk k=4"],
    ),
    "ws_inputs": (
        [
            f"model=qwen35_08b site=9.4 {_PUBLISHED.replace('input=state', f'input={i}')}"
            for i in ("state", "corrected")
        ],
        [
            f"model=tiny_gdn site={site} input={i}"
            for site in ("2.2", "1.1 window=0")
            for i in ("corrected", "additive", "state")
        ],
    ),
    "ws_hosts": (
        [f"model=qwen35_4b site=12.8 {_PUBLISHED}"],
        ["model=tiny_gdn site=2.2", "model=tiny_mamba2 site=0.0"],
    ),
    # the paper's Mamba-2-370M has no config here; Falcon-H1 is the published-size Mamba-2 model there is
    "ws_mamba2": (
        [f"model=falcon_h1_7b site=0.0 {_PUBLISHED.replace('batch=256', 'batch=128')}"],
        ["model=tiny_mamba2 site=0.0 k=4", "model=tiny_mamba2 site=2.2 k=4"],
    ),
}


def cells_of(name: str, scale: str) -> list[str]:
    """The cells of a preset. Raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"experiment={name!r}: {suggest(name, list(PRESETS))}")
    published, tiny = PRESETS[name]
    return tiny if scale == "tiny" else published
