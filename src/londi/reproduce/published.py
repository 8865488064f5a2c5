"""A table of `londi reproduce` as Markdown, and its place in a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from londi import where
from londi.errors import ConfigError

FEW = 100
"""Steps of a kind below which no share of them is printed."""


def blocks(result: Mapping[str, Any], layout: str = "tasks") -> dict[str, list[str]]:
    """Return what a result is on a page, by the name between whose comments it stands: NAME, the tables (`markdown`);
    "NAME choices", what the first method's choices keep and save; "NAME measures", what the tables have no room for;
    "NAME states", where the choices call, if that was counted.
    """
    name, tasks = result["table"], result["tasks"]
    found = {name: markdown(result, layout), f"{name} choices": _choices(tasks)[:-1]}
    found[f"{name} measures"] = [_head(result), "", *measures_markdown(tasks)]
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
    """One table with a line for each task, in which the first method's choice, and that of the other with the fewest
    calls, stand beside the areas of all."""
    first = next(iter(tasks.values()))["methods"]
    methods = list(first)
    areas = [f"{name} ({first[name]['settings']})" for name in methods]
    lines = [
        f"| | QUICK | DEEPTHINK | {methods[0]} keep 99 %: success | calls | of the others with fewest: success | calls "
        f"| hypervolume (number of settings): {' | '.join(areas)} | violations |",
        f"|---|{'---:|' * (len(methods) + 7)}",
    ]
    for task, found in tasks.items():
        chosen = found["methods"][methods[0]]["at_99"]
        cells = [task, *(f"{100 * found['models'][name]['success']:.1f} %" for name in ("QUICK", "DEEPTHINK"))]
        cells += [_kept(chosen, key) for key in ("success_ratio", "calls_ratio")]
        others = {name: found["methods"][name]["at_99"] for name in methods[1:] if "oracle" not in name}
        cells += _cheapest(others, max(1, sum(map(bool, chosen))))
        cells += [_spread(found["methods"][name]["hypervolume"]) for name in methods]
        lines.append(f"| {' | '.join(cells)} | {sum(m['violations'] for m in found['methods'].values())} |")
    return [*lines, ""]


def _cheapest(choices: Mapping[str, Sequence[Mapping[str, Any] | None]], seeds: int) -> list[str]:
    """What the method keeps, and with how many calls, whose choices take the fewest in the mean, of those that have one
    in so many seeds."""
    few = {name: [choice for choice in each if choice] for name, each in choices.items()}
    calls = {name: mean(one["calls_ratio"] for one in each) for name, each in few.items() if len(each) >= seeds}
    if not calls:
        return ["-", "-"]
    best = min(calls, key=lambda name: calls[name])
    return [_kept(choices[best], "success_ratio"), f"{_kept(choices[best], 'calls_ratio')} ({best})"]


def _choices(tasks: Mapping[str, Any]) -> list[str]:
    """One table of what the first method keeps and saves, with a line for each task."""
    first = next(iter(next(iter(tasks.values()))["methods"]))
    lines = [
        f"| {first}, chosen to keep 99 % | QUICK alone | DEEPTHINK alone "
        "| success kept (95 % interval) | runs that kept 99 % | calls | calls, worst run | the oracle's calls "
        "| FLOPs | tokens |",
        f"|---|{'---:|' * 9}",
    ]
    for task, found in tasks.items():
        alone = [f"{100 * found['models'][name]['success']:.1f} %" for name in ("QUICK", "DEEPTHINK")]
        method = found["methods"][first]
        chosen = [one for one in method["at_99"] if one]
        between = method["interval"]
        kept = _kept(method["at_99"], "success_ratio")
        kept += f" ({100 * between[0]:.1f} to {100 * between[1]:.1f})" if between else ""
        enough = sum(one["success_ratio"] >= 0.99 for one in chosen)
        most = f"{100 * max(one['calls_ratio'] for one in chosen):.1f} %" if chosen else "-"
        calls, *rest = (_kept(method["at_99"], key) for key in ("calls_ratio", "flops_ratio", "tokens_ratio"))
        oracle = next(
            (_kept(m["at_99"], "calls_ratio") for name, m in found["methods"].items() if "oracle" in name), "-"
        )
        cells = [task, *alone, kept, f"{enough} of {len(method['at_99'])}", calls, most, oracle, *rest]
        lines.append(f"| {' | '.join(cells)} |")
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
            "| training: steps | DEEPTHINK calls | updates | violations |",
            f"|---|{'---:|' * 11}",
        ]
        real = {n: mean(m["hypervolume"]) for n, m in found["methods"].items() if _known(m) and "oracle" not in n}
        best = max(real.values(), default=None)
        for name, method in found["methods"].items():
            areas = _spread(method["hypervolume"])
            cells = [name, str(method["settings"]), f"**{areas}**" if name in real and real[name] == best else areas]
            cells += [_spread(method[measure]) for measure in ("aiq", "regret")]
            cells += [_kept(method["at_99"], key) for key in ("success_ratio", "calls_ratio", "flops_ratio")]
            counts = ("env_steps", "training_calls", "updates")
            trained = [f"{method[count]:,}" if method[count] else "-" for count in counts]
            held = f"{method['violations']} of {method['under_budget']:,}" if method["under_budget"] else "-"
            lines.append(f"| {' | '.join([*cells, *trained, held])} |")
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
    """How the methods compare over all tasks, and in each the first one with the others where there are several."""
    rows = result["overall"]
    ours = [name for name in rows if any(name in row["better"] for row in rows.values())]
    by = {"gain": "hypervolume", "aiq": "AIQ"}
    columns = "".join(f"| probability that {own} is better, by {what} " for own in ours for what in by.values())
    tasks = next(iter(rows.values()))["tasks"]
    over = "all tasks and seeds" if len(tasks) == len(result["tasks"]) else f"all seeds of {'; '.join(tasks)}"
    lines = [f"| {over} | interquartile mean of gain {columns}|", f"|---|{'---:|' * (1 + 2 * len(ours))}"]
    for name, row in rows.items():
        better = [row["better"].get(own, {}).get(key) for own in ours for key in by]
        cells = [_between(row["iqm"], row, 3), *("" if b is None else _between(b["all"], b, 2) for b in better)]
        lines.append(f"| {' | '.join([name, *cells])} |")
    if ours and len(tasks) > 1:
        lines += ["", f"| probability that {ours[0]} is better, by hypervolume / by AIQ | {' | '.join(tasks)} |"]
        lines.append(f"|---|{'---:|' * len(tasks)}")
        for name, row in rows.items():
            if ours[0] in row["better"]:
                each = zip(*(row["better"][ours[0]][key]["each"] for key in by), strict=True)
                lines.append(f"| {' | '.join([name, *(f'{one:.2f} / {other:.2f}' for one, other in each)])} |")
    return lines


def _between(value: float, row: Mapping[str, Any], digits: int) -> str:
    """A number and, where it has one, its interval."""
    between = "" if row["low"] is None else f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})"
    return f"{value:.{digits}f}{between}"


def measures_markdown(tasks: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table for each task with what the main one has no room for."""
    paced = any(steps for found in tasks.values() for m in found["methods"].values() for steps in m["steps_to_90"])
    lines = []
    for task, found in tasks.items():
        lines += [
            f"**{task}**",
            "",
            "| method | APGR | CPT 20 | CPT 50 | CPT 80 | CPT 95 | keeps 95 %: success | calls "
            "| keeps 99 %: tokens | model time | most calls | switches | training, minutes |"
            + " steps to 90 % |"
            * paced,
            f"|---|{'---:|' * (12 + paced)}",
        ]
        for name, method in found["methods"].items():
            cells = [name, _spread(method["apgr"]), *(_share(method[f"cpt{share}"]) for share in (20, 50, 80, 95))]
            cells += [_kept(method["at_95"], key) for key in ("success_ratio", "calls_ratio")]
            cells += [_kept(method["at_99"], key) for key in ("tokens_ratio", "seconds_ratio")]
            chosen = [one for one in method["at_99"] if one and one["most_calls"] is not None]
            cells.append(str(max(one["most_calls"] for one in chosen)) if chosen else "-")
            cells.append(f"{mean(one['switches'] for one in chosen):.1f}" if chosen else "-")
            cells.append(f"{method['seconds'] / 60:.1f}" if method["seconds"] else "-")
            if paced:
                known = [steps for steps in method["steps_to_90"] if steps is not None]
                cells.append(f"{mean(known):,.0f}" if known and len(known) == len(method["steps_to_90"]) else "-")
            lines.append(f"| {' | '.join(cells)} |")
        used = {name: share for method in found["methods"].values() for name, share in method["budget_use"].items()}
        if used:
            shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in used.items())
            lines += ["", f"Share of a budget that an episode uses, in the mean: {shares}"]
        lines.append("")
    return lines[:-1]


def _share(values: Sequence[float | None]) -> str:
    """A share of calls as per cent, the mean over seeds; none where it is not reached in one."""
    known = [value for value in values if value is not None]
    return f"{100 * mean(known):.1f} %" if known and len(known) == len(values) else "-"


def states_markdown(tasks: Mapping[str, Any]) -> list[str]:
    """Return the lines of a table of where the chosen policies call, a column for each task."""
    lines = [
        "Share of the steps of a kind in which DEEPTHINK is called / in which the models differ; over all seeds, and "
        f"from {FEW} steps on.",
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
    chosen = [Counter(found["states"]["policies"]) for found in tasks.values()]
    policies = [", ".join(f"{count} x {name}" for name, count in each.most_common()) for each in chosen]
    return [
        *lines,
        f"| calls that change what is done | {' | '.join(changed)} |",
        f"| runs x policy chosen | {' | '.join(policies)} |",
    ]


def _part(count: int, total: int) -> str:
    return f"{100 * count / total:.0f} %" if total >= FEW else "-"


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
