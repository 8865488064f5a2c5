"""Where the metrics of a training go beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow.

All of them write into the run folder and need no server or account. A run that goes on goes on there too.
"""

from __future__ import annotations

import json
import logging
import os
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from londi import config
from londi.errors import EXTRAS, ConfigError, MissingExtraError
from londi.run import Run, write_text


class Tracker(Protocol):
    """Takes metrics; anything with these two methods can be appended to `Trainer.trackers`."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured at an environment step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class _TensorBoard:
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""

    def __init__(self, run: Run, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(run.path / "tensorboard"), purge_step=step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _WandB:
    """Weights & Biases in RUN/wandb, offline unless WANDB_MODE says otherwise: `wandb sync` sends it later."""

    def __init__(self, run: Run, step: int) -> None:
        import wandb

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
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        self.run.finish()


class _MLflow:
    """MLflow in RUN/mlflow.db, or where MLFLOW_TRACKING_URI says: `mlflow ui --backend-store-uri sqlite:///...`."""

    def __init__(self, run: Run, step: int) -> None:
        import mlflow

        for name in ("mlflow", "alembic"):  # they tell how a database is made
            logging.getLogger(name).setLevel(logging.WARNING)
        where = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{(run.path / 'mlflow.db').resolve()}")
        self.client: Any = mlflow.MlflowClient(tracking_uri=where)
        self.id = _identity(run, "mlflow", lambda: self._create(run))
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
        for name, value in values.items():
            self.client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        self.client.set_terminated(self.id)


TRACKERS: dict[str, Callable[[Run, int], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}
"""By name: what makes a tracker for a run that stands at a step."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise `ConfigError` for a name that is not known, and `MissingExtraError` where its package is missing."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"there is no tracker '{name}': take {', '.join(TRACKERS)}")
        for package in _PACKAGES.get(name, (name,)):
            if find_spec(package) is None:
                raise MissingExtraError(package, EXTRAS[package])


_PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic")}


def make_trackers(names: Sequence[str], run: Run, step: int = 0) -> list[Tracker]:
    """Return trackers by name, for a run that stands at a step; raises what `check_trackers` raises."""
    check_trackers(names)
    found: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            found.append(TRACKERS[name](run, step))
        except Exception as error:
            close(found)
            raise ConfigError(f"the tracker '{name}' can't begin: {error}") from error
    return found


def tell(trackers: list[Tracker], step: int, values: Mapping[str, float]) -> None:
    """Log to all; one that fails is left out from then on, with a warning: training is worth more than its record."""
    for tracker in list(trackers):
        try:
            tracker.log(step, values)
        except Exception as error:
            trackers.remove(tracker)
            close([tracker])
            warnings.warn(f"{type(tracker).__name__.strip('_')} failed, and is told no more: {error}", stacklevel=2)


def close(trackers: Sequence[Tracker]) -> None:
    """Close all; one that fails is warned of."""
    for tracker in trackers:
        try:
            tracker.close()
        except Exception as error:
            warnings.warn(f"{type(tracker).__name__.strip('_')} could not be closed: {error}", stacklevel=2)


def _identity(run: Run, tracker: str, make: Callable[[], str]) -> str:
    """The name under which a tracker knows the run, kept in the folder so that a resumed run goes on there."""
    path = run.path / "trackers.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if tracker not in known:
        known[tracker] = make()
        write_text(path, json.dumps(known) + "\n")
    return str(known[tracker])
