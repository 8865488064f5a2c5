"""The metrics of the frontier against values computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from londi import choosing, frontier
from londi.episode import Episode, Reply, Step
from londi.frontier import Outcome
from londi.plays import _outcome
from londi.usage import Usage


def row(name: str, kind: str, calls: float, success: float, flops: float = 1.0, violations: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "value": None,
        "success": {"mean": success, "low": success, "high": success},
        "calls": {"mean": calls},
        "flops": flops,
        "violations": violations,
    }


PAIR = [row("QUICK", "model", 0, 0.4), row("DEEPTHINK", "model", 10, 0.8, flops=100)]
BUDGETS = [
    row("budget 2", "budget", 2, 0.6),
    row("budget 3", "budget", 3, 0.56),  # dominated
    row("budget 5", "budget", 5, 0.8, flops=40),
    row("budget 20", "budget", 12, 0.9),  # more calls than DEEPTHINK
]
TABLE = [*PAIR, *BUDGETS]


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.96
    [(0, 10, 0.0, 0.27754), (5, 10, 0.23659, 0.76341), (10, 10, 0.72246, 1.0), (80, 100, 0.71117, 0.86663)],
)
def test_wilson(successes: int, count: int, low: float, high: float) -> None:
    assert frontier.wilson(successes, count) == pytest.approx((low, high), abs=1e-4)


def test_wilson_stays_inside_and_holds_the_share() -> None:
    for successes in range(8):
        low, high = frontier.wilson(successes, 7)
        assert 0 <= low <= successes / 7 + 1e-12
        assert successes / 7 - 1e-12 <= high <= 1


def outcome(success: bool, calls: int, steps: int, violated: bool = False) -> Outcome:
    return Outcome(success, float(success), calls, steps, 10 * steps, 2.0 * steps, 0.1 * steps, violated)


def test_a_row_is_the_mean_over_episodes() -> None:
    found = frontier.summarise("budget 3", "budget", 3, [outcome(True, 3, 6), outcome(False, 1, 2, True)])
    assert found["success"]["mean"] == 0.5
    assert (found["success"]["low"], found["success"]["high"]) == frontier.wilson(1, 2)
    assert found["return"] == 0.5
    assert found["calls"] == {"mean": 2.0, "max": 3}
    assert found["call_share"] == 0.5  # 4 calls in 8 steps, not the mean of the episodes' shares
    assert (found["tokens"], found["flops"], found["steps"]) == (40, 8, 4)
    assert found["seconds"] == pytest.approx(0.4)
    assert found["violations"] == 1
    assert (found["name"], found["kind"], found["value"]) == ("budget 3", "budget", 3)


def test_hypervolume_sums_the_steps_of_the_pareto_front() -> None:
    # shares of DEEPTHINK: (0, .5), (.2, .75), (.5, 1); the point at 1.2 of its calls counts for nothing
    assert frontier.hypervolume(TABLE, "budget") == pytest.approx(0.5 * 0.2 + 0.75 * 0.3 + 1.0 * 0.5)


def test_gain_is_the_area_above_quicks() -> None:
    area = frontier.hypervolume(TABLE, "budget")
    assert area is not None
    assert frontier.gain(TABLE, "budget") == pytest.approx((area - 0.5) / 0.5)
    assert frontier.gain(TABLE, "price") is None
    close = [row("QUICK", "model", 0, 0.77), *TABLE[1:]]
    assert frontier.gain(close, "budget") is None, "QUICK has 96 % of DEEPTHINK's success"


def test_a_price_under_budgets_counts_without_one_too() -> None:
    rows = [
        *(row("QUICK", "model", 0, 0.2), row("DEEPTHINK", "model", 10, 1.0)),
        *(row("price 0.1", "price", 4, 0.9), row("price 0.5", "price", 2, 0.8)),
        *(row("price 0.1 up to 1", "capped", 1, 0.3), row("price 0.1 up to 2", "capped", 2, 0.5)),
    ]
    found = frontier.family(rows, "capped")
    assert [each["name"] for each in found] == ["price 0.1 up to 1", "price 0.1 up to 2", "price 0.1"]
    assert {each["kind"] for each in found} == {"capped"}
    assert frontier.hypervolume(rows, "capped") == pytest.approx(0.2 * 0.1 + 0.3 * 0.1 + 0.5 * 0.2 + 0.9 * 0.6)
    assert frontier.family(rows, "price") == rows[2:4]


def test_hypervolume_of_a_useless_family_is_quicks() -> None:
    useless = [*PAIR, row("random 0.5", "random", 5, 0.3)]
    assert frontier.hypervolume(useless, "random") == pytest.approx(0.5)


def test_hypervolume_can_exceed_one() -> None:
    better = [*PAIR, row("price 1", "price", 0, 1.0)]
    assert frontier.hypervolume(better, "price") == pytest.approx(1.25)


@pytest.mark.parametrize(("calls", "success"), [(10, 0.0), (0, 0.4)], ids=["it never succeeds", "it answers no call"])
@pytest.mark.parametrize("quick", [0.0, 0.4])
def test_nothing_is_a_share_of_nothing(calls: float, success: float, quick: float) -> None:
    table = [row("QUICK", "model", 0, quick), row("DEEPTHINK", "model", calls, success)]
    table += [row("price 1", "price", min(calls, 1), 0.4), row("disagreement oracle", "oracle", min(calls, 1), 0.4)]
    for measure in (frontier.hypervolume, frontier.gain, frontier.gaps, frontier.apgr, frontier.aiq, frontier.regret):
        assert measure(table, "price") is None
    assert choosing.choice(table, TABLE, 0.99) is None
    assert choosing.in_doubt(table, 0.99) == frozenset(), "more episodes would say no more"
    assert choosing.choice([*PAIR, row("price 1", "price", 1, 0.8)], table, 0.99) is None
    found = frontier.metrics(table, {"at_99": choosing.choice(table, table, 0.99)})
    assert found["cpt50"] is None
    assert found["saved_calls_at_99"] is None


def test_gaps_start_at_zero_and_reach_one() -> None:
    closed = frontier.gaps(TABLE, "budget")
    assert closed is not None
    assert [value for point in closed for value in point] == pytest.approx([0, 0, 0.2, 0.5, 0.5, 1])


def test_apgr_is_the_area_under_the_closed_gap() -> None:
    # trapezia over (0, 0), (.2, .5), (.5, 1), (1, 1)
    assert frontier.apgr(TABLE, "budget") == pytest.approx(0.05 + 0.225 + 0.5)


def test_apgr_ends_at_deepthink() -> None:
    table = [*PAIR, row("random 0.5", "random", 5, 0.6)]
    # (0, 0), (.5, .5), (1, 1)
    assert frontier.apgr(table, "random") == pytest.approx(0.5)


def test_aiq_is_the_area_under_the_hull() -> None:
    # (0, .5), (.2, .75), (.5, 1), (1, 1): already concave, .25 / .2 > .25 / .3
    assert frontier.aiq(TABLE, "budget") == pytest.approx(0.125 + 0.2625 + 0.5)
    bent = [*PAIR, row("price 1", "price", 2, 0.42), row("price 2", "price", 5, 0.8)]  # (.2, .525) lies below the hull
    assert frontier.aiq(bent, "price") == pytest.approx(0.375 + 0.5)
    assert frontier.aiq(TABLE, "price") is None


def test_aiq_of_a_useless_family_is_what_mixing_the_models_gives() -> None:
    assert frontier.aiq([*PAIR, row("random 0.5", "random", 5, 0.3)], "random") == pytest.approx(0.75)


def test_aiq_of_a_family_that_is_free() -> None:
    assert frontier.aiq([*PAIR, row("price 1", "price", 0, 1.0)], "price") == pytest.approx(1.25)


def test_regret_compares_at_the_oracles_calls() -> None:
    table = [*TABLE, row("disagreement oracle", "oracle", 4, 0.8)]
    between = 0.75 + 2 / 3 * 0.25  # of budget 2, with .75 of DEEPTHINK's success, and budget 5, with all of it
    assert frontier.regret(table, "budget") == pytest.approx(1 - between), "as good as mixing the two"
    assert frontier.regret(table, "oracle") == pytest.approx(0)
    assert frontier.regret([*table, row("price 1", "price", 4, 0.84)], "price") == pytest.approx(-0.05)
    assert frontier.regret(TABLE, "budget") is None
    assert frontier.regret(table, "price") is None


def test_budget_use() -> None:
    rows = [{**row("budget 4", "budget", 3, 0.5), "value": 4, "spent": 3.0}, {**BUDGETS[0], "value": 0}]
    assert frontier.budget_use([*PAIR, *rows]) == {"budget 4": 0.75}


def test_after_how_many_episodes_training_is_paid_for() -> None:
    chosen = {"test": BUDGETS[0]}
    assert frontier.pays_off_after(8000, TABLE, chosen) == 1000, "8 of 10 calls are saved"
    assert frontier.pays_off_after(8001, TABLE, chosen) == 1001
    assert frontier.pays_off_after(8000, TABLE, {"test": PAIR[0]}) == 800, "all are"
    assert frontier.pays_off_after(None, TABLE, chosen) is None
    assert frontier.pays_off_after(8000, TABLE, None) is None
    assert frontier.pays_off_after(8000, TABLE, {"test": BUDGETS[3]}) is None, "it makes more"


def test_steps_to_a_share_of_the_final_hypervolume() -> None:
    areas = [(1_000, 0.2, None), (2_000, 0.85, 0.5), (3_000, 0.8, 0.9), (4_000, 0.9, 0.95)]
    curve = [{"step": step, "hypervolume": {"budget": b, "price": p}} for step, b, p in areas]
    assert frontier.steps_to(curve, 0.9) == {"budget": 2_000, "price": 3_000}
    assert frontier.steps_to([], 0.9) == {"budget": None, "price": None}


def test_the_best_price() -> None:
    rows = [{**row(f"price {c}", "price", calls, s), "value": c} for c, calls, s in ((0.1, 4, 0.6), (0.01, 6, 0.7))]
    assert choosing.best_price([*PAIR, *rows]) == 0.01, "none keeps 99 %: the one that keeps most"
    assert choosing.best_price([*PAIR, *rows, {**row("price 1", "price", 7, 0.8), "value": 1.0}]) == 1.0


def test_cpt_is_the_cheapest_measured_point() -> None:
    assert frontier.cpt(TABLE, 0.5) == pytest.approx(0.2)
    assert frontier.cpt(TABLE, 0.51) == pytest.approx(0.5)
    cheaper = [*TABLE, row("price 1", "price", 1, 0.64)]
    assert frontier.cpt(cheaper, 0.5) == pytest.approx(0.1)


def test_cpt_looks_at_learned_policies_only() -> None:
    table = [*TABLE, row("entropy 1", "entropy", 1, 0.8), row("disagreement oracle", "oracle", 1, 0.8)]
    assert frontier.cpt(table, 0.8) == pytest.approx(0.5)
    assert frontier.cpt(table, 0.8, kinds=("oracle",)) == pytest.approx(0.1)


def test_what_was_not_measured_is_none() -> None:
    assert frontier.hypervolume(TABLE, "price") is None
    assert frontier.apgr(TABLE, "price") is None
    assert frontier.gaps(TABLE, "price") is None
    assert frontier.cpt([*PAIR, BUDGETS[0]], 0.8) is None


def test_without_a_gap_what_measures_it_is_none() -> None:
    table = [row("QUICK", "model", 0, 0.8), row("DEEPTHINK", "model", 10, 0.8), row("budget 2", "budget", 2, 0.9)]
    assert frontier.gaps(table, "budget") is None
    assert frontier.apgr(table, "budget") is None
    assert frontier.cpt(table, 0.5) is None
    assert frontier.hypervolume(table, "budget") == pytest.approx(1 * 0.2 + 1.125 * 0.8)


def test_choose_takes_the_cheapest_that_fits() -> None:
    chosen = choosing.choose(TABLE, 0.99)
    assert chosen is not None
    assert chosen["name"] == "budget 5"
    chosen = choosing.choose(TABLE, 0.75)
    assert chosen is not None
    assert chosen["name"] == "budget 2"


def test_choose_wants_a_margin_of_one_standard_error() -> None:
    lucky = row("budget 4", "budget", 4, 0.80) | {"success": {"mean": 0.80, "low": 0.76, "high": 0.84}}
    safe = row("price 0.1", "price", 6, 0.83) | {"success": {"mean": 0.83, "low": 0.79, "high": 0.87}}
    chosen = choosing.choose([*PAIR, lucky, safe], 0.99)  # .80 - .0204 < .792 <= .83 - .0204
    assert chosen is not None
    assert chosen["name"] == "price 0.1"


def test_more_episodes_are_for_what_may_be_chosen_or_not() -> None:
    def doubt(*successes: tuple[str, float, float]) -> frozenset[str]:
        rows = [
            row(f"{kind} {calls}", kind, calls, mean)
            | {"success": {"mean": mean, "low": mean - 0.0392, "high": mean + 0.0392}}
            for kind, calls, mean in successes  # one standard error is .02
        ]
        return choosing.in_doubt([*PAIR, *rows], 0.99)  # .792

    assert doubt(("price", 2, 0.751), ("price", 5, 0.833)) == frozenset(), "one fails, the other passes"
    assert doubt(("price", 2, 0.753), ("price", 5, 0.833)) == {"price 2", "DEEPTHINK"}
    assert doubt(("price", 5, 0.831)) == {"price 5", "DEEPTHINK"}
    assert doubt(("price", 2, 0.833), ("price", 5, 0.79)) == frozenset(), "it would not be the cheapest"
    assert doubt(("price", 2, 0.833), ("budget", 5, 0.79)) == {"budget 5", "DEEPTHINK"}, "of its kind it would"


def test_choose_takes_learned_policies_only() -> None:
    table = [*TABLE, row("entropy 1", "entropy", 1, 0.9), row("random 0.1", "random", 1, 0.9)]
    table.append(row("disagreement oracle", "oracle", 1, 0.9))
    chosen = choosing.choose(table, 0.99)
    assert chosen is not None
    assert chosen["kind"] in frontier.LEARNED


def test_choose_finds_none_where_none_fits() -> None:
    assert choosing.choose([*PAIR, BUDGETS[0]], 0.95) is None
    assert choosing.choice([*PAIR, BUDGETS[0]], TABLE, 0.95) is None


def test_a_choice_is_made_on_selection_and_measured_on_test() -> None:
    test = [row("QUICK", "model", 0, 0.3), row("DEEPTHINK", "model", 8, 0.9, flops=200)]
    test += [row("budget 2", "budget", 1, 0.9), row("budget 5", "budget", 4, 0.72, flops=50)]
    found = choosing.choice(TABLE, test, 0.99)
    assert found is not None
    assert found["name"] == "budget 5"  # on test seeds budget 2 is better; that must not matter
    assert found["success_ratio"] == pytest.approx(0.8)
    assert found["calls_ratio"] == pytest.approx(0.5)
    assert found["flops_ratio"] == pytest.approx(0.25)
    assert found["selection"] == BUDGETS[2]
    assert found["test"] == test[-1]


def test_models_that_report_no_flops_have_no_share_of_them() -> None:
    table = [r | {"flops": 0.0} for r in TABLE]
    found = choosing.choice(table, table, 0.99)
    assert found is not None
    assert found["flops_ratio"] is None
    assert frontier.metrics(table, {"at_99": found, "at_95": None})["saved_flops_at_99"] is None


def test_metrics_put_it_together() -> None:
    table = [*PAIR, *(r | {"violations": 1} for r in BUDGETS[:3])]
    choices = {"at_99": choosing.choice(table, table, 0.99), "at_95": None}
    found = frontier.metrics(table, choices)
    assert found["hypervolume"]["budget"] == pytest.approx(0.825)
    assert found["hypervolume"]["price"] is None
    assert found["apgr"]["budget"] == pytest.approx(0.775)
    assert found["saved_calls_at_99"] == pytest.approx(0.5)
    assert found["saved_flops_at_99"] == pytest.approx(0.6)
    assert found["saved_calls_at_95"] is None
    assert (found["cpt50"], found["cpt80"], found["cpt95"]) == pytest.approx((0.2, 0.5, 0.5))
    assert found["violations"] == 3
    assert all(math.isfinite(v) for v in found["hypervolume"].values() if v is not None)


def test_which_episodes_were_solved_is_kept() -> None:
    solved = [True, False, True, True, False, False, True, False, False, True, True]
    kept = {"episodes": len(solved), "solved": frontier.packed(solved)}
    assert kept["solved"] == "b260"
    found = frontier.unpacked(kept)
    assert found is not None
    assert found.tolist() == solved
    assert frontier.unpacked({"episodes": 11}) is None, "rows of earlier versions do not say"


def test_find_returns_the_row_of_that_name() -> None:
    assert frontier.find(TABLE, "budget 3") == BUDGETS[1]


def test_dollars_and_tokens_have_shares_of_their_own() -> None:
    test = [r | {"tokens": 10.0 * (1 + r["calls"]["mean"]), "dollars": 0.25 * r["calls"]["mean"]} for r in TABLE]
    found = choosing.choice(test, test, 0.99)
    assert found is not None
    calls = found["test"]["calls"]["mean"], frontier.find(test, "DEEPTHINK")["calls"]["mean"]
    assert found["dollars_ratio"] == pytest.approx(calls[0] / calls[1])
    assert found["tokens_ratio"] == pytest.approx((1 + calls[0]) / (1 + calls[1]))
    metrics = frontier.metrics(test, {"at_99": found, "at_95": None})
    assert metrics["saved_dollars_at_99"] == pytest.approx(1 - calls[0] / calls[1])
    assert metrics["saved_tokens_at_99"] == pytest.approx(1 - found["tokens_ratio"])


def test_flops_that_one_model_does_not_report_are_not_known() -> None:
    def played(flops: float) -> Outcome:
        deepthink = Reply("a", "", Usage(5, flops=flops, dollars=0.5, requests=1))
        quick = Reply("a", "", Usage(5, flops=7.0))
        step = Step("o", "p", quick, deepthink, (), 0.0, True, True, 1.0, 0.0, 1, "a", 0.0, True)
        return _outcome(Episode("e", 0, "g", "x", 1, 0.0, (step,), True, False))

    assert (played(3.0).flops, played(0.0).flops) == (10.0, 0.0)
    assert played(0.0).dollars == 0.5
