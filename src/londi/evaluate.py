"""Measure every budget, every price and the baselines on fresh seeds, and write `frontier.json`.

Budgets, prices, thresholds and rates are chosen on selection seeds and measured on test seeds; the two sets are
disjoint from each other and from training's. All policies play the same test episodes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from londi import choosing, frontier
from londi.config import Experiment, dump
from londi.episode import Episode, lines_of, read_episodes
from londi.errors import RunError
from londi.files import write_texts
from londi.making import make_encoder, make_envs
from londi.plays import KEPT_EPISODES, SELECTION_SEEDS, PlayProgress, Plays, playing, rows_of
from londi.policies import (
    DEEPTHINK,
    QUICK,
    Policy,
    baselines,
    capped_policies,
    learned_policies,
    same_selection,
    same_test,
)
from londi.provenance import commit
from londi.run import Run, load_checkpoint


@dataclass(frozen=True)
class _Known:
    """What an earlier evaluation of the same Switchers on the same selection episodes has measured, rows by name; those
    of the test where it was on the same episodes, too."""

    selection: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    test: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    commits: tuple[str | None, ...] = ()

    @property
    def universal(self) -> set[str]:
        """Names of the learned policies whose area the curve is."""
        return {name for name, row in self.selection.items() if row["kind"] in frontier.LEARNED}


def num_plays(run: Run) -> int:
    """Return how many episodes an evaluation plays, for a progress bar; not counted is what stays in doubt and plays
    on."""
    experiment = run.experiment
    learned, rules = len(learned_policies(experiment)), len(baselines(experiment))
    e = experiment.evaluate
    capped = len(e.budgets) if _capped(experiment) else 0
    universal = len(_universal(experiment))
    curve = len(run.snapshots()) * e.snapshot_episodes * (universal + 2) if universal else 0
    oracle = 1  # has no setting to choose
    return e.selection_episodes * (learned + rules + capped - oracle) + e.episodes * (learned + rules + capped) + curve


def _capped(experiment: Experiment) -> bool:
    return experiment.evaluate.capped and "price" in experiment.train.learners


def _check_features(run: Run) -> None:
    """Raise `RunError` where the Switchers were trained on features of another form, or for other actions."""
    (env,) = make_envs(run.experiment, 1, "test")
    actions = None if env.admissible is None else tuple(env.admissible)
    env.close()
    size = None if actions is None else len(actions)
    here = make_encoder(run.experiment).num_dense(size)
    for name, switcher in run.load_switchers().items():
        shape, state = switcher.network.shape, load_checkpoint(run.policy(name))
        same = shape.num_dense == here and shape.answers in (0, size or 0)
        told = "actions" in state  # policies of earlier versions don't say
        learned = tuple(state["actions"]) if told and state["actions"] is not None else None
        if not same or (told and learned != actions):
            raise RunError(
                f"the {name} Switcher was trained for another set of actions than that of {run.experiment.env.id}: "
                f"{_set(learned) if told else f'one with {shape.num_dense} columns'} and {_set(actions)}"
            )


def _set(actions: Sequence[str] | None) -> str:
    return "free text" if actions is None else f"{len(actions)} actions ({', '.join(actions[:3])}, ...)"


def _universal(experiment: Experiment) -> list[Policy]:
    return [policy for policy in learned_policies(experiment) if policy.kind in frontier.LEARNED]


def evaluate(run: Run, progress: PlayProgress = lambda played, added: None, *, add: bool = False) -> dict[str, Any]:
    """Evaluate a run, write `frontier.json` and `episodes/`, and return the frontier.

    With `add`, those rows of the run's frontier.json stay whose settings config.toml still names, and what is not among
    them is played: other settings, and whatever depends on these (the best price under budgets, what is in doubt, the
    curve, stored episodes); and the whole test, where it is on other episodes now. Raises `RunError` where nothing was
    trained, where the run's config or its policies are changed meanwhile, or where there is nothing to add to, and
    `WriteError` where the results can't be written, of which then none is. `progress` is told how many more episodes
    were played, and how many were added to `num_plays` of those that are to be played.
    """
    source = commit(Path(__file__).parent)  # of what is loaded now
    _check_features(run)  # before any process starts: complain here
    known = _known(run) if add else _Known()
    trained = {"env_steps": run.trained_steps(), "training_calls": run.training_calls()}
    measured = {"config": dump(run.experiment), "policies": run.fingerprints()}
    learned, rules = learned_policies(run.experiment), baselines(run.experiment)
    with playing(run, progress) as plays:
        selection = _selection(plays, [*(policy for policy in rules if policy.kind != "oracle"), *learned], known)
        shown = _shown(selection, learned)
        capped = capped_policies(run.experiment, choosing.best_price(selection)) if _capped(run.experiment) else []
        selection += _selection(plays, capped, known, selection)
        curve = _curve(plays, known)
        test, kept = _test(plays, [*rules, *learned, *capped], known, shown)
    if Run.open(run.path).experiment != run.experiment:
        raise RunError(f"{run.path / 'config.toml'} was changed while it was evaluated: evaluate again")
    if run.fingerprints() != measured["policies"]:
        raise RunError(f"{run.path} was trained on while it was evaluated: evaluate again")
    commits = list(dict.fromkeys([*known.commits, source]))
    result = _frontier(run, selection, test, curve, trained)
    result |= {"commit": source, "commits": commits, "measured": measured}
    texts = {run.path / "frontier.json": json.dumps(result, indent=1, allow_nan=False) + "\n"}
    write_texts(texts | {run.path / "episodes" / f"{file}.jsonl": lines_of(found) for file, found in kept.items()})
    return result


def _known(run: Run) -> _Known:
    """Return what frontier.json has measured; raises `RunError` where nothing can be added to it."""
    old, path = run.measured(), run.path / "frontier.json"
    if old is None:
        raise RunError(
            f"{path} holds no results of this version of londi for the Switchers that are there: evaluate without --add"
        )
    if not same_selection(old, run.experiment):
        raise RunError(f"{path} is of other episodes, models or another task than config.toml: evaluate without --add")
    found = json.loads(path.read_text(encoding="utf-8"))
    selection, test = ({row["name"]: row for row in found[key]} for key in ("selection", "policies"))
    return _Known(selection, test if same_test(old, run.experiment) else {}, found["curve"], tuple(found["commits"]))


def _selection(
    plays: Plays, policies: Sequence[Policy], known: _Known, others: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """Return the rows of policies on selection episodes, of which those are played that are not known; where one that
    is known should play on now, it and the new ones are played from the beginning."""
    e = plays.run.experiment.evaluate
    had = {p.name: known.selection[p.name] for p in policies if p.name in known.selection}
    plays.progress(0, -len(had) * e.selection_episodes)
    while True:
        new = [p for p in policies if p.name not in had]
        rows = {row["name"]: row for row in plays.select(new, [*others, *had.values()])}
        found = [had.get(p.name) or rows[p.name] for p in policies]
        short = {name for name, row in had.items() if row["episodes"] < e.selection_limit}
        again = short & choosing.in_doubt([*others, *found], 0.99) if short else short
        if not again:
            return found
        plays.progress(0, (len(new) + len(again)) * e.selection_episodes)
        had = {name: row for name, row in had.items() if name not in again}


def _curve(plays: Plays, known: _Known) -> list[dict[str, Any]]:
    """Return the hypervolume of the learned families at each snapshot, on the first selection seeds."""
    run, policies = plays.run, _universal(plays.run.experiment)
    seeds = range(run.experiment.evaluate.snapshot_episodes)
    if known.curve and {p.name for p in policies} == known.universal:
        plays.progress(0, -len(known.curve) * len(seeds) * (len(policies) + 2))
        return known.curve
    found = []
    for step in run.snapshots() if policies else ():
        all_of_them = [QUICK, DEEPTHINK, *policies]
        rows = rows_of(all_of_them, plays.play("selection", seeds, all_of_them, snapshot=step)[0])
        volumes = {kind: frontier.hypervolume(rows, kind) for kind in frontier.LEARNED}
        found.append({"step": step, "hypervolume": volumes})
    return found


def _test(
    plays: Plays, policies: Sequence[Policy], known: _Known, shown: str
) -> tuple[list[dict[str, Any]], dict[str, list[Episode]]]:
    """Return the rows of policies on test episodes, of which those are played that are not known; and, by the name of
    their file, the first episodes of QUICK, DEEPTHINK and the one that is shown, where they are not stored already."""
    run, count = plays.run, plays.run.experiment.evaluate.episodes
    new = [p for p in policies if p.name not in known.test]
    plays.progress(0, -(len(policies) - len(new)) * count)
    files = {"chosen": shown, "quick": "QUICK", "deepthink": "DEEPTHINK"}
    outcomes, kept = plays.play("test", range(count), new, frozenset(files.values()))
    missing = {name for file, name in files.items() if name in known.test and _stored(run, file) != name}
    if missing:
        again = range(min(count, KEPT_EPISODES))
        plays.progress(0, len(again) * len(missing))
        kept |= plays.play("test", again, [p for p in policies if p.name in missing], frozenset(missing))[1]
    played = [row | {"solved": _solved(outcomes[row["name"]])} for row in rows_of(new, outcomes)]
    rows = {**known.test, **{row["name"]: row for row in played}}
    return [rows[p.name] for p in policies], {f: kept[n][:KEPT_EPISODES] for f, n in files.items() if kept[n]}


def _solved(outcomes: Sequence[frontier.Outcome]) -> str:
    return frontier.packed([outcome.success for outcome in outcomes])


def _stored(run: Run, file: str) -> str | None:
    """The policy whose episodes a file holds."""
    try:
        return next((each.policy for each in read_episodes(run.path / "episodes" / f"{file}.jsonl")), None)
    except RunError:
        return None


def _shown(selection: list[dict[str, Any]], learned: Sequence[Policy]) -> str:
    """The name of the policy whose episodes are stored: what keeps 99 %, else 95 %, else what succeeds most."""
    chosen = choosing.choose(selection, 0.99) or choosing.choose(selection, 0.95)
    if chosen is None:
        own = [policy.name for policy in learned if policy.kind in frontier.LEARNED] or [p.name for p in learned]
        chosen = max((frontier.find(selection, name) for name in own), key=lambda row: row["success"]["mean"])
    return str(chosen["name"])


def _frontier(
    run: Run,
    selection: list[dict[str, Any]],
    test: list[dict[str, Any]],
    curve: list[dict[str, Any]],
    trained: Mapping[str, Any],
) -> dict[str, Any]:
    from importlib.metadata import version

    e = run.experiment.evaluate
    choices = {key: choosing.choice(selection, test, level) for key, level in (("at_99", 0.99), ("at_95", 0.95))}
    return {
        "schema": frontier.SCHEMA,
        "londi": version("londi"),
        "experiment": run.experiment.name,
        "env": run.experiment.env.id,
        "training_seed": run.experiment.seed,
        **trained,
        "episodes": e.episodes,
        "seeds": {
            "selection": [SELECTION_SEEDS, max(row["episodes"] for row in selection)],
            "test": [e.first_test_seed, e.episodes],
        },
        "budget_measure": e.budget_measure,
        "policies": test,
        "selection": selection,
        "choices": choices,
        "curve": curve,
        "metrics": frontier.metrics(test, choices)
        | {
            "steps_to_90": frontier.steps_to(curve, 0.9),
            "pays_off_after": frontier.pays_off_after(trained["training_calls"], test, choices["at_99"]),
        },
    }
