"""The key-door room: small enough that the best use of every budget of calls is known exactly.

A wall with a locked door parts the room; the key lies on the near side, the goal on the far side. Moves slip.
The text names the whole state, so it is Markov, and two scripted models read nothing else: `deepthink_policy`
plays perfectly, `quick_policy` is short-sighted. `KeyDoorEnv.switching_mdp` writes the task under these two as
matrices, for the exact solvers of `londi.theory`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np

from londi.envs.base import TextEnv
from londi.errors import ConfigError, EnvError, ModelError
from londi.theory.mdp import DEEPTHINK, QUICK, SwitchingMDP

Cell = tuple[int, int]
"""(column, row), both counted from 1; rows are counted from the north."""

MOVES: dict[str, Cell] = {"go north": (0, -1), "go south": (0, 1), "go east": (1, 0), "go west": (-1, 0)}
PICK_UP, OPEN = "pick up key", "open door"
ACTIONS = (*MOVES, PICK_UP, OPEN)
"""The six text actions."""

COLUMNS, ROWS = 7, 7
DOOR: Cell = (5, 4)
"""The only gap in the wall that fills its column; it is opened from the cell west of it."""
GOAL: Cell = (7, 6)
KEYS: tuple[Cell, ...] = ((1, 1), (1, 2), (1, 6))
"""Where the key may lie at the start."""
_THRESHOLD: Cell = (DOOR[0] - 1, DOOR[1])

_GOAL_TEXT = "use the key to open the door, then reach the goal"
_SIGHT = 2
"""QUICK overlooks a key farther than this, in steps."""
_MUDDLE = 3
"""QUICK mixes up north and south where what it heads for is this many rows away, or more."""
_MIXED_UP = {"go north": "go south", "go south": "go north"}


class State(NamedTuple):
    """Where the agent stands, where the key lies (None once it is picked up), and whether the door is open."""

    column: int
    row: int
    key: Cell | None
    door_open: bool


def _all_states() -> tuple[State, ...]:
    near = [(column, row) for column in range(1, DOOR[0]) for row in range(1, ROWS + 1)]
    far = [(column, row) for column in range(DOOR[0] + 1, COLUMNS + 1) for row in range(1, ROWS + 1)]
    locked = [State(*cell, key, False) for key in (*KEYS, None) for cell in near]
    return (*locked, *(State(*cell, None, True) for cell in (*near, DOOR, *far)))


STATES: tuple[State, ...] = _all_states()
"""Every state that an episode can reach, in the order of the rows of `KeyDoorEnv.switching_mdp`."""

STARTS: tuple[State, ...] = tuple(state for state in STATES if state.key is not None)
"""The states in which an episode may start, equally likely: any near cell, any place of the key."""


def describe(state: State) -> str:
    """Put a state into words; `read_state` is the inverse."""
    here = (state.column, state.row)
    parts = [f"You are at column {state.column}, row {state.row}."]
    if state.key is not None:
        parts.append(f"The key is {_place(here, state.key)}.")
    elif not state.door_open:
        parts.append("You carry the key.")
    parts.append(f"The {'open' if state.door_open else 'locked'} door is {_place(here, DOOR)}.")
    parts.append(f"The goal is {_place(here, GOAL)}.")
    return " ".join(parts)


def read_state(text: str) -> State:
    """Read the state from a prompt or an observation (of several `obs:` lines the last one, which is now).

    Raises `ModelError` where the text describes no state of this room.
    """
    start = text.rfind("You are at")
    state = _readings().get(text[start:].split("\n", 1)[0].strip()) if start >= 0 else None
    if state is None:
        raise ModelError(f"this text describes no state of the key-door room: '{text[-200:]}'")
    return state


@cache
def _readings() -> dict[str, State]:
    return {describe(state): state for state in STATES}


def quick_policy(prompt: str) -> Mapping[str, float]:
    """Probability of each action as the small model gives it; raises `ModelError` for an unreadable prompt.

    It overlooks a key that is more than two steps away and walks to the locked door instead. It mixes up north and
    south where what it heads for is three rows or more away. Where it must choose between two directions it
    hesitates, whether it is right or wrong, so its confidence alone says little.
    """
    return _table(*_quick_choice(read_state(prompt)))


def deepthink_policy(prompt: str) -> Mapping[str, float]:
    """Probability of each action as the large model gives it; raises `ModelError` for an unreadable prompt.

    The likeliest action is always on a shortest way: to the key, to the door, to the goal.
    """
    return _table(_deepthink_choice(read_state(prompt)), 0.95)


class KeyDoorEnv(TextEnv):
    """Fetch the key, open the door, reach the goal: reward 1 at the goal, 0 before.

    The seed decides where agent and key start (each pair of near cell and key place equally likely) and which
    moves slip. Parameters:

    slip: probability that a move leaves the agent where it stands, in [0, 1); more makes every budget riskier.
    max_steps: step limit; at 40 the large model fails in less than one episode of a thousand.

    Raises `ConfigError` for an option out of range.
    """

    admissible = ACTIONS
    reproducible = True

    def __init__(self, slip: float = 0.1, max_steps: int = 40) -> None:
        super().__init__(max_steps)
        if not 0 <= slip < 1:
            raise ConfigError(f"slip must be a probability in [0, 1), not {slip}")
        self.slip = slip
        self._state = STARTS[0]

    def outcomes(self, state: State, action: str) -> list[tuple[float, State, float, bool]]:
        """Return every `(probability, next state, reward, done)` of an action; the probabilities sum to 1.

        The environment samples from this list and `switching_mdp` sums over it. Raises `EnvError` where `action`
        is none of `ACTIONS`.
        """
        if action not in ACTIONS:
            raise EnvError(f"'{action}' is no action of this room: take one of {', '.join(ACTIONS)}")
        if self._is_goal(state):
            return [(1.0, state, 0.0, True)]
        moved = _moved(state, action)
        done = self._is_goal(moved)
        if action not in MOVES or moved == state or not self.slip:
            return [(1.0, moved, float(done), done)]
        return [(1 - self.slip, moved, float(done), done), (self.slip, state, 0.0, False)]

    def switching_mdp(self) -> SwitchingMDP:
        """Return the exact matrices under the likeliest actions of the two scripted models; rows as in `STATES`.

        The step limit is not in the matrices: solve them with `horizon=env.max_steps`. Where QUICK is stuck and time
        is plenty, calling now and calling later are worth the same at gamma = 1; a Switcher that sees no clock needs
        gamma slightly below 1 (0.99 loses nothing here), or it waits for ever.
        """
        index = {state: i for i, state in enumerate(STATES)}
        S = len(STATES)
        transition, reward = np.zeros((2, S, S)), np.zeros((2, S))
        for choice, policy in ((QUICK, quick_policy), (DEEPTHINK, deepthink_policy)):
            for i, state in enumerate(STATES):
                table = policy(describe(state))
                for probability, after, gain, _ in self.outcomes(state, max(table, key=lambda name: table[name])):
                    transition[choice, i, index[after]] += probability
                    reward[choice, i] += probability * gain
        initial = np.array([state in STARTS for state in STATES]) / len(STARTS)
        return SwitchingMDP(transition, reward, initial, np.array([self._is_goal(state) for state in STATES]))

    @staticmethod
    def _is_goal(state: State) -> bool:
        return (state.column, state.row) == GOAL

    def _begin(self, seed: int | None) -> str:
        self.goal = _GOAL_TEXT
        self._state = STARTS[int(self.np_random.integers(len(STARTS)))]
        return self._observe()

    def _observe(self) -> str:
        return describe(self._state)

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        outcomes = self.outcomes(self._state, action)
        drawn = int(self.np_random.choice(len(outcomes), p=[outcome[0] for outcome in outcomes]))
        _, self._state, reward, done = outcomes[drawn]
        return self._observe(), reward, done, done


def _moved(state: State, action: str) -> State:
    """The state after an action that does not slip; an action that can't be done changes nothing."""
    here = (state.column, state.row)
    if action == PICK_UP:
        return state._replace(key=None) if here == state.key else state
    if action == OPEN:
        return state._replace(door_open=True) if here == _THRESHOLD and state.key is None else state
    column, row = state.column + MOVES[action][0], state.row + MOVES[action][1]
    inside = 1 <= column <= COLUMNS and 1 <= row <= ROWS
    if not inside or (column == DOOR[0] and not (row == DOOR[1] and state.door_open)):
        return state
    return state._replace(column=column, row=row)


def _deepthink_choice(state: State) -> str:
    here = (state.column, state.row)
    if state.key is not None:
        return PICK_UP if here == state.key else _heads(here, state.key)[0]
    if state.door_open and here in (_THRESHOLD, DOOR):
        return "go east"
    target = GOAL if here[0] > DOOR[0] else _THRESHOLD
    return OPEN if here == target else _heads(here, target)[0]


def _quick_choice(state: State) -> tuple[str, float]:
    """QUICK's action and how sure it is of it."""
    here = (state.column, state.row)
    sees_key = state.key is not None and _steps(here, state.key) <= _SIGHT
    if sees_key and here == state.key:
        return PICK_UP, 0.8
    if state.door_open:
        target = GOAL if here[0] >= DOOR[0] else DOOR
    else:
        target = state.key if sees_key and state.key else _THRESHOLD
    if here == target:
        return OPEN, 0.9
    ways = _heads(here, target)
    action = ways[0]
    if abs(target[1] - here[1]) >= _MUDDLE:
        action = _MIXED_UP.get(action, action)
    return action, 0.85 if len(ways) == 1 else 0.5


def _heads(here: Cell, target: Cell) -> list[str]:
    """The moves that bring `here` nearer to `target`, along the columns first."""
    east, south = target[0] - here[0], target[1] - here[1]
    ways = (("go east", east), ("go west", -east), ("go south", south), ("go north", -south))
    return [action for action, steps in ways if steps > 0]


def _steps(here: Cell, there: Cell) -> int:
    return abs(there[0] - here[0]) + abs(there[1] - here[1])


def _place(here: Cell, there: Cell) -> str:
    """Say where `there` is: `3 steps north and 1 step east`, or `here`."""
    east, south = there[0] - here[0], there[1] - here[1]
    ways = (("north", -south), ("south", south), ("east", east), ("west", -east))
    parts = [f"{steps} step{'s' if steps > 1 else ''} {way}" for way, steps in ways if steps > 0]
    return " and ".join(parts) or "here"


def _table(action: str, confidence: float) -> Mapping[str, float]:
    """The action with its probability, the rest spread evenly over the others."""
    rest = (1 - confidence) / (len(ACTIONS) - 1)
    return {name: confidence if name == action else rest for name in ACTIONS}
