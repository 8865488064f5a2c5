"""Any Hugging Face causal or seq2seq model, from a folder or a hub id, through the ordinary Auto classes.

Two ways to decide. `score`: the log-probability of each candidate after the prompt. `generate`: greedy text, whatever
sampling, beams or repetition penalty the folder asks for: an optional thought and then the action; where the text names
no candidate, the candidates are scored instead and both costs are charged. `auto` takes what the model's config asks
for (`"londi": {"mode": ...}`), else `score` where candidates are given and `generate` where not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from londi.config import LocalConfig
from londi.errors import MissingExtraError, ModelError
from londi.lms.base import Decision, closest_candidate, log_softmax, split_thought
from londi.lms.flops import Architecture
from londi.usage import Usage

try:
    import torch
    from torch import Tensor
    from transformers import LogitsProcessorList

    from londi.lms import loading, scoring
    from londi.lms.certainty import Certainty, FirstState
    from londi.lms.memory import in_halves
    from londi.lms.meter import Meter
    from londi.lms.tokens import Tokens
    from londi.lms.tree import PrefixTree
except ImportError as error:
    raise MissingExtraError("transformers", "transformers") from error

Mode = Literal["auto", "score", "generate"]
_PADDING = 1.25
"""Prompts share a forward pass while it is at most so much larger than what is in it."""


class TransformersLM:
    """A Hugging Face model as a `LanguageModel`.

    - `model`: folder or hub id. Raises `ModelError` where it can't be loaded.
    - `mode`: how to decide, see the module.
    - `max_new_tokens`: longest reply in `generate`; None takes the model's own setting, else 64.
    - `system`: system message of a chat model.
    - `device`: `cpu`, `cuda`, `cuda:1`, ...
    - `dtype`: `auto` (as stored), `float32`, `bfloat16`, `float16`.
    - `max_batch`: prompts in one forward pass; lower where memory is short.
    - `local`: chat template, quantisation, adapters and the rest (`londi.config.LocalConfig`).
    - `beside`: another model, whose weights are taken where they are the same: one model at two efforts.
    """

    def __init__(
        self,
        model: str,
        *,
        mode: Mode = "auto",
        max_new_tokens: int | None = None,
        system: str = "",
        device: str = "cpu",
        dtype: str = "auto",
        max_batch: int = 64,
        local: LocalConfig | None = None,
        name: str | None = None,
        beside: object = None,
    ) -> None:
        self.name, self.local = name or Path(model).name, local or LocalConfig()
        where = (model, device, dtype, self.local)
        shared = beside.loaded if isinstance(beside, TransformersLM) and beside.loaded.is_for(*where) else None
        self.loaded: loading.Loaded = shared or loading.load(*where)
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        config = self.model.config
        self.seq2seq = bool(config.is_encoder_decoder)
        wants = getattr(config, "londi", None) or {}
        self.mode: Mode = wants.get("mode", "auto") if mode == "auto" else mode
        self.max_new_tokens = max_new_tokens or wants.get("max_new_tokens", 64)
        self.max_batch = max_batch
        self.context = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.tokens = Tokens(
            self.tokenizer,
            self.name,
            seq2seq=self.seq2seq,
            chat=self.local.chat,
            template=self.local.chat_template,
            system=system,
            context=self.context,
            start=scoring.special(self.model, "decoder_start_token_id") if self.seq2seq else None,
        )
        self.architecture = Architecture.of(self.model)
        self.scorer = scoring.scorer(self.model, self.local.max_batch_tokens)
        self._alike, self._far = scoring.shows_padding(self.model), _far(config.get_text_config())
        eos = self.model.generation_config.eos_token_id
        self._ends: list[int] = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        self._end = self.tokens.end(self._ends)

    @property
    def num_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        return int(self.model.num_parameters())

    @torch.inference_mode()
    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        """Return one decision a prompt; where memory runs out, go on with half of them at a time.

        Raises `ModelError` where a prompt is longer than the context, whatever observations are left out, or more than
        the memory holds.
        """
        if candidates is None and self.mode == "score":
            raise ModelError(f"{self.name} scores candidates, but the environment gives none: set mode = 'generate'")

        def decide(some: Sequence[str]) -> list[Decision]:
            if candidates is None or self.mode == "generate":
                return self._generate(some, candidates)
            return self._score(some, candidates)

        return in_halves(decide, prompts, self.name, self._free)

    def _free(self, most: int) -> None:
        self.max_batch = min(self.max_batch, most)
        if self.loaded.store is not None:
            self.loaded.store.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def worst_case(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Usage]:
        """Return the most tokens that `decide` can use for each prompt."""
        generates = candidates is None or self.mode == "generate"
        scored = 0 if candidates is None else max(1, self._read(self.tokens.candidates(candidates, self._end)))
        room = self._room(candidates, generates)
        cases = []
        for ids in self.tokens.prompts(prompts, room):
            if not generates:
                cases.append(Usage(prompt_tokens=len(ids), completion_tokens=scored))
            else:
                again = candidates is not None  # a reply that names none is followed by scoring
                cases.append(Usage(len(ids) * (1 + again), 0, self.max_new_tokens + scored))
        return cases

    def _room(self, candidates: Sequence[str] | None, generates: bool) -> int:
        """Tokens of the context that the answer may need; none of the encoder's."""
        if self.seq2seq:
            return 0
        longest = 0 if candidates is None else max(map(len, self.tokens.candidates(candidates, self._end)))
        return max(longest, self.max_new_tokens) if generates else longest

    def _read(self, answers: Sequence[Sequence[int]], tree: PrefixTree | None = None) -> int:
        """Tokens read beyond the prompt to score these answers."""
        if isinstance(self.scorer, scoring.CausalScorer):
            return len(PrefixTree.of(answers) if tree is None else tree)
        return sum(map(len, answers))

    def _kind(self, length: int) -> int:
        """Return what prompts in one pass have to have in common, beside the model."""
        return length if self._alike else int(length > self._far)

    def _batches(self, lengths: Sequence[int], kinds: Sequence[int], room: int) -> Iterator[list[int]]:
        """Prompts of a kind and of like length together, as many as the limits on prompts and tokens permit."""
        batch: list[int] = []
        total = 0
        for i in sorted(range(len(lengths)), key=lambda i: (kinds[i], lengths[i])):
            size = lengths[i] + room
            padded = size * (len(batch) + 1)
            full = len(batch) >= self.max_batch or padded > self.local.max_batch_tokens
            if batch and (full or kinds[i] != kinds[batch[0]] or padded > _PADDING * (total + size) + 256):
                yield batch
                batch, total = [], 0
            batch.append(i)
            total += size
        if batch:
            yield batch

    def _score(self, prompts: Sequence[str], candidates: Sequence[str], generates: bool = False) -> list[Decision]:
        """Score the candidates; where a reply was generated first, after the very prompts that it answered."""
        answers = self.tokens.candidates(candidates, self._end)
        rows = self.tokens.prompts(prompts, self._room(candidates, generates))
        tree = PrefixTree.of(answers)
        store = self.loaded.store if isinstance(self.scorer, scoring.CausalScorer) else None
        deepest = max(tree.depth, default=-1) + 1
        kinds = [self._kind(len(ids) + deepest) for ids in rows]
        read, reused = self._read(answers, tree), [None if store is None else store.find(ids) for ids in rows]
        for i, found in enumerate(reused):
            if found and self._kind(len(found[0].ids) + deepest) != kinds[i]:
                reused[i] = None
        new = [len(ids) - (found[1] if found else 0) for ids, found in zip(rows, reused, strict=True)]
        decisions: dict[int, Decision] = {}
        for batch in self._batches(new, kinds, 0 if self.seq2seq else read):
            own = [rows[i] for i in batch]
            with Meter(self.model.device) as meter:
                if isinstance(self.scorer, scoring.CausalScorer):
                    scores, states = self.scorer.score(own, tree, [reused[i] for i in batch], store)
                else:
                    scores, states = self.scorer.score(own, answers)
                logprobs = log_softmax(scores.double().cpu().numpy())
                if np.isnan(logprobs).any():
                    raise ModelError(
                        f"{self.name} gives no numbers (NaN) in {self.model.dtype}: float16 is too narrow for many "
                        "models, bfloat16 and float32 are not"
                    )
                hidden = None if states is None else states.float().cpu().numpy()
            for row, i in enumerate(batch):
                flops = self._flops_of_scoring(len(rows[i]), len(rows[i]) - new[i], answers, read)
                usage = Usage(len(rows[i]), len(rows[i]) - new[i], max(1, read), flops) + meter.share(len(batch))
                best = candidates[int(logprobs[row].argmax())]
                shown = None if hidden is None else hidden[row]
                decisions[i] = Decision(best, usage, tuple(logprobs[row].tolist()), "", shown)
        return [decisions[i] for i in range(len(prompts))]

    def _flops_of_scoring(self, length: int, cached: int, answers: Sequence[Sequence[int]], read: int) -> float:
        if isinstance(self.scorer, scoring.FullScorer):
            return self.architecture.full(length, [len(answer) for answer in answers])
        return self.architecture.scoring(length, len(answers), read, cached)

    def _generate(self, prompts: Sequence[str], candidates: Sequence[str] | None) -> list[Decision]:
        rows = self.tokens.prompts(prompts, self._room(candidates, generates=True))
        decisions: dict[int, Decision] = {}
        lengths = [len(ids) for ids in rows]
        for batch in self._batches(lengths, list(map(self._kind, lengths)), self.max_new_tokens):
            ids, valid = scoring.pad([rows[i] for i in batch], self.model.device, left=not self.seq2seq)
            certainty = Certainty()
            with Meter(self.model.device) as meter, loading.quiet(), FirstState(self.model) as first:
                out = self.model.generate(
                    input_ids=ids,
                    attention_mask=valid,
                    max_new_tokens=self.max_new_tokens,
                    do_sample=False,
                    num_beams=1,
                    repetition_penalty=1.0,  # it would punish the words of the prompt, actions and padding among them
                    pad_token_id=self.tokenizer.pad_token_id,
                    logits_processor=LogitsProcessorList([certainty]),
                )
                new = out[:, 1:] if self.seq2seq else out[:, ids.shape[1] :]
                texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
            counts = _reply_lengths(new, self._ends)
            for row, (i, text, count) in enumerate(zip(batch, texts, counts, strict=True)):
                flops = self.architecture.generating(len(rows[i]), count)
                usage = Usage(len(rows[i]), 0, count, flops) + meter.share(len(batch))
                decision = _decision("<think>" * self.tokens.thinks(rows[i]) + text, candidates, usage)
                hidden = None if first.state is None else first.state[row].numpy()
                logprob, entropy = certainty.of(row, count)
                decisions[i] = replace(decision, hidden=hidden, logprob=logprob, entropy=entropy)
        found = [decisions[i] for i in range(len(prompts))]
        if candidates is not None:
            self._repair(prompts, candidates, found)
        return found

    def _repair(self, prompts: Sequence[str], candidates: Sequence[str], decisions: list[Decision]) -> None:
        lost = [i for i, decision in enumerate(decisions) if not decision.action]
        if not lost:
            return
        for i, scored in zip(lost, self._score([prompts[i] for i in lost], candidates, True), strict=True):
            usage = decisions[i].usage + scored.usage
            decisions[i] = replace(decisions[i], action=scored.action, usage=usage, logprobs=scored.logprobs)


def _far(config: Any) -> float:
    """Return beyond how many tokens all positions are encoded in another way (LongRoPE: Phi), else infinity."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return math.inf
    return float(rope.get("original_max_position_embeddings") or config.max_position_embeddings)


def _decision(text: str, candidates: Sequence[str] | None, usage: Usage) -> Decision:
    """Read a reply: the thought, then the action; no action where the reply names no candidate."""
    thought, answer = split_thought(text)
    if candidates is None:
        return Decision(answer, usage, None, thought)
    action = closest_candidate(answer, candidates)
    if action is not None:
        before = answer[: answer.lower().rfind(action.lower())].strip()
        thought = f"{thought} {before}".strip()
    return Decision(action or "", usage, None, thought)


def _reply_lengths(new: Tensor, ends: Sequence[int]) -> list[int]:
    """Return the number of tokens of each row up to and with its first end-of-text token; `new` is (B, n)."""
    ended = torch.isin(new, torch.tensor(ends, device=new.device, dtype=new.dtype))
    lengths = np.where(ended.any(1).cpu(), ended.int().argmax(1).cpu() + 1, new.shape[1])
    return [max(1, int(n)) for n in lengths]
