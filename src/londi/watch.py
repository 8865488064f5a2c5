"""`watch`: replays a finished episode in the terminal, with the Switcher's reason for every step."""

from __future__ import annotations

import math
import time

from rich.box import HEAVY
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from londi.episode import Episode, Reply, Step
from londi.states import confidence, left, permitted, reason
from londi.usage import budget_text

WIDTH = 100
"""Columns used at most: longer lines are hard to read."""


def watch(episode: Episode, console: Console, delay: float = 0.0) -> None:
    """Print an episode step by step, waiting `delay` seconds after each; DEEPTHINK's steps stand in a frame.

    Texts of models and environment are printed as they are: markup in them has no effect.
    """
    width = min(console.width, WIDTH)
    console.print(_opening(episode), width=width)
    for number, step in enumerate(episode.steps, start=1):
        console.print(step_view(step, number), width=width)
        if delay > 0:
            time.sleep(delay)
    console.print(_summary(episode), width=width)


def step_view(step: Step, number: int) -> RenderableType:
    """Return what is printed for one step (`number` counts from 1)."""
    rows = _rows()
    rows.add_row(Text("sees", style="dim"), Text(_plain(step.observation) or "(no text)"))
    rows.add_row(Text("QUICK", style="bold"), _quick(step))
    rows.add_row(Text("Switcher", style="bold blue"), _switcher(step))
    if not step.called:
        head = Text(f"step {number}", style="dim")
        return Padding(Group(head, Padding(rows, (0, 0, 0, 2))), (0, 2, 1, 2))
    if step.deepthink:
        _deepthink(step, step.deepthink, rows)
    _outcome(step, rows)
    title = Text(f"step {number}: DEEPTHINK acts", style="bold red")
    return Padding(Panel(rows, title=title, title_align="left", box=HEAVY, border_style="red"), (0, 0, 1, 0))


def _rows() -> Table:
    rows = Table.grid(padding=(0, 1, 0, 0))
    rows.add_column(width=10, no_wrap=True)
    rows.add_column(ratio=1, overflow="fold")
    rows.expand = True
    return rows


def _deepthink(step: Step, reply: Reply, rows: Table) -> None:
    action = Text(_plain(reply.action), style="bold red")
    if reply.action == step.quick.action:
        action.append(" (as QUICK)", style="not bold dim")
    if reply.thought:
        rows.add_row(Text("DEEPTHINK", style="bold red"), Text(_plain(reply.thought), style="italic"))
    rows.add_row(Text("acts" if reply.thought else "DEEPTHINK", style="bold red"), action)


def _quick(step: Step) -> Text:
    sure = confidence(step)
    text = Text(_plain(step.quick.action), style="bold" if not step.called else "")
    if sure is not None:
        text.append(f"  {100 * sure:.0f} % sure", style="not bold dim")
    if step.called and step.deepthink and step.deepthink.action != step.quick.action:
        text.append(", overruled", style="not bold dim")
    if not step.called and not step.valid:
        text.append("  (not understood by the environment)", style="not bold yellow")
    return text


def _outcome(step: Step, rows: Table) -> None:
    if not step.valid:
        rows.add_row("", Text("(not understood by the environment)", style="yellow"))


def _switcher(step: Step) -> Text:
    text = Text(reason(step), style="bold" if step.wished else "")
    if not math.isnan(step.advantage):
        text.append(f", advantage {step.advantage:+.3f}", style="not bold")
    text.append(f", {left(step)}", style="not bold")
    return text


def _opening(episode: Episode) -> RenderableType:
    limit = "calls without limit"
    if episode.budget is not None:
        limit = f"at most {budget_text(episode.budget, episode.budget_measure)}"
    price = f", price {episode.price:g}" if episode.price else ""
    rows = _rows()
    rows.add_row(Text("episode", style="dim"), Text(f"{episode.env}, seed {episode.seed}"))
    rows.add_row(Text("policy", style="dim"), Text(f"{episode.policy}, {limit}{price}"))
    rows.add_row(Text("goal", style="dim"), Text(_plain(episode.goal), style="bold"))
    return Padding(rows, (1, 2, 1, 2))


def _summary(episode: Episode) -> RenderableType:
    if episode.success:
        outcome = Text("Success", style="bold green")
    else:
        outcome = Text("No success" + (": the step limit ended it" if episode.truncated else ""), style="bold yellow")
    outcome.append(f" in {_count(len(episode.steps), 'step')}.", style="not bold")
    allowed = permitted(episode)
    share = 100 * episode.num_calls / max(1, len(episode.steps))
    calls = Text(f"{_count(episode.num_calls, 'DEEPTHINK call')}{allowed}, in {share:.0f} % of the steps.")
    if episode.num_failed:
        calls.append(f" {_count(episode.num_failed, 'of them')} failed: QUICK acted.", style="yellow")
    if episode.violated:
        calls.append(" MORE THAN PERMITTED.", style="bold red")
    flops = episode.usage.flops
    deep = sum(step.deepthink.usage.flops for step in episode.steps if step.deepthink)
    spent = Text(f"{flops:.3g} FLOPs; DEEPTHINK took {100 * deep / flops:.0f} % of them." if flops else "")
    return Padding(Group(outcome, calls, spent), (0, 2, 1, 2))


def _plain(text: str) -> str:
    """Replace control characters, so that no text can move the cursor or change colours."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
