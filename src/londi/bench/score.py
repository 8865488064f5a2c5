"""`londi bench score`: scoring candidates, against full sequences and against what the arithmetic alone would take.

Random weights in the sizes of models that people use: what is timed does not depend on the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from londi.bench.base import result, row
from londi.encoders import Moment, TextEncoder
from londi.lms.base import Decision, LanguageModel
from londi.lms.builtin import load_builtin
from londi.lms.flops import Architecture
from londi.lms.prefix import PrefixStore
from londi.lms.scoring import CausalScorer, FullScorer, Seq2SeqScorer, pad
from londi.lms.tree import PrefixTree
from londi.switchers import Query
from londi.switchers.network import NETWORKS, NetworkSwitcher
from londi.switchers.reader import NetworkShape
from londi.usage import Usage

Rows = list[list[int]]
Progress = Callable[[str], None]
PROMPT, CANDIDATES, STEPS, ADDED = 200, 8, 10, 20
"""Tokens of a prompt, candidates (of 1 to 5 tokens), steps of an episode, tokens that each step adds."""
VOCABULARY = 30_000


@dataclass(frozen=True)
class Sizes:
    """What is measured; tests take less."""

    batches: tuple[int, ...] = (1, 16)
    rounds: int = 2
    layers: int = 0
    """0 for all layers of the models."""


def causal(device: str, layers: int = 0) -> tuple[str, Any]:
    """A Llama of SmolLM2-135M's sizes; on a GPU a Qwen2 of Qwen2.5-0.5B's, in bfloat16."""
    if device == "cpu":
        sizes: dict[str, Any] = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
        sizes |= {"num_hidden_layers": layers or 30, "num_key_value_heads": 3, "vocab_size": 49_152}
        config: Any = transformers.LlamaConfig(**sizes, tie_word_embeddings=True, max_position_embeddings=2048)
        return "Llama 135M", transformers.LlamaForCausalLM(config).eval()
    sizes = {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_key_value_heads": 2}
    sizes |= {"num_hidden_layers": layers or 24, "vocab_size": 151_936}
    config = transformers.Qwen2Config(**sizes, tie_word_embeddings=True, max_position_embeddings=2048)
    return "Qwen2 0.5B, bfloat16", transformers.Qwen2ForCausalLM(config).to(device, torch.bfloat16).eval()


def t5(device: str, layers: int = 0) -> Any:
    """A T5 of Flan-T5-small's sizes."""
    sizes: dict[str, Any] = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": layers or 8}
    config = transformers.T5Config(
        vocab_size=32_128, feed_forward_proj="gated-gelu", decoder_start_token_id=0, tie_word_embeddings=False, **sizes
    )
    return transformers.T5ForConditionalGeneration(config).to(device).eval()


@torch.inference_mode()
def bench_score(
    device: str = "cpu", seed: int = 0, sizes: Sizes | None = None, progress: Progress = lambda case: None
) -> dict[str, Any]:
    """Measure everything; both sides of each row take turns, and medians of the rounds are compared."""
    sizes, rng = sizes or Sizes(), np.random.default_rng(seed)
    torch.manual_seed(seed)
    answers = [rng.integers(5, VOCABULARY, size=1 + k % 5).tolist() for k in range(CANDIDATES)]
    rows = []
    name, model = causal(device, sizes.layers)
    for batch in sizes.batches:
        progress(f"{name}, B = {batch}")
        rows += _causal(f"{name}, B = {batch}", model, _prompts(rng, batch), answers, sizes.rounds)
    for batch in sizes.batches:
        progress(f"{name}, {STEPS}-step episodes, B = {batch}")
        rows.append(_episode(f"{name}, {STEPS} steps, B = {batch}", model, rng, batch, answers, sizes.rounds))
    network = t5(device, sizes.layers)
    for batch in sizes.batches:
        progress(f"T5 small, B = {batch}")
        rows.append(_seq2seq(f"T5 small, B = {batch}", network, _prompts(rng, batch), answers, sizes.rounds))
    for batch in (1, 32):
        progress(f"Switcher and encoder, B = {batch}")
        rows.append(_overhead(name, _quick(model, answers), int(model.config.hidden_size), batch, sizes.rounds))
        rows.append(_builtin_overhead(batch, sizes.rounds, device))
    return result("score", rows)


def _prompts(rng: np.random.Generator, batch: int, length: int = PROMPT) -> Rows:
    return [rng.integers(5, VOCABULARY, size=length).tolist() for _ in range(batch)]


def _seconds(device: torch.device, *sides: Callable[[], object], rounds: int) -> list[float]:
    """Median seconds of each side; they take turns, after one round that is not counted."""
    taken: list[list[float]] = [[] for _ in sides]
    for i in range(rounds + 1):
        for side, times in zip(sides, taken, strict=True):
            begun = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if i or rounds == 1:
                times.append(time.perf_counter() - begun)
    return [median(times) for times in taken]


def _peak(model: Any, size: int = 1536) -> Callable[[], object]:
    """A matrix product, of which the machine can do no more: 2 size³ FLOPs."""
    one = torch.randn(size, size, device=model.device, dtype=model.dtype)
    return lambda: one @ one


def _causal(case: str, model: Any, prompts: Rows, answers: Rows, rounds: int) -> list[dict[str, Any]]:
    tree, fast, full = PrefixTree.of(answers), CausalScorer(model), FullScorer(model)
    ours, naive, product = _seconds(
        model.device,
        lambda: fast.score(prompts, tree),
        lambda: full.score(prompts, answers),
        _peak(model),
        rounds=rounds,
    )
    rate = 2 * 1536**3 / product
    flops = len(prompts) * Architecture.of(model).scoring(PROMPT, len(answers), len(tree))
    floor = row(f"{case}: against the floor", ours, flops / rate, "seconds", smaller_is_better=True)
    return [
        row(f"{case}: against full sequences", ours, naive, "seconds", smaller_is_better=True),
        floor | {"flops": flops, "peak_flops_per_second": rate},
    ]


def _episode(case: str, model: Any, rng: np.random.Generator, batch: int, answers: Rows, rounds: int) -> dict[str, Any]:
    """Ten prompts, each of which continues the one before; with and without what was read kept."""
    fast, tree = CausalScorer(model), PrefixTree.of(answers)
    steps = [_prompts(rng, batch)]
    for _ in range(STEPS - 1):
        more = _prompts(rng, batch, ADDED)
        steps.append([[*ids, *new] for ids, new in zip(steps[-1], more, strict=True)])

    def play(keep: bool) -> None:
        store = PrefixStore(2**33) if keep else None
        for prompts in steps:
            fast.score(prompts, tree, [store.find(ids) for ids in prompts] if store else (), store)

    ours, anew = _seconds(model.device, lambda: play(True), lambda: play(False), rounds=max(1, rounds - 1))
    return row(f"{case}: prefixes reused, against read anew", ours, anew, "seconds", smaller_is_better=True)


def _seq2seq(case: str, model: Any, prompts: Rows, answers: Rows, rounds: int) -> dict[str, Any]:
    fast = Seq2SeqScorer(model)

    def full() -> object:
        rows = [prompt for prompt in prompts for _ in answers]
        ids, mask = pad(rows, model.device, left=False)
        targets, _ = pad([[*answer, fast.end] for answer in answers] * len(prompts), model.device, left=False)
        shown = torch.cat([torch.zeros_like(targets[:, :1]), targets[:, :-1]], 1)
        out = model(input_ids=ids, attention_mask=mask, decoder_input_ids=shown, use_cache=False)
        return out.logits.float().log_softmax(-1).gather(2, targets[..., None])

    ours, naive = _seconds(model.device, lambda: fast.score(prompts, answers), full, rounds=rounds)
    return row(f"{case}: against full sequences", ours, naive, "seconds", smaller_is_better=True)


def _quick(model: Any, answers: Rows) -> Callable[[int], object]:
    tree, fast = PrefixTree.of(answers), CausalScorer(model)
    rng = np.random.default_rng(0)
    rows = {batch: _prompts(rng, batch) for batch in (1, 32)}
    return lambda batch: fast.score(rows[batch], tree)


def _overhead(name: str, quick: Callable[[int], object], width: int, batch: int, rounds: int) -> dict[str, Any]:
    """What the Switcher adds to a decision of QUICK: encoding the state, and choosing."""
    words = [f"word{i}" for i in range(40)]
    rng = np.random.default_rng(0)
    prompts = [". ".join(" ".join(rng.choice(words, 8)) for _ in range(20)) for _ in range(batch)]
    logprobs = tuple(np.log(np.full(CANDIDATES, 1 / CANDIDATES)).tolist())
    hidden = rng.standard_normal(width).astype(np.float32)
    decisions = [Decision(words[0], Usage(PROMPT), logprobs, "", hidden)] * batch
    choose = _choosing(prompts, decisions, tuple(words[:CANDIDATES]))
    ours, model = _seconds(torch.device("cpu"), choose, lambda: quick(batch), rounds=rounds)
    return _share(f"Switcher and encoder, {name} as QUICK, B = {batch}", ours / batch, model / batch)


def _builtin_overhead(batch: int, rounds: int, device: str) -> dict[str, Any]:
    from londi import envs
    from londi.prompt import PromptTemplate

    env = envs.make("londi/BabyAI-GoToPickUp-v0")
    prompts = []
    for seed in range(batch):
        observation, info = env.reset(seed=seed)
        prompts.append(PromptTemplate().render(info["goal"], [observation], []))
    quick: LanguageModel = load_builtin("babyai-quick", device=device)
    actions = env.admissible
    choose = _choosing(prompts, quick.decide(prompts, actions), actions)
    many = 20 * rounds
    ours, model = _seconds(torch.device("cpu"), choose, lambda: quick.decide(prompts, actions), rounds=many)
    return _share(f"Switcher and encoder, built-in QUICK, B = {batch}", ours / batch, model / batch)


def _choosing(
    prompts: Sequence[str], decisions: Sequence[Decision], actions: tuple[str, ...] | None
) -> Callable[[], object]:
    """What an agent does between QUICK and DEEPTHINK; texts are new each time, as in an episode."""
    shape = NetworkShape(TextEncoder().num_dense(len(actions or ())), 4096)
    switcher = NetworkSwitcher(NETWORKS["budget"](shape))
    moment = Moment(3, 20, ("go",) * 3, 0, 0, False, 0, 0, 0)
    batch = len(prompts)

    def choose() -> object:
        features = TextEncoder().encode(prompts, decisions, [moment] * batch, actions)
        return switcher.choose(Query(features, np.full(batch, 3.0), np.zeros(batch), np.full(batch, 0.5)))

    return choose


def _share(case: str, ours: float, model: float) -> dict[str, Any]:
    return row(case, ours, model, "seconds a decision", smaller_is_better=True) | {"share": ours / model}
