"""Each tracker is the real package, offline, read back by its own reader."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from londi import config, trackers
from londi.errors import ConfigError, MissingExtraError
from londi.run import Run
from londi.trackers import Outcome, closed_after, make_trackers, tell
from londi.train import prepare

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", config.load(ROOT / "experiments" / "keydoor.toml"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty one of MLflow's: to make it takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").get_experiment_by_name("keydoor")
    return path


@pytest.fixture
def known(run: Run, database: Path) -> Run:
    """A run with MLflow's database in its folder."""
    shutil.copyfile(database, run.path / "mlflow.db")
    return run


def test_tensorboard(run: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    for first, value in ((0, 0.25), (2000, 0.5)):
        (tracker,) = make_trackers(["tensorboard"], run, first)
        tracker.log(first + 1000, {"success": value})
        tracker.close()
    found = EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("success")] == [(1000, 0.25), (3000, 0.5)]


def test_mlflow_goes_on_in_the_same_run(known: Run) -> None:
    import mlflow

    for step, value in ((1000, 0.25), (2000, 0.5)):
        (tracker,) = make_trackers(["mlflow"], known, step)
        tracker.log(step, {"success": value})
        tracker.close()
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{known.path / 'mlflow.db'}")
    made = client.get_experiment_by_name("keydoor")
    assert made is not None
    (kept,) = client.search_runs([made.experiment_id])
    assert [(m.step, m.value) for m in client.get_metric_history(kept.info.run_id, "success")] == [
        (1000, 0.25),
        (2000, 0.5),
    ]
    assert (kept.data.params["train.gamma"], kept.info.status) == ("0.97", "FINISHED")


def test_wandb_is_offline_and_goes_on_in_the_same_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for step in (1000, 2000):
        (tracker,) = make_trackers(["wandb"], run, step)
        tracker.log(step, {"success": 0.5})
        tracker.close()
    name = json.loads((run.path / "trackers.json").read_text())["wandb"]
    files = list((run.path / "wandb").glob(f"offline-run-*/run-{name}.wandb"))
    assert files
    assert all(file.stat().st_size > 0 for file in files)


def test_they_are_told_how_it_ended(known: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{known.path / 'mlflow.db'}")
    for error, status, code in ((KeyboardInterrupt, "KILLED", 1), (OSError, "FAILED", 1), (None, "FINISHED", 0)):
        every = make_trackers(["mlflow", "wandb"], known)
        codes: list[int] = []
        monkeypatch.setattr(every[1].run, "finish", lambda exit_code, codes=codes: codes.append(exit_code))  # type: ignore[attr-defined]
        with pytest.raises(error) if error else nullcontext(), closed_after(every):
            if error:
                raise error
        assert client.get_run(every[0].id).info.status == status  # type: ignore[attr-defined]
        assert codes == [code]


def test_steps_that_are_taken_again_are_told_once(known: Run) -> None:
    """A run that was killed at 2,500 goes on from 1,500."""
    import mlflow

    for steps in ((1000, 2000), (2001, 3000)):
        (tracker,) = make_trackers(["mlflow"], known, 1500)
        for step in (1000, *steps):
            tracker.log(step, {"success": 0.5})
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{known.path / 'mlflow.db'}")
    told = [m.step for m in client.get_metric_history(tracker.id, "success")]  # type: ignore[attr-defined]
    assert told == [1000, 2000, 2001, 3000]


def test_each_mlflow_has_a_run_of_its_own(known: Run, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copyfile(database, known.path / "other.db")
    (here,) = make_trackers(["mlflow"], known)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{known.path / 'other.db'}")
    (there,) = make_trackers(["mlflow"], known)
    assert there.id != here.id  # type: ignore[attr-defined]
    (again,) = make_trackers(["mlflow"], known)
    assert again.id == there.id  # type: ignore[attr-defined]
    assert trackers._without_password("http://me:secret@there:5000/x") == "http://there:5000/x"


def test_the_console_has_a_line_for_each_row(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((100.0, 120.0, 370.0))
    monkeypatch.setattr("londi.trackers.time.monotonic", lambda: next(clock))
    (tracker,) = make_trackers(["console"], run, 1_000)
    values = {"success": 0.256, "calls": 3.14, "failed": 0, "lost": 0, "workers_restarted": 0, "budget_loss": 0.1}
    tracker.log(2_000, values)
    tracker.log(3_000, values | {"lost": 4, "workers_restarted": 1})
    tracker.close()
    total = run.experiment.train.num_steps
    told = capsys.readouterr()
    left = timedelta(seconds=(total - 2_000) // 50), timedelta(seconds=(total - 3_000) // 4)
    assert told.err.splitlines() == [
        f"step 2,000 of {total:,}  success 0.26  calls 3.1  50 steps/s  {left[0]} left",
        f"step 3,000 of {total:,}  success 0.26  calls 3.1  4.00 steps/s  {left[1]} left  lost 4  workers restarted 1",
    ]
    assert told.out == ""
    assert not (run.path / "trackers.json").exists()


def test_the_console_says_nothing_where_there_is_no_stderr(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tracker,) = make_trackers(["console"], run)
    monkeypatch.setattr("sys.stderr", None)
    tracker.log(1_000, {"success": 0.5})
    assert capsys.readouterr().out == ""


def test_training_tells_them_what_it_writes(tmp_path: Path) -> None:
    told: dict[int, dict[str, float]] = {}

    class Mine:
        outcome = ""

        def log(self, step: int, values: Mapping[str, float]) -> None:
            told[step] = dict(values)

        def close(self, outcome: Outcome = "finished") -> None:
            self.outcome = outcome

    experiment = config.load(ROOT / "experiments" / "keydoor.toml")
    trainer = prepare(
        tmp_path / "run", replace(experiment, train=replace(experiment.train, num_steps=2_100, updates_per_step=0.05))
    )
    mine = Mine()
    trainer.trackers.append(mine)
    trainer.train()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    other = ("step", "episodes", "seconds")
    assert told == {row["step"]: {k: v for k, v in row.items() if k not in other} for row in rows}
    assert [step // 1_000 for step in told] == [1, 2, 2]
    assert max(told) == trainer.step, "the end is told too"
    assert mine.outcome == "finished"


def test_one_that_fails_is_told_no_more() -> None:
    class Broken:
        def log(self, step: int, values: Mapping[str, float]) -> None:
            raise OSError("no space left")

        def close(self, outcome: Outcome = "finished") -> None: ...

    every: list[trackers.Tracker] = [Broken()]
    with pytest.warns(UserWarning, match="Broken failed.*no space left"):
        tell(every, 1, {"success": 1.0})
    assert every == []


def test_names_and_packages(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="console, tensorboard, wandb, mlflow"):
        make_trackers(["comet"], run)
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    for name in trackers.TRACKERS.keys() - {"console"}:
        with pytest.raises(MissingExtraError, match=name):
            make_trackers([name], run)
