"""`londi verify`: every check passes as things are, and fails where an error is planted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from londi.budget import Budget
from londi.cli import main
from londi.cli.verify import verify as command
from londi.errors import ConfigError
from londi.learners import qlearning
from londi.switchers.base import Choice
from londi.switchers.tabular import TabularSwitcher
from londi.theory import frontier, operators, policies, solve
from londi.theory.generate import corridor, garnet, grid
from londi.theory.mdp import SwitchingMDP
from londi.verify import SUITES, Claim, Part, Settings, deep, efficiency, facts, linear, scale, verify
from londi.verify import budgets as budget_checks
from londi.verify.page import write
from londi.verify.random_mdps import check_problem

ROOT = Path(__file__).parents[2]
QUICK = Settings(quick=True, seed=0)
Patch = pytest.MonkeyPatch


def failures(suite: str, part: Part) -> set[str]:
    """The claims that what was found refutes."""
    claims = {claim.key: claim for claim in SUITES[suite].claims}
    return {key for key, worst in part.worst.items() if not claims[key].holds(worst)}


def random_failures() -> set[str]:
    part = Part()
    for seed, make in enumerate((lambda *a: garnet(a[0], 3, *a[1:]), corridor, grid)):
        rng = np.random.default_rng(seed)
        check_problem(make(25, 0.9, rng), rng, part)
    assert set(part.worst) == {claim.key for claim in SUITES["random"].claims}
    return failures("random", part)


def test_nothing_fails_as_things_are() -> None:
    assert random_failures() == set()


def wrong_sign(patch: Patch) -> None:
    def intervene(mdp: SwitchingMDP, values: Any, price: Any) -> Any:
        return operators.backup(mdp, 1, values) + price

    patch.setattr(operators, "intervene", intervene)  # the solvers keep their own: the two must disagree


def expanding(patch: Patch) -> None:
    honest = operators.bellman
    patch.setattr(operators, "bellman", lambda mdp, values, price: honest(replace(mdp, gamma=0.91), values, price))


def averaging(patch: Patch) -> None:
    """A mean in place of the maximum: still a contraction, but to another point."""

    def bellman(mdp: SwitchingMDP, values: Any, price: Any) -> Any:
        return (operators.intervene(mdp, values, price) + operators.backup(mdp, 0, values)) / 2

    patch.setattr(operators, "bellman", bellman)


def unmasked(patch: Patch) -> None:
    """With no call left one is possible all the same."""

    def budget_bellman(mdp: SwitchingMDP, values: Any, price: Any = 0.0) -> Any:
        below = np.concatenate([values[:1], values[:-1]])
        return np.maximum(operators.backup(mdp, 0, values), operators.intervene(mdp, below, price))

    patch.setattr(operators, "budget_bellman", budget_bellman)


def free_budgets(patch: Patch) -> None:
    """A call leaves the budget as it is."""
    honest = solve.solve_budgets

    def solve_budgets(mdp: SwitchingMDP, max_calls: int, price: float = 0.0) -> Any:
        found = honest(mdp, max_calls, price)
        values = found.values.copy()
        values[1:] = solve.policy_iteration(mdp, 0.0).values
        return replace(found, values=values)

    patch.setattr(solve, "solve_budgets", solve_budgets)


def falling_budgets(patch: Patch) -> None:
    honest = solve.solve_budgets

    def solve_budgets(mdp: SwitchingMDP, max_calls: int, price: float = 0.0) -> Any:
        found = honest(mdp, max_calls, price)
        return replace(found, values=found.values[::-1])

    patch.setattr(solve, "solve_budgets", solve_budgets)


def uncharged(patch: Patch) -> None:
    patch.setattr(qlearning.Prices, "targets", lambda self, call, reward, best: reward[:, None] + best)


def unshifted(patch: Patch) -> None:
    def targets(self: Any, call: Any, reward: Any, best: Any) -> Any:
        found = reward[:, None] + best
        found[call, 0] = -np.inf
        return found

    patch.setattr(qlearning.Budgets, "targets", targets)


def missing_breakpoints(patch: Patch) -> None:
    honest = frontier.price_frontier
    from londi.verify import random_mdps

    def price_frontier(mdp: SwitchingMDP) -> frontier.PriceFrontier:
        found = honest(mdp)
        ends = [0, -1]
        return frontier.PriceFrontier(*(getattr(found, name)[ends] for name in found.__dataclass_fields__))

    patch.setattr(random_mdps, "price_frontier", price_frontier)


def undiscounted_calls(patch: Patch) -> None:
    honest = policies.evaluate
    patch.setattr(policies, "evaluate", lambda mdp, call, budget=None: (honest(mdp, call, budget)[0], 0.5))


def stuck_calls(patch: Patch) -> None:
    """Solutions at a price above 0 that call less than they should."""
    honest = solve.policy_iteration

    def policy_iteration(mdp: SwitchingMDP, price: float, start: Any = None) -> Any:
        found = honest(mdp, price, start)
        return replace(found, call=found.call & (np.arange(mdp.num_states) % 2 == 0), values=found.values - price)

    patch.setattr(solve, "policy_iteration", policy_iteration)


def another_price(change: Callable[[float], float]) -> Callable[[Patch], None]:
    """Solutions for another price than the one asked for."""

    def plant(patch: Patch) -> None:
        honest = solve.policy_iteration
        patch.setattr(solve, "policy_iteration", lambda mdp, price, start=None: honest(mdp, change(price), start))

    return plant


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (another_price(lambda price: price**2), {"price-convex", "unique"}),
        (another_price(lambda price: 40 * price), {"price-lipschitz", "unique"}),
        (another_price(lambda price: price + 0.2), {"free-calls", "unique"}),
        (wrong_sign, {"unique", "obstacle", "relabelling"}),
        (expanding, {"contraction", "unique"}),
        (averaging, {"unique"}),
        (unmasked, {"budget-chain"}),
        (free_budgets, {"budget-chain", "weak-duality"}),
        (falling_budgets, {"budget-chain", "budget-monotone", "budget-error"}),
        (uncharged, {"relabelling"}),
        (unshifted, {"relabelling"}),
        (missing_breakpoints, {"frontier-exact"}),
        (undiscounted_calls, {"call-distribution"}),
        (stuck_calls, {"unique", "obstacle", "frontier-exact"}),
    ],
)
def test_a_planted_error_is_caught(plant: Callable[[Patch], None], caught_by: set[str], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert caught_by <= random_failures()


class Greedy(TabularSwitcher):
    """Asks for a call always, the mask forgotten."""

    def choose(self, query: Any) -> Choice:
        return Choice(np.ones(len(query), bool), np.ones(len(query)), np.ones(len(query)))


def test_an_unmasked_switcher_is_caught_and_the_budget_holds_all_the_same(monkeypatch: Patch) -> None:
    monkeypatch.setattr(budget_checks, "TabularSwitcher", Greedy)
    part = budget_checks.SUITE.run(QUICK, 0)
    assert failures("budgets", part) == {"budget-masked"}
    assert part.cases["budget-kept"] == 10_000


def test_a_budget_that_grants_too_much_is_caught(monkeypatch: Patch) -> None:
    class Generous(Budget):
        def __init__(self, cap: int | None) -> None:
            super().__init__((cap or 0) + 1)

    monkeypatch.setattr(budget_checks, "Budget", Generous)
    assert "budget-kept" in failures("budgets", budget_checks.SUITE.run(QUICK, 0))


@pytest.mark.parametrize(("plant", "job", "key"), [(uncharged, 1, "q-prices"), (unshifted, 2, "q-budgets")])
def test_wrong_targets_do_not_converge(plant: Callable[[Patch], None], job: int, key: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert failures("learning", SUITES["learning"].run(QUICK, job)) == {key}


@pytest.mark.parametrize(("job", "claim"), [(0, efficiency.PRICES), (1, efficiency.BUDGETS)])
def test_a_learner_that_does_not_relabel_is_not_that_much_faster(job: int, claim: Claim, monkeypatch: Patch) -> None:
    class OneRow(qlearning.QLearning):
        def update(self, step: Any, row: Any = None) -> None:
            count = self.q.shape[1]
            moved = self.visits.sum(axis=(1, 2, 3)) % count if row is None and count > 1 else row
            super().update(step, moved)

    monkeypatch.setattr(efficiency, "QLearning", OneRow)
    assert failures("efficiency", efficiency.SUITE.run(QUICK, job)) == {claim.key}


def test_a_wrong_projection_is_caught(monkeypatch: Patch) -> None:
    """Weights that are not those of QUICK's chain: a projection of another norm."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(linear, "stationary", lambda matrix: rng.dirichlet(np.full(len(matrix), 0.05)) + 1e-9)
    part = Part()
    for _ in range(60):
        linear._stopping(np.random.default_rng(_), part)
    assert "linear-budgets" in failures("linear", part)


def test_a_chain_without_the_error_of_the_row_below_is_caught(monkeypatch: Patch) -> None:
    """Twice the obstacle where the chain is fitted: its rows are off by more than their bound."""
    honest = linear.projected_budgets

    def projected_budgets(mdp: SwitchingMDP, phi: Any, weight: Any) -> Any:
        found = honest(mdp, phi, weight)
        found[1:, :, 0] += 100.0
        return found

    monkeypatch.setattr(linear, "projected_budgets", projected_budgets)
    part = Part()
    linear._stopping(np.random.default_rng(0), part)
    assert failures("linear", part) == {"linear-chain"}


def test_a_chain_whose_errors_do_not_add_up_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(linear, "stopping_errors", lambda mdp, phi: [(1.0, 1.0, 1.0, 0.0)])
    part = Part()
    linear._alone(np.random.default_rng(0), part)
    assert failures("linear", part) == {"linear-chain-fails"}


def test_a_fixed_point_that_does_not_exist_is_caught(monkeypatch: Patch) -> None:
    monkeypatch.setattr(linear, "price_ratio", lambda mdp, price, phi: float("nan"))
    part = Part()
    linear._prices(np.random.default_rng(0), part)
    assert failures("linear", part) == {"linear-prices"}


def test_wrong_weights_are_caught(monkeypatch: Patch) -> None:
    """Other weights than those of visited states: then kappa is not 2, and the bound is another."""
    monkeypatch.setattr(linear, "stationary", lambda matrix: np.geomspace(1, 1e-6, len(matrix)))
    part = Part()
    for seed in range(100):
        linear._prices(np.random.default_rng(seed), part)
    assert "linear-prices" in failures("linear", part)


def test_features_that_span_everything_break_no_bound(monkeypatch: Patch) -> None:
    """The check of a failing bound needs a bound that fails."""
    monkeypatch.setattr(linear, "price_ratio", lambda mdp, price, phi: 1.0)
    part = Part()
    for seed in range(20):
        linear._prices(np.random.default_rng(seed), part)
    assert failures("linear", linear.SUITE.combine([part])) == {"linear-prices-fail", "linear-prices-unsettled"}


def test_linear_learning_of_something_else_is_caught(monkeypatch: Patch) -> None:
    unshifted(monkeypatch)
    part = Part()
    linear._learned(QUICK, np.random.default_rng(0), part)
    assert failures("linear", part) == {"linear-learned"}


def free_calls(patch: Patch) -> None:
    free_budgets(patch)
    patch.setattr(facts, "call_distribution", lambda mdp, call, most: np.eye(most + 1)[0])


@pytest.mark.parametrize(
    ("plant", "caught_by"),
    [
        (stuck_calls, {"not-nested", "brute-force"}),
        (free_calls, {"not-nested", "no-price-reaches", "budget-error-tight", "price-unsafe"}),
    ],
)
def test_wrong_facts_are_caught(plant: Callable[[Patch], None], caught_by: set[str], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    assert caught_by <= failures("facts", SUITES["facts"].run(QUICK, 0))


def test_a_sloppy_or_slow_solution_is_caught(monkeypatch: Patch) -> None:
    honest, clock = solve.policy_iteration, iter([0.0, 61.0])

    def policy_iteration(mdp: SwitchingMDP, price: float, start: Any = None) -> Any:
        found = honest(mdp, price, start)
        return replace(found, values=found.values * (1 + 1e-8 * (np.arange(mdp.num_states) % 2)))

    monkeypatch.setattr(solve, "policy_iteration", policy_iteration)
    monkeypatch.setattr("londi.verify.scale.time.perf_counter", lambda: next(clock))
    assert failures("scale", scale.SUITE.run(QUICK, 0)) == {"large-accurate", "large-seconds"}


def test_deep_learners_that_learned_little_are_caught(monkeypatch: Patch) -> None:
    def learned_rows(steps: int, seed: int, relabel: bool, episodes: int) -> Any:
        share = 0.6 if relabel else 0.8
        rows = [row for row in deep.exact_rows() if row["kind"] != "model"]
        return [row | {"success": {"mean": share * row["success"]["mean"]}} for row in rows]

    monkeypatch.setattr(deep, "learned_rows", learned_rows)
    parts = [deep.SUITE.run(QUICK, job) for job in range(2)]
    assert failures("deep", parts[0]) == {"deep-budgets", "deep-prices"}
    assert failures("deep", deep.SUITE.combine(parts)) == {"deep-relabelling"}


def test_what_is_not_measured_does_not_hold() -> None:
    claim = Claim("a", "", "", "", 1.0)
    assert not claim.holds(claim.worst([]))
    assert not claim.holds(claim.worst([0.0, float("nan")]))
    assert claim.holds(claim.worst([0.0, 1.0]))
    assert not replace(claim, bound="at least").holds(claim.worst([0.5]))
    part = Part()
    for value in (0.25, 3.0, 0.5):
        part.note(claim, value)
    assert (part.worst, part.cases) == ({"a": 3.0}, {"a": 3})
    lower = Part()
    for value in (0.25, 3.0, 0.5):
        lower.note(replace(claim, bound="at least"), value)
    assert lower.worst == {"a": 0.25}


def test_the_same_seed_gives_the_same_result_in_any_number_of_processes() -> None:
    def found(processes: int, seed: int = 0) -> list[tuple[Any, ...]]:
        result = verify(True, seed, processes, ("random", "budgets"))
        return [(check["key"], check["worst"], check["cases"]) for check in result["checks"]]

    assert found(1) == found(2)
    assert found(1) != found(1, seed=1)


def test_the_help_names_every_suite() -> None:
    assert f"{', '.join(SUITES)}." in (command.__doc__ or "")


def test_every_claim_is_explained() -> None:
    claims = [claim for suite in SUITES.values() for claim in suite.claims]
    keys = [claim.key for claim in claims]
    assert len(set(keys)) == len(keys)
    anchors = re.findall(r"\{#([a-z0-9-]+)\}", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))
    assert sorted(anchors) == sorted(keys)


def test_the_command(tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "--quick", "--processes", "1", "--only", "facts", "--out", str(tmp_path / "out")]
    main([*arguments, "--json"])
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "verification.json").read_text())
    assert result["schema"] == 1
    assert result["passed"] is True
    for check in result["checks"]:
        assert {"claim", "source", "method", "worst", "tolerance", "passed", "seconds"} <= set(check)
    page = (tmp_path / "out" / "verification.md").read_text(encoding="utf-8")
    assert all(f"(theory.md#{check['key']})" in page for check in result["checks"])
    wrong_sign(monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 1
    assert "FAIL" in capsys.readouterr().out
    assert "**FAILS**" in (tmp_path / "out" / "verification.md").read_text(encoding="utf-8")


def test_failures_without_a_number_are_reported_like_any_other(tmp_path: Path, monkeypatch: Patch) -> None:
    """An infinite deviation, and learners that never arrive."""
    honest = frontier.price_frontier

    def one_line_twice(mdp: SwitchingMDP) -> frontier.PriceFrontier:
        found = honest(mdp)
        fields = (getattr(found, name) for name in found.__dataclass_fields__)
        return frontier.PriceFrontier(*(np.concatenate([each, each[-1:]]) for each in fields))

    monkeypatch.setattr(facts, "price_frontier", one_line_twice)
    monkeypatch.setattr(efficiency, "LIMIT", 200)
    result = verify(True, only=("facts", "efficiency"))
    worst = {check["key"]: check["worst"] for check in result["checks"] if not check["passed"]}
    assert worst == {"not-nested": None, "no-price-reaches": None, "universal-prices": None, "universal-budgets": None}
    page = write(result, tmp_path)[-1].read_text(encoding="utf-8")
    assert "londi verify --quick --only facts efficiency --seed 0" in page
    assert "**4 of 7 checks of the suites facts, efficiency failed.**" in page
    assert "Random MDPs" not in page


def test_wrong_input_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="did you mean 'facts'"):
        verify(only=("fact",))
    out = ["--only", "facts", "--out", "/dev/null/verify"]
    for arguments in (
        ["--seed", "-1"],
        ["--processes", "0"],
        ["--only", "fact"],
        ["--only", "nothing"],
        ["--only"],
        out,
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", *arguments])
        assert stopped.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
