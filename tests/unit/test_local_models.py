"""Hugging Face folders as users have them: prefixes, batches, replies, adapters, shared weights."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from folders import CANDIDATES, WORDS, close, folder, read, tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import GenerationConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from londi import lms
from londi.config import LocalConfig, ModelConfig
from londi.errors import ConfigError, MissingExtraError, ModelError
from londi.lms import loading
from londi.lms.flops import Architecture
from londi.lms.prefix import SHORTEST
from londi.lms.scoring import CausalScorer, scorer
from londi.lms.transformers import TransformersLM
from londi.prompt import PromptTemplate


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


def test_long_prompts_are_not_read_as_short_ones(tmp_path: Path) -> None:
    """Beyond a length LongRoPE turns all positions otherwise: in a batch of their own, and without what was kept."""
    half = 4
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 90}
    rope |= {"short_factor": [1.0] * half, "long_factor": [2.0, 3.0, 4.0, 5.0]}
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "max_position_embeddings": 256}
    config = Phi3Config(**sizes, initializer_range=0.3, rope_parameters=rope, original_max_position_embeddings=90)
    torch.manual_seed(0)
    Phi3ForCausalLM(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    lm, forgets = TransformersLM(str(tmp_path)), TransformersLM(str(tmp_path), local=LocalConfig(cache_mb=0))
    text = "obs : wall go left " * 40
    prompts = [" ".join(text.split()[:length]) for length in (70, 80, 88, 89, 90, 95, 120)]
    (short,), (long,) = (forgets.decide([prompt], CANDIDATES) for prompt in prompts[-2:])
    assert not close(short, long)
    alone = [forgets.decide([prompt], CANDIDATES)[0] for prompt in prompts]
    assert all(map(close, alone, forgets.decide(prompts, CANDIDATES)))
    assert all(map(close, alone, [lm.decide([prompt], CANDIDATES)[0] for prompt in prompts]))
    assert all(map(close, alone, lm.decide(prompts, CANDIDATES)))
    assert lm.decide(prompts[-1:], CANDIDATES)[0].usage.cached_tokens > 0


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


# Where the weights lie, and what they give --------------------------------------------------------------------------


def test_config_and_tokenizer_come_from_where_the_weights_do(tmp_path: Path) -> None:
    folder(tmp_path / "inner")
    loaded = lms.load(ModelConfig(str(tmp_path), local=LocalConfig(load={"subfolder": "inner"})))
    assert loaded.decide(["wall"], CANDIDATES)[0].action in CANDIDATES
    with pytest.raises(ModelError, match="no model folder"):
        TransformersLM(str(tmp_path), local=LocalConfig(load={"subfolder": "outer"}))


def test_every_part_is_loaded_at_the_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    where, asked = folder(tmp_path), set[tuple[str, str]]()
    for auto in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"):
        honest = getattr(transformers, auto).from_pretrained

        def watched(source: str, auto: str = auto, honest: Any = honest, **options: Any) -> Any:
            asked.add((auto, options.get("revision", "")))
            return honest(source, **options)

        monkeypatch.setattr(getattr(transformers, auto), "from_pretrained", watched)
    TransformersLM(where, local=LocalConfig(load={"revision": "v2", "attn_implementation": "eager"}))
    assert asked == {("AutoConfig", "v2"), ("AutoModelForCausalLM", "v2"), ("AutoTokenizer", "v2")}


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    lm = TransformersLM(folder(tmp_path))
    torch.nn.init.constant_(lm.model.model.norm.weight, float("nan"))
    with pytest.raises(ModelError, match="no numbers"):
        lm.decide(["wall"], CANDIDATES)


def test_a_thought_that_the_template_opened_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off within it, the reply names no action, whatever it mentions."""
    made = folder(tmp_path, chat=True)
    lm = TransformersLM(made, mode="generate", max_new_tokens=3)
    ids = torch.tensor([tokenizer()("go left ,").input_ids])
    monkeypatch.setattr(lm.model, "generate", lambda input_ids, **_: torch.cat([input_ids, ids], 1))
    (said,) = lm.decide(["wall"], CANDIDATES)
    assert (said.action, said.logprobs) == ("go left", None)
    monkeypatch.setattr(lm.tokens, "thinks", lambda ids: True)
    (thought,) = lm.decide(["wall"], CANDIDATES)
    assert thought.logprobs is not None, "the candidates are scored instead"
    assert thought.thought == "go left ,"


def test_replies_are_greedy_whatever_the_folder_asks_for(tmp_path: Path) -> None:
    made, prompts = folder(tmp_path), ["wall red", "ball", "go left 1 2 3"]
    greedy = TransformersLM(made, mode="generate", max_new_tokens=6).decide(prompts)
    wants = {"num_beams": 4, "do_sample": True, "temperature": 0.7, "repetition_penalty": 1.8}
    GenerationConfig(**wants, eos_token_id=3, pad_token_id=0).save_pretrained(made)
    told = TransformersLM(made, mode="generate", max_new_tokens=6).decide(prompts)
    assert [(d.action, d.usage.flops) for d in told] == [(d.action, d.usage.flops) for d in greedy]
