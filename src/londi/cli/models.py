"""`londi lm info`: language models."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import tyro

from londi import config
from londi.cli.terminal import out, print_json

lm = tyro.extras.SubcommandApp()


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
    from londi.checks import TEST_SEEDS

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


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['mean']:.3f} (95 %: {value['low']:.3f} to {value['high']:.3f})"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none listed"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
