"""Train and evaluate a Switcher for each ScienceWorld experiment and seed; write the tables and figures of the page.

    python docs/scienceworld_runs.py run [--seeds 0 1 2] [--jobs 2] [--names find-plant ...]
    python docs/scienceworld_runs.py write           # tables and figures, from the runs, into docs/scienceworld.md

Runs lie in `--folder` (runs/scienceworld), one for each experiment and seed. `run` goes on where it was interrupted,
and leaves out what is evaluated already.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from londi import Agent, Assignment, config, frontier, lms, plots, rollout
from londi.agent import OracleAgent
from londi.envs.jvm import POOL
from londi.evaluate import TEST_SEEDS
from londi.making import make_encoder, make_envs
from londi.run import Run, load_checkpoint

HERE = Path(__file__).parent
EXPERIMENTS = HERE.parent / "experiments" / "scienceworld"
PAGE = HERE / "scienceworld.md"
EIGHT = (
    *("find-animal", "find-living-thing", "find-plant", "find-non-living-thing", "test-conductivity"),
    *("test-conductivity-of-unknown-substances", "use-thermometer", "lifespan-longest-lived-then-shortest-lived"),
)
NAMES = (*EIGHT, "lifespan-longest-lived", "lifespan-shortest-lived", "mix", "find-plant-score")
LONG = "test-conductivity"
"""The task whose calls are shown along its plan."""
SHORT = {
    "lifespan-longest-lived-then-shortest-lived": "lifespan, both",
    "test-conductivity-of-unknown-substances": "conductivity, unknown",
}
FAMILIES = ("price", "budget", "entropy", "random", "rule", "oracle")
Rows = Sequence[Mapping[str, Any]]


def run(folder: Path, names: Sequence[str], seeds: Sequence[int], jobs: int) -> int:
    """Train and evaluate what is not evaluated yet, `jobs` at a time; returns how many failed."""
    plays = [(name, seed, folder / f"{name}-{seed}") for seed in seeds for name in names]
    todo = [(n, seed) for n, seed, at in plays if not ((at / "frontier.json").is_file() and current(at, n))]
    folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(lambda job: _one(folder, *job), todo))


def _one(folder: Path, name: str, seed: int) -> int:
    here = folder / f"{name}-{seed}"
    if not current(here, name):
        print(f"{here} was made with another {name}.toml: remove it", flush=True)
        return 1
    trained = (here / "checkpoints/last.pt").is_file() and load_checkpoint(here / "checkpoints/last.pt").get("done")
    commands = [
        ["train", str(EXPERIMENTS / f"{name}.toml"), "--seed", str(seed), "--run", str(here)],
        ["evaluate", str(here)],
    ]
    for command in commands[bool(trained) :]:
        with (folder / f"{name}-{seed}.log").open("a", encoding="utf-8") as log:
            ended = subprocess.run([sys.executable, "-m", "londi.cli", *command], stdout=log, stderr=log, check=False)
        if ended.returncode:
            print(f"{name}, seed {seed}: failed, see {folder / f'{name}-{seed}.log'}", flush=True)
            return 1
    print(f"{name}, seed {seed}: done", flush=True)
    return 0


def current(run: Path, name: str) -> bool:
    """Whether a run is of the experiment as its file has it now, or is still to be made."""
    if not (run / "config.toml").is_file():
        return True
    made = config.load(run / "config.toml")
    return made == replace(config.load(EXPERIMENTS / f"{name}.toml"), seed=made.seed)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what was measured of an experiment as its file has it now, a table for each seed."""
    found = sorted(path for path in folder.glob(f"{name}-[0-9]*/frontier.json") if current(path.parent, name))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def half(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the test row of the learned policy that succeeds most on selection seeds with half the calls at most.

    Of equal ones the one with the most calls: it is the safest. None where none keeps to half.
    """
    most = frontier.find(table["selection"], "DEEPTHINK")["calls"]["mean"] / 2
    fit = [r for r in table["selection"] if r["kind"] in frontier.LEARNED and r["calls"]["mean"] <= most]

    def kept(row: Any) -> tuple[float, float]:
        return row["success"]["mean"], row["calls"]["mean"]

    if not fit:
        return None
    best = max(fit, key=kept)
    return dict(frontier.find(table["policies"], best["name"]))


def cheapest(table: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the test row of the cheapest that keeps 97 % of DEEPTHINK's success on selection seeds, if one does."""
    chosen = frontier.choose(table["selection"], 0.97)
    return dict(frontier.find(table["policies"], chosen["name"])) if chosen else None


def ratio(tables: Rows, chosen: Any, *keys: str) -> list[float]:
    """Return a measure of the chosen policy as a share of DEEPTHINK's, for each seed."""
    found = []
    for table in tables:
        one: Any = chosen(table)
        if one is None:
            continue
        deep: Any = frontier.find(table["policies"], "DEEPTHINK")
        for key in keys:
            one, deep = one[key], deep[key]
        found.append(one / max(deep, 1e-9))
    return found


def percent(values: Sequence[float]) -> str:
    """Write shares as `97 ± 1 %`, a dash for none."""
    if not values:
        return "-"
    spread = f" ± {100 * stdev(values):.0f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.0f}{spread} %"


def kept_table(folder: Path, names: Sequence[str]) -> list[str]:
    """What the chosen policies keep, and what they take."""
    lines = [
        "| task | seeds | QUICK | DEEPTHINK @ calls | success kept | calls | tokens | FLOPs "
        "| cheapest: success kept | calls |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        tables = read(folder, name)
        if not tables:
            continue
        rows = {each: frontier.find(tables[0]["policies"], each) for each in ("QUICK", "DEEPTHINK")}
        quick, deep = rows["QUICK"], rows["DEEPTHINK"]
        cells = [
            name,
            str(len(tables)),
            f"{quick['success']['mean']:.2f}",
            f"{deep['success']['mean']:.2f} @ {deep['calls']['mean']:.1f}",
        ]
        for keys in (("success", "mean"), ("calls", "mean"), ("tokens",), ("flops",)):
            cells.append(percent(ratio(tables, half, *keys)))
        for keys in (("success", "mean"), ("calls", "mean")):
            cells.append(percent(ratio(tables, cheapest, *keys)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def area_table(folder: Path, names: Sequence[str]) -> list[str]:
    """The hypervolume of each family, and violations."""
    shown = ("learned prices", "learned budgets", "entropy", "random", "SwiftSage", "other rules", "oracle")
    lines = [f"| task | {' | '.join(shown)} | violations |", f"|{'---|' * (len(shown) + 2)}"]
    for name in names:
        tables = read(folder, name)
        if not tables:
            continue
        areas = [[area for table in tables if (area := value(table)) is not None] for value in _areas()]
        best = max((mean(each) for each in areas[:-1] if each), default=0.0)
        cells = [name]
        for area in areas:
            if not area:
                cells.append("")
                continue
            text = f"{mean(area):.3f}" + (f" ± {stdev(area):.3f}" if len(area) > 1 and area in areas[:2] else "")
            cells.append(f"**{text}**" if mean(area) == best else text)
        cells.append(str(sum(table["metrics"]["violations"] for table in tables)))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _areas() -> Iterator[Any]:
    def of(kind: str, keep: str) -> Any:
        def area(table: Mapping[str, Any]) -> float | None:
            rows = [r for r in table["policies"] if r["kind"] != "rule" or re.match(keep, r["name"])]
            return frontier.hypervolume(rows, kind)

        return area

    yield from (of(kind, "") for kind in FAMILIES[:4])
    yield from (of("rule", "swiftsage"), of("rule", "(?!swiftsage)"), of("oracle", ""))


def frontiers(folder: Path, names: Sequence[str], path: Path) -> None:
    """Draw the frontier of each experiment, the mean of its seeds."""
    rows, columns = 1 + (len(names) > 4), min(4, max(1, len(names)))
    figure = plots.new_figure(max(7.5, 2.9 * columns), 0.9 + 2.65 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        tables = read(folder, name)
        plots.bare(axes)
        axes.set_title(SHORT.get(name, name.replace("-", " ")))
        axes.title.set(fontsize=10.5, color=plots.INK)
        if tables:
            _frontier(axes, tables)
    grid[0, 0].set(xlim=(-0.03, 1.04), ylim=(-0.03, 1.08), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("DEEPTHINK calls, as a share of its own", fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("episodes solved", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=len(labels) if columns == 4 else 3, frameon=False, fontsize=10
    )
    figure.tight_layout(rect=(0, 0.06 if columns == 4 else 0.14, 1, 1), h_pad=1.6)
    figure.savefig(path, dpi=130)


def _frontier(axes: Any, tables: Rows) -> None:
    deep = mean(frontier.find(table["policies"], "DEEPTHINK")["calls"]["mean"] for table in tables)
    points: dict[str, tuple[str, float, float]] = {}
    for row in tables[0]["policies"]:
        same = [frontier.find(table["policies"], row["name"]) for table in tables]
        calls, success = (mean(each[key]["mean"] for each in same) for key in ("calls", "success"))
        points[row["name"]] = row["kind"], calls / deep, success
    for kind, family in plots.FAMILIES.items():
        ends = [points["QUICK"], *([points["DEEPTHINK"]] if family.ends_at_deepthink else [])]
        line = sorted([*(p[1:] for p in points.values() if p[0] == kind), *(end[1:] for end in ends)])
        style = {"color": family.color, "marker": family.marker, "linestyle": family.dash, "linewidth": family.width}
        axes.plot(*zip(*line, strict=True), markersize=3.5, label=family.label, **style)
    singles = {
        "SwiftSage's rule": ("swiftsage 5", plots.VERMILION, "P"),
        "oracle": ("disagreement oracle", plots.INK, "*"),
    }
    for label, (name, color, marker) in singles.items():
        if name in points:
            axes.plot(*points[name][1:], marker, color=color, markersize=8, label=label, zorder=5)


def kind_of(action: str) -> str:
    """Return what an action is, without the names of things."""
    if link := re.match(
        r"connect (battery (?:an|cath)ode)|connect .*(cathode|anode) in|connect .*(terminal \d) to", action
    ):
        return f"connect {link[1] or (f'lamp {link[2]}' if link[2] else f'thing {link[3]}')}"
    return re.match(r"go to|pick up|focus on|[a-z]+|", action.lower()).group() or "?"  # type: ignore[union-attr]


def calls_along(folder: Path, path: Path) -> None:
    """Draw where, in the long task, calls fall: by the kind of what is done, in the order of the plan."""
    place = next((found.parent for found in sorted(folder.glob(f"{LONG}-[0-9]*/frontier.json"))), None)
    if place is None:
        print(f"no run of {LONG} yet: {path.name} is left as it is", file=sys.stderr)
        return
    table = json.loads((place / "frontier.json").read_text(encoding="utf-8"))
    row, opened = half(table), Run.open(place)
    if row is None:
        print(f"no policy of {place.name} keeps to half of the calls: {path.name} is left as it is", file=sys.stderr)
        return
    experiment = opened.experiment
    quick, deepthink = (lms.CachedLM(model) for model in lms.load_pair(experiment.quick, experiment.deepthink))
    made, encoder = make_envs(experiment, 4, "test"), make_encoder(experiment)
    chosen = opened.load_switchers()[row["kind"]]
    agents = [kind(quick, deepthink, encoder, chosen, experiment.env.prompt) for kind in (Agent, OracleAgent)]
    value = row["value"]
    budget, price = (value, 0.0) if row["kind"] == "budget" else (None, value)
    jobs = [Assignment(TEST_SEEDS + i, "", budget, price) for i in range(experiment.evaluate.episodes)]
    done, called, differ = Counter[str](), Counter[str](), Counter[str]()
    order: dict[str, list[int]] = {}
    for episode, _ in rollout(made, agents[0], jobs):
        for at, step in enumerate(episode.steps):
            kind = kind_of(step.action)
            done[kind] += 1
            called[kind] += step.called
            order.setdefault(kind, []).append(at)
    for episode, _ in rollout(made, agents[1], [Assignment(job.seed) for job in jobs]):
        differ.update(kind_of(step.action) for step in episode.steps if step.called)
    for env in made:
        env.close()
    POOL.clear()
    kinds = [kind for kind in sorted(order, key=lambda kind: -mean(order[kind])) if done[kind] > 0.05 * len(jobs)]
    _bars(kinds, [[each[kind] / len(jobs) for kind in kinds] for each in (done, called, differ)], row["name"], path)


def _bars(kinds: Sequence[str], values: Sequence[Sequence[float]], policy: str, path: Path) -> None:
    figure = plots.new_figure(8, 0.7 + 0.34 * len(kinds))
    axes = figure.add_subplot()
    done, called, differ = values
    axes.barh(kinds, done, color=plots.FAINT, height=0.72, label="steps")
    axes.barh(kinds, called, color=plots.BLUE, height=0.4, label=f"DEEPTHINK calls of the Switcher ({policy})")
    axes.plot(differ, kinds, "D", color=plots.VERMILION, markersize=5, label="where the two models differ (oracle)")
    plots.bare(axes)
    axes.grid(visible=False)
    axes.grid(axis="x", color=plots.FAINT, linewidth=0.6)
    axes.set_xlabel("per episode", fontsize=10)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def put(page: str, name: str, lines: Sequence[str], script: str = "scienceworld_runs.py") -> str:
    """Return the page with these lines between its two comments of that name."""
    begin, end = f"<!-- {name}: written by docs/{script} -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    content = "\n".join(lines)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def write(folder: Path) -> None:
    """Write tables and figures of the runs that there are."""
    if not any(read(folder, name) for name in NAMES):
        raise SystemExit(f"no evaluated runs in {folder}: `python docs/scienceworld_runs.py run` makes them")
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "kept", kept_table(folder, NAMES))
    page = put(page, "areas", area_table(folder, NAMES))
    PAGE.write_text(page, encoding="utf-8")
    frontiers(folder, [name for name in EIGHT if read(folder, name)], HERE / "scienceworld-frontiers.png")
    calls_along(folder, HERE / "scienceworld-calls.png")


def main() -> int:
    """Do what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("--folder", type=Path, default=Path("runs/scienceworld"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--names", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    if given.what == "run":
        return 1 if run(given.folder, given.names, given.seeds, given.jobs) else 0
    write(given.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
