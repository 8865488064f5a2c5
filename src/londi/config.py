"""An experiment: one frozen dataclass, TOML in and out. Unknown keys are refused with a suggestion.

The docstring under a field is its documentation and its `--help`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError

from londi.checks import TEST_SEEDS, check
from londi.errors import ConfigError, LondiError, did_you_mean
from londi.files import read_toml
from londi.prompt import PromptTemplate
from londi.usage import BudgetMeasure, Measure

SCHEMA = 1
LearnerName = Literal["budget", "price", "myopic", "router", "sac", "ppo"]


@dataclass(frozen=True)
class EnvConfig:
    """Which text environment."""

    id: str
    """Gymnasium id (`londi envs` lists them), or a bare BabyAI level such as `BabyAI-GoToLocal-v0`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, such as `max_steps`."""
    prompt: PromptTemplate = field(default_factory=PromptTemplate)
    """How the episode so far becomes a prompt."""
    selection: dict[str, Any] = field(default_factory=dict)
    """Options that replace these while budget and price are chosen, such as `split = "dev"`."""
    test: dict[str, Any] = field(default_factory=dict)
    """Options that replace these in the final measurement, such as `split = "test"`."""


@dataclass(frozen=True)
class LocalConfig:
    """How a Hugging Face model is loaded and run."""

    chat: Literal["auto", "always", "never"] = "auto"
    """Whether prompts go through the model's chat template; `auto` where it has one."""
    chat_template: dict[str, Any] = field(default_factory=dict)
    """Arguments of the chat template, such as `enable_thinking = false`."""
    device_map: str = ""
    """`auto` spreads a model over all devices (needs accelerate); `device` is not looked at then."""
    quantization: dict[str, Any] = field(default_factory=dict)
    """The model's `quantization_config`, such as `load_in_4bit = true` (bitsandbytes), or with a `quant_method`."""
    adapter: str = ""
    """PEFT adapter, a folder or hub id (needs peft)."""
    load: dict[str, Any] = field(default_factory=dict)
    """Other arguments of `from_pretrained`, such as `revision` or `attn_implementation`."""
    max_batch_tokens: int = 16_384
    """Tokens in one forward pass, padding included; lower where memory is short."""
    cache_mb: int = 512
    """Memory for what was read of earlier prompts, so that the next step of an episode reads only what is new; 0 for
    none. Prompts of less than 64 tokens are not kept."""


@dataclass(frozen=True)
class ServerConfig:
    """How to reach a model behind an OpenAI-compatible server."""

    base_url: str = "https://api.openai.com/v1"
    """Where it listens, up to and with `/v1`."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; none is sent where it is not set."""
    api: Literal["auto", "chat", "completions"] = "auto"
    """Which endpoint; `auto` takes chat where the server has it."""
    choose: Literal["auto", "logprobs", "guided", "generate"] = "auto"
    """How to choose among candidates: by the server's log-probabilities, by a JSON schema that permits nothing else,
    or by reading the reply; `auto` takes the first that the server offers."""
    request: dict[str, Any] = field(default_factory=dict)
    """Sent along with each request: `reasoning_effort`, `chat_template_kwargs`, `temperature` (default 0), `seed`. Not
    what londi sets itself or what would multiply the cost: the prompt, the length of the reply, `n`, `stream`, ..."""
    concurrency: int = 8
    """Requests at a time."""
    attempts: int = 3
    """Tries of a request that fails; the waits between them grow, with jitter, and follow `Retry-After`."""
    timeout: float = 60.0
    """Seconds until a try has failed, from connecting, which may take half of them, to the last byte of the answer."""
    prices: str = ""
    """TOML file with dollars per million tokens; empty for londi's own, dated one."""


@dataclass(frozen=True)
class ModelConfig:
    """Which language model, and how it decides."""

    model: str
    """`builtin:NAME`, a Hugging Face folder or hub id, `openai:NAME` (a model behind an OpenAI-compatible server), or
    `python:MODULE:NAME` (a script function, a LanguageModel, or a function that makes one)."""
    mode: Literal["auto", "score", "generate"] = "auto"
    """`score` candidates, `generate` a thought and the action, or `auto`: what the model asks for, else score. A server
    has `server.choose` instead."""
    max_new_tokens: int | None = None
    """Longest reply when generating; none for the model's own setting, else 64 (with a server 512)."""
    system: str = ""
    """System message of a chat model."""
    device: str = "cpu"
    """`cpu`, `cuda`, `cuda:1`, ..."""
    dtype: str = "auto"
    """`auto`, `float32`, `bfloat16` or `float16`."""
    max_batch: int = 64
    """Prompts in one forward pass."""
    local: LocalConfig = field(default_factory=LocalConfig)
    """More about a Hugging Face model."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """Where `openai:NAME` is served."""


@dataclass(frozen=True)
class SwitcherConfig:
    """What the Switcher sees and how large it is."""

    clauses: int = 20
    """Clauses of the prompt that it reads; the first line whole, then the latest."""
    ngrams: int = 36
    """Word n-grams of each clause."""
    buckets: int = 4096
    """Hash buckets for n-grams, at most 32767."""
    hidden: int = 32
    """Columns for QUICK's hidden state; 0 leaves it out."""
    reader: int = 32
    """Width of the reader of the text; 0 ignores the text."""
    width: int = 128
    """Hidden units of each layer."""
    quick: bool = True
    """Whether it sees QUICK's decision; false is the ablation, which then learns whether DEEPTHINK acts otherwise, and
    not what it does."""
    gated: bool = False
    """Whether a call can gain something only where DEEPTHINK is expected to act otherwise, which is learned from every
    call. True in the BabyAI and ScienceWorld experiments."""
    readers: int = 1
    """Readers with text, whose mean decides; two cost twice as much. `sac` and `ppo` have one."""
    textless: bool = True
    """Whether a gated network has another reader that sees no text, for tasks whose training shows few of them."""
    budget_input: Literal["vector", "scalar"] = "vector"
    """An output for every budget; or, as an ablation, the budget as one more number that goes in."""


@dataclass(frozen=True)
class TrainConfig:
    """How the Switcher is trained."""

    num_steps: int = 96_000
    """Environment steps, shared by all learners. More is better; 30,000 to 100,000 is typical for BabyAI-Text."""
    num_envs: int = 32
    """Episodes played in step."""
    updates_per_step: float = 0.3
    """Optimiser steps of each learner for each environment step. More learns more from the same episodes; 0.1 to 0.5
    is typical."""
    warmup_steps: int = 1_000
    """Environment steps before the first update."""
    learners: tuple[LearnerName, ...] = ("budget", "price")
    """`budget` learns every cap, `price` every price. Rivals that learn from the same episodes: `myopic` (prices, but
    only what a call gains in its own step), `router` (supervised: would DEEPTHINK act otherwise?), `sac` (at `price`).
    Without `budget` and `price`, `sac` plays for itself; so does `ppo` (at `price`), which learns alone."""
    on_policy: float = 0.5
    """Share of episodes in the second half of training that a learned Switcher plays (epsilon-greedy, under a random
    budget or price); all others call at a random rate p ~ U[0, 1] of their own."""
    guided: float = 0.0
    """Share of those random episodes whose calls gather where the Switcher expects the models to differ, for tasks in
    which a mistake can't be made good, so that random calls hardly ever succeed. .5 in the experiments with
    BabyAI and ScienceWorld."""
    epsilon: float = 0.15
    """Exploration in the episodes that a Switcher plays."""
    max_calls: int = 12
    """Largest finite budget N."""
    replay: int = 100_000
    """Environment steps kept."""
    gamma: float = 0.95
    """Discount in (0, 1]. At 1 a call now and a call later are worth the same and the Switcher puts it off; smaller
    makes it call sooner, and prices weigh more against late success. .95 for episodes of 10 steps, .99 for 50; the
    BabyAI experiments have 1 with `n_step = 3`."""
    n_step: int = 1
    """Steps of a transition before the value of the state that it leads to. With 1 it is exact for every budget and
    price; more carry rewards back faster, and take the steps after the first as they were played. Of `budget` and
    `price` alone."""
    lr: float = 1e-3
    """Peak learning rate, falling to 5 %."""
    batch_size: int = 128
    """Transitions an update."""
    text_dropout: float = 0.0
    """Share of the words and n-grams that are hidden from each update, in [0, 1), so that no text is known by heart.
    .3 in the BabyAI experiments, .6 in those of ScienceWorld, whose training shows few texts. `ppo` ignores it."""
    tau: float = 0.02
    """Rate at which the target network follows the learned one, and is their moving average."""
    call_price: float = 0.04
    """Price of a call inside the budget learner, in units of return: it leaves out calls that gain less, even with
    budget left. 0 spends whatever helps at all."""
    lowest_price: float = 0.003
    """Smallest price learned, in units of return."""
    highest_price: float = 1.0
    """Largest price learned."""
    price: float = 0.05
    """The one price of `sac` and `ppo`, in units of return."""
    budget: int | None = None
    """The one budget of all training episodes of `budget`, as LONDI-B of the paper has it (with `relabel = false`); by
    default each episode draws its own."""
    price_measure: Measure = "calls"
    """What prices are for: a call (the paper), or what the call took of another measure."""
    price_unit: float = 1.0
    """The amount of it that a price is for: with 1000 and `tokens`, a price is for 1,000 tokens. Choose it near what a
    call takes; then prices mean about what they do for calls."""
    relabel: bool = True
    """Learn every budget and price from each transition; false is the ablation, and with one price
    (`lowest_price = highest_price`) or one `budget` the learner of the paper."""
    checkpoint_steps: int = 10_000
    """Environment steps between checkpoints."""
    snapshots: int = 0
    """Policies to keep on the way, evenly spaced, the last at the end: evaluation then measures how fast it learned."""
    threads: int = 1
    """Torch threads; 1 is best for models this small."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What is measured. Selection and test seeds are disjoint, and disjoint from training's."""

    episodes: int = 500
    """Test episodes of each policy."""
    first_test_seed: int = TEST_SEEDS
    """Number of the first of them, from 50,000,000 on. Another leaves those aside that were looked at before; not in
    ScienceWorld, where it plays the same variations in another order."""
    selection_episodes: int = 1_000
    """Episodes on which budgets, prices, thresholds and rates are chosen. More choose closer to the limit, since the
    margin of one standard error shrinks."""
    selection_limit: int = 0
    """Most selection episodes of a setting. One that may be the cheapest of its family to keep 99 % of DEEPTHINK's
    success, and within two standard errors may not, plays `selection_episodes` more at a time up to this; 0: none."""
    snapshot_episodes: int = 100
    """Selection episodes of each policy of each snapshot (`train.snapshots`)."""
    budgets: tuple[float, ...] = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)
    """Budgets n to measure."""
    budget_measure: BudgetMeasure = "calls"
    """What budgets count. Tokens and dollars are as hard: a call is made only where the most it can cost fits."""
    prices: tuple[float, ...] = (0.006, 0.009, 0.012, 0.018, 0.025, 0.035, 0.05, 0.07, 0.1, 0.15, 0.25, 0.5)
    """Prices c to measure."""
    random_rates: tuple[float, ...] = (0.1, 0.2, 0.3, 0.45, 0.6, 0.8)
    """Random call rates to measure."""
    entropy_thresholds: tuple[float, ...] = (0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
    """Thresholds on QUICK's entropy (nats) to measure."""
    margins: tuple[float, ...] = ()
    """Margins between QUICK's two most probable actions, below which a rule calls, to measure as well."""
    every: tuple[int, ...] = ()
    """Periods of a rule that calls every so many steps, to measure as well."""
    first: tuple[int, ...] = ()
    """Numbers of steps at the beginning of an episode in which a rule calls, and then no more, to measure as well."""
    router_thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    """Probabilities of disagreement above which the `router` calls."""
    myopic_prices: tuple[float, ...] = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.25, 0.5)
    """Prices to measure of the `myopic` learner."""
    capped: bool = False
    """Measure the best price under each budget as well ("best price, then stop"): the price is chosen on the selection
    seeds."""
    rules: tuple[str, ...] = ()
    """Rules that read the text, to measure as well: `action REGEX` and `text REGEX` (call where QUICK's action or the
    observation matches), `refused` (after an action that was not understood), `seen 1` (in a text seen before),
    `stuck 5`, `swiftsage 5`."""
    num_envs: int = 64
    """Episodes played in step."""
    processes: int = 2
    """Worker processes; the result does not depend on it."""


@dataclass(frozen=True)
class Experiment:
    """One experiment: environment, two language models, Switcher, training, evaluation."""

    name: str
    """Names the run folder."""
    env: EnvConfig
    quick: ModelConfig
    deepthink: ModelConfig
    seed: int = 0
    """Seed of training."""
    switcher: SwitcherConfig = field(default_factory=SwitcherConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        check(self)


_PARTS: tuple[type, ...] = (
    *(PromptTemplate, EnvConfig, LocalConfig, ServerConfig, ModelConfig),
    *(SwitcherConfig, TrainConfig, EvaluateConfig, Experiment),
)
for _part in _PARTS:
    setattr(_part, "__pydantic_config__", ConfigDict(extra="forbid"))  # noqa: B010
_ADAPTER = TypeAdapter(Experiment)


def load(path: Path) -> Experiment:
    """Read an experiment from TOML; raises `ConfigError` with one line that names the fix."""
    try:
        data = read_toml(path)
    except FileNotFoundError as error:
        raise ConfigError(f"no file {path}") from error
    return parse(data, str(path))


def parse(data: dict[str, Any], source: str = "the experiment") -> Experiment:
    """Build an experiment from plain data; raises `ConfigError`."""
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_line(error)}") from error
    except LondiError as error:
        raise ConfigError(f"{source}: {error}") from error


def dump(experiment: Experiment) -> str:
    """Return the experiment as TOML, every setting resolved."""
    return tomli_w.dumps(plain(experiment))


def plain(experiment: Experiment) -> dict[str, Any]:
    """Return the experiment as plain types, every setting resolved, those that are None left out."""
    found: dict[str, Any] = _without_none(_ADAPTER.dump_python(experiment, mode="json"))
    return found


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key = ".".join(where)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"unknown key '{key}'{did_you_mean(where[-1], _fields(where[:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"'{key}' is missing"
    return f"'{key}': {first['msg']}, not {first['input']!r}"


def _fields(where: list[str]) -> list[str]:
    kinds: dict[str, type] = {
        "env": EnvConfig,
        "quick": ModelConfig,
        "deepthink": ModelConfig,
        "prompt": PromptTemplate,
    }
    kinds |= {"local": LocalConfig, "server": ServerConfig}
    kinds |= {"switcher": SwitcherConfig, "train": TrainConfig, "evaluate": EvaluateConfig}
    kind: Any = kinds.get(where[-1], Experiment) if where else Experiment
    return [f.name for f in dataclasses.fields(kind)]
