"""Dollars of a call, from a dated TOML table that users edit.

date = 2026-01-31                  # when the prices were looked up

[models."gpt-5-mini"]
prompt = 0.25                      # dollars per million tokens
cached = 0.025                     # of them, those from the server's cache; default as `prompt`
completion = 2.00
source = "https://..."             # where they stand
"""

from __future__ import annotations

import datetime
import math
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from londi.errors import ConfigError
from londi.usage import Usage


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars per million tokens of one model."""

    prompt: float
    completion: float
    cached: float
    date: str
    source: str = ""

    def dollars(self, usage: Usage) -> float:
        """Return what a usage costs."""
        fresh = usage.prompt_tokens - usage.cached_tokens
        return (
            fresh * self.prompt + usage.cached_tokens * self.cached + usage.completion_tokens * self.completion
        ) / 1e6


def prices_of(model: str, path: str = "") -> Prices | None:
    """Return a model's prices from a table, by default the one that comes with londi; None where it is not listed.

    Raises `ConfigError` for a table that can't be read, or holds no prices.
    """
    table = Path(path).expanduser() if path else files("londi.lms") / "prices.toml"
    try:
        data = tomllib.loads(table.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no price table {path} (server.prices)") from error
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the price table {path} is no TOML: {error}") from error
    date, models = data.get("date"), data.get("models", {})
    if not isinstance(date, datetime.date) or not isinstance(models, dict):
        raise ConfigError(f'the price table {path} needs `date = YYYY-MM-DD` and tables [models."NAME"]')
    if model not in models:
        return None
    return _read(models[model], str(date), f"{path or 'prices.toml'}: models.{model}")


def _read(entry: Any, date: str, where: str) -> Prices:
    known = {"prompt", "cached", "completion", "source"}
    if not isinstance(entry, dict) or not {"prompt", "completion"} <= {*entry} <= known:
        raise ConfigError(f"{where} needs `prompt` and `completion`, and may have `cached` and `source`")
    amounts: dict[str, Any] = {key: entry.get(key, entry["prompt"]) for key in ("prompt", "completion", "cached")}
    for key, value in amounts.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ConfigError(f"{where}.{key} is dollars per million tokens, at least 0, not {value!r}")
    if amounts["cached"] > amounts["prompt"]:
        raise ConfigError(f"{where}.cached must not be above prompt")
    return Prices(
        **{key: float(value) for key, value in amounts.items()}, date=date, source=str(entry.get("source", ""))
    )
