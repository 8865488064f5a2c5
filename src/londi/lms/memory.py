"""What to do when a batch is more than the memory holds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from londi.errors import ModelError

Answer = TypeVar("Answer")
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""How torch says so on devices for which it has no error of its own, the CPU among them."""


def ran_out(error: BaseException) -> bool:
    """Whether this error says that memory is short."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def in_halves(
    decide: Callable[[Sequence[str]], list[Answer]], prompts: Sequence[str], name: str, free: Callable[[int], None]
) -> list[Answer]:
    """Return what `decide` answers to all prompts; where memory runs out, each half of them is decided on its own.

    `free(n)` is told before that at most n prompts fit at a time. Raises `ModelError` where one prompt is too much.
    """
    try:
        return decide(prompts)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        if len(prompts) == 1:
            raise ModelError(
                f"{name} runs out of memory on a single prompt: lower max_new_tokens or local.cache_mb, show less of "
                "the episode (env.prompt), or take a smaller dtype"
            ) from error
    middle = len(prompts) // 2  # outside of the handler: what the error refers to is free by now
    warnings.warn(f"{name} ran out of memory on {len(prompts)} prompts: going on with {middle} at a time", stacklevel=2)
    free(middle)
    return [answer for part in (prompts[:middle], prompts[middle:]) for answer in in_halves(decide, part, name, free)]
