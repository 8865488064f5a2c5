"""The numbers of a published table from the records of its runs, and where two sets of numbers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from londi import frontier, protocol
from londi.jobs import Job
from londi.records import Record
from londi.reproduce import TRAINED, Method, Table
from londi.where import COUNTS

SCHEMA = 1
KEPT = (0.99, 0.95)
"""Shares of DEEPTHINK's success for which the cheapest policy is chosen."""


def results(table: Table, every: Sequence[Job], found: Mapping[str, Record], quick: bool = False) -> dict[str, Any]:
    """Return the numbers of a table from the records of its runs."""
    tasks = {task.name: _task(table, [job for job in every if job.task == task.name], found) for task in table.tasks}
    overall = _overall(tasks, table.methods)
    head = {"schema": SCHEMA, "table": table.name, "title": table.title, "quick": quick}
    seeds = list(table.seeds[:1] if quick else table.seeds)
    evaluated = {commit for each in found.values() for commit in each.get("commits") or [each["commit"]]}
    commits = {
        what: sorted({str(commit or "unknown") for commit in known})
        for what, known in (("trained", {each["trained"] for each in found.values()}), ("evaluated", evaluated))
    }
    places = [found[job.folder.name]["environment"] for job in every]
    others = [place for i, place in enumerate(places) if all(_differ(place, each) for each in places[:i])]
    made = places[0] | {"commits": commits, "others": others[1:]}
    episodes = every[0].experiment.evaluate.episodes
    return {**head, "seeds": seeds, "episodes": episodes, "made": made, "tasks": tasks, "overall": overall}


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one.get(key) != other.get(key) for key in ("python", "packages", "machine"))


def _task(table: Table, own: Sequence[Job], found: Mapping[str, Record]) -> dict[str, Any]:
    """The numbers of a task from its runs."""
    common = [found[job.folder.name] for job in own if not job.method]
    methods = {}
    for method in table.methods:
        kinds = (f"{method.name} {i}" for i in range(len(method.runs)))
        apart = [[found[job.folder.name] for job in own if job.method == kind] for kind in kinds]
        shared = common if method.family in TRAINED else common[:1] * len(common)
        pooled = [list(group) for group in zip(*apart, strict=True)] if apart else [[one] for one in shared]
        methods[method.name] = _method(method, common, pooled)
    models = {
        name: {
            key: mean(frontier.find(t["policies"], name)[key]["mean"] for t in common) for key in ("success", "calls")
        }
        for name in ("QUICK", "DEEPTHINK")
    }
    states = {"states": _states(common)} if table.states else {}
    return {"models": models, "methods": methods, **states}


def _states(common: Sequence[Record]) -> dict[str, Any]:
    """Where the chosen policies of all seeds call."""
    each = [one["states"] for one in common]
    rows = [
        {"label": same[0]["label"], **{count: sum(row[count] for row in same) for count in COUNTS}}
        for same in zip(*(one["rows"] for one in each), strict=True)
    ]
    return {"policies": [one["policy"] for one in each], "rows": rows}


def _method(method: Method, common: Sequence[Any], pooled: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Measure a method on a task; `pooled` holds the runs of each seed whose policies make one frontier."""

    def rows(base: Any, runs: Sequence[Any], key: str) -> list[Any]:
        models = [row for row in base[key] if row["kind"] == "model"]
        found = [row for one in runs for row in frontier.family(one[key], method.family)]
        return models + [row for row in found if row["name"].startswith(method.only)]

    each: dict[str, list[Any]] = {"hypervolume": [], "gain": [], "aiq": [], "apgr": [], "regret": []}
    chosen: dict[str, list[Any]] = {f"at_{round(100 * level)}": [] for level in KEPT}
    settings = violations = 0
    for base, runs in zip(common, pooled, strict=True):
        test, selection = rows(base, runs, "policies"), rows(base, runs, "selection")
        oracle = [row for row in base["policies"] if row["kind"] == "oracle" and method.family != "oracle"]
        for name, values in each.items():
            values.append(getattr(frontier, name)([*test, *oracle] if name == "regret" else test, method.family))
        for level in KEPT:
            found = frontier.choice(selection, test, level, (method.family,))
            kept = ("success_ratio", "calls_ratio", "flops_ratio")
            chosen[f"at_{round(100 * level)}"].append(found and {"name": found["name"], **{k: found[k] for k in kept}})
        violations += sum(row["violations"] for row in test)
        settings = max(settings, sum(row["kind"] == method.family for row in test))
    return {
        **each,
        **chosen,
        "settings": settings,
        "env_steps": sum(one["env_steps"] for one in pooled[0]) if method.family in TRAINED else 0,
        "updates": sum(map(_updates, pooled[0])) if method.family in TRAINED and method.family != "ppo" else 0,
        "seconds": mean(sum(one["seconds"] for one in runs) for runs in pooled) if method.family in TRAINED else 0.0,
        "violations": violations,
    }


def _updates(one: Record) -> int:
    """Optimiser steps of each learner of a run; PPO takes its own number."""
    t = one["experiment"]["train"]
    return max(0, int(t["updates_per_step"] * (t["num_steps"] - t["warmup_steps"])))


def _overall(tasks: Mapping[str, Any], methods: Sequence[Method]) -> dict[str, Any]:
    """Interquartile mean of the gain over all seeds and those tasks in which the models differ, and how probably
    londi's own methods are better: the first of all, and the first of prices and of budgets.

    What was not measured in all of them is left out; what learns nothing is measured once, and gets no interval. Of
    the oracle all this would say little: it has one setting, and its area goes in one step.
    """
    firsts = {method.family: method.name for method in reversed(methods) if method.family in frontier.LEARNED}
    ours = [method.name for method in methods if method.name in (methods[0].name, *firsts.values())]
    families = {
        method.name: method.family
        for method in methods
        if method.family != "oracle"
        and all(None not in t["methods"][method.name]["hypervolume"] for t in tasks.values())
    }
    rows = {name: [task["methods"][name]["gain"] for task in tasks.values()] for name in families}
    apart = [all(None not in row[i] for row in rows.values()) for i in range(len(tasks))]
    scores = {name: [one for one, known in zip(row, apart, strict=True) if known] for name, row in rows.items()}
    found: dict[str, Any] = {}
    for name, row in scores.items() if any(apart) else ():
        low, high = protocol.interval(row) if families[name] in TRAINED else (None, None)
        better = {
            own: [protocol.improvement(scores[own], row), *protocol.improvement_interval(scores[own], row)]
            for own in ours
            if own in scores and own != name
        }
        found[name] = {"iqm": protocol.iqm(row), "low": low, "high": high, "better": better}
    return found


def differences(printed: Any, now: Any, tolerance: float, where: str = "") -> list[str]:
    """Return in which places two results differ by more than the tolerance; times and versions are not compared."""
    if isinstance(printed, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**printed, **now} if key not in ("seconds", "made")]
        pairs = ((key, printed.get(key), now.get(key)) for key in keys)
        return [line for key, a, b in pairs for line in differences(a, b, tolerance, f"{where}/{key}")]
    if isinstance(printed, list) and isinstance(now, list) and len(printed) == len(now):
        pairs = ((str(i), a, b) for i, (a, b) in enumerate(zip(printed, now, strict=True)))
        return [line for key, a, b in pairs for line in differences(a, b, tolerance, f"{where}/{key}")]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (printed, now))
    same = abs(printed - now) <= tolerance if numbers else printed == now
    return [] if same else [f"{where}: printed {printed}, found {now}"]
