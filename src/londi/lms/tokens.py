"""From prompts and candidates to token ids: chat templates, special tokens, and what does not fit the context."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

from londi.errors import ConfigError, ModelError
from londi.prompt import Prompt

_ANCHOR = "act:"
"""Candidates are split as they would be after it: some tokenizers treat the first word of a text differently."""


class Tokens:
    """The tokenizer of a model, with its conventions.

    - `chat`: whether a prompt is the user's message in the model's chat template, with `system` before it where that
      is given; `auto` where the tokenizer has a template. `template` are arguments of the template.
    - `context`: tokens that the model can read; None for no limit.

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
    ) -> None:
        self.tokenizer, self.name, self.seq2seq, self.context = tokenizer, name, seq2seq, context
        has_template = getattr(tokenizer, "chat_template", None) is not None
        if chat == "always" and not has_template:
            raise ConfigError(f"{name} has no chat template: local.chat must be 'auto' or 'never'")
        self.chat = chat != "never" and has_template
        if system and not self.chat:
            raise ConfigError(
                f"{name} is not used as a chat model and takes no system message: use env.prompt.instructions"
            )
        self.system, self.template = system, template or {}
        self._answers: dict[tuple[tuple[str, ...], int], list[list[int]]] = {}
        self._warned = False

    def prompts(self, prompts: Sequence[str], room: int) -> list[list[int]]:
        """Return the ids of each prompt, which leave `room` tokens of the context.

        A `Prompt` that is too long loses its oldest observations, with a warning the first time. Raises `ModelError`
        where that is not enough, or the prompt is plain text: nothing is ever cut out of the middle.
        """
        rows = self._encode(prompts)
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
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **self.template
        )
        return text

    def _shortened(self, prompt: str, length: int, room: int) -> list[int]:
        assert self.context is not None
        shorter = prompt
        while isinstance(shorter, Prompt):
            less = shorter.without_oldest()
            if less is None:
                break
            shorter = less
            ids = self._encode([shorter])[0]
            if len(ids) + room <= self.context:
                self._warn(len(prompt.turns) - len(shorter.turns) if isinstance(prompt, Prompt) else 0)
                return ids
        raise ModelError(
            f"a prompt of {length + room} tokens, answer included, does not fit the context of {self.name} "
            f"({self.context}): show fewer observations or actions (env.prompt)"
        )

    def _warn(self, dropped: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"prompts longer than the context of {self.name} ({self.context} tokens) are shown without their "
                f"oldest observations (here {dropped}); this is said once",
                stacklevel=2,
            )

    def candidates(self, candidates: Sequence[str], end: int) -> list[list[int]]:
        """Return the ids of each candidate, as they follow a prompt; with `end` where one begins another.

        Raises `ModelError` for a candidate without tokens.
        """
        key = tuple(candidates), end
        if key not in self._answers:
            rows = [self._answer(text) for text in candidates]
            if not all(rows):
                raise ModelError(f"the tokenizer of {self.name} has no tokens for {candidates[rows.index([])]!r}")
            if not self.seq2seq and any(a != b and b[: len(a)] == a for a in rows for b in rows):
                # without an end, a candidate that begins another could never be the less likely one
                rows = [[*row, end] for row in rows]
            self._answers[key] = rows
        return self._answers[key]

    def _answer(self, text: str) -> list[int]:
        def ids(text: str) -> list[int]:
            found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
            return found

        if self.seq2seq or self.chat:
            return ids(text)
        before, whole = ids(_ANCHOR), ids(f"{_ANCHOR} {text}")
        return whole[len(before) :] if before and whole[: len(before)] == before else ids(f" {text}")
