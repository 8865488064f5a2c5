"""londi: learn when to call the large language model, under hard budgets (LONDI, arXiv 2402.12061).

Importing this loads no torch, no transformers and no extra; what needs them imports them when used.
"""

from londi.agent import Agent, History
from londi.budget import Budget, Reservation
from londi.config import Experiment
from londi.encoders import Encoder, Features, Moment, TextEncoder
from londi.envs import TextEnv
from londi.episode import Episode, Reply, Step
from londi.errors import LondiError
from londi.lms import Decision, LanguageModel, ScriptedLM
from londi.prompt import PromptTemplate
from londi.rollout import Assignment, rollout
from londi.switchers import (
    Always,
    Choice,
    EntropyThreshold,
    EveryStep,
    FirstSteps,
    MarginThreshold,
    Never,
    Query,
    RandomRate,
    Switcher,
)
from londi.usage import Usage

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Always",
    "Assignment",
    "Budget",
    "Choice",
    "Decision",
    "Encoder",
    "EntropyThreshold",
    "Episode",
    "EveryStep",
    "Experiment",
    "Features",
    "FirstSteps",
    "History",
    "LanguageModel",
    "LondiError",
    "MarginThreshold",
    "Moment",
    "Never",
    "PromptTemplate",
    "Query",
    "RandomRate",
    "Reply",
    "Reservation",
    "ScriptedLM",
    "Step",
    "Switcher",
    "TextEncoder",
    "TextEnv",
    "Usage",
    "rollout",
]
