"""Log-probabilities of candidate actions after a prompt, without reading the prompt once for each candidate.

Decoder-only: one pass over the prompts fills the key-value cache and gives the first token of every candidate for
nothing; a second pass holds all that is left of all candidates, as the nodes of a prefix tree, each attending to the
prompt and to its own ancestors. Encoder-decoder: the encoder runs once, one decoder step fills the cache of the
cross-attention, which the candidates then share. Letters in shapes: B prompts, T tokens of the longest (padded on
the left), K candidates, P nodes of the tree, V the vocabulary, d the width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """What is to be read of K candidates: every proper prefix once, however many candidates begin with it."""

    tokens: tuple[int, ...]
    """(P,) the last token of each prefix."""
    depth: tuple[int, ...]
    """(P,) tokens before it in the candidate."""
    ancestors: tuple[tuple[int, ...], ...]
    """(P,) nodes that each node sees, itself included."""
    first: tuple[int, ...]
    """(K,) first token of each candidate."""
    edges: tuple[tuple[int, int, int], ...]
    """(candidate, node, token): what the candidate's log-probability is summed over, beside its first token."""

    @classmethod
    def of(cls, candidates: Sequence[Sequence[int]]) -> PrefixTree:
        """Build the tree of candidates given as token ids, none of them empty."""
        nodes: dict[tuple[int, ...], int] = {}
        ancestors: list[tuple[int, ...]] = []
        edges = []
        for k, ids in enumerate(candidates):
            above: tuple[int, ...] = ()
            for end in range(1, len(ids)):
                prefix = tuple(ids[:end])
                if prefix not in nodes:
                    nodes[prefix] = len(nodes)
                    ancestors.append((*above, nodes[prefix]))
                above = ancestors[nodes[prefix]]
                edges.append((k, nodes[prefix], ids[end]))
        tokens, depth = tuple(prefix[-1] for prefix in nodes), tuple(len(prefix) - 1 for prefix in nodes)
        return cls(tokens, depth, tuple(ancestors), tuple(ids[0] for ids in candidates), tuple(edges))

    def __len__(self) -> int:
        return len(self.tokens)


class CausalScorer:
    """Scores candidates with a decoder-only model whose attention takes a mask (eager or sdpa)."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        config = model.config.get_text_config()
        self._layer_types = set(getattr(config, "layer_types", None) or ())
        self._window = getattr(config, "sliding_window", None)

    def score(self, inputs: Any, tree: PrefixTree) -> tuple[Tensor, Tensor]:
        """Return (B, K) summed log-probabilities and (B, d) hidden states at the end of the prompts.

        `inputs` holds input_ids and attention_mask (B, T), padded on the left.
        """
        mask = inputs["attention_mask"]
        # without the config: layers with a sliding window would keep too little of the prompt for the tree's mask
        cache = DynamicCache() if len(tree) else None
        out = self.model(
            **inputs,
            **self._positions((mask.cumsum(1) - 1).clamp(min=0)),
            past_key_values=cache,
            use_cache=cache is not None,
            output_hidden_states=True,
            logits_to_keep=1,
        )
        hidden = out.hidden_states[-1][:, -1]
        scores = out.logits[:, -1].float().log_softmax(-1)[:, list(tree.first)]  # (B, K)
        if cache is not None:
            scores = scores + self._tails(mask, cache, tree)
        return scores, hidden

    def _tails(self, mask: Tensor, cache: Any, tree: PrefixTree) -> Tensor:
        """Return (B, K) the log-probabilities of all tokens but the first."""
        device, batch = mask.device, mask.shape[0]
        depth = torch.tensor(tree.depth, device=device)
        positions = mask.sum(1, keepdim=True) + depth  # (B, P)
        logits = self.model(
            input_ids=torch.tensor(tree.tokens, device=device).expand(batch, -1),
            attention_mask=self._masks(mask, positions, tree),
            **self._positions(positions),
            past_key_values=cache,
            use_cache=True,
        ).logits  # (B, P, V)
        which, node, token = (torch.tensor(column, device=device) for column in zip(*tree.edges, strict=True))
        each = logits.float().log_softmax(-1)[:, node, token]  # (B, E)
        return torch.zeros(batch, len(tree.first), device=device).index_add_(1, which, each)

    def _masks(self, mask: Tensor, positions: Tensor, tree: PrefixTree) -> Any:
        """What each node attends to, (B, 1, P, T + P), additive; one for each kind of layer where there are two."""
        nodes = torch.zeros(len(tree), len(tree), dtype=torch.bool, device=mask.device)
        for node, above in enumerate(tree.ancestors):
            nodes[node, list(above)] = True
        batch = mask.shape[0]
        seen = torch.cat(
            [mask[:, None].bool().expand(-1, len(tree), -1), nodes.expand(batch, -1, -1)], -1
        )  # (B, P, T + P)
        full = self._additive(seen)
        if not self._window:
            return full
        of_prompt = (mask.cumsum(1) - 1).clamp(min=0)
        distance = positions[:, :, None] - torch.cat([of_prompt, positions], 1)[:, None]  # (B, P, T + P)
        near = self._additive(seen & (distance < self._window))
        if not self._layer_types or self._layer_types == {"sliding_attention"}:
            return near
        if self._layer_types == {"full_attention"}:
            return full
        return {"full_attention": full, "sliding_attention": near}

    def _additive(self, seen: Tensor) -> Tensor:
        lowest = torch.finfo(self.model.dtype).min
        return torch.where(seen, 0.0, lowest).to(self.model.dtype)[:, None]

    def _positions(self, positions: Tensor) -> dict[str, Tensor]:
        return {"position_ids": positions} if self._takes_positions else {}


class Seq2SeqScorer:
    """Scores candidates, end of text included, with an encoder-decoder model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        eos = model.config.eos_token_id
        self.end = int(eos if isinstance(eos, int) else eos[0])

    def score(self, inputs: Any, candidates: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return (B, K) summed log-probabilities and (B, d) encoder states, averaged over the prompt."""
        mask, device = inputs["attention_mask"], inputs["attention_mask"].device
        batch, count = mask.shape[0], len(candidates)
        memory = self.model.get_encoder()(**inputs).last_hidden_state  # (B, T, d)
        start = torch.full((batch, 1), self.model.config.decoder_start_token_id, device=device)
        out = self.model(encoder_outputs=(memory,), attention_mask=mask, decoder_input_ids=start, use_cache=True)
        full = [[*ids, self.end] for ids in candidates]
        scores = out.logits[:, -1].float().log_softmax(-1)[:, [ids[0] for ids in full]]  # (B, K)
        width = max(map(len, full)) - 1
        shown = torch.tensor([ids[:-1] + [self.end] * (width + 1 - len(ids)) for ids in full], device=device)
        wanted = torch.tensor([ids[1:] + [-1] * (width + 1 - len(ids)) for ids in full], device=device)
        cache = out.past_key_values
        cache.batch_repeat_interleave(count)
        logits = self.model(
            encoder_outputs=(memory.repeat_interleave(count, 0),),
            attention_mask=mask.repeat_interleave(count, 0),
            decoder_input_ids=shown.repeat(batch, 1),  # (B*K, n)
            past_key_values=cache,
            use_cache=True,
        ).logits
        target = wanted.repeat(batch, 1)
        known = target >= 0
        each = logits.float().log_softmax(-1).gather(2, target.clamp(min=0)[..., None])[..., 0]
        pooled = (memory * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return scores + (each * known).sum(1).view(batch, count), pooled
