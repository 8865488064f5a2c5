"""Tiny Hugging Face folders with a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from londi.lms.base import Decision

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
