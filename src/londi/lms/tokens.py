"""From prompts and candidates to token ids: chat templates, special tokens, and what does not fit the context."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Literal

from jinja2 import TemplateError

from londi.errors import ConfigError, ModelError
from londi.prompt import Prompt

_ANCHOR = "act:"
"""Candidates are split as they would be after it: some tokenizers treat the first word of a text differently."""


class Tokens:
    """The tokenizer of a model, with its conventions.

    - `chat`: whether a prompt is the user's message in the model's chat template, with `system` before it where that
      is given; `auto` where the tokenizer has a template. `template` are arguments of the template.
    - `context`: tokens that the model can read; None for no limit.
    - `start`: what an encoder-decoder's decoder is given first.

    Special tokens (BOS, the end of text of T5) are those that tokenizer or template add by themselves, once.
    Raises `ConfigError` for `chat = "always"`, or a system message, without a template.
    """

    def __init__(
        self,
        tokenizer: Any,
        name: str,
        *,
        seq2seq: bool = False,
        chat: Literal["auto", "always", "never"] = "auto",
        template: dict[str, Any] | None = None,
        system: str = "",
        context: int | None = None,
        start: int | None = None,
    ) -> None:
        self.tokenizer, self.name, self.seq2seq, self.context, self.start = tokenizer, name, seq2seq, context, start
        has_template = getattr(tokenizer, "chat_template", None) is not None
        if chat == "always" and not has_template:
            raise ConfigError(f"{name} has no chat template: local.chat must be 'auto' or 'never'")
        self.chat = chat != "never" and has_template
        if system and not self.chat:
            raise ConfigError(
                f"{name} is not used as a chat model and takes no system message: use env.prompt.instructions"
            )
        self.system, self.template = system, template or {}
        self._answers: dict[tuple[tuple[str, ...], int | None], list[list[int]]] = {}
        self._warned = False

    def prompts(self, prompts: Sequence[str], room: int) -> list[list[int]]:
        """Return the ids of each prompt, which leave `room` tokens of the context.

        A `Prompt` that is too long loses its oldest observations, with a warning the first time. Raises `ModelError`
        where that is not enough, or the prompt is plain text: nothing is ever cut out of the middle. Also for a prompt
        without tokens.
        """
        rows = self._encode(prompts)
        if not all(rows):
            raise ModelError(f"the tokenizer of {self.name} has no tokens for the prompt {prompts[rows.index([])]!r}")
        for i, prompt in enumerate(prompts):
            if self.context is not None and len(rows[i]) + room > self.context:
                rows[i] = self._shortened(prompt, len(rows[i]), room)
        return rows

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        if not prompts:
            return []
        if not self.chat:
            return list(self.tokenizer([str(prompt) for prompt in prompts]).input_ids)
        texts = [self._chat(prompt) for prompt in prompts]
        return list(self.tokenizer(texts, add_special_tokens=False).input_ids)  # the template has written its own

    def _chat(self, prompt: str) -> str:
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": str(prompt)})
        return self._render(messages, add_generation_prompt=True)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=add_generation_prompt, **self.template
            )
        except TemplateError as error:  # such as a template that knows no system message
            raise ModelError(f"the chat template of {self.name} refuses the prompt: {error}") from error
        return text

    def end(self, ends: Sequence[int]) -> int | None:
        """Return which of the model's end tokens ends an answer: in a chat the one that its template writes there."""
        if self.chat:
            said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANCHOR}]
            after = self._render(said, add_generation_prompt=False).rpartition(_ANCHOR)[2].lstrip()
            first = self.tokenizer(after, add_special_tokens=False).input_ids[:1]
            if first and first[0] in ends:
                return int(first[0])
        own = self.tokenizer.eos_token_id
        return own if own in ends or not ends else ends[0]

    def thinks(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends within a thought, as some chat templates have it."""
        return str(self.tokenizer.decode(ids[-8:])).rstrip().endswith("<think>")

    def _shortened(self, prompt: str, length: int, room: int) -> list[int]:
        assert self.context is not None
        most = self.context - room
        if isinstance(prompt, Prompt):
            counts = range(1, len(prompt.turns))
            # the fewest that have to go, found in a logarithm of tries
            at = bisect_left(counts, True, key=lambda count: len(self._without(prompt, count)) <= most)
            if at < len(counts):
                self._warn(counts[at])
                return self._without(prompt, counts[at])
        raise ModelError(
            f"a prompt of {length + room} tokens, answer included, does not fit the context of {self.name} "
            f"({self.context}): show fewer observations or actions (env.prompt)"
        )

    def _without(self, prompt: Prompt, count: int) -> list[int]:
        shorter = prompt.without_oldest(count)
        assert shorter is not None
        return self._encode([shorter])[0]

    def _warn(self, dropped: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"prompts longer than the context of {self.name} ({self.context} tokens) are shown without their "
                f"oldest observations (here {dropped}); this is said once",
                stacklevel=2,
            )

    def candidates(self, candidates: Sequence[str], end: int | None) -> list[list[int]]:
        """Return the ids of each candidate, as they follow a prompt; with `end` where one begins another.

        Raises `ModelError` where there are no candidates, and for those without tokens or with the same ones.
        """
        key = tuple(candidates), end
        if key not in self._answers:
            self._answers[key] = self._answered(key[0], end)
        return self._answers[key]

    def _answered(self, candidates: Sequence[str], end: int | None) -> list[list[int]]:
        if not candidates:
            raise ModelError(f"{self.name} has no candidates to choose among; free text is candidates = None")
        rows = [self._answer(text) if text else [] for text in candidates]
        if not all(rows):
            raise ModelError(f"the tokenizer of {self.name} has no tokens for {candidates[rows.index([])]!r}")
        first: dict[tuple[int, ...], str] = {}
        for text, row in zip(candidates, rows, strict=True):
            if first.setdefault(tuple(row), text) != text:
                raise ModelError(f"the tokenizer of {self.name} can't tell {first[tuple(row)]!r} and {text!r} apart")
        if not self.seq2seq and any(a != b and b[: len(a)] == a for a in rows for b in rows):
            # without an end, a candidate that begins another could never be the less likely one
            if end is None:
                raise ModelError(f"{self.name} has no end of text, and one of the candidates begins another")
            rows = [[*row, end] for row in rows]
        return rows

    def _answer(self, text: str) -> list[int]:
        def ids(text: str) -> list[int]:
            found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
            return found

        if self.seq2seq:
            return self._target(text)
        if self.chat:
            return ids(text)
        before, whole = ids(_ANCHOR), ids(f"{_ANCHOR} {text}")
        return whole[len(before) :] if before and whole[: len(before)] == before else ids(f" {text}")

    def _target(self, text: str) -> list[int]:
        """Ids after the decoder's start and without the end; BART's begin with a token of their own."""
        found = list(self.tokenizer(text_target=text).input_ids)
        if found[:1] == [self.start]:
            found = found[1:]
        return found[:-1] if found[-1:] == [self.tokenizer.eos_token_id] else found
