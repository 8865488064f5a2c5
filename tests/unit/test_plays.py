"""What an episode of an evaluation is charged."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from londi.episode import Episode, Reply, Step
from londi.plays import _outcome
from londi.usage import Usage

QUICK, DEEPTHINK = Usage(10, 0, 1, flops=5.0, seconds=0.1), Usage(20, 0, 2, flops=100.0, seconds=1.0)
CALLED = Step(
    observation="a door",
    prompt="a door act:",
    quick=Reply("left", "", QUICK),
    deepthink=Reply("open", "", DEEPTHINK),
    probabilities=(0.5, 0.5),
    entropy=math.log(2),
    wished=True,
    called=True,
    propensity=1.0,
    advantage=math.nan,
    remaining=None,
    action="open",
    reward=0.0,
    valid=True,
)
NOT_CALLED = replace(CALLED, deepthink=None, called=False, action="left")
FAILED = replace(CALLED, deepthink=Reply("", "", DEEPTHINK, "the server was busy"), action="left")


@pytest.mark.parametrize(
    ("policy", "steps", "tokens", "flops"),
    [
        ("QUICK", (NOT_CALLED, NOT_CALLED), 2 * 11, 2 * 5),
        ("DEEPTHINK", (CALLED, CALLED), 2 * 22, 2 * 100),
        ("DEEPTHINK", (CALLED, FAILED), 2 * 22 + 11, 2 * 100 + 5),
        ("price 0.1", (CALLED, NOT_CALLED), 22 + 2 * 11, 100 + 2 * 5),
        ("random 1", (CALLED, CALLED), 2 * 22 + 2 * 11, 2 * 100 + 2 * 5),
    ],
)
def test_deepthink_alone_does_not_pay_for_quick(
    policy: str, steps: tuple[Step, ...], tokens: int, flops: float
) -> None:
    found = _outcome(Episode("room", 1, "get out", policy, None, 0.0, steps, False, True))
    assert (found.tokens, found.flops) == (tokens, flops)
    assert found.calls == sum(step.called for step in steps)
