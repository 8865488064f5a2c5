from __future__ import annotations

import dataclasses
import io
import time
from typing import Any

import pytest
from rich.console import Console

from londi.episode import Episode, Reply, Step
from londi.usage import Usage
from londi.watch import watch

QUIET = Step(
    observation="You see a red key 2 steps left and 1 step forward. You see a wall 1 step right.",
    prompt="goal: get the key\nobs: ...\nact:",
    quick=Reply("go forward", "", Usage(30, 0, 1, 1e8)),
    deepthink=None,
    probabilities=(0.1, 0.9),
    entropy=0.33,
    wished=False,
    called=False,
    propensity=1.0,
    advantage=-0.021,
    remaining=2,
    action="go forward",
    reward=0.0,
    valid=True,
)
CALLED = dataclasses.replace(
    QUIET,
    deepthink=Reply("turn left", "reach the red key", Usage(30, 0, 9, 9e8)),
    wished=True,
    called=True,
    advantage=0.143,
    action="turn left",
)
REFUSED = dataclasses.replace(QUIET, wished=True, remaining=0)


def show(*steps: Step, width: int = 80, color: bool = False, delay: float = 0.0, **changes: Any) -> str:
    episode = Episode("londi/Test-v0", 12, "get the key", "budget 2", 2, 0.0, steps, True, False)
    system = "truecolor" if color else None
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system=system, no_color=not color)  # type: ignore[arg-type]
    watch(dataclasses.replace(episode, **changes), console, delay)
    return out.getvalue()


def words(text: str) -> str:
    return " ".join(text.replace("┃", " ").split())


def test_opening_says_what_is_shown() -> None:
    said = words(show(QUIET))
    assert "episode londi/Test-v0, seed 12" in said
    assert "policy budget 2, at most 2 calls" in said
    assert "goal get the key" in said


def test_called_step_stands_out_without_colours() -> None:
    said = show(QUIET, CALLED)
    assert "step 2: DEEPTHINK acts ━" in said
    framed = [line for line in said.splitlines() if line.startswith("┃")]
    text = words("\n".join(framed))
    assert "QUICK go forward 90 % sure, overruled" in text
    assert "Switcher calls DEEPTHINK, advantage +0.143, 2 calls left" in text
    assert "DEEPTHINK reach the red key acts turn left" in text
    before = words(said[: said.index("┏")])
    assert "step 1" in before
    assert "leaves it to QUICK, advantage -0.021, 2 calls left" in before


def test_refused_wish_is_told() -> None:
    assert "wished to call, but the budget is spent, advantage -0.021, no calls left" in words(show(REFUSED))


def test_agreement_and_misunderstood_action_are_told() -> None:
    assert CALLED.deepthink is not None
    same = dataclasses.replace(
        CALLED, deepthink=dataclasses.replace(CALLED.deepthink, action="go forward"), valid=False
    )
    said = words(show(same))
    assert "go forward (as QUICK)" in said
    assert "overruled" not in said
    assert "not understood by the environment" in said


def test_rules_without_advantage_and_free_text() -> None:
    said = words(show(dataclasses.replace(QUIET, advantage=float("nan"), probabilities=(), remaining=None)))
    assert "nan" not in said
    assert "sure" not in said
    assert "leaves it to QUICK, no limit" in said


def test_summary_adds_up() -> None:
    said = words(show(QUIET, CALLED, QUIET, QUIET))
    assert "Success in 4 steps." in said
    assert "1 DEEPTHINK call of 2 permitted, in 25 % of the steps." in said
    assert "1.3e+09 FLOPs; DEEPTHINK took 69 % of them." in said
    failed = words(show(QUIET, success=False, truncated=True, budget=None))
    assert "No success: the step limit ended it in 1 step." in failed
    assert "0 DEEPTHINK calls, in 0 % of the steps." in failed


def test_violation_is_loud() -> None:
    assert "MORE THAN PERMITTED" in words(show(CALLED, CALLED, CALLED))


@pytest.mark.parametrize("width", [40, 80, 120])
def test_fits_the_terminal(width: int) -> None:
    said = show(QUIET, CALLED, REFUSED, width=width)
    assert max(map(len, said.splitlines())) <= min(width, 100)
    assert "You see a red key 2 steps left and 1 step forward." in words(said)


def test_colours_only_where_wanted() -> None:
    assert "\x1b[" not in show(QUIET, CALLED)
    assert "\x1b[" in show(QUIET, CALLED, color=True)


def test_markup_and_control_characters_have_no_effect() -> None:
    said = words(show(dataclasses.replace(QUIET, observation="[red]fire[/red] \x1b[2Jgone [/nothing]")))
    assert "[red]fire[/red] \N{REPLACEMENT CHARACTER}[2Jgone [/nothing]" in said
    assert "\x1b" not in said


def test_delay_is_waited_after_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    show(QUIET, CALLED, delay=0.5)
    show(QUIET)
    assert waits == [0.5, 0.5]
