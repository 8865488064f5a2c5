"""The tables of a report, as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from londi.plots import percent
from londi.states import Phrase, Rate

_GROUPS = (
    ("model", "One model alone"),
    ("budget", "Learned Switcher under a budget of n calls"),
    ("price", "Learned Switcher at a price per call"),
    ("capped", "Learned Switcher at the best price, stopped after n calls"),
    ("router", "Rival: supervised router, calls above a probability of disagreement"),
    ("myopic", "Rival: learns what a call gains in its own step, at a price per call"),
    ("sac", "Rival: soft actor-critic at one price per call"),
    ("ppo", "Rival: PPO at one price per call"),
    ("random", "Baseline: calls at random"),
    ("every", "Baseline: calls every so many steps"),
    ("first", "Baseline: calls in the first so many steps"),
    ("entropy", "Baseline: calls where QUICK’s entropy is above a threshold (nats)"),
    ("margin", "Baseline: calls where QUICK’s two likeliest actions are closer than a threshold"),
    ("rule", "Baseline: rules that read the text"),
    ("oracle", "Reference that can’t be had in practice"),
)
_HEADS = (
    "",
    "success",
    "95\u00a0% interval",
    "calls",
    "most",
    "call share",
    "tokens",
    "FLOPs",
    "seconds",
    "steps",
    "violations",
)

_BY_FAMILY = (
    ("hypervolume", "Area under the frontier, success against calls; 1 would be DEEPTHINK’s success without a call."),
    ("apgr", "Average share of the gap between QUICK and DEEPTHINK that is closed, over all call rates."),
    ("aiq", "Mean height of the hull of the settings: success that mixing them would reach, over all call rates."),
    (
        "regret",
        "Success that the hull misses to the oracle’s at as many calls as its; below 0 is better than the oracle.",
    ),
)
_SINGLE = (
    ("saved_calls_at_99", "Calls saved by the cheapest policy that keeps 99\u00a0% of DEEPTHINK’s success."),
    ("saved_flops_at_99", "FLOPs that the same policy saves, QUICK’s own included."),
    ("saved_tokens_at_99", "Tokens that it saves."),
    ("saved_seconds_at_99", "Seconds of model time that it saves."),
    ("saved_dollars_at_99", "Dollars that it saves, where prices are known."),
    ("saved_calls_at_95", "Calls saved by the cheapest policy that keeps 95\u00a0% of it."),
    ("cpt20", "Calls, as a share of DEEPTHINK’s, that close 20\u00a0% of the gap between QUICK and DEEPTHINK."),
    ("cpt50", "The same for 50\u00a0% of the gap."),
    ("cpt80", "The same for 80\u00a0% of the gap."),
    ("cpt95", "The same for 95\u00a0% of the gap."),
)
_FAMILIES = {"budget": "budgets", "price": "prices", "random": "random", "entropy": "entropy"}
_FAMILIES |= {"capped": "capped", "router": "router", "myopic": "myopic", "sac": "SAC", "ppo": "PPO"}
_FAMILIES |= {"every": "every k", "first": "first n", "margin": "margin", "rule": "rules", "oracle": "oracle"}
_NONE = '<span class="aside">none</span>'


def policies_html(rows: Sequence[dict[str, Any]], chosen: str | None) -> str:
    """Return the table of policies, grouped by kind; the row named `chosen` is marked."""
    known = [kind for kind, _ in _GROUPS]
    groups = [*_GROUPS, *((row["kind"], row["kind"]) for row in rows if row["kind"] not in known)]
    bodies = []
    for kind, title in dict(groups).items():
        own = [row for row in rows if row["kind"] == kind]
        if own:
            lines = "".join(_policy(row, row["name"] == chosen) for row in own)
            bodies.append(
                f'<tbody class="group"><tr><th colspan="{len(_HEADS)}">{escape(title)}</th></tr>{lines}</tbody>'
            )
    head = "".join(f"<th>{name}</th>" for name in _HEADS)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>{"".join(bodies)}</table></div>'


def _policy(row: dict[str, Any], chosen: bool) -> str:
    success, calls = row["success"], row["calls"]
    cells = (
        escape(row["name"]),
        percent(success["mean"], 1),
        f'<span class="aside">{100 * success["low"]:.1f} to {percent(success["high"], 1)}</span>',
        f"{calls['mean']:.2f}",
        f"{calls['max']:g}",
        percent(row["call_share"]),
        f"{row['tokens']:,.0f}",
        amount(row["flops"]),
        f"{row['seconds']:.{1 if row['seconds'] >= 10 else 3}f}",
        f"{row['steps']:.1f}",
        str(row["violations"]),
    )
    mark = ' class="chosen"' if chosen else ""
    return f"<tr{mark}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def amount(number: float) -> str:
    """Write a large count with an SI prefix: 3.21e9 is `3.21 G`."""
    for limit, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g}\u00a0{prefix}"
    return f"{number:.0f}"


def metrics_html(metrics: dict[str, Any]) -> str:
    """Return the metrics with a line of explanation each; a metric that is null reads `none`."""
    shown = [key for key in _FAMILIES if any(key in (metrics.get(name) or {}) for name, _ in _BY_FAMILY)]
    head = "".join(f"<th><code>{name}</code></th>" for name, _ in _BY_FAMILY)
    lines = []
    for key in shown:
        values = ((metrics.get(name) or {}).get(key) for name, _ in _BY_FAMILY)
        cells = "".join(f"<td>{_number(value, 3)}</td>" for value in values)
        lines.append(f"<tr><td>{_FAMILIES[key]}</td>{cells}</tr>")
    meanings = "".join(f"<li><code>{name}</code>: {escape(meaning)}</li>" for name, meaning in _BY_FAMILY)
    families = (
        f'<div class="scroll"><table><thead><tr><th>by family</th>{head}</tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><ul class="note">{meanings}</ul>'
    )
    singles = "".join(
        f"<tr><td><code>{name}</code></td><td>{_share(metrics.get(name))}</td>"
        f'<td class="words">{escape(meaning)}</td></tr>'
        for name, meaning in _SINGLE
    )
    return f'{families}<div class="scroll"><table><tbody>{singles}</tbody></table></div>'


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else percent(value, 1)


def rates_html(title: str, rates: Sequence[Rate | Phrase]) -> str:
    """Return call rates as a small table with bars; phrases also show their lift."""
    if not rates:
        return f'<div><h3>{escape(title)}</h3><p class="note">Nothing to show.</p></div>'
    lines = []
    for rate in rates:
        share = rate.calls / rate.steps if rate.steps else 0.0
        label = rate.words if isinstance(rate, Phrase) else rate.label
        lift = f"<td>{rate.lift:.1f}</td>" if isinstance(rate, Phrase) else ""
        lines.append(
            f'<tr><td class="label">{escape(label)}</td>{lift}<td>{percent(share)}</td>'
            f'<td class="bar"><span style="width:{100 * share:.1f}%"></span></td><td>{rate.steps:,}</td></tr>'
        )
    head = "<th></th>" + ("<th>lift</th>" if isinstance(rates[0], Phrase) else "")
    head += "<th>called</th><th></th><th>steps</th>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f"<div><h3>{escape(title)}</h3>{table}</div>"
