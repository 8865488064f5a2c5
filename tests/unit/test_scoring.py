"""The scoring engine against full sequences, one candidate at a time, on the architectures people use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from londi.lms.scoring import CausalScorer, PrefixTree, Seq2SeqScorer

VOCABULARY, EOS, PAD = 60, 1, 0
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
    "bos_token_id": None,
}
SLIDING = {"sliding_window": 6}
"""Shorter than most prompts here, so that it matters."""
CAUSAL: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES),
    "qwen2": ("Qwen2", {key: value for key, value in SIZES.items() if key != "head_dim"}),
    "qwen3": ("Qwen3", SIZES),
    "mistral, sliding": ("Mistral", SIZES | SLIDING),
    "gemma2, sliding": ("Gemma2", SIZES | SLIDING | {"query_pre_attn_scalar": 8}),
    "gemma3, sliding": ("Gemma3Text", SIZES | SLIDING | {"query_pre_attn_scalar": 8}),
    "gpt2": (
        "GPT2",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY}
        | {"initializer_range": 0.3, "eos_token_id": EOS, "bos_token_id": EOS, "pad_token_id": PAD},
    ),
}
CLASSES = {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}


def causal(family: str, attention: str | None = None) -> Any:
    name, sizes = CAUSAL[family]
    torch.manual_seed(3)
    config = getattr(hf, f"{name}Config")(**sizes)
    if attention:
        config._attn_implementation = attention
    return getattr(hf, CLASSES.get(name, f"{name}ForCausalLM"))(config).eval()


def t5(**changes: Any) -> Any:
    torch.manual_seed(3)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "tie_word_embeddings": False}
    special = {"eos_token_id": EOS, "pad_token_id": PAD, "decoder_start_token_id": PAD}
    return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=VOCABULARY, **sizes | special | changes)).eval()


def words(rng: np.random.Generator, lengths: Sequence[int]) -> list[list[int]]:
    return [rng.integers(2, VOCABULARY, size=length).tolist() for length in lengths]


def some_candidates(count: int, rng: np.random.Generator) -> list[list[int]]:
    """Of 1 to 5 tokens, many beginning alike, one the beginning of another."""
    found = [[7], [7, 8], [7, 8, 9, 10, 11], [7, 8, 9, 12]][:count]
    return found + words(rng, rng.integers(1, 6, size=count - len(found)).tolist())


@torch.inference_mode()
def naive(model: Any, prompt: list[int], candidate: list[int]) -> float:
    """From one full sequence without padding, mask or cache."""
    logits = model(input_ids=torch.tensor([prompt + candidate]), use_cache=False).logits[0].log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(candidate) - 1)
    return float(sum(logits[place, token] for place, token in zip(places, candidate, strict=True)))


@torch.inference_mode()
def naive_seq2seq(model: Any, prompt: list[int], candidate: list[int]) -> float:
    full = [*candidate, EOS]
    out = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([[PAD, *candidate]]))
    return float(out.logits[0].log_softmax(-1)[range(len(full)), full].sum())


@pytest.mark.parametrize("count", [1, 2, 8, 64])
@pytest.mark.parametrize("family", CAUSAL)
def test_causal_scores_are_those_of_full_sequences(family: str, count: int) -> None:
    rng = np.random.default_rng(count)
    model, prompts = causal(family), words(rng, [1, 17, 5, 30])
    candidates = some_candidates(count, rng)
    with torch.inference_mode():
        scores, hidden = CausalScorer(model).score(prompts, PrefixTree.of(candidates))
    expected = [[naive(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
    assert hidden is not None
    assert hidden.shape == (4, 32)
    assert count == 1 or np.std(expected) > 1, "the candidates must differ for this to mean anything"


@pytest.mark.parametrize("family", ["llama", "gemma3, sliding", "gpt2"])
def test_attention_written_out_gives_the_same(family: str) -> None:
    rng = np.random.default_rng(0)
    prompts, candidates = words(rng, [3, 20]), some_candidates(9, rng)
    found = []
    for attention in ("sdpa", "eager"):
        scorer = CausalScorer(causal(family, attention))
        with torch.inference_mode():
            found.append(scorer.score(prompts, PrefixTree.of(candidates))[0].numpy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
@pytest.mark.parametrize("changes", [{}, {"feed_forward_proj": "gated-gelu"}, {"num_decoder_layers": 3}])
def test_t5_scores_are_those_of_full_sequences(changes: dict[str, Any], count: int) -> None:
    rng = np.random.default_rng(count)
    model, prompts = t5(**changes), words(rng, [1, 17, 5, 30])
    candidates = some_candidates(count, rng)
    with torch.inference_mode():
        scores, states = Seq2SeqScorer(model).score(prompts, candidates)
    expected = [[naive_seq2seq(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
    assert states.shape == (4, 32)


def test_the_model_is_left_as_it_was() -> None:
    """A second batch must not see the first."""
    rng = np.random.default_rng(0)
    model, tree = causal("llama"), PrefixTree.of(some_candidates(6, rng))
    scorer, one, other = CausalScorer(model), words(rng, [12]), words(rng, [9, 4])
    with torch.inference_mode():
        first = scorer.score(one, tree)[0]
        scorer.score(other, tree)
        again = scorer.score(one, tree)[0]
    assert torch.equal(first, again)


def test_the_tree_reads_each_prefix_once() -> None:
    tree = PrefixTree.of([[1], [1, 2], [1, 2, 3], [1, 2, 4], [5, 2]])
    assert tree.first == (1, 1, 1, 1, 5)
    assert tree.tokens == (1, 2, 5)
    assert tree.depth == (0, 1, 0)
    assert tree.ancestors == ((0,), (0, 1), (2,))
    assert tree.edges == ((1, 0, 2), (2, 0, 2), (2, 1, 3), (3, 0, 2), (3, 1, 4), (4, 2, 2))
    assert len(PrefixTree.of([[3], [4]])) == 0
