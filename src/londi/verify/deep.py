"""The deep learners on the key-door room against its exact frontier, with and without relabelling.

A quick run trains half as long and asks for less; a Switcher that calls at once, whatever it sees, has .77.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from londi import config
from londi.agent import Agent
from londi.config import Experiment, ModelConfig
from londi.envs.keydoor import KeyDoorEnv
from londi.frontier import hypervolume
from londi.rollout import Assignment, rollout
from londi.switchers import Switcher
from londi.theory import finite
from londi.verify.base import Claim, Part, Settings, Suite

BUDGETS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
PRICES = (0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5)
_METHOD = "area under success against {}, played episodes, over that of the exact frontier: lowest of the seeds"
BUDGET = Claim(
    "deep-budgets",
    "the budget network reaches the exact frontier",
    "added: docs/theory.md",
    _METHOD.format("the budget n"),
    0.95,
    "at least",
    quick_tolerance=0.9,
)
PRICE = Claim(
    "deep-prices",
    "the price network reaches the exact frontier",
    "added: docs/theory.md",
    _METHOD.format("mean calls"),
    0.9,
    "at least",
    quick_tolerance=0.85,
)
ABLATION = Claim(
    "deep-relabelling",
    "relabelling every budget is worth having at equal steps",
    "added: docs/theory.md",
    "budget network: hypervolume with relabelling over that without, the same steps: mean of the seeds",
    1.0,
    "at least",
    full_only=True,
)


def experiment(steps: int, seed: int, relabel: bool) -> Experiment:
    """The experiment on the key-door room; experiments/keydoor.toml in code, with a number of steps."""
    quick, deepthink = (ModelConfig(f"builtin:keydoor-{name}") for name in ("quick", "deepthink"))
    train = config.TrainConfig(
        num_steps=steps, updates_per_step=0.25, gamma=0.97, call_price=0.01, warmup_steps=500, relabel=relabel
    )
    switcher = config.SwitcherConfig(width=64)
    return Experiment(
        "verify", config.EnvConfig("londi/KeyDoor-v0"), quick, deepthink, seed=seed, train=train, switcher=switcher
    )


def _row(kind: str, value: float, success: float, calls: float) -> dict[str, Any]:
    name = f"{kind} {value:g}"
    return {"name": name, "kind": kind, "value": value, "success": {"mean": success}, "calls": {"mean": calls}}


def exact_rows() -> list[dict[str, Any]]:
    """Success and calls of both models and of the best Switchers, exactly, at the environment's step limit."""
    env = KeyDoorEnv()
    mdp, steps = env.switching_mdp(), env.max_steps
    rows = []
    for name, called in (("QUICK", False), ("DEEPTHINK", True)):
        call = np.full((steps, mdp.num_states), called)
        rows.append(_row("model", 0.0, *finite.evaluate_policy(mdp, steps, call)) | {"name": name})
    rows += [_row("budget", n, s, c) for n, s, c in finite.budget_frontier(mdp, steps, BUDGETS)]
    return rows + [_row("price", p, s, c) for p, s, c in finite.price_frontier(mdp, steps, PRICES)]


def learned_rows(steps: int, seed: int, relabel: bool, episodes: int) -> list[dict[str, Any]]:
    """Train, then play every budget and price; success and calls per episode."""
    from londi.making import make_envs
    from londi.train import prepare

    with tempfile.TemporaryDirectory() as folder:
        trainer = prepare(Path(folder) / "run", experiment(steps, seed, relabel))
        trainer.train()
    envs, agent = make_envs(trainer.experiment, 64), trainer.agent

    def play(switcher: Switcher, budget: int | None, price: float) -> tuple[float, float]:
        jobs = [Assignment(10_000 + i, "", budget, price) for i in range(episodes)]
        player = Agent(agent.quick, agent.deepthink, agent.encoder, switcher)
        played = [episode for episode, _ in rollout(envs, player, jobs)]
        return float(np.mean([e.success for e in played])), float(np.mean([e.num_calls for e in played]))

    by_budget, by_price = (trainer.learners[name].switcher for name in ("budget", "price"))
    rows = [_row("budget", n, *play(by_budget, n, 0.0)) for n in BUDGETS]
    return rows + [_row("price", p, *play(by_price, None, p)) for p in PRICES]


def volume(rows: list[dict[str, Any]], kind: str) -> float:
    """Hypervolume of a family: success against mean calls, or, for budgets, against what was allowed, n.

    The best Switcher under a budget has no reason to leave some of it unspent, so its mean calls say little.
    """
    if kind == "budget":
        rows = [row | {"calls": {"mean": _allowed(row)}} for row in rows if row["kind"] in ("budget", "model")]
    return hypervolume(rows, kind) or 0.0


def _allowed(row: dict[str, Any]) -> float:
    return float({"QUICK": 0.0, "DEEPTHINK": float(max(BUDGETS))}.get(row["name"], row["value"]))


def _run(settings: Settings, job: int) -> Part:
    seed, relabel = settings.seed + job // 2, job % 2 == 0
    exact = exact_rows()
    learned = learned_rows(6_000 if settings.quick else 12_000, seed, relabel, 150 if settings.quick else 400)
    volumes = {kind: volume([*exact[:2], *learned], kind) / volume(exact, kind) for kind in ("budget", "price")}
    part = Part(data={"relabel": relabel, "seed": seed, "volumes": volumes, "exact": exact, "learned": learned})
    if relabel:
        part.note(BUDGET, volumes["budget"])
        part.note(PRICE, volumes["price"])
    return part


def _compare(parts: list[Part]) -> Part:
    """The ablation needs all jobs: means over seeds with and without relabelling."""
    found = Part()
    means = [
        np.mean([part.data["volumes"]["budget"] for part in parts if part.data["relabel"] is relabel] or [np.nan])
        for relabel in (True, False)
    ]
    if np.isfinite(means).all():
        found.note(ABLATION, float(means[0] / means[1]))
    return found


SUITE = Suite("deep", (BUDGET, PRICE, ABLATION), lambda settings: 1 if settings.quick else 6, _run, _compare)
