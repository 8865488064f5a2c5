"""Measure the ScienceWorld pair on the test variations of all 30 tasks; write docs/scienceworld.json and the table.

    python docs/scienceworld_pair.py measure [--quick FOLDER --deepthink FOLDER] [--most 30]
    python docs/scienceworld_pair.py ablation --deepthink FOLDER        # of `londi lm train scienceworld --no-thought`
    python docs/scienceworld_pair.py write           # the table in docs/scienceworld.md, from docs/scienceworld.json

`measure` goes on where it was interrupted, and begins anew with other weights. How long an
episode may be, and what test prompts share with training, it reads from what `londi lm demos scienceworld` left in the
user's cache: without it the limit is 100 actions.
"""

from __future__ import annotations

import argparse
import json
from hashlib import sha256
from pathlib import Path
from statistics import mean
from typing import Any

from londi import Agent, Always, Assignment, Never, TextEncoder, envs, frontier, lms, rollout
from londi.agent import OracleAgent
from londi.cli.pairs import scienceworld_cache
from londi.cloning.scienceworld import demos, gold
from londi.cloning.scienceworld.corpus import TEMPLATE
from londi.config import ModelConfig
from londi.envs.jvm import POOL
from londi.envs.tasks import PAIR_TASKS, SCIENCEWORLD
from londi.episode import Episode
from londi.files import write_text
from londi.lms.builtin import FOLDERS

HERE = Path(__file__).parent
DATA, PAGE = HERE / "scienceworld.json", HERE / "scienceworld.md"
BEGIN, END = "<!-- table: written by docs/scienceworld_pair.py -->", "<!-- end of table -->"
ROOM = 4


def play(task: str, agent: Agent, count: int) -> list[Episode]:
    """Play the first test variations of a task; the cap on actions is twice the mean solution, at least 30."""
    made = [
        envs.make(f"londi/ScienceWorld-{task}-v0", split="test", max_steps=cap(task), heap_mb=384) for _ in range(ROOM)
    ]
    episodes = [episode for episode, _ in rollout(made, agent, [Assignment(seed) for seed in range(count)])]
    for env in made:
        env.close()
    return sorted(episodes, key=lambda episode: episode.seed)


def cap(task: str) -> int:
    """Actions that an episode may take."""
    known = [len(each.actions) for each in gold.read(scienceworld_cache(), task, "train", "easy")]
    return min(100, max(30, 2 * round(mean(known)))) if known else 100


def variations(task: str, most: int) -> int:
    """Test variations to play."""
    simulator = POOL.take(384, 120)
    simulator.load(task, 0, "easy")
    count = min(most, len(simulator.variations("test")))
    POOL.give(simulator)
    return count


def row(episodes: list[Episode]) -> dict[str, Any]:
    """Summarise episodes."""
    solved = sum(episode.success for episode in episodes)
    low, high = frontier.wilson(solved, len(episodes))
    return {
        "success": solved / len(episodes),
        "low": low,
        "high": high,
        "steps": mean(len(episode.steps) for episode in episodes),
        "calls": mean(episode.num_calls for episode in episodes),
        "tokens": mean(episode.usage.tokens for episode in episodes),
        "flops": mean(episode.usage.flops for episode in episodes),
    }


def overlap(task: str, episodes: list[Episode]) -> dict[str, float] | None:
    """Share of DEEPTHINK's prompts, and of its whole ways, that stand word for word in the demonstrations."""
    shown = demos.read(scienceworld_cache(), [task], seed=0)
    if not shown:
        return None
    prompts = {str(TEMPLATE.render(d.goal, [d.observation], d.last)) for d in shown}
    ways: set[tuple[str, ...]] = {(*d.last, d.action) for d in shown}
    steps = [step for episode in episodes for step in episode.steps]
    return {
        "prompts": mean(step.prompt in prompts for step in steps),
        "ways": mean(tuple(step.action for step in episode.steps) in ways for episode in episodes),
    }


def weights(model: str) -> str:
    """Return a hash of a model's weights."""
    folder = FOLDERS.get(model.removeprefix("builtin:"), Path(model))
    return sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def measure(quick_model: str, deepthink_model: str, most: int, tasks: tuple[str, ...]) -> None:
    """Play every task that is not measured yet."""
    hashes = {"quick": weights(quick_model), "deepthink": weights(deepthink_model)}
    found: dict[str, Any] = json.loads(DATA.read_text()) if DATA.is_file() else {}
    if found.get("weights") != hashes:
        found = {"schema": 2, "weights": hashes, "tasks": {}}
    quick, deepthink = (
        lms.CachedLM(model) for model in lms.load_pair(*map(ModelConfig, (quick_model, deepthink_model)))
    )
    for task in tasks:
        if task in found["tasks"]:
            continue
        count = variations(task, most)
        encoder = TextEncoder()
        alone = play(task, Agent(quick, deepthink, encoder, Never(), TEMPLATE), count)
        deep = play(task, Agent(quick, deepthink, encoder, Always(), TEMPLATE), count)
        oracle = play(task, OracleAgent(quick, deepthink, encoder, Never(), TEMPLATE), count)
        lengths = [len(each.actions) for each in gold.read(scienceworld_cache(), task, "train", "easy")]
        found["tasks"][task] = {
            "episodes": count,
            "max_steps": cap(task),
            "gold": mean(lengths) if lengths else None,
            "overlap": overlap(task, deep),
            "quick": row(alone),
            "deepthink": row(deep),
            "oracle": row(oracle),
        }
        write_text(DATA, json.dumps(found, indent=1) + "\n")
        one = found["tasks"][task]
        print(f"{task}: QUICK {one['quick']['success']:.2f}, DEEPTHINK {one['deepthink']['success']:.2f}", flush=True)
    POOL.clear()


def ablation(model: str, most: int) -> None:
    """Play the pair's tasks with a DEEPTHINK of the same size that does not think."""
    found = json.loads(DATA.read_text()) if DATA.is_file() else {"tasks": {}}
    missing = [task for task in PAIR_TASKS if task not in found["tasks"]]
    recipe = json.loads((Path(model) / "recipe.json").read_text()) if Path(model).is_dir() else {"thinks": True}
    if missing or recipe["thinks"]:
        raise SystemExit("run `measure` first" if missing else f"{model} is no model trained with --no-thought")
    silent = lms.CachedLM(lms.load(ModelConfig(model)))
    for task in PAIR_TASKS:
        episodes = play(task, Agent(silent, silent, TextEncoder(), Never(), TEMPLATE), variations(task, most))
        found["tasks"][task]["no_thought"] = row(episodes)
        print(f"{task}: {found['tasks'][task]['no_thought']['success']:.2f}", flush=True)
        write_text(DATA, json.dumps(found, indent=1) + "\n")
    POOL.clear()


def table() -> str:
    """Return the table as Markdown."""
    tasks = json.loads(DATA.read_text())["tasks"]
    lines = [
        "| task | solution | episodes | QUICK | DEEPTHINK | without thought | its calls | oracle @ calls "
        "| prompts / ways in train |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(tasks, key=lambda name: (name not in PAIR_TASKS, -tasks[name]["deepthink"]["success"], name)):
        t = tasks[name]
        q, d, o, same = t["quick"], t["deepthink"], t["oracle"], t["overlap"]
        length = "" if t["gold"] is None else f"{t['gold']:.0f}"
        shared = "" if same is None else f"{100 * same['prompts']:.0f} % / {100 * same['ways']:.0f} %"
        silent = f"{t['no_thought']['success']:.2f}" if "no_thought" in t else ""
        lines.append(
            f"| {name} | {length} | {t['episodes']} | {q['success']:.2f} | {d['success']:.2f} "
            f"({d['low']:.2f}-{d['high']:.2f}) | {silent} | {d['calls']:.1f} "
            f"| {o['success']:.2f} @ {o['calls']:.1f} | {shared} |"
        )
    return "\n".join(lines)


def write() -> None:
    """Put the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("measure", "ablation", "write"))
    parser.add_argument("--quick", default="builtin:scienceworld-quick")
    parser.add_argument("--deepthink", default="builtin:scienceworld-deepthink")
    parser.add_argument("--most", type=int, default=30)
    parser.add_argument("--tasks", nargs="*", default=[*PAIR_TASKS, *(t for t in SCIENCEWORLD if t not in PAIR_TASKS)])
    given = parser.parse_args()
    if given.what == "measure":
        measure(given.quick, given.deepthink, given.most, tuple(given.tasks))
    elif given.what == "ablation":
        ablation(given.deepthink, given.most)
    else:
        write()
