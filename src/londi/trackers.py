"""Where the metrics of a training go beside `metrics.jsonl`: lines on stderr, TensorBoard, Weights & Biases, MLflow.

All but the lines are written into the run folder and need no server or account. A run that goes on goes on there too.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from londi import config
from londi.errors import EXTRAS, ConfigError, MissingExtraError
from londi.files import write_text
from londi.run import Run

Outcome = Literal["finished", "interrupted", "failed"]


class Tracker(Protocol):
    """Takes metrics; anything with these two methods can be appended to `Trainer.trackers`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured at an environment step."""
        ...

    def close(self, outcome: Outcome = "finished") -> None:
        """Write what is not written yet; told how the training ended."""
        ...


class _Console:
    """A line on stderr for each row of metrics, for logs in which no progress bar moves."""

    def __init__(self, run: Run, step: int) -> None:
        self.total = run.experiment.train.num_steps
        self.last = step, time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        before, then = self.last
        self.last = step, time.monotonic()
        speed = (step - before) / max(self.last[1] - then, 1e-6)
        parts = [f"step {min(step, self.total):,} of {self.total:,}"]
        parts += [f"{name} {values[name]:{form}}" for name, form in _MEANS.items() if name in values]
        parts.append(f"{speed:,.{0 if speed >= 10 else 2}f} steps/s")
        if speed > 0:
            parts.append(f"{timedelta(seconds=round(max(0, self.total - step) / speed))} left")
        parts += [f"{name.replace('_', ' ')} {values[name]:,}" for name in _COUNTS if values.get(name)]
        if sys.stderr is not None:
            sys.stderr.write("  ".join(parts) + "\n")

    def close(self, outcome: Outcome = "finished") -> None: ...


_MEANS = {"success": ".2f", "calls": ".1f"}
_COUNTS = ("failed", "lost", "given_up", "workers_restarted", "replicas_restarted")
"""What a line says only where it happened."""


class _TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self, outcome: Outcome = "finished") -> None:
        self.writer.close()


class _WandB:
    """Weights & Biases in RUN/wandb, offline unless WANDB_MODE says otherwise: `wandb sync` sends it later."""

    def __init__(self, run: Run, step: int) -> None:
        import wandb

        self.told = _Told(run, "wandb")
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "londi"),
            name=run.path.name,
            id=_identity(run, "wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(run.path),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            config=config.plain(run.experiment),
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.told.new(step):
            self.run.log(dict(values), step=step)

    def close(self, outcome: Outcome = "finished") -> None:
        self.run.finish(exit_code=0 if outcome == "finished" else 1)


class _MLflow:
    """MLflow in RUN/mlflow.db, or where MLFLOW_TRACKING_URI says: `mlflow ui --backend-store-uri sqlite:///...`."""

    def __init__(self, run: Run, step: int) -> None:
        import mlflow

        for name in ("mlflow", "alembic"):  # they tell how a database is made
            logging.getLogger(name).setLevel(logging.WARNING)
        elsewhere = os.environ.get("MLFLOW_TRACKING_URI")
        where = elsewhere or f"sqlite:///{(run.path / 'mlflow.db').resolve()}"
        key = f"mlflow {_without_password(elsewhere)}" if elsewhere else "mlflow"
        self.client: Any = mlflow.MlflowClient(tracking_uri=where)
        self.id = _identity(run, key, lambda: self._create(run))
        self.told = _Told(run, key)
        self.client.set_tag(self.id, "londi.run", str(run.path))
        self.client.update_run(self.id, status="RUNNING")

    def _create(self, run: Run) -> str:
        known = self.client.get_experiment_by_name(run.experiment.name)
        experiment = known.experiment_id if known else self.client.create_experiment(run.experiment.name)
        made = self.client.create_run(experiment, run_name=run.path.name)
        for table, settings in config.plain(run.experiment).items():
            for name, value in settings.items() if isinstance(settings, Mapping) else [("", settings)]:
                self.client.log_param(made.info.run_id, f"{table}.{name}".rstrip("."), str(value)[:500])
        return str(made.info.run_id)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.told.new(step):
            for name, value in values.items():
                self.client.log_metric(self.id, name, value, step=step)

    def close(self, outcome: Outcome = "finished") -> None:
        status = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}[outcome]
        self.client.set_terminated(self.id, status)


_KEPT = "trackers.json"
"""In the run folder: by tracker (and place), under which name it knows the run, and the last step that it was told."""
TRACKERS: dict[str, Callable[[Run, int], Tracker]] = {
    "console": _Console,
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}
"""By name: what makes a tracker for a run that stands at a step."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a name that is not known, and `MissingExtraError` where its package is missing."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker '{name}': take {', '.join(TRACKERS)}")
        for package in _PACKAGES.get(name, (name,)):
            if find_spec(package) is None:
                raise MissingExtraError(package, EXTRAS[package])


_PACKAGES: dict[str, tuple[str, ...]] = {"console": (), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def make_trackers(names: Sequence[str], run: Run, step: int = 0) -> list[Tracker]:
    """Return trackers by name, for a run that stands at a step; raises what `check_trackers` raises."""
    check_trackers(names)
    found: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            found.append(TRACKERS[name](run, step))
        except Exception as error:
            close(found, "failed")
            raise ConfigError(f"the tracker '{name}' can't begin: {error}") from error
    return found


def tell(trackers: list[Tracker], step: int, values: Mapping[str, float]) -> None:
    """Log to all; one that fails is left out from then on, with a warning: training is worth more than its record."""
    for tracker in list(trackers):
        try:
            tracker.log(step, values)
        except Exception as error:
            trackers.remove(tracker)
            close([tracker], "failed")
            warnings.warn(f"{type(tracker).__name__.strip('_')} failed, and is told no more: {error}", stacklevel=2)


def close(trackers: Sequence[Tracker], outcome: Outcome = "finished") -> None:
    """Close all; one that fails is warned of."""
    for tracker in trackers:
        try:
            tracker.close(outcome)
        except Exception as error:
            warnings.warn(f"{type(tracker).__name__.strip('_')} could not be closed: {error}", stacklevel=2)


@contextmanager
def closed_after(trackers: Sequence[Tracker]) -> Iterator[None]:
    """Close all after a training, and tell them how it ended."""
    outcome: Outcome = "failed"
    try:
        yield
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        close(trackers, outcome)


class _Told:
    """The last step that a tracker was told, kept in the folder: a run that was killed takes some steps again."""

    def __init__(self, run: Run, tracker: str) -> None:
        self.run, self.key = run, f"{tracker} step"
        self.last = int(_known(run).get(self.key, -1))

    def new(self, step: int) -> bool:
        """Whether it was not told this step or a later one; from now on it was."""
        if step <= self.last:
            return False
        self.last = step
        _keep(self.run, self.key, step)
        return True


def _identity(run: Run, tracker: str, make: Callable[[], str]) -> str:
    """The name under which a tracker knows the run, kept in the folder so that a resumed run goes on there."""
    known = _known(run)
    if tracker not in known:
        known[tracker] = make()
        _keep(run, tracker, known[tracker])
    return str(known[tracker])


def _known(run: Run) -> dict[str, Any]:
    try:
        return dict(json.loads((run.path / _KEPT).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _keep(run: Run, key: str, value: Any) -> None:
    write_text(run.path / _KEPT, json.dumps(_known(run) | {key: value}) + "\n")


def _without_password(uri: str) -> str:
    user, at, rest = uri.rpartition("@")
    return f"{user.partition('://')[0]}://{rest}" if at else uri
