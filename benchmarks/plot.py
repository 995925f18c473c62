"""The picture of a run: MiB/s and CPU an object, for the three sizes. Owns its looks; matplotlib is imported only here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .outcome import Outcome
from .rows import WRK

_SIZES = {"64k": "64 KiB, 32 in flight", "1m": "1 MiB, 16 in flight", "32m": "32 MiB, 8 in flight"}
_METRICS = {"mib_s": "MiB/s (more is better)", "cpu_us": "client CPU, µs an object (less is better)"}
_OURS, _PEER, _LIMIT, _INK = "#0f766e", "#b8c0cc", "#5b6472", "#1f2933"


def draw(path: Path, outcomes: list[Outcome]) -> bool:
    """Writes the PNG of the rows that were measured; returns whether there was one."""
    shown = [outcome for outcome in outcomes if outcome.name in _SIZES and outcome.medians]
    if not shown:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = _order({name for outcome in shown for name in outcome.medians})
    figure, grid = plt.subplots(2, len(shown), figsize=(4.6 * len(shown), 6.4), squeeze=False, layout="constrained")
    for row, (metric, label) in enumerate(_METRICS.items()):
        for column, outcome in enumerate(shown):
            _bars(grid[row][column], [outcome.medians.get(name, {}).get(metric, 0.0) for name in names], names)
            grid[row][column].set_yticks(range(len(names)), names if column == 0 else [], fontsize=9, color=_INK)
            grid[row][column].set_xlabel(label, color=_INK, fontsize=8)
    for axes, outcome in zip(grid[0], shown, strict=True):
        axes.set_title(_SIZES[outcome.name], loc="left", fontsize=11, fontweight="bold", color=_INK)
    title = "GET from a static server on loopback, one client process each; medians"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=_INK)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def _order(names: set[str]) -> list[str]:
    """Puts ours at the top and the limit at the bottom; bars are drawn upwards."""
    return sorted(names, key=lambda name: (name != WRK, name.startswith("ours"), name))


def _bars(axes: Any, values: list[float], names: list[str]) -> None:
    colours = [_LIMIT if name == WRK else _OURS if name.startswith("ours") else _PEER for name in names]
    bars = axes.barh(range(len(names)), values, color=colours, height=0.72)
    labels = [f"{value:,.0f}" if value else "not measured" for value in values]
    axes.bar_label(bars, labels=labels, padding=3, fontsize=8, color=_INK)
    axes.set_xlim(0, max(values) * 1.22)
    axes.tick_params(length=0, labelsize=9)
    axes.xaxis.set_ticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
