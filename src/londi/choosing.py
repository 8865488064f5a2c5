"""Which policy to take: chosen on selection episodes alone, measured on test episodes, which are others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from londi.frontier import COSTS, LEARNED, find, why_no_shares


def choose(
    selection: Sequence[Mapping[str, Any]], level: float, kinds: Sequence[str] = LEARNED
) -> Mapping[str, Any] | None:
    """Return the policy of these kinds with the fewest calls that keeps `level` of DEEPTHINK's success on these rows.

    It must keep it by one standard error: the cheapest of many policies that just pass has had luck on these seeds,
    and falls short on others. None where no policy does, or DEEPTHINK never succeeds or answers no call.
    """
    if why_no_shares(selection):
        return None
    floor = level * find(selection, "DEEPTHINK")["success"]["mean"]
    fit = [row for row in selection if row["kind"] in kinds and _at_least(row, floor, 1)]
    return min(fit, key=lambda row: float(row["calls"]["mean"])) if fit else None


def _at_least(row: Mapping[str, Any], floor: float, errors: float) -> bool:
    """Whether a success is at least this, less (or, below 0, more) so many standard errors."""
    s = row["success"]
    return bool(s["mean"] - errors * (s["high"] - s["low"]) / (2 * 1.96) >= floor - 1e-9)


def in_doubt(selection: Sequence[Mapping[str, Any]], level: float) -> frozenset[str]:
    """Return the names of the policies, and DEEPTHINK's if there are any, that more episodes should say more of: those
    within two standard errors of `level` of DEEPTHINK's success, unless another of their kind with fewer calls is
    above that already.

    A race, in which what is clear stops early, as in Maron and Moore 1994, Hoeffding races; but without their bound on
    the error of all looks together, and with DEEPTHINK's own success taken as it is.
    """
    if why_no_shares(selection):
        return frozenset()
    floor = level * find(selection, "DEEPTHINK")["success"]["mean"]
    settings = [row for row in selection if row["kind"] not in ("model", "oracle") and _at_least(row, floor, -2)]
    clear = [row for row in settings if _at_least(row, floor, 2)]
    cheapest = {
        kind: min(row["calls"]["mean"] for row in clear if row["kind"] == kind) for kind in {r["kind"] for r in clear}
    }
    found = {row["name"] for row in settings if row["calls"]["mean"] < cheapest.get(row["kind"], math.inf)}
    return frozenset(found | {"DEEPTHINK"} if found else found)


def choice(
    selection: Sequence[Mapping[str, Any]],
    test: Sequence[Mapping[str, Any]],
    level: float,
    kinds: Sequence[str] = LEARNED,
) -> dict[str, Any] | None:
    """Choose on selection seeds, measure on test seeds.

    The row on both, and `success_ratio`, `calls_ratio` and one of each of `frontier.COSTS` (None where DEEPTHINK
    reports none): the policy's mean per episode on test seeds / DEEPTHINK's alone. None where no policy can be chosen
    (see `choose`), or DEEPTHINK never succeeds or answers no call on test seeds.
    """
    chosen = choose(selection, level, kinds)
    if chosen is None or why_no_shares(test):
        return None
    row, deep = find(test, chosen["name"]), find(test, "DEEPTHINK")
    return {
        "name": row["name"],
        "kind": row["kind"],
        "value": row["value"],
        "selection": dict(chosen),
        "test": dict(row),
        "success_ratio": row["success"]["mean"] / deep["success"]["mean"],
        "calls_ratio": row["calls"]["mean"] / deep["calls"]["mean"],
        **{f"{cost}_ratio": row[cost] / deep[cost] if deep.get(cost) else None for cost in COSTS},
    }


def best_price(selection: Sequence[Mapping[str, Any]]) -> float:
    """Return the price with the fewest calls that keeps 99 % of DEEPTHINK's success, else the one that keeps most."""
    rows = [row for row in selection if row["kind"] == "price"]
    chosen = choose(selection, 0.99, ("price",))
    best = chosen or max(rows, key=lambda row: (row["success"]["mean"], -row["calls"]["mean"]))
    return float(best["value"])
