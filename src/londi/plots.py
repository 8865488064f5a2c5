"""Figures of a run: the frontier, where on the way calls fall, and the learning curve.

They are matplotlib `Figure` objects, made without pyplot and without a display. Colours are those of Okabe and
Ito (safe for colour-blind readers), and every family also has its own marker, dash and direct label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from londi.episode import Episode
from londi.errors import MissingExtraError, RunError
from londi.frontier import SCHEMA, why_no_shares
from londi.labels import Labels

INK, MUTED, FAINT, PAPER = "#1c1f23", "#5b6470", "#d5d9de", "#ffffff"
BLUE, GREEN, OCHRE, GREY, VERMILION, PURPLE = "#0072b2", "#007a5e", "#a86b00", "#767c85", "#c44e00", "#a3487f"
SKY, BROWN = "#3d97c9", "#6b4423"


@dataclass(frozen=True)
class Family:
    """How one family of policies is drawn."""

    label: str
    color: str
    marker: str
    dash: str
    width: float
    ends_at_deepthink: bool
    """Whether its last setting calls in every step."""


FAMILIES = {
    "random": Family("calls at random", GREY, "s", (0, (1.5, 1.5)), 1.4, True),  # type: ignore[arg-type]
    "entropy": Family("QUICK-entropy threshold", OCHRE, "^", (0, (5, 2)), 1.4, True),  # type: ignore[arg-type]
    "price": Family("learned prices", GREEN, "D", "-", 2.0, False),
    "budget": Family("learned budgets", BLUE, "o", "-", 2.6, False),
}
"""The families with a line of their own, in drawing order; every line starts at QUICK, the setting without calls."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty `Figure` (inches) with a canvas; raises `MissingExtraError` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plots") from error
    figure = Figure(figsize=(width, height), dpi=72, facecolor=PAPER)  # 72 dpi: a pixel is a point
    FigureCanvasAgg(figure)
    return figure


def percent(share: float, digits: int = 0) -> str:
    """Write a share as a percentage, never rounding a share below 1 up to 100 %, or one above 0 down to 0 %."""
    rounded = round(100 * share, digits)
    if digits < 2 and ((share < 1 and rounded >= 100) or (share > 0 and rounded == 0)):
        digits += 1
    return f"{100 * share:.{digits}f}\u00a0%"


def chosen_policy(frontier: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice a run stands for: at 99 % of DEEPTHINK's success, or else at 95 %, or None."""
    choice: dict[str, Any] | None = frontier["choices"].get("at_99") or frontier["choices"].get("at_95")
    return choice


def headline(frontier: dict[str, Any]) -> str:
    """Say in one sentence what the chosen policy keeps of DEEPTHINK's success, and with how many of its calls."""
    choice = chosen_policy(frontier)
    if why := why_no_shares(frontier["policies"]):
        return f"{why}: nothing can be a share of its"
    if not choice:
        return "No policy reached 95\u00a0% of DEEPTHINK’s success with fewer calls"
    kept, calls = percent(choice["success_ratio"]), percent(choice["calls_ratio"])
    return f"{kept} of DEEPTHINK’s success with {calls} of its calls"


def check_schema(frontier: dict[str, Any]) -> None:
    """Raise `RunError` where a frontier was written with another schema."""
    if frontier.get("schema") != SCHEMA:
        raise RunError(
            f"frontier.json has schema {frontier.get('schema')}, this londi reads {SCHEMA}: "
            "run `londi evaluate RUN` again with this version"
        )


def frontier_figure(frontier: dict[str, Any], *, title: bool = True) -> Any:
    """Return the frontier: success (95 % intervals) against mean DEEPTHINK calls per episode, as a `Figure`.

    `frontier` is the content of frontier.json; `title` adds the headline above. Raises `RunError` for another
    schema and `MissingExtraError` without matplotlib.
    """
    check_schema(frontier)
    rows = frontier["policies"]
    figure = new_figure(7.8, 5.2 if title else 4.7)
    axes = figure.add_axes((0.1, 0.115, 0.883, 0.745 if title else 0.86))
    _frame_frontier(axes, rows)
    labels = Labels(axes, PAPER)
    singles = {row["name"]: row for row in rows if row["kind"] in ("model", "oracle", "rule")}
    quick, deepthink = singles.get("QUICK"), singles.get("DEEPTHINK")
    lines = {kind: _family_rows(rows, kind, quick, deepthink) for kind in FAMILIES}
    for kind, line in lines.items():
        if line:
            _draw_family(axes, FAMILIES[kind], line, kind, labels)
    for row in singles.values():
        _draw_single(axes, row, labels)
    goal = _draw_goal(axes, deepthink, labels) if deepthink else []
    chosen = _ring_choice(axes, frontier, labels)
    for row in singles.values():
        weight = "bold" if row["kind"] == "model" else "normal"
        if row["kind"] != "rule":
            labels.place(row["name"], [_point(row)], _single_color(row), size=10.5, weight=weight, gap=9)
    if chosen:
        labels.place(f"chosen: {chosen['name']}", [_point(chosen["test"])], INK, size=10.5, weight="bold", gap=11)
    _number_budgets(lines["budget"], labels)
    for kind in reversed(FAMILIES):
        if lines[kind]:
            places = _between([_point(row) for row in lines[kind]], keep=kind == "budget")
            labels.place(FAMILIES[kind].label, places, FAMILIES[kind].color, size=10.5, weight="bold", owner=kind)
    if goal:
        labels.place("99\u00a0% of DEEPTHINK", goal, VERMILION, size=8.5, gap=5)
    for row in singles.values():
        if row["kind"] == "rule":  # those at one point hide each other: the table tells them apart
            labels.place(row["name"], [_point(row)], MUTED, size=8.5, gap=9, optional=True)
    if title:
        _title(figure, frontier)
    return figure


def save_frontier(frontier: dict[str, Any], path: Path) -> None:
    """Write the frontier figure (a PNG of 1560 pixels' width, or what the file's suffix says)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frontier_figure(frontier).savefig(path, dpi=200)


def _point(row: dict[str, Any]) -> tuple[float, float]:
    return row["calls"]["mean"], row["success"]["mean"]


def _single_color(row: dict[str, Any]) -> str:
    return {"QUICK": INK, "DEEPTHINK": VERMILION}.get(row["name"], MUTED)


def _family_rows(rows: Any, kind: str, quick: Any, deepthink: Any) -> list[dict[str, Any]]:
    own = [row for row in rows if row["kind"] == kind]
    if not own:
        return []
    ends = [quick, deepthink if FAMILIES[kind].ends_at_deepthink else None]
    return sorted(own + [row for row in ends if row], key=lambda row: (row["calls"]["mean"], row["success"]["mean"]))


def _between(points: list[tuple[float, float]], *, keep: bool) -> list[tuple[float, float]]:
    """Return places along a line where its label may stand; `keep` includes the long way from QUICK."""
    points = points if keep or len(points) < 3 else points[1:]
    places = list(points)
    for (x0, y0), (x1, y1) in pairwise(points):
        places += [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (0.25, 0.5, 0.75)]
    return places


def _number_budgets(rows: Sequence[dict[str, Any]], labels: Labels) -> None:
    for row in rows:
        if row["kind"] == "budget" and row["calls"]["mean"] > 0:
            word = "no limit" if row["value"] is None else f"n = {row['value']:g}"
            labels.place(word, [_point(row)], BLUE, size=8.5, optional=True)


def bare(axes: Any) -> None:
    """Take away what carries no information; thin, light lines for the rest."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=MUTED, labelsize=10, length=0, pad=5)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)


def _as_percent(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.0f}\u00a0%"))


def _frame_frontier(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    lows = [row["success"]["low"] for row in rows]
    highs = [row["success"]["high"] for row in rows]
    right = max([row["calls"]["mean"] for row in rows] + [0.1])
    space = max(max(highs) - min(lows), 0.1)
    axes.set_xlim(-0.03 * right, 1.09 * right)
    axes.set_ylim(max(min(lows) - 0.06 * space, -0.04), max(highs) + 0.16 * space)
    bare(axes)
    _as_percent(axes)
    axes.yaxis.get_major_locator().set_params(nbins=6, steps=[1, 2, 5, 10])
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 1.0 + 1e-9 and tick >= axes.get_ylim()[0]])
    axes.set_xlabel("mean DEEPTHINK calls per episode", fontsize=10.5, labelpad=6)
    axes.set_ylabel("episodes solved", fontsize=10.5, labelpad=4)


def _draw_goal(axes: Any, deepthink: dict[str, Any], labels: Labels) -> list[tuple[float, float]]:
    """Draw the line at 99 % of DEEPTHINK's success; return where its label may stand."""
    goal = 0.99 * deepthink["success"]["mean"]
    axes.axhline(goal, color=VERMILION, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)
    left, right = axes.get_xlim()
    labels.avoid([(left, goal), (right, goal)])
    return [(left + share / 60 * (right - left), goal) for share in range(1, 60)]


def _draw_family(axes: Any, family: Family, rows: list[dict[str, Any]], kind: str, labels: Labels) -> None:
    x, y = zip(*map(_point, rows), strict=True)
    axes.plot(
        x, y, color=family.color, linewidth=family.width, linestyle=family.dash, zorder=3, solid_joinstyle="round"
    )
    labels.avoid(list(zip(x, y, strict=True)), owner=kind)
    own = [row for row in rows if row["kind"] == kind]
    _error_bars(axes, own, family.color)
    x, y = zip(*map(_point, own), strict=True)
    size = 6.5 if kind == "budget" else 5
    axes.plot(
        x, y, family.marker, color=family.color, markersize=size, markeredgecolor=PAPER, markeredgewidth=1, zorder=4
    )
    labels.avoid_points(list(zip(x, y, strict=True)), owner=kind)


def _error_bars(axes: Any, rows: Sequence[dict[str, Any]], color: str) -> None:
    x = [row["calls"]["mean"] for row in rows]
    low, high = [row["success"]["low"] for row in rows], [row["success"]["high"] for row in rows]
    axes.vlines(x, low, high, color=color, alpha=0.35, linewidth=1.6, zorder=2)


def _draw_single(axes: Any, row: dict[str, Any], labels: Labels) -> None:
    color = _single_color(row)
    _error_bars(axes, [row], color)
    marker, size = {"model": ("o", 10.0), "rule": ("D", 6.0)}.get(row["kind"], ("*", 13.0))
    axes.plot(*_point(row), marker, color=color, markersize=size, markeredgecolor=PAPER, markeredgewidth=1.2, zorder=5)
    labels.avoid_points([_point(row)], radius=7)


def _ring_choice(axes: Any, frontier: dict[str, Any], labels: Labels) -> dict[str, Any] | None:
    choice = chosen_policy(frontier)
    if choice:
        at = _point(choice["test"])
        axes.plot(*at, "o", markersize=15, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.4, zorder=6)
        labels.avoid_points([at], radius=9)
    return choice


def _title(figure: Any, frontier: dict[str, Any]) -> None:
    figure.text(0.02, 0.945, headline(frontier), color=INK, fontsize=14, fontweight="bold")
    said = f"{frontier['env']}, {frontier['episodes']:,} test episodes per policy; bars show 95\u00a0% intervals"
    figure.text(0.02, 0.898, said, color=MUTED, fontsize=10)


def calls_figure(episodes: Sequence[Episode]) -> Any:
    """Return where on the way calls fall: share of steps with a call, by step index and by fraction of the way.

    Step indices are shown as long as at least a tenth of the episodes are still running.
    """
    figure = new_figure(7.8, 2.6)
    by_step = _shares((index, step.called) for e in episodes for index, step in enumerate(e.steps))
    by_part = _shares((10 * index // len(e.steps), step.called) for e in episodes for index, step in enumerate(e.steps))
    shown = {i + 1: called / total for i, (called, total) in by_step.items() if total >= len(episodes) / 10}
    left, right = figure.add_axes((0.088, 0.2, 0.53, 0.7)), figure.add_axes((0.68, 0.2, 0.303, 0.7))
    left.bar(list(shown), list(shown.values()), width=0.8, color=VERMILION)
    left.set_xlabel("step of the episode", fontsize=10.5)
    left.set_ylabel("steps with a call", fontsize=10.5)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set_xlim(0.4, max(shown, default=1) + 0.6)
    right.bar([10 * i + 5 for i in by_part], [c / n for c, n in by_part.values()], width=8, color=VERMILION)
    right.set_xlabel("% of the way", fontsize=10.5)
    right.set_xlim(0, 100)
    top = 1.08 * max([*shown.values(), *(c / n for c, n in by_part.values()), 0.05])
    for axes in (left, right):
        axes.set_ylim(0, top)
        bare(axes)
        _as_percent(axes)
        axes.yaxis.get_major_locator().set_params(nbins=5)
    return figure


def _shares(marks: Any) -> dict[int, tuple[int, int]]:
    counts: dict[int, tuple[int, int]] = {}
    for key, called in marks:
        before = counts.get(key, (0, 0))
        counts[key] = (before[0] + called, before[1] + 1)
    return dict(sorted(counts.items()))


def learning_figure(metrics: Sequence[dict[str, Any]]) -> Any:
    """Return success, calls and (where recorded) the loss against environment steps of training.

    `metrics` are the lines of metrics.jsonl; each value faint, its running mean strong.
    """
    losses = [key for line in metrics[:1] for key in line if "loss" in key]
    panels = [("success", "episodes solved", BLUE), ("calls", "calls per episode", VERMILION)]
    panels += [(key, key.replace("_", " "), MUTED) for key in losses[:1]]
    figure = new_figure(7.8, 2.4)
    for index, (key, label, color) in enumerate(panels):
        slot = 1 / len(panels)
        axes = figure.add_axes((index * slot + 0.065, 0.22, slot - 0.08, 0.62))
        lines = [line for line in metrics if line.get(key) is not None]
        x, y = [line["step"] for line in lines], [line[key] for line in lines]
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.35)
        axes.plot(x, _running_mean(y), color=color, linewidth=2)
        axes.set_title(label, loc="left", fontsize=10.5, color=INK)
        axes.set_xlabel("environment steps", fontsize=10)
        bare(axes)
        _thousands(axes)
        if key == "success":
            _as_percent(axes)
    return figure


def _running_mean(values: Sequence[float]) -> list[float]:
    reach = max(1, len(values) // 20)
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _thousands(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.get_major_locator().set_params(nbins=4)
    axes.yaxis.get_major_locator().set_params(nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n / 1000:g}k" if n >= 1000 else f"{n:g}"))
