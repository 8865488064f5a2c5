"""`londi lm demos | train`: the built-in pairs, from nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from londi.cli.models import lm
from londi.cli.terminal import bar, out
from londi.errors import ConfigError

if TYPE_CHECKING:
    from londi.cloning.train import Corpus, Recipe

__all__ = ["lm"]


def scienceworld_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "londi" / "scienceworld"


@lm.command(name="demos")
def lm_demos(
    world: tyro.conf.Positional[Literal["scienceworld"]],
    tasks: tuple[str, ...] = (),
    out_folder: Annotated[Path | None, tyro.conf.arg(name="out")] = None,
    most: int = 300,
    seed: int = 0,
    processes: int = 2,
) -> None:
    """Have the simulator solve its training variations, and play the solutions; what is known already is kept.

    Args:
        world: the only one so far that needs it.
        tasks: ScienceWorld tasks; those of the built-in pair by default.
        out_folder: where they are kept; by default in the user's cache.
        most: variations of a task.
        seed: decides the noise in the demonstrations.
        processes: simulators at a time.
    """
    folder = out_folder or scienceworld_cache()
    _demonstrate(folder, _tasks(tasks), most, seed, processes)
    out.print(f"demonstrations: {folder}", soft_wrap=True)


@lm.command(name="train")
def lm_train(
    world: tyro.conf.Positional[Literal["babyai", "scienceworld"]] = "babyai",
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("pair"),
    seed: int = 0,
    only: Literal["both", "quick", "deepthink"] = "both",
    episodes: int | None = None,
    tasks: tuple[str, ...] = (),
    demos: Path | None = None,
    thought: bool = True,
) -> None:
    """Train a built-in pair from nothing: demonstrations, then behaviour cloning.

    Args:
        world: which pair.
        out_folder: folder for the two models.
        seed: decides demonstrations and training.
        only: one of the two, or both.
        episodes: BabyAI: demonstrations to clone; 10,000 by default.
        tasks: ScienceWorld: its tasks; those of the built-in pair by default.
        demos: ScienceWorld: folder of `londi lm demos`, completed and learned from as a whole; by default in the
            user's cache.
        thought: whether DEEPTHINK thinks before it acts; without is the ablation.
    """
    if (episodes is not None and episodes < 1) or seed < 0:
        raise ConfigError("--episodes must be at least 1 and --seed at least 0")
    if only == "quick" and not thought:
        raise ConfigError("--no-thought is for DEEPTHINK: QUICK never thinks")
    _check_folder(out_folder)
    if world == "babyai":
        if tasks or demos:
            raise ConfigError("--tasks and --demos are for scienceworld")
        _train_babyai(out_folder, seed, episodes or 10_000, only, thought)
    else:
        if episodes is not None:
            raise ConfigError("--episodes is for babyai")
        _train_scienceworld(out_folder, seed, only, _tasks(tasks), demos or scienceworld_cache(), thought)


def _train_babyai(out_folder: Path, seed: int, episodes: int, only: str, thought: bool) -> None:
    from londi.cloning.babyai import corpus, demos
    from londi.envs.babyai import KINDS

    with bar("demonstrations", episodes) as move:
        shown = demos.collect(KINDS, episodes, seed=seed, progress=lambda n: move(advance=n))
    recipes = {"quick": corpus.QUICK, "deepthink": replace(corpus.DEEPTHINK, thinks=thought)}
    _clone(corpus.BabyAICorpus.build, shown, recipes, out_folder, seed, only)


def _train_scienceworld(
    out_folder: Path, seed: int, only: str, tasks: tuple[str, ...], cache: Path, thought: bool
) -> None:
    from londi.cloning.scienceworld import corpus, demos

    _demonstrate(cache, tasks, 300, seed, 2)
    shown = demos.read(cache, tasks, seed)
    if not shown:
        raise ConfigError(f"no demonstrations of {', '.join(tasks)} in {cache}: none of them was solved")
    recipes = {"quick": corpus.QUICK, "deepthink": replace(corpus.DEEPTHINK, thinks=thought)}
    _clone(corpus.ScienceWorldCorpus.build, shown, recipes, out_folder, seed, only)


def _clone(
    build: Callable[..., Corpus],
    shown: Sequence[Any],
    recipes: dict[str, Recipe],
    out_folder: Path,
    seed: int,
    only: str,
) -> None:
    from londi.cloning.train import train

    for name, recipe in recipes.items():
        if only in ("both", name):
            folder = out_folder / name
            folder.mkdir(parents=True, exist_ok=True)
            data = build(shown, folder, thinks=recipe.thinks)
            with bar(name, recipe.num_updates) as move:
                train(data, recipe, folder, seed=seed, progress=partial(_show, move))
            out.print(f"{name}: {folder}", soft_wrap=True)


def _demonstrate(folder: Path, tasks: tuple[str, ...], most: int, seed: int, processes: int) -> None:
    from londi.cloning.scienceworld import demos, gold

    if most < 1 or seed < 0 or processes < 1:
        raise ConfigError("--most and --processes must be at least 1, --seed at least 0")
    _check_folder(folder)
    jobs = gold.missing(folder, tasks, "train", "easy", most)
    with bar("solutions", len(jobs)) as move:
        gold.generate(folder, jobs, "train", "easy", processes, progress=lambda done: move(done))
    golds = list(gold.solved(folder, tasks, "train", "easy", most))
    with bar("demonstrations", len(golds)) as move:
        demos.collect(folder, golds, seed=seed, processes=processes, progress=lambda done: move(done))


def _tasks(tasks: tuple[str, ...]) -> tuple[str, ...]:
    from londi.envs.tasks import PAIR_TASKS, SCIENCEWORLD
    from londi.errors import did_you_mean

    for task in tasks:
        if task not in SCIENCEWORLD:
            raise ConfigError(f"unknown ScienceWorld task '{task}'{did_you_mean(task, SCIENCEWORLD)}")
    return tuple(dict.fromkeys(tasks)) or PAIR_TASKS


def _check_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{path} is a file: choose a folder")


def _show(move: Callable[..., None], update: int, loss: float) -> None:
    move(update, extra=f"loss {loss:.3f}")
