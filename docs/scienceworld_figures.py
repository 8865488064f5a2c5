"""Figures of the ScienceWorld page: frontiers, and where the calls of a long task fall."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from londi import Agent, Assignment, frontier, lms, plots, rollout
from londi.agent import OracleAgent
from londi.envs.jvm import POOL
from londi.making import make_encoder, make_envs
from londi.run import Run

SHORT = {
    "lifespan-longest-lived-then-shortest-lived": "lifespan, both",
    "test-conductivity-of-unknown-substances": "conductivity, unknown",
}
Rows = Sequence[Mapping[str, Any]]
EDGE = 1.0
"""Right edge of the figure, in DEEPTHINK's calls; what calls more often is put there, with its share."""
VERBS = (
    *("activate", "close", "connect", "deactivate", "disconnect", "drop", "flush", "focus on", "go to", "look", "mix"),
    *("move", "open", "pick up", "pour", "put", "read", "use", "wait"),
)


def frontiers(tables: Mapping[str, Rows], path: Path) -> None:
    """Draw the frontier of each experiment, the mean of its seeds, whose frontier.json `tables` holds."""
    names = list(tables)
    rows, columns = 1 + (len(names) > 4), min(4, max(1, len(names)))
    figure = plots.new_figure(max(7.5, 2.9 * columns), 0.9 + 2.65 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        plots.bare(axes)
        axes.set_title(SHORT.get(name, name.replace("-", " ")))
        axes.title.set(fontsize=10.5, color=plots.INK)
        _frontier(axes, tables[name])
    grid[0, 0].set(xlim=(-0.03, 1.04), ylim=(-0.03, 1.08), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("DEEPTHINK calls, as a share of its own", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("episodes solved", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=min(4, columns), frameon=False, fontsize=10)
    figure.tight_layout(rect=(0, 0.09 if rows > 1 else 0.2, 1, 1), h_pad=1.6)
    figure.savefig(path, dpi=130)


def _frontier(axes: Any, tables: Rows) -> None:
    deep = mean(frontier.find(table["policies"], "DEEPTHINK")["calls"]["mean"] for table in tables)
    points: dict[str, tuple[str, float, float]] = {}
    for row in tables[0]["policies"]:
        same = [frontier.find(table["policies"], row["name"]) for table in tables]
        calls, success = (mean(each[key]["mean"] for each in same) for key in ("calls", "success"))
        points[row["name"]] = row["kind"], calls / deep, success
    for kind in ("random", "entropy", "budget", "price"):
        family = plots.FAMILIES[kind]
        ends = [points["QUICK"], *([points["DEEPTHINK"]] if family.ends_at_deepthink else [])]
        settings = sorted([*(p[1:] for p in points.values() if p[0] == kind), *(end[1:] for end in ends)])
        line = [at for at in settings if not any(o[0] <= at[0] and o[1] > at[1] for o in settings)]
        style = {"color": family.color, "marker": family.marker, "markersize": 3.5}
        axes.plot(*zip(*line, strict=True), label=family.label, linestyle=family.dash, linewidth=family.width, **style)
        rest = [at for at in settings if at not in line]
        if rest:
            axes.plot(*zip(*rest, strict=True), linestyle="", alpha=0.45, **style)
    singles = {
        "rule: after a refusal": ("refused", plots.VERMILION, "X"),
        "rule: at focus and move": ("action ^(focus|move)", plots.VERMILION, "v"),
        "SwiftSage's rule": ("swiftsage 5", plots.VERMILION, "P"),
        "oracle": ("disagreement oracle", plots.INK, "*"),
    }
    for label, (name, color, marker) in singles.items():
        if name in points and (name == "swiftsage 5" or points[name][1] <= EDGE):
            calls, success = points[name][1:]
            axes.plot(min(calls, EDGE), success, marker, color=color, markersize=8, label=label, zorder=5)
            if calls > EDGE:
                axes.annotate(f"at {calls:.2f}", (EDGE - 0.05, success), ha="right", va="center", fontsize=8)


def kind_of(action: str) -> str:
    """Return what an action is, without the names of things."""
    if link := re.match(
        r"connect (battery (?:an|cath)ode)|connect .*(cathode|anode) in|connect .*(terminal \d) to", action
    ):
        return f"connect {link[1] or (f'lamp {link[2]}' if link[2] else f'thing {link[3]}')}"
    return next((verb for verb in VERBS if action.lower().startswith(verb)), "not understood")


def calls_along(opened: Run, row: Mapping[str, Any], path: Path) -> None:
    """Draw where the calls of a run's policy fall: by the kind of what is done, in the order of the plan."""
    experiment = opened.experiment
    quick, deepthink = (lms.CachedLM(model) for model in lms.load_pair(experiment.quick, experiment.deepthink))
    made, encoder = make_envs(experiment, 4, "test"), make_encoder(experiment)
    chosen = opened.load_switchers()[row["kind"]]
    agents = [kind(quick, deepthink, encoder, chosen, experiment.env.prompt) for kind in (Agent, OracleAgent)]
    value = row["value"]
    budget, price = (value, 0.0) if row["kind"] == "budget" else (None, value)
    jobs = [
        Assignment(experiment.evaluate.first_test_seed + i, "", budget, price)
        for i in range(experiment.evaluate.episodes)
    ]
    done, called, asked, differ = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    order: dict[str, list[int]] = {}
    for episode, _ in rollout(made, agents[0], jobs):
        for at, step in enumerate(episode.steps):
            kind = kind_of(step.action)
            done[kind] += 1
            called[kind] += step.called
            order.setdefault(kind, []).append(at)
    for episode, _ in rollout(made, agents[1], [Assignment(job.seed) for job in jobs]):
        asked.update(kind_of(step.action) for step in episode.steps)
        differ.update(kind_of(step.action) for step in episode.steps if step.called)
    for env in made:
        env.close()
    POOL.clear()
    kinds = [kind for kind in sorted(order, key=lambda kind: -mean(order[kind])) if done[kind] > 0.05 * len(jobs)]
    share = {kind: differ[kind] / max(asked[kind], 1) for kind in kinds}
    bars = [[each[kind] / len(jobs) for kind in kinds] for each in (done, called)]
    bars.append([share[kind] * steps for kind, steps in zip(kinds, bars[0], strict=True)])
    _bars(kinds, bars, row["name"], path)


def _bars(kinds: Sequence[str], values: Sequence[Sequence[float]], policy: str, path: Path) -> None:
    figure = plots.new_figure(8, 0.7 + 0.34 * len(kinds))
    axes = figure.add_subplot()
    done, called, differ = values
    axes.barh(kinds, done, color=plots.FAINT, height=0.72, label="steps")
    axes.barh(kinds, called, color=plots.BLUE, height=0.4, label=f"DEEPTHINK calls of the Switcher ({policy})")
    axes.plot(
        differ,
        kinds,
        "D",
        color=plots.VERMILION,
        markersize=5,
        label="steps x the share in which the models differ in the oracle's episodes",
    )
    plots.bare(axes)
    axes.grid(visible=False)
    axes.grid(axis="x", color=plots.FAINT, linewidth=0.6)
    axes.set_xlabel("per episode", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="center right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
