"""What is added to an evaluation is measured as if everything were measured anew, and nothing else is played."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from londi import config
from londi.cli import main
from londi.config import dump
from londi.errors import RunError
from londi.evaluate import evaluate, num_plays
from londi.plays import Plays
from londi.run import BEFORE, Run
from londi.train import prepare

ROOT = Path(__file__).parents[2]
FEW: dict[str, Any] = {
    "prices": (0.05,),
    "budgets": (2.0,),
    "random_rates": (0.3, 0.6),
    "entropy_thresholds": (),
    "capped": True,
    "episodes": 6,
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
    short = replace(keydoor.train, num_steps=300, warmup_steps=100, updates_per_step=0.1)
    trainer = prepare(tmp_path_factory.mktemp("adding") / "run", replace(keydoor, train=short))
    trainer.train()
    return trainer.run


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the policies that are played, as they are."""
    names: list[str] = []
    real = Plays.play

    def play(self: Plays, phase: Any, seeds: range, policies: Any, *rest: Any) -> Any:
        names.extend(policy.name for policy in policies)
        if "a fault" in names:
            raise KeyboardInterrupt
        return real(self, phase, seeds, policies, *rest)

    monkeypatch.setattr(Plays, "play", play)
    return names


def without_times(found: dict[str, Any]) -> dict[str, Any]:
    rows = {
        key: [{name: value for name, value in row.items() if name != "seconds"} for row in found[key]]
        for key in ("policies", "selection")
    }
    return {**rows, "seeds": found["seeds"], "hypervolume": found["metrics"]["hypervolume"]}


def test_only_what_is_new_is_played(trained: Run, played: list[str]) -> None:
    evaluate(measured_by(trained, FEW))
    run = measured_by(trained, MORE)
    played.clear()
    told: list[tuple[int, int]] = []
    added = evaluate(run, lambda done, more: told.append((done, more)), add=True)
    assert {"price 0.2", "budget 3"} <= {*played}
    assert num_plays(run.experiment) + sum(more for _, more in told) == sum(done for done, _ in told)
    assert not {"QUICK", "DEEPTHINK", "random 0.6", "price 0.05", "budget 2"} & {*played}
    assert not (run.path / BEFORE).exists()
    assert added["commits"] == [added["commit"]]
    stored = [(run.path / "episodes" / f"{name}.jsonl").read_bytes() for name in ("chosen", "quick", "deepthink")]
    anew = evaluate(run)
    assert without_times(added) == without_times(anew)
    assert "random 0.3" not in {row["name"] for row in added["policies"]}
    new = [(run.path / "episodes" / f"{name}.jsonl").read_bytes() for name in ("chosen", "quick", "deepthink")]
    assert [len(each.splitlines()) for each in stored] == [len(each.splitlines()) for each in new] == [6, 6, 6]


def test_adding_that_was_interrupted_goes_on(trained: Run, played: list[str]) -> None:
    evaluate(measured_by(trained, FEW))
    run = measured_by(trained, MORE)
    played.append("a fault")
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, add=True)
    assert not (run.path / "frontier.json").exists(), "it would pass for the whole"
    assert (run.path / BEFORE).exists()
    played.clear()
    (run.path / "episodes" / "quick.jsonl").unlink()
    evaluate(run, add=True)
    assert "QUICK" in played, "its episodes were gone"
    assert "DEEPTHINK" not in played
    assert (run.path / "frontier.json").exists()
    assert (run.path / "episodes" / "quick.jsonl").exists()


def test_what_can_not_be_added_to(trained: Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(measured_by(trained, FEW))
    longer = measured_by(trained, MORE | {"episodes": 7})
    with pytest.raises(RunError, match="of other episodes"):
        evaluate(longer, add=True)
    path = trained.path / "frontier.json"
    assert path.exists()
    path.write_text(path.read_text()[:100])
    run = measured_by(trained, MORE)
    with pytest.raises(RunError, match=r"frontier\.json is damaged"):
        evaluate(run, add=True)
    path.unlink()
    with pytest.raises(RunError, match="nothing to add to"):
        evaluate(run, add=True)
    with pytest.raises(SystemExit):
        main(["evaluate", str(run.path), "--on", str(ROOT / "experiments" / "keydoor.toml"), "--add"])
    assert "leave out --on" in capsys.readouterr().err
