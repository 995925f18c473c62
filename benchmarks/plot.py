"""The picture of a run: objects/s and CPU an object, for the three sizes. Owns its looks; matplotlib is imported only here."""

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

    figure, grid = plt.subplots(2, len(shown), figsize=(4.6 * len(shown), 6.4), squeeze=False, layout="constrained")
    for row, metric in enumerate(_METRICS):
        for column, outcome in enumerate(shown):
            _bars(grid[row][column], outcome, metric, named=column == 0)
            grid[row][column].set_xlabel(_METRICS[metric], color=_INK, fontsize=8)
    for axes, outcome in zip(grid[0], shown, strict=True):
        axes.set_title(_SIZES[outcome.name], loc="left", fontsize=11, fontweight="bold", color=_INK)
    figure.suptitle(
        "GET from a static server on loopback, one process; medians", x=0.01, ha="left", fontsize=12, color=_INK
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


def _bars(axes: Any, outcome: Outcome, metric: str, *, named: bool) -> None:
    names = sorted(outcome.medians, key=lambda name: (name == WRK, not name.startswith("ours"), name))[::-1]
    values = [outcome.medians[name][metric] for name in names]
    colours = [_LIMIT if name == WRK else _OURS if name.startswith("ours") else _PEER for name in names]
    bars = axes.barh(range(len(names)), values, color=colours, height=0.72)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=3, fontsize=8, color=_INK)
    axes.set_yticks(range(len(names)), names if named else [], fontsize=9, color=_INK)
    axes.set_xlim(0, max(values) * 1.22)
    axes.tick_params(length=0, labelsize=9)
    axes.xaxis.set_ticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
