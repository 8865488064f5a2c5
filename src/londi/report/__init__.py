"""`write_report`: one self-contained HTML page that explains a run to someone who has never seen one.

The page needs no network and no script; figures are inline SVG whose colours follow the light or dark screen.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from londi import plots, states
from londi.episode import Episode, read_episodes
from londi.errors import RunError
from londi.files import read_json, write_text, writing
from londi.frontier import why_no_shares
from londi.plots import percent
from londi.report.replay import find_ordinary, find_rescue, replay_html
from londi.report.tables import amount, metrics_html, policies_html, rates_html
from londi.usage import budget_text

_VARIABLES = {
    plots.INK: "ink",
    plots.MUTED: "muted",
    plots.FAINT: "line",
    plots.PAPER: "paper",
    plots.BLUE: "blue",
    plots.GREEN: "green",
    plots.OCHRE: "ochre",
    plots.GREY: "grey",
    plots.VERMILION: "vermilion",
}


def write_report(run: Path) -> Path:
    """Write RUN/frontier.png and RUN/report.html, and return the path of the latter.

    `run` is a folder that `londi evaluate` has filled: frontier.json, metrics.jsonl, config.toml (and, if there,
    environment.json) and episodes/{chosen,quick,deepthink}.jsonl. Raises `RunError` where one is missing, damaged
    or of another schema, and `MissingExtraError` without matplotlib.
    """
    frontier = _read_json(run / "frontier.json", "run `londi evaluate RUN` first")
    plots.check_schema(frontier)
    chosen, quick, _ = (_read_episodes(run, name) for name in ("chosen", "quick", "deepthink"))
    metrics = _read_metrics(run / "metrics.jsonl")
    config = _read_text(run / "config.toml", "is this a run folder that `londi train` wrote?")
    config = frontier.get("measured", {}).get("config", config)  # config.toml may name more by now
    try:
        page = _page(run, frontier, chosen, quick, metrics, config)
        with writing(run / "frontier.png"):
            plots.save_frontier(frontier, run / "frontier.png")
    except KeyError as error:
        raise RunError(f"{run / 'frontier.json'} lacks {error}: run `londi evaluate RUN` again") from error
    path = run / "report.html"
    write_text(path, page)
    return path


def _page(
    run: Path,
    frontier: dict[str, Any],
    chosen: Sequence[Episode],
    quick: Sequence[Episode],
    metrics: Sequence[dict[str, Any]],
    config: str,
) -> str:
    rows = {row["name"]: row for row in frontier["policies"]}
    choice = plots.chosen_policy(frontier)
    steps = states.open_steps(chosen)
    return Template(_template("report.html")).substitute(
        css=_template("report.css"),
        headline=escape(plots.headline(frontier)),
        experiment=escape(str(frontier["experiment"])),
        env=escape(str(frontier["env"])),
        training_seed=frontier["training_seed"],
        londi=escape(str(frontier["londi"])),
        lede=_lede(frontier, rows),
        tiles=_tiles(frontier, rows, choice),
        quick_success=percent(rows["QUICK"]["success"]["mean"], 1),
        deepthink_success=percent(rows["DEEPTHINK"]["success"]["mean"], 1),
        frontier_figure=_figure(plots.frontier_figure(frontier, title=False), "frontier", _FRONTIER_CAPTION),
        episodes=f"{frontier['episodes']:,}",
        marked=f"The chosen policy, {escape(choice['name'])}, is marked." if choice else "",
        policies=policies_html(frontier["policies"], choice["name"] if choice else None),
        metrics=metrics_html(frontier["metrics"]),
        calls_text=_calls_text(chosen),
        calls_figure=_figure(plots.calls_figure(chosen), "calls", _CALLS_CAPTION),
        triggers_text=_triggers_text(steps, chosen),
        triggers=_triggers(steps),
        replays=_replays(chosen, quick),
        training=_training(frontier, metrics),
        violations=_violations(frontier, chosen),
        reproduce_text=_reproduce_text(frontier),
        commands=escape(_commands(run, frontier)),
        config=escape(config.strip()),
        environment=_environment(run / "environment.json"),
    )


_FRONTIER_CAPTION = (
    "Up and to the left is better. Each mark is a policy, its bar the 95 % interval of its success; a line joins the "
    "settings of one family, from QUICK, which never calls. All learned policies come from one training run. "
    "Random calls and QUICK’s entropy are the baselines to beat. The disagreement oracle asks DEEPTHINK in secret and "
    "calls it only where it would act otherwise than QUICK: no Switcher can know that in advance. The ringed policy "
    "is the chosen one."
)
_CALLS_CAPTION = (
    "Share of steps with a call. Left: by step, as long as a tenth of the episodes are still running. "
    "Right: by tenths of each episode’s own length."
)


def _lede(frontier: dict[str, Any], rows: dict[str, Any]) -> str:
    best, cheaper = frontier["choices"].get("at_99"), frontier["choices"].get("at_95")
    said = []
    if why := why_no_shares(frontier["policies"]):
        said.append(f"{why}, so that no policy can be held against it.")
    elif best:
        row, deep = best["test"], rows["DEEPTHINK"]
        success = row["success"]
        said.append(
            f"The policy <b>{escape(best['name'])}</b> is the cheapest that kept 99\u00a0% of DEEPTHINK’s success on "
            f"the selection seeds. On {frontier['episodes']:,} unseen episodes it solves {percent(success['mean'], 1)} "
            f"(95\u00a0% interval {100 * success['low']:.1f} to {percent(success['high'], 1)}) where DEEPTHINK solves "
            f"{percent(deep['success']['mean'], 1)}, with {row['calls']['mean']:.2f} calls per episode instead of "
            f"{deep['calls']['mean']:.2f}."
        )
    else:
        said.append("No policy kept 99\u00a0% of DEEPTHINK’s success on the selection seeds with fewer calls.")
    if cheaper and (not best or cheaper["name"] != best["name"]):
        said.append(
            f"Where 95\u00a0% is enough, <b>{escape(cheaper['name'])}</b> keeps {percent(cheaper['success_ratio'])} "
            f"with {percent(cheaper['calls_ratio'])} of the calls{_flops(cheaper)}."
        )
    return " ".join(said)


def _flops(choice: dict[str, Any]) -> str:
    """Models that report no FLOPs have no share of them."""
    return "" if choice["flops_ratio"] is None else f" and {percent(choice['flops_ratio'])} of the FLOPs"


def _cost_tile(row: dict[str, Any], deep: dict[str, Any]) -> tuple[str, str, str]:
    """FLOPs where both models report them, else dollars, else tokens."""
    if deep["flops"]:
        return f"{amount(row['flops'])}", "FLOPs per episode", f"{amount(deep['flops'])}"
    if deep.get("dollars"):
        return f"${row['dollars']:.2g}", "per episode", f"${deep['dollars']:.2g}"
    return f"{row['tokens']:,.0f}", "tokens per episode", f"{deep['tokens']:,.0f}"


def _tiles(frontier: dict[str, Any], rows: dict[str, Any], choice: dict[str, Any] | None) -> str:
    deep = rows["DEEPTHINK"]
    tiles = []
    if choice:
        row = choice["test"]
        tiles = [
            (percent(row["success"]["mean"], 1), "episodes solved", percent(deep["success"]["mean"], 1)),
            (f"{row['calls']['mean']:.2f}", "calls per episode", f"{deep['calls']['mean']:.2f}"),
            _cost_tile(row, deep),
        ]
    cells = [f"<strong>{ours}</strong><span>{what}<br>DEEPTHINK: {theirs}</span>" for ours, what, theirs in tiles]
    cells.append(f"<strong>{frontier['metrics']['violations']}</strong><span>episodes over<br>their budget</span>")
    return '<div class="tiles">' + "".join(f"<div>{cell}</div>" for cell in cells) + "</div>"


def _calls_text(chosen: Sequence[Episode]) -> str:
    first = chosen[0]
    places = [index + 1 for episode in chosen for index, step in enumerate(episode.steps) if step.called]
    limit = (
        "without a limit on calls"
        if first.budget is None
        else f"at most {budget_text(first.budget, first.budget_measure)} each"
    )
    said = f"Policy <b>{escape(first.policy)}</b>, the first {len(chosen)} test episodes, {limit}."
    if not places:
        return said + " It never called DEEPTHINK."
    none = sum(episode.num_calls == 0 for episode in chosen) / len(chosen)
    half = sorted(places)[(len(places) - 1) // 2]
    when = "at step 1" if half == 1 else f"within the first {half} steps"
    return f"{said} Half of all calls are made {when}; {percent(none)} of the episodes make none."


def _triggers_text(steps: Sequence[states.OpenStep], chosen: Sequence[Episode]) -> str:
    if not steps:
        return f"{escape(chosen[0].policy)} had no step at which a call was possible."
    rate = states.overall(steps)
    return (
        f"Counted over the {rate.steps:,} steps at which a call was still possible: DEEPTHINK was called at "
        f"{percent(rate.share)} of them. A kind of state whose rate is far from this triggers calls, or spares them; "
        "the lift of words is their rate over this one."
    )


def _triggers(steps: Sequence[states.OpenStep]) -> str:
    if not steps:
        return ""
    parts = [
        rates_html("How unsure QUICK is (entropy, nats)", states.by_entropy(steps)),
        rates_html("What QUICK proposes", states.by_action(steps)),
        rates_html("Whether the text is new", states.by_seen(steps)),
        rates_html("Words of the observation", states.phrases(steps)),
    ]
    return f'<div class="pairs">{"".join(parts)}</div>'


def _replays(chosen: Sequence[Episode], quick: Sequence[Episode]) -> str:
    rescue = find_rescue(chosen, quick)
    ordinary = find_ordinary(chosen, rescue)
    alone = {episode.seed: episode for episode in quick}
    parts = []
    if rescue:
        parts.append(replay_html(rescue, "Rescued by calling", alone[rescue.seed]))
    else:
        parts.append('<p class="note">No seed that QUICK alone failed was solved by calling.</p>')
    if ordinary:
        parts.append(replay_html(ordinary, "An ordinary episode", alone.get(ordinary.seed)))
    return "\n".join(parts)


def _training(frontier: dict[str, Any], metrics: Sequence[dict[str, Any]]) -> str:
    said = f"One run of {frontier['env_steps']:,} environment steps trained every learned policy above."
    calls, episodes = frontier.get("training_calls"), frontier["metrics"].get("pays_off_after")
    if calls is not None:
        said += f" It made {calls:,} DEEPTHINK calls"
        said += f", which the chosen policy saves in {episodes:,} episodes." if episodes else "."
    said = f"<p>{said}</p>"
    if not metrics:
        return said
    caption = (
        "Success and calls while training: the Switcher explores at random budgets or prices there, so these are not "
        "the results of the finished policy. Each value faint, the running mean strong."
    )
    return said + _figure(plots.learning_figure(metrics), "learning", caption)


def _violations(frontier: dict[str, Any], chosen: Sequence[Episode]) -> str:
    rows = [row for row in frontier["policies"] if row["violations"]]
    recorded = sum(episode.violated for episode in chosen)
    total = frontier["metrics"]["violations"]
    if not (rows or recorded or total):
        return "None: no episode of any policy took more than its budget permits."
    named = ", ".join(f"{escape(row['name'])} ({row['violations']})" for row in rows) or "none of the policies above"
    return (
        f"<b>{total} episodes took more than permitted</b>, by policy: {named}; {recorded} of the recorded "
        "episodes. A budget must hold in every episode: this is a bug, please report it with this folder."
    )


def _reproduce_text(frontier: dict[str, Any]) -> str:
    spans = []
    for name in ("selection", "test"):
        first, count = frontier["seeds"][name]
        spans.append(f"{name} seeds {first:,} to {first + count - 1:,}")
    return f"Training seed {frontier['training_seed']}; {'; '.join(spans)}. No policy was chosen on test seeds."


def _commands(run: Path, frontier: dict[str, Any]) -> str:
    lines = [f"pip install 'londi[all]=={frontier['londi']}'", "londi train config.toml    # the file below"]
    folder = run.resolve().name
    return "\n".join([*lines, f"londi evaluate {folder}", f"londi report {folder}"])


def _environment(path: Path) -> str:
    if not path.is_file():
        return ""
    said = _read_json(path, "delete it")
    text = json.dumps(said, indent=2, ensure_ascii=False)
    return f"<h3>environment.json</h3>\n<pre>{escape(text)}</pre>"


def _figure(figure: Any, name: str, caption: str) -> str:
    svg = figure_svg(figure, name, caption)
    return f'<figure><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def figure_svg(figure: Any, name: str, label: str) -> str:
    """Return a figure as an inline `<svg>` whose colours are the page's CSS variables.

    `name` keeps its ids apart from those of other figures in the page; `label` is read by screen readers.
    """
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)


def _template(name: str) -> str:
    return resources.files("londi").joinpath("templates", name).read_text(encoding="utf-8").rstrip()


def _read_text(path: Path, fix: str) -> str:
    if not path.is_file():
        raise RunError(f"no {path.name} in {path.parent}: {fix}")
    return path.read_text(encoding="utf-8")


def _read_json(path: Path, fix: str) -> dict[str, Any]:
    try:
        return read_json(path, "run `londi evaluate RUN` again")
    except FileNotFoundError as error:
        raise RunError(f"no {path.name} in {path.parent}: {fix}") from error


def _read_episodes(run: Path, name: str) -> list[Episode]:
    path = run / "episodes" / f"{name}.jsonl"
    if not path.is_file():
        raise RunError(f"no episodes/{path.name} in {run}: run `londi evaluate RUN` first")
    episodes = list(read_episodes(path))
    if not episodes:
        raise RunError(f"{path} is empty: run `londi evaluate RUN` again")
    return episodes


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in _read_text(path, "run `londi train` first").splitlines() if line.strip()]
    except ValueError as error:
        raise RunError(f"{path} is no JSON Lines (cut off?): train again, or delete its last line") from error
    if not all(isinstance(row, dict) and "step" in row for row in rows):
        raise RunError(f"{path} holds lines that are no metrics: train again, or delete these")
    return rows
