"""The replayed episodes of a report: which two are worth showing, and their HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from statistics import median

from londi.episode import Episode, Step
from londi.states import confidence, left, permitted, reason

MOST_STEPS = 40
"""Steps of an episode that are shown."""


def find_rescue(chosen: Sequence[Episode], quick: Sequence[Episode]) -> Episode | None:
    """Return a solved episode with calls whose seed QUICK alone failed, of typical length; None if there is none."""
    failed = {episode.seed for episode in quick if not episode.success}
    rescues = [e for e in chosen if e.success and e.num_calls and e.seed in failed]
    mixed = [e for e in rescues if e.num_calls < len(e.steps)]
    return _typical(mixed or rescues)


def find_ordinary(chosen: Sequence[Episode], but: Episode | None) -> Episode | None:
    """Return the episode nearest to the median length and number of calls, other than `but`."""
    return _typical([episode for episode in chosen if but is None or episode.seed != but.seed])


def _typical(episodes: Sequence[Episode]) -> Episode | None:
    if not episodes:
        return None
    steps, calls = median(len(e.steps) for e in episodes), median(e.num_calls for e in episodes)
    return min(episodes, key=lambda e: (abs(len(e.steps) - steps) + 3 * abs(e.num_calls - calls), e.seed))


def replay_html(episode: Episode, title: str, quick: Episode | None = None) -> str:
    """Return an episode as HTML, every text escaped; `quick` is QUICK alone on the same seed."""
    shown = "".join(_step_html(step, number) for number, step in enumerate(episode.steps[:MOST_STEPS], start=1))
    hidden = len(episode.steps) - MOST_STEPS
    more = f'<p class="note">{hidden} more steps are not shown.</p>' if hidden > 0 else ""
    alone = f"<p>{_alone(quick)}</p>" if quick else ""
    return (
        f'<section class="replay"><h3>{escape(title)}: seed {episode.seed}, {escape(episode.policy)}</h3>'
        f'<p class="goal">Goal: <b>{escape(episode.goal)}</b></p>{alone}<ol class="steps">{shown}</ol>{more}'
        f'<p class="end">{_end(episode)}</p></section>'
    )


def _alone(quick: Episode) -> str:
    outcome = "solves it" if quick.success else "does not solve it"
    actions = [step.action for step in quick.steps]
    first = escape(", ".join(actions[:8])) + (", …" if len(actions) > 8 else "")
    return f"QUICK alone {outcome} on this seed ({_count(len(actions), 'step')}: {first})."


def _end(episode: Episode) -> str:
    outcome = "Solved" if episode.success else "Not solved"
    calls = f"{_count(episode.num_calls, 'call')}{permitted(episode)}"
    return f"{outcome} in {_count(len(episode.steps), 'step')} with {calls}."


def _step_html(step: Step, number: int) -> str:
    lines = [_line("QUICK", _quick_html(step)), _line("Switcher", _switcher_html(step), "switcher")]
    if step.called and step.deepthink:
        agrees = step.action == step.quick.action
        thought = f"<q>{escape(step.deepthink.thought)}</q> → " if step.deepthink.thought else ""
        same = ' <span class="note">(as QUICK)</span>' if agrees else ""
        said = f"{thought}<b>{escape(step.deepthink.action)}</b>{same}"
        if step.deepthink.error:
            said = f'<span class="note">failed, so QUICK acts: {escape(step.deepthink.error)}</span>'
        lines.append(_line("DEEPTHINK", said, "deepthink"))
    if not step.valid:
        lines.append(_line("environment", "did not understand the action"))
    kind = ' class="called"' if step.called else ""
    return (
        f'<li{kind}><span class="number">{number}</span><div class="seen">{escape(step.observation)}</div>'
        f'<div class="said">{"".join(lines)}</div></li>\n'
    )


def _line(who: str, said: str, kind: str = "") -> str:
    return f'<div><span class="who {kind}">{who}</span>{said}</div>'


def _quick_html(step: Step) -> str:
    action, sure = escape(step.quick.action), confidence(step)
    if not step.called:
        action = f"<b>{action}</b>"
    elif step.deepthink and step.deepthink.action != step.quick.action:
        action = f"<s>{action}</s>"
    return action + ("" if sure is None else f' <span class="note">{100 * sure:.0f}&nbsp;% sure</span>')


def _switcher_html(step: Step) -> str:
    advantage = "" if math.isnan(step.advantage) else f", advantage {step.advantage:+.3f}".replace("-", "−")
    return f"{reason(step)}{advantage}, {left(step)}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
