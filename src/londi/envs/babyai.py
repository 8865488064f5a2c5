"""BabyAI-Text: minigrid's BabyAI levels described in words.

The text follows BabyAI-Text (Carta et al., "Grounding large language models in interactive environments with
online reinforcement learning", 2023, arXiv 2302.02662): what stands in the 7x7 view, in steps left or right and
forward, the nearest walls, and what is carried. Six text actions. The five kinds of task of the papers are
levels of our own (`TaskLevel`), each one 8x8 room with eight objects, the goal's among them, as in minigrid's
`BabyAI-GoToLocal-v0`; any registered BabyAI level can be wrapped instead.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, cast

import gymnasium

from londi.envs.base import TextEnv
from londi.errors import ConfigError, EnvError, MissingExtraError, did_you_mean

try:
    import minigrid  # noqa: F401  (registers the BabyAI levels)
    from minigrid.core.world_object import Door
    from minigrid.envs.babyai.core.roomgrid_level import RoomGridLevel
    from minigrid.envs.babyai.core.verifier import (
        BeforeInstr,
        GoToInstr,
        ObjDesc,
        OpenInstr,
        PickupInstr,
        PutNextInstr,
    )
except ImportError as error:
    raise MissingExtraError("minigrid", "babyai") from error

ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle")
"""The six text actions, in the order of minigrid's action numbers 0 to 5."""

KINDS = ("go to", "pick up", "put next", "pick up then go to", "open door")
"""The five kinds of task of the BabyAI-Text papers."""

ROOM_SIZE = 8
NUM_OBJECTS = 8


class TaskLevel(RoomGridLevel):  # type: ignore[misc]
    """One room with distractors and a mission drawn from `kinds`, in which no other object must be moved aside."""

    def __init__(
        self, kinds: Sequence[str] = KINDS, room_size: int = ROOM_SIZE, num_objects: int = NUM_OBJECTS, **kwargs: Any
    ) -> None:
        for kind in kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown kind of BabyAI task '{kind}'{did_you_mean(kind, KINDS)}")
        if not kinds:
            raise ConfigError(f"kinds is empty: name at least one of {', '.join(KINDS)}")
        if num_objects < 2 or room_size < 5 or num_objects > (room_size - 2) ** 2 // 3:
            raise ConfigError(
                f"a room of size {room_size} (at least 5) holds 2 to {(room_size - 2) ** 2 // 3} objects, "
                f"not {num_objects}"
            )
        self.kinds, self.num_objects = tuple(kinds), num_objects
        super().__init__(num_rows=1, num_cols=1, room_size=room_size, **kwargs)

    def gen_mission(self) -> None:
        """Place objects and agent, draw the mission (called by minigrid, which rejects and draws again)."""
        kind = self._rand_elem(self.kinds)
        self.place_agent(0, 0)
        if kind == "open door":
            self.instrs = self._open_door_mission()
        else:
            objects = self.add_distractors(num_distractors=self.num_objects, all_unique=False)
            first, second = (ObjDesc(o.type, o.color) for o in self._rand_subset(objects, 2))
            if kind == "go to":
                self.instrs = GoToInstr(first)
            elif kind == "pick up":
                self.instrs = PickupInstr(first)
            elif kind == "put next":
                self.instrs = PutNextInstr(first, second)
            else:
                self.instrs = BeforeInstr(PickupInstr(first), GoToInstr(second))
        self.check_objs_reachable()

    def _open_door_mission(self) -> OpenInstr:
        """A locked door in the outer wall and its key among the objects; the episode ends when it opens."""
        side, along = self._rand_int(0, 4), self._rand_int(1, self.room_size - 1)
        far = self.room_size - 1
        x, y = ((far, along), (along, far), (0, along), (along, 0))[side]
        door = Door(self._rand_color(), is_locked=True)
        self.grid.set(x, y, door)
        door.init_pos = door.cur_pos = (x, y)
        self.add_object(0, 0, "key", door.color)
        self.add_distractors(num_distractors=self.num_objects - 1, all_unique=False)
        return OpenInstr(ObjDesc("door", door.color))


def place(right: int, forward: int) -> str:
    """Say where a cell of the view is: `2 steps left and 1 step forward`."""
    parts = []
    for count, word in ((abs(right), "left" if right < 0 else "right"), (forward, "forward")):
        if count:
            parts.append(f"{count} step{'s' if count > 1 else ''} {word}")
    return " and ".join(parts)


def _name(thing: Any) -> str:
    if thing.type != "door":
        return f"a {thing.color} {thing.type}"
    if thing.is_open:
        return f"an open {thing.color} door"
    return f"a {'locked' if thing.is_locked else 'closed'} {thing.color} door"


def describe(grid: Any, visible: Any) -> str:
    """Put minigrid's egocentric view (agent at the middle of the last row, looking up) into words.

    Parameters: `grid` of W x H cells, `visible` a (W, H) bool mask, both from `gen_obs_grid`.
    """
    middle, last = grid.width // 2, grid.height - 1
    cells = grid.grid
    seen = [f"You carry {_name(grid.get(middle, last))}."] if grid.get(middle, last) else []
    for words, dx, dy in (("forward", 0, -1), ("left", -1, 0), ("right", 1, 0)):
        x, y, steps = middle + dx, last + dy, 1
        while 0 <= x < grid.width and 0 <= y < grid.height:
            cell = cells[y * grid.width + x]
            if cell is not None and cell.type == "wall":
                if visible[x, y]:
                    seen.append(f"You see a wall {steps} step{'s' if steps > 1 else ''} {words}.")
                break
            x, y, steps = x + dx, y + dy, steps + 1
    for index, cell in enumerate(cells):
        if cell is None or cell.type in ("wall", "floor", "unseen"):
            continue
        y, x = divmod(index, grid.width)
        if visible[x, y] and (x, y) != (middle, last):
            seen.append(f"You see {_name(cell)} {place(x - middle, last - y)}.")
    return " ".join(seen)


class BabyAITextEnv(TextEnv):
    """A BabyAI level in words: reward 1 when the mission is done, 0 otherwise.

    - `level`: id of a registered BabyAI level (`BabyAI-GoToLocal-v0`), or None for the kinds of task below.
    - `kinds`: kinds of task to draw from, when `level` is None; see `KINDS`.
    - `max_steps`: step limit; more lets a lost model find the goal by accident. The papers use 64 to 128.
    - `room_size`: cells a side, walls included (8).
    - `num_objects`: objects in the room, the goal's among them (8).

    Raises `EnvError` for an unknown level and `ConfigError` for an unknown kind.
    """

    admissible = ACTIONS
    reproducible = True

    def __init__(
        self,
        level: str | None = None,
        kinds: Sequence[str] = KINDS,
        max_steps: int = 64,
        room_size: int = ROOM_SIZE,
        num_objects: int = NUM_OBJECTS,
    ) -> None:
        super().__init__(max_steps)
        if level is None:
            self.level: Any = TaskLevel(kinds, room_size, num_objects, max_steps=max_steps + 1)
        else:
            self.level = _make_level(level)
        self._text = ""
        # minigrid encodes an image at every step; words take its place, so that the view is cut out once.
        self.level.gen_obs = self._gen_text

    def _gen_text(self) -> dict[str, Any]:
        self._text = describe(*self.level.gen_obs_grid())
        return {"text": self._text}

    def _begin(self, seed: int | None) -> str:
        with contextlib.redirect_stdout(io.StringIO()):  # minigrid prints rejected samples
            self.level.reset(seed=seed)
        self.goal = self.level.mission
        self.level.max_steps = self.max_steps + 1
        return self._text

    def _observe(self) -> str:
        return self._text

    def _apply(self, action: str) -> tuple[str, float, bool, bool]:
        _, reward, terminated, _, _ = self.level.step(ACTIONS.index(action))
        success = bool(terminated and reward > 0)
        return self._text, float(success), bool(terminated), success


def levels() -> list[str]:
    """Return the ids of all registered BabyAI levels of the installed minigrid."""
    return sorted(name for name in gymnasium.registry if name.startswith("BabyAI-"))


def _make_level(level: str) -> Any:
    if level not in gymnasium.registry or not level.startswith("BabyAI-"):
        raise EnvError(f"unknown BabyAI level '{level}'{did_you_mean(level, levels())} (`londi envs` lists them)")
    return cast(Any, gymnasium.make(level, disable_env_checker=True)).unwrapped
