"""A replica of a model: what several callers ask is decided together, and what goes wrong there reaches all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from threading import Event
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")

from londi import lms
from londi.config import ModelConfig
from londi.errors import ModelError
from londi.lms.base import Decision
from londi.lms.replicas import _Replica
from londi.usage import Usage

LEFT_RIGHT, UP = ("left", "right"), ("up",)


class Blocking:
    """Repeats each prompt beside the last candidate; holds its first batch until it is let go, and may fail then."""

    name = "blocking"

    def __init__(self, failure: BaseException | None = None) -> None:
        self.begun, self.free, self.failure = Event(), Event(), failure
        self.batches: list[tuple[list[str], Sequence[str] | None]] = []

    def decide(self, prompts: Sequence[str], candidates: Sequence[str] | None = None) -> list[Decision]:
        self.batches.append((list(prompts), candidates))
        if not self.begun.is_set():
            self.begun.set()
            assert self.free.wait(30)
        elif self.failure and prompts[0] != "last":
            raise self.failure
        return [Decision(f"{prompt} {(candidates or ['-'])[-1]}", Usage()) for prompt in prompts]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Play a scene with a replica of a model, which is deciding its first batch meanwhile."""

    def played(model: Blocking, scene: Callable[[_Replica, asyncio.Task[Any]], Awaitable[None]]) -> None:
        monkeypatch.setattr(lms, "load", lambda config: model)

        async def scenes() -> None:
            replica = _Replica(ModelConfig("made up"), 1)
            first = asyncio.create_task(replica.decide(["first"], LEFT_RIGHT))
            assert await asyncio.to_thread(model.begun.wait, 30)
            await scene(replica, first)

        try:
            asyncio.run(asyncio.wait_for(scenes(), 30))
        finally:
            model.free.set()

    return played


async def asked(*calls: Any) -> list[asyncio.Task[list[Decision]]]:
    """Let callers ask, and go on when they wait."""
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


def actions(decisions: list[Decision]) -> list[str]:
    return [each.action for each in decisions]


def test_what_comes_in_meanwhile_is_decided_together(play: Callable[..., None]) -> None:
    """By candidates, in the order in which they came; each caller gets its own answers."""
    model = Blocking()

    async def scene(replica: _Replica, first: asyncio.Task[list[Decision]]) -> None:
        others = await asked(
            replica.decide(["a", "b"], LEFT_RIGHT),
            replica.decide(["c", "a"], UP),
            replica.decide(["d", "e", "f"], LEFT_RIGHT),
            replica.decide([], LEFT_RIGHT),
        )
        model.free.set()
        assert actions(await first) == ["first right"]
        assert [actions(await each) for each in others] == [
            ["a right", "b right"],
            ["c up", "a up"],
            ["d right", "e right", "f right"],
            [],
        ]

    play(model, scene)
    assert model.batches == [(["first"], LEFT_RIGHT), (["a", "b", "d", "e", "f"], LEFT_RIGHT), (["c", "a"], UP)]


def test_a_caller_that_is_gone_leaves_the_others_their_answers(play: Callable[..., None]) -> None:
    model = Blocking()

    async def scene(replica: _Replica, first: asyncio.Task[list[Decision]]) -> None:
        gone, other = await asked(replica.decide(["a"], LEFT_RIGHT), replica.decide(["b"], LEFT_RIGHT))
        first.cancel()
        gone.cancel()
        model.free.set()
        assert actions(await other) == ["b right"]
        assert first.cancelled()
        assert gone.cancelled()

    play(model, scene)


@pytest.mark.parametrize(
    ("failure", "kind", "said"),
    [
        (ModelError("it is broken"), ModelError, "^it is broken$"),
        (ValueError("a wrong shape"), ValueError, "^a wrong shape$"),
        (SystemExit(3), ModelError, r"^made up raised SystemExit: 3"),
        (StopIteration(), ModelError, r"^made up raised StopIteration$"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, BaseException) else "",
)
def test_what_a_model_raises_reaches_all_who_asked(
    play: Callable[..., None], failure: BaseException, kind: type[Exception], said: str
) -> None:
    """Also what would end the process or could not be passed on; and the replica goes on."""
    model = Blocking(failure)

    async def scene(replica: _Replica, first: asyncio.Task[list[Decision]]) -> None:
        gone, *others = await asked(*(replica.decide([prompt], LEFT_RIGHT) for prompt in "abc"))
        gone.cancel()
        model.free.set()
        await first
        for each in others:
            with pytest.raises(kind, match=said):
                await each
        assert actions(await replica.decide(["last"], LEFT_RIGHT)) == ["last right"]

    play(model, scene)
    assert [len(prompts) for prompts, _ in model.batches] == [1, 3, 1]
