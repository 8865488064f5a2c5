"""Any Hugging Face causal or seq2seq model, from a folder or a hub id, through the ordinary Auto classes.

Two ways to decide. `score`: the log-probability of each candidate after the prompt. `generate`: greedy text, an
optional thought and then the action; where the text names no candidate, the candidates are scored instead and
both costs are charged. `auto` takes what the model's config asks for (`"londi": {"mode": ...}`), else `score`
where candidates are given and `generate` where not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from londi.errors import ConfigError, MissingExtraError, ModelError
from londi.lms.base import Decision, closest_candidate, log_softmax
from londi.lms.flops import Architecture
from londi.usage import Usage

try:
    import torch
    import transformers
    from torch import Tensor

    from londi.lms.scoring import CausalScorer, PrefixTree, Seq2SeqScorer
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

Mode = Literal["auto", "score", "generate"]


class TransformersLM:
    """A Hugging Face model as a `LanguageModel`.

    - `model`: folder or hub id. Raises `ModelError` where it can't be loaded.
    - `mode`: how to decide, see the module.
    - `max_new_tokens`: longest reply in `generate`; None takes the model's own setting, else 64.
    - `device`: `cpu`, `cuda`, `cuda:1`, ...
    - `dtype`: `auto` (as stored), `float32`, `bfloat16`, `float16`.
    - `max_batch`: prompts in one forward pass; lower where memory is short.
    """

    def __init__(
        self,
        model: str,
        *,
        mode: Mode = "auto",
        max_new_tokens: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        max_batch: int = 64,
        name: str | None = None,
    ) -> None:
        self.name = name or Path(model).name
        self.model, self.tokenizer = _load(model, device, dtype)
        self.seq2seq = bool(self.model.config.is_encoder_decoder)
        wants = getattr(self.model.config, "londi", None) or {}
        self.mode: Mode = wants.get("mode", "auto") if mode == "auto" else mode
        self.max_new_tokens = max_new_tokens or wants.get("max_new_tokens", 64)
        self.max_batch = max_batch
        self.context = getattr(self.model.config, "max_position_embeddings", None)
        self.architecture = Architecture.of(self.model)
        self.scorer = Seq2SeqScorer(self.model) if self.seq2seq else CausalScorer(self.model)
        eos = self.model.generation_config.eos_token_id
        self._end = int((eos if isinstance(eos, int) else eos[0]) if eos is not None else self.tokenizer.pad_token_id)
        self._answers: dict[tuple[str, ...], list[list[int]]] = {}

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return int(self.model.num_parameters())

    @torch.inference_mode()
    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt; raises `ModelError` where a prompt is longer than the context."""
        if candidates is None and self.mode == "score":
            raise ModelError(f"{self.name} scores candidates, but the environment gives none: set mode = 'generate'")
        decisions: list[Decision | None] = [None] * len(prompts)
        lengths = [len(ids) for ids in self.tokenizer(list(prompts)).input_ids] if prompts else []
        order = sorted(range(len(prompts)), key=lambda i: lengths[i])
        for start in range(0, len(order), self.max_batch):
            rows = order[start : start + self.max_batch]
            batch = [prompts[i] for i in rows]
            if self.mode == "generate" or candidates is None:
                answers = self._generate(batch, candidates)
            else:
                answers = self._score(batch, candidates)
            for i, answer in zip(rows, answers, strict=True):
                decisions[i] = answer
        return [decision for decision in decisions if decision is not None]

    def _encode(self, prompts: Sequence[str], room: int) -> Any:
        inputs = self.tokenizer(list(prompts), return_tensors="pt", padding=True).to(self.model.device)
        inputs.pop("token_type_ids", None)
        length = inputs["input_ids"].shape[1] + (0 if self.seq2seq else room)
        if self.context and length > self.context:
            raise ModelError(
                f"a prompt of {length} tokens does not fit the context of {self.name} ({self.context}): "
                "show fewer observations or actions (env.prompt)"
            )
        return inputs

    def _candidate_ids(self, candidates: Sequence[str]) -> list[list[int]]:
        key = tuple(candidates)
        if key not in self._answers:
            texts = [text if self.seq2seq else f" {text}" for text in key]
            ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
            if not all(ids):
                raise ModelError(f"the tokenizer of {self.name} has no tokens for {key[ids.index([])]!r}")
            if not self.seq2seq and any(a != b and b[: len(a)] == a for a in ids for b in ids):
                # without an end, a candidate that begins another could never be the less likely one
                ids = [[*answer, self._end] for answer in ids]
            self._answers[key] = ids
        return self._answers[key]

    def _score(self, prompts: Sequence[str], candidates: Sequence[str]) -> list[Decision]:
        start = time.perf_counter()
        answers = self._candidate_ids(candidates)
        lengths = [len(ids) for ids in answers]
        inputs = self._encode(prompts, max(lengths))
        if isinstance(self.scorer, CausalScorer):
            tree = PrefixTree.of(answers)
            read = len(tree)
            scores, hidden = self.scorer.score(inputs, tree)
        else:
            read = len(answers) * max(lengths)
            scores, hidden = self.scorer.score(inputs, answers)
        logprobs = log_softmax(scores.double().cpu().numpy())
        states = hidden.float().cpu().numpy()
        seconds = (time.perf_counter() - start) / len(prompts)
        decisions = []
        for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            flops = self.architecture.scoring(length, len(answers), read)
            best = int(logprobs[row].argmax())
            usage = Usage(length, 0, max(1, read), flops, seconds)
            decisions.append(Decision(candidates[best], usage, tuple(logprobs[row].tolist()), "", states[row]))
        return decisions

    def _generate(self, prompts: Sequence[str], candidates: Sequence[str] | None) -> list[Decision]:
        start = time.perf_counter()
        inputs = self._encode(prompts, self.max_new_tokens)
        with _quiet():
            out = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, do_sample=False)
        new = out[:, 1:] if self.seq2seq else out[:, inputs["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        counts = _reply_lengths(new, self.model.generation_config.eos_token_id)
        seconds = (time.perf_counter() - start) / len(prompts)
        decisions: list[Decision] = []
        for text, length, count in zip(texts, inputs["attention_mask"].sum(1).tolist(), counts, strict=True):
            usage = Usage(length, 0, count, self.architecture.generating(length, count), seconds)
            action = text.strip() if candidates is None else closest_candidate(text, candidates)
            thought = "" if candidates is None or action is None else text[: text.lower().rfind(action.lower())].strip()
            decisions.append(Decision(action or "", usage, None, thought))
        if candidates is not None:
            self._repair(prompts, candidates, decisions)
        return decisions

    def _repair(self, prompts: Sequence[str], candidates: Sequence[str], decisions: list[Decision]) -> None:
        lost = [i for i, decision in enumerate(decisions) if not decision.action]
        if not lost:
            return
        for i, scored in zip(lost, self._score([prompts[i] for i in lost], candidates), strict=True):
            usage = decisions[i].usage + scored.usage
            decisions[i] = Decision(scored.action, usage, scored.logprobs, decisions[i].thought, scored.hidden)


def _reply_lengths(new: Tensor, eos: int | list[int] | None) -> list[int]:
    """Return the number of tokens of each row up to and with its first end-of-text token; `new` is (B, n)."""
    ends = torch.isin(new, torch.tensor([] if eos is None else eos, device=new.device, dtype=new.dtype))
    lengths = np.where(ends.any(1).cpu(), ends.int().argmax(1).cpu() + 1, new.shape[1])
    return [max(1, int(n)) for n in lengths]


@contextmanager
def _quiet() -> Iterator[None]:
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


def _load(model: str, device: str, dtype: str) -> tuple[Any, Any]:
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise ConfigError(f"dtype is auto, float32, bfloat16 or float16, not '{dtype}'")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"there is no device '{device}' on this machine: take 'cpu', or what torch can use"
        ) from error
    folder = Path(model).expanduser()
    looks_local = folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1
    if looks_local and not (folder / "config.json").is_file():
        raise ModelError(f"no model folder at {model} (a Hugging Face folder holds config.json)")
    source = str(folder) if folder.is_dir() else model
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(source)
            auto: Any = transformers.AutoModelForCausalLM
            if config.is_encoder_decoder:
                auto = transformers.AutoModelForSeq2SeqLM
            network = auto.from_pretrained(source, dtype=dtype).to(device).eval()
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"can't load '{model}': no such folder here, or no such model on the hub ({first})") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right" if config.is_encoder_decoder else "left"
    return network, tokenizer
