"""A run folder: where an experiment keeps its config, checkpoints, metrics, episodes and results."""

from __future__ import annotations

import hashlib
import json
import shutil
import tomllib
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from londi import config, provenance
from londi.config import Experiment
from londi.encoders.text import FEATURES
from londi.errors import CheckpointError, ConfigError, RunError
from londi.files import read_json, replacing, sync_folder, write_text, writing
from londi.frontier import SCHEMA as MEASURED_SCHEMA

if TYPE_CHECKING:
    from londi.switchers.network import NetworkSwitcher

SCHEMA = 1
DOS_FOLDER = 0x10
"""The bit of an archive entry's attributes that says it is a folder."""


@dataclass(frozen=True)
class Run:
    """A run folder at `path`; `open` checks it, `create` makes it."""

    path: Path
    experiment: Experiment

    @classmethod
    def create(cls, path: Path, experiment: Experiment) -> Run:
        """Make the folder and write the resolved config and the environment; raises `WriteError`."""
        devices = (experiment.quick.device, experiment.deepthink.device)
        environment = {"schema": SCHEMA, **provenance.describe(devices)}
        for folder in (path / "checkpoints", path / "episodes"):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
        write_text(path / "environment.json", json.dumps(environment, indent=2) + "\n")
        write_text(path / "config.toml", config.dump(experiment))  # last: it is what makes the folder a run
        return cls(path, experiment)

    @classmethod
    def open(cls, path: Path) -> Run:
        """Open a run folder; raises `RunError` where it is none, or another version's."""
        if not (path / "config.toml").is_file() or not (path / "environment.json").is_file():
            raise RunError(f"{path} is no run folder: `londi train EXPERIMENT.toml` makes one")
        schema = read_json(path / "environment.json", "train again into another folder").get("schema")
        if schema != SCHEMA:
            raise RunError(
                f"{path} was made by another version of londi (schema {schema}, this is {SCHEMA}): train again"
            )
        return cls(path, config.load(path / "config.toml"))

    @staticmethod
    def vacant(path: Path) -> bool:
        """Whether a folder is empty, or holds no more than a `create` that was cut off."""
        begun = ("checkpoints", "episodes", "environment.json", "environment.json.*part", "config.toml.*part")
        inside = [*path.glob("checkpoints/*"), *path.glob("episodes/*")]
        return not inside and all(any(map(each.match, begun)) for each in path.iterdir())

    @property
    def checkpoint(self) -> Path:
        """The checkpoint from which training goes on."""
        return self.path / "checkpoints" / "last.pt"

    def stamp(self) -> tuple[int, ...] | None:
        """What tells the checkpoint that is there now from one that is written later; None where there is none."""
        try:
            found = self.checkpoint.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def latest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that can be read: the last one, or the one before it; None without any.

        Raises `CheckpointError` where there are some and none can be read.
        """
        found = [path for path in (self.checkpoint, previous(self.checkpoint)) if path.is_file()]
        for path in found[:-1]:
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                warnings.warn(f"{error}; going on from {found[-1].name} instead", stacklevel=2)
        return load_checkpoint(found[-1]) if found else None

    def policy(self, learner: str, snapshot: int | None = None) -> Path:
        """The policy file of a learner, which evaluation loads, or of one of its snapshots."""
        name = learner if snapshot is None else f"{learner}-{snapshot}"
        return self.path / "checkpoints" / f"{name}.pt"

    def snapshots(self) -> list[int]:
        """Environment steps at which the policies of all learners were kept, in order."""
        learners = self.experiment.train.learners
        learner = learners[0]
        found = (path.stem.removeprefix(f"{learner}-") for path in self.policy(learner).parent.glob(f"{learner}-*.pt"))
        steps = sorted(int(step) for step in found if step.isdecimal())
        return [step for step in steps if all(self.policy(each, step).is_file() for each in learners)]

    def load_switchers(self, snapshot: int | None = None) -> dict[str, NetworkSwitcher]:
        """Return the learned Switchers by learner; raises `RunError` where there are none yet."""
        from londi.switchers.network import NetworkSwitcher

        found: dict[str, NetworkSwitcher] = {}
        for learner in self.experiment.train.learners:
            path = self.policy(learner, snapshot)
            if not path.is_file():
                raise RunError(f"{self.path} holds no trained Switcher: `londi train` it first")
            state = load_checkpoint(path)
            if state.get("features") != FEATURES:
                raise CheckpointError(f"{path} was trained on features that this version has no more: train again")
            try:
                found[learner] = NetworkSwitcher.from_state(state["switcher"])
            except (KeyError, TypeError, RuntimeError) as error:
                raise CheckpointError(f"{path} is damaged: train again") from error
        return found

    def on(self, other: Experiment, path: Path) -> Run:
        """Make a run folder in which this run's Switchers meet the environment and the models of another experiment.

        What it measures is the other's; nothing is trained there. Raises `RunError` where the folder holds another run,
        or nothing was trained here, and `ConfigError` where a setting does not fit what was learned.
        """
        mixed = replace(
            other, train=self.experiment.train, switcher=self.experiment.switcher, seed=self.experiment.seed
        )
        self.load_switchers()
        if (path / "config.toml").is_file() and Run.open(path).experiment != mixed:
            raise RunError(f"{path} holds another experiment: choose another folder")
        made = Run.create(path, mixed)
        copies = {self.policy(learner): made.policy(learner) for learner in mixed.train.learners}
        if (self.path / "metrics.jsonl").is_file():
            copies[self.path / "metrics.jsonl"] = made.path / "metrics.jsonl"
        for source, copy in (copies | {self.path / "environment.json": made.path / "trained.json"}).items():
            with replacing(copy) as part:
                shutil.copyfile(source, part)
        return made

    def trained_steps(self) -> int:
        """Environment steps that the policies have seen: fewer than configured where training was interrupted."""
        learners, planned = self.experiment.train.learners, self.experiment.train.num_steps
        return min(planned, *(int(load_checkpoint(self.policy(learner))["step"]) for learner in learners))

    def training_calls(self) -> int | None:
        """DEEPTHINK calls of the episodes that the policies have learned from; None where those don't say."""
        calls = load_checkpoint(self.policy(self.experiment.train.learners[0])).get("calls")
        return None if calls is None else int(calls)

    def fingerprints(self) -> dict[str, str]:
        """The SHA-256 of each learner's policy file."""
        files = ((name, self.policy(name)) for name in self.experiment.train.learners)
        return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files if path.is_file()}

    def measured(self) -> Experiment | None:
        """The experiment as which frontier.json was measured, with the policies that are here now; None where there is
        no frontier.json, or one of other policies or of an earlier version of londi."""
        try:
            data = json.loads((self.path / "frontier.json").read_text(encoding="utf-8"))
            found = data["measured"]
            same = data["schema"] == MEASURED_SCHEMA and found["policies"] == self.fingerprints()
            return config.parse(tomllib.loads(found["config"])) if same else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, ConfigError):
            return None

    def measured_steps(self) -> int | None:
        """The environment steps after which frontier.json was measured; None where there is none."""
        try:
            return int(json.loads((self.path / "frontier.json").read_text(encoding="utf-8"))["env_steps"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def save_checkpoint(path: Path, state: dict[str, Any], keep: bool = False) -> None:
    """Write a checkpoint as a whole or not at all; numpy arrays in it come back as tensors.

    With `keep` the one before it stays beside it, as `previous`. Raises `WriteError`.
    """
    import torch

    packed = _packed({"schema": SCHEMA, **state})
    with replacing(path, previous(path) if keep else None) as part:
        try:
            with part.open("wb") as file:
                torch.save(packed, file)
        except RuntimeError as error:  # torch reports a full disk as one, raised over the OSError
            raise OSError(getattr(error.__context__, "strerror", None) or str(error).splitlines()[0]) from error


def previous(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(f"{path.stem}-previous{path.suffix}")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; raises `CheckpointError` where it is damaged in any way, or another version's."""
    import torch

    try:
        _check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a reader may make anything of arbitrary bytes
        raise CheckpointError(f"{path} is damaged: delete it and train again") from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise CheckpointError(f"{path} was written by another version of londi: train again into another folder")
    return state


def _check_archive(path: Path) -> None:
    """Raise `zipfile.BadZipFile`, or whatever reading it comes to, where a checkpoint is not what was written.

    torch looks at no checksum, and leaves an array uninitialised whose entry is marked as a folder.
    """
    with zipfile.ZipFile(path) as file:
        folders = [each.filename for each in file.infolist() if each.external_attr & DOS_FOLDER]
        if wrong := folders or file.testzip():
            raise zipfile.BadZipFile(f"{wrong} is not what was written")


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        import torch

        return torch.from_numpy(np.require(value, requirements=["C", "W"]))
    if isinstance(value, np.generic):  # as a user's model may well say its numbers; they could not be read again
        return value.item()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return {_packed(key): _packed(item) for key, item in value.items()}
    return type(value)(map(_packed, value)) if type(value) in (list, tuple) else value
