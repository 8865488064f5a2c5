"""The simulator's solutions choose at random among what serves as well; here the first thing that is seen is chosen.

Names become those that the text shows ("giant tortoise egg" for "egg giant tortoise"). Whether a rewritten solution
still leads to the goal is found out by playing it (`londi.cloning.scienceworld.demos`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Steps = list[tuple[str, str]]
_YOUNG = re.compile(r"(?:; |: )(?:an? )?(baby [\w ]+?|[\w ]+? egg)(?=[;,(.]| \()")
_POT = re.compile(r"(flower pot \d+) \(containing (?:an? )?(?:[\w ]+, )?(?:an? )?([\w ]+? (?:tree|plant))\b")
_WIRE = re.compile(r"\b([a-z]+ wire)\b")
_LAMP = re.compile(r"\b([a-z]+ light bulb|electric motor|buzzer)\b")
_THING = re.compile(r"(?:; |: )(?:an? )?([a-z][a-z ]*?)(?=[,;(.]| \()")


def tidy(task: str, steps: Sequence[tuple[str, str]], observations: Sequence[str]) -> Steps:
    """Return the plan rewritten; `observations` are what was seen before each of its steps."""
    plain = [(room, action.lower().replace(" in inventory", "")) for room, action in steps]
    for family, rewrite in _FAMILIES.items():
        if task.startswith(family):
            return rewrite(plain, observations)
    return plain


def _animal(steps: Steps, observations: Sequence[str]) -> Steps:
    at, box = _focus(steps), _box(steps)
    found = _YOUNG.findall(observations[at])
    if not (found and box):
        return steps
    room = steps[at][0]
    return [(room, f"focus on {found[0]}"), (room, f"pick up {found[0]}"), (steps[-1][0], f"move {found[0]} to {box}")]


def _plant(steps: Steps, observations: Sequence[str]) -> Steps:
    at, box = _focus(steps), _box(steps)
    found = _POT.search(observations[at])
    if not (found and box):
        return steps
    room, (pot, plant) = steps[at][0], found.groups()
    return [(room, f"focus on {plant}"), (room, f"pick up {pot}"), (steps[-1][0], f"move {pot} to {box}")]


def _lifeless(steps: Steps, observations: Sequence[str]) -> Steps:
    at, box = _focus(steps), _box(steps)
    seen = observations[at].split("you see:", 1)[-1].split("You also see", 1)[0]
    found = [name for name in _THING.findall(f"; {seen}") if name not in ("air", box, "nothing", "soil")]
    if not (found and box):
        return steps
    room = steps[at][0]
    if room == steps[-1][0]:
        return [(room, f"focus on {found[0]}"), (room, f"move {found[0]} to {box}")]
    return [(room, f"focus on {found[0]}"), (room, f"pick up {found[0]}"), (steps[-1][0], f"move {found[0]} to {box}")]


def _lifespan(steps: Steps, observations: Sequence[str]) -> Steps:
    rewritten = []
    for (room, action), seen in zip(steps, observations, strict=True):
        kind = re.sub(r"^focus on (?:egg |baby baby |baby )?", "", action)
        named = [name for name in _YOUNG.findall(seen) if kind in name]
        rewritten.append((room, f"focus on {named[0]}" if named and action.startswith("focus") else action))
    return rewritten


def _circuit(steps: Steps, observations: Sequence[str]) -> Steps:
    """The battery, the thing, a lamp and three wires in a row; a moment later the lamp tells."""
    at = next((i for i, (_, action) in enumerate(steps) if action.startswith("connect")), None)
    if at is None:
        return steps
    room, seen = steps[at][0], observations[at].lower()
    wires, lamps = list(dict.fromkeys(_WIRE.findall(seen))), _LAMP.findall(seen)
    moved = re.match(r"move ([\w ]+) to \w+ box$", steps[-1][1])
    if len(wires) < 3 or not lamps or not moved:
        return steps
    thing = moved[1]
    one, two, three = wires[:3]
    circuit = (
        f"battery anode to {one} terminal 1",
        f"battery cathode to {two} terminal 1",
        f"{one} terminal 2 to cathode in {lamps[0]}",
        f"{three} terminal 2 to anode in {lamps[0]}",
        f"{thing} terminal 1 to {two} terminal 2",
        f"{thing} terminal 2 to {three} terminal 1",
    )
    first = [(where, re.sub("(pick up|focus on|drop) .*", rf"\1 {thing}", action)) for where, action in steps[:at]]
    return [*first, *((room, f"connect {link}") for link in circuit), (room, "wait"), steps[-1]]


def _focus(steps: Steps) -> int:
    return next((i for i, (_, action) in enumerate(steps) if action.startswith("focus on")), 0)


def _box(steps: Steps) -> str:
    found = re.search(r" to (\w+ box)$", steps[-1][1]) if steps else None
    return found[1] if found else ""


_FAMILIES: dict[str, Callable[[Steps, Sequence[str]], Steps]] = {
    "find-living-thing": _animal,
    "find-animal": _animal,
    "find-plant": _plant,
    "find-non-living-thing": _lifeless,
    "lifespan": _lifespan,
    "test-conductivity": _circuit,
}
