"""What a server's answer says about each candidate: log-probabilities from tokens, and the action in a reply."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "action"
"""The one property of a guided reply."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token that a server wrote."""

    text: str
    logprob: float
    top: Mapping[str, float]
    """Log-probabilities of the likeliest tokens at its place, by their text."""


def tokens(choice: Mapping[str, Any]) -> list[Token]:
    """Read the log-probabilities of a choice, as chat and as completions give them; empty where there are none.

    Raises ValueError, KeyError or TypeError where they are damaged.
    """
    found = choice.get("logprobs") or {}
    if found.get("content"):
        return [
            Token(each["token"], float(each["logprob"]), _top(each.get("top_logprobs") or []))
            for each in found["content"]
        ]
    if not found.get("tokens"):
        return []
    top = found.get("top_logprobs") or [{}] * len(found["tokens"])
    values = [math.nan if value is None else float(value) for value in found["token_logprobs"]]
    return [Token(*each) for each in zip(found["tokens"], values, [each or {} for each in top], strict=True)]


def _top(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for entry in entries:
        text, logprob = entry["token"], float(entry["logprob"])
        found[text] = float(np.logaddexp(found[text], logprob)) if text in found else logprob
    return found


def along_reply(reply: Sequence[Token], lead: str, tail: str, candidates: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability (K,) of each candidate's branch, from the tokens of one greedy reply.

    Each candidate would have been the reply `lead` + candidate, and `tail` where it begins another one. As long as the
    reply agrees with that, its tokens count; where they part, the tokens among the likeliest that go on as the
    candidate does. What follows then is not known: candidates that leave the reply by the same tokens share their
    probability evenly. If no likely token goes on like a candidate, the least likely one listed is the bound.
    """
    begins = [any(other != each and other.startswith(each) for other in candidates) for each in candidates]
    wanted = [f"{lead}{each}{tail if more else ''}" for each, more in zip(candidates, begins, strict=True)]
    found = [_branch(reply, lead, text) for text in wanted]
    branches = [branch for _, branch in found]
    shared = [1 if branch is None else branches.count(branch) for branch in branches]
    return np.array([score for score, _ in found]) - np.log(shared)


def _branch(reply: Sequence[Token], lead: str, wanted: str) -> tuple[float, tuple[int, tuple[str, ...]] | None]:
    """The score of one candidate, and by which tokens it leaves the reply; None for the reply itself."""
    at, total = 0, 0.0
    for place, token in enumerate(reply):
        if at >= len(wanted):
            break
        end = at + len(token.text)
        if token.text and (wanted.startswith(token.text, at) or token.text.startswith(wanted[at:])):
            if end > len(lead):
                total += token.logprob
        else:
            going = {text: logprob for text, logprob in token.top.items() if text and wanted.startswith(text, at)}
            if going:
                return total + float(np.logaddexp.reduce([*going.values()])), (place, tuple(going))
            return total + min([*token.top.values(), token.logprob]), None
        at = end
    return total, None


def echoed(choice: Mapping[str, Any], prompt: str, answer: str) -> float:
    """Sum the log-probabilities of `answer` in an echo of `prompt` + `answer`.

    Raises ValueError where the tokens do not begin anew with the answer.
    """
    at, total, begun = 0, 0.0, False
    for token in tokens(choice):
        end = at + len(token.text)
        if end > len(prompt) and at < len(prompt) + len(answer):
            if at < len(prompt) and prompt[at:].strip():
                raise ValueError("a token lies across the end of the prompt")
            total, begun = total + token.logprob, True
        at = end
    if not begun or math.isnan(total):
        raise ValueError("the answer was not echoed")
    return total


def next_token(top: Mapping[str, float], rest: str) -> tuple[str, float] | None:
    """The longest of the likeliest tokens that `rest` begins with, and its log-probability."""
    fitting = [(text, logprob) for text, logprob in top.items() if text and rest.startswith(text)]
    return max(fitting, key=lambda item: len(item[0])) if fitting else None


def schema(candidates: Sequence[str]) -> dict[str, Any]:
    """A response format that permits the candidates and nothing else."""
    action = {"type": "string", "enum": list(candidates)}
    body = {"type": "object", "properties": {KEY: action}, "required": [KEY], "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "decision", "strict": True, "schema": body}}


def guided_action(text: str, candidates: Sequence[str]) -> str | None:
    """The action of a reply to `schema`; None where it is none of the candidates, or cut off."""
    try:
        found = json.loads(text)[KEY]
    except (ValueError, KeyError, TypeError):
        return None
    return found if found in candidates else None


def guided_frame(text: str, action: str) -> tuple[str, str]:
    """What stands before and after the action in such a reply, quotation marks included."""
    value = json.dumps(action, ensure_ascii=False)[1:-1]
    start = text.rfind(value)
    return text[:start], text[start + len(value) : start + len(value) + 1]
