"""The frontier and its metrics: what success costs how many calls.

A point is (calls, success). Calls are measured as a share of DEEPTHINK's mean number of calls per episode (its
steps), success as a share of DEEPTHINK's; QUICK is the point (0, QUICK's success) of every frontier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 2
"""Of frontier.json. In the first, what DEEPTHINK takes alone was with what QUICK takes beside it."""
LEARNED = ("budget", "price")
FAMILIES = (
    *("budget", "price", "capped", "myopic", "router", "sac", "ppo"),
    *("random", "every", "first", "entropy", "margin", "rule", "oracle"),
)
"""Kinds of policies that make a frontier each."""
UP_TO = " up to "
"""Between the price and the budget in the name of what is `capped`."""
_ALWAYS = ("budget", "price", "random", "entropy", "oracle")
"""Those that metrics name even where they were not measured."""
COSTS = ("flops", "tokens", "seconds", "dollars")
"""What a policy's share of DEEPTHINK's is stated of, besides calls."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an episode came to."""

    success: bool
    total_reward: float
    calls: int
    steps: int
    tokens: int
    flops: float
    seconds: float
    violated: bool
    dollars: float = 0.0
    device_seconds: float = 0.0
    joules: float = 0.0
    failed: int = 0
    """Calls that failed, so that QUICK acted."""
    switches: int = 0
    """How often the acting model changed."""
    spent: float = 0.0
    """What the calls took of the budget, in its measure."""


def wilson(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % score interval of a share (Wilson 1927); inside [0, 1]."""
    p, zz = successes / count, z * z
    middle = (p + zz / (2 * count)) / (1 + zz / count)
    half = z * math.sqrt(p * (1 - p) / count + zz / (4 * count * count)) / (1 + zz / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def summarise(name: str, kind: str, value: float | None, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return the row of a policy: means per episode over its outcomes.

    `calls` has their mean and their maximum over episodes, the most that one made; `call_share` is calls / steps over
    all episodes together; `switches` how often the acting model changes from one step of an episode to the next;
    `success` its share of episodes with a 95 % interval (`wilson`); `violations` the number of episodes over their
    budget. All but the interval are ours.
    """
    successes = sum(o.success for o in outcomes)
    low, high = wilson(successes, len(outcomes))
    calls, steps = [o.calls for o in outcomes], [o.steps for o in outcomes]
    return {
        "name": name,
        "kind": kind,
        "value": value,
        "episodes": len(outcomes),
        "success": {"mean": successes / len(outcomes), "low": low, "high": high},
        "return": float(np.mean([o.total_reward for o in outcomes])),
        "calls": {"mean": float(np.mean(calls)), "max": max(calls)},
        "call_share": sum(calls) / sum(steps),
        "tokens": float(np.mean([o.tokens for o in outcomes])),
        "flops": float(np.mean([o.flops for o in outcomes])),
        "seconds": float(np.mean([o.seconds for o in outcomes])),
        "dollars": float(np.mean([o.dollars for o in outcomes])),
        "device_seconds": float(np.mean([o.device_seconds for o in outcomes])),
        "joules": float(np.mean([o.joules for o in outcomes])),
        "failed": float(np.mean([o.failed for o in outcomes])),
        "switches": float(np.mean([o.switches for o in outcomes])),
        "spent": float(np.mean([o.spent for o in outcomes])),
        "steps": float(np.mean(steps)),
        "violations": sum(o.violated for o in outcomes),
    }


def packed(solved: Sequence[bool]) -> str:
    """Return which episodes were solved, in order, as hexadecimal digits of four each; the last are filled with 0."""
    return np.packbits(np.asarray(solved, bool)).tobytes().hex()


def unpacked(row: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return which of its episodes a row of a test table solved, in order; None where it does not say."""
    if "solved" not in row:
        return None
    return np.unpackbits(np.frombuffer(bytes.fromhex(row["solved"]), np.uint8), count=row["episodes"]).astype(bool)


def find(rows: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the row of that name."""
    return next(row for row in rows if row["name"] == name)


def family(rows: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    """Return the rows of a family. The price that `capped` puts under budgets belongs to it without one, too."""
    found = [row for row in rows if row["kind"] == kind]
    if kind == "capped":
        prices = {row["name"].partition(UP_TO)[0] for row in found}
        found += [{**row, "kind": kind} for row in rows if row["kind"] == "price" and row["name"] in prices]
    return found


def why_no_shares(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say why nothing can be a share of DEEPTHINK's, or "": alone it must have answered calls, and succeeded."""
    deep = find(rows, "DEEPTHINK")
    if not deep["calls"]["mean"]:
        return "DEEPTHINK answered no call"
    return "" if deep["success"]["mean"] else "DEEPTHINK never succeeded"


def _measured(rows: Sequence[Mapping[str, Any]], kind: str) -> bool:
    return not why_no_shares(rows) and any(row["kind"] == kind for row in rows)


def _points(rows: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Return (calls, success) of a family and QUICK as shares of DEEPTHINK's, Pareto-optimal ones in order of calls."""
    deep, quick = find(rows, "DEEPTHINK"), find(rows, "QUICK")
    points = sorted(
        (row["calls"]["mean"] / deep["calls"]["mean"], -row["success"]["mean"] / deep["success"]["mean"])
        for row in [quick, *family(rows, kind)]
    )
    front: list[tuple[float, float]] = []
    for calls, loss in points:
        if calls <= 1 and (not front or -loss > front[-1][1]):
            front.append((calls, -loss))
    return front


def hypervolume(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Area that a family dominates, against the reference (all of DEEPTHINK's calls, no success); in [0, 1] and over.

    Zitzler and Thiele 1999, in two dimensions: the sum over the Pareto points of success x the calls to the next.
    1 would be DEEPTHINK's success at no call. None for a family that was not measured, and, as are all metrics that are
    shares of DEEPTHINK's, where it never succeeds or answers no call.
    """
    if not _measured(rows, kind):
        return None
    front = _points(rows, kind)
    ends = [*(calls for calls, _ in front[1:]), 1.0]
    return float(sum(success * (end - calls) for (calls, success), end in zip(front, ends, strict=True)))


def gain(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Hypervolume above that of QUICK alone, as a share of what is left to 1, so that tasks can be compared.

    (hypervolume - q) / (1 - q), where q is QUICK's success as a share of DEEPTHINK's: 0 for QUICK alone, 1 for
    DEEPTHINK's success at no call. None for a family that was not measured, and where q is above .95: there is no gap.
    Ours, after the normalised scores of arXiv 2108.13264.
    """
    area = hypervolume(rows, kind)
    if area is None:
        return None
    quick = find(rows, "QUICK")["success"]["mean"] / find(rows, "DEEPTHINK")["success"]["mean"]
    return None if quick > 0.95 else float((area - quick) / (1 - quick))


def gaps(rows: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[float, float]] | None:
    """Return (calls, share of the gap between QUICK and DEEPTHINK closed) along a family's Pareto points."""
    deep, quick = find(rows, "DEEPTHINK")["success"]["mean"], find(rows, "QUICK")["success"]["mean"]
    if deep <= quick or not _measured(rows, kind):
        return None
    return [(calls, (success * deep - quick) / (deep - quick)) for calls, success in _points(rows, kind)]


def apgr(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Average performance gap recovered (RouteLLM, arXiv 2406.18665, sec. 3) over call shares 0 to 1.

    The mean over x in [0, 1] of (s(x) - s_QUICK) / (s_DEEPTHINK - s_QUICK), where s rises along the family's
    Pareto-optimal points and is interpolated between them; from the last point to DEEPTHINK's (1, 1) too. None where
    DEEPTHINK is no better than QUICK.
    """
    closed = gaps(rows, kind)
    if closed is None:
        return None
    x = [calls for calls, _ in closed] + [1.0]
    y = [gap for _, gap in closed] + [max(1.0, closed[-1][1])]
    return float(np.trapezoid(y, x))


def aiq(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """Average improvement in quality (RouterBench, Hu et al. 2024, arXiv 2403.12031, sec. 3), from calls 0 to 1.

    The mean over x in [0, 1] of the nondecreasing concave hull of the family's points and DEEPTHINK's (1, 1), success
    as a share of DEEPTHINK's: what mixing its settings at random, episode by episode, would reach. None for a family
    that was not measured.
    """
    if not _measured(rows, kind):
        return None
    hull = _hull(_points(rows, kind))
    return float(np.trapezoid([y for _, y in hull], [x for x, _ in hull]))


def _hull(front: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the nondecreasing concave hull of a front and DEEPTHINK's (1, 1)."""
    hull: list[tuple[float, float]] = []
    for x, y in (*front, (1.0, max(1.0, front[-1][1]))):
        while hull and x == hull[-1][0]:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], (x, y)):
            hull.pop()
        hull.append((x, y))
    return hull


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def regret(rows: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """By how much less succeeds than with the disagreement oracle, at as many calls as its; a share of DEEPTHINK's.

    success(oracle) minus the family's hull at the oracle's calls (as for `aiq`: what mixing its two nearest settings
    would reach). Below 0 where the family is better: not every disagreement matters. None without an oracle or the
    family. Ours: simple regret, against a policy that no one can run.
    """
    oracles = [row for row in rows if row["kind"] == "oracle"]
    if not oracles or not _measured(rows, kind):
        return None
    deep = find(rows, "DEEPTHINK")
    calls = oracles[0]["calls"]["mean"] / deep["calls"]["mean"]
    x, y = zip(*_hull(_points(rows, kind)), strict=True)
    reached = np.interp(calls, x, y)
    return float(oracles[0]["success"]["mean"] / deep["success"]["mean"] - reached)


def cpt(rows: Sequence[Mapping[str, Any]], share: float, kinds: Sequence[str] = LEARNED) -> float | None:
    """Call-performance threshold (RouteLLM, sec. 3): the smallest share of calls that closes `share` of the gap."""
    reached = [calls for kind in kinds for calls, gap in gaps(rows, kind) or [] if gap >= share - 1e-12]
    return min(reached) if reached else None


def budget_use(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return what episodes spend of each budget in the mean, as a share of it; budgets above 0 only.

    mean over episodes of what the calls took / n, in the budget's measure (calls, tokens or another). 1 for a budget
    that is always spent. Ours.
    """
    finite = [row for row in rows if row["kind"] == "budget" and row["value"]]
    return {row["name"]: row.get("spent", row["calls"]["mean"]) / row["value"] for row in finite}


def pays_off_after(
    training_calls: int | None, rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None
) -> int | None:
    """Return after how many episodes the choice has saved as many DEEPTHINK calls as training made.

    The smallest whole number that is at least training's calls / (DEEPTHINK's calls an episode - the choice's). None
    where it saves none, or where either is not known. Calls of selection and test are not counted. Ours.
    """
    if training_calls is None or chosen is None:
        return None
    saved = float(find(rows, "DEEPTHINK")["calls"]["mean"]) - float(chosen["test"]["calls"]["mean"])
    return math.ceil(training_calls / saved - 1e-9) if saved > 0 else None


def steps_to(curve: Sequence[Mapping[str, Any]], share: float) -> dict[str, int | None]:
    """Return by family after how many environment steps its hypervolume is first `share` of what it is at the end.

    `curve` holds `step` and `hypervolume` by family, in order, at the snapshots of training, which is as fine as this
    can be; the last point is the end. None where there is no curve. A measure of sample efficiency, as steps to a
    threshold are in the RL literature; the threshold is each run's own.
    """
    found: dict[str, int | None] = {}
    for kind in LEARNED:
        known = [(point["step"], area) for point in curve if (area := point["hypervolume"].get(kind)) is not None]
        found[kind] = next((step for step, area in known if area >= share * known[-1][1]), None)
    return found


def saved(choices: Mapping[str, Mapping[str, Any] | None]) -> dict[str, float | None]:
    """Return what each choice saves of DEEPTHINK's calls, tokens, FLOPs, seconds and dollars, as `saved_COST_LEVEL`.

    1 - the choice's mean per episode / DEEPTHINK's alone, on test episodes; below 0 where it takes more: the choice's
    tokens, FLOPs, seconds and dollars include QUICK's. `choices` are by level, at_99 and at_95: the policy with the
    fewest calls that keeps so much of DEEPTHINK's success on selection episodes (`londi.choosing.choice`). None where
    no policy does, or DEEPTHINK reports no such cost. What the paper (arXiv 2402.12061) states of GPU use, here at
    equal success.
    """
    return {
        f"saved_{cost}_{level}": None
        if chosen is None or chosen[f"{cost}_ratio"] is None
        else 1 - chosen[f"{cost}_ratio"]
        for level, chosen in choices.items()
        for cost in ("calls", *COSTS)
    }


def metrics(test: Sequence[Mapping[str, Any]], choices: Mapping[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Return all metrics of a test table; None where one is undefined.

    `violations` is the number of episodes with more calls (or more of another measure) than their budget, which must
    be 0: LONDI-B's constraint (arXiv 2402.12061), held in every episode.
    """
    present = {row["kind"] for row in test}
    kinds = [kind for kind in FAMILIES if kind in present or kind in _ALWAYS]
    return {
        **{each.__name__: {kind: each(test, kind) for kind in kinds} for each in (hypervolume, apgr, aiq, regret)},
        **saved(choices),
        **{f"cpt{share}": cpt(test, share / 100) for share in (20, 50, 80, 95)},
        "budget_use": budget_use(test),
        "violations": sum(row["violations"] for row in test),
    }
