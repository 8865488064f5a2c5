"""The numbers of a published table from the records of its runs, and where two sets of numbers differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi import choosing, frontier, protocol
from londi.jobs import Job
from londi.reproduce import TRAINED, Method, Table
from londi.reproduce.records import Record
from londi.where import COUNTS

SCHEMA = 2
KEPT = (0.99, 0.95)
"""Shares of DEEPTHINK's success for which the cheapest policy is chosen."""
ENOUGH = 5
"""Training seeds from which on intervals over them are stated."""
_AREAS = ("hypervolume", "gain", "aiq", "apgr", "regret")
_THRESHOLDS = {"cpt20": 0.2, "cpt50": 0.5, "cpt80": 0.8, "cpt95": 0.95}
_CAPPED = ("budget", "capped")
_Solved = tuple[NDArray[np.bool_], NDArray[np.bool_]] | None
"""Which episodes a policy and DEEPTHINK solved."""


def results(table: Table, every: Sequence[Job], found: Mapping[str, Record]) -> dict[str, Any]:
    """Return the numbers of a table from the records of its runs."""
    tasks = {task.name: _task(table, [job for job in every if job.task == task.name], found) for task in table.tasks}
    overall = _overall(tasks, table.methods)
    head = {"schema": SCHEMA, "table": table.name, "title": table.title, "quick": table.short}
    evaluated = {commit for each in found.values() for commit in each.get("commits") or [each["commit"]]}
    commits = {
        what: sorted({str(commit or "unknown") for commit in known})
        for what, known in (("trained", {each["trained"] for each in found.values()}), ("evaluated", evaluated))
    }
    places = [found[job.folder.name]["environment"] for job in every]
    others = [place for i, place in enumerate(places) if all(_differ(place, each) for each in places[:i])]
    made = places[0] | {"commits": commits, "others": others[1:]}
    episodes = every[0].experiment.evaluate.episodes
    return {**head, "seeds": list(table.seeds), "episodes": episodes, "made": made, "tasks": tasks, "overall": overall}


def pictured(table: Table, every: Sequence[Job], found: Mapping[str, Record]) -> dict[str, list[dict[str, Any]]]:
    """Return by task the `policies` of each seed that a picture shows: those of the common run, and those of the first
    method of any other family from its own runs, in which policies of several runs may have one name."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for job in (job for job in every if not job.method):
        rows = list(found[job.folder.name]["policies"])
        for method in table.methods:
            if any(row["kind"] == method.family for row in rows):
                continue
            kinds = {f"{method.name} {i}": i for i in range(len(method.runs))}
            own = {j.method: j for j in every if j.task == job.task and j.experiment.seed == job.experiment.seed}
            for kind, i in kinds.items():
                given = _rows(method, found[own[kind].folder.name], [found[own[kind].folder.name]], "policies")
                rows += [{**row, "name": f"{row['name']} ({i})"} for row in given if row["kind"] == method.family]
        shown.setdefault(job.task, []).append({"policies": rows})
    return shown


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return any(one.get(key) != other.get(key) for key in ("python", "packages", "machine"))


def _task(table: Table, own: Sequence[Job], found: Mapping[str, Record]) -> dict[str, Any]:
    """The numbers of a task from its runs."""
    common = [found[job.folder.name] for job in own if not job.method]
    methods = {}
    for method in table.methods:
        kinds = (f"{method.name} {i}" for i in range(len(method.runs)))
        apart = [[found[job.folder.name] for job in own if job.method == kind] for kind in kinds]
        bases = common if method.family in TRAINED else common[:1] * len(common)  # with what it was measured beside
        pooled = [list(group) for group in zip(*apart, strict=True)] if apart else [[one] for one in bases]
        methods[method.name] = _method(method, bases, pooled)
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


def _method(method: Method, common: Sequence[Record], pooled: Sequence[Sequence[Record]]) -> dict[str, Any]:
    """Measure a method on a task; `pooled` holds the runs of each seed whose policies make one frontier."""
    family, trained = method.family, method.family in TRAINED
    learner = "price" if family == "capped" else family
    each: dict[str, list[Any]] = {name: [] for name in (*_AREAS, *_THRESHOLDS, "steps_to_90")}
    chosen: dict[str, list[Any]] = {f"at_{round(100 * level)}": [] for level in KEPT}
    used: list[dict[str, float]] = []
    settings = violations = under_budget = 0
    for base, runs in zip(common, pooled, strict=True):
        test, selection = _rows(method, base, runs, "policies"), _rows(method, base, runs, "selection")
        oracle = [row for row in base["policies"] if row["kind"] == "oracle" and family != "oracle"]
        for name in _AREAS:
            each[name].append(getattr(frontier, name)([*test, *oracle] if name == "regret" else test, family))
        for name, share in _THRESHOLDS.items():
            each[name].append(frontier.cpt(test, share, (family,)))
        each["steps_to_90"].append(_steps_to_90(family, runs))
        for level in KEPT:
            found = None if family == "oracle" else choosing.choice(selection, test, level, (family,))
            told = _chosen(found, base) if found else (_only(test) if family == "oracle" else None, None)
            chosen[f"at_{round(100 * level)}"].append(told)
        capped = [row for row in (*test, *selection) if row["kind"] in _CAPPED and row["value"] is not None]
        violations += sum(row["violations"] for row in capped)
        under_budget += sum(row["episodes"] for row in capped)
        used.append(frontier.budget_use(test))
        settings = max(settings, sum(row["kind"] == family for row in test))
    return {
        **each,
        **{level: [told for told, _ in found] for level, found in chosen.items()},
        "interval": _interval([solved for _, solved in chosen["at_99"]]),
        "budget_use": {name: mean(one[name] for one in used) for name in used[0]},
        "settings": settings,
        "env_steps": _total(pooled, lambda one: one["env_steps"]) if trained else None,
        "training_calls": _total(pooled, lambda one: one.get("training_calls")) if trained else None,
        "updates": _total(pooled, lambda one: (one.get("updates") or {}).get(learner)) if trained else None,
        "seconds": mean(sum(one["seconds"] for one in runs) for runs in pooled) if trained else 0.0,
        "violations": violations,
        "under_budget": under_budget,
    }


def _rows(method: Method, base: Record, runs: Sequence[Record], key: str) -> list[Any]:
    """QUICK, DEEPTHINK and the method's policies of a seed, on test (`policies`) or selection episodes."""
    models = [row for row in base[key] if row["kind"] == "model"]
    found = [row for one in runs for row in frontier.family(one[key], method.family)]
    return models + [r for r in found if r["name"].startswith(method.only) and r["name"] not in method.without]


def _chosen(found: Mapping[str, Any], base: Record) -> tuple[dict[str, Any], _Solved]:
    """What is said of a policy that was chosen, and which episodes it and DEEPTHINK solved."""
    test, deep = found["test"], frontier.find(base["policies"], "DEEPTHINK")
    shares = {f"{what}_ratio": found[f"{what}_ratio"] for what in ("success", "calls", "flops", "tokens", "seconds")}
    told = {"name": found["name"], **shares, "switches": test.get("switches"), "most_calls": test["calls"].get("max")}
    own, reference = frontier.unpacked(test), frontier.unpacked(deep)
    return told, None if own is None or reference is None else (own, reference)


def _only(test: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What is said of the oracle, which needs no choice: its success and calls, and not what it takes: it asks both."""
    rows = [row for row in test if row["kind"] == "oracle"]
    if not rows or frontier.why_no_shares(test):
        return None
    row, deep = rows[0], frontier.find(test, "DEEPTHINK")
    shares = {f"{what}_ratio": row[what]["mean"] / deep[what]["mean"] for what in ("success", "calls")}
    unsaid = dict.fromkeys(("flops_ratio", "tokens_ratio", "seconds_ratio"))
    return {
        "name": row["name"],
        **shares,
        **unsaid,
        "switches": row.get("switches"),
        "most_calls": row["calls"].get("max"),
    }


def _interval(solved: Sequence[_Solved]) -> list[float] | None:
    """95 % interval of the success that the choices of all seeds keep; None where a run has no choice, or does not say
    which episodes it solved, and where DEEPTHINK solved none."""
    pairs = [pair for pair in solved if pair and pair[1].any()]
    if not pairs or len(pairs) < len(solved):
        return None
    return list(protocol.kept_interval(np.stack([own for own, _ in pairs]), pairs[0][1]))


def _steps_to_90(family: str, runs: Sequence[Record]) -> int | None:
    curves = [one.get("curve") for one in runs]
    if family not in frontier.LEARNED or len(curves) != 1 or not curves[0]:
        return None
    return frontier.steps_to(curves[0], 0.9)[family]


def _total(pooled: Sequence[Sequence[Record]], count: Callable[[Record], int | None]) -> int | None:
    """What the runs of a seed counted together, in the mean over the seeds of which all runs say it."""
    each = [[count(one) for one in runs] for runs in pooled]
    known = [sum(number or 0 for number in runs) for runs in each if None not in runs]
    return round(mean(known)) if known else None


def _overall(tasks: Mapping[str, Any], methods: Sequence[Method]) -> dict[str, Any]:
    """Interquartile mean of the gain over all seeds and those tasks in which the models differ, and how probably
    londi's own methods are better by hypervolume and by AIQ: the first of all, and the first of prices and of budgets.

    Tasks in which DEEPTHINK never succeeds, or answers no call, are left out; so is what was not measured in all of the
    others. What learns nothing is measured once, and gets no interval, nor does anything where a task has fewer than
    five training seeds. Of the oracle all this would say little: it has one setting, and its area goes in one step.
    """
    firsts = {method.family: method.name for method in reversed(methods) if method.family in frontier.LEARNED}
    ours = [method.name for method in methods if method.name in (methods[0].name, *firsts.values())]
    tasks = {name: task for name, task in tasks.items() if any(map(_in_all, task["methods"].values()))}
    families = {
        method.name: method.family
        for method in methods
        if method.family != "oracle" and all(_in_all(task["methods"][method.name]) for task in tasks.values())
    }
    gains = {name: [task["methods"][name]["gain"] for task in tasks.values()] for name in families}
    apart = [task for i, task in enumerate(tasks) if all(None not in row[i] for row in gains.values())]
    scores = {
        by: {name: [tasks[task]["methods"][name][by] for task in apart] for name in families} for by in ("gain", "aiq")
    }
    found: dict[str, Any] = {}
    for name, row in scores["gain"].items() if apart else ():
        enough = min(map(len, row)) >= ENOUGH
        low, high = protocol.interval(row) if families[name] in TRAINED and enough else (None, None)
        others = [own for own in ours if own in families and own != name]
        better = {own: {by: _better(each[own], each[name], enough) for by, each in scores.items()} for own in others}
        found[name] = {"iqm": protocol.iqm(row), "low": low, "high": high, "better": better, "tasks": apart}
    return found


def _in_all(method: Mapping[str, Any]) -> bool:
    """Whether a method was measured with every seed of its task."""
    return None not in method["hypervolume"]


def _better(own: protocol.Scores, other: protocol.Scores, enough: bool) -> dict[str, Any]:
    """How probably a run of ours scores higher than one of theirs: over all tasks, with its interval, and in each."""
    low, high = protocol.improvement_interval(own, other) if enough else (None, None)
    each = [protocol.improvement([one], [another]) for one, another in zip(own, other, strict=True)]
    return {"all": protocol.improvement(own, other), "low": low, "high": high, "each": each}


def differences(printed: Any, now: Any, tolerance: float, where: str = "") -> list[str]:
    """Return in which places two results differ by more than the tolerance; times and versions are not compared."""
    if isinstance(printed, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**printed, **now} if key not in ("seconds", "seconds_ratio", "made")]
        pairs = ((key, printed.get(key), now.get(key)) for key in keys)
        return [line for key, a, b in pairs for line in differences(a, b, tolerance, f"{where}/{key}")]
    if isinstance(printed, list) and isinstance(now, list) and len(printed) == len(now):
        pairs = ((str(i), a, b) for i, (a, b) in enumerate(zip(printed, now, strict=True)))
        return [line for key, a, b in pairs for line in differences(a, b, tolerance, f"{where}/{key}")]
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (printed, now))
    same = abs(printed - now) <= tolerance if numbers else printed == now
    return [] if same else [f"{where}: printed {printed}, found {now}"]
