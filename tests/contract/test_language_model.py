"""What every language model promises, and the arithmetic of the Hugging Face ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from londi.bench.server import Script, ScriptedServer
from londi.config import ServerConfig
from londi.envs import make
from londi.errors import ConfigError, ModelError
from londi.lms.base import Decision, LanguageModel, closest_candidate, log_softmax
from londi.lms.builtin import NAMES, load_builtin
from londi.lms.cache import CachedLM
from londi.lms.flops import Architecture
from londi.lms.http import HTTPLM
from londi.lms.scripted import ScriptedLM
from londi.lms.transformers import TransformersLM
from londi.prompt import PromptTemplate
from londi.usage import Usage

WORDS = (
    *("<pad>", "<unk>", "</s>", "go", "to", "the", "red", "blue", "ball", "key", "turn", "left", "right", "forward"),
    *("pick", "up", "drop", "a", "obs", ":", "wall", "1", "2", "3"),
)
PAD, EOS = 0, 2
CONTEXT = 48
FAMILIES = ("llama", "gpt2", "t5")

CANDIDATES = ("turn left", "drop", "pick up the ball", "go forward", "turn right")
"""One to four tokens, two with the same first token."""
PROMPTS = (
    "go to the red ball obs : wall 2",
    "pick up",
    "obs : a blue key 1 left wall 3 forward turn right go to",
    "go to the blue key",
)


def network(family: str) -> Any:
    """A tiny model with large random weights, so that its probabilities are far from uniform."""
    torch.manual_seed(1)
    special = {"eos_token_id": EOS, "pad_token_id": PAD}
    if family == "llama":
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            initializer_range=0.2,
            bos_token_id=None,
            **special,
        )
        return LlamaForCausalLM(config).eval()
    if family == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "initializer_range": 0.2}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(WORDS), bos_token_id=EOS, **sizes, **special)).eval()
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=len(WORDS), decoder_start_token_id=PAD, tie_word_embeddings=False, **shape, **special)
    ).eval()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Ordinary Hugging Face folders of the three families."""
    made = {}
    for family in FAMILIES:
        folder = made[family] = tmp_path_factory.mktemp(family)
        network(family).save_pretrained(folder)
        tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
        tokenizer.pre_tokenizer = Whitespace()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
        ).save_pretrained(folder)
    return made


@cache
def babyai_prompts() -> tuple[str, ...]:
    """Prompts of different lengths that the built-in pair was made for."""
    env, template, prompts = make("londi/BabyAI-Mix-v0"), PromptTemplate(), []
    for seed in range(8):
        observation, info = env.reset(seed=seed)
        observations, actions = [observation], list[str]()
        for action in ("turn left", "go forward", "turn right", "go forward", "toggle")[: seed % 6]:
            actions.append(action)
            observations.append(env.step(action)[0])
        prompts.append(template.render(info["goal"], observations, actions))
    return tuple(prompts)


def script(prompt: str) -> Mapping[str, float]:
    scores = np.array([1.0 + (len(prompt) * (k + 3)) % 7 for k in range(len(CANDIDATES))])
    return dict(zip(CANDIDATES, (scores / scores.sum()).tolist(), strict=True))


Case = tuple[LanguageModel, tuple[str, ...], tuple[str, ...]]
CASES: dict[str, Callable[[dict[str, Path]], Case]] = {
    "scripted": lambda _: (ScriptedLM(script, seconds=0.5), PROMPTS, CANDIDATES),
    "keydoor": lambda _: (load_builtin("keydoor-quick"), *keydoor()),
    "builtin quick": lambda _: (load_builtin("babyai-quick"), babyai_prompts(), babyai_actions()),
    "builtin deepthink": lambda _: (load_builtin("babyai-deepthink"), babyai_prompts(), babyai_actions()),
    "cached": lambda _: (CachedLM(load_builtin("babyai-quick")), babyai_prompts(), babyai_actions()),
    "small cache": lambda _: (CachedLM(load_builtin("babyai-quick"), capacity=2), babyai_prompts(), babyai_actions()),
}
for _family in FAMILIES:
    CASES[f"{_family} score"] = lambda at, f=_family: (TransformersLM(str(at[f])), PROMPTS, CANDIDATES)  # type: ignore[misc]
    CASES[f"{_family} generate"] = lambda at, f=_family: (  # type: ignore[misc]
        TransformersLM(str(at[f]), mode="generate", max_new_tokens=6),
        PROMPTS,
        CANDIDATES,
    )


def served(**changes: Any) -> Case:
    """Behind a server; the prompts name the actions, so that the message does not depend on their order."""
    server = ScriptedServer(Script(**{key: changes.pop(key) for key in ("echo", "guided") if key in changes}))
    SERVERS.append(server.__enter__())
    names = " ".join(server.script.actions)
    prompts = tuple(f"{names} {prompt.replace(':', '')} act:" for prompt in PROMPTS)
    return HTTPLM("toy", ServerConfig(server.url, "", **changes)), prompts, server.script.actions


SERVERS: list[ScriptedServer] = []
CASES["server, echo"] = lambda _: served(api="completions")
CASES["server, token by token"] = lambda _: served(api="completions", echo=False)
CASES["server, guided"] = lambda _: served()
CASES["server, chat"] = lambda _: served(guided=False)
CASES["llama small batches"] = lambda at: (TransformersLM(str(at["llama"]), max_batch=3), PROMPTS, CANDIDATES)


def babyai_actions() -> tuple[str, ...]:
    from londi.envs.babyai import ACTIONS

    return ACTIONS


def keydoor() -> tuple[tuple[str, ...], tuple[str, ...]]:
    from londi.envs.keydoor import ACTIONS, STATES, describe

    return tuple(describe(state) for state in STATES[::20]), ACTIONS


@pytest.fixture(params=list(CASES), scope="module")
def case(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Case]:
    found = CASES[str(request.param)](folders)
    yield found
    if isinstance(found[0], HTTPLM):
        found[0].close()
        SERVERS.pop().__exit__(None, None, None)


def logprobs_close(one: Decision, other: Decision, order: list[int] | None = None) -> bool:
    if one.logprobs is None or other.logprobs is None:
        return one.logprobs is other.logprobs is None
    theirs = other.logprobs if order is None else tuple(other.logprobs[k] for k in order)
    return np.allclose(one.logprobs, theirs, rtol=0, atol=1e-4)


class TestContract:
    def test_it_is_a_language_model(self, case: Case) -> None:
        lm, _, _ = case
        assert isinstance(lm, LanguageModel)
        assert lm.name

    def test_a_batch_is_its_singles(self, case: Case) -> None:
        lm, prompts, candidates = case
        batch = lm.decide(prompts, candidates)
        assert len(batch) == len(prompts)
        for prompt, decision in zip(prompts, batch, strict=True):
            (single,) = lm.decide([prompt], candidates)
            assert decision.action == single.action
            assert decision.thought == single.thought
            assert logprobs_close(decision, single)
            for name in ("prompt_tokens", "completion_tokens", "flops"):
                assert getattr(decision.usage, name) == getattr(single.usage, name)
            assert (decision.hidden is None) == (single.hidden is None)
            if decision.hidden is not None and single.hidden is not None:
                np.testing.assert_allclose(decision.hidden, single.hidden, atol=1e-4)

    def test_the_order_of_a_batch_plays_no_part(self, case: Case) -> None:
        lm, prompts, candidates = case
        forth, back = lm.decide(prompts, candidates), lm.decide(prompts[::-1], candidates)[::-1]
        assert [d.action for d in forth] == [d.action for d in back]
        assert all(map(logprobs_close, forth, back))

    def test_it_decides_the_same_again(self, case: Case) -> None:
        lm, prompts, candidates = case
        one, two = lm.decide(prompts, candidates), lm.decide(prompts, candidates)
        assert [(d.action, d.thought) for d in one] == [(d.action, d.thought) for d in two]
        assert all(map(logprobs_close, one, two))

    def test_usage_is_positive_and_adds_up(self, case: Case) -> None:
        lm, prompts, candidates = case
        decisions = lm.decide(prompts, candidates)
        for prompt, decision in zip(prompts, decisions, strict=True):
            used = decision.usage
            remote = isinstance(lm, HTTPLM)
            assert 0 < used.prompt_tokens <= (4 if remote else 3) * (len(prompt.split()) + 8 * remote)
            assert used.completion_tokens > 0
            assert used.flops > 0 or remote
            assert used.seconds > 0
        total = sum((decision.usage for decision in decisions), Usage())
        assert total.flops == pytest.approx(sum(d.usage.flops for d in decisions))
        assert total.tokens == sum(d.usage.prompt_tokens + d.usage.completion_tokens for d in decisions)
        shortest = min(decisions, key=lambda d: d.usage.prompt_tokens).usage
        longest = max(decisions, key=lambda d: d.usage.prompt_tokens).usage
        assert longest.prompt_tokens > shortest.prompt_tokens

    def test_the_action_is_the_likeliest_candidate(self, case: Case) -> None:
        lm, prompts, candidates = case
        for decision in lm.decide(prompts, candidates):
            assert decision.action in candidates
            if decision.logprobs is not None:
                assert len(decision.logprobs) == len(candidates)
                assert sum(map(math.exp, decision.logprobs)) == pytest.approx(1, abs=1e-6)
                assert max(decision.logprobs) == decision.logprobs[candidates.index(decision.action)]

    def test_candidates_in_any_order(self, case: Case) -> None:
        lm, prompts, candidates = case
        order = [int(k) for k in np.random.default_rng(0).permutation(len(candidates))]
        shuffled = tuple(candidates[k] for k in order)
        back = [order.index(k) for k in range(len(candidates))]
        for one, other in zip(lm.decide(prompts, candidates), lm.decide(prompts, shuffled), strict=True):
            assert one.action == other.action
            assert logprobs_close(one, other, back)

    def test_nothing_asked(self, case: Case) -> None:
        lm, _, candidates = case
        assert lm.decide([], candidates) == []


# Scoring --------------------------------------------------------------------------------------------------------------


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


@torch.inference_mode()
def naive(family: str, model: Any, prompt: str, candidate: str) -> float:
    """Log-probability of a candidate, token by token, from full sequences without padding or cache."""
    total = 0.0
    if family == "t5":
        said = [PAD]
        for token in [*ids(candidate), EOS]:
            out = model(input_ids=torch.tensor([ids(prompt)]), decoder_input_ids=torch.tensor([said]))
            total += float(out.logits[0, -1].log_softmax(-1)[token])
            said.append(token)
        return total
    said = ids(prompt)
    for token in ids(candidate):
        logits = model(input_ids=torch.tensor([said]), use_cache=False).logits
        total += float(logits[0, -1].log_softmax(-1)[token])
        said.append(token)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_full_sequences(family: str, folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders[family]))
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, CANDIDATES), strict=True):
        expected = log_softmax(np.array([naive(family, lm.model, prompt, c) for c in CANDIDATES]))
        assert decision.logprobs is not None
        np.testing.assert_allclose(decision.logprobs, expected, atol=1e-4)
        assert decision.usage.prompt_tokens == len(prompt.split())


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_of_one_token(family: str, folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders[family]))
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, ("drop", "left", "up")), strict=True):
        expected = log_softmax(np.array([naive(family, lm.model, prompt, c) for c in ("drop", "left", "up")]))
        assert decision.logprobs is not None
        np.testing.assert_allclose(decision.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_candidate_that_begins_another_ends_where_it_ends(family: str, folders: dict[str, Path]) -> None:
    """Scored without an end it could never lose."""
    lm, candidates = TransformersLM(str(folders[family])), ("pick", "pick up", "pick up the key")
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, candidates), strict=True):
        expected = log_softmax(np.array([naive(family, lm.model, prompt, f"{c} </s>") for c in candidates]))
        assert decision.logprobs is not None
        np.testing.assert_allclose(decision.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_hidden_state_is_that_of_the_last_token(family: str, folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders[family]))
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, CANDIDATES), strict=True):
        with torch.inference_mode():
            states = lm.model(input_ids=torch.tensor([ids(prompt)]), output_hidden_states=True).hidden_states[-1]
        assert decision.hidden is not None
        np.testing.assert_allclose(decision.hidden, states[0, -1].numpy(), atol=1e-4)


def test_a_cost_grows_with_the_candidates(folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders["llama"]))
    few, many = (lm.decide(PROMPTS[:1], CANDIDATES[:k])[0].usage for k in (2, 5))
    assert many.flops > few.flops
    assert many.completion_tokens > few.completion_tokens


# Generating -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_free_text_is_greedy(family: str, folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders[family]), mode="generate", max_new_tokens=5)
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS), strict=True):
        read, said = ids(prompt), [PAD] if family == "t5" else []
        reply: list[int] = []
        while len(reply) < 5 and EOS not in reply:
            with torch.inference_mode():
                if family == "t5":
                    out = lm.model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([said + reply]))
                else:
                    out = lm.model(input_ids=torch.tensor([read + reply]))
            reply.append(int(out.logits[0, -1].argmax()))
        assert decision.action == " ".join(WORDS[token] for token in reply if token > EOS)
        assert decision.usage.completion_tokens == len(reply)
        assert decision.logprobs is None


def replying(lm: TransformersLM, text: str) -> None:
    """Make a model say `text`, whatever it is asked."""

    def generate(input_ids: Any, **_: Any) -> Any:
        said = torch.tensor([[*ids(text), EOS]]).expand(len(input_ids), -1)
        return torch.cat([input_ids, said], 1)

    lm.model.generate = generate


def test_a_reply_that_names_no_candidate_is_scored_and_both_are_charged(folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders["llama"]), mode="generate", max_new_tokens=8)
    scorer = TransformersLM(str(folders["llama"]), mode="score")
    reply = "the red key 3"
    replying(lm, reply)
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, CANDIDATES), strict=True):
        (scored,) = scorer.decide([prompt], CANDIDATES)
        assert decision.action == scored.action
        assert logprobs_close(decision, scored)
        written = len(reply.split()) + 1
        assert decision.usage.prompt_tokens == 2 * scored.usage.prompt_tokens
        assert decision.usage.completion_tokens == written + scored.usage.completion_tokens
        generated = lm.architecture.generating(len(prompt.split()), written)
        assert decision.usage.flops == pytest.approx(generated + scored.usage.flops)


def test_a_reply_with_a_thought(folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders["llama"]), mode="generate", max_new_tokens=8)
    replying(lm, "the ball 2 left go forward")
    for prompt, decision in zip(PROMPTS, lm.decide(PROMPTS, CANDIDATES), strict=True):
        assert decision.action == "go forward"
        assert decision.thought == "the ball 2 left"
        assert decision.logprobs is None
        assert decision.usage.prompt_tokens == len(prompt.split())
        assert decision.usage.completion_tokens == 7


def test_scoring_needs_candidates(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="generate"):
        TransformersLM(str(folders["llama"]), mode="score").decide(PROMPTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("turn left", "turn left"),
        ("  Turn Left. ", "turn left"),
        ("get red ball turn left", "turn left"),
        ("not turn left but turn right", "turn right"),
        ("left", None),
        ("", None),
    ],
)
def test_reading_a_reply(text: str, expected: str | None) -> None:
    assert closest_candidate(text, CANDIDATES) == expected


def test_reading_prefers_the_longer_of_two_that_end_alike() -> None:
    for order in (("go", "let go"), ("let go", "go")):
        assert closest_candidate("I let go", order) == "let go"


def test_no_action_is_read_within_a_word() -> None:
    assert closest_candidate("I think of the goal", ("go", "stop")) is None
    assert closest_candidate("go, as the goal says", ("go", "stop")) == "go"
    assert closest_candidate("Go North.", ("go north", "go northeast")) == "go north"
    assert closest_candidate("go northeast", ("go north", "go northeast")) == "go northeast"
    assert closest_candidate("I say stop.", ("go.", "stop.")) == "stop."
    assert closest_candidate("我向左走", ("向左", "向右")) == "向左", "where words stand without spaces"
    assert closest_candidate("À GAUCHE", ("à gauche", "à droite")) == "à gauche"


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("mode", ["score", "generate"])
def test_a_prompt_longer_than_the_context(family: str, mode: Any, folders: dict[str, Path]) -> None:
    lm = TransformersLM(str(folders[family]), mode=mode, max_new_tokens=4)
    fits = " ".join(["wall"] * (CONTEXT - 4))
    assert lm.decide([fits], CANDIDATES)[0].action in CANDIDATES
    with pytest.raises(ModelError, match=rf"{CONTEXT + 1} tokens.* \({CONTEXT}\)"):
        lm.decide([PROMPTS[0], f"{fits} wall"], CANDIDATES)


def test_a_missing_folder(tmp_path: Path, folders: dict[str, Path]) -> None:
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(ModelError) as error:
            TransformersLM(str(missing))
        assert str(missing) in str(error.value)
    with pytest.raises(ModelError, match=r"\./models/mine"):
        TransformersLM("./models/mine")


def test_a_broken_folder(tmp_path: Path, folders: dict[str, Path]) -> None:
    (tmp_path / "config.json").write_text((folders["llama"] / "config.json").read_text())
    with pytest.raises(ModelError, match="can't load"):
        TransformersLM(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="can't load"):
        TransformersLM(str(tmp_path))


def test_an_unknown_dtype(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="float8"):
        TransformersLM(str(folders["llama"]), dtype="float8")


def test_a_candidate_without_tokens(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="no tokens for ' '"):
        TransformersLM(str(folders["llama"])).decide(PROMPTS, ("drop", " "))


def test_unknown_builtin() -> None:
    with pytest.raises(ModelError, match="did you mean 'babyai-quick'"):
        load_builtin("babyai-quik")
    assert all(load_builtin(name).name == name for name in NAMES)


def test_a_script_that_answers_outside_the_candidates() -> None:
    with pytest.raises(ModelError, match="sing"):
        ScriptedLM(lambda _: "sing").decide(["p"], CANDIDATES)


def test_a_scripted_reply_without_candidates() -> None:
    (decision,) = ScriptedLM(lambda _: "sing a song", flops_per_token=2.0, seconds=0.5).decide(["two words"])
    assert decision == Decision("sing a song", Usage(2, 0, 3, 10.0, 0.5))


# The cache ------------------------------------------------------------------------------------------------------------


def counting() -> tuple[CachedLM, list[str]]:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "drop" if "x" in prompt else "turn left"

    return CachedLM(ScriptedLM(answer), capacity=3), asked


def test_the_cache_asks_once() -> None:
    lm, asked = counting()
    first = lm.decide(["a", "x", "a"], CANDIDATES)
    assert [d.action for d in first] == ["turn left", "drop", "turn left"]
    assert asked == ["a", "x"]
    assert lm.decide(["x", "a"], CANDIDATES) == [first[1], first[0]], "a remembered decision bears its full usage"
    assert asked == ["a", "x"]
    assert (lm.hits, lm.misses) == (3, 2)


def test_the_cache_tells_candidates_apart() -> None:
    lm, asked = counting()
    assert lm.decide(["a"], CANDIDATES)[0].logprobs is not None
    assert lm.decide(["a"])[0].logprobs is None
    assert len(asked) == 2


def test_the_cache_forgets_the_oldest() -> None:
    lm, asked = counting()
    for prompt in "abcd":
        lm.decide([prompt], CANDIDATES)
    lm.decide(["b", "c", "d"], CANDIDATES)
    assert asked == list("abcd")
    lm.decide(["a"], CANDIDATES)
    assert asked == list("abcda")


def test_a_batch_larger_than_the_cache() -> None:
    lm, _ = counting()
    decisions = lm.decide(list("abxdefg"), CANDIDATES)
    assert [d.action for d in decisions] == ["turn left"] * 2 + ["drop"] + ["turn left"] * 4


# FLOPs ----------------------------------------------------------------------------------------------------------------


def eager(family: str, folders: dict[str, Path], **options: Any) -> TransformersLM:
    """torch counts no FLOPs in its fused CPU attention, so attention is written out."""
    lm = TransformersLM(str(folders[family]), **options)
    lm.model.set_attn_implementation("eager")
    return lm


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_candidates", [1, 5])
def test_flops_of_scoring(family: str, num_candidates: int, folders: dict[str, Path]) -> None:
    lm = eager(family, folders)
    for prompt in PROMPTS:
        with FlopCounterMode(display=False) as counter:
            (decision,) = lm.decide([prompt], CANDIDATES[:num_candidates])
        assert decision.usage.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_of_generating(family: str, folders: dict[str, Path]) -> None:
    lm = eager(family, folders, mode="generate", max_new_tokens=6)
    for prompt in PROMPTS:
        with FlopCounterMode(display=False) as counter:
            (decision,) = lm.decide([prompt])
        assert decision.usage.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [3, 40])
def test_flops_of_one_forward_pass(family: str, tokens: int, folders: dict[str, Path]) -> None:
    """A prompt and one answer token is one pass, with one distribution read."""
    model = eager(family, folders).model
    read = torch.full((1, tokens), 5)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        if family == "t5":
            model(input_ids=read, decoder_input_ids=read[:, :1])
        else:
            model(input_ids=read, logits_to_keep=1)
    assert Architecture.of(model).generating(tokens, 1) == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_flops_of_the_builtin_pair() -> None:
    """DEEPTHINK costs many times what QUICK costs, or switching would be pointless."""
    quick, deepthink = (load_builtin(f"babyai-{name}") for name in ("quick", "deepthink"))
    prompts, actions = babyai_prompts(), babyai_actions()
    costs = [sum(d.usage.flops for d in lm.decide(prompts, actions)) for lm in (quick, deepthink)]
    assert costs[1] > 10 * costs[0]
