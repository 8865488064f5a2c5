"""Language models: the protocol, and `load`, which turns a name into a model."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from londi.config import ModelConfig
from londi.errors import ConfigError, ModelError
from londi.lms.base import Decision, LanguageModel
from londi.lms.cache import CachedLM
from londi.lms.scripted import ScriptedLM

__all__ = ["CachedLM", "Decision", "LanguageModel", "ScriptedLM", "load", "load_pair"]


def load_pair(quick: ModelConfig, deepthink: ModelConfig) -> tuple[LanguageModel, LanguageModel]:
    """Load QUICK and DEEPTHINK; one local model at two efforts is held in memory once."""
    first = load(quick)
    return first, load(deepthink, first)


def load(config: ModelConfig, beside: LanguageModel | None = None) -> LanguageModel:
    """Load the language model that a config names; raises `ModelError` where there is none.

    Weights that `beside` has already are shared. Raises `ConfigError` for settings that such a model has no use for.
    """
    kind, _, rest = config.model.partition(":")
    _check(config, kind)
    options: dict[str, Any] = {"mode": config.mode, "max_new_tokens": config.max_new_tokens, "device": config.device}
    options |= {"dtype": config.dtype, "max_batch": config.max_batch, "system": config.system, "local": config.local}
    if kind == "builtin":
        from londi.lms.builtin import load_builtin

        return load_builtin(rest, **options)
    if kind == "openai":
        from londi.lms import http

        return http.load(rest, config.server, config.max_new_tokens, config.system)
    if kind == "python":
        return _load_python(rest)
    from londi.lms.transformers import TransformersLM

    return TransformersLM(config.model, beside=beside, **options)


_LOCAL = ("mode", "device", "dtype", "max_batch", "local")
_UNUSED = {"openai": _LOCAL, "python": (*_LOCAL, "max_new_tokens", "system", "server")}
"""Settings that mean nothing to a kind of model; to all others, which run here, that is `server`."""


def _check(config: ModelConfig, kind: str) -> None:
    default = ModelConfig(config.model)
    for name in _UNUSED.get(kind, ("server",)):
        if getattr(config, name) != getattr(default, name):
            instead = ": it has server.choose instead" if (kind, name) == ("openai", "mode") else ""
            raise ConfigError(f"'{config.model}' has no use for the setting '{name}'{instead}")


def _load_python(where: str) -> LanguageModel:
    module, _, name = where.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"can't find 'python:{where}' (python:MODULE:NAME): {error}") from error
    if isinstance(found, LanguageModel) and not isinstance(found, type):
        return found
    if not callable(found):
        raise ModelError(f"'python:{where}' is neither a LanguageModel nor a function")
    if _takes_a_prompt(found):
        return ScriptedLM(found, name=name)
    made = found()
    if not isinstance(made, LanguageModel):
        raise ModelError(f"'python:{where}' returned {type(made).__name__}, no LanguageModel")
    return made


def _takes_a_prompt(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
