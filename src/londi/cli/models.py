"""`londi lm train | info`: language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from londi import config
from londi.cli.terminal import bar, out, print_json
from londi.errors import ConfigError

lm = tyro.extras.SubcommandApp()


@lm.command(name="train")
def lm_train(
    out_folder: Annotated[Path, tyro.conf.arg(name="out")] = Path("pair"),
    seed: int = 0,
    episodes: int = 10_000,
    only: Literal["both", "quick", "deepthink"] = "both",
) -> None:
    """Train the built-in BabyAI pair from nothing: demonstrations of the BabyAI bot, then behaviour cloning.

    Args:
        out_folder: folder for the two models.
        seed: decides demonstrations and training.
        episodes: demonstrations to clone.
        only: one of the two, or both.
    """
    from londi.cloning import train as cloning
    from londi.cloning.babyai import corpus, demos
    from londi.envs.babyai import KINDS

    if episodes < 1 or seed < 0:
        raise ConfigError("--episodes must be at least 1 and --seed at least 0")
    with bar("demonstrations", episodes) as move:
        shown = demos.collect(KINDS, episodes, seed=seed, progress=lambda n: move(advance=n))
    for name, recipe in (("quick", corpus.QUICK), ("deepthink", corpus.DEEPTHINK)):
        if only in ("both", name):
            folder = out_folder / name
            folder.mkdir(parents=True, exist_ok=True)
            data = corpus.BabyAICorpus.build(shown, folder, thinks=recipe.thinks)
            with bar(name, recipe.num_updates) as move:
                cloning.train(data, recipe, folder, seed=seed, progress=partial(_show, move))
            out.print(f"{name}: {folder}", soft_wrap=True)


@lm.command(name="info")
def lm_info(
    model: tyro.conf.Positional[str],
    env: str = "londi/BabyAI-GoToPickUp-v0",
    max_steps: int | None = None,
    episodes: int = 0,
    base_url: str | None = None,
    api_key_env: str | None = None,
    json: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Show a language model; with --episodes, play it alone and measure success and cost per decision.

    Args:
        model: as in an experiment: builtin:NAME, a folder, a hub id, openai:NAME or python:MODULE:NAME.
        env: environment to play.
        max_steps: its step limit, instead of its own.
        episodes: episodes to play.
        base_url: where the model openai:NAME is served, up to and with /v1; shows what the server can do.
        api_key_env: environment variable that holds the key.
        json: print JSON.
    """
    from londi import lms
    from londi.bench.alone import measure_model
    from londi.evaluate import TEST_SEEDS

    server = config.ServerConfig()
    if base_url is not None:
        server = dataclasses.replace(server, base_url=base_url)
    if api_key_env is not None:
        server = dataclasses.replace(server, api_key_env=api_key_env)
    spec = config.ModelConfig(model, server=server)
    found = lms.load(spec)
    info: dict[str, Any] = {"schema": 1, "model": model, "name": found.name}
    for key in ("mode", "num_parameters", "seq2seq", "context", "max_new_tokens"):
        if hasattr(found, key):
            info[key] = getattr(found, key)
    if hasattr(found, "capabilities"):
        info |= found.capabilities()
    if episodes:
        options = {} if max_steps is None else {"max_steps": max_steps}
        setting = config.Experiment("info", config.EnvConfig(env, options), spec, spec)
        info |= {"env": env, "episodes": episodes, **measure_model(setting, found, episodes, TEST_SEEDS)}
    if json:
        print_json(info)
        return
    for key, value in info.items():
        out.print(f"{key:24} {_plain(value)}", highlight=False)


def _show(move: Callable[..., None], update: int, loss: float) -> None:
    move(update, extra=f"loss {loss:.3f}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f} (95 %: {value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none listed"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
