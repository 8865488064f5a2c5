"""A table of `londi reproduce` as Markdown, and its place in a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from londi import where
from londi.errors import ConfigError


def blocks(result: Mapping[str, Any], layout: str = "tasks") -> dict[str, list[str]]:
    """Return what a result is on a page, by the name between whose comments it stands: NAME, the tables (`markdown`);
    "NAME choices", what the first method's choices keep and save; "NAME states", where they call, if that was counted.
    """
    name, tasks = result["table"], result["tasks"]
    found = {name: markdown(result, layout), f"{name} choices": [_head(result), "", *_choices(tasks)[:-1]]}
    if all("states" in task for task in tasks.values()):
        found[f"{name} states"] = states_markdown(tasks)
    return found


def markdown(result: Mapping[str, Any], layout: str = "tasks") -> list[str]:
    """Return the lines of a result, and the statistics over all tasks.

    `layout` is "tasks" for a table for each task, or "lines" for one table with a line for each.
    """
    lines = [_head(result), ""]
    lines += _one_table(result["tasks"]) if layout == "lines" else _tables(result["tasks"])
    if len(result["seeds"]) > 1 and result["overall"]:
        lines += [*_overall(result), ""]
    return [*lines, _made(result["made"])] if "made" in result else lines[:-1]


def _head(result: Mapping[str, Any]) -> str:
    seeds = result["seeds"]
    several = f"s {', '.join(map(str, seeds))}" if len(seeds) > 1 else f" {seeds[0]}"
    said = f"Training seed{several}; {result['episodes']} test episodes of each policy, the same for all."
    return said + " Mean ± standard deviation over training seeds; what learns nothing is measured once." * (
        len(seeds) > 1
    )


def _one_table(tasks: Mapping[str, Any]) -> list[str]:
    """One table with a line for each task, in which the first method's choice stands beside the areas of all."""
    first = next(iter(tasks.values()))["methods"]
    methods = list(first)
    areas = [f"{name} ({first[name]['settings']})" for name in methods]
    lines = [
        f"| | QUICK | DEEPTHINK | {methods[0]} keep 99 %: success | calls "
        f"| hypervolume (of so many settings): {' | '.join(areas)} | violations |",
        f"|---|{'---:|' * (len(methods) + 5)}",
    ]
    for task, found in tasks.items():
        chosen = found["methods"][methods[0]]["at_99"]
        cells = [task, *(f"{100 * found['models'][name]['success']:.1f} %" for name in ("QUICK", "DEEPTHINK"))]
        cells += [_kept(chosen, key) for key in ("success_ratio", "calls_ratio")]
        cells += [_spread(found["methods"][name]["hypervolume"]) for name in methods]
        lines.append(f"| {' | '.join(cells)} | {sum(m['violations'] for m in found['methods'].values())} |")
    return [*lines, ""]


def _choices(tasks: Mapping[str, Any]) -> list[str]:
    """One table of what the first method keeps and saves, with a line for each task."""
    first = next(iter(next(iter(tasks.values()))["methods"]))
    lines = [
        f"| {first}, chosen to keep 99 % | QUICK alone solves | DEEPTHINK alone solves | success, of DEEPTHINK's "
        "| calls, of DEEPTHINK's | FLOPs, of DEEPTHINK's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for task, found in tasks.items():
        alone = [f"{100 * found['models'][name]['success']:.1f} %" for name in ("QUICK", "DEEPTHINK")]
        chosen = found["methods"][first]["at_99"]
        cells = [_kept(chosen, key) for key in ("success_ratio", "calls_ratio", "flops_ratio")]
        lines.append(f"| {' | '.join([task, *alone, *cells])} |")
    return [*lines, ""]


def _tables(tasks: Mapping[str, Any]) -> list[str]:
    """A table for each task, with a line for each method; before them the first method's choices, where there are
    several tasks."""
    lines = _choices(tasks) if len(tasks) > 1 else []
    for task, found in tasks.items():
        quick, deep = found["models"]["QUICK"], found["models"]["DEEPTHINK"]
        lines += [
            f"**{task}**: QUICK succeeds in {100 * quick['success']:.1f} %, DEEPTHINK in {100 * deep['success']:.1f} % "
            f"with {deep['calls']:.2f} calls.",
            "",
            "| method | settings | hypervolume | AIQ | regret | keeps 99 %: success | calls | FLOPs "
            "| environment steps | updates | violations |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        real = {n: mean(m["hypervolume"]) for n, m in found["methods"].items() if _known(m) and "oracle" not in n}
        best = max(real.values(), default=None)
        for name, method in found["methods"].items():
            areas = _spread(method["hypervolume"])
            cells = [name, str(method["settings"]), f"**{areas}**" if name in real and real[name] == best else areas]
            cells += [_spread(method[measure]) for measure in ("aiq", "regret")]
            cells += [_kept(method["at_99"], key) for key in ("success_ratio", "calls_ratio", "flops_ratio")]
            trained = [f"{method[count]:,}" if method[count] else "-" for count in ("env_steps", "updates")]
            lines.append(f"| {' | '.join([*cells, *trained, str(method['violations'])])} |")
        lines.append("")
    return lines


def _made(environment: Mapping[str, Any]) -> str:
    known = {what: commits for what, commits in environment.get("commits", {}).items() if commits != ["unknown"]}
    at = [f"{what} at {_commits(commits)}" for what, commits in known.items()]
    places = " and ".join(_place(each) for each in (environment, *environment.get("others", ())))
    return f"Made with {places}{'; ' if at else ''}{', '.join(at)}."


def _place(environment: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    machine = environment["machine"]
    return (
        f"{packages}, Python {environment['python']}; {machine['system']}, {machine['processor']}, "
        f"{machine['cpus']} CPUs"
    )


def _commits(commits: Sequence[str]) -> str:
    short = [commit[:10] + ", changed" * commit.endswith("-dirty") for commit in commits]
    return f"commit{'s' * (len(short) > 1)} {' and '.join(short)}"


def _overall(result: Mapping[str, Any]) -> list[str]:
    compared = {own for row in result["overall"].values() for own in row["better"]}
    ours = [name for name in result["overall"] if name in compared]
    columns = "".join(f"| probability that {own} is better (95 %) " for own in ours)
    lines = [
        f"| all tasks and seeds | interquartile mean of gain (95 %) {columns}|",
        f"|---|---:|{'---:|' * len(ours)}",
    ]
    for name, row in result["overall"].items():
        between = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
        cells = [f"{row['iqm']:.3f}{between}"]
        for own in ours:
            better = row["better"].get(own)
            cells.append("" if better is None else f"{better[0]:.2f} ({better[1]:.2f} to {better[2]:.2f})")
        lines.append(f"| {' | '.join([name, *cells])} |")
    return lines


def states_markdown(tasks: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table of where the chosen policies call, a column for each task."""
    lines = [
        "Share of the steps of a kind in which DEEPTHINK is called / in which the models differ; over all seeds.",
        "",
        f"| | {' | '.join(tasks)} |",
        f"|---|{'---:|' * len(tasks)}",
    ]
    each = [found["states"]["rows"] for found in tasks.values()]
    for same in (rows for rows in zip(*each, strict=True) if any(row["steps"] for row in rows)):
        label = same[0]["label"]
        cells = [_part(row["calls"], row["steps"]) for row in same]
        if label not in (where.DIFFER, where.AGREE):
            cells = [f"{own} / {_part(row['differ'], row['steps'])}" for own, row in zip(cells, same, strict=True)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    changed = []
    for rows in each:
        calls = {row["label"]: row["calls"] for row in rows}
        changed.append(_part(calls[where.DIFFER], calls[where.ALL]))
    policies = [", ".join(dict.fromkeys(found["states"]["policies"])) for found in tasks.values()]
    return [
        *lines,
        f"| calls that change what is done | {' | '.join(changed)} |",
        f"| policy chosen | {' | '.join(policies)} |",
    ]


def _part(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total else "-"


def _known(method: Mapping[str, Any]) -> bool:
    return all(value is not None for value in method["hypervolume"])


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "-"
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len({*known}) > 1 else "")


def _kept(choices: Sequence[Mapping[str, Any] | None], key: str) -> str:
    """A share of DEEPTHINK's, as per cent; in how many seeds, where not in all."""
    known = [choice[key] for choice in choices if choice and choice[key] is not None]
    if not known:
        return "-"
    spread = f" ± {100 * stdev(known):.1f}" if len({*known}) > 1 else ""
    few = "" if len(known) == len(choices) else f" ({len(known)} of {len(choices)} seeds)"
    return f"{100 * mean(known):.1f}{spread} %{few}"


def put(page: str, name: str, lines: Sequence[str]) -> str:
    """Return the page with these lines between its two comments of that name; raises `ConfigError` without them.

    The comments are `<!-- NAME: written by londi reproduce -->` and `<!-- end of NAME -->`.
    """
    begin, end = f"<!-- {name}: written by londi reproduce -->", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ConfigError(f"the page has no place for the table: put '{begin}' and '{end}' where it is to stand")
    content = "\n".join(lines)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
