"""`londi reproduce`: the runs behind a published table, its numbers, and whether they are the ones that are printed.

A table is a TOML file: tasks (experiments), methods (families of policies, of one run for each task and seed or of
runs of their own), training seeds. What was run is kept, so that an interrupted table goes on where it was.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from londi import config, frontier, protocol, records
from londi.config import Experiment
from londi.errors import ConfigError, RunError
from londi.jobs import Job, merged
from londi.records import Record
from londi.where import COUNTS, check_kinds

SCHEMA = 1
KEPT = (0.99, 0.95)
"""Shares of DEEPTHINK's success for which the cheapest policy is chosen."""
_TRAINED = ("budget", "price", "capped", "myopic", "router", "sac", "ppo")
_NO_RULES: dict[str, Any] = dict.fromkeys(
    ("random_rates", "every", "first", "entropy_thresholds", "margins", "rules"), ()
)
"""What an evaluation leaves out that measures no rules."""


@dataclass(frozen=True)
class Task:
    """One task of a table."""

    name: str
    experiment: str
    """Its experiment, a path relative to the table's file."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes of the experiment."""
    trained_on: str = ""
    """Task of the table `trained_in` whose Switchers are measured here; empty to train."""


@dataclass(frozen=True)
class Method:
    """One row of a table: a family of policies."""

    name: str
    family: Literal[*frontier.FAMILIES]  # type: ignore[valid-type]
    """Which kind of policy, see `londi.frontier`."""
    only: str = ""
    """Beginning of the names of the policies that count; empty for all."""
    runs: tuple[dict[str, Any], ...] = ()
    """Changes of the experiment, one for each run of its own; their policies make one frontier. Without any, the
    policies are those of the task's common run."""


@dataclass(frozen=True)
class Table:
    """A published table."""

    title: str
    tasks: tuple[Task, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Training seeds."""
    page: str = ""
    """Markdown page that holds the table, relative to its file."""
    choices_page: str = ""
    """Another that shows what the first method's choice keeps and saves in each task, and no more of it."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changes of every experiment, for all runs."""
    trained_in: str = ""
    """Another table, by the name of its file beside this one, whose Switchers are measured here without training."""
    layout: Literal["tasks", "lines"] = "tasks"
    """On the page: a table for each task, or one with a line for each."""
    states: dict[str, str] = field(default_factory=dict)
    """Kinds of state, by label, as regular expressions of the observation: where the chosen policies call is counted in
    these and in those of `londi.where`. Empty to leave it out."""
    quick: dict[str, Any] = field(default_factory=dict)
    """Further changes with `--quick`, which takes the first seed alone."""
    name: str = ""
    path: Path = Path()

    def pages(self) -> dict[Path, list[str]]:
        """Return its pages, and the names of the blocks (`londi.published.blocks`) that stand in each."""
        states = [f"{self.name} states"] if self.states else []
        shown = ((self.page, [self.name, *states]), (self.choices_page, [f"{self.name} choices"]))
        found: dict[Path, list[str]] = {}
        for page, names in shown:
            if page:
                found.setdefault((self.path.parent / page).resolve(), []).extend(names)
        return found

    def experiment(self, task: Task, changes: Mapping[str, Any], quick: bool) -> Experiment:
        """Return a task's experiment with the table's changes and these; raises `ConfigError`."""
        source = self.path.parent / task.experiment
        try:
            data = tomllib.loads(source.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise ConfigError(f"{self.path}: task '{task.name}': {error}") from error
        for more in (self.changes, task.changes, self.quick if quick else {}, changes):
            data = merged(data, more)
        return config.parse(data, f"{self.path}: task '{task.name}'")


setattr(Table, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
for _part in (Task, Method):
    setattr(_part, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010


def load_table(path: Path) -> Table:
    """Read a table's TOML; raises `ConfigError` with one line that names the fix."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        table: Table = TypeAdapter(Table).validate_python({**data, "name": path.stem, "path": path})
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(f"no table {path}; those of {path.parent}: {known}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: '{place}': {first['msg'].lower()}") from error
    for what, names in (("task", [t.name for t in table.tasks]), ("method", [m.name for m in table.methods])):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{path}: name at least one {what}, and each once")
    if table.trained_in:
        changes = (table.changes, table.quick, *(task.changes for task in table.tasks))
        if any(method.runs for method in table.methods) or any({"train", "switcher"} & each.keys() for each in changes):
            raise ConfigError(f"{path}: nothing is trained with 'trained_in': leave out runs, train and switcher")
    elif any(task.trained_on for task in table.tasks):
        raise ConfigError(f"{path}: 'trained_on' names a task of a table: say which in 'trained_in'")
    if table.choices_page and not table.page:
        raise ConfigError(f"{path}: 'choices_page' is a second page: say in 'page' which is the first")
    check_kinds(table.states, str(path))
    if not table.seeds or len(set(table.seeds)) < len(table.seeds):
        raise ConfigError(f"{path}: name at least one seed, and each once")
    return table


def jobs(table: Table, folder: Path, quick: bool = False) -> list[Job]:
    """Return every run of a table, the common ones first.

    Rules learn nothing and play the same episodes whatever the training seed: the common run of the first seed alone
    measures them. Raises `ConfigError` where Switchers are to come from a table or a task that there is not.
    """
    found = []
    sources = _sources(table, folder, quick)
    for seed in table.seeds[:1] if quick else table.seeds:
        for task in table.tasks:
            kinds: list[tuple[str, bool, dict[str, Any]]] = [("", seed == table.seeds[0], {})]
            kinds += [
                (f"{method.name} {i}", method.family not in _TRAINED, changes)
                for method in table.methods
                for i, changes in enumerate(method.runs)
            ]
            for kind, rules, changes in kinds:
                experiment = replace(table.experiment(task, changes, quick), seed=seed)
                if not rules:
                    experiment = replace(experiment, evaluate=replace(experiment.evaluate, **_NO_RULES))
                source = sources.get((task.trained_on, seed))
                if source:
                    learned = source.experiment
                    experiment = replace(experiment, train=learned.train, switcher=learned.switcher)
                name = "-".join("".join(c if c.isalnum() else "-" for c in part) for part in (task.name, kind) if part)
                found.append(Job(task.name, kind, experiment, folder / f"{name}-{seed}", source))
    return sorted(found, key=lambda job: bool(job.method))


def _sources(table: Table, folder: Path, quick: bool) -> dict[tuple[str, int], Job]:
    """The runs, by task and seed, whose Switchers a table measures."""
    if not table.trained_in:
        return {}
    other = load_table(table.path.with_name(f"{table.trained_in}.toml"))
    if other.trained_in:
        raise ConfigError(f"{table.path}: 'trained_in' must name a table that trains, and {other.path} trains nothing")
    every = jobs(other, folder.with_name(other.name + "-quick" * quick), quick)
    found = {(job.task, job.experiment.seed): job for job in every if not job.method}
    for task in table.tasks:
        for seed in table.seeds[:1] if quick else table.seeds:
            if (task.trained_on, seed) not in found:
                raise ConfigError(
                    f"{table.path}: task '{task.name}': {other.path} trains no '{task.trained_on}' with seed {seed}"
                )
    return found


def collect(table: Table, every: Sequence[Job], published: Mapping[str, Record]) -> dict[str, Record]:
    """Return the record of each run, by the name of its folder: the published one, else of what was run here; raises
    `RunError` where one is missing."""
    done = {job.folder.name: job for job in every if job.folder.name not in published and job.done}
    missing = [job.folder.name for job in every if job.folder.name not in {**done, **published}]
    if missing:
        raise RunError(f"not run yet: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
    names = (job.folder.name for job in every)
    return {
        name: published[name] if name in published else records.read(table.name, done[name], table.states)
        for name in names
    }


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
        shared = common if method.family in _TRAINED else common[:1] * len(common)
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
        "env_steps": sum(one["env_steps"] for one in pooled[0]) if method.family in _TRAINED else 0,
        "updates": sum(map(_updates, pooled[0])) if method.family in _TRAINED and method.family != "ppo" else 0,
        "seconds": mean(sum(one["seconds"] for one in runs) for runs in pooled) if method.family in _TRAINED else 0.0,
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
        low, high = protocol.interval(row) if families[name] in _TRAINED else (None, None)
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
