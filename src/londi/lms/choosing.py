"""What a server's answer says about each candidate: log-probabilities from tokens, and the action in a reply."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from londi.lms.base import naming, split_thought

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

    Raises ValueError where they are damaged.
    """
    try:
        found = _tokens(choice.get("logprobs") or {})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"log-probabilities of an unknown form: {error!r}") from error
    if not all(isinstance(text, str) for token in found for text in (token.text, *token.top)):
        raise ValueError("tokens that are no text")
    return found


def _tokens(found: Mapping[str, Any]) -> list[Token]:
    if found.get("content"):
        return [
            Token(each["token"], float(each["logprob"]), _top(each.get("top_logprobs") or []))
            for each in found["content"]
        ]
    if not found.get("tokens"):
        return []
    listed = found.get("top_logprobs") or [{}] * len(found["tokens"])
    top = [{text: float(logprob) for text, logprob in (each or {}).items()} for each in listed]
    values = [math.nan if value is None else float(value) for value in found["token_logprobs"]]
    return [Token(*each) for each in zip(found["tokens"], values, top, strict=True)]


def _top(entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return _summed((entry["token"], float(entry["logprob"])) for entry in entries)


def _summed(entries: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text; tokens of the same text add up."""
    found: dict[str, float] = {}
    for text, logprob in entries:
        found[text] = float(np.logaddexp(found[text], logprob)) if text in found else logprob
    return found


def lowered(reply: Sequence[Token]) -> list[Token]:
    """The same tokens without capitals."""
    found = []
    for token in reply:
        text, top = token.text.lower(), _summed((text.lower(), p) for text, p in token.top.items())
        found.append(Token(text, max(token.logprob, top.get(text, -math.inf)), top))
    return found


def along_reply(reply: Sequence[Token], lead: str, tail: str, candidates: Sequence[str]) -> NDArray[np.float64]:
    """Log-probability (K,) of each candidate's branch, from the tokens of one greedy reply.

    Each candidate would have been the reply `lead` + candidate, and `tail` where it begins another one. As long as the
    reply agrees with that, its tokens count; where they part, the tokens among the likeliest that go on as the
    candidate does. What follows then is not known: candidates that leave the reply by the same tokens share their
    probability evenly. If no likely token goes on like a candidate, the least likely one listed is the bound.
    """
    longer = [[other for other in candidates if other != each and other.startswith(each)] for each in candidates]
    wanted = [f"{lead}{each}{tail if more else ''}" for each, more in zip(candidates, longer, strict=True)]
    found = [_branch(reply, lead, text) for text in wanted]
    branches = [branch for _, branch in found]
    shared = [1 if branch is None else branches.count(branch) for branch in branches]
    ends = [
        0.0 if tail else _end(reply, lead + each, lead, more) for each, more in zip(candidates, longer, strict=True)
    ]
    return np.array([score for score, _ in found]) - np.log(shared) + ends


def _end(reply: Sequence[Token], wanted: str, lead: str, longer: Sequence[str]) -> float:
    """The most, in nats, that the end of `wanted` adds where the reply goes on after it as a longer candidate does.

    The end is at most as likely as the token that was written there instead, and as all that was not.
    """
    text = ""
    for token in reply:
        text += token.text
        if len(text) > len(wanted):
            going = any(f"{lead}{other}".startswith(text) or text.startswith(f"{lead}{other}") for other in longer)
            other = math.log(max(1e-9, -math.expm1(min(0.0, token.logprob))))
            return min(token.logprob, other) if going else 0.0
    return 0.0


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
    if at < len(wanted):  # the reply ended here, which was the likeliest: going on is at most as likely
        return total - math.log(2), (len(reply), ())
    return total, None


def echoed(choice: Mapping[str, Any], prompt: str, answer: str) -> float:
    """Sum the log-probabilities of `answer` in an echo of `prompt` + `answer`.

    Raises ValueError where the tokens are not those of this text, or do not begin anew with the answer.
    """
    at, total, begun = 0, 0.0, False
    found = tokens(choice)
    if found and math.isnan(found[0].logprob) and not prompt.startswith(found[0].text):
        found = found[1:]  # what a tokenizer puts before every text
    if not "".join(token.text for token in found).startswith(prompt + answer):
        raise ValueError("the tokens are not those of the text")
    for token in found:
        end = at + len(token.text)
        if end > len(prompt) and at < len(prompt) + len(answer):
            if at < len(prompt) and prompt[at:].strip():
                raise ValueError("a token lies across the end of the prompt")
            total, begun = total + token.logprob, True
        at = end
    if not begun or math.isnan(total):
        raise ValueError("the answer was not echoed")
    return total


def ended(answers: Sequence[str]) -> list[str]:
    """The answers, each with the end of its line where one begins another: else that one could never be the worse."""
    begins = any(other != each and other.startswith(each) for each in answers for other in answers)
    return [f"{each}\n" for each in answers] if begins else list(answers)


def next_token(top: Mapping[str, float], rest: str) -> tuple[str, float] | None:
    """The longest of the likeliest tokens that `rest` begins with, and its log-probability.

    At the end of a line, every token that ends it counts.
    """
    if rest == "\n":
        ends = [logprob for text, logprob in top.items() if text.startswith(rest)]
        return (rest, float(np.logaddexp.reduce(ends))) if ends else None
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


def cut_action(text: str, candidates: Sequence[str]) -> str | None:
    """The candidate with which a reply begins that was cut off; None where it may have been about to name another."""
    text = text.lstrip().lower()
    if any(each.lower() != text and each.lower().startswith(text) for each in candidates):
        return None
    return max((each for each in candidates if naming(each).match(text)), key=len, default=None)


def guided_frame(text: str, action: str, candidates: Sequence[str]) -> tuple[str, str, list[str]] | None:
    """What stands before and after the action in a reply to `schema`, and the candidates as they would be spelt there.

    None where it can't be told how the candidates would be spelt.
    """
    found = re.search(rf'"{KEY}"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    for ascii_only in (False, True):
        spelt = [json.dumps(each, ensure_ascii=ascii_only)[1:-1] for each in (action, *candidates)]
        if found and found[1] == spelt[0]:
            return text[: found.start(1)], '"', spelt[1:]
    return None


def check(data: dict[str, Any]) -> None:
    """See that an answer can be read by `read`; raises KeyError, IndexError, TypeError or AttributeError."""
    read(data)


def read(data: dict[str, Any]) -> tuple[str, str]:
    """The thought and the text of an answer that `check` has seen."""
    choice = data["choices"][0]
    if "message" not in choice:
        return split_thought(choice["text"])
    message = choice["message"]
    begun, content = _parts(message.get("content") or "")
    thought, text = split_thought(content)
    own = message.get("reasoning_content") or message.get("reasoning") or begun
    return f"{own}\n{thought}".strip(), text


def _parts(content: Any) -> tuple[str, str]:
    """Thought and text of a message's content, given as such or in parts."""
    if isinstance(content, str):
        return "", content
    found = {"thinking": "", "text": ""}
    for part in content:
        inner = part.get(part["type"], "") if part["type"] in found else ""
        found[part["type"]] = found.get(part["type"], "") + (inner if isinstance(inner, str) else _parts(inner)[1])
    return found["thinking"], found["text"]


def cut_off(data: dict[str, Any]) -> bool:
    """Whether the reply was longer than was allowed."""
    return bool(data["choices"][0].get("finish_reason") == "length")
