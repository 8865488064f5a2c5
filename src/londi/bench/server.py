"""A scripted OpenAI-compatible server on loopback: for tests and `londi bench http`.

It answers from a known distribution over actions, breaks as told, and keeps a ledger of every request. What a client
finds out about it, counts and charges can so be compared with the truth.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

Fault = Literal["busy", "busy, says when", "broken", "reset", "cut off", "slow", "no JSON", "no choices"]
FAULTS: tuple[Fault, ...] = ("busy", "busy, says when", "broken", "reset", "cut off", "slow", "no JSON", "no choices")
REFUSED: tuple[Fault, ...] = ("busy", "busy, says when")
"""Answered 429: not worked on, so that they cost no tokens."""


@dataclass(slots=True)
class Entry:
    """One request in the ledger."""

    path: str
    text: str
    """The prompt, or the last message."""
    body: dict[str, Any]
    fault: Fault | None = None
    reported: tuple[int, int] | None = None
    """Prompt and completion tokens that the answer names, where it names them and all of it was sent."""
    authorization: str = ""


@dataclass
class Script:
    """What the server is like."""

    actions: tuple[str, ...] = ("turn left", "turn right", "go forward", "pick up")
    chat: bool = True
    completions: bool = True
    logprobs: bool = True
    echo: bool = True
    guided: bool = True
    reply: str = ""
    """What it says, whatever it is asked; empty for the likeliest action."""
    faults: Mapping[Fault, float] = field(default_factory=dict)
    """How often each happens, as shares of the requests."""
    plan: Sequence[Fault | None] = ()
    """What happens to the first requests, one by one; before `faults`."""
    latency: float = 0.0
    seed: int = 0

    def distribution(self, prompt: str) -> dict[str, float]:
        """The probability of each action after a prompt."""
        weights = [int.from_bytes(hashlib.sha256(f"{prompt}|{a}".encode()).digest()[:4]) + 1 for a in self.actions]
        scores = [(weight / 2**32) ** 3 for weight in weights]
        return {action: score / sum(scores) for action, score in zip(self.actions, scores, strict=True)}


def tokenise(text: str) -> list[str]:
    """Split into words, each with the space before it; what the text ends with is one more."""
    return re.findall(r"\s*\S+|\s+\Z", text)


class ScriptedServer:
    """Runs a `Script` on a free port in a thread, as a context manager; `url` ends with /v1."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or Script()
        self.ledger: list[Entry] = []
        self._random = random.Random(self.script.seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop)
        self._server = starting.result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client went away, or the server is stopped
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False where the connection is to be closed."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _ = head.split(" ", 2)
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head.split("\r\n")[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = path.removeprefix("/v1")
        if method == "GET":
            listed = {"data": [{"id": "toy", "max_model_len": 4096}]} if path == "/models" else {}
            return await _send(writer, 200 if listed else 404, listed)
        data = json.loads(body)
        text = data["messages"][-1]["content"] if path == "/chat/completions" else data.get("prompt", "")
        entry = Entry(path, text, data, authorization=headers.get("authorization", ""))
        entry.fault = self._fault(len(self.ledger))
        self.ledger.append(entry)
        await asyncio.sleep(self.script.latency)
        return await self._answer(entry, writer)

    def _fault(self, number: int) -> Fault | None:
        if number < len(self.script.plan):
            return self.script.plan[number]
        draw = self._random.random()
        for fault, share in self.script.faults.items():
            draw -= share
            if draw < 0:
                return fault
        return None

    async def _answer(self, entry: Entry, writer: asyncio.StreamWriter) -> bool:
        fault = entry.fault
        if fault in REFUSED:
            error = {"error": {"message": "too many requests"}}
            return await _send(writer, 429, error, {"retry-after": "0.02"} if fault == "busy, says when" else {})
        if fault == "broken":
            return await _send(writer, 500, {"error": {"message": "out of memory"}})
        if fault == "reset":
            writer.transport.abort()
            return False
        status, answer = answer_of(self.script, entry)
        sent = json.dumps(answer).encode()
        if fault == "slow":
            await asyncio.sleep(60)
        if fault == "cut off":
            await _send_raw(writer, status, sent[: len(sent) // 2], len(sent))
            return False
        if fault == "no JSON":
            sent = b"<html>" + sent[:20]
        if fault == "no choices":
            sent = json.dumps({**answer, "choices": []}).encode()
        if status == 200 and fault != "no JSON":
            usage = answer["usage"]
            entry.reported = usage["prompt_tokens"], usage["completion_tokens"]
        await _send_raw(writer, status, sent, len(sent))
        return True


async def _send(
    writer: asyncio.StreamWriter, status: int, data: object, headers: Mapping[str, str] | None = None
) -> bool:
    sent = json.dumps(data).encode()
    await _send_raw(writer, status, sent, len(sent), headers)
    return True


async def _send_raw(
    writer: asyncio.StreamWriter, status: int, sent: bytes, length: int, headers: Mapping[str, str] | None = None
) -> None:
    lines = [f"HTTP/1.1 {status} Scripted", f"content-length: {length}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + sent)
    await writer.drain()


def answer_of(script: Script, entry: Entry) -> tuple[int, dict[str, Any]]:
    """Return status and body of an answer to a request that nothing happened to."""
    chat, body = entry.path == "/chat/completions", entry.body
    if body.get("model") != "toy":
        return 404, {"error": {"message": f"the model {body.get('model')} does not exist"}}
    if entry.path not in ("/chat/completions", "/completions") or not (script.chat if chat else script.completions):
        return 404, {"error": {"message": "not found"}}
    if body.get("logprobs") and not script.logprobs:
        return 400, {"error": {"message": "logprobs are not supported"}}
    if body.get("response_format") and not script.guided:
        return 400, {"error": {"message": "response_format is not supported"}}
    choice, written = _chat(script, entry) if chat else _completion(script, entry)
    read = len(tokenise(entry.text))
    usage = {"prompt_tokens": read, "completion_tokens": written, "prompt_tokens_details": {"cached_tokens": read // 2}}
    return 200, {"choices": [choice], "usage": usage}


def _next(script: Script, prompt: str, begun: str) -> dict[str, float]:
    """Log-probabilities of the next token after the beginning of an action: its space before it, a line's end after."""
    found: dict[str, float] = {}
    for action, p in script.distribution(prompt).items():
        whole = f" {action}\n"
        if whole.startswith(begun) and whole != begun:
            token = tokenise(whole[len(begun) :])[0]
            found[token] = found.get(token, 0.0) + p
    total = sum(found.values())
    return {token: math.log(p / total) for token, p in found.items()}


def _completion(script: Script, entry: Entry) -> tuple[dict[str, Any], int]:
    prompt, colon, begun = entry.text.rpartition(":")
    prompt, begun = (prompt + colon, begun) if colon else (entry.text, "")
    top = _next(script, prompt, begun)
    token = max(top, key=lambda token: top[token], default=" end")
    shown: list[tuple[str, float | None, dict[str, float]]] = [(token, top.get(token, 0.0), top)]
    text = token
    if entry.body.get("echo") and script.echo:
        before, at = [], ""
        for word in tokenise(begun):
            likely = _next(script, prompt, at)
            before.append((word, likely.get(word, -20.0), likely))
            at += word
        shown = [*((word, None, {}) for word in tokenise(prompt)), *before, *shown]
        text = entry.text + token
    choice: dict[str, Any] = {"text": text, "finish_reason": "length"}
    if entry.body.get("logprobs"):
        words, values, tops = zip(*shown, strict=True)
        choice["logprobs"] = {"tokens": words, "token_logprobs": values, "top_logprobs": tops}
    return choice, 1


def _chat(script: Script, entry: Entry) -> tuple[dict[str, Any], int]:
    permitted = script.actions
    wanted = entry.body.get("response_format")
    if wanted:
        permitted = tuple(wanted["json_schema"]["schema"]["properties"]["action"]["enum"])
    likely = {action: p for action, p in script.distribution(entry.text).items() if action in permitted}
    action = max(likely, key=lambda action: likely[action]) if likely else permitted[0]
    text = script.reply or action
    tokens = [{"token": word, "logprob": 0.0, "top_logprobs": []} for word in tokenise(text)]
    if not script.reply and likely:
        tokens = _scored(script, entry.text, action)
    if wanted and not script.reply:
        text = json.dumps({"action": action})
        quote = {"logprob": 0.0, "top_logprobs": []}
        tokens = [{"token": '{"action": "', **quote}, *tokens, {"token": '"}', **quote}]
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    if entry.body.get("logprobs"):
        choice["logprobs"] = {"content": tokens}
    return choice, len(tokens)


def _scored(script: Script, prompt: str, action: str) -> list[dict[str, Any]]:
    """The tokens of an action as chat shows them, the first without a space."""
    tokens, begun = [], ""
    for word in tokenise(f" {action}"):
        top = _next(script, prompt, begun)
        entries = [{"token": token if begun else token[1:], "logprob": value} for token, value in top.items()]
        tokens.append({"token": word if begun else word[1:], "logprob": top[word], "top_logprobs": entries})
        begun += word
    return tokens
