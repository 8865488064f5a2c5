"""Text environments, registered with Gymnasium under `londi/`; importing this needs no extra.

`import londi` (or `londi.envs`) is enough for `gymnasium.make("londi/BabyAI-GoTo-v0")` to find them; so is
`gymnasium.make("londi.envs:londi/BabyAI-GoTo-v0")` alone.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from londi.envs.base import TextEnv
from londi.envs.tasks import PAIR_TASKS, SCIENCEWORLD
from londi.errors import EnvError, did_you_mean

__all__ = ["TextEnv", "ids", "make", "register_envs"]

_BABYAI = {
    "GoTo": ("go to",),
    "PickUp": ("pick up",),
    "PutNext": ("put next",),
    "PickUpGoTo": ("pick up then go to",),
    "OpenDoor": ("open door",),
    "GoToPickUp": ("go to", "pick up"),
    "Mix": ("go to", "pick up", "put next", "pick up then go to", "open door"),
}


_CHOSEN = {"londi/ScienceWorld-v0": {"task"}, "londi/BabyAI-Text-v0": {"level"}}
"""What these ids leave to the user, though they have a default; in the others it is what the id stands for."""


def register_envs() -> None:
    """Register every text environment with Gymnasium (idempotent)."""
    for name, kinds in _BABYAI.items():
        _register(f"londi/BabyAI-{name}-v0", "londi.envs.babyai:BabyAITextEnv", {"kinds": kinds})
    _register("londi/BabyAI-Text-v0", "londi.envs.babyai:BabyAITextEnv", {"level": "BabyAI-GoToLocal-v0"})
    _register("londi/ScienceWorld-v0", "londi.envs.scienceworld:ScienceWorldEnv", {"task": PAIR_TASKS})
    for task in SCIENCEWORLD:
        _register(f"londi/ScienceWorld-{task}-v0", "londi.envs.scienceworld:ScienceWorldEnv", {"task": task})
    _register("londi/KeyDoor-v0", "londi.envs.keydoor:KeyDoorEnv", {})


def _register(name: str, entry_point: str, kwargs: dict[str, Any]) -> None:
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point, kwargs=kwargs, disable_env_checker=True)


def ids() -> list[str]:
    """Return the Gymnasium ids of londi's text environments."""
    register_envs()
    return sorted(name for name in gymnasium.registry if name.startswith("londi/"))


def make(env_id: str, **options: Any) -> TextEnv:
    """Make a text environment; `env_id` is a Gymnasium id, `MODULE:ID`, or a bare BabyAI level.

    Raises `EnvError` where the id is unknown, an option does not fit, or the environment speaks no text.
    """
    register_envs()
    if env_id.startswith("BabyAI-"):
        env_id, options = "londi/BabyAI-Text-v0", {"level": env_id, **options}
    module, colon, name = env_id.partition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise EnvError(f"can't import '{module}' for the environment '{env_id}': {error}") from error
        env_id = name
    if env_id not in gymnasium.registry:
        raise EnvError(f"unknown environment '{env_id}'{did_you_mean(env_id, gymnasium.registry)} (see `londi envs`)")
    spec = gymnasium.spec(env_id)
    if fixed := options.keys() & spec.kwargs.keys() - _CHOSEN.get(env_id, set()):
        raise EnvError(f"{env_id} has its own {', '.join(sorted(fixed))}: take another id, or leave the option out")
    _check_options(spec, options)
    try:
        env = gymnasium.make(env_id, disable_env_checker=True, **options).unwrapped
    except TypeError as error:
        raise EnvError(f"{env_id} does not take these options {options}: {error}") from error
    if not isinstance(env, TextEnv):
        raise EnvError(f"{env_id} is no text environment: observations and actions must be str (see londi.TextEnv)")
    return env


def _check_options(spec: EnvSpec, options: dict[str, Any]) -> None:
    """Raise `EnvError` for an option that there is not, where the environment names those that there are."""
    if not isinstance(spec.entry_point, str):
        return
    known = inspect.signature(load_env_creator(spec.entry_point)).parameters
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return
    for name in options.keys() - known.keys():
        hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
        raise EnvError(f"{spec.id} has no option '{name}'{hint}")


register_envs()
