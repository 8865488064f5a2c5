"""A picture of several frontiers: a panel for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from londi import frontier, plots
from londi.frontier import UP_TO

_LINES = {
    "price": ("learned prices", plots.GREEN, "D", "-", 2.0),
    "budget": ("learned budgets", plots.BLUE, "o", "-", 2.4),
    "capped": ("best price, then stop", plots.PURPLE, "x", "-", 1.2),
    "router": ("supervised router", plots.VERMILION, "v", "--", 1.6),
    "sac": ("SAC", plots.SKY, "P", "-.", 1.4),
    "ppo": ("PPO", plots.BROWN, "<", "-.", 1.4),
    "entropy": ("QUICK’s entropy", plots.OCHRE, "^", "--", 1.4),
    "random": ("random calls", plots.GREY, "s", ":", 1.4),
}
"""Families with a line: label, colour, marker, dash, width."""
_ALL = {"xlim": (-0.03, 1.04), "ylim": (-0.03, 1.1), "xticks": (0, 0.5, 1), "yticks": (0, 0.5, 1)}
_CORNER = {"xlim": (0, 0.6), "ylim": (0.8, 1.05), "xticks": (0, 0.2, 0.4, 0.6), "yticks": (0.8, 0.9, 1)}
"""What of the plane is seen: all of it, or few calls and much success."""


def save_frontiers(
    tasks: Mapping[str, Sequence[Mapping[str, Any]]], path: Path, *, corner: bool = False, kept: float | None = None
) -> None:
    """Draw a panel for each task: success against calls, shares of DEEPTHINK's, the mean over its seeds' frontiers.

    `tasks` holds the content of frontier.json of each seed; `corner` shows few calls and much success alone, and `kept`
    draws a line at that share of DEEPTHINK's success. Raises `MissingExtraError` without matplotlib.
    """
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = plots.new_figure(max(6.0, 2.9 * columns), 0.9 + 2.7 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, tables) in zip(grid.flat, tasks.items(), strict=False):
        plots.bare(axes)
        axes.set_title(name, fontsize=10.5, color=plots.INK)
        _panel(axes, tables)
        if kept is not None:
            axes.axhline(kept, color=plots.INK, lw=0.8, ls=(0, (2, 2)), label=f"{plots.percent(kept)} of DEEPTHINK’s")
    grid[0, 0].set(**(_CORNER if corner else _ALL))
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("calls, of DEEPTHINK’s", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("success, of DEEPTHINK’s", fontsize=9)
    legends = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid.flat)
    shown = {label: handle for legend in legends for handle, label in legend}
    figure.legend(shown.values(), shown.keys(), loc="lower center", ncols=3, frameon=False, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.22 / rows + 0.02, 1, 1), h_pad=1.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (calls, success) that no other with fewer calls beats, of points in order of calls."""
    found: list[tuple[float, float]] = []
    for point in points:
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def _settings(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, Any], Mapping[str, Any]]:
    """The policies by kind and by what they are called in every seed: those under a cap have a seed's price in their
    names, and that price without a cap is one of them."""
    capped = {("capped", r["value"] if UP_TO in r["name"] else None): r for r in frontier.family(rows, "capped")}
    return {(row["kind"], row["name"]): row for row in rows if row["kind"] != "capped"} | capped


def _panel(axes: Any, tables: Sequence[Mapping[str, Any]]) -> None:
    if why := next(filter(None, (frontier.why_no_shares(each["policies"]) for each in tables)), ""):
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", fontsize=9, color=plots.MUTED)
        return
    deep = {
        key: mean(frontier.find(each["policies"], "DEEPTHINK")[key]["mean"] for each in tables)
        for key in ("calls", "success")
    }
    every = [_settings(table["policies"]) for table in tables]
    points: dict[tuple[str, Any], tuple[float, float]] = {}
    for setting in every[0]:
        same = [settings[setting] for settings in every if setting in settings]
        calls, success = (mean(one[key]["mean"] for one in same) / deep[key] for key in ("calls", "success"))
        points[setting] = calls, success
    quick, alone = points["model", "QUICK"], points["model", "DEEPTHINK"]
    for kind, (label, color, marker, dash, width) in _LINES.items():
        settings = [point for (found, _), point in points.items() if found == kind]
        if settings:
            line = _best(sorted([*settings, quick, *([alone] if kind in ("entropy", "random") else [])]))
            axes.plot(*zip(*line, strict=True), marker, ls=dash, lw=width, color=color, markersize=3.5, label=label)
            beaten = [point for point in settings if point not in line and point[0] <= 1]
            if beaten:
                axes.plot(*zip(*beaten, strict=True), marker, color=color, markersize=3, alpha=0.4)
    for (kind, _), point in points.items():
        if kind == "oracle":
            axes.plot(*point, "*", color=plots.INK, markersize=9, label="disagreement oracle")
    for point in (quick, alone):
        axes.plot(*point, "o", color=plots.INK, markersize=4)
