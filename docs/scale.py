"""Write what benchmarks of scale and durability found into docs/scale.md, and draw docs/scale.png.

londi bench scale --json > scale.json       # and replicas, rollout, resume, soak: docs/scale.md says how
python docs/scale.py add scale.json ...     # into docs/scale.json, each in the place of an earlier one of its kind
python docs/scale.py                        # the page and the picture; with --check exit 1 where the page differs
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from londi import plots
from londi.bench.base import SCHEMA

HERE = Path(__file__).parent
PAGE, DATA, PICTURE = HERE / "scale.md", HERE / "scale.json", HERE / "scale.png"
BEGIN, END = "<!-- scale: written by docs/scale.py -->", "<!-- end of scale -->"
BENCHES = ("scale", "rollout", "resume", "soak")
Found = Mapping[str, Any]


def kind(found: Found) -> str:
    """Return what a result is kept as: its benchmark, and its replicas; exits where it is none of ours."""
    if found.get("schema") != SCHEMA or found.get("bench") not in BENCHES:
        raise SystemExit(f"no result of schema {SCHEMA} of londi bench {' | '.join(BENCHES)}")
    return " ".join(map(str, [found["bench"], *(found.get("replicas") or ())]))


def render(page: str, data: Mapping[str, Found]) -> str:
    """Return the page with these results between its marks."""
    replicas = sorted((f for name, f in data.items() if name.startswith("scale ")), key=lambda f: f["replicas"])
    parts = [
        _throughput(data["scale"]) if "scale" in data else [],
        _replicas(replicas) if replicas else [],
        _framework(data["rollout"]) if "rollout" in data else [],
        _resumed(data["resume"]) if "resume" in data else [],
        _memory(data["soak"]) if "soak" in data else [],
    ]
    lines = [line for part in parts for line in part] or ["Nothing is measured yet.", ""]
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n" + "\n".join(lines) + f"\n{END}{rest.split(END)[1]}"


def machine(found: Found) -> str:
    """Say on what a result was measured."""
    made = found["machine"]
    return f"{made['machine']['cpus']} cores, {made['machine']['processor']}, Python {made['python']}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, its first column on the left, the others on the right."""
    return [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|", *map(_row, rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _verdict(found: Found) -> str:
    failed = [what for what, check in found["checks"].items() if not check["passed"]]
    return f"**It did not pass: {'; '.join(failed)}.**" if failed else "It passed."


def _throughput(found: Found) -> list[str]:
    heads = ["workers", "steps a second", "linear", "ratio", "the learner works", "updates made", "CPUs busy"]
    rows = [
        [
            str(row["workers"]),
            f"{row['ours']:.1f}",
            f"{row['reference']:.1f}",
            f"{row['ratio']:.2f}",
            plots.percent(row["learning"]),
            f"{100 * row['updates']:.0f}\u00a0%",
            plots.percent(row["busy"]),
        ]
        for row in found["rows"]
    ]
    about = f"{machine(found)}; {found['seconds']:g} seconds each. {_verdict(found)}{_full(found)}"
    picture = f"![Steps a second against the number of workers, and the linear line]({PICTURE.name})"
    return ["### More workers", "", about, "", *table(heads, rows), picture, ""]


def _full(found: Found) -> str:
    """Say where it is the machine that is measured."""
    full = f" With {' and '.join(found['full'])} the machine has nothing left to give: its CPUs are full."
    return full if found["full"] else ""


def _replicas(found: Sequence[Found]) -> list[str]:
    heads = ["workers", "steps a second", "linear, or what replicas can answer", "ratio", "CPUs busy"]
    parts = ["### Replicas that answer one prompt after the other", ""]
    for each in found:
        rows = [
            [
                str(row["workers"]),
                f"{row['ours']:.1f}",
                f"{row['reference']:.1f}" + (" (replicas)" if row["reference"] == row["limit"] else ""),
                f"{row['ratio']:.2f}",
                plots.percent(row["busy"]),
            ]
            for row in each["rows"]
        ]
        quick, deepthink = each["replicas"]
        about = f"QUICK has {quick} of them, DEEPTHINK {deepthink}. {machine(each)}; {each['seconds']:g} seconds each."
        parts += [f"{about} {_verdict(each)}", "", *table(heads, rows)]
    return parts


def _framework(found: Found) -> list[str]:
    speed, *costs = found["rows"]
    heads = ["milliseconds a step without the models' time", "londi", "plain loop", "ratio"]
    rows = [
        [row["case"].partition(", and")[0], f"{row['ours']:.2f}", f"{row['reference']:.2f}", f"{row['ratio']:.2f}"]
        for row in costs
    ]
    about = (
        f"{machine(found)}. {speed['case'].partition(', and')[0]}: {speed['ours']:.0f} steps a second, models "
        f"included; one at a time {speed['reference']:.0f}."
    )
    return ["### The framework's own cost", "", about, "", *table(heads, rows)]


def _resumed(found: Found) -> list[str]:
    other = found["checks"]["runs that came out otherwise"]["count"]
    heads = ["trainings", "killed", "of them after a checkpoint", "came out otherwise than the one not killed"]
    rows = [[str(value) for value in (found["trials"], found["killed"], found["resumed"], other)]]
    about = f"{machine(found)}; a training takes {found['seconds']:.0f} seconds. {_verdict(found)}"
    return ["### Killed and gone on", "", about, "", *table(heads, rows)]


def _memory(found: Found) -> list[str]:
    used = found["used_mb"]
    first = max(1, len(used) // 10)
    slope = f"{found['slope_mb_per_hour']:+.1f} ± {2 * found['slope_se_mb_per_hour']:.1f}"
    rows = [
        ["trainings in one process", str(found["trainings"])],
        ["minutes", f"{found['minutes']:.0f}"],
        ["environment steps", f"{found['env_steps']:,}"],
        ["MB in use after the warm-up, and at the end", f"{used[first]:.0f}, {used[-1]:.0f}"],
        ["MB an hour, ± 2 standard errors", slope],
        ["MB an hour that would be 2 %", f"{found['bound_mb_per_hour']:.1f}"],
        *(_within(found["within"]) if found["within"] else ()),
    ]
    return ["### Memory", "", f"{machine(found)}. {_verdict(found)}", "", *table(["what", "measured"], rows)]


def _within(found: Found) -> list[list[str]]:
    steps, used, kept = (found[key] for key in ("steps", "used_mb", "answers"))
    slope = f"{found['mb_per_1000_steps']:+.2f} ± {2 * found['se_mb_per_1000_steps']:.2f}"
    return [
        [
            f"one training with a full replay, MB from step {steps[0]:,} to {steps[-1]:,}",
            f"{used[0]:.0f}, {used[-1]:.0f}",
        ],
        ["its MB in 1,000 steps, ± 2 standard errors", slope],
        ["answers of the models that it kept by then", f"{kept[0]:,}, {kept[1]:,}"],
    ]


def draw(measured: Sequence[Found], path: Path) -> None:
    """Draw steps a second against workers, and what they would be if nothing but the models were waited for: a panel
    for each number of replicas."""
    figure = plots.new_figure(7.8 if len(measured) == 1 else 9.6, 3.9)
    panels = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(0.08, 0.14, 0.985, 0.9, wspace=0.06)
    for axes, found in zip(panels, measured, strict=True):
        _panel(axes, found)
    values = [row[key] for found in measured for row in found["rows"] for key in ("reference", "ours")]
    panels[0].set_ylim(min(values) / 1.4, max(values) * 1.6)
    panels[0].set_ylabel("environment steps a second", fontsize=10.5, labelpad=4)
    figure.savefig(path, dpi=160)


def _panel(axes: Any, found: Found) -> None:
    plots.bare(axes)
    rows = found["rows"]
    workers = [row["workers"] for row in rows]
    linear, ours = ([row[key] for row in rows] for key in ("reference", "ours"))
    axes.plot(workers, linear, color=plots.MUTED, linewidth=1.6, linestyle=(0, (4, 2)))
    axes.plot(workers, ours, color=plots.BLUE, linewidth=2.4, marker="o", markersize=7, markeredgecolor=plots.PAPER)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(workers, [str(count) for count in workers])
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set_xlabel("workers, an environment each", fontsize=10.5, labelpad=6)
    replicas = found["replicas"]
    title = "{} replicas of QUICK, {} of DEEPTHINK".format(*replicas) if replicas else "models that answer everybody"
    axes.set_title(title, fontsize=10.5, loc="left", color=plots.MUTED)
    style = {"fontsize": 10.5, "fontweight": "bold", "textcoords": "offset points", "ha": "right"}
    waited = "what replicas can answer" if replicas else "linear: only models are waited for"
    axes.annotate(waited, (workers[-1], linear[-1]), (2, 8) if replicas else (-14, 2), color=plots.MUTED, **style)
    axes.annotate("londi", (workers[-1], ours[-1]), (-4, -20), color=plots.BLUE, **style)


def main(argv: Sequence[str] | None = None) -> None:
    """Merge results, write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page differs")
    parser.add_argument("what", nargs="?", choices=["add"], help="merge results of `londi bench X --json`")
    parser.add_argument("files", nargs="*", type=Path)
    given = parser.parse_args(argv)
    data: dict[str, Found] = json.loads(DATA.read_text(encoding="utf-8"))
    if given.what:
        for path in given.files:
            found = json.loads(path.read_text(encoding="utf-8"))
            data[kind(found)] = found
        DATA.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        return
    page = PAGE.read_text(encoding="utf-8")
    fresh = render(page, data)
    if given.check:
        if fresh != page:
            raise SystemExit("docs/scale.md and docs/scale.json differ: run `python docs/scale.py`")
        return
    PAGE.write_text(fresh, encoding="utf-8")
    if measured := [data[name] for name in sorted(data) if name.startswith("scale")]:
        draw(measured, PICTURE)


if __name__ == "__main__":
    main()
