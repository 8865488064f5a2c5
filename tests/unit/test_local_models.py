"""Hugging Face folders as users have them: chat templates, special tokens, short contexts, adapters, shared weights."""

from __future__ import annotations

import itertools
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import peft
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from londi import lms
from londi.config import LocalConfig, ModelConfig
from londi.errors import ConfigError, MissingExtraError, ModelError
from londi.lms import loading
from londi.lms.base import Decision, split_thought
from londi.lms.flops import Architecture
from londi.lms.prefix import SHORTEST
from londi.lms.scoring import CausalScorer, scorer
from londi.lms.tokens import Tokens
from londi.lms.transformers import TransformersLM
from londi.prompt import Prompt, PromptTemplate

WORDS = (
    *("<pad>", "<unk>", "<s>", "</s>", "user", "system", "assistant", "end", "goal", "last", "none", "obs", "act"),
    *("think", ":", "go", "left", "right", "wall", "ball", "red", ",", *map(str, range(99))),
)
CHAT = (
    "<s>{% for m in messages %}{{ m.role }} : {{ m.content }} end {% endfor %}"
    "{% if think is defined %}think {{ think }} {% endif %}{% if add_generation_prompt %}assistant : {% endif %}"
)
CANDIDATES = ("go left", "go right", "left")


def tokenizer(chat: bool = False, bos: bool = False) -> Any:
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["<pad>", "<s>", "</s>"])
    if bos:
        made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", WORDS.index("<s>"))])
    found = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", bos_token="<s>"
    )
    if chat:
        found.chat_template = CHAT
    return found


def close(one: Decision, other: Decision) -> bool:
    assert one.logprobs is not None
    assert other.logprobs is not None
    return np.allclose(one.logprobs, other.logprobs, atol=1e-4)


def read(ids: list[int]) -> str:
    return " ".join(WORDS[i] for i in ids)


def folder(where: Path, context: int = 128, **options: Any) -> str:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(where)
    tokenizer(**options).save_pretrained(where)
    return str(where)


# Tokens ---------------------------------------------------------------------------------------------------------------


def test_a_prompt_gets_its_special_tokens_once() -> None:
    assert read(Tokens(tokenizer(), "m").prompts(["go left"], 0)[0]) == "go left"
    assert read(Tokens(tokenizer(bos=True), "m").prompts(["go left"], 0)[0]) == "<s> go left"
    chat = Tokens(tokenizer(chat=True, bos=True), "m")
    assert read(chat.prompts(["go left"], 0)[0]) == "<s> user : go left end assistant :"


def test_a_chat_template_is_used_as_told() -> None:
    never = Tokens(tokenizer(chat=True), "m", chat="never")
    assert read(never.prompts(["go left"], 0)[0]) == "go left"
    told = Tokens(tokenizer(chat=True), "m", system="obs", template={"think": "none"})
    assert read(told.prompts(["go"], 0)[0]) == "<s> system : obs end user : go end think none assistant :"
    with pytest.raises(ConfigError, match="no chat template"):
        Tokens(tokenizer(), "m", chat="always")
    with pytest.raises(ConfigError, match=r"env\.prompt\.instructions"):
        Tokens(tokenizer(), "m", system="obs")


def test_candidates_follow_the_prompt_without_special_tokens() -> None:
    for made in (tokenizer(), tokenizer(bos=True), tokenizer(chat=True, bos=True)):
        assert [read(ids) for ids in Tokens(made, "m").candidates(CANDIDATES, 3)] == list(CANDIDATES)
    assert read(Tokens(tokenizer(), "m").candidates(("go", "go left"), 3)[0]) == "go </s>"


class Marking:
    """A tokenizer that marks the first word of a text, as those of Llama 2 do."""

    def __call__(self, text: Any, add_special_tokens: bool = True) -> Any:
        words = enumerate(text.replace(":", ": ").split())
        return SimpleNamespace(input_ids=[hash(word) if i else -hash(word) for i, word in words])


def test_candidates_are_split_as_they_are_after_a_prompt() -> None:
    assert Tokens(Marking(), "m").candidates(("go left",), 0) == [[hash("go"), hash("left")]]


def long_prompt(turns: int = 6) -> Prompt:
    template = PromptTemplate(layout="transcript")
    return template.render("ball", [f"wall {i}" for i in range(turns)], ["go left"] * (turns - 1))


def test_what_is_too_long_loses_its_oldest_observations_and_says_so_once() -> None:
    whole = read(Tokens(tokenizer(), "m").prompts([long_prompt()], 0)[0])
    tokens = Tokens(tokenizer(), "m", context=len(whole.split()) - 1 + 4)
    with pytest.warns(UserWarning, match="oldest observations \\(here 1\\)"):
        (ids,) = tokens.prompts([long_prompt()], 4)
    assert read(ids) == whole.replace("obs : wall 0 act : go left ", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokens.prompts([long_prompt()], 4) == [ids]
    last = Tokens(tokenizer(), "m", context=10)
    with pytest.warns(UserWarning, match="here 5"):
        assert read(last.prompts([long_prompt()], 0)[0]) == "goal : ball obs : wall 5 act :"


def test_what_can_not_be_shortened_is_refused() -> None:
    for prompt in (str(long_prompt()), long_prompt(1)):
        with pytest.raises(ModelError, match="show fewer observations"):
            Tokens(tokenizer(), "m", context=8).prompts([prompt], 0)


def test_a_thought_is_split_off() -> None:
    assert split_thought("go left") == ("", "go left")
    assert split_thought("<think>\nthe ball\n</think>\n\ngo left") == ("the ball", "go left")
    assert split_thought("<think> I could go left, or") == ("I could go left, or", ""), "cut off"
    assert split_thought("the ball </think>go left") == ("the ball", "go left")


# Models ---------------------------------------------------------------------------------------------------------------


def test_a_transcript_is_read_once(tmp_path: Path) -> None:
    """Each step reads what is new, decides as if it had read all, and is charged for what it read."""
    where = folder(tmp_path, context=1024, chat=True)
    keeps, forgets = TransformersLM(where), TransformersLM(where, local=LocalConfig(cache_mb=0))
    template = PromptTemplate(layout="transcript", instructions="go " * SHORTEST)
    observations, actions, cached = ["wall 0"], list[str](), []
    for step in range(1, 6):
        prompt = template.render("red ball", observations, actions)
        (kept,), (new,) = (lm.decide([prompt], CANDIDATES) for lm in (keeps, forgets))
        assert close(kept, new)
        assert (kept.action, kept.usage.prompt_tokens) == (new.action, new.usage.prompt_tokens)
        cached.append(kept.usage.cached_tokens)
        assert (kept.usage.flops < 0.5 * new.usage.flops) == (step > 1)
        actions.append("go left")
        observations.append(f"wall {step}")
    assert cached[0] == 0
    assert all(after > before for before, after in itertools.pairwise(cached))


def test_flops_count_what_is_read_and_no_more(tmp_path: Path) -> None:
    """Against torch's own counter, the second step of an episode included."""
    lm = TransformersLM(folder(tmp_path, context=1024), local=LocalConfig(load={"attn_implementation": "eager"}))
    template = PromptTemplate(layout="transcript", instructions="go " * 2 * SHORTEST)
    for step in range(3):
        prompt = template.render("ball", [f"wall {i}" for i in range(step + 1)], ["go left"] * step)
        with FlopCounterMode(display=False) as counter:
            (decision,) = lm.decide([prompt], CANDIDATES)
        assert (decision.usage.cached_tokens > 2 * SHORTEST) == (step > 0)
        assert decision.usage.flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_batches_keep_to_their_limit_of_tokens(tmp_path: Path) -> None:
    lm = TransformersLM(folder(tmp_path), local=LocalConfig(max_batch_tokens=64))
    prompts = ["wall " * n for n in (30, 1, 30, 2, 3, 30, 1)]
    sizes: list[tuple[int, int]] = []
    score = lm.scorer.score

    def watched(rows: Any, *rest: Any) -> Any:
        sizes.append((len(rows), max(map(len, rows))))
        return score(rows, *rest)

    lm.scorer.score = watched  # type: ignore[method-assign, assignment]
    together = lm.decide(prompts, CANDIDATES)
    assert sorted(sizes) == [(1, 30), (2, 30), (4, 3)] or sorted(sizes) == [(1, 30), (1, 30), (1, 30), (4, 3)]
    for prompt, decision in zip(prompts, together, strict=True):
        assert close(decision, lm.decide([prompt], CANDIDATES)[0])


@pytest.mark.parametrize("mode", ["score", "generate"])
def test_no_decision_uses_more_tokens_than_its_worst_case(mode: Any, tmp_path: Path) -> None:
    lm = TransformersLM(folder(tmp_path), mode=mode, max_new_tokens=5)
    prompts = ["wall", "red ball go left", "obs : wall " * 5]
    for candidates in (CANDIDATES, *([None] if mode == "generate" else [])):
        most = lm.worst_case(prompts, candidates)
        for decision, case in zip(lm.decide(prompts, candidates), most, strict=True):
            assert decision.usage.prompt_tokens <= case.prompt_tokens
            assert decision.usage.completion_tokens <= case.completion_tokens
            if mode == "score":
                assert decision.usage.tokens == case.tokens, "known beforehand"


@pytest.mark.filterwarnings("ignore:prompts longer than the context")
def test_a_shortened_prompt_keeps_to_its_worst_case(tmp_path: Path) -> None:
    """A reply that names no candidate is followed by scoring after the same, shortened prompt, not a longer one."""
    lm = TransformersLM(folder(tmp_path, context=64), mode="generate", max_new_tokens=32)
    prompt = PromptTemplate(layout="transcript").render("ball", ["wall"] * 12, ["go left"] * 11)
    (case,), (decision,) = lm.worst_case([prompt], CANDIDATES), lm.decide([prompt], CANDIDATES)
    assert decision.logprobs is not None, "it was repaired"
    assert decision.usage.prompt_tokens == case.prompt_tokens <= 2 * 32
    assert decision.usage.tokens <= case.tokens


def test_one_model_at_two_efforts_is_loaded_once(tmp_path: Path) -> None:
    where = folder(tmp_path, chat=True)
    quick = ModelConfig(where, mode="score", local=LocalConfig(chat_template={"think": "none"}))
    deepthink = ModelConfig(where, mode="generate", local=LocalConfig(chat_template={"think": "act"}))
    one, other = lms.load_pair(quick, deepthink)
    assert isinstance(one, TransformersLM)
    assert isinstance(other, TransformersLM)
    assert one.model is other.model
    assert (one.mode, other.mode) == ("score", "generate")
    assert "think none" in read(one.tokens.prompts(["go"], 0)[0])
    assert "think act" in read(other.tokens.prompts(["go"], 0)[0])
    wider, _ = lms.load_pair(ModelConfig(where, dtype="bfloat16"), quick)
    assert isinstance(wider, TransformersLM)
    assert wider.model is not one.model


def test_a_device_map_and_other_arguments_reach_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = folder(tmp_path)
    lm = TransformersLM(where, local=LocalConfig(device_map="cpu", load={"attn_implementation": "eager"}))
    assert lm.model.config._attn_implementation == "eager"
    assert lm.decide(["wall"], CANDIDATES)[0].action in CANDIDATES
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr("londi.lms.loading.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"londi\[accelerate\]"):
        TransformersLM(where, local=LocalConfig(device_map="auto"))


def is_inner(layer: torch.nn.Module) -> bool:
    return isinstance(layer, torch.nn.Linear) and layer.out_features != len(WORDS)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks transformers for it
def test_an_adapter_changes_the_model(tmp_path: Path) -> None:
    where = folder(tmp_path / "model")
    plain = TransformersLM(where)
    adapted = peft.get_peft_model(
        LlamaForCausalLM.from_pretrained(where), peft.LoraConfig(r=2, target_modules="all-linear")
    )
    for name, weight in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    lm = TransformersLM(where, local=LocalConfig(adapter=str(tmp_path / "adapter")))
    inputs = torch.tensor([[15, 16, 17]])
    with torch.inference_mode():
        expected = adapted.eval()(input_ids=inputs).logits
        np.testing.assert_allclose(lm.model(input_ids=inputs).logits, expected, rtol=1e-3, atol=1e-3)
    one, other = (model.decide(["wall"], CANDIDATES)[0] for model in (plain, lm))
    assert not close(one, other)
    assert lm.architecture == plain.architecture
    network = LlamaForCausalLM.from_pretrained(where).eval()
    network.is_quantized = True  # then an adapter can't be merged, and stays beside the weights
    beside = loading._adapted(network, str(tmp_path / "adapter"))
    assert isinstance(scorer(beside), CausalScorer)
    with torch.inference_mode():
        np.testing.assert_allclose(beside(input_ids=inputs).logits, expected, rtol=1e-3, atol=1e-3)
    plain_weights, rank = plain.architecture.target_weights, 2
    added = sum(rank * (layer.in_features + layer.out_features) for layer in plain.model.modules() if is_inner(layer))
    assert Architecture.of(beside).target_weights == plain_weights + added
    with pytest.raises(ModelError, match="adapter_config"):
        TransformersLM(where, local=LocalConfig(adapter="./nothing"))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:Position ids are not supported")
@pytest.mark.parametrize("mode", ["score", "generate"])
def test_a_learned_prompt_is_not_parted_from_its_text(mode: Any, tmp_path: Path) -> None:
    """Its virtual tokens stand before the padding, so that only prompts of one length may share a batch."""
    where = folder(tmp_path / "model")
    learned = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    adapted = peft.get_peft_model(LlamaForCausalLM.from_pretrained(where), learned)
    torch.nn.init.normal_(next(weight for weight in adapted.parameters() if weight.requires_grad))
    adapted.save_pretrained(tmp_path / "adapter")
    local = LocalConfig(adapter=str(tmp_path / "adapter"))
    lm = TransformersLM(where, mode=mode, max_new_tokens=4, local=local)
    prompts = ["wall", "go left red ball", "red ball", "wall 1"]
    for prompt, together in zip(prompts, lm.decide(prompts, CANDIDATES), strict=True):
        (alone,) = lm.decide([prompt], CANDIDATES)
        assert (alone.action, alone.thought) == (together.action, together.thought)
        assert mode == "generate" or close(alone, together)


def test_a_quantisation_there_is_not_is_refused(tmp_path: Path) -> None:
    where = folder(tmp_path)
    with pytest.raises(ConfigError, match=r"local\.quantization"):
        TransformersLM(where, local=LocalConfig(quantization={"load_in_3bit": True, "quant_method": "nothing"}))
    with pytest.raises((ConfigError, ModelError)):
        TransformersLM(where, local=LocalConfig(load={"no_such_argument": 1}))
