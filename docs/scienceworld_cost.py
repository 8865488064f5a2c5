"""Estimate what ScienceWorld would cost with served models; write the table into docs/scienceworld.md.

    python docs/scienceworld_cost.py [--folder runs/scienceworld] [--models gpt-4.1-mini gpt-4.1]

The way is the built-in DEEPTHINK's, the prompt that of examples/pairs/scienceworld_qwen.toml, a token four characters,
the prices those that come with londi, without a cache; the share of calls is what `scienceworld_runs.py` measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from scienceworld_runs import EIGHT, EXPERIMENTS, PAGE, half, put, read

from londi import config, envs, lms
from londi.envs.jvm import POOL
from londi.lms.dollars import prices_of
from londi.usage import Usage

SERVED = EXPERIMENTS.parents[1] / "examples" / "pairs" / "scienceworld_qwen.toml"
EPISODES, REPLY = 8, 12
"""Episodes played for each task, and tokens of a reply."""


def cost(folder: Path, names: Sequence[str], models: tuple[str, str]) -> None:
    """Write what episodes would cost with served models, DEEPTHINK's way being theirs: dollars of 1,000 episodes."""
    template = config.load(SERVED)
    lines = [
        f"| task | steps | prompt tokens | {models[1]} alone | {models[0]} alone | both, calls and success as above |",
        "|---|---|---|---|---|---|",
    ]
    small, large = (prices_of(model) for model in models)
    if small is None or large is None:
        raise SystemExit(f"no prices of {' and '.join(models)}: see src/londi/lms/prices.toml")
    for name in names:
        chosen = [row for table in read(folder, name) if (row := half(table))]
        if not chosen:
            continue
        steps, tokens = _prompts(name, template)
        calls = mean(row["calls"]["mean"] for row in chosen)
        one = Usage(round(1000 * tokens / steps), 0, 1000 * REPLY)
        dollars = [small.dollars(one) * steps, large.dollars(one) * steps, large.dollars(one) * calls]
        lines.append(
            f"| {name} | {steps:.1f} | {tokens:,.0f} | ${dollars[1]:.2f} | ${dollars[0]:.2f} "
            f"| ${dollars[0] + dollars[2]:.2f} |"
        )
    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), "cost", lines, "scienceworld_cost.py"), encoding="utf-8")


def _prompts(name: str, served: config.Experiment) -> tuple[float, float]:
    """Steps and prompt tokens (a quarter of the characters) of an episode, as `served` would render DEEPTHINK's way."""
    own = config.load(EXPERIMENTS / f"{name}.toml")
    options = own.env.options | own.env.test | {"list_actions": served.env.options["list_actions"]}
    shown = lms.CachedLM(lms.load_pair(own.quick, own.deepthink)[1])
    env = envs.make(own.env.id, **options)
    steps, characters = [], []
    for seed in range(EPISODES):
        observation, info = env.reset(seed=seed)
        seen, over = [observation], False
        done: list[str] = []
        while not over:
            plain = [text.split(" You can, among other things:")[0] for text in seen]
            characters.append(len(served.env.prompt.render(info["goal"], seen, done)))
            done.append(shown.decide([own.env.prompt.render(info["goal"], plain, done)], None)[0].action)
            observation, _, terminated, truncated, info = env.step(done[-1])
            seen.append(observation)
            over = terminated or truncated
        steps.append(len(done))
    env.close()
    return mean(steps), sum(characters) / 4 / len(steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/scienceworld"))
    parser.add_argument("--models", nargs=2, default=("gpt-4.1-mini", "gpt-4.1"), metavar=("QUICK", "DEEPTHINK"))
    given = parser.parse_args()
    cost(given.folder, EIGHT, tuple(given.models))
    POOL.clear()
