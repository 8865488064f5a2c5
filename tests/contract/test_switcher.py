"""What every Switcher promises."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from londi.encoders import ENTROPY, MARGIN, STATE, Features, Moment, TextEncoder
from londi.errors import ConfigError
from londi.lms.base import Decision
from londi.switchers import (
    Always,
    Choice,
    EntropyThreshold,
    EveryStep,
    FirstSteps,
    MarginThreshold,
    Never,
    Query,
    RandomRate,
    State,
    Switcher,
)
from londi.switchers.base import budget_rows
from londi.switchers.network import (
    NETWORKS,
    BudgetNetwork,
    Network,
    NetworkSwitcher,
    PolicyNetwork,
    PriceNetwork,
    RouterNetwork,
    SampledSwitcher,
)
from londi.switchers.reader import NetworkShape, tensors
from londi.switchers.tabular import TabularSwitcher
from londi.usage import Usage

ACTIONS = ("left", "right", "forward")
ENCODER = TextEncoder(clauses=6, ngrams=12, buckets=64, hidden=8)
BUDGETS = (0, 1, 2, 3, 5, 6, 40, math.inf)
"""Calls left: 0, within the network's range, beyond it, and no limit."""
MAX_CALLS = 5
SIZE = 64
ANSWERS: dict[str, Any] = {"answers": 3, "said": ENCODER.said(3)}


def shape(**changes: Any) -> NetworkShape:
    sizes = {"num_dense": ENCODER.num_dense(3), "buckets": 64, "reader": 8, "heads": 2, "width": 16}
    return NetworkShape(**(sizes | {"max_calls": MAX_CALLS} | changes))


def network(kind: Any, **changes: Any) -> NetworkSwitcher:
    """Random weights, large enough that the choices differ from state to state."""
    torch.manual_seed(4)
    made = NETWORKS[kind](shape(**changes))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 2:
                parameter.mul_(2)
        if isinstance(made, PriceNetwork):
            # the advantage is twice the second output: centre it, so that about half of the states call
            half = float(np.nanmedian(NetworkSwitcher(made).choose(make_query()).advantage)) / 2
            for reader in made.readers:
                reader.head.bias[1] -= half  # type: ignore[union-attr,index,operator]
    return NetworkSwitcher(made)


def policy() -> PolicyNetwork:
    made = network("policy").network
    assert isinstance(made, PolicyNetwork)
    return made


TABLE = [[0.3, 0.2], [-0.2, 0.1], [0.4, -0.5]]
"""Advantages of 3 rows and 2 states."""

SWITCHERS: dict[str, Callable[[], Switcher]] = {
    "never": Never,
    "always": Always,
    "random": lambda: RandomRate(0.3),
    "entropy": lambda: EntropyThreshold(0.9),
    "margin": lambda: MarginThreshold(0.4),
    "every": lambda: EveryStep(3),
    "first": lambda: FirstSteps(2),
    "budget network": lambda: network("budget"),
    "price network": lambda: network("price"),
    "budget table": lambda: TabularSwitcher("budget", np.array(TABLE)),
    "price table": lambda: TabularSwitcher("price", np.array(TABLE), np.array([1e-4, 0.05, 1.0])),
    "budget network without text": lambda: network("budget", reader=0),
    "budget network with a scalar": lambda: network("budget", budget_input="scalar"),
    "gated budget network": lambda: network("budget", gated=True),
    "gated price network": lambda: network("price", gated=True),
    "router network": lambda: network("router"),
    "gated budget network that knows actions": lambda: network("budget", gated=True, **ANSWERS),
    "gated price network of three readers": lambda: network("price", gated=True, readers=2, **ANSWERS),
    "ungated budget network of two readers": lambda: network("budget", readers=2),
    "router of two readers": lambda: network("router", readers=2),
    "gated price network of one reader": lambda: network("price", gated=True, textless=False, **ANSWERS),
    "router network that knows actions": lambda: network("router", **ANSWERS),
    "policy network": lambda: network("policy"),
    "policy network, sampled": lambda: SampledSwitcher(policy()),
}


STEPS = np.random.default_rng(3).integers(60, size=SIZE)


def states(count: int) -> tuple[State, ...]:
    """States of episodes that stand at different steps."""
    steps = (int(step) for step in np.resize(STEPS, count))
    return tuple(State("red ball", "left", Moment(step, 64, (), 0, 0, False, 0, 0, 0)) for step in steps)


def features(count: int = SIZE) -> Features:
    rng = np.random.default_rng(7)
    words = ["red", "blue", "ball", "key", "wall", "left", "door"]
    prompts, decisions, moments = [], [], []
    for _ in range(count):
        clauses = [" ".join(rng.choice(words, rng.integers(1, 5))) for _ in range(rng.integers(1, 6))]
        prompts.append(f"goal: {rng.choice(words)}\nobs: {'. '.join(clauses)}.\nact:")
        p = rng.dirichlet([0.7] * 3)
        hidden = rng.standard_normal(20).astype(np.float32)
        decisions.append(Decision(ACTIONS[p.argmax()], Usage(1), tuple(np.log(p).tolist()), hidden=hidden))
        seen, since, overrode = int(rng.integers(3)), int(rng.integers(9)), bool(rng.integers(2))
        revisits, overrides, ago = map(int, rng.integers(9, size=3))
        step = int(rng.integers(60))
        moments.append(Moment(step, 64, ("left", "forward"), seen, since, overrode, revisits, overrides, ago))
    phi = ENCODER.encode(prompts, decisions, moments, ACTIONS)
    phi.dense[:, STATE] = rng.integers(2, size=count)  # what tables look at
    return phi


FEATURES = features()


def make_query(remaining: Any = None, price: Any = None, phi: Features = FEATURES) -> Query:
    rng = np.random.default_rng(11)
    left = np.resize(BUDGETS, len(phi)).astype(float) if remaining is None else np.full(len(phi), float(remaining))
    prices = np.exp(rng.uniform(-8, 0, len(phi))) if price is None else np.full(len(phi), float(price))
    return Query(phi, left, prices, rng.random(len(phi)), states(len(phi)))


def part(query: Query, rows: Any) -> Query:
    known = tuple(query.states[i] for i in np.arange(len(query))[rows])
    return Query(query.features[rows], query.remaining[rows], query.price[rows], query.uniform[rows], known)


def assert_same(one: Choice, other: Choice) -> None:
    assert (one.call == other.call).all()
    np.testing.assert_allclose(one.propensity, other.propensity, atol=1e-6)
    np.testing.assert_allclose(one.advantage, other.advantage, atol=1e-5)
    assert (one.disagree is None) == (other.disagree is None)
    if one.disagree is not None and other.disagree is not None:
        np.testing.assert_allclose(one.disagree, other.disagree, atol=1e-5)
        assert ((one.disagree >= 0) & (one.disagree <= 1)).all()


def rows(choice: Choice, where: Any) -> Choice:
    known = None if choice.disagree is None else choice.disagree[where]
    return Choice(choice.call[where], choice.propensity[where], choice.advantage[where], known)


@pytest.fixture(params=list(SWITCHERS))
def switcher(request: pytest.FixtureRequest) -> Switcher:
    return SWITCHERS[str(request.param)]()


class TestContract:
    def test_a_batch_is_its_singles(self, switcher: Switcher) -> None:
        query = make_query()
        batch = switcher.choose(query)
        for row in range(len(query)):
            single = switcher.choose(part(query, slice(row, row + 1)))
            assert_same(single, rows(batch, [row]))

    def test_the_order_plays_no_part(self, switcher: Switcher) -> None:
        query, order = make_query(), np.random.default_rng(0).permutation(SIZE)
        batch, shuffled = switcher.choose(query), switcher.choose(part(query, order))
        assert_same(shuffled, rows(batch, order))

    def test_it_chooses_the_same_again(self, switcher: Switcher) -> None:
        assert_same(switcher.choose(make_query()), switcher.choose(make_query()))

    @pytest.mark.parametrize("price", [1e-6, 0.1, 3.0])
    def test_it_never_calls_at_zero(self, switcher: Switcher, price: float) -> None:
        choice = switcher.choose(make_query(remaining=0, price=price))
        assert not choice.call.any()
        assert (choice.propensity == 1).all(), "not calling is certain"

    @pytest.mark.parametrize("remaining", [0, 1, 4, math.inf])
    def test_propensities_are_the_true_probabilities(self, switcher: Switcher, remaining: float) -> None:
        """Over a grid of uniform numbers, the share of each choice is the propensity that it reports."""
        grid = 1000
        one = FEATURES[np.zeros(grid, int)]
        query = make_query(remaining, 0.01, one)
        same = query.states[:1] * grid
        query = Query(one, query.remaining, query.price, (np.arange(grid) + 0.5) / grid, same)
        choice = switcher.choose(query)
        for called in (True, False):
            chosen = choice.call == called
            if chosen.any():
                np.testing.assert_allclose(choice.propensity[chosen], chosen.mean(), atol=1 / grid)

    def test_what_it_returns(self, switcher: Switcher) -> None:
        choice = switcher.choose(make_query())
        assert choice.call.dtype == bool
        assert ((choice.propensity > 0) & (choice.propensity <= 1)).all()
        if isinstance(switcher, NetworkSwitcher | TabularSwitcher):
            left = make_query().remaining > 0
            assert np.isfinite(choice.advantage[left]).all()
            assert np.isnan(choice.advantage[~left]).all(), "no call is left to value, and JSON has no infinity"
            assert ((choice.advantage > 0) == choice.call)[left].all()
        else:
            assert np.isnan(choice.advantage).all()


# Rules ----------------------------------------------------------------------------------------------------------------


def test_never_and_always() -> None:
    query = make_query()
    assert not Never().choose(query).call.any()
    assert (Always().choose(query).call == (query.remaining > 0)).all()


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9, 1.0])
def test_the_random_rate_is_met(rate: float) -> None:
    many = FEATURES[np.zeros(20_000, int)]
    choice = RandomRate(rate).choose(make_query(3, 0.1, many))
    assert choice.call.mean() == pytest.approx(rate, abs=0.01)
    np.testing.assert_allclose(choice.propensity, np.where(choice.call, rate, 1 - rate))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
def test_a_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(ConfigError, match="0, 1"):
        RandomRate(rate)


def test_the_entropy_threshold_cuts() -> None:
    query = make_query(remaining=2)
    entropies = FEATURES.dense[:, ENTROPY]
    for threshold in (0.0, float(np.median(entropies)), 2.0):
        assert (EntropyThreshold(threshold).choose(query).call == (entropies > threshold)).all()
    assert 0 < EntropyThreshold(float(np.median(entropies))).choose(query).call.sum() < SIZE


def test_the_margin_threshold_cuts() -> None:
    query = make_query(remaining=2)
    margins = FEATURES.dense[:, MARGIN]
    for threshold in (0.0, float(np.median(margins)), 1.0):
        assert (MarginThreshold(threshold).choose(query).call == (margins < threshold)).all()
    with pytest.raises(ConfigError, match="0, 1"):
        MarginThreshold(1.5)


def test_every_so_many_steps() -> None:
    query = make_query(remaining=5)
    for period in (1, 4):
        assert (EveryStep(period).choose(query).call == (STEPS % period == 0)).all()
    with pytest.raises(ConfigError, match="at least 1"):
        EveryStep(0)
    with pytest.raises(ConfigError, match="know the step"):
        EveryStep(2).choose(replace(query, states=()))


def test_the_first_so_many_steps() -> None:
    query = make_query(remaining=5)
    for count in (0, 1, 4):
        assert (FirstSteps(count).choose(query).call == (count > STEPS)).all()
    with pytest.raises(ConfigError, match="at least 0"):
        FirstSteps(-1)
    with pytest.raises(ConfigError, match="know the step"):
        FirstSteps(2).choose(replace(query, states=()))


def test_the_price_is_the_routers_threshold() -> None:
    for price in (0.2, 0.5, 0.8):
        choice = network("router").choose(make_query(3, price))
        assert choice.disagree is not None
        assert (choice.call == (choice.disagree > price)).all()


def say(made: Network, *biases: float) -> None:
    """Have the readers give these logits everywhere; one for all, or one each."""
    assert not isinstance(made, PolicyNetwork)
    for reader, bias in zip(made.readers, biases * (2 if len(biases) == 1 else 1), strict=False):
        head = reader[1] if isinstance(made, RouterNetwork) else reader.disagree  # type: ignore[index]
        assert isinstance(head, torch.nn.Linear)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.fill_(bias)


def test_two_readers_are_heard_alike() -> None:
    for kind in ("budget", "price", "router"):
        switcher = network(kind, gated=True)
        say(switcher.network, -40.0, 0.0)
        choice = switcher.choose(make_query(3, 0.2))
        assert choice.disagree is not None
        np.testing.assert_allclose(choice.disagree, 0.25, atol=1e-6)
    for kind in ("budget", "price"):
        made = network(kind, gated=True).network
        assert isinstance(made, BudgetNetwork | PriceNetwork)
        args = (tensors(FEATURES),) if kind == "budget" else (tensors(FEATURES), torch.full((len(FEATURES), 1), 0.1))
        each, mean = made.each(*args)[0], made(*args)[0]
        assert each.shape[1] == 2
        assert not torch.equal(each[:, 0], each[:, 1])
        torch.testing.assert_close(each.mean(1), mean)
    plain = network("price").network
    assert isinstance(plain, PriceNetwork)
    assert len(plain.readers) == 1, "ungated networks stay as small as they were"


def test_the_second_reader_sees_no_text() -> None:
    made = PriceNetwork(shape(gated=True))
    phi = tensors(FEATURES)
    other = phi._replace(grams=torch.zeros_like(phi.grams), which=torch.zeros_like(phi.which))
    first, second = ((reader.trunk(phi), reader.trunk(other)) for reader in made.readers)  # type: ignore[operator]
    assert not torch.equal(*first)
    assert torch.equal(*second)


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_a_call_gains_nothing_where_the_models_agree(kind: str) -> None:
    """Whatever was learned of gains: where DEEPTHINK would act as QUICK, a call only costs."""
    switcher = network(kind, gated=True)
    assert isinstance(switcher.network, BudgetNetwork | PriceNetwork)
    for bias, calls in ((-40.0, False), (40.0, True)):
        say(switcher.network, bias)
        choice = switcher.choose(make_query(3, 0.01))
        assert choice.call.any() == calls
        assert (choice.advantage < 0).all() == (not calls)


@pytest.mark.parametrize("kind", ["budget", "price"])
def test_where_it_knows_actions_a_call_gains_nothing_where_deepthink_takes_quicks(kind: str) -> None:
    """Features of QUICK's three actions, and a network that is sure that DEEPTHINK takes the first."""
    switcher = network(kind, gated=True, **ANSWERS)
    assert isinstance(switcher.network, BudgetNetwork | PriceNetwork)
    for reader in switcher.network.readers:
        head = reader.disagree
        assert isinstance(head, torch.nn.Linear)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
    choice = switcher.choose(make_query(3, 0.01))
    agrees = FEATURES.dense[:, ANSWERS["said"]] == 1
    assert 0 < agrees.sum() < len(agrees)
    assert choice.disagree is not None
    np.testing.assert_allclose(choice.disagree, ~agrees, atol=1e-6)
    assert (choice.advantage[agrees] < 0).all()
    assert choice.call[~agrees].any()


def test_before_it_has_learned_it_calls_where_the_models_differ() -> None:
    made = PriceNetwork(shape(gated=True))
    with torch.no_grad():
        for reader in made.readers:
            assert isinstance(reader.head, torch.nn.Linear)
            reader.head.weight.zero_()
            reader.head.bias.zero_()
    for bias in (-3.0, 3.0):
        say(made, bias)
        choice = NetworkSwitcher(made).choose(make_query(2, 0.01))
        differ = 1 / (1 + math.exp(-bias))
        np.testing.assert_allclose(choice.advantage, differ * 0.1 - 0.01, atol=1e-6)


def test_a_scalar_budget_prices_every_budget_too() -> None:
    switcher = network("budget", budget_input="scalar")
    found = [switcher.choose(make_query(left)).advantage for left in (1, 3, MAX_CALLS, math.inf)]
    for one, other in pairwise(found):
        assert not np.allclose(one, other)


# Networks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["budget", "price", "router", "policy"])
def test_a_saved_network_chooses_the_same(kind: str) -> None:
    switcher, query = network(kind), make_query()
    file = io.BytesIO()
    torch.save(switcher.state(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    torch.manual_seed(99)
    loaded = NetworkSwitcher.from_state(state)
    one, other = switcher.choose(query), loaded.choose(query)
    assert 0 < one.call.sum() < (query.remaining > 0).sum(), "the choices must differ for this to mean anything"
    assert (one.call == other.call).all()
    np.testing.assert_array_equal(one.advantage, other.advantage)
    assert loaded.kind == kind
    assert asdict(loaded.network.shape) == asdict(switcher.network.shape)


@pytest.mark.parametrize("damage", ["kind", "shape", "weights"])
def test_a_damaged_state(damage: str) -> None:
    state = network("budget").state()
    broken: dict[str, Any] = {"kind": "other", "shape": {"colour": 1}, "weights": {}}
    with pytest.raises((KeyError, TypeError, RuntimeError)):
        NetworkSwitcher.from_state({**state, damage: broken[damage]})


def test_each_budget_has_its_row() -> None:
    switcher = network("budget")
    assert isinstance(switcher.network, BudgetNetwork)
    with torch.no_grad():
        q = switcher.network(tensors(FEATURES))[0].double().numpy()
    assert q.shape == (SIZE, MAX_CALLS + 2, 2)
    assert (q[:, 0, 1] == -np.inf).all()
    expected = q[..., 1] - q[..., 0]
    for remaining, row in ((1, 1), (3, 3), (MAX_CALLS, MAX_CALLS), (MAX_CALLS + 1, MAX_CALLS), (900, MAX_CALLS)):
        np.testing.assert_allclose(switcher.choose(make_query(remaining)).advantage, expected[:, row], atol=1e-5)
    unlimited = switcher.choose(make_query(math.inf)).advantage
    np.testing.assert_allclose(unlimited, expected[:, MAX_CALLS + 1], atol=1e-5)
    assert not np.allclose(unlimited, expected[:, MAX_CALLS]), "no limit is priced apart from the largest budget"
    assert not np.allclose(expected[:, 1], expected[:, 2])


def test_a_network_without_text_needs_none() -> None:
    dense = np.random.default_rng(0).random((5, ENCODER.num_dense(3))).astype(np.float32)
    nothing = Features(np.zeros((5, 0, 0), np.int16), np.zeros((5, 0), np.int16), dense)
    assert np.isfinite(network("price", reader=0).choose(make_query(2, 0.1, nothing)).advantage).all()


def test_clauses_shared_by_states_are_read_as_if_alone() -> None:
    """The same words in another line, and another number of clauses, within one batch."""
    prompts = ["red ball\nwall. key.", "wall\nred ball.", "red ball", "key\nwall. red ball. wall."]
    decisions = [Decision("left", Usage(1), tuple(np.log([0.5, 0.25, 0.25]).tolist()))] * 4
    phi = ENCODER.encode(prompts, decisions, [Moment(3, 64, (), 0, 0, False, 0, 0, 0)] * 4, ACTIONS)
    for kind in ("budget", "price"):
        batch = network(kind).choose(make_query(2, 0.1, phi)).advantage
        singles = [network(kind).choose(make_query(2, 0.1, phi[[row]])).advantage[0] for row in range(4)]
        np.testing.assert_allclose(batch, singles, atol=1e-5)
        assert len(np.unique(batch.round(4))) == 4, "the states differ in their text alone"


def test_rows() -> None:
    rows = budget_rows(np.array([0, 1, 5, 6, 1e9, math.inf]), 5)
    assert rows.tolist() == [0, 1, 5, 5, 5, 6]


def test_the_budget_network_ignores_the_price_and_the_price_network_the_budget() -> None:
    budget, price = network("budget"), network("price")
    assert_same(budget.choose(make_query(2, 0.01)), budget.choose(make_query(2, 1.0)))
    assert_same(price.choose(make_query(1, 0.1)), price.choose(make_query(math.inf, 0.1)))
    one, other = price.choose(make_query(1, 0.001)), price.choose(make_query(1, 1.0))
    assert not np.allclose(one.advantage, other.advantage)


@pytest.mark.parametrize("price", [0.0, 1e-12, 1e3])
def test_prices_beyond_the_range_are_finite(price: float) -> None:
    assert np.isfinite(network("price").choose(make_query(1, price)).advantage).all()


def test_the_networks_read_the_text() -> None:
    other = Features(np.roll(FEATURES.text, 1, axis=0), np.roll(FEATURES.fields, 1, axis=0), FEATURES.dense)
    for kind in ("budget", "price"):
        one = network(kind).choose(make_query(2, 0.1)).advantage
        assert not np.allclose(one, network(kind).choose(make_query(2, 0.1, other)).advantage)
    blind = network("budget", reader=0)
    assert_same(blind.choose(make_query(2)), blind.choose(make_query(2, phi=other)))


def test_a_prompt_without_text_is_no_error() -> None:
    empty = Features(np.zeros_like(FEATURES.text), np.zeros_like(FEATURES.fields), FEATURES.dense)
    for kind in ("budget", "price"):
        assert np.isfinite(network(kind).choose(make_query(2, 0.1, empty)).advantage).all()


@pytest.mark.parametrize("sizes", [{"reader": 9}, {"reader": -2}, {"width": 0}, {"max_calls": 0}])
def test_bad_shapes(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        shape(**sizes)


def test_the_price_network_prices_many_at_once() -> None:
    switcher = network("price")
    assert isinstance(switcher.network, PriceNetwork)
    prices = torch.tensor([0.01, 0.1, 1.0]).expand(SIZE, -1)
    with torch.no_grad():
        q = switcher.network(tensors(FEATURES), prices)[0].double().numpy()
    for column, price in enumerate((0.01, 0.1, 1.0)):
        expected = q[:, column, 1] - q[:, column, 0]
        np.testing.assert_allclose(switcher.choose(make_query(1, price)).advantage, expected, atol=1e-5)
