"""Published tables: what they run, what they find in runs, and where printed numbers differ."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import IO, Any

import pytest

from londi import config, frontier, panels, plots, reproduce
from londi.cli import main
from londi.errors import ConfigError, RunError
from londi.jobs import Job, _steps, run
from londi.lifeline import Commands
from londi.reproduce import published, records
from londi.reproduce.results import differences, pictured
from londi.reproduce.results import results as results_of
from londi.run import Run, save_checkpoint

ROOT = Path(__file__).parents[2]
TEXT = """
title = "Small"
seeds = [0, 1]

[changes.evaluate]
episodes = 40

[quick.train]
num_steps = 1_000

[[tasks]]
name = "key and door"
experiment = "KEYDOOR"

[[methods]]
name = "prices"
family = "price"

[[methods]]
name = "SAC"
family = "sac"
runs = [{ train = { learners = ["sac"], price = 0.02 } }, { train = { learners = ["sac"], price = 0.1 } }]

[[methods]]
name = "random"
family = "random"

[[methods]]
name = "oracle"
family = "oracle"
"""


CAPPED = "learned budgets", "best price, then stop"
DOLLARS = {"episodes": 40, "budget_measure": "dollars", "budgets": [0.5]}
"""Budgets that are none where calls are counted."""


@pytest.fixture
def table(tmp_path: Path) -> reproduce.Table:
    path = tmp_path / "small.toml"
    path.write_text(TEXT.replace("KEYDOOR", str(ROOT / "experiments" / "keydoor.toml")))
    return reproduce.load_table(path)


def row(name: str, kind: str, calls: float, success: float) -> dict[str, Any]:
    spread = {"mean": success, "low": success, "high": success}
    numbers = {"flops": 10 * calls, "tokens": 1.0, "seconds": 1.0, "dollars": 0.0, "violations": 0, "switches": 3.0}
    counted = {"mean": calls, "max": 2 * calls}
    return {"name": name, "kind": kind, "value": calls, "success": spread, "calls": counted, **numbers}


def finish(job: Job, rows: list[dict[str, Any]], alone: tuple[float, float] = (0.4, 0.8)) -> None:
    """Write what a run leaves, with these rows beside QUICK and DEEPTHINK, which solve so much alone."""
    Run.create(job.folder, job.experiment)
    rows = [row("QUICK", "model", 0, alone[0]), row("DEEPTHINK", "model", 10, alone[1]), *rows]
    count = job.experiment.evaluate.episodes
    for each in rows:
        each |= {
            "episodes": count,
            "solved": frontier.packed([i < count * each["success"]["mean"] for i in range(count)]),
        }
    steps = job.experiment.train.num_steps
    measured = {"config": config.dump(job.experiment), "policies": Run.open(job.folder).fingerprints()}
    data = {"policies": rows, "selection": rows, "env_steps": steps, "episodes": 40, "measured": measured}
    data |= {"schema": frontier.SCHEMA, "training_calls": steps // 2}
    (job.folder / "frontier.json").write_text(json.dumps(data))
    learners = {name: {"optimiser": {"state": {0: {"step": 70.0}}}} for name in job.experiment.train.learners}
    save_checkpoint(job.folder / "checkpoints" / "last.pt", {"seconds": 3.0, "done": True, "learners": learners})


def fill(table: reproduce.Table, folder: Path) -> None:
    for job in reproduce.jobs(table, folder):
        if job.method:
            price = job.experiment.train.price
            finish(job, [row(f"sac {price}", "sac", 2 if price == 0.1 else 5, 0.6 if price == 0.1 else 0.8)])
        else:
            better = 0.8 if job.experiment.seed else 0.72
            rules = [row("random 0.5", "random", 5, 0.6)] if job.experiment.evaluate.random_rates else []
            finish(job, [row("price 0.1", "price", 2, better), *rules, row("disagreement oracle", "oracle", 2, 0.8)])


def results(table: reproduce.Table, folder: Path) -> dict[str, Any]:
    every = reproduce.jobs(table, folder)
    return results_of(table, every, reproduce.collect(table, every, {}))


def test_what_is_run(table: reproduce.Table, tmp_path: Path) -> None:
    found = reproduce.jobs(table, tmp_path)
    assert [(job.method, job.experiment.seed) for job in found] == [
        *[("", 0), ("", 1)],
        *[("SAC 0", 0), ("SAC 1", 0), ("SAC 0", 1), ("SAC 1", 1)],
    ]
    assert len({job.folder for job in found}) == len(found)
    assert {job.experiment.evaluate.episodes for job in found} == {40}
    measured = [bool(job.experiment.evaluate.entropy_thresholds) for job in found]
    assert measured == [True, *[False] * 5], "what learns nothing is measured once"
    assert {job.experiment.train.price for job in found if job.method} == {0.02, 0.1}
    prices, sac, *rules = table.methods
    three = replace(table, methods=(prices, replace(sac, runs=(*sac.runs, {"train": {"price": 0.2}})), *rules))
    quick = reproduce.jobs(reproduce.shortened(three), tmp_path)
    assert [(job.method, job.experiment.seed) for job in quick] == [("", 0), ("SAC 0", 0), ("SAC 1", 0)]
    assert {job.experiment.train.num_steps for job in quick} == {1_000}


def test_what_is_found(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    found = results(table, tmp_path)
    task = found["tasks"]["key and door"]
    assert task["models"] == {"QUICK": {"success": 0.4, "calls": 0}, "DEEPTHINK": {"success": 0.8, "calls": 10}}
    prices, sac = task["methods"]["prices"], task["methods"]["SAC"]
    assert prices["hypervolume"] == pytest.approx([0.5 * 0.2 + 0.9 * 0.8, 0.5 * 0.2 + 0.8])
    assert sac["hypervolume"] == pytest.approx([0.5 * 0.2 + 0.75 * 0.3 + 0.5] * 2), "two runs make one frontier"
    shares = {"success_ratio": 1, "calls_ratio": 0.2, "flops_ratio": 0.2, "tokens_ratio": 1, "seconds_ratio": 1}
    assert prices["at_99"] == [None, {"name": "price 0.1", **shares, "switches": 3, "most_calls": 4}]
    assert prices["interval"] is None, "a seed has no choice"
    assert prices["cpt80"] == pytest.approx([0.2, 0.2])
    assert task["methods"]["random"]["cpt80"] == [None, None]
    assert (prices["violations"], prices["under_budget"]) == (0, 0), "no price is a budget"
    assert prices["env_steps"] == 12_000
    assert sac["env_steps"] == 24_000
    assert prices["regret"] == pytest.approx([0.1, 0.0])
    better = found["overall"]["SAC"]["better"]["prices"]
    assert better["gain"] == {"all": 0.5, "low": None, "high": None, "each": [0.5]}, "one seed above .825, one below"
    assert found["overall"]["random"]["better"]["prices"]["aiq"]["all"] == 1
    assert task["methods"]["random"]["hypervolume"] == pytest.approx([0.5 * 0.5 + 0.75 * 0.5] * 2)
    oracle = task["methods"]["oracle"]["at_99"][0]
    assert (oracle["success_ratio"], oracle["calls_ratio"], oracle["tokens_ratio"]) == (1, 0.2, None)


def test_a_picture_shows_every_family_once(table: reproduce.Table, tmp_path: Path) -> None:
    sac = table.methods[1]
    twice = replace(table, methods=(*table.methods, replace(sac, name="SAC again", runs=sac.runs[:1])))
    fill(twice, tmp_path)
    every = reproduce.jobs(twice, tmp_path)
    (seeds,) = pictured(twice, every, reproduce.collect(twice, every, {})).values()
    assert [[row["name"] for row in one["policies"] if row["kind"] == "sac"] for one in seeds] == [
        ["sac 0.02 (0)", "sac 0.1 (1)"]
    ] * 2
    assert [sum(row["kind"] == "price" for row in one["policies"]) for one in seeds] == [1, 1]
    assert {row["kind"] for row in seeds[0]["policies"]} == {"model", "price", "random", "oracle", "sac"}


def test_it_is_written_and_printed(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    lines = published.markdown(results(table, tmp_path))
    text = "\n".join(lines)
    assert "| prices | 1 | **0.860 ± 0.057** |" in text
    assert "100.0 % (1 of 2 seeds) | 20.0 % (1 of 2 seeds) | 20.0 % (1 of 2 seeds) | 12,000 | 6,000 | 70 | - |" in text
    assert "| 24,000 | 12,000 | 140 | - |" in text
    assert "| prices | 0.720 |  |  |" in text, "areas of .82 and .9, of which QUICK has .5; two seeds make no interval"
    assert "| random | 0.250 | 1.00 | 1.00 |" in text
    page = "before\n<!-- small: written by londi reproduce -->\nold\n<!-- end of small -->\nafter\n"
    put = published.put(page, "small", lines)
    assert put.startswith("before")
    assert put.endswith("after\n")
    assert "old" not in put
    assert published.put(put, "small", lines) == put
    with pytest.raises(ConfigError, match="no place"):
        published.put("nothing", "small", lines)


def test_what_has_no_room_is_printed_on_a_page_of_its_own(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    spec = replace(table, page="page.md", measures_page="more.md")
    assert spec.pages()[(tmp_path / "more.md").resolve()] == ["small measures"]
    text = "\n".join(published.blocks(results(table, tmp_path))["small measures"])
    kept = " (1 of 2 seeds) | ".join(["100.0 %", "20.0 %", "100.0 %", "100.0 %"]) + " (1 of 2 seeds)"
    assert f"| prices | 0.850 ± 0.071 | 20.0 % | 20.0 % | 20.0 % | - | {kept} |" in text
    assert "| 4 | 3.0 | 0.1 |" in text, "most calls, switches, three seconds"
    assert "steps to 90 %" not in text, "no run kept policies on the way"


def test_what_others_have_no_counterpart_of_can_be_left_out(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    fewer = replace(table, methods=(replace(table.methods[1], without=("sac 0.02",)), *table.methods[2:]))
    every = [job for job in reproduce.jobs(table, tmp_path) if job.method != "prices"]
    found = results_of(fewer, every, reproduce.collect(table, every, {}))["tasks"]["key and door"]["methods"]["SAC"]
    assert (found["settings"], found["hypervolume"]) == (1, pytest.approx([0.5 * 0.2 + 0.75 * 0.8] * 2))


def test_a_method_alone_in_two_tasks_is_compared_with_nothing(table: reproduce.Table, tmp_path: Path) -> None:
    two = (table.tasks[0], replace(table.tasks[0], name="again"))
    alone = replace(table, tasks=two, methods=(table.methods[0], table.methods[-1]))
    for job in reproduce.jobs(alone, tmp_path):
        finish(job, [row("price 0.1", "price", 2, 0.8), row("disagreement oracle", "oracle", 2, 0.8)])
    assert published.markdown(results(alone, tmp_path))[-3] == "| prices | 0.800 |"


def test_a_line_names_the_other_method_that_takes_the_fewest_calls(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    lines = published.markdown(results(table, tmp_path), "lines")
    assert "| 100.0 % (1 of 2 seeds) | 20.0 % (1 of 2 seeds) | 100.0 % | 50.0 % (SAC) |" in "\n".join(lines)
    dear, cheap, cheapest = ({"success_ratio": 1.0, "calls_ratio": calls} for calls in (0.6, 0.5, 0.1))
    choices: dict[str, list[dict[str, float] | None]]
    choices = {"dear": [dear, dear], "cheap": [cheap, cheap], "in one seed": [None, cheapest], "never": [None, None]}
    assert published._cheapest(choices, 2) == ["100.0 %", "50.0 % (cheap)"]
    assert published._cheapest(choices, 1) == ["100.0 % (1 of 2 seeds)", "10.0 % (1 of 2 seeds) (in one seed)"]
    assert published._cheapest({"never": [None, None]}, 1) == ["-", "-"]


def test_where_deepthink_solves_nothing_there_is_no_share_of_it(table: reproduce.Table, tmp_path: Path) -> None:
    alone = replace(table, methods=table.methods[:1])
    for job in reproduce.jobs(alone, tmp_path):
        finish(job, [row("price 0.1", "price", 2, 0.0)], (0.0, 0.0))
    prices = results(alone, tmp_path)["tasks"]["key and door"]["methods"]["prices"]
    assert not any(prices["at_99"])
    assert prices["interval"] is None
    assert all(prices[area] == [None, None] for area in ("hypervolume", "gain", "aiq"))
    assert "| prices | 1 | - | - |" in "\n".join(published.markdown(results(alone, tmp_path)))


def test_a_task_that_deepthink_never_solves_leaves_the_others_their_statistics(
    table: reproduce.Table, tmp_path: Path
) -> None:
    (room,) = table.tasks
    two = replace(table, tasks=(room, replace(room, name="hopeless")), methods=(table.methods[0], *table.methods[2:]))
    for job in reproduce.jobs(two, tmp_path):
        finish(job, [row("price 0.1", "price", 2, 0.8), row("random 0.5", "random", 5, 0.6)])
    whole = results(two, tmp_path)["overall"]
    for job in reproduce.jobs(two, tmp_path):
        if job.task == "hopeless":
            shutil.rmtree(job.folder)
            finish(job, [row("price 0.1", "price", 2, 0.0), row("random 0.5", "random", 5, 0.0)], (0.0, 0.0))
    found = results(two, tmp_path)
    assert found["tasks"]["hopeless"]["methods"]["prices"]["hypervolume"] == [None, None]
    assert {name: row["iqm"] for name, row in found["overall"].items()} == {n: r["iqm"] for n, r in whole.items()}
    assert found["overall"]["random"]["tasks"] == ["key and door"]


def test_five_seeds_make_intervals(table: reproduce.Table, tmp_path: Path) -> None:
    five = replace(table, seeds=(0, 1, 2, 3, 4), methods=(table.methods[0], *table.methods[2:]))
    for job in reproduce.jobs(five, tmp_path):
        lucky = job.experiment.seed % 2
        finish(job, [row("price 0.1", "price", 2 + lucky, 0.8), row("random 0.5", "random", 5, 0.6)])
    found = results(five, tmp_path)
    low, high = found["tasks"]["key and door"]["methods"]["prices"]["interval"]
    assert (low, high) == pytest.approx((1, 1)), "all solve what DEEPTHINK solves"
    prices = found["overall"]["prices"]
    assert prices["low"] < prices["iqm"] < prices["high"]
    assert found["overall"]["random"]["better"]["prices"]["gain"]["low"] == 1


def test_where_calls_are_made_is_printed() -> None:
    def rows(calls: int) -> dict[str, Any]:
        counts = [("all steps", 2000, 500), ("the models differ", 600, 600), ("they agree", 1400, 0)]
        counts += [("seldom", 99, 99), ("never", 0, 0)]
        made = [{"label": k, "steps": n, "calls": min(calls, n), "differ": differ} for k, n, differ in counts]
        return {"states": {"policies": ["price 1", "price 2", "price 1"], "rows": made}}

    text = "\n".join(published.states_markdown({"one": rows(400), "two": rows(1000)}))
    assert "| all steps | 20 % / 25 % | 50 % / 25 % |" in text
    assert "| the models differ | 67 % | 100 % |" in text
    assert "never" not in text, "no such step"
    assert "| seldom | - / - | - / - |" in text, "too few to say"
    assert "| calls that change what is done | 100 % | 60 % |" in text
    assert "| runs x policy chosen | 2 x price 1, 1 x price 2 | 2 x price 1, 1 x price 2 |" in text


def test_runs_that_are_missing_or_of_another_table(table: reproduce.Table, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not run yet: key-and-door-0"):
        results(table, tmp_path)
    fill(table, tmp_path)
    faster = replace(table, changes={"evaluate": {"episodes": 40, "processes": 7, "num_envs": 9}})
    assert all(job.done for job in reproduce.jobs(faster, tmp_path)), "the results do not depend on these"
    changed = replace(table, changes={"evaluate": {"episodes": 40}, "train": {"gamma": 0.5}})
    assert not any(job.done for job in reproduce.jobs(changed, tmp_path))
    with pytest.raises(RunError, match="another experiment"):
        run(reproduce.jobs(changed, tmp_path)[0])


def test_what_is_published_of_the_runs_gives_the_same_numbers(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path / "runs")
    every = reproduce.jobs(table, tmp_path / "runs")
    found = reproduce.collect(table, every, {})
    kept = tmp_path / "small"
    records.save(kept, {"of-a-task-that-is-no-more-0": found["key-and-door-0"]})
    (kept / "notes.json").write_text('{"mine": 1}')
    records.save(kept, found)
    assert {path.stem for path in kept.iterdir()} == {"notes", *(job.folder.name for job in every)}
    assert kept.joinpath("key-and-door-0.json").read_text().count("\n  {") == 10, "a line for each policy"

    elsewhere = reproduce.jobs(table, tmp_path / "nowhere")
    read = records.load(kept, elsewhere, {})
    assert results_of(table, elsewhere, reproduce.collect(table, elsewhere, read)) == results_of(table, every, found)
    more = reproduce.jobs(replace(table, seeds=(0, 1, 2)), tmp_path / "nowhere")
    assert {job.folder.name for job in more} - records.load(kept, more, {}).keys() == {
        *("key-and-door-2", "key-and-door-SAC-0-2", "key-and-door-SAC-1-2")
    }
    changed = reproduce.jobs(replace(table, changes={"train": {"gamma": 0.5}}), tmp_path / "nowhere")
    assert not records.load(kept, changed, {}), "they are of other experiments"
    assert {*records.load(kept, elsewhere, {"carries": "You carry"})} == {
        job.folder.name for job in every if job.method
    }, "where the common runs call was not counted"
    for damaged in ("{", "[]", '{"schema": 1}', '{"schema": 7}'):
        (kept / "key-and-door-1.json").write_text(damaged)
        with pytest.raises(RunError, match=r"key-and-door-1.json is damaged"):
            records.load(kept, elsewhere, {})
    with pytest.raises(RunError, match="is a file, where the table keeps"):
        records.check(kept / "notes.json")


def test_runs_of_several_machines_are_named(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    every = reproduce.jobs(table, tmp_path)
    found = reproduce.collect(table, every, {})
    there = found["key-and-door-1"]["environment"]
    found["key-and-door-1"]["environment"] = there | {"machine": there["machine"] | {"cpus": 77}}
    last = published.markdown(results_of(table, every, found))[-1]
    assert last.count("torch") == 2
    assert "77 CPUs" in last


def test_what_is_published_counts_before_what_was_run_here(
    table: reproduce.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(table, tmp_path / "runs" / "small")
    (tmp_path / "page.md").write_text(
        "<!-- small: written by londi reproduce -->\n<!-- end of small -->\n![](page-small.png)"
    )
    source = tmp_path / "small.toml"
    source.write_text('page = "page.md"\nchoices_page = "front.md"\n' + source.read_text())
    command = ["reproduce", str(source), "--folder", str(tmp_path / "runs")]
    front = tmp_path / "front.md"
    with pytest.raises(SystemExit):
        main(command)
    front.write_text("no comments")
    with pytest.raises(SystemExit):
        main(command)
    said = capsys.readouterr().err
    assert said.index("there is no page") < said.index("<!-- small choices: written by londi reproduce -->")
    front.write_text("<!-- small choices: written by londi reproduce -->\n<!-- end of small choices -->")
    main(command)
    assert "| key and door | 40.0 % | 80.0 % | 100.0 % (1 of 2 seeds) | 1 of 2 | 20.0 %" in front.read_text()
    both = replace(reproduce.load_table(source), choices_page="page.md")
    assert both.pages() == {(tmp_path / "page.md").resolve(): ["small", "small choices"]}
    assert "| prices | 1 | **0.860 ± 0.057** |" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page-small.png").is_file()
    elsewhere = [*command[:-1], str(tmp_path / "nowhere"), "--published"]
    main([*elsewhere, "--check"])
    said = capsys.readouterr().err
    assert "6 of 6 runs are published" in said
    assert "are the ones found" in said
    page = tmp_path / "page.md"
    written = page.read_text()
    page.write_text(written.replace("0.860", "0.870"))
    with pytest.raises(SystemExit, match="1"):
        main([*elsewhere, "--check"])
    assert "page.md: the block 'small' is not what" in capsys.readouterr().err
    page.write_text(written)

    kept = tmp_path / "small" / "key-and-door-0.json"
    kept.write_text(kept.read_text().replace('"calls": {"mean": 2,', '"calls": {"mean": 4,'))
    for where in (elsewhere, [*command, "--published"]):
        with pytest.raises(SystemExit):
            main([*where, "--check"])
        assert "methods/prices/hypervolume/0: printed" in capsys.readouterr().err
    kept.unlink()
    with pytest.raises(SystemExit) as ended:
        main([*elsewhere, "--check"])
    assert ended.value.code == 2
    assert "nothing fits that is published of key-and-door-0: leave out" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists(), "nothing was run"
    for other in ("--published", "--check"):
        with pytest.raises(SystemExit):
            main([*command, other, "--quick"])
        assert f"leave out --quick or {other}" in capsys.readouterr().err


class Noted(Commands):
    """Runs none, and keeps what was to be run."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[list[str]] = []

    def run(self, arguments: Sequence[str], log: IO[str]) -> int:
        self.begun.append(list(arguments))
        return 0


def test_what_is_only_evaluated_otherwise_is_not_trained_again(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    more = {"episodes": 40, "selection_episodes": 50}
    job = reproduce.jobs(replace(table, changes={"evaluate": more}), tmp_path)[0]
    assert not job.done
    commands = Noted()
    run(job, commands)
    assert commands.begun == [["evaluate", str(job.folder)]]
    assert Run.open(job.folder).experiment == job.experiment

    prices = {"episodes": 50, "prices": [0.02, 0.3], "num_envs": 3}
    other = reproduce.jobs(replace(table, changes={"evaluate": prices}), tmp_path)[1]
    assert not other.done
    for _ in range(2):  # the second time as after an interruption
        commands.begun.clear()
        run(other, commands)
        assert commands.begun == [["evaluate", str(other.folder), "--add"]], (
            "other settings are to be measured, and other test episodes"
        )
        assert not other.done, "what is there is not what was to be measured"


def test_a_run_is_done_as_what_it_was_measured(table: reproduce.Table, tmp_path: Path) -> None:
    fill(table, tmp_path)
    job = reproduce.jobs(replace(table, changes={"evaluate": DOLLARS}), tmp_path)[1]
    assert _steps(job, Path()) == [["evaluate", str(job.folder)]], "nothing can be added to what counts otherwise"
    rows = [row("price 0.1", "price", 2, 0.8)]
    finish(job, rows)
    told = [job.done]
    path = job.folder / "frontier.json"
    path.write_text(path.read_text().replace('"env_steps": 12000', '"env_steps": 11000'))
    told.append(job.done)
    finish(job, rows)
    (job.folder / "checkpoints" / "price.pt").write_text("learned since")
    told.append(job.done)
    assert told == [True, False, False], "as it is, when training was interrupted, with other policies than are there"


def test_an_interrupt_tells_what_it_waits_for(
    table: reproduce.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(todo: object, processes: int, progress: object, ending: Callable[[int], None]) -> None:
        for running in (0, 1, 2):
            ending(running)
        raise KeyboardInterrupt

    monkeypatch.setattr("londi.jobs.run_all", interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(["reproduce", str(tmp_path / "small.toml"), "--quick", "--folder", str(tmp_path / "runs")])
    then = "trainings write checkpoints, for up to 60 s; Ctrl-C again ends them at once\n"
    said = capsys.readouterr().err
    assert f"ending 1 run: {then}ending 2 runs: {then}" in said
    assert said.count("ending") == 2


TRANSFER = """
title = "Elsewhere"
trained_in = "small"
layout = "lines"
seeds = [1]
[[tasks]]
name = "a slippery floor"
experiment = "KEYDOOR"
trained_on = "key and door"
changes = { env = { options = { slip = 0.3 } } }
[[methods]]
name = "prices"
family = "price"
[[methods]]
name = "oracle"
family = "oracle"
"""


def elsewhere(tmp_path: Path, old: str = "", new: str = "") -> reproduce.Table:
    text = TRANSFER.replace("KEYDOOR", str(ROOT / "experiments" / "keydoor.toml"))
    (tmp_path / "elsewhere.toml").write_text(text.replace(old, new) if old else text)
    return reproduce.load_table(tmp_path / "elsewhere.toml")


def test_switchers_of_another_table_are_measured_without_training(table: reproduce.Table, tmp_path: Path) -> None:
    here = tmp_path / "runs" / "elsewhere"
    (job,) = reproduce.jobs(elsewhere(tmp_path), here)
    assert job.source
    assert job.source.folder == tmp_path / "runs" / "small" / "key-and-door-1"
    assert job.experiment.env.options["slip"] == 0.3
    assert job.experiment.seed == 1
    with pytest.raises(RunError, match="key-and-door-1 is not trained"):
        run(job)
    fill(table, tmp_path / "runs" / "small")
    save_checkpoint(job.source.folder / "checkpoints" / "last.pt", {"seconds": 3.0, "done": False})
    with pytest.raises(RunError, match="key-and-door-1 is not trained"):
        run(job)
    save_checkpoint(job.source.folder / "checkpoints" / "last.pt", {"seconds": 3.0, "done": True})
    commands = Noted()
    run(job, commands)
    source = str(here / "a-slippery-floor-1.toml")
    assert commands.begun == [["evaluate", str(job.source.folder), "--on", source, "--folder", str(job.folder)]]
    found = [row("price 0.1", "price", 2, 0.8), row("disagreement oracle", "oracle", 2, 0.8)]
    finish(job, found)
    told = [job.done]
    for folder in (job.source.folder, job.folder):
        for name in ("budget", "price"):
            (folder / "checkpoints" / f"{name}.pt").write_text("learned")
    (job.folder / "trained.json").write_text('{"commit": "abc"}')
    told.append(job.done)
    finish(job, found)
    told.append(job.done)
    (job.source.folder / "checkpoints" / "price.pt").write_text("learned anew")
    told.append(job.done)
    assert told == [False, False, True, False], (
        "without policies, measured without them, with the source's, after the source was trained anew"
    )
    (job.source.folder / "checkpoints" / "price.pt").write_text("learned")
    lines = published.markdown(results(elsewhere(tmp_path), here), "lines")
    assert lines[-1].endswith("trained at commit abc.")
    assert "| a slippery floor | 40.0 % | 80.0 % | 100.0 % | 20.0 % | - | - | 0.900 | 0.900 | 0 |" in "\n".join(lines)

    records.save(tmp_path / "kept", reproduce.collect(elsewhere(tmp_path), [job], {}))
    text = (tmp_path / "small.toml").read_text()
    for change, fits in (("episodes = 41", True), ("episodes = 40\n[changes.train]\ngamma = 0.5", False)):
        (tmp_path / "small.toml").write_text(text.replace("episodes = 40", change))
        again = reproduce.jobs(elsewhere(tmp_path), here)
        assert bool(records.load(tmp_path / "kept", again, {})) == fits, "what counts is how it was trained"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('trained_in = "small"', "", "'trained_on' names a task of a table"),
        ('trained_in = "small"', 'trained_in = "smal"', "no table.*small"),
        ('trained_in = "small"', 'trained_in = "elsewhere"', "must name a table that trains"),
        ("seeds = [1]", "seeds = [1]\nchanges.train.gamma = 0.5", "leave out runs, train and switcher"),
        ("seeds = [1]", "seeds = [1]\nquick.train.gamma = 0.5", "leave out runs, train and switcher"),
        ("{ env", "{ switcher = { width = 64 }, env", "leave out runs, train and switcher"),
        ('family = "oracle"', 'family = "oracle"\nruns = [{}]', "leave out runs, train and switcher"),
        ('trained_on = "key and door"', "", "trains no ''"),
        ('trained_on = "key and door"', 'trained_on = "door"', "trains no 'door' with seed 1"),
        ("seeds = [1]", "seeds = [7]", "trains no 'key and door' with seed 7"),
        ("seeds = [1]", 'seeds = [1]\n[states]\nx = "("', "states.x.*no regular expression"),
    ],
)
def test_switchers_that_are_nowhere(table: reproduce.Table, tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        reproduce.jobs(elsewhere(tmp_path, old, new), tmp_path / "runs" / "elsewhere")


def test_where_printed_numbers_differ() -> None:
    printed = {"a": [1.0, None], "b": {"c": 2, "seconds": 1}, "name": "x"}
    assert differences(printed, {**printed, "b": {"c": 2, "seconds": 9}}, 1e-9) == []
    timed = {"at_99": [{"seconds_ratio": 0.5, "tokens_ratio": 0.5}]}
    other = {"at_99": [{"seconds_ratio": 0.6, "tokens_ratio": 0.6}]}
    assert differences(timed, other, 1e-9) == ["/at_99/0/tokens_ratio: printed 0.5, found 0.6"]
    assert differences(printed, {**printed, "a": [1.0005, None]}, 1e-3) == []
    assert differences(printed, {**printed, "a": [1.1, None]}, 1e-3) == ["/a/0: printed 1.0, found 1.1"]
    assert differences(printed, {**printed, "a": [1.0, 0.5]}, 9.0) == ["/a/1: printed None, found 0.5"]
    assert len(differences(printed, {"a": [1.0], "name": "y"}, 1e-3)) == 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('family = "price"', 'family = "prize"', "methods.0.family.*input should be"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "at least one seed"),
        ("seeds = [0, 1]", 'choices_page = "README.md"', "say in 'page' which is the first"),
        ('name = "SAC"', 'name = "prices"', "at least one method"),
        ('title = "Small"', 'titel = "Small"', "title.*required|titel"),
        ("KEYDOOR", "nowhere.toml", "key and door"),
        ("episodes = 40", "episodes = 0", "evaluate.episodes"),
        ("episodes = 40", "episodes = 40\nrandom_rates = []", "measures nothing for method 'random'"),
        ('family = "price"', 'family = "myopic"', "measures nothing for method 'prices': name what learns it"),
        ('family = "price"', 'family = "capped"', "measures nothing for method 'prices'"),
        ('learners = ["sac"], price = 0.1', "price = 0.1", "measures nothing for method 'SAC'"),
        ('family = "price"', 'family = "price"\nonly = "prize"', "measures nothing for method 'prices'"),
        ("[[methods]]", '[[tasks]]\nname = "key-and door"\nexperiment = "KEYDOOR"\n[[methods]]', "key-and-door-0"),
    ],
)
def test_tables_that_can_not_be(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(TEXT.replace(old, new, 1).replace("KEYDOOR", str(ROOT / "experiments" / "keydoor.toml")))
    with pytest.raises(ConfigError, match=said):
        reproduce.jobs(reproduce.load_table(path), tmp_path)


def test_what_a_price_under_budgets_may_be_called(table: reproduce.Table) -> None:
    experiment = table.experiment(table.tasks[0], {"evaluate": {"capped": True}})
    found = [reproduce._has(experiment, reproduce.Method("x", "capped", only)) for only in ("", "price 0.1", "x")]
    assert found == [True, True, False]


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", str(tmp_path / "other.toml")])
    assert ended.value.code == 2
    assert "no table" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "tables").glob("*.toml")), ids=lambda path: path.stem)
def test_the_repositorys_tables_can_be_run_and_stand_on_their_page(path: Path) -> None:
    """Not run here: every experiment is one, and the page shows the numbers that are stored, which are those of the
    runs that are published."""
    spec = reproduce.load_table(path)
    assert reproduce.jobs(reproduce.shortened(spec), Path("runs"))
    assert reproduce.jobs(spec, Path("runs"))
    if spec.page:
        stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        for page, names in spec.pages().items():
            text = page.read_text(encoding="utf-8")
            for name in names:
                assert published.put(text, name, published.blocks(stored, spec.layout)[name]) == text
        every = reproduce.jobs(spec, Path("runs"))
        kept = records.load(path.with_suffix(""), every, spec.states)
        if path.with_suffix("").is_dir():
            found = results_of(spec, every, reproduce.collect(spec, every, kept))
            assert differences(stored, found, 1e-9) == []


def test_pages_say_how_many_runs_a_table_needs() -> None:
    said = re.findall(
        r"^londi reproduce (\w+) .*?# .*?(\d+) (?:short )?runs\b", (ROOT / "docs" / "rivals.md").read_text(), re.M
    )
    tables = ROOT / "experiments" / "tables"
    needed = [len(reproduce.jobs(reproduce.load_table(tables / f"{name}.toml"), Path("runs"))) for name, _ in said]
    assert [int(runs) for _, runs in said] == needed
    assert {name for name, _ in said} == {"keydoor", "one_run", "apart"}


def test_the_printed_numbers_are_the_ones_that_a_fresh_run_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = ROOT / "experiments" / "tables" / "smallest.toml"
    main(["reproduce", str(table), "--check", "--folder", str(tmp_path / "runs"), "--tolerance", "0.02"])
    assert "are the ones found" in capsys.readouterr().err
    copy = tmp_path / "smallest.toml"
    text = table.read_text().replace("../keydoor.toml", str(ROOT / "experiments" / "keydoor.toml"))
    copy.write_text(re.sub("page = .*", "", text))
    stored = json.loads(table.with_suffix(".json").read_text())
    stored["tasks"]["key and door"]["methods"]["learned prices"]["hypervolume"][0] += 0.1
    stored["made"]["python"] = "3.1"
    copy.with_suffix(".json").write_text(json.dumps(stored))
    runs = str(tmp_path / "runs")
    with pytest.raises(SystemExit) as ended:  # the runs are there: this takes no time
        main(["reproduce", str(copy), "--check", "--folder", runs, "--tolerance", "0.02"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "learned prices/hypervolume/0: printed" in said
    assert "made with other versions or on another machine, training comes out otherwise: see --tolerance" in said

    copy.write_text(re.sub("page = .*", "", text).replace("[quick.train]", '[states]\n"a key" = "key"\n[quick.train]'))
    main(["reproduce", str(copy), "--folder", runs])
    said = capsys.readouterr().out
    assert "| calls that change what is done |" in said
    assert "| a key |" in said

    other = tmp_path / "elsewhere.toml"
    changed = TRANSFER.replace("KEYDOOR", str(ROOT / "experiments" / "keydoor.toml")).replace('"small"', '"smallest"')
    few = "[changes.evaluate]\nepisodes = 20\nselection_episodes = 20\nprocesses = 1\n[[tasks]]"
    other.write_text(changed.replace("seeds = [1]", "seeds = [0]").replace("[[tasks]]", few, 1))
    for _ in range(2):  # the second time there is nothing left to do
        main(["reproduce", str(other), "--folder", runs, "--json"])
        found = json.loads(capsys.readouterr().out)["tasks"]["a slippery floor"]
        assert found["models"]["DEEPTHINK"]["calls"] > stored["tasks"]["key and door"]["models"]["DEEPTHINK"]["calls"]
        assert found["methods"]["prices"]["env_steps"] == 6_000


def test_what_a_picture_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every family has its line, a price under a cap whatever the price; nothing where there is no share."""
    shown: list[Any] = []
    make = plots.new_figure

    def new_figure(width: float, height: float) -> Any:
        shown.append(make(width, height))
        return shown[-1]

    monkeypatch.setattr(plots, "new_figure", new_figure)
    oracle = row("disagreement oracle", "oracle", 2, 0.8)

    def seed(price: str, calls: float) -> dict[str, Any]:
        capped = row(f"{price} up to 6", "capped", calls, 0.6) | {"value": 6}
        rows = [row("sac", "sac", 3, 0.7), row("ppo", "ppo", 4, 0.7), row(price, "price", 5, 0.8), capped, oracle]
        return {"policies": [row("QUICK", "model", 0, 0.4), row("DEEPTHINK", "model", 10, 0.8), *rows]}

    none = {"policies": [row("QUICK", "model", 0, 0.4), row("DEEPTHINK", "model", 10, 0.0), oracle]}
    panels.save_frontiers({"dead": [none], "room": [seed("price 0.1", 2), seed("price 0.2", 4)]}, tmp_path / "x.png")
    dead, room = shown[0].axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in room.lines}
    assert lines["best price, then stop"][1] == pytest.approx([0.3, 0.75]), "the mean of both seeds"
    assert lines["best price, then stop"][2] == pytest.approx([0.5, 1]), "and without a cap"
    assert lines["SAC"][-1] == pytest.approx([0.3, 0.875])
    assert {"PPO", "learned prices"} <= {*lines}
    assert [text.get_text() for text in dead.texts] == ["DEEPTHINK never succeeded"]
    assert not dead.lines
    assert "SAC" in {text.get_text() for text in shown[0].legends[0].get_texts()}


def test_a_line_of_the_picture_leaves_out_what_another_setting_beats() -> None:
    points = [(0.0, 0.2), (0.3, 0.6), (0.5, 0.4), (0.6, 0.6), (0.9, 0.8)]
    assert panels._best(points) == [(0.0, 0.2), (0.3, 0.6), (0.9, 0.8)]


def test_what_the_page_says_of_all_runs_is_in_its_numbers() -> None:
    """Sentences that count over the tables of BabyAI."""
    found = json.loads((ROOT / "experiments" / "tables" / "babyai.json").read_text())["tasks"]
    text = " ".join((ROOT / "docs" / "results.md").read_text().split())
    every = [method for task in found.values() for method in task["methods"].values()]
    assert sum(method["violations"] for method in every) == 0
    assert f"0 violations in {sum(method['under_budget'] for method in every):,} episodes" in text
    prices = [task["methods"]["learned prices"]["at_99"] for task in found.values()]
    kept = [one["success_ratio"] for task in prices for one in task]
    assert f"the test {sum(share >= 0.99 for share in kept)} of them keep 99 %" in text
    assert sum(share < 0.99 for share in kept) == 6
    assert f"the other six at least {100 * min(kept):.1f} %" in text
    calls = [task["models"]["DEEPTHINK"]["calls"] for task in found.values()]
    assert f"DEEPTHINK needs {min(calls):.0f} to {max(calls):.0f} calls" in text
    means = [sum(one["success_ratio"] for one in task) / len(task) for task in prices]
    assert f"from {100 * min(means):.1f} to {100 * max(means):.1f} % of it" in text
    for name in CAPPED:
        chosen = [one for task in found.values() for one in task["methods"][name]["at_99"]]
        capped = [one for one in chosen if one and one["name"].split()[-1] in ("6", "10")]
        kept = sum(one["success_ratio"] >= 0.99 for one in capped)
        counts = [len(capped), kept, sum(map(bool, chosen)) - len(capped), chosen.count(None)]
        assert f"| {name} | {' | '.join(map(str, counts))} |" in text
    oracle = [task["methods"]["disagreement oracle"]["at_99"][0]["calls_ratio"] for task in found.values()]
    means = [sum(one["calls_ratio"] for one in task) / len(task) for task in prices]
    more = {name: own / its for name, own, its in zip(found, means, oracle, strict=True) if own > its}
    assert more == pytest.approx({"pick up": 1.02, "pick up, then go to": 1.25}, abs=0.01)
    regret = {name: max(task["methods"]["learned prices"]["regret"]) for name, task in found.items()}
    assert {name for name in regret if name not in more and regret[name] < 0} == {"open door", "put next to", "mix"}
    assert "fewer calls than it in open door, put next to and the mix, at no loss of success" in text
    assert max(one["calls_ratio"] for task in prices for one in task) == pytest.approx(0.38, abs=0.005)
    assert min(one["tokens_ratio"] for task in prices for one in task) > 1, (
        "together they read more than DEEPTHINK alone"
    )


def test_what_the_page_says_of_the_parts_is_in_its_numbers() -> None:
    found = json.loads((ROOT / "experiments" / "tables" / "ablations.json").read_text())
    page = (ROOT / "docs" / "results.md").read_text()
    text = " ".join(re.findall(r"^Worse than things as they are.*?(?=^## )", page, re.M | re.S)[0].split())
    methods = found["tasks"]["open door"]["methods"]
    worse, rest = text.split("Not told apart")
    area = {name: mean(method["hypervolume"]) for name, method in methods.items()}
    for said, name in {
        "not to read the text (.{} of area in the mean)": "no text (`reader = 0`)",
        "a second reader that sees no text (.{})": "a second reader without text (`textless = true`)",
        "no transitions of three steps (.{})": "one step a transition (`n_step = 1`)",
        "nothing of QUICK's decision (.{})": "nothing of QUICK's decision (`quick = false`)",
        "not to relabel them (.{})": "budgets not relabelled (`relabel = false`)",
        "no gate (.{})": "not gated (`gated = false`)",
        "half the width (.{})": "half the width (`width = 64, reader = 16`)",
        "words not hidden (.{} less)": "words not hidden (`text_dropout = 0`)",
        "goes in as a number (.{})": 'the budget as a number that goes in (`budget_input = "scalar"`)',
        "guided exploration": "no guided exploration (`guided = 0`)",
        "a discount of .95": "`gamma = .95`",
        "a second reader with text": "two readers with text (`readers = 2`)",
        "QUICK's hidden state": "not QUICK's hidden state (`hidden = 0`)",
        "prices not relabelled": "prices not relabelled (`relabel = false`)",
        "more budgets": "N = 24 (`max_calls = 24`)",
    }.items():
        own = "budgets as they are" if methods[name]["under_budget"] else "prices as they are"
        better = found["overall"][name]["better"][own].values()
        part = worse if all(by["low"] > 0.5 for by in better) else rest
        assert said.format(f"{area[own] - area[name]:.2f}".removeprefix("0.")) in part, name
        assert not any(by["high"] < 0.5 for by in better), "none is better"
    passed = {name for name, method in methods.items() if all(method["at_99"]) and "oracle" not in name}
    assert passed == {"two readers with text (`readers = 2`)"}
    kept = [one["success_ratio"] for one in methods["two readers with text (`readers = 2`)"]["at_99"]]
    assert sum(share >= 0.99 for share in kept) == 1


def test_what_the_page_says_of_runs_apart_is_in_its_numbers() -> None:
    rows = json.loads((ROOT / "experiments" / "tables" / "apart.json").read_text())["overall"]
    text = " ".join((ROOT / "docs" / "rivals.md").read_text().split())

    def better(own: str, other: str) -> list[str]:
        (row,) = (row for name, row in rows.items() if name.startswith(f"{other}, a run"))
        return [f"{by['all']:.2f}".removeprefix("0") for by in row["better"][own].values()]

    area, hull = better("learned prices", "LONDI")
    assert f"(better in {area} of the pairs by area, {hull} by AIQ)" in text
    assert f"three runs of LONDI-B in {better('learned budgets', 'LONDI-B')[0]} of the pairs by area" in text
    for other in ("SAC", "PPO"):
        assert better("learned prices", other) == ["1.00", "1.00"]


def test_what_the_page_says_of_one_run_is_in_its_numbers() -> None:
    methods = json.loads((ROOT / "experiments" / "tables" / "one_run.json").read_text())["tasks"]["key and door"][
        "methods"
    ]
    text = " ".join((ROOT / "docs" / "rivals.md").read_text().split())
    for learner, paper in (("budgets", "LONDI-B"), ("prices", "LONDI")):
        one, eight = methods[f"learned {learner}, one run"], methods[f"{paper}, eight runs of an eighth of the steps"]
        assert eight["env_steps"] == one["env_steps"]
        assert eight["updates"] == pytest.approx(one["updates"], rel=0.01)
        areas = (f"{mean(method['hypervolume']):.2f}".removeprefix("0") for method in (one, eight))
        first, second = areas
        said = f"({first} of area against {second})" if learner == "budgets" else f"({first} against {second})"
        assert f"for {learner} {said}" in text


def test_what_the_page_says_of_a_gpu_is_in_its_numbers() -> None:
    rows = json.loads((ROOT / "docs" / "gpu.json").read_text())["rows"]
    text = " ".join((ROOT / "docs" / "models.md").read_text().split())
    single, step = ([row for row in rows if row["together"] == together] for together in (1, 64))
    for each in (single, step):
        quick, both = each[0], each[-1]
        assert (quick["policy"], both["policy"]) == ("QUICK", "DEEPTHINK")
        alone = both["device_seconds"] - quick["device_seconds"]
        assert all(row["device_seconds"] > alone for row in each[1:]), "no GPU time is saved"
    quick, both = step[0], step[-1]
    passes = [
        (row["device_seconds"] - quick["device_seconds"]) / (both["device_seconds"] - quick["device_seconds"])
        for row in step[1:]
        if row["calls"] < 0.21
    ]
    assert all(0.4 < share < 0.6 for share in passes), "about half"
    tenth = min(step, key=lambda row: abs(row["calls"] - 0.1))
    energy = tenth["joules"] / (both["joules"] - quick["joules"])
    assert f"at a tenth of the calls it is {100 * energy:.0f} % of DEEPTHINK's alone" in text
