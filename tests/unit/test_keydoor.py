from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from londi.envs.keydoor import (
    ACTIONS,
    GOAL,
    KEYS,
    STARTS,
    STATES,
    KeyDoorEnv,
    State,
    deepthink_policy,
    describe,
    quick_policy,
    read_state,
)
from londi.errors import ConfigError, EnvError, EpisodeOverError, ModelError
from londi.prompt import PromptTemplate
from londi.theory import SwitchingMDP
from londi.theory.finite import budget_frontier, evaluate_policy, price_frontier, solve_budgets

Policy = Callable[[str], Mapping[str, float]]
POLICIES: tuple[Policy, Policy] = (quick_policy, deepthink_policy)
HORIZON = 40


def greedy(policy: Policy, text: str) -> str:
    table = policy(text)
    return max(table, key=lambda name: table[name])


def play(env: KeyDoorEnv, policy: Policy, seed: int) -> tuple[list[str], list[str], bool]:
    """Observations and actions of an episode, prompted as a language model is, and whether it reached the goal."""
    template = PromptTemplate(observations=2)
    text, info = env.reset(seed=seed)
    observations, actions = [text], list[str]()
    over = False
    while not over:
        actions.append(greedy(policy, template.render(info["goal"], observations, actions)))
        text, reward, terminated, truncated, info = env.step(actions[-1])
        observations.append(text)
        over = terminated or truncated
        assert reward == float(info["success"]) == float(terminated)
    return observations, actions, bool(info["success"])


@pytest.fixture(scope="module")
def mdp() -> SwitchingMDP:
    return KeyDoorEnv().switching_mdp()


def constant(mdp: SwitchingMDP, called: bool) -> tuple[float, float]:
    return evaluate_policy(mdp, HORIZON, np.full((HORIZON, mdp.num_states), called))


def test_text_and_state_are_one_to_one() -> None:
    assert len({describe(state) for state in STATES}) == len(STATES) == len(set(STATES))
    for state in STATES:
        assert read_state(describe(state)) == state
        assert read_state(f"goal: x\nlast: none\nobs: {describe(STATES[0])}\nobs: {describe(state)}\nact:") == state
    assert describe(State(2, 6, (1, 2), False)) == (
        "You are at column 2, row 6. The key is 4 steps north and 1 step west. "
        "The locked door is 2 steps north and 3 steps east. The goal is 5 steps east."
    )


@pytest.mark.parametrize("text", ["", "hello", "You are at column 9, row 1. You carry the key."])
def test_a_foreign_text_is_refused(text: str) -> None:
    for policy in POLICIES:
        with pytest.raises(ModelError, match="no state"):
            policy(text)


def test_policies_give_probabilities_with_one_likeliest_action() -> None:
    for state in STATES:
        for policy in POLICIES:
            table = policy(describe(state))
            assert set(table) == set(ACTIONS)
            assert sum(table.values()) == pytest.approx(1)
            first, second = sorted(table.values())[-1:-3:-1]
            assert first > second


def test_outcomes_follow_the_rules() -> None:
    env, key = KeyDoorEnv(slip=0.2), KEYS[0]
    beside = State(key[0] + 1, key[1], key, False)
    assert env.outcomes(beside, "go west") == [
        (0.8, State(*key, key, False), 0.0, False),
        (0.2, beside, 0.0, False),
    ]
    assert env.outcomes(beside, "pick up key") == [(1.0, beside, 0.0, False)]
    assert env.outcomes(State(*key, key, False), "pick up key") == [(1.0, State(*key, None, False), 0.0, False)]
    carrying, no_key, opened = State(4, 4, None, False), State(4, 4, key, False), State(4, 4, None, True)
    assert env.outcomes(no_key, "open door") == [(1.0, no_key, 0.0, False)]
    assert env.outcomes(carrying, "go east") == [(1.0, carrying, 0.0, False)]
    assert env.outcomes(carrying, "open door") == [(1.0, opened, 0.0, False)]
    assert env.outcomes(opened, "go east")[0] == (0.8, State(5, 4, None, True), 0.0, False)
    at_goal = State(*GOAL, None, True)
    before = at_goal._replace(row=GOAL[1] - 1)
    assert env.outcomes(before, "go south") == [(0.8, at_goal, 1.0, True), (0.2, before, 0.0, False)]
    assert env.outcomes(at_goal, "go north") == [(1.0, at_goal, 0.0, True)]
    with pytest.raises(EnvError, match="no action"):
        env.outcomes(before, "fly")


def test_outcomes_stay_in_the_listed_states() -> None:
    env, seen = KeyDoorEnv(), set(STARTS)
    for state in STATES:
        for action in ACTIONS:
            outcomes = env.outcomes(state, action)
            assert sum(outcome[0] for outcome in outcomes) == pytest.approx(1)
            seen |= {outcome[1] for outcome in outcomes}
    assert seen == set(STATES)


def test_the_seed_decides_the_episode() -> None:
    episodes = [play(KeyDoorEnv(), deepthink_policy, seed) for seed in range(20)]
    again = KeyDoorEnv()
    assert [play(again, deepthink_policy, seed) for seed in range(20)] == episodes
    assert len({observations[0] for observations, _, _ in episodes}) > 10
    starting = {observations[0]: actions for observations, actions, _ in episodes}
    assert len(set(map(tuple, starting.values()))) > 10


def test_the_end_is_latched_and_the_step_limit_truncates() -> None:
    env = KeyDoorEnv()
    assert play(env, deepthink_policy, seed=0)[2]
    with pytest.raises(EpisodeOverError):
        env.step("go north")
    env = KeyDoorEnv(max_steps=3)
    first, _ = env.reset(seed=0)
    text, reward, terminated, truncated, info = env.step("dance")
    assert (text, reward, terminated, truncated, info["valid"]) == (first, 0.0, False, False, False)
    env.step("go north")
    assert env.step("go north")[2:4] == (False, True)
    with pytest.raises(EpisodeOverError):
        env.step("go north")


def test_starts_are_uniform(mdp: SwitchingMDP) -> None:
    env, episodes = KeyDoorEnv(), 8400
    counts = Counter(read_state(env.reset(seed=seed)[0]) for seed in range(episodes))
    expected = mdp.initial * episodes
    found = np.array([counts[state] for state in STATES])
    assert not found[expected == 0].any()
    among = expected > 0
    chi_square = ((found - expected)[among] ** 2 / expected[among]).sum()
    assert chi_square < 130  # 83 degrees of freedom: mean 83, standard deviation 13


@pytest.mark.parametrize("choice", [0, 1])
def test_matrices_match_simulated_frequencies(choice: int) -> None:
    env = KeyDoorEnv(slip=0.25, max_steps=120)
    mdp = env.switching_mdp()
    index = {describe(state): i for i, state in enumerate(STATES)}
    counts, rewards = np.zeros((len(STATES), len(STATES))), np.zeros(len(STATES))
    rng = np.random.default_rng(choice)
    for seed in range(500):  # random actions between the counted ones lead to all states
        text, _ = env.reset(seed=seed)
        over, share = False, rng.random()
        while not over:
            counted = rng.random() < share
            action = greedy(POLICIES[choice], text) if counted else ACTIONS[rng.integers(len(ACTIONS))]
            after, reward, terminated, truncated, _ = env.step(action)
            if counted:
                counts[index[text], index[after]] += 1
                rewards[index[text]] += reward
            text, over = after, terminated or truncated
    visits = counts.sum(axis=1)
    assert ((visits > 0) | mdp.terminal).mean() > 0.9
    assert not counts[mdp.transition[choice] == 0].any()
    often = visits >= 25
    error = np.abs(counts[often] / visits[often, None] - mdp.transition[choice, often])
    spread = np.sqrt(mdp.transition[choice, often] * (1 - mdp.transition[choice, often]) / visits[often, None])
    assert (error <= 4.5 * spread + 1e-12).all()
    moves = np.isclose(np.diagonal(mdp.transition[choice]), 0.25)
    stayed, tried = np.diagonal(counts)[moves].sum(), visits[moves].sum()
    assert tried > 2000
    assert stayed / tried == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / tried))
    assert rewards.sum() == pytest.approx((visits * mdp.reward[choice]).sum(), abs=4 * np.sqrt(rewards.sum()))


@pytest.mark.parametrize("choice", [0, 1])
def test_exact_success_matches_rollouts(mdp: SwitchingMDP, choice: int) -> None:
    env = KeyDoorEnv()
    episodes = [play(env, POLICIES[choice], seed) for seed in range(400)]
    success, steps = constant(mdp, bool(choice))
    assert np.mean([won for _, _, won in episodes]) == pytest.approx(success, abs=0.07)
    if choice:
        assert np.mean([len(actions) for _, actions, _ in episodes]) == pytest.approx(steps, abs=0.9)


def test_deepthink_is_optimal_among_all_actions(mdp: SwitchingMDP) -> None:
    env, index = KeyDoorEnv(), {state: i for i, state in enumerate(STATES)}
    best = np.zeros(len(STATES))
    for _ in range(20):
        ahead = [
            [sum(p * (gain + best[index[after]]) for p, after, gain, _ in env.outcomes(state, a)) for a in ACTIONS]
            for state in STATES
        ]
        best = np.array(ahead).max(axis=1)
    policy = np.ones((20, len(STATES)), bool)
    assert mdp.initial @ best < 0.9  # 20 steps are too few for some starts, so that a detour would show
    assert evaluate_policy(mdp, 20, policy)[0] == pytest.approx(mdp.initial @ best)


def test_the_frontier_is_graded(mdp: SwitchingMDP) -> None:
    quick, deepthink = constant(mdp, False), constant(mdp, True)
    assert 0.05 < quick[0] <= 0.30
    assert deepthink[0] >= 0.97
    frontier = budget_frontier(mdp, HORIZON, range(16))
    success = np.array([value for _, value, _ in frontier])
    assert success[0] == pytest.approx(quick[0])
    enough = int(np.argmax(success >= 0.99 * deepthink[0]))
    assert 6 <= enough <= 12
    assert deepthink[1] > 1.5 * enough
    assert (np.diff(success[: enough + 1]) > 0).all()
    assert np.diff(success).max() < 0.25


def test_budgets_are_monotone_and_end_at_both_models(mdp: SwitchingMDP) -> None:
    values, _ = solve_budgets(mdp, HORIZON, 12)
    assert (np.diff(values, axis=1) >= -1e-12).all()
    always = np.ones((HORIZON, mdp.num_states), bool)
    assert evaluate_policy(mdp, HORIZON, always, cap=HORIZON) == pytest.approx(constant(mdp, True))
    assert evaluate_policy(mdp, HORIZON, always, cap=0) == pytest.approx(constant(mdp, False))


def test_a_switcher_that_sees_no_clock_reaches_the_frontier(mdp: SwitchingMDP) -> None:
    budgets = range(0, 11, 2)
    _, call = solve_budgets(
        replace(mdp, gamma=0.99), 200, 10
    )  # gamma < 1: without it, waiting while stuck costs nothing
    now = np.tile(call[0], (HORIZON, 1, 1))
    for n, best, _ in budget_frontier(mdp, HORIZON, budgets):
        assert evaluate_policy(mdp, HORIZON, now, n)[0] == pytest.approx(best, abs=0.005)


def test_confidence_alone_does_not_find_the_wrong_places(mdp: SwitchingMDP) -> None:
    best = price_frontier(mdp, HORIZON, [0.02])[0]
    confidence = np.array([max(quick_policy(describe(state)).values()) for state in STATES])
    for threshold in np.unique(confidence)[:-1]:
        rule = np.tile(confidence <= threshold, (HORIZON, 1))
        success, calls = evaluate_policy(mdp, HORIZON, rule)
        assert success < best[1] - 0.1 or calls > 2 * best[2]


@pytest.mark.parametrize("options", [{"slip": -0.1}, {"slip": 1.0}, {"slip": float("nan")}, {"max_steps": 0}])
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        KeyDoorEnv(**options)
