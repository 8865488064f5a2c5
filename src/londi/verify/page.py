"""The result of `londi verify` as a page with plots."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from londi.files import write_text
from londi.plots import BLUE, GREEN, GREY, INK, MUTED, OCHRE, VERMILION, bare, new_figure
from londi.verify.run import SUITES

NAME = "verification"
_CURVES = (
    ("q-price", "one price", OCHRE),
    ("q-prices", "21 prices at once", GREEN),
    ("q-budgets", "budgets 0..20 at once", BLUE),
)


def number(value: float | None) -> str:
    """Write a measurement: small deviations by their size, ratios with three digits."""
    if value is None:
        return "not measured"
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def needs(check: dict[str, Any]) -> str:
    """Write what a check asks for: `≤ 1e-09`, `≥ 10`."""
    return f"{'≤' if check['bound'] == 'at most' else '≥'} {check['tolerance']:g}"


def write(result: dict[str, Any], folder: Path) -> list[Path]:
    """Write verification.json, verification.md and its plots into a folder; return their paths, the page last."""
    data = folder / f"{NAME}.json"
    write_text(data, json.dumps(result, indent=1, allow_nan=False) + "\n")
    paths, pictures = [data], []
    for name, title, draw, more in _FIGURES:
        figure = draw(result["data"])
        if figure is not None:
            paths.append(folder / f"{NAME}-{name}.png")
            figure.savefig(paths[-1], dpi=160)
            pictures.append(f"## {title[0]}\n\n![{title[0]}]({paths[-1].name})\n\n{title[1]}{more(result['data'])}\n")
    page = folder / f"{NAME}.md"
    write_text(page, "\n".join([_head(result), _table(result), *pictures]))
    return [*paths, page]


def _head(result: dict[str, Any]) -> str:
    failed = sum(not check["passed"] for check in result["checks"])
    problems = sum(part["problems"] for part in result["data"].get("random", []))
    cores = result["machine"]["machine"]["cpus"]
    form = "--quick " if result["quick"] else ""
    part = "" if result["suites"] == list(SUITES) else f"--only {' '.join(result['suites'])} "
    of = f" of the suites {', '.join(result['suites'])}" if part else ""
    verdict = f"**{failed} of {len(result['checks'])} checks{of} failed.**" if failed else f"Every check{of} passed."
    solved = f" Random MDPs solved: {problems:,}." if problems else ""
    return f"""# Verification

<!-- written by `londi verify`; do not edit -->

What [theory](theory.md) claims, checked by running it. Regenerate this page, in {result["seconds"] / 60:.1f} minutes
on the machine it was written on ({cores} cores), with

    londi verify {form}{part}--seed {result["seed"]} --out docs

{verdict}{solved} "Worst" is the measurement farthest on the wrong side of all cases. Theorems are those of
[arXiv 2402.12061](https://arxiv.org/abs/2402.12061); what is added is explained on the page on theory, and proved there
where there is something to prove.
"""


def _table(result: dict[str, Any]) -> str:
    lines = [
        "| claim | source | how it was checked | worst | needed | cases | verdict |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for check in result["checks"]:
        verdict = "holds" if check["passed"] else "**FAILS**"
        source = check["source"].replace("arXiv 2402.12061, ", "").replace("added: docs/theory.md", "added")
        # minus signs and not hyphens, at which browsers break the line
        worst, needed = (
            text.replace("-", "−").replace(" ", "\u00a0") for text in (number(check["worst"]), needs(check))
        )
        cells = [f"[{_typeset(check['claim'])}](theory.md#{check['key']})", source, _typeset(check["method"])]
        cells += [worst, needed, f"{check['cases']:,}", verdict]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _typeset(text: str) -> str:
    """Write V_x, γ^x and v* in Markdown."""
    text = re.sub(r"_\{([^}]+)\}|_(\w|∞)(?!\w)", lambda found: f"<sub>{found[1] or found[2]}</sub>", text)
    return re.sub(r"\^(\w|\|S\|)", r"<sup>\1</sup>", text).replace("*", "\\*")


def _axes(figure: Any, index: int, count: int, title: str) -> Any:
    slot = 1 / count
    axes = figure.add_axes((index * slot + 0.085, 0.17, slot - 0.105, 0.7))
    axes.set_title(title, loc="left", fontsize=10.5, color=INK)
    bare(axes)
    return axes


def _convergence(data: dict[str, Any]) -> Any:
    parts = data.get("learning")
    if not parts:
        return None
    problems = list(dict.fromkeys(part["problem"] for part in parts))
    figure = new_figure(7.8, 3.4)
    for index, problem in enumerate(problems):
        axes = _axes(figure, index, len(problems), problem)
        for key, label, color in _CURVES:
            for part in parts:
                if (part["problem"], part["claim"]) != (problem, key):
                    continue
                middle = [sorted(errors)[len(errors) // 2] for errors in part["errors"]]
                axes.fill_between(part["samples"], *_range(part["errors"]), color=color, alpha=0.15, linewidth=0)
                axes.plot(part["samples"], middle, color=color, linewidth=2, label=label)
        axes.set(xscale="log", yscale="log", xlabel="transitions", ylabel="largest error of Q" if not index else "")
        axes.axhline(0.05, color=MUTED, linewidth=1, linestyle=(0, (1.5, 1.5)))
    axes.legend(frameon=False, fontsize=9.5, labelcolor=INK)
    return figure


def _range(errors: list[list[float]]) -> tuple[list[float], list[float]]:
    return [min(each) for each in errors], [max(each) for each in errors]


def _efficiency(data: dict[str, Any]) -> Any:
    parts = data.get("efficiency")
    if not parts:
        return None
    figure = new_figure(7.8, 3.4)
    kinds = (("universal-prices", "prices", GREEN), ("universal-budgets", "budgets", BLUE))
    for index, (key, label, color) in enumerate(kinds):
        mine = [part for part in parts if part["claim"] == key]
        axes = _axes(figure, index, 2, f"21 {label}: {_fewer(mine)}")
        for part in mine:
            total, steps = 0.0, [0.0]
            for each in part["separate"]:
                total += each
                steps.append(total)
            axes.plot(range(len(steps)), steps, color=GREY, linewidth=1.4)
            axes.plot([0, 21], [part["universal"]] * 2, color=color, linewidth=1.6)
        most = max(part["universal"] for part in mine)
        axes.text(20.5, most * 1.25, "one universal run", color=color, ha="right", fontsize=9.5)
        axes.text(20.5, most * 2.4, "separate runs, summed", color=MUTED, ha="right", fontsize=9.5)
        axes.set(yscale="log", xlabel=f"{label} learned", ylabel="" if index else "transitions to an error of 5 %")
    return figure


def _fewer(parts: list[dict[str, Any]]) -> str:
    ratios = [part["ratio"] for part in parts]
    if None in ratios:
        return f"not all learned within {parts[0]['limit']:,} steps"
    low, high = f"{min(ratios):.0f}", f"{max(ratios):.0f}"
    return f"{low if low == high else f'{low} to {high}'} times fewer steps"


def _deep(data: dict[str, Any]) -> Any:
    parts = data.get("deep")
    if not parts:
        return None
    figure = new_figure(7.8, 3.6)
    for index, (kind, label) in enumerate((("budget", "budget n"), ("price", "mean calls"))):
        axes = _axes(figure, index, 2, f"{kind}s: success against {label}")
        for part in parts:
            color = (BLUE if kind == "budget" else GREEN) if part["relabel"] else VERMILION
            x, y = _line([*part["exact"][:1], *part["learned"]], kind)
            axes.plot(x, y, color=color, linewidth=1.2, alpha=0.8, marker="o", markersize=3)
        x, y = _line(parts[0]["exact"], kind)
        axes.plot(x, y, color=INK, linewidth=2, linestyle=(0, (4, 2)), label="exact")
        axes.plot([], [], color=BLUE if kind == "budget" else GREEN, label="learned, each seed")
        if not all(part["relabel"] for part in parts):
            axes.plot([], [], color=VERMILION, label="without relabelling")
        axes.set(xlabel=label, ylim=(0, 1.03), ylabel="" if index else "success")
        axes.legend(frameon=False, fontsize=9.5, labelcolor=INK, loc="lower right")
    return figure


def _reached(data: dict[str, Any]) -> str:
    """Samples until the middle seed's error is 5 %, by problem and learner."""
    parts = data["learning"]
    problems = list(dict.fromkeys(part["problem"] for part in parts))
    lines = [
        "\n\n| transitions to an error of 5 % | " + " | ".join(problems) + " |",
        "|---" + "|---:" * len(problems) + "|",
    ]
    for key, label, _ in _CURVES:
        cells = []
        for part in (
            part for problem in problems for part in parts if (part["problem"], part["claim"]) == (problem, key)
        ):
            middle = (sorted(errors)[len(errors) // 2] for errors in part["errors"])
            reached = next((n for n, error in zip(part["samples"], middle, strict=True) if error <= 0.05), None)
            cells.append("not reached" if reached is None else f"{reached:,.0f}")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ablation(data: dict[str, Any]) -> str:
    """Means over seeds of the area, over the exact one, with and without relabelling."""
    parts = data["deep"]
    lines = ["\n\n| mean area over the exact one | budgets | prices |", "|---|---:|---:|"]
    for relabel, name in ((True, "relabelling"), (False, "without")):
        volumes = [part["volumes"] for part in parts if part["relabel"] is relabel]
        if volumes:
            means = [sum(each[kind] for each in volumes) / len(volumes) for kind in ("budget", "price")]
            lines.append(f"| {name}, {len(volumes)} seeds | {means[0]:.3f} | {means[1]:.3f} |")
    return "\n".join(lines)


def _line(rows: list[dict[str, Any]], kind: str) -> tuple[list[float], list[float]]:
    """The points of a family, from QUICK on."""
    mine = [row for row in rows if row["kind"] == kind or row["name"] == "QUICK"]
    points = sorted(
        (row["value"] if kind == "budget" else row["calls"]["mean"], row["success"]["mean"]) for row in mine
    )
    return [x for x, _ in points], [y for _, y in points]


_FIGURES = (
    (
        "convergence",
        (
            "Q-learning converges",
            "Largest error of Q over all states, choices and rows, relative to the largest Q* of its row, against\n"
            "the transitions seen; middle seed and range. The dotted line is an error of 5 %.",
        ),
        _convergence,
        _reached,
    ),
    (
        "efficiency",
        (
            "One run for the whole frontier",
            "Transitions until every row of Q is within 5 % of Q*. Grey: separate runs, one after the other, a line\n"
            "for each seed. Coloured: the one universal run, which learns all of them.",
        ),
        _efficiency,
        lambda data: "",
    ),
    (
        "deep",
        (
            "The deep learners against the exact frontier",
            "The key-door room, 40 steps. Played episodes of what `londi train` learns, each training seed a line.",
        ),
        _deep,
        _ablation,
    ),
)
