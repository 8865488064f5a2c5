"""FLOPs of a forward pass, counted from the architecture: two for each weight of a matrix and token it multiplies,
plus attention's two products. Checked against torch's own counter in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_CROSS = ("EncDecAttention.k", "EncDecAttention.v", "encoder_attn.k_proj", "encoder_attn.v_proj")
"""Keys and values of the cross-attention, in T5 and in BART."""


@dataclass(frozen=True)
class Architecture:
    """Sizes that decide the FLOPs of a Hugging Face model."""

    source_weights: int
    """Matrix weights of the encoder, applied to each source token; 0 if causal."""
    cross_weights: int
    """Weights of the cross-attention's keys and values, applied to each source token for each decoded sequence."""
    target_weights: int
    """Matrix weights applied to each token of the decoder, without the output head."""
    head_weights: int
    """Weights of the output head, applied once for each distribution that is read."""
    source_attention: int
    """Layers x width of the encoder's attention."""
    target_attention: int
    """Layers x width of the decoder's self-attention (cross-attention has the same)."""

    @classmethod
    def of(cls, model: Any) -> Architecture:
        """Count the linear layers of a model."""
        head = model.get_output_embeddings()
        source = cross = target = 0
        for name, module in model.named_modules():
            count = 0 if module is head else _matrix(module, model.config.get_text_config())
            if name.endswith(_CROSS):
                cross += count
            elif ".encoder." in f".{name}":
                source += count
            else:
                target += count
        config = model.config.get_text_config()
        layers, width = config.num_hidden_layers, _width(config)
        seq2seq = bool(model.config.is_encoder_decoder)
        decoder = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or layers
        weights = 0 if head is None else head.weight.numel()
        return cls(source, cross, target, weights, layers * width if seq2seq else 0, decoder * width)

    def _decoder(self, tokens: int, before: int, source: int) -> float:
        """FLOPs of `tokens` decoder tokens that attend to themselves, `before` others and `source` source tokens."""
        attention = 4 * self.target_attention * tokens * (tokens + before + source)
        return float(2 * self.target_weights * tokens + attention)

    def _cross(self, source: int) -> float:
        return float(2 * self.cross_weights * source)

    def _encoder(self, tokens: int) -> float:
        return float(2 * self.source_weights * tokens + 4 * self.source_attention * tokens * tokens)

    def scoring(self, prompt: int, answers: int, read: int, cached: int = 0) -> float:
        """FLOPs of scoring so many answers after a prompt, as `londi.lms.scoring` does it.

        `read` counts the decoder tokens beyond the prompt: nodes of the prefix tree, or tokens of all answers;
        `cached` those of the prompt that were read before.
        """
        if self.source_attention:
            first = self._encoder(prompt) + self._cross(prompt) + self._decoder(1, 0, prompt) + 2 * self.head_weights
            seen = read / answers + 1 + prompt
            return first + read * (2 * self.target_weights + 4 * self.target_attention * seen + 2 * self.head_weights)
        tails = self._decoder(read, prompt, 0) + 2 * self.head_weights * read
        return self._decoder(prompt - cached, cached, 0) + 2 * self.head_weights + tails

    def full(self, prompt: int, answers: Sequence[int]) -> float:
        """FLOPs of a full sequence for each answer of so many tokens; all read as many distributions as the longest."""
        heads = 2 * self.head_weights * (max(answers) + 1)
        return sum(self._decoder(prompt + length, 0, 0) + heads for length in answers)

    def generating(self, prompt: int, reply: int) -> float:
        """FLOPs of a prompt and a reply written with a key-value cache."""
        head = 2 * self.head_weights * reply
        if self.source_attention:
            steps = sum(self._decoder(1, i, prompt) for i in range(reply))
            return self._encoder(prompt) + self._cross(prompt) + steps + head
        steps = sum(self._decoder(1, prompt + i, 0) for i in range(reply - 1))
        return self._decoder(prompt, 0, 0) + steps + head


def _matrix(module: torch.nn.Module, config: Any) -> int:
    """Weights of a layer that multiplies a token by a matrix; 0 for all others, and for wrappers around such layers.

    Of a mixture of experts those that a token is sent to.
    """
    if type(module).__name__.endswith("Experts"):  # all in one: (experts, in, out)
        stacked = [weight for weight in module.parameters() if weight.ndim == 3]
        return _experts_of_a_token(config) * sum(weight[0].numel() for weight in stacked)
    if isinstance(module, torch.nn.Embedding) or next(module.children(), None) is not None:
        return 0
    if isinstance(module, torch.nn.Linear):  # quantised ones too, whose weights are packed
        return module.in_features * module.out_features
    weight = getattr(module, "weight", None)
    return weight.numel() if isinstance(weight, torch.Tensor) and weight.ndim == 2 else 0


def _experts_of_a_token(config: Any) -> int:
    names = ("num_experts_per_tok", "top_k_experts", "moe_k", "moe_topk", "moe_top_k", "num_experts_per_token")
    return next((int(getattr(config, name)) for name in names if getattr(config, name, None)), 1)


def _width(config: Any) -> int:
    """Heads x their width; 0 for a model without attention."""
    heads = getattr(config, "num_attention_heads", None) or 0
    each = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)
    return int(heads * each if each else config.hidden_size if heads else 0)
