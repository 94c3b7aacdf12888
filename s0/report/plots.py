"""Figures, drawn off-screen with matplotlib's object interface (no global state), saved the same bytes every time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s0.report.aggregate import Row
from s0.report.formats import number
from s0.storage.files import atomic_path

#: Okabe-Ito: told apart by readers with colour-vision deficiency
COLOURS = {
    "none": "#999999",
    "baseline": "#999999",
    "control": "#CC79A7",
    "s0": "#0072B2",
    "state_offset": "#009E73",
    "lora": "#E69F00",
    "prefix": "#D55E00",
    "published": "#BBBBBB",
}


def new_figure(width: float = 5.5, height: float = 3.4, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure [inches] with `columns` axes side by side, without a global backend."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e5e5e5", linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.pdf without dates, so that equal input gives equal files."""
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        path = stem.with_name(f"{stem.name}.{suffix}")
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)
        paths.append(path)
    return paths


def colour(method: str) -> str:
    return next((c for name, c in COLOURS.items() if method.startswith(name)), "#56B4E9")


def summary_figure(rows: Sequence[Row]) -> Figure:
    """Base, control and tuned accuracy of every cell with its standard deviation; one group of bars per cell."""
    shown = [r for r in rows if r.base.n]
    figure, (ax,) = new_figure(width=max(4.0, 1.5 + 1.4 * len(shown)), height=3.8)
    seen: set[str] = set()
    for i, row in enumerate(shown):
        bars = [("base", row.base.mean, row.base.std, COLOURS["baseline"])]
        if row.control.n:
            bars.append(("random-state control", row.base.mean + row.control.mean, row.control.std, COLOURS["control"]))
        if row.tuned.n:
            bars.append((f"tuned ({row.method})", row.tuned.mean, row.tuned.std, colour(row.method)))
        width = 0.8 / len(bars)
        for j, (name, mean, std, shade) in enumerate(bars):
            x = i + (j - (len(bars) - 1) / 2) * width
            error = std if std > 0 else None
            ax.bar(x, mean, width * 0.92, color=shade, label=None if name in seen else name, yerr=error, capsize=2,
                   error_kw={"linewidth": 0.8})  # fmt: skip
            ax.annotate(number(mean), (x, mean + (std if std > 0 else 0)), ha="center", va="bottom", fontsize=7,
                        xytext=(0, 2), textcoords="offset points")  # fmt: skip
            seen.add(name)
    ax.set_xticks(range(len(shown)), [_cell_name(r) for r in shown], fontsize=7)
    ax.set_xlim(-0.6, max(len(shown), 1) - 0.4)
    ax.set_ylabel("held-out accuracy (%)")
    top = max([v for r in shown for v in (r.base.mean, r.tuned.mean + (r.tuned.std if r.tuned.std > 0 else 0))
               if not math.isnan(v)], default=100)  # fmt: skip
    ax.set_ylim(0, max(top * 1.12, 1))
    if not shown:
        ax.text(0.5, 0.5, "no finished evaluation", ha="center", va="center", transform=ax.transAxes)
    else:
        figure.legend(loc="outside upper center", ncols=3, fontsize=7, frameon=False)
    return figure


def _cell_name(row: Row) -> str:
    alpha = f" α={row.alpha}" if row.alpha else ""
    legacy = "\nlegacy padding" if row.padding == "legacy" else ""
    return f"{row.model}\n{row.task}\n{row.label.replace(' [', chr(10) + '[')}{alpha}{legacy}"
