"""`londi reproduce`: a published table, and the runs behind it; `londi.reproduce.results` has its numbers.

A table is a TOML file: tasks (experiments), methods (families of policies, of one run for each task and seed or of
runs of their own), training seeds. What was run is kept, so that an interrupted table goes on where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from londi import config, frontier
from londi.config import Experiment
from londi.errors import ConfigError, RunError
from londi.files import read_toml
from londi.jobs import Job, merged
from londi.policies import baselines, capped_policies, learned_policies
from londi.reproduce import records
from londi.reproduce.records import Record
from londi.where import check_kinds

TRAINED = ("budget", "price", "capped", "myopic", "router", "sac", "ppo")
"""Families of which each training seed has policies of its own."""
SHORT_RUNS = 2
"""Runs of its own that a method has in a table's short version: enough to make a frontier."""
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
    without: tuple[str, ...] = ()
    """Names of policies that don't count, such as one that others have no counterpart of."""
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
    measures_page: str = ""
    """Another that shows further measures of every method."""
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
    """Further changes in the short version, see `shortened`."""
    name: str = ""
    path: Path = Path()
    short: bool = False
    """Whether it is the short version."""

    @property
    def folder(self) -> str:
        """Name of the folder of its runs."""
        return f"{self.name}-quick" if self.short else self.name

    def pages(self) -> dict[Path, list[str]]:
        """Return its pages, and the names of the blocks (`londi.reproduce.published.blocks`) that stand in each."""
        states = [f"{self.name} states"] if self.states else []
        shown = (
            (self.page, [self.name, *states]),
            (self.choices_page, [f"{self.name} choices"]),
            (self.measures_page, [f"{self.name} measures"]),
        )
        found: dict[Path, list[str]] = {}
        for page, names in shown:
            if page:
                found.setdefault((self.path.parent / page).resolve(), []).extend(names)
        return found

    def experiment(self, task: Task, changes: Mapping[str, Any]) -> Experiment:
        """Return a task's experiment with the table's changes and these; raises `ConfigError`."""
        source = self.path.parent / task.experiment
        try:
            data = read_toml(source)
        except (FileNotFoundError, ConfigError) as error:
            raise ConfigError(f"{self.path}: task '{task.name}': {error}") from error
        for more in (self.changes, task.changes, self.quick if self.short else {}, changes):
            data = merged(data, more)
        return config.parse(data, f"{self.path}: task '{task.name}'")


setattr(Table, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
for _part in (Task, Method):
    setattr(_part, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010


def load_table(path: Path) -> Table:
    """Read a table's TOML; raises `ConfigError` with one line that names the fix."""
    try:
        data = read_toml(path)
        table: Table = TypeAdapter(Table).validate_python({**data, "name": path.stem, "path": path})
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml"))) or "none"
        raise ConfigError(
            f"no table {path} (those of {path.parent}: {known}): name a TOML file, or run it in the root of a clone"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: '{place}': {first['msg'].lower()}") from error
    for what, names in (("task", [t.name for t in table.tasks]), ("method", [m.name for m in table.methods])):
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{path}: name at least one {what}, and each once")
        if empty := [name for name in names if not any(map(str.isalnum, name))]:
            raise ConfigError(f"{path}: a {what} is named '{empty[0]}': give it a name with a letter or a digit")
    if table.trained_in:
        changes = (table.changes, table.quick, *(task.changes for task in table.tasks))
        if any(method.runs for method in table.methods) or any({"train", "switcher"} & each.keys() for each in changes):
            raise ConfigError(f"{path}: nothing is trained with 'trained_in': leave out runs, train and switcher")
    elif any(task.trained_on for task in table.tasks):
        raise ConfigError(f"{path}: 'trained_on' names a task of a table: say which in 'trained_in'")
    for key in ("choices_page", "measures_page"):
        if getattr(table, key) and not table.page:
            raise ConfigError(f"{path}: '{key}' is a second page: say in 'page' which is the first")
    check_kinds(table.states, str(path))
    if not table.seeds or len(set(table.seeds)) < len(table.seeds):
        raise ConfigError(f"{path}: name at least one seed, and each once")
    return table


def shortened(table: Table) -> Table:
    """Return the table as `--quick` runs it: one seed, the changes of `quick`, and two runs of each method that has
    runs of its own."""
    methods = tuple(replace(method, runs=method.runs[:SHORT_RUNS]) for method in table.methods)
    return replace(table, seeds=table.seeds[:1], methods=methods, short=True)


def jobs(table: Table, folder: Path) -> list[Job]:
    """Return every run of a table, the common ones first.

    Rules learn nothing and play the same episodes whatever the training seed: the common run of the first seed alone
    measures them. Raises `ConfigError` where Switchers are to come from a table or a task that there is not, where a
    method has nothing to measure, and where two runs would lie in one folder.
    """
    found = []
    sources = _sources(table, folder)
    for seed in table.seeds:
        for task in table.tasks:
            kinds: list[tuple[str, bool, dict[str, Any]]] = [("", seed == table.seeds[0], {})]
            kinds += [
                (f"{method.name} {i}", method.family not in TRAINED, changes)
                for method in table.methods
                for i, changes in enumerate(method.runs)
            ]
            for kind, rules, changes in kinds:
                source = sources.get((task.trained_on, seed))
                experiment = _experiment(table, task, {**changes, "seed": seed}, rules, source)
                name = "-".join("".join(c if c.isalnum() else "-" for c in part) for part in (task.name, kind) if part)
                found.append(Job(task.name, kind, experiment, folder / f"{name}-{seed}", source))
    _check(table, found)
    return sorted(found, key=lambda job: bool(job.method))


def _experiment(table: Table, task: Task, changes: Mapping[str, Any], rules: bool, source: Job | None) -> Experiment:
    """A run's experiment: with or without rules, and with the Switchers of its source if it has one."""
    found = table.experiment(task, changes)
    evaluate = found.evaluate if rules else replace(found.evaluate, **_NO_RULES)
    learned = source.experiment if source else found
    try:
        return replace(found, evaluate=evaluate, train=learned.train, switcher=learned.switcher)
    except ConfigError as error:
        raise ConfigError(f"{table.path}: task '{task.name}': {error}") from error


def _check(table: Table, every: Sequence[Job]) -> None:
    folder, count = Counter(job.folder.name for job in every).most_common(1)[0]
    if count > 1:
        raise ConfigError(f"{table.path}: two runs would lie in '{folder}': let names differ in letters and digits")
    for method in table.methods:
        kinds = {f"{method.name} {i}" for i in range(len(method.runs))} or {""}
        for task in table.tasks:
            own = [_has(job.experiment, method) for job in every if job.task == task.name and job.method in kinds]
            if not (all(own) if method.runs else any(own)):  # of common runs only the first seed's measures rules
                raise ConfigError(
                    f"{table.path}: task '{task.name}' measures nothing for method '{method.name}': name what learns "
                    "it in train.learners, or its settings in evaluate"
                )


def _has(experiment: Experiment, method: Method) -> bool:
    """Whether an experiment measures a policy of the method."""
    capped = experiment.evaluate.capped and "price" in experiment.train.learners
    measured = [*learned_policies(experiment), *baselines(experiment)]
    measured += capped_policies(experiment, 0.0) if capped else []
    own = [p.name for p in measured if p.kind == method.family and p.name not in method.without]
    if method.family == "capped":  # which price it will be is not known yet
        return bool(own) and (method.only.startswith("price ") or "price ".startswith(method.only))
    return any(name.startswith(method.only) for name in own)


def _sources(table: Table, folder: Path) -> dict[tuple[str, int], Job]:
    """The runs, by task and seed, whose Switchers a table measures."""
    if not table.trained_in:
        return {}
    other = load_table(table.path.parent / f"{table.trained_in}.toml")
    if other.trained_in:
        raise ConfigError(f"{table.path}: 'trained_in' must name a table that trains, and {other.path} trains nothing")
    other = shortened(other) if table.short else other
    every = jobs(other, folder.with_name(other.folder))
    found = {(job.task, job.experiment.seed): job for job in every if not job.method}
    for task in table.tasks:
        for seed in table.seeds:
            if (task.trained_on, seed) not in found:
                raise ConfigError(
                    f"{table.path}: task '{task.name}': {other.path} trains no '{task.trained_on}' with seed {seed}"
                )
    return found


def collect(table: Table, every: Sequence[Job], published: Mapping[str, Record]) -> dict[str, Record]:
    """Return the record of each run, by the name of its folder: the published one, else of what was run here; raises
    `RunError` where one is missing or damaged."""
    done = {job.folder.name: job for job in every if job.folder.name not in published and job.done}
    missing = [job.folder.name for job in every if job.folder.name not in {**done, **published}]
    if missing:
        raise RunError(f"not run yet: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}")
    names = (job.folder.name for job in every)
    return {
        name: published[name] if name in published else records.read(table.name, done[name], table.states)
        for name in names
    }
