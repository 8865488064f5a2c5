from __future__ import annotations

import dataclasses
from typing import Any

from londi.episode import Episode, Reply, Step
from londi.report.replay import MOST_STEPS, find_ordinary, find_rescue, replay_html
from londi.states import by_action, by_entropy, by_seen, grams, open_steps, overall, phrases
from londi.usage import Usage


def make_step(text: str = "You see a wall.", *, called: bool = False, **changes: Any) -> Step:
    deepthink = Reply("turn left", "reach the key", Usage(40, 0, 8, 9e8)) if called else None
    step = Step(
        observation=text,
        prompt=f"goal: x\nobs: {text}\nact:",
        quick=Reply("go forward", "", Usage(40, 0, 1, 1e8)),
        deepthink=deepthink,
        probabilities=(0.25, 0.75),
        entropy=0.56,
        wished=called,
        called=called,
        propensity=1.0,
        advantage=0.125 if called else -0.0625,
        remaining=2,
        action="turn left" if called else "go forward",
        reward=0.0,
        valid=True,
    )
    return dataclasses.replace(step, **changes)


def make_episode(seed: int, steps: list[Step], *, success: bool = True) -> Episode:
    return Episode("londi/Test-v0", seed, "go to the key", "budget 2", 2, 0.0, tuple(steps), success, not success)


def test_rescue_is_solved_where_quick_failed() -> None:
    called, alone = make_step(called=True), make_step()
    chosen = [make_episode(1, [called, alone]), make_episode(2, [alone]), make_episode(3, [called, alone])]
    quick = [make_episode(1, [alone], success=True), make_episode(2, [alone], success=False)]
    quick.append(make_episode(3, [alone], success=False))
    rescue = find_rescue(chosen, quick)
    assert rescue is not None
    assert rescue.seed == 3
    ordinary = find_ordinary(chosen, rescue)
    assert ordinary is not None
    assert ordinary.seed != 3
    assert find_rescue(chosen, [make_episode(1, [alone])]) is None


def test_replay_marks_called_steps_and_says_why() -> None:
    refused = make_step("You see <b>fog</b>.", wished=True, remaining=0)
    steps = [make_step(called=True), make_step(remaining=1), refused, make_step(valid=False, advantage=float("nan"))]
    page = replay_html(make_episode(5, steps), "Title", make_episode(5, [make_step()] * 12, success=False))
    items = page.split("<li")[1:]
    assert [item.startswith(' class="called"') for item in items] == [True, False, False, False]
    assert "<s>go forward</s>" in items[0]
    assert "75&nbsp;% sure" in items[0]
    assert "<q>reach the key</q> → <b>turn left</b>" in items[0]
    assert "calls DEEPTHINK, advantage +0.125, 2 calls left" in items[0]
    assert "leaves it to QUICK, advantage −0.062, 1 call left" in items[1]
    assert "wished to call, but the budget is spent" in items[2]
    assert "&lt;b&gt;fog&lt;/b&gt;" in items[2]
    assert "did not understand" in items[3]
    assert "nan" not in items[3]
    assert "QUICK alone does not solve it on this seed (12 steps" in page
    assert "Solved in 4 steps with 1 call of 2 permitted." in page


def test_long_replay_is_cut_and_says_so() -> None:
    page = replay_html(make_episode(1, [make_step()] * (MOST_STEPS + 3)), "Long")
    assert page.count("<li") == MOST_STEPS
    assert "3 more steps are not shown" in page


def test_triggers_count_only_steps_where_a_call_was_possible() -> None:
    steps = [make_step("A", called=True), make_step("A", remaining=1), make_step("B", remaining=0)]
    found = open_steps([make_episode(1, steps)])
    assert len(found) == 2
    assert overall(found).share == 0.5
    assert [(rate.label.split()[0], rate.steps, rate.calls) for rate in by_seen(found)] == [
        ("new", 1, 1),
        ("seen", 1, 0),
    ]


def test_entropy_quarters_and_actions() -> None:
    steps = [make_step(entropy=i / 8, called=i >= 6) for i in range(8)]
    found = open_steps([make_episode(1, steps)])
    assert [(rate.steps, rate.calls) for rate in by_entropy(found)] == [(2, 0), (2, 0), (2, 0), (2, 2)]
    assert by_entropy(found)[3].label == "least sure quarter (0.75 to 0.88)"
    assert [(rate.label, rate.steps, rate.calls) for rate in by_action(found)] == [("go forward", 8, 2)]
    free = open_steps([make_episode(1, [make_step(probabilities=(), entropy=0.3)])])
    assert [rate.steps for rate in by_entropy(free)] == [1], "of free text the entropy is known too"
    assert by_entropy(open_steps([make_episode(1, [make_step(probabilities=(), entropy=0.0)])])) == []


def test_phrases_with_the_highest_lift() -> None:
    assert grams("A red key. A box") == {"a", "red", "key", "a red", "red key", "a red key", "box", "a box"}
    steps = [make_step("You see a locked door.", called=True)] * 5 + [make_step("You see a red ball.")] * 15
    found = phrases(open_steps([make_episode(1, steps)]), support=5)
    assert found[0].words == "a locked door"
    assert (found[0].lift, found[0].steps, found[0].calls) == (4.0, 5, 5)
    assert all(phrase.lift > 1 for phrase in found)
    assert phrases(open_steps([make_episode(1, steps)]), support=6) == []
    assert phrases(open_steps([make_episode(1, [make_step()] * 30)])) == []
