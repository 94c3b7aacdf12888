"""Figure 2: the method as a computation graph, drawn from coordinates."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from s0.report.paper.context import Built, Context
from s0.report.plots import COLOURS, new_figure

_FROZEN, _LEARNED = "#e8e8e8", "#cfe3f2"


def _box(ax: Any, x: float, y: float, text: str, width: float, height: float = 0.72, learned: bool = False) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=_LEARNED if learned else _FROZEN,
            edgecolor=COLOURS["s0"] if learned else "#555555",
            linewidth=1.6 if learned else 0.9,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8)


def _arrow(ax: Any, a: tuple[float, float], b: tuple[float, float], style: str = "-", shade: str = "#333333") -> None:
    ax.add_patch(
        FancyArrowPatch(
            a, b, arrowstyle="-|>", mutation_scale=9, linestyle=style, color=shade, linewidth=1.1, shrinkA=0, shrinkB=0
        )
    )


def fig2(ctx: Context) -> Built:
    """The learned initial state of one recurrent layer, the frozen recurrence, and the loss that trains it."""
    figure, (ax,) = new_figure(7.6, 3.5)
    ax.set_xlim(0, 15.6)
    ax.set_ylim(-0.1, 6.9)
    ax.axis("off")
    ax.grid(False)
    row = 3.7
    _box(ax, 1.3, row, r"$\alpha\,S_0$", 1.7, learned=True)
    ax.text(1.3, row + 0.62, "learned, per layer", ha="center", fontsize=7.5, color=COLOURS["s0"])
    steps = ((4.5, "1"), (7.7, "2"), (12.3, "T"))
    for x, t in steps:
        _box(ax, x, row, rf"$S_{t}=g_{t}\,S_{{{'t-1' if t == 'T' else int(t) - 1}}}+w_{t}$".replace("t-1", "T-1"), 2.5)
        _box(ax, x, row - 1.75, rf"token $x_{t}$", 1.6)
        _arrow(ax, (x, row - 1.37), (x, row - 0.4))
        _box(ax, x, row + 1.75, rf"read-out $y_{t}$", 1.9)
        _arrow(ax, (x, row + 0.4), (x, row + 1.36))
    _arrow(ax, (2.18, row), (3.22, row), shade=COLOURS["s0"])
    _arrow(ax, (5.78, row), (6.42, row))
    _arrow(ax, (8.98, row), (9.62, row))
    ax.text(10.02, row, "…", ha="center", va="center", fontsize=13)
    _arrow(ax, (10.42, row), (11.02, row))
    ax.text(8.4, row - 2.62, "prompt and completion", ha="center", fontsize=7.5, color="#555555")
    _box(ax, 8.4, 6.45, "frozen model → loss on completion tokens $+\\ \\lambda\\,\\Vert S_0\\Vert^2$", 9.8)
    for x, _ in steps:
        _arrow(ax, (x, row + 2.13), (x, 6.07))
    # the gradient's way back: around the recurrence to the only thing that learns
    ax.plot([3.46, 1.3], [6.45, 6.45], linestyle="--", color=COLOURS["prefix"], linewidth=1.2)
    _arrow(ax, (1.3, 6.45), (1.3, row + 0.95), "--", COLOURS["prefix"])
    ax.text(2.4, 6.58, "gradient (Adam)", ha="center", fontsize=7.5, color=COLOURS["prefix"])
    legend = ((0.6, _LEARNED, COLOURS["s0"], "learned"), (3.0, _FROZEN, "#555555", "frozen"))
    for x, face, edge, name in legend:
        ax.add_patch(FancyBboxPatch((x, 0.12), 0.42, 0.26, boxstyle="round,pad=0.02", facecolor=face, edgecolor=edge))
        ax.text(x + 0.62, 0.25, name, va="center", fontsize=7.5)
    ax.text(
        5.4,
        0.25,
        r"$g_t$: decay gate (GatedDeltaNet: $a_t(I-b_tk_tk_t^\top)$, Mamba-2: $A_t$);  $w_t$: what token $t$ writes",
        va="center",
        fontsize=7.5,
    )
    return Built(figures={"fig2": figure})
