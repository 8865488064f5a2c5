from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from londi.episode import Episode, Reply, Step, write_episodes
from londi.errors import MissingExtraError, RunError
from londi.frontier import SCHEMA
from londi.plots import calls_figure, frontier_figure, headline, learning_figure, percent, save_frontier
from londi.report import figure_svg, write_report
from londi.usage import Usage


def make_step(text: str = "You see a wall.", *, called: bool = False) -> Step:
    deepthink = Reply("turn left", "reach the key", Usage(40, 0, 8, 9e8)) if called else None
    quick = Reply("go forward", "", Usage(40, 0, 1, 1e8))
    action = deepthink.action if deepthink else quick.action
    return Step(text, text, quick, deepthink, (0.25, 0.75), 0.56, called, called, 1.0, 0.1, 2, action, 0.0, True)


def make_episode(seed: int, steps: list[Step], *, success: bool = True, policy: str = "budget 2") -> Episode:
    return Episode("londi/Test-v0", seed, "go to the key", policy, 2, 0.0, tuple(steps), success, not success)


def make_row(name: str, kind: str, value: float | None, success: float, calls: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "value": value,
        "success": {"mean": success, "low": success - 0.02, "high": success + 0.015},
        "return": success,
        "calls": {"mean": calls, "max": 3 * calls},
        "call_share": calls / 10,
        "tokens": 1234.0,
        "flops": 1e9 + calls * 1e9,
        "seconds": 0.5,
        "steps": 10.0,
        "violations": 0,
    }


def make_frontier() -> dict[str, Any]:
    rows = [
        make_row("QUICK", "model", None, 0.413, 0.0),
        make_row("DEEPTHINK", "model", None, 0.967, 6.61),
        make_row("disagreement oracle", "oracle", None, 0.959, 1.93),
        make_row("budget 1", "budget", 1, 0.743, 0.81),
        make_row("budget 4", "budget", 4, 0.955, 3.07),
        make_row("budget no limit", "budget", None, 0.961, 3.45),
        make_row("price 0.02", "price", 0.02, 0.921, 1.71),
        make_row("random 0.5", "random", 0.5, 0.802, 5.31),
        make_row("entropy 0.4", "entropy", 0.4, 0.917, 4.29),
    ]
    by_name = {row["name"]: row for row in rows}

    def choose(name: str) -> dict[str, Any]:
        row, deep = by_name[name], by_name["DEEPTHINK"]
        return {
            "name": name,
            "kind": row["kind"],
            "value": row["value"],
            "selection": row,
            "test": row,
            "success_ratio": row["success"]["mean"] / deep["success"]["mean"],
            "calls_ratio": row["calls"]["mean"] / deep["calls"]["mean"],
            "flops_ratio": row["flops"] / deep["flops"],
        }

    return {
        "schema": SCHEMA,
        "londi": "0.1.0",
        "experiment": "test <experiment>",
        "env": "londi/Test-v0",
        "training_seed": 7,
        "env_steps": 60000,
        "episodes": 1000,
        "seeds": {"selection": [1000, 500], "test": [5000, 1000]},
        "policies": rows,
        "selection": rows,
        "choices": {"at_99": choose("budget 4"), "at_95": choose("price 0.02")},
        "metrics": {
            "hypervolume": {"budget": 0.8421, "price": 0.8712, "random": 0.41, "entropy": 0.55, "oracle": None},
            "saved_calls_at_99": 0.536,
            "saved_flops_at_99": None,
            "saved_calls_at_95": 0.741,
            "apgr": {"budget": 0.81, "price": 0.85},
            "cpt50": 0.1,
            "cpt80": 0.16,
            "cpt95": None,
            "violations": 0,
        },
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "episodes").mkdir(parents=True)
    (folder / "frontier.json").write_text(json.dumps(make_frontier()), encoding="utf-8")
    evil = make_step("You see <script>alert(1)</script> & a key.", called=True)
    chosen = [make_episode(seed, [evil, make_step(), make_step("You see a box.")]) for seed in (1, 2, 3)]
    quick = [make_episode(seed, [make_step()] * 9, success=seed == 3, policy="QUICK") for seed in (1, 2, 3)]
    deepthink = [make_episode(seed, [make_step(called=True)], policy="DEEPTHINK") for seed in (1, 2, 3)]
    for name, episodes in (("chosen", chosen), ("quick", quick), ("deepthink", deepthink)):
        write_episodes(folder / "episodes" / f"{name}.jsonl", episodes)
    lines = [{"step": 100 * i, "episodes": i, "success": i / 30, "calls": 3.0, "loss": 1 / i} for i in range(1, 25)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "config.toml").write_text('name = "a < b"\n', encoding="utf-8")
    return folder


def test_report_is_written_with_figure(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    assert (run / "frontier.png").read_bytes().startswith(b"\x89PNG")


def test_headline_comes_from_the_choice(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    title = re.search(r"<h1>(.*?)</h1>", page)
    assert title is not None
    assert title.group(1) == "99\u00a0% of DEEPTHINK’s success with 46\u00a0% of its calls"
    assert "<b>price 0.02</b> keeps 95\u00a0% with 26\u00a0% of the calls" in page


def test_numbers_equal_those_of_the_frontier(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    for row in make_frontier()["policies"]:
        line = next(part for part in page.split("<tr") if f"<td>{row['name']}</td>" in part)
        assert f"<td>{100 * row['success']['mean']:.1f}\u00a0%</td>" in line
        assert f"{100 * row['success']['low']:.1f} to {100 * row['success']['high']:.1f}\u00a0%" in line
        assert f"<td>{row['calls']['mean']:.2f}</td>" in line
        assert "<td>1,234</td>" in line
    marked = re.findall(r'<tr class="chosen"><td>(.*?)</td>', page)
    assert marked == ["budget 4"]
    for number in ("0.842", "0.871", "53.6\u00a0%", "74.1\u00a0%", "16.0\u00a0%", "60,000", "1,000 to 1,499"):
        assert number in page


@pytest.mark.parametrize("line", [b'{"step": 2\xff0}', b'{"st', b"[1]", b'{"success": 0.5}'])
def test_metrics_that_can_not_be_read_are_named(run: Path, line: bytes) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl .*: train again, or delete"):
        write_report(run)


def test_metrics_that_are_null_say_so(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    line = next(part for part in page.split("<tr") if "saved_flops_at_99" in part)
    assert "none" in line
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)


def test_all_text_is_escaped_and_nothing_is_loaded(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "You see &lt;script&gt;alert(1)&lt;/script&gt; &amp; a key." in page
    assert "test &lt;experiment&gt;" in page
    assert "name = &quot;a &lt; b&quot;" in page
    assert not re.findall(r'(?:src|href)="(?!#)[^"]', page.replace('xlink:href="#', 'href="#'))
    assert "@import" not in page
    assert page.count("<svg") == 3


def test_ids_of_the_figures_do_not_clash(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_the_report_says_what_training_took_where_that_is_known(run: Path) -> None:
    path = run / "frontier.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    assert "It made" not in write_report(run).read_text(encoding="utf-8")
    metrics = before["metrics"] | {"pays_off_after": 4321}
    path.write_text(json.dumps(before | {"training_calls": 12345, "metrics": metrics}), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "It made 12,345 DEEPTHINK calls, which the chosen policy saves in 4,321 episodes." in page


def test_no_absolute_path_in_the_report(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert str(run.parent) not in page
    assert "londi evaluate run" in page


def test_report_is_deterministic(run: Path) -> None:
    assert write_report(run).read_text(encoding="utf-8") == write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("frontier.json", "londi evaluate RUN"),
        ("episodes/chosen.jsonl", "londi evaluate RUN"),
        ("episodes/quick.jsonl", "londi evaluate RUN"),
        ("episodes/deepthink.jsonl", "londi evaluate RUN"),
        ("metrics.jsonl", "londi train"),
        ("config.toml", "londi train"),
    ],
)
def test_missing_file_names_the_fix(run: Path, name: str, fix: str) -> None:
    (run / name).unlink()
    with pytest.raises(RunError, match=fix) as caught:
        write_report(run)
    assert Path(name).name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (run / "report.html").exists()


def test_other_schema_is_refused(run: Path) -> None:
    frontier = {**make_frontier(), "schema": 1}
    (run / "frontier.json").write_text(json.dumps(frontier), encoding="utf-8")
    with pytest.raises(RunError, match=r"schema 1.*reads 2"):
        write_report(run)
    with pytest.raises(RunError, match="schema 1"):
        frontier_figure(frontier)


@pytest.mark.parametrize("text", ['{"schema": 1', "[1]", '{"schema": 1, "policies": []}'])
def test_damaged_frontier_is_refused(run: Path, text: str) -> None:
    (run / "frontier.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match="londi evaluate RUN"):
        write_report(run)


def test_empty_episodes_are_refused(run: Path) -> None:
    (run / "episodes" / "chosen.jsonl").write_text("")
    with pytest.raises(RunError, match=r"chosen.jsonl is empty"):
        write_report(run)


def test_report_without_any_choice(run: Path) -> None:
    frontier = {**make_frontier(), "choices": {"at_99": None, "at_95": None}}
    (run / "frontier.json").write_text(json.dumps(frontier), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "<h1>No policy reached 95\u00a0% of DEEPTHINK’s success with fewer calls</h1>" in page
    assert 'class="chosen"' not in page


def test_violations_are_not_hidden(run: Path) -> None:
    assert "no episode of any policy took more" in write_report(run).read_text(encoding="utf-8")
    frontier = make_frontier()
    frontier["metrics"]["violations"] = frontier["policies"][3]["violations"] = 4
    (run / "frontier.json").write_text(json.dumps(frontier), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    assert "4 episodes took more than permitted" in page
    assert "budget 1 (4)" in page


def texts(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_frontier_figure_labels_every_family_and_none_overlap() -> None:
    figure = frontier_figure(make_frontier())
    said = texts(figure)
    for label in ("learned budgets", "learned prices", "calls at random", "QUICK-entropy threshold", "QUICK"):
        assert label in said
    assert {"DEEPTHINK", "disagreement oracle", "99\u00a0% of DEEPTHINK", "chosen: budget 4", "n = 1"} <= set(said)
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    assert overlaps == []
    assert headline(make_frontier()) in [text.get_text() for text in figure.texts]


def test_frontier_figure_draws_the_points() -> None:
    figure = frontier_figure(make_frontier(), title=False)
    drawn = {(round(float(x), 6), round(float(y), 6)) for line in figure.axes[0].lines for x, y in line.get_xydata()}
    for row in make_frontier()["policies"]:
        assert (row["calls"]["mean"], row["success"]["mean"]) in drawn
    assert figure.texts == []


def test_frontier_figure_with_few_policies() -> None:
    frontier = copy.deepcopy(make_frontier())
    frontier["policies"] = [row for row in frontier["policies"] if row["kind"] in ("model", "budget")]
    frontier["choices"] = {"at_99": None, "at_95": None}
    said = texts(frontier_figure(frontier))
    assert "learned budgets" in said
    assert "learned prices" not in said


def test_a_rule_with_dollar_signs_is_no_formula(tmp_path: Path) -> None:
    frontier, name = make_frontier(), r"action ^focus$|\w{2}$"
    frontier["policies"].append(make_row(name, "rule", None, 0.2, 9.0))
    assert name in texts(frontier_figure(frontier))
    save_frontier(frontier, tmp_path / "frontier.png")


def test_save_frontier_makes_the_folder(tmp_path: Path) -> None:
    save_frontier(make_frontier(), tmp_path / "new" / "frontier.png")
    assert (tmp_path / "new" / "frontier.png").stat().st_size > 10_000


def test_missing_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"londi\[plots\]"):
        frontier_figure(make_frontier())


def test_calls_figure_shows_shares() -> None:
    called, alone = make_step(called=True), make_step()
    figure = calls_figure([make_episode(1, [called, alone]), make_episode(2, [alone, alone])])
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [0.5, 0.0]


def test_learning_figure_takes_gaps() -> None:
    lines: list[dict[str, Any]] = [
        {"step": 1, "success": 0.5, "calls": 2.0, "loss": None},
        {"step": 2, "success": 0.6, "calls": 1.0},
    ]
    figure = learning_figure(lines)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["episodes solved", "calls per episode", "loss"]
    assert figure_svg(figure, "learning", 'a "label"').startswith('<svg role="img" aria-label="a &quot;label&quot;"')


@pytest.mark.parametrize(
    ("share", "digits", "said"),
    [(0.413, 0, "41"), (0.9964, 0, "99.6"), (1.0, 0, "100"), (0.0, 0, "0"), (0.003, 0, "0.3"), (0.965, 1, "96.5")],
)
def test_percent_never_rounds_to_all_or_nothing(share: float, digits: int, said: str) -> None:
    assert percent(share, digits) == f"{said}\u00a0%"
