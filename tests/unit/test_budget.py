from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from londi.budget import Budget, Reservation
from londi.errors import BudgetError


class Interleavings(RuleBasedStateMachine):
    """Any order of reserving, settling, releasing and leaving `with` blocks, against a model that only counts."""

    tickets = Bundle("tickets")
    dead = Bundle("dead")

    @initialize(cap=st.none() | st.integers(0, 4))
    def make(self, cap: int | None) -> None:
        self.budget = Budget(cap)
        self.open = self.settled = 0

    def _reserve(self) -> Reservation | None:
        reservation = self.budget.reserve()
        expected = self.budget.cap is None or self.open + self.settled < self.budget.cap
        assert (reservation is not None) == expected, "a call was granted beyond the cap, or refused below it"
        self.open += reservation is not None
        return reservation

    @rule(target=tickets)
    def reserve(self) -> Any:
        return self._reserve()

    @rule(target=dead, ticket=consumes(tickets))
    def settle(self, ticket: Reservation | None) -> Any:
        if ticket:
            ticket.settle()
            assert ticket.state == "settled"
            self.open, self.settled = self.open - 1, self.settled + 1
        return ticket

    @rule(target=dead, ticket=consumes(tickets))
    def release(self, ticket: Reservation | None) -> Any:
        if ticket:
            ticket.release()
            assert ticket.state == "released"
            self.open -= 1
        return ticket

    @rule(target=dead, ticket=consumes(tickets), settles=st.booleans(), raises=st.booleans())
    def leave_the_block(self, ticket: Reservation | None, settles: bool, raises: bool) -> Any:
        if ticket is None:
            return ticket
        try:
            with ticket:
                if settles:
                    ticket.settle()
                if raises:
                    raise OSError("the connection broke")
        except OSError:
            assert raises
        assert ticket.state == ("settled" if settles else "released")
        self.open, self.settled = self.open - 1, self.settled + settles
        return ticket

    @rule(ticket=dead, again=st.sampled_from(["settle", "release", "with"]))
    def close_twice(self, ticket: Reservation | None, again: str) -> None:
        if ticket is None:
            return
        state = ticket.state
        if again == "with":  # leaving a block never changes what was decided inside
            with ticket:
                pass
        else:
            with pytest.raises(BudgetError, match=state):
                getattr(ticket, again)()
        assert ticket.state == state

    @invariant()
    def holds(self) -> None:
        cap, remaining = self.budget.cap, self.budget.remaining
        assert self.budget.spent == self.settled
        if cap is None:
            assert remaining is None
        else:
            assert self.settled + self.open <= cap
            assert remaining == cap - self.settled - self.open


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@pytest.mark.parametrize("cap", [-1, 1.0, 2.5, "3", True, False, float("inf")])
def test_a_cap_is_a_count(cap: Any) -> None:
    with pytest.raises(BudgetError, match="number of calls"):
        Budget(cap)


def test_nothing_is_granted_at_zero() -> None:
    budget = Budget(0)
    assert budget.reserve() is None
    assert (budget.remaining, budget.spent) == (0, 0)


def test_no_limit() -> None:
    budget = Budget(None)
    for _ in range(50):
        reservation = budget.reserve()
        assert reservation is not None
        reservation.settle()
    assert (budget.remaining, budget.spent) == (None, 50)


def test_an_open_reservation_holds_its_call() -> None:
    budget = Budget(1)
    first = budget.reserve()
    assert first is not None
    assert budget.reserve() is None, "one call was granted twice: checked before it was taken"
    first.release()
    assert budget.reserve() is not None


def test_an_exception_gives_the_call_back() -> None:
    budget = Budget(1)
    reservation = budget.reserve()
    assert reservation is not None
    with pytest.raises(KeyboardInterrupt), reservation:
        raise KeyboardInterrupt
    assert (budget.remaining, budget.spent) == (1, 0)


def test_an_exception_after_the_call_keeps_it_charged() -> None:
    budget = Budget(1)
    reservation = budget.reserve()
    assert reservation is not None

    def call() -> None:
        with reservation:
            reservation.settle()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        call()
    assert (budget.remaining, budget.spent) == (0, 1)


@pytest.mark.parametrize(("first", "second"), [("settle", "settle"), ("settle", "release"), ("release", "settle")])
def test_closing_twice(first: str, second: str) -> None:
    budget = Budget(2)
    reservation = budget.reserve()
    assert reservation is not None
    getattr(reservation, first)()
    before = (budget.remaining, budget.spent)
    with pytest.raises(BudgetError, match="already"):
        getattr(reservation, second)()
    assert (budget.remaining, budget.spent) == before


def test_threads_never_exceed_the_cap() -> None:
    cap, num_threads, tries = 100, 8, 200
    budget = Budget(cap)
    granted = [0] * num_threads
    worst: list[float] = [0] * num_threads
    barrier = threading.Barrier(num_threads)

    def work(number: int) -> None:
        barrier.wait()
        for attempt in range(tries):
            reservation = budget.reserve()
            if reservation is None:
                continue
            remaining = budget.remaining
            assert remaining is not None
            worst[number] = min(worst[number], remaining)
            with reservation:
                if attempt % 3:
                    reservation.settle()
                    granted[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(worst) >= 0
    assert sum(granted) == budget.spent == cap, "many threads together use the whole budget, and no more"
    assert budget.remaining == 0


@pytest.mark.parametrize(
    ("cap", "measure"), [(0.1, "tokens"), (1.5, "calls"), (-0.1, "dollars"), (float("nan"), "dollars")]
)
def test_a_cap_that_its_measure_can_not_count_is_refused(cap: float, measure: Any) -> None:
    with pytest.raises(BudgetError, match="or none for no limit"):
        Budget(cap, measure)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(BudgetError, match="counts calls, tokens, dollars"):
        Budget(1, "euros")  # type: ignore[arg-type]


def test_a_call_is_admitted_where_its_worst_case_fits_and_settled_at_its_cost() -> None:
    budget = Budget(1000, "tokens")
    first = budget.reserve(600)
    assert first is not None
    assert budget.remaining == 400
    assert budget.reserve(600) is None, "the first may still take 600"
    first.settle(150)
    assert (budget.spent, budget.remaining) == (150, 850)
    second = budget.reserve(850)
    assert second is not None
    second.release()
    assert budget.remaining == 850


def test_calls_left_are_an_estimate_but_for_the_last() -> None:
    budget = Budget(1000, "tokens")
    assert [budget.calls_left(worst) for worst in (300, 1000, 1001)] == [3, 1, 0]
    reservation = budget.reserve(300)
    assert reservation is not None
    reservation.settle(100)
    assert [budget.calls_left(worst) for worst in (300, 900, 901)] == [9, 9, 0]
    assert Budget(None, "dollars").calls_left(5.0) is None
    assert [Budget(n).calls_left() for n in (0, 3)] == [0, 3]


def test_dollars_add_up_without_rounding() -> None:
    """Ten times .1 is 1, which it is not in floating point; and an eleventh does not fit."""
    budget = Budget(1.0, "dollars")
    for _ in range(10):
        reservation = budget.reserve(0.1)
        assert reservation is not None
        reservation.settle()
    assert budget.spent == 1.0
    assert budget.reserve(1e-9) is None
    assert budget.reserve(0.0) is None, "what is spent permits not even a free call"


def test_a_cost_above_the_worst_case_is_not_hidden() -> None:
    budget = Budget(100, "tokens")
    reservation = budget.reserve(60)
    assert reservation is not None
    reservation.settle(120)
    assert (budget.spent, budget.remaining, budget.calls_left(1)) == (120, 0, 0)
    assert budget.reserve(1) is None


@pytest.mark.parametrize("cost", [-1, float("inf"), float("nan")])
def test_a_cost_that_is_none_is_refused(cost: float) -> None:
    budget = Budget(100, "tokens")
    with pytest.raises(BudgetError, match="worst case"):
        budget.reserve(cost)
    reservation = budget.reserve(1)
    assert reservation is not None
    with pytest.raises(BudgetError, match="finite amount"):
        reservation.settle(cost)


@given(cap=st.integers(0, 50), data=st.data())
def test_random_costs_never_exceed_the_cap(cap: int, data: st.DataObject) -> None:
    """However calls overlap, as long as none costs more than its worst case."""
    budget = Budget(cap, "tokens")
    tickets: list[Reservation] = []
    for _ in range(data.draw(st.integers(0, 30))):
        settles: bool = data.draw(st.booleans())
        if tickets and settles:
            ticket = tickets.pop(data.draw(st.integers(0, len(tickets) - 1)))
            ticket.settle(data.draw(st.integers(0, int(ticket.worst))))
        else:
            worst = data.draw(st.integers(0, 20))
            expected = budget.calls_left(worst)
            found = budget.reserve(worst)
            assert (found is not None) == (expected != 0)
            if found:
                tickets.append(found)
        assert budget.spent + sum(ticket.worst for ticket in tickets) <= cap
