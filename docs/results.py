"""Write docs/results.md and docs/frontier.png from evaluated runs of one experiment.

python docs/results.py RUN [RUN ...]     one run folder for each training seed, the first the one shown in full
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from londi import config
from londi.errors import LondiError
from londi.summary import summarise_runs

DOCS = Path(__file__).parent
LEVELS = (("at_99", "99 %"), ("at_95", "95 %"))
Measures = Mapping[str, Mapping[str, Any]]


def share(value: float) -> str:
    """Return a ratio as a percentage."""
    return f"{100 * value:.1f} %"


def number(value: float) -> str:
    """Return a number with three decimals."""
    return f"{value:.3f}"


def spread(measure: Mapping[str, Any], show: Callable[[float], str]) -> str:
    """Return `mean ± std`; the mean alone for one run; what is known where a run lacks the measure."""
    known = [value for value in measure["each"] if value is not None]
    if not known:
        return "not reached"
    if measure["mean"] is None:
        return f"{', '.join(map(show, known))} (in {len(known)} of {len(measure['each'])} runs)"
    if measure["std"] is None:
        return show(measure["mean"])
    return f"{show(measure['mean'])} ± {show(measure['std'])}"


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a Markdown table, all columns but the first aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def capped(row: Mapping[str, Any]) -> bool:
    """Return whether a policy was played under a budget."""
    return row["kind"] == "budget" and row["value"] is not None


def source(experiment: config.Experiment, run: Path) -> str:
    """Return the arguments of `londi train` that give this experiment, but for its seed."""
    files = [
        *sorted((DOCS.parent / "experiments").glob("*.toml")),
        *(DOCS.parent / "src/londi/templates").glob("*.toml"),
    ]
    for file in files:
        known = replace(config.load(file), seed=experiment.seed)
        name = file.relative_to(DOCS.parent).as_posix()
        if known == experiment:
            return name
        if replace(known, train=replace(known.train, num_steps=experiment.train.num_steps)) == experiment:
            return f"{name} --steps {experiment.train.num_steps}"
    print(f"results: {run / 'config.toml'} is none of the repository's experiments, and is shown", file=sys.stderr)
    return "config.toml"


def command_lines(experiment: config.Experiment, seeds: list[int], run: Path) -> list[str]:
    """Return the commands that make these runs again."""
    file = source(experiment, run)
    folders = [f"runs/{experiment.name}-{seed}" for seed in seeds]
    lines = ["```bash"]
    for seed, folder in zip(seeds, folders, strict=True):
        lines += [f"londi train {file} --seed {seed} --run {folder}", f"londi evaluate {folder}"]
    lines += [f"londi report {folders[0]}", f"python docs/results.py {' '.join(folders)}", "```", ""]
    if file == "config.toml":
        lines += ["with this `config.toml`:", "", "```toml", config.dump(experiment).strip(), "```", ""]
    return lines


def models_table(m: Measures) -> list[str]:
    """QUICK, DEEPTHINK and the oracle."""
    rows = []
    for name in ("QUICK", "DEEPTHINK", "disagreement oracle"):
        calls = m.get(f"{name} calls")
        rows.append([name, spread(m[f"{name} success"], number), spread(calls, number) if calls else "0"])
    return table(["acting alone", "success", "calls per episode"], rows)


def choices_table(m: Measures) -> list[str]:
    """What the chosen policies keep and cost."""
    rows = []
    for key, level in LEVELS:
        cells = [spread(m[f"{key} {ratio}"], share) for ratio in ("success_ratio", "calls_ratio", "flops_ratio")]
        rows.append([level, *cells])
    return table(["chosen to keep", "success", "calls", "FLOPs"], rows)


def families_table(m: Measures) -> list[str]:
    """Hypervolume and APGR by family."""
    families = {"budget": "learned, budget", "price": "learned, price", "random": "random calls"}
    families |= {"entropy": "entropy threshold", "oracle": "disagreement oracle"}
    rows = [
        [shown, spread(m[f"hypervolume {kind}"], number), spread(m[f"apgr {kind}"], number)]
        for kind, shown in families.items()
        if any(value is not None for value in m[f"hypervolume {kind}"]["each"])
    ]
    return table(["policies", "hypervolume", "APGR"], rows)


def full_table(data: Mapping[str, Any]) -> list[str]:
    """Every policy of one run."""
    chosen: dict[str, list[str]] = {}
    for key, level in LEVELS:
        if data["choices"][key]:
            chosen.setdefault(data["choices"][key]["name"], []).append(level)
    rows = []
    for row in data["policies"]:
        marks = chosen.get(row["name"])
        s, calls = row["success"], row["calls"]
        cells = [row["name"] + (f" (chosen for {' and '.join(marks)})" if marks else "")]
        cells += [f"{s['mean']:.3f}", f"{s['low']:.3f} to {s['high']:.3f}", f"{calls['mean']:.2f}", str(calls["max"])]
        cells += [share(row["call_share"]), f"{row['tokens']:.0f}", f"{row['flops'] / 1e6:.2f}", f"{row['steps']:.1f}"]
        rows.append([*cells, str(row["violations"])])
    head = ["policy", "success", "95 % interval", "calls", "most", "call share", "tokens", "MFLOPs", "steps"]
    return table([*head, "violations"], rows)


def settings(data: Mapping[str, Any]) -> str:
    """Return at how many settings each family was measured."""
    kinds = [row["kind"] for row in data["policies"]]
    return ", ".join(f"{kind} {kinds.count(kind)}" for kind in dict.fromkeys(kinds) if kind != "model")


def render(runs: list[Path]) -> str:
    """Return the page."""
    summary = summarise_runs(runs)
    m: Measures = summary["measures"]
    seeds: list[int] = summary["training_seeds"]
    tables = [json.loads((run / "frontier.json").read_text(encoding="utf-8")) for run in runs]
    data = tables[0]
    experiment = config.load(runs[0] / "config.toml")
    machine = json.loads((runs[0] / "environment.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    over = f"mean ± standard deviation over {len(seeds)} training seeds" if len(seeds) > 1 else "one training seed"
    violations = sum(table["metrics"]["violations"] for table in tables)
    played = sum(table["episodes"] * sum(capped(r) for r in table["policies"]) for table in tables)
    lines = [
        "# Results",
        "",
        "<!-- written by docs/results.py; do not edit -->",
        "",
        f"Experiment `{data['experiment']}` on `{data['env']}`: QUICK is `{experiment.quick.model}`, DEEPTHINK "
        f"`{experiment.deepthink.model}`. {over[0].upper()}{over[1:]} ({', '.join(map(str, seeds))}), "
        f"{data['env_steps']:,} environment steps of training each; {data['episodes']} test episodes of each policy, "
        "the same seeds for all.",
        "",
        "![Success against DEEPTHINK calls per episode](frontier.png)",
        "",
        f"The picture is of training seed {seeds[0]}. What the words mean: [Method](method.md).",
        "",
        "## In short",
        "",
        "Budget or price is chosen on selection seeds as the one with the fewest calls that keeps 99 % or 95 % of "
        "DEEPTHINK's success there by one standard error; the table shows success, calls and FLOPs on test seeds, as a "
        "share of DEEPTHINK's.",
        "",
        *choices_table(m),
        *models_table(m),
        *families_table(m),
        "Both areas go in steps from one measured setting to the next, so that a family measured at few settings gets "
        "less than a line through them would: " + settings(data) + ". Hold the oracle against the policies "
        "near its calls and not by its area.",
        "",
        "QUICK is consulted at every step, by the DEEPTHINK row too, and its FLOPs are counted in both.",
        "",
        f"Budget violations: {violations} in {played:,} test episodes under a budget.",
        "",
        f"## Every policy, training seed {seeds[0]}",
        "",
        "Means per episode; tokens and FLOPs include QUICK's.",
        "",
        *full_table(data),
        "## How to make this again",
        "",
        *command_lines(experiment, seeds, runs[0]),
        f"Python {machine['python']}, {versions}; {machine['machine']['system']}, {machine['machine']['processor']}, "
        f"{machine['machine']['cpus']} CPUs.",
        "",
    ]
    return "\n".join(lines)


def main(args: list[str]) -> int:
    """Write the page and copy the picture; returns the exit code."""
    if not args or args[0].startswith("-"):
        print(__doc__)
        return 2
    runs = [Path(arg) for arg in args]
    picture = runs[0] / "frontier.png"
    try:
        page = render(runs)
    except LondiError as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    if not picture.is_file():
        print(f"results: no {picture}: run `londi report {runs[0]}` first", file=sys.stderr)
        return 2
    (DOCS / "results.md").write_text(page, encoding="utf-8")
    shutil.copyfile(picture, DOCS / "frontier.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
