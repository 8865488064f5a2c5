"""`londi bench http`: many requests at a time against a server that breaks, and what they are charged."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from londi.bench.base import result, row
from londi.bench.server import FAULTS, REFUSED, Entry, Script, ScriptedServer
from londi.config import ServerConfig
from londi.lms.base import Decision
from londi.lms.http import HTTPLM

SHARE, SLOW = 0.05, 0.01
"""Share of the requests that each fault befalls; slow answers are rarer, since each takes the whole timeout."""
TIMEOUT, ATTEMPTS, LATENCY = 3.0, 4, 0.02
"""A timeout of seconds: a busy machine can hold up an answer for one, which is then no fault of the server."""
REPLY = 32


def bench_http(
    requests: int = 2_000, concurrency: int = 64, seed: int = 0, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Decide on `requests` prompts, `concurrency` at a time, while an eighth of the answers or more goes wrong.

    `checks` compare decisions and charges with the server's ledger; `passed` is whether all hold.
    """
    faults = {fault: SLOW if fault == "slow" else SHARE for fault in FAULTS}
    with ScriptedServer(Script(faults=faults, plan=(None,) * 4, latency=LATENCY / 4, seed=seed)) as server:
        lm = _model(server, concurrency, seed)
        # the first requests find out what the server can do; they are no decisions
        lm.check()
        server.ledger.clear()
        prompts = [f"request {i} act:" for i in range(requests)]
        decisions: list[Decision] = []
        begun = time.perf_counter()
        for first in range(0, requests, 8 * concurrency):
            decisions += lm.decide(prompts[first : first + 8 * concurrency], server.script.actions)
            progress(len(decisions))
        seconds = time.perf_counter() - begun
        lm.close()
        checks = _checks(lm, prompts, decisions, server)
        injected = {fault: sum(entry.fault == fault for entry in server.ledger) for fault in FAULTS}
        sent = len(server.ledger)
    found = result("http", [_throughput(concurrency, seed)])
    about = {"requests": sent, "seconds": seconds, "faults": injected, "failed": sum(bool(d.error) for d in decisions)}
    return found | about | {"checks": checks, "passed": all(check["passed"] for check in checks.values())}


def _model(server: ScriptedServer, concurrency: int, seed: int) -> HTTPLM:
    settings = ServerConfig(
        server.url, "", "chat", "generate", concurrency=concurrency, attempts=ATTEMPTS, timeout=TIMEOUT
    )
    return HTTPLM("toy", settings, max_new_tokens=REPLY, seed=seed)


def _checks(lm: HTTPLM, prompts: list[str], decisions: list[Decision], server: ScriptedServer) -> dict[str, Any]:
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in server.ledger:
        entries[entry.text.partition("\n")[0]].append(entry)
    lost = doubled = wrong = miscounted = uncharged = 0
    for prompt, decision in zip(prompts, decisions, strict=True):
        own = entries[prompt]
        tokens = sum(_cost(lm, prompt, server.script.actions, entry) for entry in own)
        miscounted += decision.usage.requests != len(own)
        lost += max(0, tokens - decision.usage.tokens)
        doubled += max(0, decision.usage.tokens - tokens)
        delivered = [entry.fault is None for entry in own]
        ended = delivered.index(True) + 1 if True in delivered else ATTEMPTS
        wrong += len(own) != ended or bool(decision.error) == (True in delivered)
        if True in delivered:
            right = server.script.distribution(own[-1].text)
            wrong += decision.action != max(right, key=lambda action: right[action])
        uncharged += decision.usage.tokens > lm.worst_case([prompt], server.script.actions)[0].tokens
    found = {
        "requests that the client counted otherwise than the server": miscounted,
        "tokens that the server used and nobody was charged for": lost,
        "tokens charged that the server did not use": doubled,
        "decisions not retried, delivered or given up as they should be": wrong,
        "decisions charged more than their worst case": uncharged,
    }
    return {what: {"count": count, "passed": count == 0} for what, count in found.items()}


def _cost(lm: HTTPLM, prompt: str, actions: tuple[str, ...], entry: Entry) -> int:
    """What an attempt is to cost: what the server reported, or the worst case where it may have worked in vain."""
    if entry.fault in REFUSED:
        return 0
    if entry.reported is not None and entry.fault != "slow":
        return sum(entry.reported)
    return lm.most(prompt, actions).prompt_tokens + int(entry.body["max_tokens"])


def _throughput(concurrency: int, seed: int, count: int = 256) -> dict[str, Any]:
    """Decisions a second from a server that takes 20 ms for each, many at a time against one."""
    speeds = []
    with ScriptedServer(Script(latency=LATENCY, seed=seed)) as server:
        for at_once in (concurrency, 1):
            lm = _model(server, at_once, seed)
            prompts = [f"request {i} act:" for i in range(count if at_once > 1 else count // 8)]
            lm.decide(prompts[:1], server.script.actions)
            begun = time.perf_counter()
            lm.decide(prompts, server.script.actions)
            speeds.append(len(prompts) / (time.perf_counter() - begun))
            lm.close()
    return row(f"{concurrency} requests at a time against one", speeds[0], speeds[1], "decisions a second")
