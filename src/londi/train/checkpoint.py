"""What a checkpoint holds beside the policies: all from which a training goes on as if it had not stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from londi.encoders.text import FEATURES
from londi.errors import CheckpointError

if TYPE_CHECKING:
    from londi.train import Trainer

FORMAT = 3
"""Version of it."""
_COUNTERS = ("step", "started", "seconds", "begun_anew", "last_metrics", "snapshots", "losses")


def state_of(trainer: Trainer, done: bool, patience: float | None) -> dict[str, Any]:
    """Return what a checkpoint is to hold; of a training that is `done` without replay, episodes and answers.

    `patience` is how many seconds workers have to answer, see `RayRollout.state`.
    """
    state: dict[str, Any] = {name: getattr(trainer, name) for name in _COUNTERS}
    state |= {"lost": trainer.num_lost, "given_up": trainer.num_given_up}
    state |= {"restarted": list(trainer.num_restarted), "calls": trainer.calls}
    state |= {"failed": trainer.failures.count, "metrics": trainer.metrics.waiting}
    state |= {"format": FORMAT, "features": FEATURES, "done": done}
    state["learners"] = {name: learner.state_dict() for name, learner in trainer.learners.items()}
    if not done:
        state |= {
            "replay": trainer.replay.state(),
            "playing": trainer.rollout.state(patience),
            "recent": list(trainer.recent),
        }
        state["models"] = trainer.said | {name: model.state() for name, model in trainer.models.items()}
    return state


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Have a trainer go on from a checkpoint.

    Where training stood in the middle of episodes, it goes on with them: networks, optimisers, generators, replay, what
    the models said, and the episodes are what they were. Raises `CheckpointError` where that can't be.
    """
    path = trainer.run.checkpoint
    if state.get("features") != FEATURES or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} was written by a version of londi whose features or checkpoints differ: take another folder"
        )
    try:
        for name, learner in trainer.learners.items():
            learner.load_state_dict(state["learners"][name])
        for name in _COUNTERS:
            setattr(trainer, name, state[name])
        # what has a default here is missing in checkpoints of earlier versions
        trainer.lost, trainer.given_up, trainer.calls = state["lost"], state.get("given_up", 0), state.get("calls")
        trainer.failures.count = state.get("failed", 0)
        trainer.metrics.waiting = list(state.get("metrics", ()))
        workers, replicas = state.get("restarted", (0, 0))
        trainer.restarted = int(workers), int(replicas)
        trainer.recent.extend((bool(success), int(calls)) for success, calls in state["recent"])
        trainer.replay.restore(state["replay"])
        for name, said in state["models"].items():
            if name in trainer.models:
                trainer.models[name].restore(said)
            else:
                trainer.said[name] = said
        trainer.begun_anew += trainer.rollout.restore(state["playing"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit this experiment: train into another folder") from error
