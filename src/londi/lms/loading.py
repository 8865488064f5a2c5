"""Loads Hugging Face models: folder or hub id, dtype, devices, quantisation, adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers

from londi.config import LocalConfig
from londi.errors import ConfigError, MissingExtraError, ModelError
from londi.lms.prefix import PrefixStore

_WHERE = {"revision", "code_revision", "subfolder", "trust_remote_code", "token", "cache_dir", "local_files_only"}
"""Arguments of `from_pretrained` that config and tokenizer need as well as the weights."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network, its tokenizer, and what was read of earlier prompts."""

    model: Any
    tokenizer: Any
    store: PrefixStore | None
    what: str
    """What decides the weights and where they lie: models that agree in it can share them."""

    def is_for(self, model: str, device: str, dtype: str, local: LocalConfig) -> bool:
        """Whether these are the weights that `load` would load."""
        return self.what == _what(model, device, dtype, local)


def _what(model: str, device: str, dtype: str, local: LocalConfig) -> str:
    weights = [local.device_map, local.quantization, local.adapter, local.load, local.cache_mb]
    return json.dumps([model, device, dtype, *weights], default=str)


def load(model: str, device: str, dtype: str, local: LocalConfig) -> Loaded:
    """Load a model.

    Raises `ModelError` where it can't be loaded, `ConfigError` for a dtype, device or quantisation there is not.
    """
    network, tokenizer = _load(model, device, dtype, local)
    kept = local.cache_mb * 2**20 if not network.config.is_encoder_decoder else 0
    return Loaded(network, tokenizer, PrefixStore(kept) if kept > 0 else None, _what(model, device, dtype, local))


def _load(model: str, device: str, dtype: str, local: LocalConfig) -> tuple[Any, Any]:
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype is auto, float32, bfloat16 or float16, not '{dtype}'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"there is no device '{device}' on this machine: take 'cpu', or what torch can use"
        ) from error
    source = _source(model, local.load.get("subfolder", ""))
    options: dict[str, Any] = {"dtype": dtype, **local.load}
    where = {key: value for key, value in local.load.items() if key in _WHERE}
    if local.device_map:
        _need("accelerate")
        options["device_map"] = local.device_map
    if local.quantization:
        options["quantization_config"] = _quantization(local.quantization)
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(source, **where)
            auto: Any = transformers.AutoModelForCausalLM
            if config.is_encoder_decoder:
                auto = transformers.AutoModelForSeq2SeqLM
            network = auto.from_pretrained(source, **options)
            if local.adapter:
                network = _adapted(network, local.adapter)
            if not local.device_map and not local.quantization:
                network = network.to(device)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise ModelError(f"can't load '{model}': {_first_line(error)}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return network.eval(), tokenizer


def _source(model: str, subfolder: str) -> str:
    folder = Path(model).expanduser()
    looks_local = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_local and not (folder / subfolder / "config.json").is_file():
        raise ModelError(f"no model folder at {model} (a Hugging Face folder holds config.json)")
    return str(folder) if folder.is_dir() else model


def _quantization(settings: dict[str, Any]) -> Any:
    try:
        if "quant_method" in settings:
            return transformers.quantizers.AutoQuantizationConfig.from_dict(dict(settings))
        return transformers.BitsAndBytesConfig(**settings)
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"local.quantization: {_first_line(error)}") from error


def _adapted(network: Any, adapter: str) -> Any:
    _need("peft")
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(network, _source_of_adapter(adapter))
    if adapted.active_peft_config.is_prompt_learning:
        return adapted
    # what PEFT wraps around the model hides what its forward takes; quantised weights can't be merged with an adapter's
    return adapted.get_base_model() if getattr(network, "is_quantized", False) else adapted.merge_and_unload()


def _source_of_adapter(adapter: str) -> str:
    folder = Path(adapter).expanduser()
    if (folder.is_absolute() or adapter.startswith((".", "~"))) and not (folder / "adapter_config.json").is_file():
        raise ModelError(f"no adapter at {adapter} (a PEFT folder holds adapter_config.json)")
    return str(folder) if folder.is_dir() else adapter


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise MissingExtraError(package, package)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and progress bars of transformers."""
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()
