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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scienceworld_figures import calls_along, frontiers

from londi import config, frontier
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


def untaught(tables: Rows, calls: float) -> str:
    """Return what keeps most with about so many calls, of all that learns nothing, as `97 % @ 46 % (entropy 0.45)`.

    Chosen on the test itself, in its favour; a tenth more calls are allowed.
    """
    deep = frontier.find(tables[0]["policies"], "DEEPTHINK")
    rows = [r for r in tables[0]["policies"] if r["kind"] in ("entropy", "random", "rule")]
    fit = [row for row in rows if row["calls"]["mean"] <= 1.1 * calls]
    if not fit:
        return "-"
    best = max(fit, key=lambda row: (row["success"]["mean"], -row["calls"]["mean"]))
    kept, share = (best[key]["mean"] / deep[key]["mean"] for key in ("success", "calls"))
    name = best["name"].replace("|", "\\|")
    return f"{100 * kept:.0f} % @ {100 * share:.0f} % (`{name}`)"


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
        "| task | seeds | episodes | QUICK | DEEPTHINK @ calls | success kept | calls | tokens | FLOPs | most calls "
        "| without learning |",
        f"|{'---|' * 11}",
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
            str(tables[0]["episodes"]),
            f"{quick['success']['mean']:.2f}",
            f"{deep['success']['mean']:.2f} @ {deep['calls']['mean']:.1f}",
        ]
        for keys in (("success", "mean"), ("calls", "mean"), ("tokens",), ("flops",)):
            cells.append(percent(ratio(tables, half, *keys)))
        chosen = [row for table in tables if (row := half(table))]
        cells.append(str(max((row["calls"]["max"] for row in chosen), default="-")))
        cells.append(untaught(tables, mean(row["calls"]["mean"] for row in chosen)) if chosen else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def area_table(folder: Path, names: Sequence[str]) -> list[str]:
    """The hypervolume of each family, and violations."""
    shown = ("learned prices", "learned budgets", "entropy", "random", "SwiftSage's rule", "other rules", "oracle")
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
    frontiers({name: tables for name in EIGHT if (tables := read(folder, name))}, HERE / "scienceworld-frontiers.png")
    for place in sorted(found.parent for found in folder.glob(f"{LONG}-[0-9]*/frontier.json")):
        if row := half(json.loads((place / "frontier.json").read_text(encoding="utf-8"))):
            calls_along(Run.open(place), row, HERE / "scienceworld-calls.png")
            return
    print(f"no run of {LONG} keeps to half of the calls: its figure is left as it is", file=sys.stderr)


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
