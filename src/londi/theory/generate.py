"""Random switching problems: Garnet MDPs and structured families, dense or sparse, from an explicit generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from londi.errors import ConfigError
from londi.theory.mdp import FloatArray, SwitchingMDP

Generator = np.random.Generator


def garnet(
    num_states: int, branching: int, gamma: float, rng: Generator, *, edge: float = 0.2, sparse: bool = False
) -> SwitchingMDP:
    """A Garnet MDP (Archibald et al. 1995): from every state, each choice leads to `branching` random states.

    Probabilities are the gaps between sorted uniform numbers. Rewards are drawn from U[0, 1] for each state, choice
    by choice, and DEEPTHINK's mean lies higher by `edge`: in many states, not in all, it acts better. The process
    never ends by itself. Raises `ConfigError` unless 1 <= branching <= num_states.
    """
    if not 1 <= branching <= num_states:
        raise ConfigError(f"branching must lie between 1 and {num_states}, not {branching}")
    after = np.stack([[_distinct(num_states, branching, rng) for _ in range(num_states)] for _ in range(2)])
    cuts = np.sort(rng.random((2, num_states, branching - 1)), axis=-1)
    ends = np.ones((2, num_states, 1))
    share = np.diff(np.concatenate([0 * ends, cuts, ends], axis=-1), axis=-1)
    reward = rng.random((2, num_states))
    reward[1] += edge
    never = np.zeros(num_states, bool)
    return SwitchingMDP(_matrices(after, share, sparse), reward, np.full(num_states, 1 / num_states), never, gamma)


def corridor(num_states: int, gamma: float, rng: Generator) -> SwitchingMDP:
    """A corridor of states with a goal at its end, reward 1: DEEPTHINK walks on, QUICK slips back where it is weak.

    QUICK's chance of going forward is drawn from U[.3, 1] for each state, DEEPTHINK's from U[.8, 1]. What is left
    steps back, or stays at the start.
    """
    S = num_states
    places = np.arange(S)
    forward = np.stack([rng.uniform(0.3, 1.0, S), rng.uniform(0.8, 1.0, S)])
    ahead, behind = np.minimum(places + 1, S - 1), np.maximum(places - 1, 0)
    after = np.broadcast_to(np.stack([ahead, behind], -1), (2, S, 2))
    return _to_a_goal(after, np.stack([forward, 1 - forward], -1), gamma)


def grid(num_states: int, gamma: float, rng: Generator) -> SwitchingMDP:
    """A square room (the nearest square number of states) with the goal in a corner, reward 1.

    DEEPTHINK takes a step towards the goal, QUICK does so in some states and in the others one in a direction drawn
    at random; either slips (stays) with probability .1. QUICK's errors are fixed, as a deterministic model's are.
    """
    side = max(2, round(num_states**0.5))
    S = side * side
    row, column = np.divmod(np.arange(S), side)
    steps = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    right = np.where(row == side - 1, 1, np.where(column == side - 1, 0, rng.integers(2, size=S)))
    errs = rng.random(S) < rng.uniform(0.2, 0.6)
    move = np.stack([np.where(errs, rng.integers(4, size=S), right), right])  # (2, S)
    there = np.clip(np.stack([row, column], -1) + steps[move], 0, side - 1)  # (2, S, 2)
    after = np.stack([there[..., 0] * side + there[..., 1], np.broadcast_to(np.arange(S), (2, S))], -1)
    return _to_a_goal(after, np.broadcast_to([0.9, 0.1], (2, S, 2)), gamma)


def deterministic(num_states: int, gamma: float, rng: Generator) -> SwitchingMDP:
    """A Garnet MDP with one successor for each choice."""
    return garnet(num_states, 1, gamma, rng)


FAMILIES: dict[str, Callable[[int, float, Generator], SwitchingMDP]] = {
    "garnet, 2 successors": lambda S, gamma, rng: garnet(S, 2, gamma, rng),
    "garnet, 5 successors": lambda S, gamma, rng: garnet(S, 5, gamma, rng),
    "garnet, dense": lambda S, gamma, rng: garnet(S, S, gamma, rng),
    "deterministic": deterministic,
    "corridor": corridor,
    "grid": grid,
}
"""What `londi verify` draws its random problems from: (number of states, gamma, generator) to a problem."""


def with_step_limit(mdp: SwitchingMDP, horizon: int) -> SwitchingMDP:
    """The same task ended after `horizon` steps, time being part of the state; sparse.

    State t S + s stands for state s at step t, and the last state of all, number `horizon` S, for the end. The
    solvers for problems without end then solve it exactly, at gamma = 1 too, as the `finite` ones do.
    Raises `ConfigError` for a horizon below 1.
    """
    if horizon < 1:
        raise ConfigError(f"a step limit is at least 1, not {horizon}")
    from scipy.sparse import csr_array, eye_array, kron

    S, T = mdp.num_states, horizon
    later = eye_array(T, k=1)  # step t to step t + 1; from the last one nothing is left
    matrices = []
    for g in range(2):
        body = csr_array(kron(later, csr_array(mdp.transition[g])))
        rows = np.concatenate([body.tocoo().row, (T - 1) * S + np.arange(S), [T * S]])
        columns = np.concatenate([body.tocoo().col, np.full(S + 1, T * S)])
        data = np.concatenate([body.tocoo().data, np.ones(S + 1)])
        matrices.append(csr_array((data, (rows, columns)), shape=(T * S + 1, T * S + 1)))
    over = np.concatenate([np.tile(mdp.terminal, T), [True]])
    for g in range(2):
        matrices[g] = _stay_where_over(matrices[g], over)
    reward = np.concatenate([np.tile(mdp.reward, (1, T)), np.zeros((2, 1))], axis=1)
    initial = np.concatenate([mdp.initial, np.zeros((T - 1) * S + 1)])
    return SwitchingMDP(tuple(matrices), reward, initial, over, mdp.gamma)


def _stay_where_over(matrix: object, over: NDArray[np.bool_]) -> object:
    from scipy.sparse import csr_array, diags_array

    return csr_array(diags_array((~over).astype(float)) @ matrix + diags_array(over.astype(float)))


def _to_a_goal(after: NDArray[np.int64], share: FloatArray, gamma: float) -> SwitchingMDP:
    """The last state is the goal: reaching it pays 1 and ends the episode; it starts anywhere else."""
    S = after.shape[1]
    matrices = np.asarray(_matrices(after, share, sparse=False))
    matrices[:, -1] = np.eye(S)[-1]
    reward = matrices[:, :, -1].copy()
    reward[:, -1] = 0.0
    goal = np.arange(S) == S - 1
    return SwitchingMDP(matrices, reward, np.where(goal, 0, 1 / (S - 1)), goal, gamma)


def _distinct(size: int, count: int, rng: Generator) -> NDArray[np.int64]:
    return rng.choice(size, count, replace=False, shuffle=False)


def _matrices(after: NDArray[np.int64], share: FloatArray, sparse: bool) -> object:
    """Transition matrices from successors and their probabilities, both (2, S, B)."""
    S, B = after.shape[1:]
    if not sparse:
        matrices = np.zeros((2, S, S))
        for g in range(2):
            np.add.at(matrices[g], (np.repeat(np.arange(S), B), after[g].ravel()), share[g].ravel())
        return matrices
    from scipy.sparse import csr_array

    start = np.arange(0, S * B + 1, B)
    return tuple(csr_array((share[g].ravel(), after[g].ravel(), start), shape=(S, S)) for g in range(2))
