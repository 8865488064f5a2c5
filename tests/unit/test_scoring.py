"""The scoring engine against full sequences, one candidate at a time, on the architectures people use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from londi.lms.prefix import SHORTEST, Prefix, PrefixStore
from londi.lms.scoring import CausalScorer, FullScorer, Seq2SeqScorer, scorer
from londi.lms.tree import PrefixTree

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
@pytest.mark.parametrize("lengths", [[17], [1, 17, 5, 30], [3, 9, 12, 1, 30, 2, 8, 8, 8, 20]])
@pytest.mark.parametrize("changes", [{}, {"feed_forward_proj": "gated-gelu"}, {"num_decoder_layers": 3}])
def test_t5_scores_are_those_of_full_sequences(changes: dict[str, Any], lengths: list[int], count: int) -> None:
    rng = np.random.default_rng(count)
    model, prompts = t5(**changes), words(rng, lengths)
    candidates = some_candidates(count, rng)
    with torch.inference_mode():
        scores, states = Seq2SeqScorer(model).score(prompts, candidates)
    expected = [[naive_seq2seq(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
    assert states.shape == (len(lengths), 32)


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


# What is not read again -----------------------------------------------------------------------------------------------


def episode(rng: np.random.Generator, steps: int, first: int) -> list[list[int]]:
    """Prompts that each continue the one before."""
    prompts = [words(rng, [first])[0]]
    for _ in range(steps - 1):
        prompts.append(prompts[-1] + words(rng, [int(rng.integers(1, 7))])[0])
    return prompts


@pytest.mark.parametrize("family", CAUSAL)
def test_scores_with_reused_prefixes_are_those_of_full_sequences(family: str) -> None:
    """Three episodes of different lengths in one batch, one of which begins late."""
    rng = np.random.default_rng(5)
    model, candidates, store = causal(family), some_candidates(8, rng), PrefixStore(10**9)
    tree, fast = PrefixTree.of(candidates), CausalScorer(model)
    episodes = [episode(rng, 4, 70), episode(rng, 4, 80), [[], [], *episode(rng, 2, 66)]]
    for step in range(4):
        prompts = [prompts[step] for prompts in episodes if prompts[step]]
        reused = [store.find(ids) for ids in prompts]
        if step:
            assert [found is not None for found in reused[:2]] == [True, True]
            assert [found[1] for found in reused[:2] if found] == [len(each[step - 1]) for each in episodes[:2]]
        with torch.inference_mode():
            scores, hidden = fast.score(prompts, tree, reused, store)
        expected = [[naive(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
        np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
        assert hidden is not None
        with torch.inference_mode():
            states = model(input_ids=torch.tensor([prompts[0]]), output_hidden_states=True).hidden_states[-1]
        np.testing.assert_allclose(hidden[0], states[0, -1], atol=1e-4)
    assert len(store) == 3, "an episode leaves its latest prompt alone"


def test_a_prompt_that_parts_from_a_kept_one_reuses_what_is_common() -> None:
    rng = np.random.default_rng(0)
    model, store, tree = causal("llama"), PrefixStore(10**9), PrefixTree.of([[7, 8], [9]])
    one = words(rng, [100])[0]
    other = one[:80] + words(rng, [5])[0]
    with torch.inference_mode():
        CausalScorer(model).score([one], tree, store=store)
        found = store.find(other)
        assert found is not None
        assert found[1] == 80
        scores = CausalScorer(model).score([other], tree, [found], store)[0]
    np.testing.assert_allclose(scores[0], [naive(model, other, c) for c in ([7, 8], [9])], rtol=2e-4, atol=2e-4)
    again = store.find(one)
    assert again is not None
    assert again[1] == len(one) - 1, "one token is always read: its output is what is asked for"


def prefix(*ids: int) -> Prefix:
    """Of 8 bytes a token."""
    row = torch.zeros(1, len(ids), 1)
    return Prefix(np.array(ids), ((row, row),))


def test_the_store_forgets_what_was_not_used_for_longest() -> None:
    room = 8 * SHORTEST
    store = PrefixStore(2 * room)
    kept = [list(range(start, start + SHORTEST)) for start in (100, 300, 500)]
    store.add(prefix(*kept[0]))
    store.add(prefix(*kept[1]))
    assert store.find([*kept[0], 1]) is not None
    store.add(prefix(*kept[2]))
    assert [store.find([*ids, 1]) is not None for ids in kept] == [True, False, True]
    assert store.used == 2 * room
    store.add(prefix(*kept[0], 1), store.find([*kept[0], 1]))
    assert (len(store), store.used) == (1, room + 8), "it continues the first, for which the third has to go"
    store.add(prefix(*range(1000, 1000 + 3 * SHORTEST)))
    assert len(store) == 1, "larger than the store"
    store.add(prefix(1, 2, 3))
    assert len(store) == 1, "short ones are read anew"
    assert store.find([1, 2, 3, 4]) is None


def test_a_prompt_with_a_tail_of_its_own_is_replaced_too() -> None:
    """A chat template writes the same after each prompt; what branches off earlier is another episode."""
    room, first = 8 * 300, list(range(100))
    store = PrefixStore(room)
    for step in range(4):
        ids = [*first, *range(200, 200 + step), 7, 8, 9]
        found = store.find(ids)
        assert (found[1] if found else 0) == (100 + step - 1 if step else 0)
        store.add(prefix(*ids), found)
        assert (len(store), store.used) == (1, 8 * len(ids))
    other = [*first[:70], 5, 6]
    store.add(prefix(*other), store.find(other))
    store.add(prefix(*other), None)
    assert (len(store), store.used) == (2, 8 * (106 + 72)), "and the same prompt is kept once"


# Where nothing faster is right ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3, sliding"])
@pytest.mark.parametrize("count", [1, 8])
def test_the_full_scorer_is_right_too(family: str, count: int) -> None:
    rng = np.random.default_rng(count)
    model, prompts, candidates = causal(family), words(rng, [1, 17, 5]), some_candidates(count, rng)
    with torch.inference_mode():
        scores, hidden = FullScorer(model).score(prompts, candidates)
        states = model(input_ids=torch.tensor([prompts[1]]), output_hidden_states=True).hidden_states[-1]
    expected = [[naive(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
    assert hidden is not None
    np.testing.assert_allclose(hidden[1], states[0, -1], atol=1e-4)


SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "initializer_range": 0.3,
}


def unusual(name: str) -> Any:
    """Models whose forward looks like one that takes masks and positions."""
    torch.manual_seed(0)
    if name == "gpt-neo":  # local layers see the last six columns, whatever the positions
        local = {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 6}
        return hf.GPTNeoForCausalLM(hf.GPTNeoConfig(vocab_size=VOCABULARY, hidden_size=32, **local)).eval()
    if name == "rwkv":  # looks at no mask
        config = hf.RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2)
        return hf.RwkvForCausalLM(config).eval()
    if name == "falcon":  # ALiBi is computed from a mask of two dimensions
        return hf.FalconForCausalLM(hf.FalconConfig(**SMALL, num_hidden_layers=2, alibi=True)).eval()
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3}  # the first GPT has no cache
    return hf.OpenAIGPTLMHeadModel(hf.OpenAIGPTConfig(vocab_size=VOCABULARY, **sizes)).eval()


@pytest.mark.parametrize("name", ["gpt-neo", "falcon", "gpt", "rwkv"])
def test_what_masks_and_positions_do_not_reach_is_read_in_full(name: str) -> None:
    rng = np.random.default_rng(0)
    model, prompts, candidates = unusual(name), words(rng, [20, 9, 33]), some_candidates(8, rng)
    found = scorer(model)
    assert isinstance(found, FullScorer)
    with torch.inference_mode():
        scores, _ = found.score(prompts, candidates)
    expected = [[naive(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)


def test_an_encoder_decoder_with_windows() -> None:
    """T5Gemma takes the encoder's states by name only."""
    torch.manual_seed(0)
    sizes = SIZES | SLIDING | {"num_hidden_layers": 2, "bos_token_id": PAD}
    special = {"decoder_start_token_id": PAD, "eos_token_id": EOS, "pad_token_id": PAD}
    config = hf.T5GemmaConfig(encoder=sizes, decoder=sizes, vocab_size=VOCABULARY, **special)
    model = hf.T5GemmaForConditionalGeneration(config).eval()
    rng = np.random.default_rng(0)
    prompts, candidates = words(rng, [5, 19, 3]), some_candidates(8, rng)
    with torch.inference_mode():
        scores, _ = Seq2SeqScorer(model).score(prompts, candidates)
    expected = [[naive_seq2seq(model, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)


def test_a_pass_holds_no_more_tokens_than_it_may() -> None:
    """The full scorer's in sequences, and the softmax of the fast one."""
    rng = np.random.default_rng(0)
    model, prompts, candidates = causal("llama"), words(rng, [9, 3, 21]), some_candidates(8, rng)
    sizes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kept: sizes.append(tuple(kept["input_ids"].shape)), with_kwargs=True
    )
    with torch.inference_mode():
        few, hidden = FullScorer(model, 60).score(prompts, candidates)
        hook.remove()
        assert max(rows * length for rows, length in sizes) <= 60
        assert sum(rows for rows, _ in sizes) == 3 * 8
        many, states = FullScorer(model).score(prompts, candidates)
    np.testing.assert_allclose(few, many, rtol=1e-4, atol=1e-4)
    assert hidden is not None
    assert states is not None
    np.testing.assert_allclose(hidden, states, rtol=1e-4, atol=1e-4)


def test_a_softmax_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prompts, tree = words(rng, [9, 3, 21]), PrefixTree.of(some_candidates(8, rng))
    with torch.inference_mode():
        whole, _ = CausalScorer(causal("llama")).score(prompts, tree)
        monkeypatch.setattr("londi.lms.scoring._LOGITS", 1)
        parts, _ = CausalScorer(causal("llama")).score(prompts, tree)
    assert torch.equal(whole, parts)


def test_each_architecture_gets_a_scorer_that_is_right_for_it() -> None:
    """Bloom's positions are not given from outside, and Mamba has no attention."""
    torch.manual_seed(0)
    bloom = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4)).eval()
    assert isinstance(scorer(bloom), FullScorer)
    mamba = hf.MambaForCausalLM(hf.MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2)).eval()
    assert isinstance(scorer(mamba), FullScorer)
    assert isinstance(scorer(causal("llama")), CausalScorer)
    assert isinstance(scorer(t5()), Seq2SeqScorer)
    rng = np.random.default_rng(0)
    prompts, candidates = words(rng, [4, 9]), some_candidates(4, rng)
    with torch.inference_mode():
        scores, _ = scorer(bloom).score(prompts, candidates)  # type: ignore[arg-type]
    expected = [[naive(bloom, prompt, candidate) for candidate in candidates] for prompt in prompts]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=2e-4, atol=2e-4)
