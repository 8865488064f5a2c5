"""Models that come with londi: pairs for BabyAI-Text and ScienceWorld, and scripted models for the key-door room.

The pairs for BabyAI-Text and ScienceWorld are stock Hugging Face folders in this package (`londi lm train` makes them
again from nothing), loaded like any other model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from londi.errors import ModelError, did_you_mean
from londi.lms.base import LanguageModel
from londi.lms.scripted import ScriptedLM

PAIRS = Path(__file__).parent / "pairs"
FOLDERS = {
    f"{world}-{role}": PAIRS / world / role for world in ("babyai", "scienceworld") for role in ("quick", "deepthink")
}
NAMES = (*FOLDERS, "keydoor-quick", "keydoor-deepthink")


def load_builtin(name: str, **options: Any) -> LanguageModel:
    """Load a built-in model by name; raises `ModelError` for an unknown one."""
    if name in FOLDERS:
        from londi.lms.transformers import TransformersLM

        return TransformersLM(str(FOLDERS[name]), name=name, **options)
    if name == "keydoor-quick":
        from londi.envs.keydoor import quick_policy

        return ScriptedLM(quick_policy, name, flops_per_token=1e6, seconds=1e-3)
    if name == "keydoor-deepthink":
        from londi.envs.keydoor import deepthink_policy

        return ScriptedLM(deepthink_policy, name, flops_per_token=1e8, seconds=1e-2)
    raise ModelError(f"no built-in model '{name}'{did_you_mean(name, NAMES)} (there are {', '.join(NAMES)})")
