"""ScienceWorld (Wang et al. 2022, arXiv 2203.07540) as text environments: 30 tasks, free text in, text out.

The simulator's own text says what an action did; the room and what the agent carries are added to every observation,
so that no action is spent on looking. Scores are the simulator's, 0 to 100; a wrong `focus` ends an episode with -100.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Any, Literal, get_args

from londi.envs.base import TextEnv, check_number
from londi.envs.jvm import LEAST_HEAP_MB, POOL, Simulator, SimulatorLostError
from londi.envs.tasks import SCIENCEWORLD as TASKS
from londi.errors import ConfigError, EnvError, did_you_mean

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
SIMPLIFICATIONS = (
    *("easy", "teleportAction", "openDoors", "openContainers", "selfWateringFlowerPots", "noElectricalAction"),
)
_FORBIDDEN = "reset task"
"""Always permitted by the simulator, where it would wipe out a failure."""
_NOT_UNDERSTOOD = "No known action matches that input."
_AMBIGUOUS = "Ambiguous request"
_REPLAYS = 2
"""Times that an episode is begun anew after its simulator was lost, before it is given up."""
_MOST_TURNS = 100_000
"""Turns that a process remembers, some kilobytes each."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """What came of an action, or of beginning."""

    said: str
    """By the simulator; of a beginning the goal."""
    text: str = ""
    """The observation."""
    score: int = 0
    moves: int = 0
    ended: bool = False


_TURNS: dict[tuple[Any, ...], _Turn] = {}
"""What is known of a variation, by the actions so far; for environments with `recall`."""


class ScienceWorldEnv(TextEnv):
    """One or several ScienceWorld tasks, in free text: the first line of what is said is the action.

    Consecutive seeds visit the tasks in turn, and all variations of the split, in an order that mixes those that are
    listed together (mostly of one thing): so a part of a split stands for all of it.

    `reset(options={"variation": k})` plays a certain variation of the first task, whatever the split.

    - `task`: one of `TASKS`, or several. - `split`: the official `train`, `dev` or `test` variations.
    - `simplification`: some of `SIMPLIFICATIONS`, separated by commas; `easy` stands for several, empty for none.
    - `max_steps`: actions, whatever they are. `max_moves`: the simulator's moves, 100 in the literature; looking is
      none.
    - `reward`: `success` pays 1 at a score of 100; `score` pays each change of the score, in hundredths.
    - `failure`: what a failed episode scores: `zero` (SwiftSage's rule) or `minus`, the simulator's -100.
    - `short`: shorten the text: one line, without articles of substances, empty containers and the agent itself.
    - `list_actions`: list at most so many actions after each observation, those with words of the goal first: for
      models that don't know the simulator's language. Takes a tenth of a second and more a step; 0 for none.
    - `recall`: what came of the same actions in the same variation before, in this process, is not simulated again:
      much faster where many policies play the same variations. The order in which things are listed, and temperatures
      by a degree or two, can differ between what is recalled and what is played on, as they do between simulators.
    - `heap_mb`, `timeout`: of the simulator, see `londi.envs.jvm.Simulator`.

    `info` has besides `score`, `moves`, `variation` and `world_lost`. A simulator that dies or hangs is replaced and
    the episode replayed; where that does not lead to the same score, the world is lost.
    Raises `ConfigError` for an unknown task or option.
    """

    admissible = None
    waits = True
    listed = "split"

    def __init__(
        self,
        task: str | Sequence[str],
        split: Split = "train",
        simplification: str = "easy",
        max_steps: int = 100,
        max_moves: int = 100,
        reward: Literal["success", "score"] = "success",
        failure: Literal["zero", "minus"] = "zero",
        short: bool = True,
        list_actions: int = 0,
        recall: bool = False,
        heap_mb: int = 384,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(max_steps)
        self.tasks = (task,) if isinstance(task, str) else tuple(task)
        for name in self.tasks:
            if name not in TASKS:
                raise ConfigError(f"unknown ScienceWorld task '{name}'{did_you_mean(name, TASKS)}")
        if not self.tasks:
            raise ConfigError("name at least one ScienceWorld task")
        _check("split", split, SPLITS)
        _check("reward", reward, ("success", "score"))
        _check("failure", failure, ("zero", "minus"))
        for name in filter(None, simplification.split(",")):
            _check("simplification", name, SIMPLIFICATIONS)
        for option, value, least in (("max_moves", max_moves, 1), ("list_actions", list_actions, 0)):
            check_number(option, value, least)
        check_number("heap_mb", heap_mb, LEAST_HEAP_MB)
        self.task, self.split, self.simplification, self.max_moves = self.tasks[0], split, simplification, max_moves
        self.reward, self.failure, self.short, self.heap_mb, self.timeout = reward, failure, short, heap_mb, timeout
        self.list_actions, self.recall = list_actions, recall
        self.variation, self.score, self.moves = -1, 0, 0
        self._raw, self._behind, self._closed = 0, False, False
        self.simulator: Simulator | None = None
        self._variations: dict[str, dict[Split, list[int]]] = {}
        self._wanted: int | None = None
        self._actions: list[str] = []

    @property
    def settings(self) -> dict[str, Any]:
        """What was played: recorded with every episode."""
        from importlib.metadata import version

        return {
            "task": self.task,
            "split": self.split,
            "variation": self.variation,
            "simplification": self.simplification,
            "max_moves": self.max_moves,
            "recall": self.recall,
            "scienceworld": version("scienceworld"),
        }

    def close(self) -> None:
        """Give the simulator back."""
        self._behind, self._closed = False, True
        if self.simulator is not None:
            POOL.give(self.simulator)
            self.simulator = None

    def valid_actions(self) -> list[str]:
        """Actions that the simulator certainly understands now; slow, and not all of them."""
        return self._running().valid()

    def _running(self) -> Simulator:
        """The simulator, which has done all that was done in the episode."""
        if self._behind and not self._replay(self._actions, self._raw):
            raise SimulatorLostError("the ScienceWorld simulator was lost")
        return self._ready()

    def _ready(self) -> Simulator:
        if self._closed or self.simulator is None:
            raise EnvError("the environment is closed: call reset() first")
        if not self.simulator.alive:
            raise SimulatorLostError("the ScienceWorld simulator died")
        return self.simulator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode; raises `ConfigError` for a variation that there is not."""
        for name in options or {}:
            _check("an option of reset", name, ("variation",))
        self._wanted = (options or {}).get("variation")
        if self._wanted is not None and (not isinstance(self._wanted, int) or self._wanted < 0):
            raise ConfigError(f"a variation is a number from 0 on, not {self._wanted!r}")
        return super().reset(seed=seed, options=options)

    def _begin(self, seed: int | None) -> str:
        number = int(self.np_random.integers(2**31)) if seed is None else seed
        self.score, self.moves, self._actions = 0, 0, []
        self._raw, self._behind, self._closed = 0, False, False
        self.task = self.tasks[number % len(self.tasks) if self._wanted is None else 0]
        for attempt in range(_REPLAYS + 1):
            try:
                self.variation = self._chosen(number // len(self.tasks), self._wanted)
                turn = self._known() or self._noted(self._first())
                self.goal = turn.said
                return turn.text
            except SimulatorLostError:
                if attempt == _REPLAYS:
                    raise
        raise AssertionError  # pragma: no cover

    def _first(self) -> _Turn:
        self._load(self.variation)
        self.goal = self._words(self._running().description())
        return _Turn(self.goal, self._observe())

    def _known(self) -> _Turn | None:
        """What is remembered of the actions so far; the simulator is then left where it is."""
        turn = _TURNS.get(self._key()) if self.recall else None
        self._behind = self._behind or turn is not None
        return turn

    def _noted(self, turn: _Turn) -> _Turn:
        """Remember a turn; return what is remembered, which another environment may have been the first to see."""
        if self.recall and len(_TURNS) < _MOST_TURNS:
            return _TURNS.setdefault(self._key(), turn)
        return turn

    def _key(self) -> tuple[Any, ...]:
        where = self.task, self.variation, self.simplification, self.max_moves
        return *where, self.short, self.list_actions, *self._actions

    def _chosen(self, number: int, wanted: int | None) -> int:
        """The variation that is wanted, else the one of this number in the split, beginning anew at its end."""
        if self.task not in self._variations:
            self._load(0)
            self._variations[self.task] = {split: self._running().variations(split) for split in SPLITS}
        known = self._variations[self.task]
        if wanted is None:
            return known[self.split][_mixed(number, len(known[self.split]))]
        if not any(wanted in numbers for numbers in known.values()):
            last = max(map(max, known.values()))
            raise ConfigError(f"{self.task} has no variation {wanted}: they are 0 to {last}")
        return wanted

    def _load(self, variation: int) -> None:
        """Begin a variation, in a new simulator where there is none that runs."""
        if self.simulator is None or not self.simulator.alive:
            self.simulator = POOL.take(self.heap_mb, self.timeout)
        self.simulator.load(self.task, variation, self.simplification)

    def _observe(self) -> str:
        return self._words(self._state()) + self._listed()

    def _listed(self) -> str:
        """What can be done, in words, where that is asked for."""
        if not self.list_actions:
            return ""
        wanted = set(re.findall(r"[a-z]{3,}", self.goal.lower()))
        known = {action for action in self.valid_actions() if action != _FORBIDDEN}
        ranked = sorted(known, key=lambda action: (-len(wanted & set(action.lower().split())), action))
        return f" You can, among other things: {'; '.join(ranked[: self.list_actions])}."

    def _state(self, said: str = "") -> str:
        """The room and what the agent carries; not what was just said."""
        simulator = self._running()
        parts = [simulator.look().strip(), simulator.inventory().strip()]
        return "\n".join(part for part in parts if part != said.strip())

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        if self._closed:
            raise EnvError("the environment is closed: call reset() first")
        action = next((" ".join(line.split()) for line in action.splitlines() if line.strip()), "")
        if action.lower() == _FORBIDDEN:
            self._refused = True
            return f"That is not possible. {self._seen()}", 0.0, False, False
        before = self.score
        self._actions.append(action)
        turn = self._known() or self._played(action)
        if turn is None:
            self.world_lost = True
            return "The simulator was lost; the episode is given up.", 0.0, True, False
        self.score, self._raw, self.moves = turn.score, turn.score, turn.moves
        self._refused = turn.said.startswith(_NOT_UNDERSTOOD)
        failed = self.score < 0
        if failed and self.failure == "zero":
            self.score = 0
        success = self.score == 100
        reward = float(success) if self.reward == "success" else (self.score - before) / 100
        return turn.text, reward, turn.ended or failed, success

    def _played(self, action: str) -> _Turn | None:
        """Have the simulator take an action, after all before it where it is behind; None where it is lost for good."""
        for _ in range(_REPLAYS + 1):
            try:
                if self._behind and not self._replay(self._actions[:-1], self._raw):
                    return None
                turn = self._act(action)
                text = self._words(f"{turn.said.strip()}\n{self._state(turn.said)}") + self._listed()
                return self._noted(replace(turn, text=text))
            except SimulatorLostError:
                self._behind = True
        return None

    def _seen(self) -> str:
        try:
            return self._observe()
        except SimulatorLostError:
            return ""  # the next action finds out, and replays

    def _act(self, action: str) -> _Turn:
        """Do something; return what the simulator says."""
        simulator = self._ready()
        said = simulator.step(action)
        if said.startswith(_AMBIGUOUS):  # it asks which object is meant, and takes nothing but a number until told
            said = simulator.step("0")
        score, moves = simulator.score(), simulator.moves()
        return _Turn(said, "", score, moves, simulator.completed() or score < 0 or moves >= self.max_moves)

    def _replay(self, actions: list[str], score: int) -> bool:
        """Begin the episode anew, in another simulator where the last was lost; whether it comes to the same score.

        Raises `SimulatorLostError` where it is lost on the way.
        """
        self._load(self.variation)
        turns = [self._act(action) for action in actions]
        self._behind = bool(turns) and turns[-1].score != score
        return not self._behind

    def _info(self, *, success: bool, valid: bool) -> dict[str, Any]:
        found = {"score": self.score, "moves": self.moves, "variation": self.variation, "world_lost": self.world_lost}
        return super()._info(success=success, valid=valid) | found

    def _words(self, text: str) -> str:
        return shorten(text) if self.short else text.strip()


def _check(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{option} is {' or '.join(known)}, not '{value}'{did_you_mean(value, known)}")


def _mixed(number: int, count: int) -> int:
    """Return the place of a number in 0..count-1, consecutive ones far apart: in steps of the golden section."""
    step = next(step for step in range(max(1, round(0.618 * count)), 2 * count + 1) if gcd(step, count) == 1)
    return number * step % count


def shorten(text: str) -> str:
    """Put the simulator's text into one line, and leave out what says nothing."""
    text = re.sub(r"\(containing nothing\)|a substance called ", "", text)
    text = re.sub(r"^\s*the agent\s*$", "", text, flags=re.MULTILINE)
    lines = [re.sub(r"\s+", " ", line).strip() for line in text.splitlines()]
    joined = "; ".join(line.rstrip(".") for line in lines if line)
    return re.sub(r" +([;.,])", r"\1", joined.replace(":; ", ": ")).strip() + "."
