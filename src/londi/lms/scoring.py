"""Log-probabilities of candidate actions after a prompt, without reading the prompt once for each candidate.

Decoder-only: one pass holds what is new of each prompt and, after it, what is left of all candidates but their first
tokens, as the nodes of a prefix tree; each node attends to the prompt and to its own ancestors. The first tokens come
free with the prompt, and what an earlier prompt has in common is not read again (`londi.lms.prefix`).
Encoder-decoder: the encoder runs once, one decoder step fills the cache of the cross-attention, which the candidates
then share. Letters in shapes: B prompts, S new tokens of the longest (padded on the left), P tokens of the longest
reused prefix, K candidates, N nodes of the tree, V the vocabulary, d the width.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from londi.errors import ModelError
from londi.lms.prefix import Prefix, PrefixStore
from londi.lms.tree import PrefixTree

_ROWS = 8
"""Rows of the decoder in one pass over candidates; with more prompts than that, a candidate a pass."""
_LOGITS = 2**26
"""Numbers in one softmax over the vocabulary: all prompts and nodes of a batch together could take many gigabytes."""
Reused = tuple[Prefix, int]
"""A prompt that was read, and how many of its tokens begin the new one."""


def scorer(model: Any, max_tokens: int = 2**31) -> CausalScorer | Seq2SeqScorer | FullScorer:
    """Return the fastest way that is right for a model."""
    if model.config.is_encoder_decoder:
        return Seq2SeqScorer(model)
    return CausalScorer(model) if CausalScorer.fits(model) else FullScorer(model, max_tokens)


class CausalScorer:
    """Scores candidates with a decoder-only model whose attention takes masks and positions (eager or sdpa)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config.get_text_config()
        self._layer_types = set(getattr(config, "layer_types", None) or ())
        self._window = getattr(config, "sliding_window", None)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model is one: plain attention in every layer, positions from `position_ids`, a cache."""
        config, takes = model.config.get_text_config(), set(inspect.signature(model.forward).parameters)
        kinds = set(getattr(config, "layer_types", None) or ())
        return (
            "position_ids" in takes
            and bool(takes & {"cache", "past_key_values"})
            and kinds <= {"full_attention", "sliding_attention"}
            and getattr(config, "_attn_implementation", "eager") in ("eager", "sdpa")
            and not getattr(config, "alibi", False)  # Falcon's positions come from the mask then
            and config.model_type != "gpt_neo"  # its local layers count columns, not positions
        )

    def score(
        self,
        prompts: Sequence[Sequence[int]],
        tree: PrefixTree,
        reused: Sequence[Reused | None] = (),
        store: PrefixStore | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, K) summed log-probabilities and (B, d) hidden states at the end of the prompts.

        `prompts` are B lists of token ids. What was read is added to the `store`.
        """
        reused = reused or [None] * len(prompts)
        known = [0 if found is None else found[1] for found in reused]
        device, past = self.model.device, max(known)
        new = [list(ids[n:]) for ids, n in zip(prompts, known, strict=True)]
        ids, valid = pad(new, device)  # (B, S)
        before = torch.tensor(known, device=device)[:, None]
        positions = before + (valid.cumsum(1) - 1).clamp(min=0)
        cache = _restored(reused, past) if past or store is not None or len(tree) else None
        if len(tree) or past:
            nodes = torch.tensor(tree.tokens, device=device, dtype=ids.dtype).expand(len(new), -1)
            depth = torch.tensor(tree.depth, device=device, dtype=positions.dtype)
            ids = torch.cat([ids, nodes], 1)  # (B, S + N)
            positions = torch.cat([positions, before + valid.sum(1, keepdim=True) + depth], 1)
            mask = self._masks(before, past, valid, positions, tree)
        else:
            mask = valid
        with _HeadInput(self.model) as seen:
            out = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=cache is not None,
                logits_to_keep=1 + len(tree),
                **cache_argument(self.model, cache),
            )
        logits = out.logits[:, -1 - len(tree) :]  # (B, 1 + N, V)
        some = max(1, _LOGITS // (logits.shape[1] * logits.shape[2]))
        scores = torch.cat([_summed(part, tree) for part in logits.split(some)])
        if store is not None and cache is not None:
            _keep(store, cache, prompts, reused, past, valid.shape[1])
        return scores, None if seen.states is None else seen.states[:, -1 - len(tree)]

    def _masks(self, before: Tensor, past: int, valid: Tensor, positions: Tensor, tree: PrefixTree) -> Any:
        """What each token attends to, (B, 1, S + N, P + S + N), additive; for both kinds of layer where there are two.

        Columns are the reused prefix, padded on the left, the new tokens, and the nodes.
        """
        device, (batch, new), count = valid.device, valid.shape, len(tree)
        own = torch.zeros(new + count, new + count, dtype=torch.bool, device=device)
        own[:new, :new] = torch.ones(new, new, dtype=torch.bool, device=device).tril()
        own[new:, :new] = True
        for node, above in enumerate(tree.ancestors):
            own[new + node, [new + other for other in above]] = True
        real = torch.cat([valid.bool(), torch.ones(batch, count, dtype=torch.bool, device=device)], 1)
        column = torch.arange(past, device=device) - (past - before)  # (B, P): positions, negative in the padding
        prefix = (column >= 0)[:, None].expand(-1, new + count, -1)
        seen = torch.cat([prefix, own & real[:, None]], 2)  # (B, S + N, P + S + N)
        full = self._additive(seen)
        if not self._window or self._layer_types == {"full_attention"}:
            return full
        distance = positions[:, :, None] - torch.cat([column, positions], 1)[:, None]
        near = self._additive(seen & (distance < self._window))
        if not self._layer_types or self._layer_types == {"sliding_attention"}:
            return near
        return {"full_attention": full, "sliding_attention": near}

    def _additive(self, seen: Tensor) -> Tensor:
        lowest = torch.finfo(self.model.dtype).min
        return torch.where(seen, 0.0, lowest).to(self.model.dtype)[:, None]


def _summed(logits: Tensor, tree: PrefixTree) -> Tensor:
    """Return (B, K) summed log-probabilities from what the model says at the end of the prompts and at the nodes."""
    each = logits.float().log_softmax(-1)  # (B, 1 + N, V)
    scores = each[:, 0, list(tree.first)]
    if not tree.edges:
        return scores
    which, node, token = (torch.tensor(column, device=logits.device) for column in zip(*tree.edges, strict=True))
    return scores.index_add(1, which, each[:, 1 + node, token])


def _restored(reused: Sequence[Reused | None], past: int) -> Any:
    """A cache that holds the reused prefixes (B, heads, P, d), padded on the left; empty where P is 0."""
    # without the model's config: layers with a sliding window would keep too little of the prompt
    cache = DynamicCache()
    if not past:
        return cache
    first = next(found[0] for found in reused if found is not None)
    for layer, sample in enumerate(first.layers):
        parts = []
        for side, kept in enumerate(sample):
            part = kept.new_zeros(len(reused), kept.shape[0], past, kept.shape[2])
            for row, found in enumerate(reused):
                if found is not None:
                    part[row, :, past - found[1] :] = found[0].layers[layer][side][:, : found[1]]
            parts.append(part)
        cache.update(parts[0], parts[1], layer)
    return cache


def _keep(
    store: PrefixStore,
    cache: Any,
    prompts: Sequence[Sequence[int]],
    reused: Sequence[Reused | None],
    past: int,
    new: int,
) -> None:
    """Put the prompts' keys and values, without padding and candidates, into the store."""
    for row, (ids, found) in enumerate(zip(prompts, reused, strict=True)):
        known = 0 if found is None else found[1]
        columns = [slice(past - known, past), slice(past + new - (len(ids) - known), past + new)]

        def part(kept: Tensor, row: int = row, columns: list[slice] = columns) -> Tensor:
            return torch.cat([kept[row, :, some] for some in columns], 1)

        layers = tuple((part(layer.keys), part(layer.values)) for layer in cache.layers)
        store.add(Prefix(np.asarray(ids, np.int64), layers), found)


class FullScorer:
    """Scores every candidate by a full sequence, prompt and all: for models that nothing faster is right for.

    What the fast scorers are measured and tested against. A pass holds at most `max_tokens`, or one sequence.
    """

    def __init__(self, model: Any, max_tokens: int = 2**31) -> None:
        self.model, self.max_tokens, self.alike = model, max_tokens, shows_padding(model)
        self._positions = "position_ids" in inspect.signature(model.forward).parameters

    def score(
        self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, K) summed log-probabilities and (B, d) hidden states at the end of the prompts."""
        rows = [([*prompt, *answer], len(answer)) for prompt in prompts for answer in candidates]
        found: dict[int, tuple[Tensor, Tensor | None]] = {}
        for some in self._passes([len(ids) for ids, _ in rows]):
            found |= zip(some, self._pass([rows[i] for i in some]), strict=True)
        scores = torch.stack([found[i][0] for i in range(len(rows))]).view(len(prompts), len(candidates))
        states = [found[i][1] for i in range(0, len(rows), len(candidates))]
        return scores, None if states[0] is None else torch.stack([state for state in states if state is not None])

    def _passes(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        some: list[int] = []
        for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
            full = lengths[i] * (len(some) + 1) > self.max_tokens
            if some and (full or (self.alike and lengths[i] != lengths[some[0]])):
                yield some
                some = []
            some.append(i)
        yield some

    def _pass(self, rows: Sequence[tuple[list[int], int]]) -> list[tuple[Tensor, Tensor | None]]:
        """Score sequences that end with answers of so many tokens; each with the state before its answer."""
        longest = max(length for _, length in rows)
        ids, valid = pad([own for own, _ in rows], self.model.device)
        more = {"position_ids": (valid.cumsum(1) - 1).clamp(min=0)} if self._positions else {}
        with _HeadInput(self.model) as seen:
            logits = self.model(
                input_ids=ids, attention_mask=valid, use_cache=False, logits_to_keep=longest + 1, **more
            ).logits[:, -1 - longest :]
        each = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, -longest:, None])[..., 0]  # (B K, n)
        lengths = torch.tensor([length for _, length in rows], device=ids.device)
        own = torch.arange(longest, device=ids.device) >= longest - lengths[:, None]
        states = [None if seen.states is None else seen.states[row, -1 - n] for row, (_, n) in enumerate(rows)]
        return list(zip((each * own).sum(1), states, strict=True))


def shows_padding(model: Any) -> bool:
    """Whether a model sees padding on the left: then only sequences of one length may share a pass.

    The virtual tokens of a PEFT prompt stand before the padding, and RWKV looks at no mask.
    """
    return hasattr(model, "active_peft_config") or model.config.model_type == "rwkv"


class Seq2SeqScorer:
    """Scores candidates, end of text included, with an encoder-decoder model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.start, self.end = special(model, "decoder_start_token_id"), special(model, "eos_token_id")

    def score(self, prompts: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return (B, K) summed log-probabilities and (B, d) encoder states, averaged over the prompt."""
        device, batch = self.model.device, len(prompts)
        ids, mask = pad(prompts, device, left=False)
        memory = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, S, d)
        start = torch.full((batch, 1), self.start, device=device)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        shared = cache_argument(self.model, cache) | {"use_cache": True}
        out = self.model(
            encoder_outputs=BaseModelOutput(memory), attention_mask=mask, decoder_input_ids=start, **shared
        )
        full = [[*answer, self.end] for answer in candidates]
        scores = out.logits[:, -1].float().log_softmax(-1)[:, [answer[0] for answer in full]]  # (B, K)
        for length in {len(answer) for answer in full}:
            same = [k for k, answer in enumerate(full) if len(answer) == length]
            size = max(1, _ROWS // batch)  # many prompts share nothing but the weights, and repeating caches costs more
            for some in (same[begin : begin + size] for begin in range(0, len(same), size)):
                scores[:, some] += self._tails(memory, mask, cache, [full[k] for k in some])
        pooled = (memory * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return scores, pooled

    def _tails(self, memory: Tensor, mask: Tensor, cache: Any, answers: Sequence[Sequence[int]]) -> Tensor:
        """Return (B, K) the log-probabilities of all tokens but the first, for answers of one length.

        The cache is left as it was.
        """
        (batch, length, width), count = memory.shape, len(answers)
        rows = torch.tensor(answers, device=mask.device).repeat(batch, 1)  # (B K, n + 1)
        shape = memory[:1, :1, :1].expand(batch * count, length, width)  # its keys are in the cache
        logits = self.model(
            encoder_outputs=BaseModelOutput(shape),
            attention_mask=mask.repeat_interleave(count, 0),
            decoder_input_ids=rows[:, :-1],
            use_cache=True,
            **cache_argument(self.model, _repeated(cache, count)),
        ).logits
        each: Tensor = logits.float().log_softmax(-1).gather(2, rows[:, 1:, None])  # (B K, n, 1)
        return each.sum((1, 2)).view(batch, count)


def _repeated(cache: Any, count: int) -> Any:
    """A copy of an encoder-decoder cache with each row `count` times; for one, the tensors are shared."""
    copies = []
    for part in (cache.self_attention_cache, cache.cross_attention_cache):
        copy = DynamicCache()
        for number, layer in enumerate(part.layers):
            keys, values = layer.keys, layer.values
            if count > 1:
                keys, values = keys.repeat_interleave(count, 0), values.repeat_interleave(count, 0)
            copy.update(keys, values, number)
        copies.append(copy)
    return EncoderDecoderCache(*copies)  # which takes the cross-attention of a filled cache for known


def pad(rows: Sequence[Sequence[int]], device: Any, left: bool = True) -> tuple[Tensor, Tensor]:
    """Return ids (B, S) and what of them is real (B, S), padded with zeros."""
    longest = max(map(len, rows))
    ids, valid = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for row, own in enumerate(rows):
        place = slice(longest - len(own), longest) if left else slice(len(own))
        ids[row, place], valid[row, place] = own, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(valid).to(device)


def special(model: Any, name: str) -> int:
    """Return a special token of an encoder-decoder; raises `ModelError` where the model names none."""
    for config in (model.config, model.generation_config):
        found = getattr(config, name, None)
        if found is not None:
            return int(found if isinstance(found, int) else found[0])
    raise ModelError(f"{model.config.name_or_path or 'the model'} has no {name} (config.json)")


def cache_argument(model: Any, cache: Any) -> dict[str, Any]:
    """Name the cache as the model's forward does: `cache` from transformers 5.24 on, before `past_key_values`."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {} if cache is None else {name: cache}


class _HeadInput:
    """Watches what the output head is given: the last hidden states, (B, positions, d); None without such a head."""

    def __init__(self, model: Any) -> None:
        self.head = model.get_output_embeddings()
        self.states: Tensor | None = None

    def __enter__(self) -> _HeadInput:
        def watch(_: Any, inputs: tuple[Tensor, ...]) -> None:
            self.states = inputs[0]

        self._hook = None if self.head is None else self.head.register_forward_pre_hook(watch)
        return self

    def __exit__(self, *_: object) -> None:
        if self._hook is not None:
            self._hook.remove()
