"""A picture of several frontiers: a panel for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from londi import frontier, plots

_LINES = {
    "price": (plots.GREEN, "D", "-", 2.0),
    "budget": (plots.BLUE, "o", "-", 2.4),
    "router": (plots.VERMILION, "v", "--", 1.6),
    "entropy": (plots.OCHRE, "^", "--", 1.4),
    "random": (plots.GREY, "s", ":", 1.4),
}
"""Families with a line: colour, marker, dash, width."""


def save_frontiers(tasks: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw a panel for each task: success against calls as a share of DEEPTHINK's, the mean over its seeds' frontiers.

    `tasks` holds the content of frontier.json of each seed. Raises `MissingExtraError` without matplotlib.
    """
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = plots.new_figure(max(6.0, 2.9 * columns), 0.8 + 2.7 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, tables) in zip(grid.flat, tasks.items(), strict=False):
        plots.bare(axes)
        axes.set_title(name, fontsize=10.5, color=plots.INK)
        _panel(axes, tables)
    grid[0, 0].set(xlim=(-0.03, 1.04), ylim=(-0.03, 1.06), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axes in list(grid.flat)[len(tasks) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("DEEPTHINK calls, as a share of its own", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("episodes solved", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=9.5)
    figure.tight_layout(rect=(0, 0.16 / rows + 0.02, 1, 1), h_pad=1.4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (calls, success) that no other with fewer calls beats, of points in order of calls."""
    found: list[tuple[float, float]] = []
    for point in points:
        if not found or point[1] > found[-1][1]:
            found.append(point)
    return found


def _panel(axes: Any, tables: Sequence[Mapping[str, Any]]) -> None:
    deep = mean(frontier.find(table["policies"], "DEEPTHINK")["calls"]["mean"] for table in tables)
    points: dict[str, tuple[str, float, float]] = {}
    for row in tables[0]["policies"]:
        same = [one for table in tables for one in table["policies"] if one["name"] == row["name"]]
        calls, success = (mean(each[key]["mean"] for each in same) for key in ("calls", "success"))
        points[row["name"]] = row["kind"], calls / deep, success
    for kind, (color, marker, dash, width) in _LINES.items():
        settings = [point[1:] for point in points.values() if point[0] == kind]
        if settings:
            ends = [points["QUICK"][1:], *([points["DEEPTHINK"][1:]] if kind in ("entropy", "random") else [])]
            label = plots.FAMILIES[kind].label if kind in plots.FAMILIES else f"supervised {kind}"
            line = _best(sorted([*settings, *ends]))
            axes.plot(*zip(*line, strict=True), marker, ls=dash, lw=width, color=color, markersize=3.5, label=label)
            beaten = [point for point in settings if point not in line and point[0] <= 1]
            if beaten:
                axes.plot(*zip(*beaten, strict=True), marker, color=color, markersize=3, alpha=0.4)
    axes.plot(*points["disagreement oracle"][1:], "*", color=plots.INK, markersize=9, label="disagreement oracle")
    for name in ("QUICK", "DEEPTHINK"):
        axes.plot(*points[name][1:], "o", color=plots.INK, markersize=4)
