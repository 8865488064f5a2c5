"""FLOPs by architecture against torch's own counter, where the names and shapes of weights differ from Llama's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch.utils.flop_counter import FlopCounterMode

from londi.lms.flops import Architecture

SIZES = {"vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 96}
MIXED: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", EXPERTS | {"num_local_experts": 8}),
    "qwen3": ("Qwen3Moe", EXPERTS | {"num_experts": 8, "head_dim": 16}),
    "gpt-oss": ("GptOss", EXPERTS | {"num_local_experts": 8, "head_dim": 16}),
}


@pytest.mark.parametrize("family", MIXED)
def test_of_a_mixture_the_experts_that_a_token_is_sent_to_count(family: str) -> None:
    name, sizes = MIXED[family]
    torch.manual_seed(0)
    model: Any = getattr(hf, f"{name}ForCausalLM")(getattr(hf, f"{name}Config")(**SIZES, **sizes)).eval()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    ids = torch.randint(2, 60, (1, 40))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, logits_to_keep=1)
    assert Architecture.of(model).generating(40, 1) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.parametrize("layers", [(3, 1), (1, 3)])
def test_a_decoder_of_another_depth_than_its_encoder(layers: tuple[int, int]) -> None:
    sizes = {
        "vocab_size": 60,
        "d_model": 64,
        "encoder_ffn_dim": 96,
        "decoder_ffn_dim": 128,
        "decoder_start_token_id": 1,
    }
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64}
    config = hf.BartConfig(**sizes, **heads, encoder_layers=layers[0], decoder_layers=layers[1])
    model: Any = hf.BartForConditionalGeneration(config).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(3, 60, (1, 40))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, decoder_input_ids=ids[:, :1])
    assert Architecture.of(model).generating(40, 1) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_model_without_attention() -> None:
    model = hf.MambaForCausalLM(hf.MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2))
    found = Architecture.of(model)
    assert found.target_attention == 0
    assert found.target_weights > 2 * 32 * 32
