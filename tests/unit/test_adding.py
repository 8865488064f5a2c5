"""What is added to an evaluation is measured as it would be beside the rest, and nothing else is played."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import choosing, config, frontier
from londi.cli import main
from londi.config import dump
from londi.episode import read_episodes
from londi.errors import RunError
from londi.evaluate import evaluate, num_plays
from londi.plays import Plays
from londi.run import Run
from londi.train import prepare

ROOT = Path(__file__).parents[2]
FEW: dict[str, Any] = {
    "prices": (0.05,),
    "budgets": (2.0,),
    "random_rates": (0.3, 0.6),
    "entropy_thresholds": (),
    "capped": True,
    "episodes": 6,
    "snapshot_episodes": 4,
    "selection_episodes": 5,
    "processes": 1,
    "num_envs": 8,
}
MORE = FEW | {"prices": (0.05, 0.2), "budgets": (2.0, 3.0), "random_rates": (0.6,)}


def measured_by(run: Run, settings: dict[str, Any]) -> Run:
    """The run, with these settings in its config."""
    experiment = replace(run.experiment, evaluate=replace(run.experiment.evaluate, **settings))
    (run.path / "config.toml").write_text(dump(experiment))
    return Run.open(run.path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    keydoor = config.load(ROOT / "experiments" / "keydoor.toml")
    short = replace(keydoor.train, num_steps=300, warmup_steps=100, updates_per_step=0.1, snapshots=2)
    trainer = prepare(tmp_path_factory.mktemp("adding") / "run", replace(keydoor, train=short))
    trainer.train()
    return trainer.run


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the policies that are played, in order, without those of the curve."""
    names: list[str] = []
    real = Plays.play

    def play(self: Plays, phase: Any, seeds: range, policies: Any, *rest: Any, **more: Any) -> Any:
        if "snapshot" not in more:
            names.extend(policy.name for policy in policies)
        if "a fault" in names:
            raise KeyboardInterrupt
        return real(self, phase, seeds, policies, *rest, **more)

    monkeypatch.setattr(Plays, "play", play)
    return names


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    rows = {
        key: [{name: value for name, value in row.items() if name != "seconds"} for row in found[key]]
        for key in ("policies", "selection")
    }
    return {**rows, "curve": found["curve"], "hypervolume": found["metrics"]["hypervolume"]}


def stored(run: Run) -> list[list[tuple[str, int, list[str]]]]:
    """Which episodes are stored, and what was done in them."""
    files = [read_episodes(run.path / "episodes" / f"{name}.jsonl") for name in ("chosen", "quick", "deepthink")]
    return [[(e.policy, e.seed, [step.action for step in e.steps]) for e in file] for file in files]


@pytest.mark.parametrize("limit", [0, 12])
def test_only_what_is_new_is_played(trained: Run, played: list[str], limit: int) -> None:
    evaluate(measured_by(trained, FEW | {"selection_limit": limit}))
    path = trained.path / "frontier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commits": ["earlier"]}))
    run = measured_by(trained, MORE | {"selection_limit": limit})
    played.clear()
    told: list[tuple[int, int]] = []
    added = evaluate(run, lambda done, more: told.append((done, more)), add=True)
    assert {"price 0.2", "budget 3"} <= {*played}
    if not limit:  # with a race, what is in doubt beside the new ones plays on
        assert not {"QUICK", "DEEPTHINK", "random 0.6", "price 0.05", "budget 2"} & {*played}
    assert num_plays(run) + sum(more for _, more in told) == sum(done for done, _ in told)
    assert added["commits"] == ["earlier", added["commit"]]
    kept = stored(run)
    anew = evaluate(run)
    assert stored(run) == kept
    names = [row["name"] for row in added["policies"]]
    assert names == [row["name"] for row in anew["policies"]]
    assert "random 0.3" not in names
    if not limit:
        assert without_times(added) == without_times(anew)


def test_a_race_goes_on_with_what_was_measured(trained: Run, played: list[str]) -> None:
    """DEEPTHINK, which stopped early, plays along with a new setting that is in doubt."""
    wide = {"prices": (0.9,), "budgets": (0.0,), "random_rates": (), "capped": False, "selection_limit": 15}
    before = evaluate(measured_by(trained, FEW | wide))
    assert frontier.find(before["selection"], "DEEPTHINK")["episodes"] == 5, "nothing was in doubt"
    added = evaluate(measured_by(trained, FEW | wide | {"random_rates": (0.8,)}), add=True)
    selection = {row["name"]: row["episodes"] for row in added["selection"]}
    doubt = choosing.in_doubt(added["selection"], 0.99)
    assert "DEEPTHINK" in doubt
    assert all(selection[name] == 15 for name in doubt), "what is in doubt has played to the limit"


@pytest.mark.parametrize("other", [{"first_test_seed": 70_000_000}, {"episodes": 7}])
def test_another_test_is_played_alone(trained: Run, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]) -> None:
    before = evaluate(measured_by(trained, FEW))
    run = measured_by(trained, FEW | other)
    phases: list[str] = []
    real = Plays.play

    def play(self: Plays, phase: Any, seeds: range, policies: Any, *rest: Any, **more: Any) -> Any:
        phases.extend(phase for _ in policies)
        return real(self, phase, seeds, policies, *rest, **more)

    monkeypatch.setattr(Plays, "play", play)
    told: list[tuple[int, int]] = []
    added = evaluate(run, lambda done, more: told.append((done, more)), add=True)
    assert {*phases} == {"test"}
    assert num_plays(run) + sum(more for _, more in told) == sum(done for done, _ in told)
    assert added["selection"] == before["selection"]
    kept = stored(run)
    assert without_times(added) == without_times(evaluate(run))
    assert stored(run) == kept
    assert kept[1][0][1] == other.get("first_test_seed", 50_000_000)


def test_adding_that_was_interrupted_goes_on(trained: Run, played: list[str]) -> None:
    before = evaluate(measured_by(trained, FEW))
    run = measured_by(trained, MORE)
    played.append("a fault")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, add=True)
    assert json.loads((run.path / "frontier.json").read_text()) == before, "nothing is lost"
    played.clear()
    (run.path / "episodes" / "quick.jsonl").unlink()
    evaluate(run, add=True)
    assert "QUICK" in played, "its episodes were gone"
    assert "DEEPTHINK" not in played
    assert len(stored(run)[1]) == 6
    assert run.measured() == run.experiment


def test_what_can_not_be_added_to(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(measured_by(trained, FEW))
    for change in ({"selection_episodes": 7}, {"selection_limit": 9}):
        with pytest.raises(RunError, match="of other episodes"):
            evaluate(measured_by(trained, MORE | change), add=True)
    run = measured_by(trained, MORE)
    path = trained.path / "frontier.json"
    whole = json.loads(path.read_text())
    other = whole | {"measured": whole["measured"] | {"policies": {"budget": "0", "price": "0"}}}
    older = whole | {"schema": frontier.SCHEMA - 1}
    for text in (json.dumps(whole)[:100], *map(json.dumps, (whole | {"measured": 1}, other, older))):
        path.write_text(text)
        with pytest.raises(RunError, match="holds no results of this version"):
            evaluate(run, add=True)
    path.unlink()
    with pytest.raises(RunError, match="holds no results"):
        evaluate(run, add=True)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.path), "--on", str(ROOT / "experiments" / "keydoor.toml"), "--add"])
    assert "leave out --on" in capsys.readouterr().err
